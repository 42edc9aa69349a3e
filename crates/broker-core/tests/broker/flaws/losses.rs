//! What can be lost while a message is under way, and what has to follow from it.

use super::course::Course;
use crate::world::*;
use midge_policy::Rule;
use mqtt_proto::QoS;

pub(super) const PRESS: &str = "press";
pub(super) const OPS: &str = "ops";
/// May do what the other two may, and does nothing with it but listen.
pub(super) const GUEST: &str = "guest";

/// Whose right it is: the publisher's, or the receiver's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Side {
    Source,
    Sink,
}

impl Side {
    pub(super) fn party(self) -> &'static str {
        match self {
            Self::Source => PRESS,
            Self::Sink => OPS,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    /// The topic is not listed any more; others that look like it are.
    Topic,
    /// `deny-publish` or `deny-receive`.
    Denied,
    /// `deny-subscribe`.
    SubscribeDenied,
    /// There is no rule at all.
    Policy,
    /// The rule is for other client ids.
    ClientId,
    /// The rule is for another listener.
    Listener,
    QosMax,
    Retain,
    PayloadMax,
    Will,
    ResponseTopics,
    ShareGroups,
    /// The registration entry is deleted.
    Entry,
    /// What proved the identity of the connection does not hold any more: agent banned, CA tainted.
    Proof,
    /// The SVID of the connection expires.
    Svid,
}

use Kind::*;

const OF_SOURCE: [Kind; 13] = [
    Topic,
    Denied,
    Policy,
    ClientId,
    Listener,
    QosMax,
    Retain,
    PayloadMax,
    Will,
    ResponseTopics,
    Entry,
    Proof,
    Svid,
];

const OF_SINK: [Kind; 10] =
    [Topic, Denied, SubscribeDenied, ClientId, Listener, QosMax, ShareGroups, Entry, Proof, Svid];

/// Something that somebody loses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Loss {
    pub(super) who: &'static str,
    pub(super) side: Side,
    pub(super) kind: Kind,
}

/// What follows for the message from its publisher's or its receiver's loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Outcome {
    /// From here on nothing of it is delivered.
    Stops,
    /// It is none of what the condition is about: everything is delivered.
    GoesOn,
    /// `qos-max` lowers what a receiver is granted: what begins from here on comes at QoS 0.
    Lowers,
    /// As if the client had left in that moment, without its will: what it may, its next connection may.
    Leaves,
}

impl Loss {
    pub(super) fn all() -> impl Iterator<Item = Self> {
        let of = |side: Side, kinds: &'static [Kind]| {
            kinds.iter().map(move |kind| Self { who: side.party(), side, kind: *kind })
        };
        of(Side::Source, &OF_SOURCE).chain(of(Side::Sink, &OF_SINK))
    }

    /// Seconds that pass with it.
    pub(super) fn secs(self) -> u64 {
        u64::from(self.kind == Svid)
    }

    /// Whether it is of the connection, and not of the identity: there is nothing of it without one.
    pub(super) fn is_of_connection(self) -> bool {
        matches!(self.kind, Proof | Svid)
    }

    pub(super) fn outcome(self, course: &Course) -> Outcome {
        let concerns = match (self.side, self.kind) {
            (_, Proof | Svid) => return Outcome::Leaves,
            (Side::Sink, QosMax) if course.qos != QoS::AtMostOnce => return Outcome::Lowers,
            (_, QosMax) => course.qos != QoS::AtMostOnce,
            (_, Retain) => course.retain,
            (_, Will) => course.is_will,
            (_, ShareGroups) => course.is_shared,
            _ => true,
        };
        if concerns { Outcome::Stops } else { Outcome::GoesOn }
    }

    /// The same loss of somebody whom the message does not concern.
    pub(super) fn of_guest(self) -> Option<Self> {
        (self.kind != Policy).then_some(Self { who: GUEST, ..self })
    }
}

/// What becomes of the rules.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Change {
    Nothing,
    /// They speak of publisher and receiver anew, and take nothing from them.
    More,
    Loses(Loss),
}

fn owned<const N: usize>(texts: [&str; N]) -> Vec<String> {
    texts.map(str::to_owned).into()
}

/// What looks like a topic and is another.
fn near(topic: &str) -> Vec<String> {
    let ((first, rest), (start, _)) = (topic.split_at(1), topic.split_at(topic.len() - 1));
    let other_case = format!("{}{rest}", first.to_uppercase());
    let mut near = owned(["open", start]);
    near.extend(["/x", "x", "/", "/+", "/+/#"].map(|end| format!("{topic}{end}")));
    near.extend(["/", "x/", "x", "+/x/"].map(|start| format!("{start}{topic}")));
    near.extend(Some(other_case).filter(|other| other != topic));
    near
}

fn bound(name: String, rule: Rule) -> Rule {
    Rule { name, client_id: owned(["c*"]), listener: owned(["tls"]), ..rule }
}

fn writes(course: &Course, who: &str) -> Rule {
    // Where it is filled in, everybody has a topic of its own.
    let id = if course.is_filled_in && who == PRESS { "{me}" } else { who };
    let rule = allow(id, &[course.listed(who), "open"], &[]);
    Rule { response_topics: owned(["answer"]), ..bound(format!("{who}-writes"), rule) }
}

fn reads(course: &Course, who: &str) -> Rule {
    let topic = if course.is_wide { course.widest() } else { course.topic };
    let rule = allow(who, &[], &[topic, "open"]);
    Rule { share_groups: Some(owned(["g"])), ..bound(format!("{who}-reads"), rule) }
}

/// The rules by which a message may go its way, as they are after a change.
pub(super) fn rules(course: &Course, change: Change) -> Vec<Rule> {
    let mut rules =
        vec![writes(course, PRESS), reads(course, OPS), writes(course, GUEST), reads(course, GUEST)];
    rules.push(allow("intruder", &["open"], &["open"]));
    match change {
        Change::Nothing => {}
        Change::More => {
            rules[0].publish.push("more".into());
            rules[1].subscribe.push("more".into());
        }
        Change::Loses(loss) => take_away(course, loss, &mut rules),
    }
    rules
}

fn take_away(course: &Course, Loss { who, side, kind }: Loss, rules: &mut Vec<Rule>) {
    let at = usize::from(side == Side::Sink) + if who == GUEST { 2 } else { 0 };
    let (deny, rule) = (Rule { name: "deny".into(), ..allow(who, &[], &[]) }, rules.get_mut(at).unwrap());
    let topic = owned([course.topic]);
    match (kind, side) {
        (Topic, Side::Source) => rule.publish = near(course.listed(who)),
        (Topic, Side::Sink) => rule.subscribe = near(course.topic),
        (Denied, Side::Source) => rules.push(Rule { deny_publish: topic, ..deny }),
        (Denied, Side::Sink) => rules.push(Rule { deny_receive: topic, ..deny }),
        (SubscribeDenied, _) => rules.push(Rule { deny_subscribe: topic, ..deny }),
        (Policy, _) => rules.clear(),
        (ClientId, _) => rule.client_id = owned(["d*", "C", "cc"]),
        (Listener, _) => rule.listener = owned(["unix", "tcp"]),
        (QosMax, _) => rule.qos_max = Some(0),
        (Retain, _) => rule.retain = Some(false),
        (PayloadMax, _) => rule.payload_max = Some(0),
        (Will, _) => rule.will = Some(false),
        (ResponseTopics, _) => rule.response_topics = near("answer"),
        (ShareGroups, _) => rule.share_groups = Some(owned(["h"])),
        (Entry | Proof | Svid, _) => {}
    }
}
