//! What rules and subscriptions know of each listener.

use crate::SubscribeModes;
use crate::accept::Way;
use broker_core::Listener;
use midge_policy::SubscribeMode;
use std::sync::Arc;

/// The listeners as the core knows them.
#[derive(Debug)]
pub(crate) struct Listeners {
    tls: Arc<Listener>,
    tcp: Arc<Listener>,
    websocket_tls: Arc<Listener>,
    websocket_loopback: Arc<Listener>,
    pub(crate) unix: Arc<Listener>,
}

impl Listeners {
    pub(crate) fn new(modes: &SubscribeModes) -> Self {
        let of = |way: Way, mode| listener(way.name(), mode);
        Self {
            tls: of(Way::Tls, modes.tls),
            tcp: of(Way::Tcp, modes.tcp),
            websocket_tls: of(Way::WebsocketTls, modes.websocket_tls),
            websocket_loopback: of(Way::WebsocketLoopback, modes.websocket_loopback),
            unix: listener("unix", modes.unix),
        }
    }

    pub(crate) fn of(&self, way: Way) -> &Arc<Listener> {
        match way {
            Way::Tls => &self.tls,
            Way::Tcp => &self.tcp,
            Way::WebsocketTls => &self.websocket_tls,
            Way::WebsocketLoopback => &self.websocket_loopback,
        }
    }
}

fn listener(name: &str, mode: SubscribeMode) -> Arc<Listener> {
    Arc::new(Listener { name: name.into(), subscribe_mode: mode })
}

#[cfg(test)]
mod tests {
    use super::*;
    use midge_policy::LISTENERS;

    #[test]
    fn every_listener_has_a_name_that_rules_may_give() {
        let listeners = Listeners::new(&SubscribeModes::default());
        let Listeners { tls, tcp, websocket_tls, websocket_loopback, unix } = &listeners;
        let names = [tls, tcp, unix, websocket_tls, websocket_loopback].map(|listener| &*listener.name);
        assert_eq!(names, LISTENERS);
    }
}
