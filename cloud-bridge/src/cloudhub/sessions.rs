//! Which nodes are connected. One session per node: a newer one ends the older.

use midge_identity::UnixMillis;
use midge_runtime::CancellationToken;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Nodes that are no longer connected are remembered up to this number.
const REMEMBERED_MAX: usize = 20_000;

/// One node as the hub sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSession {
    /// Name of the node.
    pub node: String,
    /// Whether it is connected now.
    pub connected: bool,
    /// When it was connected or lost.
    pub since: UnixMillis,
    /// Address it connected from.
    pub remote: SocketAddr,
    /// Messages it has not acknowledged.
    pub pending: u64,
}

/// The table, with what each session was let in for.
pub(super) struct Sessions<P> {
    max: usize,
    state: Mutex<State<P>>,
}

struct State<P> {
    connected: usize,
    generation: u64,
    nodes: BTreeMap<String, Known<P>>,
}

struct Known<P> {
    generation: u64,
    cancel: Option<CancellationToken>,
    shown: P,
    since: UnixMillis,
    remote: SocketAddr,
    pending: Arc<AtomicU64>,
}

/// Keeps a session in the table; gives its place back when dropped.
pub(super) struct SessionPlace {
    pub(super) cancel: CancellationToken,
    pub(super) pending: Arc<AtomicU64>,
    generation: u64,
}

impl<P: Clone> Sessions<P> {
    pub(super) fn new(max: usize) -> Self {
        let state = State { connected: 0, generation: 0, nodes: BTreeMap::new() };
        Self { max, state: Mutex::new(state) }
    }

    /// Makes room for a session and ends the one before it; none when the hub is full.
    pub(super) fn enter(
        &self,
        node: &str,
        shown: &P,
        remote: SocketAddr,
        now: UnixMillis,
        token: &CancellationToken,
    ) -> Option<SessionPlace> {
        let mut state = self.state.lock();
        let before = state.nodes.get_mut(node).and_then(|known| known.cancel.take());
        match before {
            Some(before) => before.cancel(),
            None if state.connected >= self.max => return None,
            None => state.connected = state.connected.saturating_add(1),
        }
        state.generation = state.generation.wrapping_add(1);
        let place = SessionPlace {
            cancel: token.child_token(),
            pending: Arc::default(),
            generation: state.generation,
        };
        let known = Known {
            generation: place.generation,
            cancel: Some(place.cancel.clone()),
            shown: shown.clone(),
            since: now,
            remote,
            pending: Arc::clone(&place.pending),
        };
        state.nodes.insert(node.to_owned(), known);
        Some(place)
    }

    pub(super) fn leave(&self, node: &str, place: &SessionPlace, now: UnixMillis) {
        let mut state = self.state.lock();
        let full = state.nodes.len() > REMEMBERED_MAX;
        let Some(known) = state.nodes.get_mut(node) else { return };
        // A newer session has taken the place over, and counts for it.
        if known.generation != place.generation {
            return;
        }
        known.cancel = None;
        known.since = now;
        state.connected = state.connected.saturating_sub(1);
        if full {
            state.nodes.remove(node);
        }
    }

    /// Ends the session of a node unless what it came in with still counts.
    pub(super) fn ask_again(&self, node: &str, counts: impl FnOnce(&P) -> bool) {
        let known = {
            let state = self.state.lock();
            state.nodes.get(node).and_then(|known| Some((known.cancel.clone()?, known.shown.clone())))
        };
        if let Some((cancel, shown)) = known
            && !counts(&shown)
        {
            cancel.cancel();
        }
    }

    pub(super) fn connected(&self) -> Vec<String> {
        let state = self.state.lock();
        state.nodes.iter().filter(|(_, known)| known.cancel.is_some()).map(|(node, _)| node.clone()).collect()
    }

    pub(super) fn list(&self) -> Vec<NodeSession> {
        let state = self.state.lock();
        let session = |(node, known): (&String, &Known<P>)| NodeSession {
            node: node.clone(),
            connected: known.cancel.is_some(),
            since: known.since,
            remote: known.remote,
            pending: known.pending.load(Ordering::Relaxed),
        };
        state.nodes.iter().map(session).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 1))
    }

    #[test]
    fn a_newer_session_of_a_node_ends_the_older_and_keeps_its_place() {
        let (sessions, token) = (Sessions::new(1), CancellationToken::new());
        let old = sessions.enter("a", &"key", remote(), UnixMillis(1), &token).unwrap();
        let new = sessions.enter("a", &"key", remote(), UnixMillis(2), &token).unwrap();
        assert!(old.cancel.is_cancelled() && !new.cancel.is_cancelled());
        sessions.leave("a", &old, UnixMillis(3));
        assert_eq!(sessions.connected(), ["a"]);
        assert!(sessions.enter("b", &"key", remote(), UnixMillis(3), &token).is_none());
        sessions.leave("a", &new, UnixMillis(4));
        assert!(sessions.enter("b", &"key", remote(), UnixMillis(5), &token).is_some());
        let listed: Vec<_> = sessions.list().into_iter().map(|s| (s.node, s.connected, s.since.0)).collect();
        assert_eq!(listed, [("a".to_owned(), false, 4), ("b".to_owned(), true, 5)]);
    }

    #[test]
    fn a_session_ends_when_what_it_came_in_with_counts_no_more() {
        let (sessions, token) = (Sessions::new(1), CancellationToken::new());
        let place = sessions.enter("a", &"key", remote(), UnixMillis(1), &token).unwrap();
        sessions.ask_again("other", |_| false);
        sessions.ask_again("a", |shown| *shown == "key");
        assert!(!place.cancel.is_cancelled());
        sessions.ask_again("a", |shown| *shown != "key");
        assert!(place.cancel.is_cancelled());
    }
}
