//! A workload's identity follows the Workload API, from before the first entry to the last.

use crate::support::{Ca, WorkloadApi, soon};
use mapper_sdk::{CancellationToken, Clock, IdentityChoice, IdentityError, WorkloadIdentity, WorkloadSource};
use midge_pki::{IdentitySource as _, TrustSource as _};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn a_workload_that_waits_gets_its_identity_once_it_has_an_entry() {
    let (api, ca) = (WorkloadApi::start(), Ca::new());
    let (reasons, mut heard) = mpsc::unbounded_channel();
    let waiting = tokio::spawn({
        let source = source(&api, IdentityChoice::First);
        async move {
            let tell = |reason: &str| reasons.send(reason.to_owned()).unwrap();
            WorkloadIdentity::wait(source, &CancellationToken::new(), tell).await
        }
    });
    assert_eq!(soon(heard.recv()).await.unwrap(), "no identity issued");

    let svid = ca.sign("mapper/led", HOUR);
    api.issue(&ca, &[(&svid, "")]);
    let identity = soon(waiting).await.unwrap().unwrap();
    assert_eq!(identity.usable().unwrap().id, svid.id);
    assert_eq!(*identity.bundles(), ca.bundles());
    assert!(heard.recv().await.is_none(), "the same reason was told twice");
}

#[tokio::test]
async fn the_identity_meant_is_chosen_and_waited_for() {
    let (api, ca) = (WorkloadApi::start(), Ca::new());
    let (app, led) = (ca.sign("app/a", HOUR), ca.sign("mapper/led", HOUR));
    api.issue(&ca, &[(&app, "")]);
    let (reasons, mut heard) = mpsc::unbounded_channel();
    let waiting = tokio::spawn({
        let source = source(&api, IdentityChoice::PathSuffix("/mapper/led".into()));
        async move {
            let tell = |reason: &str| reasons.send(reason.to_owned()).unwrap();
            WorkloadIdentity::wait(source, &CancellationToken::new(), tell).await
        }
    });
    let reason = soon(heard.recv()).await.unwrap();
    assert_eq!(reason, "no identity …/mapper/led issued, only spiffe://example.org/edge/box/app/a");
    api.issue(&ca, &[(&app, ""), (&led, "")]);
    assert_eq!(soon(waiting).await.unwrap().unwrap().usable().unwrap().id, led.id);

    api.issue(&ca, &[(&app, "internal"), (&led, "led")]);
    let hinted = wait(&api, IdentityChoice::Hint("led".into())).await;
    assert_eq!(hinted.usable().unwrap().id, led.id);
    assert_eq!(wait(&api, IdentityChoice::Id(app.id.clone())).await.usable().unwrap().id, app.id);
}

#[tokio::test]
async fn renewal_withdrawal_and_return_are_followed() {
    let (api, ca) = (WorkloadApi::start(), Ca::new());
    let first = ca.sign("mapper/led", HOUR);
    api.issue(&ca, &[(&first, "")]);
    let identity = wait(&api, IdentityChoice::First).await;
    let held = identity.current().unwrap();

    api.issue(&ca, &[(&ca.sign("mapper/led", HOUR), "")]);
    until(&identity, |identity| identity.current().is_some_and(|now| !Arc::ptr_eq(&now, &held))).await;

    api.withdraw();
    until(&identity, |identity| identity.usable().is_none()).await;

    let third = ca.sign("mapper/led", HOUR);
    api.issue(&ca, &[(&third, "")]);
    until(&identity, |identity| {
        identity
            .usable()
            .is_some_and(|now| now.chain.first().is_some_and(|leaf| leaf.as_ref() == third.cert_der))
    })
    .await;
}

#[tokio::test]
async fn another_entry_beside_it_leaves_the_identity_as_it_is() {
    let (api, ca) = (WorkloadApi::start(), Ca::new());
    let (led, app) = (ca.sign("mapper/led", HOUR), ca.sign("app/a", HOUR));
    api.issue(&ca, &[(&led, "")]);
    let identity = wait(&api, IdentityChoice::Id(led.id.clone())).await;
    let held = identity.current().unwrap();
    api.issue(&ca, &[(&app, ""), (&led, "")]);
    let renewed = ca.sign("mapper/led", HOUR);
    let watcher = wait(&api, IdentityChoice::Id(app.id.clone())).await;
    assert_eq!(watcher.usable().unwrap().id, app.id);
    assert!(Arc::ptr_eq(&identity.current().unwrap(), &held));
    api.issue(&ca, &[(&app, ""), (&renewed, "")]);
    until(&identity, |identity| identity.current().is_some_and(|now| !Arc::ptr_eq(&now, &held))).await;
}

#[tokio::test]
async fn what_waiting_cannot_help_is_an_error() {
    let token = CancellationToken::new();
    let source = |endpoint: &str| WorkloadSource {
        endpoint: Some(endpoint.to_owned()),
        choice: IdentityChoice::First,
        clock: Clock::system(),
    };
    let error = WorkloadIdentity::wait(source("/run/agent.sock"), &token, |_| ()).await.unwrap_err();
    assert!(matches!(error, IdentityError::Endpoint { .. }), "{error}");
    assert!(error.to_string().contains("unix:///absolute/path"), "{error}");

    let absent = source("unix:///nonexistent/agent.sock");
    let cancel = token.clone();
    let error = soon(WorkloadIdentity::wait(absent, &token, move |_| cancel.cancel())).await.unwrap_err();
    assert!(matches!(error, IdentityError::Stopped), "{error}");
}

fn source(api: &WorkloadApi, choice: IdentityChoice) -> WorkloadSource {
    WorkloadSource { endpoint: Some(api.endpoint()), choice, clock: Clock::system() }
}

async fn wait(api: &WorkloadApi, choice: IdentityChoice) -> WorkloadIdentity {
    soon(WorkloadIdentity::wait(source(api, choice), &CancellationToken::new(), |_| ())).await.unwrap()
}

async fn until(identity: &WorkloadIdentity, condition: impl Fn(&WorkloadIdentity) -> bool) {
    let mut changes = identity.changes();
    soon(async {
        while !condition(identity) {
            changes.changed().await.unwrap();
        }
    })
    .await;
}
