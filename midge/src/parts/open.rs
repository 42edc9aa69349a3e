//! `open-to-own-uid`: for measuring and conformance suites.

use super::edge::EdgeBox;
use issuer_core::{Origin, RegistrationEntry, Selector};
use midge_identity::SpiffeId;

/// Reserved: an entry with this ID is replaced or deleted at each start.
const ENTRY: &str = "open-to-own-uid";

/// Returns the user that runs this process.
pub(crate) fn own_uid() -> u32 {
    rustix::process::getuid().as_raw()
}

/// Gives the user that runs this process an identity that may do everything.
pub(crate) async fn allow_own_uid(node: &EdgeBox) -> anyhow::Result<()> {
    let uid = own_uid();
    tracing::warn!(
        uid,
        "OPEN: every process of this user may publish and subscribe to everything (open-to-own-uid)"
    );
    let entry = RegistrationEntry {
        id: ENTRY.into(),
        spiffe_id: SpiffeId::new(format!("{}/app/open", node.id))?,
        parent_id: node.id.clone(),
        selectors: vec![Selector { kind: "unix".into(), value: format!("uid:{uid}") }],
        x509_svid_ttl_secs: 0,
        jwt_svid_ttl_secs: 0,
        federates_with: Vec::new(),
        admin: false,
        downstream: false,
        expires_at: 0,
        dns_names: Vec::new(),
        revision_number: 0,
        store_svid: false,
        hint: String::new(),
        created_at: 0,
        publish: vec!["#".into()],
        subscribe: vec!["#".into(), "$SYS/#".into()],
        origin: Origin::Edge,
    };
    close(node).await?;
    node.issuer.create_entry(entry, Origin::Edge).await?;
    Ok(())
}

/// Takes that identity away again, where an earlier start has given it.
pub(crate) async fn close(node: &EdgeBox) -> anyhow::Result<()> {
    if node.issuer.entry(ENTRY).is_ok_and(|entry| entry.origin == Origin::Edge) {
        node.issuer.delete_entry(ENTRY).await?;
        tracing::info!("the entry of an earlier open-to-own-uid is deleted");
    }
    Ok(())
}
