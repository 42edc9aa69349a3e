//! Which sessions a topic reaches: matched and authorized once, then remembered per publisher.

use crate::authority::Authority;
use crate::session::Session;
use crate::shared::{GroupId, Groups, Joined, Member};
use crate::slab::{Key, Slab};
use crate::subscription::{Grant, Leaf, Subscribed, merge};
use crate::trie::Trie;
use midge_policy::{Denial, Question};
use mqtt_proto::{QoS, TopicFilter, TopicName};

/// Who stands under a filter of the subscription tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subscriber {
    /// One part of one of its subscriptions, by the number of that.
    Session(Key, u32),
    Group(GroupId),
}

/// All subscriptions.
#[derive(Debug)]
pub(crate) struct Subscriptions {
    trie: Trie<Subscriber, Option<Leaf>>,
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
    /// Sessions left out because they lack the right; recorded per message.
    pub(crate) refused: Box<[Refused]>,
}

/// One session that a route leaves out.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) session: Key,
    pub(crate) denial: Box<Denial>,
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

    /// What it costs while it is remembered.
    pub(crate) fn bytes(&self) -> usize {
        let members = self.groups.iter().map(|(_, members)| size_of_val(&**members));
        let refused = self.refused.len() * (size_of::<Refused>() + size_of::<Denial>());
        size_of_val(&*self.targets) + size_of_val(&*self.groups) + members.sum::<usize>() + refused
    }
}

impl Subscriptions {
    pub(crate) fn new() -> Self {
        Self { trie: Trie::new(), groups: Groups::default(), count: 0, epoch: 0 }
    }

    /// Returns about what a filter takes in the tree.
    pub(crate) fn cost(filter: &TopicFilter) -> usize {
        Trie::<Subscriber, Option<Leaf>>::cost(filter)
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// Puts a subscription in place of the one it replaces.
    pub(crate) fn add(&mut self, session: Key, subscribed: &Subscribed, replaced: Option<&Subscribed>) {
        self.epoch += 1;
        self.count += usize::from(replaced.is_none());
        let filter = &subscribed.filter;
        if filter.group.is_some() {
            let joined = self.groups.join(filter, Member::new(session, subscribed));
            if let Some(Joined::New(id)) = joined {
                self.trie.insert(&filter.filter, Subscriber::Group(id), None);
            }
            return;
        }
        for part in replaced.into_iter().flat_map(|replaced| &replaced.parts) {
            self.trie.remove(part.filter(), Subscriber::Session(session, subscribed.ordinal));
        }
        for part in &subscribed.parts {
            let subscriber = Subscriber::Session(session, subscribed.ordinal);
            self.trie.insert(part.filter(), subscriber, Some(subscribed.leaf(part)));
        }
    }

    /// Removes a subscription and returns its group, if it was shared.
    pub(crate) fn remove(&mut self, session: Key, subscribed: &Subscribed) -> Option<GroupId> {
        self.epoch += 1;
        self.count = self.count.saturating_sub(1);
        let filter = &subscribed.filter;
        if filter.group.is_none() {
            for part in &subscribed.parts {
                self.trie.remove(part.filter(), Subscriber::Session(session, subscribed.ordinal));
            }
            return None;
        }
        let (id, is_gone) = self.groups.leave(filter, session)?;
        if is_gone {
            self.trie.remove(&filter.filter, Subscriber::Group(id));
        }
        Some(id)
    }

    /// Makes every remembered route old.
    pub(crate) fn touch(&mut self) {
        self.epoch += 1;
    }

    /// Matches a topic and leaves out who may not receive it.
    pub(crate) fn route(
        &self,
        topic: &TopicName,
        sessions: &mut Slab<Session>,
        authority: &mut Authority,
    ) -> Route {
        let (mut direct, mut groups, mut refused) = (Vec::new(), Vec::new(), Vec::new());
        let mut reader = Reader { topic, sessions, authority };
        self.trie.for_each_match(topic, &mut |subscriber, leaf| match subscriber {
            Subscriber::Session(session, _) => direct.extend(leaf.as_ref().map(|leaf| (session, leaf))),
            Subscriber::Group(id) => {
                let name = self.groups.name(id);
                let members = self.groups.members(id).iter().filter_map(|member| {
                    let name = name.map(|name| &**name);
                    let qos = reader.may_receive(member.session, !member.filtered, name).ok()?;
                    let grant = Grant { qos: member.grant.qos.min(qos), ..member.grant.clone() };
                    Some(Member { grant, ..member.clone() })
                });
                groups.push((id, members.collect()));
            }
        });
        direct.sort_by_key(|(session, _)| *session);
        let targets = direct.chunk_by(|a, b| a.0 == b.0).filter_map(|same| {
            let session = same.first()?.0;
            // One that covers the topic says nothing about the quality of service that another may have it with.
            let trusted = same.iter().all(|(_, leaf)| !leaf.filtered);
            match reader.may_receive(session, trusted, None) {
                Ok(qos) => target(session, same, qos),
                Err(denial) => {
                    refused.extend(denial.map(|denial| Refused { session, denial }));
                    None
                }
            }
        });
        let targets = targets.collect();
        Route { targets, groups: groups.into(), refused: refused.into() }
    }
}

/// Who may receive one topic.
struct Reader<'a> {
    topic: &'a TopicName,
    sessions: &'a mut Slab<Session>,
    authority: &'a mut Authority,
}

impl Reader<'_> {
    /// Returns the highest QoS at which a session may receive the topic, if it is there and may. A permit that is not
    /// filtered covers every topic under its filter while it is of the policy in force; else there is
    /// nothing to go by but the rights themselves.
    fn may_receive(
        &mut self,
        session: Key,
        covered: bool,
        group: Option<&str>,
    ) -> Result<QoS, Option<Box<Denial>>> {
        let session = self.sessions.get_mut(session).ok_or(None)?;
        session.rights(self.authority);
        let qos = if covered && session.reviewed == self.authority.generation() {
            Ok(QoS::ExactlyOnce)
        } else {
            let permit = match group {
                Some(group) => session.rights.receive_shared(self.topic, group),
                None => session.rights.receive(self.topic),
            };
            permit.map(|permit| permit.qos()).map_err(|denial| Some(Box::new(denial)))
        };
        self.authority.tell(session, &Question::Receive { topic: self.topic, group }, qos.is_ok());
        qos
    }
}

fn target(session: Key, same: &[(Key, &Leaf)], qos_max: QoS) -> Option<Target> {
    let merged = |leaves: &mut dyn Iterator<Item = &Leaf>| {
        merge(leaves).map(|grant| Grant { qos: grant.qos.min(qos_max), ..grant })
    };
    let mut all = same.iter().map(|(_, leaf)| *leaf);
    let own = if same.iter().any(|(_, leaf)| leaf.no_local) {
        Own::Only(merged(&mut same.iter().map(|(_, leaf)| *leaf).filter(|leaf| !leaf.no_local)))
    } else {
        Own::Same
    };
    Some(Target { session, grant: merged(&mut all)?, own })
}
