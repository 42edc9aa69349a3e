//! Messages of share groups that a member has whose session ends with the broker, while others of the group are there
//! after a crash: as when that member leaves, the group gets them again. Until the member acknowledges it, a record of
//! the group's own names the message (`l`).
//!
//! At QoS 2 a message that was sent goes to nobody else ([MQTT-4.8.2-5]), and so ends with the member that it was sent
//! to. One that waits does so at a member that is stored, if one has room.

use crate::broker::Broker;
use crate::effect::Now;
use crate::message::{Message, SharedMessage, UNDECIDED};
use crate::queue::Waiting;
use crate::record::Durability;
use crate::session::Session;
use crate::shared::{GroupId, Member};
use mqtt_proto::QoS;

impl Broker {
    /// Tells whether a message of a group is to be stored though the member that gets it is not.
    pub(crate) fn lends(&mut self, group: GroupId, member: &Member, qos: QoS, message: &Message) -> bool {
        if qos != QoS::AtLeastOnce || message.level == Durability::None {
            return false;
        }
        let Self { sessions, subscriptions, .. } = self;
        let is_stored = |member: &Member| sessions.get(member.session).is_some_and(Session::is_stored);
        !is_stored(member)
            && subscriptions
                .groups
                .is_kept(group, |member| member.grant.qos != QoS::AtMostOnce && is_stored(member))
    }

    /// Gives a message of an earlier run, which a member had that is no more, to another that is stored; false when
    /// there is none. Nobody is connected yet.
    pub(crate) fn give_back(&mut self, group: GroupId, message: &SharedMessage, now: Now) -> bool {
        let route = self.route(&message.publication().topic);
        let members = route.groups.iter().find(|(id, _)| *id == group).map(|(_, members)| members);
        let Some(members) = members else { return false };
        let turn = self.subscriptions.groups.next_turn(group, members.len());
        let mut in_turn = members.iter().cycle().skip(turn).take(members.len());
        let chosen = in_turn.find(|member| {
            let is_stored = self.sessions.get(member.session).is_some_and(Session::is_stored);
            is_stored && member.grant.qos != QoS::AtMostOnce
        });
        let Some(member) = chosen else { return false };
        let qos = message.qos().min(member.grant.qos);
        let waiting = Waiting {
            retain: member.grant.retain_as_published && message.publication().retain,
            subscription_ids: member.grant.ids.clone(),
            group: Some(group),
            revision: UNDECIDED,
            ..Waiting::new(SharedMessage::clone(message), qos)
        };
        let (sessions, mut release) = self.release(now);
        let Some(session) = sessions.get_mut(member.session) else { return false };
        session.take_over(waiting, &mut release);
        true
    }
}
