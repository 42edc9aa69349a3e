//! What rules and subscriptions know of each listener.

use crate::SubscribeModes;
use crate::accept::Way;
use broker_core::Listener;
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
        let of = |name: &str| Arc::new(Listener { name: name.into(), subscribe_mode: modes.on(name) });
        Self {
            tls: of(Way::Tls.name()),
            tcp: of(Way::Tcp.name()),
            websocket_tls: of(Way::WebsocketTls.name()),
            websocket_loopback: of(Way::WebsocketLoopback.name()),
            unix: of("unix"),
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

#[cfg(test)]
mod tests {
    use super::*;
    use midge_policy::{LISTENERS, SubscribeMode};

    #[test]
    fn every_listener_has_the_mode_that_is_set_for_it() {
        for name in LISTENERS {
            let modes: SubscribeModes =
                serde_json::from_value(serde_json::json!({ name: "narrow" })).unwrap();
            let Listeners { tls, tcp, unix, websocket_tls, websocket_loopback } = &Listeners::new(&modes);
            for listener in [tls, tcp, unix, websocket_tls, websocket_loopback] {
                let set = if &*listener.name == name { SubscribeMode::Narrow } else { SubscribeMode::Reject };
                assert_eq!(listener.subscribe_mode, set, "{name} {}", listener.name);
            }
        }
    }

    #[test]
    fn every_listener_has_a_name_that_rules_may_give() {
        let listeners = Listeners::new(&SubscribeModes::default());
        let Listeners { tls, tcp, websocket_tls, websocket_loopback, unix } = &listeners;
        let names = [tls, tcp, unix, websocket_tls, websocket_loopback].map(|listener| &*listener.name);
        assert_eq!(names, LISTENERS);
    }
}
