//! The demo holds, and checks every line of what it promises.

use crate::support::run_midge;
use serde_json::Value;

/// Every check of the demo, by the step it belongs to.
const CHECKS: [(u64, &[&str]); 11] = [
    (
        1,
        &[
            "the edge is enrolled and connected",
            "its intermediate CA came over the websocket",
            "the CA's key never left the box",
            "the token does not work twice",
        ],
    ),
    (
        2,
        &[
            "the Workload API gives it no SVID",
            "it cannot connect over loopback TCP",
            "the refusal is audited",
        ],
    ),
    (3, &["the waiting mapper has its SVID within a second", "without being restarted"]),
    (
        4,
        &[
            "the mapper is connected over mTLS as itself",
            "its state is at the cloud",
            "`device set … ON` at the cloud turns the light on",
            "and the actual value is back at the cloud",
        ],
    ),
    (
        5,
        &[
            "mapper reaches its own topics only",
            "app reaches its own topics only",
            "event-bus reaches its own topics only",
            "the app reads what it was granted",
        ],
    ),
    (
        6,
        &[
            "another device's topic",
            "a forged cloud sync",
            "a subscription to everything",
            "a will on a topic without right",
            "taking over the mapper's session by its client id",
        ],
    ),
    (
        7,
        &[
            "the twin of these attempts, with a good SVID, is let in",
            "an SVID of an unknown CA",
            "an expired SVID",
            "a good SVID whose entry is gone",
            "a certificate with two URI SANs",
            "a CA certificate as client",
            "plain TCP from a uid without entry",
        ],
    ),
    (
        8,
        &[
            "it publishes what its uid's entry grants",
            "its identity is that of its uid",
            "the app receives it",
            "and nothing more",
        ],
    ),
    (
        9,
        &[
            "the edge knows that it is alone",
            "SVIDs go on rotating",
            "clients talk on over the rotations",
            "the mapper is connected",
            "a workload with a synced entry that starts now gets its SVID",
            "killed and restarted offline, the edge serves again",
            "the mapper is connected again",
            "and SVIDs are issued as before",
        ],
    ),
    (
        10,
        &[
            "the edge finds its cloud again",
            "the changes made meanwhile arrive",
            "a deleted entry's client is cut within a second",
            "the others notice nothing",
        ],
    ),
    (11, &["it was shown while the cloud was away", "and is longer again with the cloud"]),
];

#[test]
fn the_demo_holds_in_all_its_checks() {
    let ended = run_midge(&["demo", "--output", "json"]);
    let events: Vec<Value> = ended.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let failed: Vec<&Value> = events.iter().filter(|event| event["held"] == false).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    for (step, checks) in CHECKS {
        for check in checks {
            let held =
                |event: &Value| event["step"] == step && event["check"] == *check && event["held"] == true;
            assert!(events.iter().any(held), "step {step} does not check: {check}");
        }
    }
    let score = events.last().unwrap();
    assert_eq!((score["held"].as_u64(), score["of"].as_u64()), (Some(11), Some(11)), "{score}");
    assert!(score["secs"].as_f64().unwrap() < 90.0, "{score}");
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
}
