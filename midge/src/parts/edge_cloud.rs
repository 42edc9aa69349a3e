//! The box's side of its cloud: enrolment, the channel, and what the cloud's changes do here.

use super::cloud_rules::{CloudRules, HandedRules};
use super::data_dir::audit_log;
use super::edge::EdgeBox;
use super::node_audit::{head_of, place_of};
use super::problems::{Problem, Problems};
use super::skipped::Skipped;
use crate::config::CloudLink;
use crate::exit::{self, failure};
use async_trait::async_trait;
use bridge_core::{AuditBatch, AuditPlace, Change, Cursor, Extent, UpwardItem};
use cloud_bridge::edgehub::{
    CURSOR_KEY, EdgeHost, EdgeHub, EdgeHubConfig, EdgeHubHandle, EdgeHubParts, EnrolConfig, EnrolError,
    EnrolmentToken, LinkStatus, NodeIdentity, enrol, split_changes,
};
use event_bus::{EventBusHandle, UpwardSink};
use midge_audit::{AuditLog, Record, Source};
use midge_identity::SpiffeId;
use midge_issuer::{CaRequest, Issuer};
use midge_pki::FileError;
use midge_runtime::{Backoff, CancellationToken, Clock};
use midge_store::{Batch, Store};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Longest pause between two tries to reach the cloud: a box is found again within seconds.
const RECONNECT_MAX: Duration = Duration::from_secs(15);

/// The spool for reports, once it has been read.
pub(crate) type SpoolHandle = watch::Sender<Option<EdgeHubHandle>>;

/// Where reports for the cloud go: into the spool. Until that has been read they wait.
pub(crate) struct Reports(pub(crate) watch::Receiver<Option<EdgeHubHandle>>);

#[async_trait]
impl UpwardSink for Reports {
    async fn push(&self, item: UpwardItem) -> Result<(), String> {
        let mut spool = self.0.clone();
        let hub = spool.wait_for(Option::is_some).await.ok().and_then(|hub| hub.clone());
        let hub = hub.ok_or("the channel to the cloud is stopping")?;
        hub.push(item).await.map_err(|error| error.to_string())
    }
}

/// The cloud's side of the box; without a cloud it does nothing.
pub(crate) struct CloudSide {
    link: Option<Link>,
    /// Kept when there is no cloud, so that its receivers wait and do not end.
    silent: Option<watch::Sender<CloudRules>>,
    rules: watch::Receiver<CloudRules>,
    status: watch::Receiver<Option<LinkStatus>>,
}

/// State of the link for `status`, with the address it leads to.
#[derive(Clone)]
pub(crate) struct LinkView {
    pub(crate) url: String,
    pub(crate) status: watch::Receiver<Option<LinkStatus>>,
}

struct Link {
    cloud: CloudLink,
    id: SpiffeId,
    node: String,
    keys: PathBuf,
    store: Store,
    clock: Clock,
    problems: Problems,
    spool: SpoolHandle,
    host: Arc<Host>,
    status: watch::Sender<Option<LinkStatus>>,
}

impl CloudSide {
    /// Reads what the cloud handed out before.
    pub(crate) async fn open(
        node: &EdgeBox,
        bus: Option<EventBusHandle>,
        spool: SpoolHandle,
    ) -> anyhow::Result<Self> {
        let (status_sender, status) = watch::channel(None);
        let Some(cloud) = node.config.cloud.clone() else {
            let (rules_sender, rules) = watch::channel(CloudRules::default());
            return Ok(Self { link: None, silent: Some(rules_sender), rules, status });
        };
        let handed = HandedRules::open(node.store.clone()).await.map_err(anyhow::Error::msg)?;
        let rules = handed.subscribe();
        let host = Host {
            issuer: node.issuer.clone(),
            store: node.store.clone(),
            audit: node.audit.clone(),
            source: Arc::new(Mutex::new(Source::new(audit_log(&node.config.data_dir)))),
            clock: node.clock.clone(),
            bus,
            rules: handed,
            skipped: Skipped::open(&node.store, node.problems.clone()).await.map_err(anyhow::Error::msg)?,
        };
        let link = Link {
            cloud,
            id: node.id.clone(),
            node: node.config.node.clone(),
            keys: node.config.data_dir.join("keys"),
            store: node.store.clone(),
            clock: node.clock.clone(),
            problems: node.problems.clone(),
            spool,
            host: Arc::new(host),
            status: status_sender,
        };
        // A box that cannot enrol whatever the cloud says ends before it serves anybody.
        if link.identity()?.is_none() {
            link.enrolment()?;
        }
        Ok(Self { link: Some(link), silent: None, rules, status })
    }

    /// Rules that the cloud handed out.
    pub(crate) fn rules(&self) -> watch::Receiver<CloudRules> {
        self.rules.clone()
    }

    /// State of the link, if there is a cloud.
    pub(crate) fn link(&self) -> Option<LinkView> {
        let link = self.link.as_ref()?;
        Some(LinkView { url: link.cloud.channel.clone(), status: self.status.clone() })
    }

    /// Takes reports, enrols if needed, then keeps the channel up until `token` is cancelled.
    pub(crate) async fn run(self, token: CancellationToken) -> anyhow::Result<()> {
        let Some(link) = self.link else {
            token.cancelled().await;
            drop(self.silent);
            return Ok(());
        };
        let server = link.cloud.channel.trim_start_matches("wss://").trim_end_matches('/').to_owned();
        let config = EdgeHubConfig { reconnect_max: RECONNECT_MAX, ..EdgeHubConfig::new(server) };
        let parts = EdgeHubParts {
            host: Arc::clone(&link.host) as Arc<dyn EdgeHost>,
            store: link.store.clone(),
            clock: link.clock.clone(),
        };
        let mut hub = EdgeHub::open(config, parts).await?;
        let handle = hub.handle();
        link.spool.send_replace(Some(handle.clone()));
        let Some(identity) = hub.spool_while(link.enrolled(&token)).await? else { return Ok(()) };
        tokio::select! {
            () = hub.run(Arc::new(identity), token.clone()) => Ok(()),
            () = link.follow(handle) => { token.cancelled().await; Ok(()) }
        }
    }
}

impl Link {
    /// Returns the node's identity: from disk, or from the cloud for the join token. A cloud that is
    /// not there is waited for; one that refuses ends the process, since nothing else would help.
    async fn enrolled(&self, token: &CancellationToken) -> anyhow::Result<Option<NodeIdentity>> {
        if let Some(identity) = self.identity()? {
            return Ok(Some(identity));
        }
        let config = self.enrolment()?;
        let mut backoff = Backoff::new(Duration::from_millis(200), RECONNECT_MAX);
        loop {
            match enrol(&config, &self.clock).await {
                Ok(identity) => {
                    self.problems.set("cloud", None);
                    tracing::info!(id = %self.id, "enrolled at the cloud");
                    return Ok(Some(identity));
                }
                Err(error @ (EnrolError::Dial(_) | EnrolError::Http { .. })) => {
                    let remedy = "check cloud.bootstrap and the network; it is tried again";
                    self.problems
                        .set("cloud", Some(Problem { what: error.to_string(), remedy: remedy.into() }));
                }
                Err(error @ EnrolError::Refused { .. }) => {
                    return Err(failure(exit::PERMISSION, error.to_string()));
                }
                Err(error) => return Err(failure(exit::CONFIG, error.to_string())),
            }
            if !backoff.wait(token).await {
                return Ok(None);
            }
        }
    }

    /// The identity on disk, as long as it holds.
    fn identity(&self) -> anyhow::Result<Option<NodeIdentity>> {
        let identity = NodeIdentity::load(&self.keys, &self.id, &self.clock)?;
        Ok(identity.filter(|identity| self.clock.now() < identity.expires()))
    }

    fn enrolment(&self) -> anyhow::Result<EnrolConfig> {
        let Some(path) = &self.cloud.join_token_file else {
            return Err(failure(
                exit::CONFIG,
                "this box has not enrolled: make a token at the cloud with `midge token generate` and name its file \
                 as cloud.join-token-file",
            ));
        };
        let text = midge_pki::read_private(path).map_err(|error| {
            let is_missing =
                matches!(&error, FileError::Io { source, .. } if source.kind() == ErrorKind::NotFound);
            let code = if is_missing { exit::CONFIG } else { exit::PERMISSION };
            failure(code, format!("{error} (cloud.join-token-file; needed until the box has enrolled)"))
        })?;
        let token = EnrolmentToken::parse(&String::from_utf8_lossy(&text));
        let token = token.map_err(|error| failure(exit::CONFIG, format!("{}: {error}", path.display())))?;
        Ok(EnrolConfig {
            address: self.cloud.bootstrap.clone(),
            token,
            node: self.node.clone(),
            trust_domain: self.id.trust_domain().clone(),
            directory: self.keys.clone(),
        })
    }

    /// Shows the state of the link, and a lasting failure as a problem.
    async fn follow(&self, hub: EdgeHubHandle) {
        let mut changes = hub.status();
        drop(hub);
        loop {
            let now = changes.borrow_and_update().clone();
            let trouble = now.last_error.clone();
            let state = if now.connected {
                "the cloud's channel does not work as it should"
            } else {
                "not connected to the cloud"
            };
            self.problems.set(
                "cloud",
                trouble.map(|what| Problem {
                    what: format!("{state}: {what}"),
                    remedy: "the box goes on alone until its lease ends; restore the connection before"
                        .into(),
                }),
            );
            self.show_own(&now);
            self.status.send_replace(Some(now));
            if changes.changed().await.is_err() {
                return;
            }
        }
    }
}

impl Link {
    /// Shows what fails at the box's own end, whatever the link is like.
    fn show_own(&self, now: &LinkStatus) {
        let spool = now.spool_error.as_ref().map(|what| Problem {
            what: format!("reports for the cloud are not stored: {what}"),
            remedy: "they wait at the broker meanwhile; make room on the disk, or see to the data directory"
                .into(),
        });
        self.problems.set("spool", spool);
        let renewal = now.renewal_error.clone().map(|what| Problem {
            what,
            remedy: "it is tried again; the box has to enrol anew once its certificate has ended".into(),
        });
        self.problems.set("renewal", renewal);
    }
}

/// The box as the channel sees it.
struct Host {
    issuer: Issuer,
    store: Store,
    audit: AuditLog,
    source: Arc<Mutex<Source>>,
    clock: Clock,
    bus: Option<EventBusHandle>,
    rules: HandedRules,
    skipped: Skipped,
}

#[async_trait]
impl EdgeHost for Host {
    /// Where something was not taken, there is no cursor: the cloud sends everything, and what this version can read
    /// that the one before could not is taken now.
    async fn cursor(&self) -> Result<Option<Cursor>, String> {
        if self.issuer.refuses_entries() || self.skipped.is_any() {
            return Ok(None);
        }
        let stored = self.store.get(CURSOR_KEY).await.map_err(|error| error.to_string())?;
        stored
            .map(|bytes| serde_json::from_slice(&bytes).map_err(|error| format!("{CURSOR_KEY}: {error}")))
            .transpose()
    }

    async fn apply(&self, changes: Vec<Change>, cursor: Cursor, extent: Extent) -> Result<(), String> {
        let resources: BTreeSet<String> = changes.iter().map(|change| change.resource.clone()).collect();
        let mut split = split_changes(changes, extent, self.issuer.trust_domain());
        // Devices first: they are idempotent, and the cursor is stored with what comes last.
        if let Some(bus) = &self.bus {
            let skipped = bus.apply(split.devices, extent).await.map_err(|error| error.to_string())?;
            split.skipped.extend(skipped);
        }
        let skipped = self.skipped.plan(&resources, &split.skipped, extent)?;
        let rules = match &split.rules {
            Some(rules) => Some(self.rules.plan(rules).await?),
            None => None,
        };
        let cursor = serde_json::to_vec(&cursor).map_err(|error| error.to_string())?;
        let batch = rules.as_ref().map_or_else(Batch::new, |rules| rules.batch.clone());
        let batch = skipped.batch(batch).put(CURSOR_KEY, cursor);
        self.issuer.apply_cloud(split.identity, batch).await.map_err(|error| error.to_string())?;
        if let Some(rules) = rules {
            self.rules.show(rules);
        }
        self.skipped.show(skipped);
        Ok(())
    }

    fn ca_request(&self) -> watch::Receiver<Option<CaRequest>> {
        self.issuer.ca_request()
    }

    async fn install_ca(&self, chain: Vec<Vec<u8>>, roots: Vec<Vec<u8>>) -> Result<(), String> {
        self.issuer.install_upstream(chain, roots).await.map_err(|error| error.to_string())?;
        let serial = self.issuer.snapshot().ca.map(|ca| ca.serial);
        let record = Record::new(self.clock.now(), "ca-installed").with("source", "cloud-channel");
        self.audit.record(record.with("active-serial", serial));
        Ok(())
    }

    async fn audit_after(&self, after: Option<AuditPlace>) -> Result<Option<AuditBatch>, String> {
        let signed = self.audit.status().signed;
        if after.as_ref().is_some_and(|after| *after == place_of(&signed)) {
            return Ok(None);
        }
        let source = Arc::clone(&self.source);
        let read = tokio::task::spawn_blocking(move || {
            let head = after.as_ref().map(|after| head_of(after).unwrap_or_default());
            let lines = source.lock().after(head.as_ref(), &signed).map_err(|error| error.to_string())?;
            // A line that is no text was changed: it arrives as near to what it is as can be, and is found out.
            let lines: Vec<String> =
                lines.iter().map(|line| String::from_utf8_lossy(line).into_owned()).collect();
            Ok((!lines.is_empty()).then_some(AuditBatch { log: signed.log, after, lines }))
        });
        read.await.map_err(|error| error.to_string())?
    }
}
