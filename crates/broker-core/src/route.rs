//! Which sessions a topic reaches: matched and authorized once, then remembered per publisher.

use crate::session::Session;
use crate::shared::{GroupId, Groups, Joined, Member};
use crate::slab::{Key, Slab};
use crate::subscription::{Grant, Subscribed, merge};
use crate::trie::Trie;
use mqtt_proto::TopicName;

/// Who stands under a filter of the subscription tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subscriber {
    Session(Key),
    Group(GroupId),
}

/// All subscriptions.
#[derive(Debug)]
pub(crate) struct Subscriptions {
    trie: Trie<Subscriber, Option<Subscribed>>,
    pub(crate) groups: Groups,
    count: usize,
    /// Changes with every subscription, so that a remembered route is known to be old.
    epoch: u64,
}

/// The receivers of one topic.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) targets: Box<[Target]>,
    pub(crate) groups: Box<[(GroupId, Box<[Member]>)]>,
    /// Receivers left out because they lack the right; counted per message.
    pub(crate) denied: u64,
}

/// One session in a route.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) session: Key,
    pub(crate) grant: Grant,
    pub(crate) own: Own,
}

/// What a session gets of its own messages.
#[derive(Debug)]
pub(crate) enum Own {
    /// The same as of others'.
    Same,
    /// What its subscriptions without No Local ask for, if any ([MQTT-3.8.3-3]).
    Only(Option<Grant>),
}

impl Target {
    pub(crate) fn grant_for(&self, publisher: Option<Key>) -> Option<&Grant> {
        match &self.own {
            Own::Only(grant) if publisher == Some(self.session) => grant.as_ref(),
            Own::Only(_) | Own::Same => Some(&self.grant),
        }
    }
}

impl Route {
    pub(crate) fn is_empty(&self) -> bool {
        self.targets.is_empty() && self.groups.is_empty()
    }
}

impl Subscriptions {
    pub(crate) fn new() -> Self {
        Self { trie: Trie::new(), groups: Groups::default(), count: 0, epoch: 0 }
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(crate) fn len(&self) -> usize {
        self.count
    }

    pub(crate) fn add(&mut self, session: Key, subscribed: &Subscribed) {
        self.epoch += 1;
        let filter = &subscribed.filter;
        let is_new = if filter.group.is_none() {
            let subscriber = Subscriber::Session(session);
            self.trie.insert(&filter.filter, subscriber, Some(subscribed.clone())).is_none()
        } else {
            let joined = self.groups.join(filter, Member::new(session, subscribed));
            if let Some(Joined::New(id)) = joined {
                self.trie.insert(&filter.filter, Subscriber::Group(id), None);
            }
            joined != Some(Joined::Again)
        };
        self.count += usize::from(is_new);
    }

    /// Removes a subscription and returns its group, if it was shared.
    pub(crate) fn remove(&mut self, session: Key, subscribed: &Subscribed) -> Option<GroupId> {
        self.epoch += 1;
        self.count = self.count.saturating_sub(1);
        let filter = &subscribed.filter;
        if filter.group.is_none() {
            self.trie.remove(&filter.filter, Subscriber::Session(session));
            return None;
        }
        let (id, is_gone) = self.groups.leave(filter, session)?;
        if is_gone {
            self.trie.remove(&filter.filter, Subscriber::Group(id));
        }
        Some(id)
    }

    /// Matches a topic and leaves out who may not receive it.
    pub(crate) fn route(&self, topic: &TopicName, sessions: &Slab<Session>) -> Route {
        let (mut direct, mut groups, mut denied) = (Vec::new(), Vec::new(), 0);
        let may_receive =
            |session: Key| sessions.get(session).is_some_and(|s| s.rights.receive(topic).is_ok());
        self.trie.for_each_match(topic, &mut |subscriber, subscribed| match subscriber {
            Subscriber::Session(session) => direct.extend(subscribed.as_ref().map(|s| (session, s))),
            Subscriber::Group(id) => {
                let members = self.groups.members(id).iter();
                let members: Box<[_]> = members
                    .filter(|member| !member.filtered || may_receive(member.session))
                    .cloned()
                    .collect();
                groups.push((id, members));
            }
        });
        direct.sort_by_key(|(session, _)| *session);
        let targets = direct.chunk_by(|a, b| a.0 == b.0).filter_map(|same| {
            let session = same.first()?.0;
            // A permit that is not filtered covers every topic under its filter: nothing more to ask.
            if same.iter().all(|(_, subscribed)| subscribed.filtered) && !may_receive(session) {
                denied += 1;
                return None;
            }
            target(session, same)
        });
        let targets = targets.collect();
        Route { targets, groups: groups.into(), denied }
    }
}

fn target(session: Key, same: &[(Key, &Subscribed)]) -> Option<Target> {
    let all = || same.iter().map(|(_, subscribed)| *subscribed);
    let own = if all().any(|subscribed| subscribed.no_local) {
        Own::Only(merge(all().filter(|subscribed| !subscribed.no_local)))
    } else {
        Own::Same
    };
    Some(Target { session, grant: merge(all())?, own })
}
