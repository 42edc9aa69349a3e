//! Histories that failed once, of the broker's or of the reference's fault.

use crate::attacker::Mischief;
use crate::histories::play;
use crate::steps::*;
use midge_policy::Quota;

// [MQTT-3.8.3-3]: with its window full a client waits for a retained message, and puts one of its own in its place.
#[test]
fn a_retained_message_of_its_own_is_not_owed_where_no_local_is() {
    play(&[
        Op::Connect(1, PLAIN),
        Op::Connect(2, PLAIN),
        Op::Subscribe(2, all_of("a/b")),
        Op::Publish(1, 1, kept("a/b", 1)),
        Op::Subscribe(2, Wish { no_local: true, ..all_of("a/b") }),
        Op::Publish(2, 1, kept("a/b", 0)),
    ]);
}

// The will of who is taken over may be what it then finds retained.
#[test]
fn a_retained_will_of_its_own_is_not_owed_where_no_local_is() {
    let mortal = Opening { will: Some((kept("a", 0), 0)), ..PLAIN };
    play(&[
        Op::Connect(2, PLAIN),
        Op::Connect(1, mortal),
        Op::Publish(2, 1, kept("a", 1)),
        Op::Subscribe(1, all_of("a")),
        Op::Subscribe(1, Wish { no_local: true, ..all_of("a") }),
    ]);
}

// Two wills that are due at the restart, of which one is retained in the end; a session that once was to be kept
// comes back only to end.
#[test]
fn what_is_due_at_a_restart_comes_in_any_order() {
    let mortal = |topic| Opening { will: Some((kept(topic, 1), 0)), ..PLAIN };
    play(&[
        Op::Connect(1, PLAIN),
        Op::Connect(0, mortal("a")),
        Op::Connect(2, mortal("a")),
        Op::Connect(1, Opening { expiry: 0, ..mortal("a") }),
        Op::Connect(3, PLAIN),
        Op::Subscribe(3, all_of("#")),
        Op::Restart(0),
        Op::Connect(3, PLAIN),
        Op::Subscribe(3, all_of("a")),
    ]);
}

// An empty will that nobody was left to keep, and an empty one that is due: they look the same.
#[test]
fn of_equal_messages_of_a_group_the_one_that_is_due_came() {
    let share = "$share/g/a/#";
    let mortal = |qos| Opening { will: Some((Said { empty: true, ..kept("a/b", qos) }, 0)), ..PLAIN };
    play(&[
        Op::Connect(0, Opening { expiry: 0, ..mortal(1) }),
        Op::Subscribe(0, all_of(share)),
        Op::Connect(0, PLAIN),
        Op::Subscribe(0, Wish { qos: 0, ..all_of(share) }),
        Op::Connect(1, mortal(0)),
    ]);
}

// A client that has no room for what is retained when the broker is killed: the rest is owed still, and no more than it.
#[test]
fn what_is_retained_is_owed_over_restarts() {
    for qos in 0..3 {
        let publish = |topic| [Op::Publish(0, 1, kept(topic, qos)), Op::Release(0, 1)];
        let start = [Op::Connect(0, PLAIN), Op::Connect(1, PLAIN)];
        let rest = [
            Op::Subscribe(1, Wish { qos, ..all_of("#") }),
            Op::Acknowledge(1, 0, false),
            Op::Restart(0),
            Op::Restart(0),
            Op::Connect(1, PLAIN),
            Op::Acknowledge(1, 0, false),
            Op::Restart(0),
        ];
        play(&[&start[..], &publish("a"), &publish("a/b"), &publish("a/c"), &publish("d"), &rest].concat());
    }
}

// What waits for the attacker is stored, though nobody else waits for it and it is not retained.
#[test]
fn what_waits_for_the_attacker_stays_in_the_store() {
    let reads_all = [
        Op::Attack(Mischief::Rights(0b10)),
        Op::Attack(Mischief::Connect { nth: 0, v5: true, clean: false, will: None }),
        Op::Attack(Mischief::Subscribe(0, 4, 1)),
    ];
    let said = Said { retain: false, ..kept("a", 1) };
    play(&[&[Op::Connect(0, PLAIN)][..], &reads_all, &[Op::Publish(0, 1, said)]].concat());
}

// What is retained waits before something newer of its topic, for which a queue has no room then: it comes once.
#[test]
fn what_waits_before_a_message_that_is_dropped_comes_once() {
    let one = Quota { queue_messages: Some(1), ..Quota::default() };
    play(&[
        Op::Connect(1, PLAIN),
        Op::Connect(0, PLAIN),
        Op::Publish(1, 1, kept("a", 1)),
        Op::Publish(1, 1, kept("a/b", 1)),
        Op::Subscribe(0, all_of("#")),
        Op::Limit(one),
        Op::Publish(1, 1, Said { retain: false, ..kept("a/b", 1) }),
    ]);
}

// [MQTT-4.3.3-7]: it was sent before it expired, and waits for the disk when it is to be sent again.
#[test]
fn what_was_sent_does_not_expire_while_the_disk_is_slow() {
    let said = |qos, lasts| Said { retain: false, lasts, ..kept("a/c", qos) };
    let words = [Word::Nothing, Word::Publish(1, said(1, None))];
    play(&[
        Op::Connect(0, Opening { window: 2, ..PLAIN }),
        Op::Subscribe(0, Wish { qos: 2, ..all_of("a/c") }),
        Op::Publish(0, 1, said(2, Some(1))),
        Op::Release(0, 1),
        Op::Wait(1),
        Op::EndInput(0, Farewell { words, meanwhile: None, then: Then::TakenOver(PLAIN) }),
    ]);
}

// Two empty messages for a group, of which one waits for who is away and one is due to who is there.
#[test]
fn of_equal_messages_of_a_group_who_is_there_got_the_one_that_is_due() {
    let share = "$share/g/a/#";
    let empty = |qos| Said { empty: true, ..kept("a/c", qos) };
    play(&[
        Op::Connect(1, PLAIN),
        Op::Connect(0, PLAIN),
        Op::Subscribe(0, Wish { qos: 2, ..all_of(share) }),
        Op::Lose(0),
        Op::Publish(1, 3, empty(2)),
        Op::Publish(1, 1, empty(1)),
        Op::Publish(1, 2, kept("a/c", 1)),
        Op::Subscribe(1, all_of(share)),
        Op::Release(1, 3),
        Op::Acknowledge(1, 0, false),
    ]);
}

// [MQTT-4.6.0-1]: also between a message of QoS 1 and one of QoS 2, and on the second connection after it.
#[test]
fn what_is_sent_again_after_a_restart_keeps_its_place() {
    let wide = Opening { window: 2, ..PLAIN };
    let said = |qos| Said { retain: false, ..kept("a", qos) };
    play(&[
        Op::Connect(0, PLAIN),
        Op::Connect(1, wide),
        Op::Subscribe(1, Wish { qos: 2, ..all_of("a") }),
        Op::Publish(0, 1, said(1)),
        Op::Publish(0, 2, said(2)),
        Op::Release(0, 2),
        Op::Restart(0),
        Op::Connect(1, wide),
        Op::Lose(1),
        Op::Connect(1, wide),
    ]);
}

// MQTT 5.0 §4.8.2: what a group was to get is gone with its last member, also for who is in it when it is made anew.
#[test]
fn a_group_that_ended_takes_nothing_over() {
    let share = "$share/g/#";
    play(&[
        Op::Connect(2, PLAIN),
        Op::Connect(3, Opening { expiry: 0, ..PLAIN }),
        Op::Subscribe(3, all_of(share)),
        Op::Publish(2, 1, Said { retain: false, ..kept("a", 1) }),
        Op::Unsubscribe(3, share),
        Op::Subscribe(2, Wish { qos: 0, ..all_of(share) }),
        Op::Lose(3),
    ]);
}

// [MQTT-3.8.3-3]: what waits of a subscription passes over its own message, though another takes that one's place later.
#[test]
fn what_replaces_a_retained_message_of_its_own_is_not_owed_as_retained() {
    let mortal = Opening { expiry: 0, will: Some((Said { retain: false, ..kept("a", 1) }, 0)), ..PLAIN };
    let without_own = |filter| Wish { no_local: true, ..all_of(filter) };
    play(&[
        Op::Connect(1, PLAIN),
        Op::Connect(0, mortal),
        Op::Connect(2, Opening { will: Some((kept("a/b", 1), 0)), ..PLAIN }),
        Op::Lose(2),
        Op::Subscribe(1, without_own("a/#")),
        Op::Lose(0),
        Op::Subscribe(1, without_own("a/b")),
        Op::Publish(1, 1, kept("a/b", 1)),
        Op::Acknowledge(1, 0, false),
        Op::Connect(0, Opening { will: Some((kept("a/b", 1), 0)), ..PLAIN }),
    ]);
}

// [MQTT-3.3.1-1]: what is retained waited for the disk when the connection broke, or behind what did. Nobody can tell how
// far it got, and so it comes as if again; also when it has expired by then ([MQTT-4.3.3-7]).
#[test]
fn what_is_retained_and_was_not_seen_before_the_end_comes_as_if_again() {
    let subscribe = Word::Subscribe(Wish { qos: 2, ..all_of("#") });
    let once = |opening| Opening { v5: false, ..opening };
    for (opening, said) in
        [(PLAIN, kept("a", 2)), (once(PLAIN), kept("a", 2)), (PLAIN, Said { lasts: Some(1), ..kept("a", 2) })]
    {
        for then in [Then::Stored, Then::Broken, Then::TakenOver(opening)] {
            play(&[
                Op::Connect(1, PLAIN),
                Op::Publish(1, 1, said),
                Op::Release(1, 1),
                Op::Publish(1, 1, kept("a/b", 1)),
                Op::Connect(0, opening),
                Op::EndInput(
                    0,
                    Farewell { words: [subscribe, Word::Publish(1, kept("a", 1))], meanwhile: None, then },
                ),
                Op::Wait(2),
                Op::Connect(0, opening),
            ]);
        }
    }
}

// [MQTT-3.8.3-3]: a subscription that is made anew goes on with what is retained, and passes over what is its client's own
// while that is asked.
#[test]
fn what_a_subscription_without_its_own_passed_over_is_not_owed_to_the_next() {
    let wish = |no_local, handling| Op::Subscribe(0, Wish { no_local, handling, ..all_of("#") });
    play(&[
        Op::Connect(0, PLAIN),
        Op::Publish(0, 1, kept("a", 1)),
        wish(false, 0),
        wish(false, 0),
        wish(true, 1),
        wish(false, 1),
        Op::Acknowledge(0, 0, false),
    ]);
}

// Nor is it lost to the next if the disk was slow and it was not passed over yet, and then replaced.
#[test]
fn what_a_subscription_without_its_own_had_not_passed_over_may_come() {
    let wish = |no_local, handling| Word::Subscribe(Wish { no_local, handling, ..all_of("a/#") });
    let words = [wish(true, 0), wish(false, 1)];
    play(&[
        Op::Connect(0, PLAIN),
        Op::Publish(0, 1, kept("a", 1)),
        Op::Connect(1, Opening { will: Some((kept("a", 1), 0)), ..PLAIN }),
        Op::EndInput(0, Farewell { words, meanwhile: None, then: Then::Stored }),
        Op::Lose(1),
        Op::Connect(0, PLAIN),
    ]);
}

// Who leaves a group and subscribes otherwise is sent what is retained, and another member what looks the same.
#[test]
fn of_equal_messages_who_left_a_group_got_what_is_retained() {
    let share = |qos| Wish { qos, retain_as_published: true, ..all_of("$share/g/#") };
    let said = Said { retain: false, ..kept("d", 1) };
    play(&[
        Op::Connect(1, PLAIN),
        Op::Subscribe(1, share(1)),
        Op::Lose(1),
        Op::Connect(2, PLAIN),
        Op::Subscribe(2, share(2)),
        Op::Publish(2, 1, said),
        Op::Publish(2, 2, kept("d", 1)),
        Op::Unsubscribe(2, "$share/g/#"),
        Op::Subscribe(2, all_of("#")),
        Op::Acknowledge(2, 0, false),
    ]);
}

// What was retained waits in the queue since something newer came, when the broker is killed: then it may have been sent.
#[test]
fn what_was_retained_and_waits_comes_again_after_a_restart() {
    play(&[
        Op::Connect(0, PLAIN),
        Op::Subscribe(0, all_of("#")),
        Op::Publish(0, 1, Said { retain: false, ..kept("d", 1) }),
        Op::Connect(1, PLAIN),
        Op::Publish(1, 1, kept("d", 1)),
        Op::Subscribe(0, all_of("#")),
        Op::Publish(1, 1, kept("d", 1)),
        Op::Restart(0),
    ]);
}

// [MQTT-4.6.0-1]: what waits of a group that nobody else takes it from stays in its place when a connection ends, or it would
// be sent behind what came later and sent again before that after a restart.
#[test]
fn what_waits_of_a_group_keeps_its_place() {
    let share = "$share/g/#";
    let said = Said { retain: false, ..kept("a", 2) };
    let publish = |id, said| [Op::Publish(0, id, said), Op::Release(0, id)];
    let start =
        [Op::Connect(0, PLAIN), Op::Connect(1, PLAIN), Op::Subscribe(1, Wish { qos: 2, ..all_of(share) })];
    let alone = [Op::Unsubscribe(1, share), Op::Subscribe(1, Wish { qos: 2, ..all_of("#") })];
    let wide = Opening { window: 9, ..PLAIN };
    let rest = [Op::Connect(1, wide), Op::Restart(0), Op::Connect(1, wide)];
    let said = [publish(1, said), publish(2, said), publish(3, said)];
    play(&[&start[..], &said[0], &said[1], &alone, &said[2], &rest].concat());
}

// The same message for two groups, of which one ended and left it to its last member, who joins the other later.
#[test]
fn of_equal_messages_of_two_groups_who_is_alone_got_its_own() {
    let said = |qos| Said { retain: false, ..kept("a", qos) };
    play(&[
        Op::Connect(2, PLAIN),
        Op::Subscribe(2, all_of("$share/g/a/#")),
        Op::Lose(2),
        Op::Connect(3, PLAIN),
        Op::Subscribe(3, all_of("$share/h/a/#")),
        Op::Publish(3, 1, said(1)),
        Op::Publish(3, 1, said(1)),
        Op::Unsubscribe(3, "$share/h/a/#"),
        Op::Subscribe(3, all_of("$share/g/a/#")),
        Op::Acknowledge(3, 0, false),
    ]);
}

// It was sent to both, and comes again to each under the identifier that it had.
#[test]
fn of_equal_messages_of_two_groups_each_gets_its_own_again() {
    let wide = Opening { v5: false, ..PLAIN };
    let said = Said { retain: false, ..kept("a", 1) };
    play(&[
        Op::Connect(0, wide),
        Op::Subscribe(0, all_of("$share/g/#")),
        Op::Connect(1, wide),
        Op::Publish(0, 1, said),
        Op::Subscribe(1, all_of("$share/g/a/#")),
        Op::Publish(0, 1, said),
        Op::Publish(0, 1, said),
        Op::Unsubscribe(1, "$share/g/a/#"),
        Op::Subscribe(1, all_of("$share/g/#")),
        Op::Restart(0),
    ]);
}

// [MQTT-4.6.0-6]: no order is asked for between what came at QoS 1 and what came at QoS 0, though both go out at QoS 0 since
// the subscription was made anew.
#[test]
fn what_is_retained_at_another_qos_may_come_later() {
    play(&[
        Op::Connect(3, PLAIN),
        Op::Connect(0, PLAIN),
        Op::Subscribe(3, all_of("$share/g/#")),
        Op::Publish(0, 1, kept("a/c", 1)),
        Op::Unsubscribe(3, "$share/g/#"),
        Op::Subscribe(3, all_of("#")),
        Op::Publish(0, 1, Said { retain: false, ..kept("a/c", 0) }),
        Op::Subscribe(3, Wish { qos: 0, handling: 1, ..all_of("#") }),
    ]);
}

// [MQTT-4.4.0-1]: it had waited for room in the window of who leaves.
#[test]
fn what_is_released_again_may_come_to_who_is_leaving() {
    let narrow = Opening { v5: false, clean: false, expiry: 0, window: 1, aliases: 0, will: None };
    let at = |topic, qos| Said { retain: false, ..kept(topic, qos) };
    let will = Some((at("a/b", 2), 0));
    let words = [Word::Subscribe(all_of("#")), Word::Nothing];
    play(&[
        Op::Connect(2, narrow),
        Op::Connect(3, narrow),
        Op::Subscribe(0, Wish { qos: 2, ..all_of("a/#") }),
        Op::Subscribe(0, all_of("#")),
        Op::Publish(3, 2, at("a/b", 1)),
        Op::Connect(1, Opening { will, ..narrow }),
        Op::Lose(0),
        Op::Leave(0, 0),
        Op::Connect(0, narrow),
        Op::Connect(2, Opening { v5: true, ..narrow }),
        Op::Acknowledge(0, 1, false),
        Op::EndInput(1, Farewell { words, meanwhile: None, then: Then::Stored }),
    ]);
}

// MQTT 5.0 §4.8.2: what was sent at QoS 1 before a restart goes to another member while its own is away, and comes back as a
// new message when that one's session ends.
#[test]
fn what_was_sent_to_a_member_before_a_restart_may_come_back_from_another() {
    let share = "$share/h/a/#";
    let said = Said { retain: false, ..kept("a", 1) };
    play(&[
        Op::Connect(0, Opening { window: 3, ..PLAIN }),
        Op::Subscribe(0, all_of(share)),
        Op::Lose(0),
        Op::Connect(1, PLAIN),
        Op::Publish(1, 1, said),
        Op::Publish(1, 1, said),
        Op::Connect(0, Opening { window: 3, ..PLAIN }),
        Op::Restart(0),
        Op::Connect(1, Opening { expiry: 0, ..PLAIN }),
        Op::Subscribe(1, all_of(share)),
        Op::Publish(1, 1, said),
        Op::Connect(0, PLAIN),
        Op::Lose(0),
        Op::Lose(1),
    ]);
}

// [MQTT-4.6.0-1]: a will passed a message that the disk had let go just then and that had not left yet, and was sent again
// behind it.
#[test]
fn the_will_of_who_leaves_comes_behind_what_the_disk_lets_go_with_it() {
    let wide = Opening { window: 2, ..PLAIN };
    let said = |qos| Said { retain: false, ..kept("a", qos) };
    let words = [Word::Subscribe(all_of("d")), Word::Release(1)];
    play(&[
        Op::Connect(0, Opening { will: Some((said(1), 0)), ..PLAIN }),
        Op::Connect(1, wide),
        Op::Subscribe(1, Wish { qos: 2, ..all_of("a") }),
        Op::Publish(0, 1, said(2)),
        Op::EndInput(0, Farewell { words, meanwhile: None, then: Then::Stored }),
        Op::Connect(1, wide),
    ]);
}

// [MQTT-3.3.1-9]: who is away is sent nothing at QoS 0, which takes the place of nothing that is owed as retained then.
#[test]
fn what_is_retained_while_a_client_is_away_is_owed_though_it_is_replaced() {
    let said = Said { retain: false, ..kept("a", 1) };
    let words = [Word::Nothing, Word::Subscribe(all_of("a"))];
    play(&[
        Op::Connect(0, PLAIN),
        Op::Publish(0, 1, kept("a", 0)),
        Op::Connect(1, PLAIN),
        Op::EndInput(1, Farewell { words, meanwhile: None, then: Then::Stored }),
        Op::Publish(0, 1, said),
        Op::Publish(0, 1, kept("a", 0)),
        Op::Publish(0, 1, said),
        Op::Connect(1, PLAIN),
        Op::Publish(0, 1, kept("a", 0)),
    ]);
}

// Nor is it owed for certain: the subscription may be beyond that topic, where nothing was retained at its turn.
#[test]
fn what_is_retained_while_a_client_is_away_is_not_owed_beyond_its_turn() {
    let said = |topic| Op::Publish(0, 1, kept(topic, 1));
    let away = |said| [Op::Lose(1), Op::Publish(0, 1, said), Op::Connect(1, PLAIN)];
    let start =
        [Op::Connect(0, PLAIN), said("a"), said("a/b"), said("a/c"), said("d"), Op::Connect(1, PLAIN)];
    let asks = [Op::Subscribe(1, all_of("d")), Op::Subscribe(1, all_of("a/#"))];
    let [gone, anew] = [Said { empty: true, ..kept("a", 0) }, kept("a", 0)].map(away);
    play(&[&start[..], &asks, &gone, &[Op::Acknowledge(1, 0, false)], &anew].concat());
}

// Two empty messages of two publishers, of which a full queue may have dropped the first.
#[test]
fn of_equal_messages_of_two_publishers_either_came() {
    let narrow = Quota { queue_bytes: Some(130), ..Quota::default() };
    let empty = Said { empty: true, ..kept("a/c", 1) };
    let words = [Word::Subscribe(all_of("#")), Word::Nothing];
    play(&[
        Op::Limit(narrow),
        Op::Connect(0, Opening { will: Some((empty, 0)), ..PLAIN }),
        Op::EndInput(0, Farewell { words, meanwhile: None, then: Then::Stored }),
        Op::Limit(Quota::default()),
        Op::Connect(1, PLAIN),
        Op::Publish(1, 1, empty),
    ]);
}

// What takes the place of a retained message has no room to wait: it is owed as retained then, and before something newer.
// So is what came after the subscription.
#[test]
fn what_is_retained_and_was_dropped_as_a_message_is_owed_still() {
    let one = |queue_messages| Op::Limit(Quota { queue_messages, ..Quota::default() });
    let said = Said { retain: false, ..kept("a", 1) };
    for before in [kept("a", 1), said] {
        play(&[
            Op::Connect(1, PLAIN),
            Op::Connect(0, PLAIN),
            Op::Subscribe(0, all_of("a/#")),
            Op::Publish(1, 1, before),
            Op::Publish(1, 1, kept("a/b", 1)),
            Op::Publish(1, 1, kept("a/b", 1)),
            Op::Subscribe(0, all_of("a/#")),
            one(Some(1)),
            Op::Publish(1, 1, kept("a", 1)),
            one(None),
            Op::Publish(1, 1, said),
            Op::Publish(1, 1, kept("a", 1)),
        ]);
    }
}

// What a group shared with a client before a restart comes again under its identifier, and what is retained then, which
// looks the same.
#[test]
fn of_equal_messages_what_was_sent_before_a_restart_is_not_what_is_retained() {
    let share = "$share/g/#";
    play(&[
        Op::Connect(2, PLAIN),
        Op::Connect(0, PLAIN),
        Op::Subscribe(2, Wish { retain_as_published: true, ..all_of(share) }),
        Op::Publish(0, 1, kept("d", 1)),
        Op::Unsubscribe(2, share),
        Op::Subscribe(2, all_of("d")),
        Op::Restart(0),
    ]);
}

// A retained message that waits of one subscription, which is made anew without its identifier, is none of another's that was
// made when it had been replaced.
#[test]
fn what_was_replaced_before_is_not_what_a_subscription_is_sent() {
    let wish = |filter, handling, id| Op::Subscribe(0, Wish { handling, id, ..all_of(filter) });
    play(&[
        Op::Connect(1, PLAIN),
        Op::Connect(0, PLAIN),
        wish("d", 0, None),
        Op::Publish(1, 1, kept("a/b", 1)),
        Op::Publish(1, 1, kept("d", 1)),
        wish("a/#", 0, Some(1)),
        Op::Publish(1, 1, kept("a/b", 1)),
        wish("+/b", 0, Some(1)),
        wish("a/#", 1, None),
    ]);
}

// What waits of a subscription that is made anew is that one's, though another one that covers it could be sent the same.
#[test]
fn what_waits_of_a_subscription_is_not_what_another_may_be_sent() {
    let wish = |filter, handling, id| Op::Subscribe(2, Wish { handling, id, ..all_of(filter) });
    play(&[
        Op::Connect(1, PLAIN),
        Op::Connect(2, PLAIN),
        Op::Publish(1, 1, kept("a/b", 1)),
        wish("a/#", 0, None),
        Op::Publish(1, 1, kept("a", 1)),
        wish("a", 0, None),
        Op::Publish(1, 1, Said { retain: false, ..kept("a", 1) }),
        wish("a", 1, Some(1)),
    ]);
}

// A full queue may have dropped it as a message, which would have had the RETAIN flag too.
#[test]
fn what_may_be_dropped_as_a_message_came_as_retained() {
    let will = |retain, delay| Some((Said { retain, ..kept("a", 1) }, delay));
    play(&[
        Op::Connect(2, Opening { expiry: 1, will: will(true, 1), ..PLAIN }),
        Op::Connect(1, Opening { will: will(false, 0), ..PLAIN }),
        Op::Subscribe(1, Wish { retain_as_published: true, ..all_of("#") }),
        Op::Publish(1, 1, Said { retain: false, ..kept("a", 1) }),
        Op::Limit(Quota { queue_messages: Some(2), ..Quota::default() }),
        Op::Restart(0),
        Op::Connect(0, Opening { v5: false, expiry: 0, will: will(false, 0), ..PLAIN }),
        Op::Lose(0),
        Op::Wait(1),
        Op::Connect(1, Opening { expiry: 1, ..PLAIN }),
        Op::Subscribe(1, all_of("#")),
    ]);
}

// An empty one of a group that has ended was sent, and an empty will was not: they look the same but for identifiers.
#[test]
fn what_comes_again_under_its_identifier_is_not_what_waits() {
    let will = Some((Said { empty: true, ..kept("a/c", 1) }, 0));
    let old = Opening { v5: false, expiry: 0, ..PLAIN };
    let share = "$share/g/a/#";
    play(&[
        Op::Connect(0, Opening { will, ..old }),
        Op::Subscribe(0, all_of(share)),
        Op::Publish(0, 1, Said { empty: true, ..kept("a/c", 1) }),
        Op::Unsubscribe(0, share),
        Op::Subscribe(0, all_of("a/#")),
        Op::Lose(0),
        Op::Restart(0),
    ]);
}
