//! Who says that nothing more comes, in the histories: half a connection that is closed, or all of it, after whatever
//! was said last. It is sent every answer that it is owed, in order, as soon as the disk lets them go, and then its
//! connection ends, with its will; who is owed nothing has left at once.

use crate::histories::Play;
use crate::model::Who;
use crate::seen::Seen;
use crate::steps::{Farewell, Said, Then, Word};
use broker_core::ConnId;
use std::collections::VecDeque;

impl Play {
    pub(crate) fn end_input(&mut self, who: Who, Farewell { words, meanwhile, then }: Farewell) {
        let conn = self.conns[&who];
        self.world.disk.is_quick = false;
        self.model.is_slow = true;
        let mut answers = VecDeque::new();
        for word in words {
            answers.extend(self.say_last(who, word));
            assert!(!self.hear(who, conn, &mut answers), "{who} is cut for {word:?}");
        }
        self.world.end_input(conn);
        if self.hear(who, conn, &mut answers) {
            self.conns.remove(&who);
            self.model.lose(who, true);
            return self.look(None);
        }
        assert!(!self.world.disk.pending.is_empty(), "{who} is kept for nothing");
        self.model.tally.left_waiting += 1;
        if let Some((other, said)) = meanwhile {
            self.say_meanwhile(who, other, said);
            assert!(!self.hear(who, conn, &mut answers), "{who} is owed {answers:?}");
        }
        match then {
            Then::Stored => {
                self.world.end_slowness();
                assert!(
                    self.hear(who, conn, &mut answers),
                    "{who} is kept though {answers:?} is all it is owed"
                );
                self.model.tally.left_answered += 1;
                self.conns.remove(&who);
                self.model.lose(who, true);
                self.look(None);
            }
            Then::Broken => {
                self.model.may_come_again(who);
                self.conns.remove(&who);
                self.model.lose(who, true);
                self.world.lose(conn);
                self.look(None);
                assert_eq!(self.world.take(conn), [""; 0]);
            }
            Then::TakenOver(opening) => {
                self.model.may_come_again(who);
                self.connect(who, opening);
            }
        }
    }

    fn say_last(&mut self, who: Who, word: Word) -> Option<String> {
        let (packet, answer) = match word {
            Word::Nothing => return None,
            Word::Publish(id, said) => self.publish(who, id, said),
            Word::Release(id) => self.release(who, id),
            Word::Subscribe(wish) => self.subscribe(who, wish)?,
            Word::Unsubscribe(filter) => self.unsubscribe(who, filter),
        };
        self.world.send(self.conns[&who], packet);
        answer
    }

    /// Another says something at QoS 0, which waits for no disk.
    fn say_meanwhile(&mut self, who: Who, other: Who, said: Said) {
        let Some(other) = self.deputy(other, |_| true).filter(|other| *other != who) else { return };
        let (packet, _) = self.publish(other, 1, Said { qos: 0, ..said });
        self.world.send(self.conns[&other], packet);
    }

    /// Takes what who has left was sent. Tells whether its connection is over.
    fn hear(&mut self, who: Who, conn: ConnId, answers: &mut VecDeque<String>) -> bool {
        let mut is_over = false;
        for text in self.world.take(conn) {
            assert!(!is_over, "{text} to {who} after the end");
            if let Some(seen) = Seen::read(&text) {
                self.model.sent(who, &seen);
            } else if answers.front() == Some(&text) {
                answers.pop_front();
            } else if !self.hear_pubrel(who, &text) {
                assert_eq!(text, "CLOSE Lost(Eof)");
                assert!(answers.is_empty(), "{who} is not told {answers:?}");
                is_over = true;
            }
        }
        is_over
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::histories::play;
    use crate::steps::{Op, Opening, Wish};
    use crate::steps::{PLAIN, all_of, kept};

    fn leave(who: Who, words: [Word; 2], then: Then) -> Op {
        Op::EndInput(who, Farewell { words, meanwhile: None, then })
    }

    // [MQTT-4.8.2-5]: what waited for the disk when its connection broke is nobody else's.
    #[test]
    fn what_a_member_of_a_group_did_not_see_before_it_left_stays_its_own() {
        let share = "$share/g/#";
        for then in [Then::Stored, Then::Broken, Then::TakenOver(PLAIN)] {
            play(&[
                Op::Connect(0, PLAIN),
                Op::Subscribe(0, Wish { qos: 2, ..all_of(share) }),
                Op::Publish(0, 1, Said { retain: false, ..kept("a", 2) }),
                leave(0, [Word::Release(1), Word::Nothing], then),
                Op::Connect(1, PLAIN),
                Op::Subscribe(1, Wish { qos: 2, ..all_of(share) }),
                Op::Connect(0, PLAIN),
            ]);
        }
    }

    #[test]
    fn who_leaves_is_told_what_became_of_its_last_words() {
        let said = |qos| Said { retain: false, ..kept("a", qos) };
        for qos in 0..3 {
            for then in [Then::Stored, Then::Broken, Then::TakenOver(PLAIN)] {
                let words = [Word::Publish(1, said(qos)), Word::Subscribe(all_of("a"))];
                play(&[
                    Op::Connect(0, PLAIN),
                    Op::Connect(1, Opening { will: Some((said(1), 0)), ..PLAIN }),
                    Op::Subscribe(0, Wish { qos: 2, ..all_of("a") }),
                    leave(1, words, then),
                    leave(0, [Word::Nothing, Word::Unsubscribe("a")], then),
                    Op::Connect(1, PLAIN),
                    Op::Release(1, 1),
                ]);
            }
        }
    }
}
