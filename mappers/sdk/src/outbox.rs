//! Publications from the moment they are taken until the broker has acknowledged them.
//!
//! rumqttc sends whatever it has kept without regard to the broker's Receive Maximum, and forgets
//! it when the broker has lost the session. So it is given only as much as fits, and what is not
//! acknowledged is kept here.

use bytes::Bytes;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Publish;
use std::collections::VecDeque;

/// One message to the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Publication {
    pub(crate) topic: String,
    pub(crate) payload: Bytes,
}

#[derive(Debug, Default)]
pub(crate) struct Outbox {
    /// To be sent again, oldest first; with the packet id they had.
    again: VecDeque<Unsent>,
    /// Given to rumqttc, not on their way yet, oldest first.
    handed: VecDeque<Unsent>,
    /// On their way, oldest first.
    in_flight: VecDeque<(u16, Publication)>,
}

type Unsent = (Option<u16>, Publication);

impl Outbox {
    /// Publications that are not acknowledged.
    pub(crate) fn len(&self) -> usize {
        self.again.len() + self.handed.len() + self.in_flight.len()
    }

    /// Whether the broker takes one more, in a window of so many.
    pub(crate) fn has_room(&self, window: usize) -> bool {
        self.again.is_empty() && self.handed.len() + self.in_flight.len() < window
    }

    /// Takes in a publication that there is room for, and returns the packet to give to rumqttc.
    pub(crate) fn hand(&mut self, publication: Publication) -> Publish {
        let packet = packet(&publication, None);
        self.handed.push_back((None, publication));
        packet
    }

    /// The oldest publication that was handed over is on its way under this packet id.
    pub(crate) fn sent(&mut self, packet_id: u16) {
        if let Some((_, publication)) = self.handed.pop_front() {
            self.in_flight.push_back((packet_id, publication));
        }
    }

    /// The broker has answered; returns the publication.
    pub(crate) fn answered(&mut self, packet_id: u16) -> Option<Publication> {
        let position = self.in_flight.iter().position(|(id, _)| *id == packet_id)?;
        self.in_flight.remove(position).map(|(_, publication)| publication)
    }

    /// The oldest publication that was handed over cannot be sent; returns it.
    pub(crate) fn unsendable(&mut self) -> Option<Publication> {
        self.handed.pop_front().map(|(_, publication)| publication)
    }

    /// The connection is gone: everything is to be sent again, in the order it was.
    pub(crate) fn disconnected(&mut self) {
        let sent = self.in_flight.drain(..).map(|(packet_id, publication)| (Some(packet_id), publication));
        let unacknowledged: VecDeque<Unsent> = sent.chain(self.handed.drain(..)).collect();
        let later = std::mem::replace(&mut self.again, unacknowledged);
        self.again.extend(later);
    }

    /// The broker has a new session: packet ids belonged to the one that is gone.
    pub(crate) fn forget_ids(&mut self) {
        self.again.iter_mut().for_each(|(packet_id, _)| *packet_id = None);
    }

    /// Returns the packets that are to be sent again now, in a window of so many.
    pub(crate) fn resend(&mut self, window: usize) -> Vec<Publish> {
        let room = window.saturating_sub(self.handed.len() + self.in_flight.len()).min(self.again.len());
        let now: Vec<Unsent> = self.again.drain(..room).collect();
        let packets = now.iter().map(|(packet_id, publication)| packet(publication, *packet_id)).collect();
        self.handed.extend(now);
        packets
    }
}

fn packet(publication: &Publication, sent_before_as: Option<u16>) -> Publish {
    let payload = publication.payload.clone();
    Publish {
        // [MQTT-3.3.1-1] [MQTT-4.4.0-1] Re-delivery has the original packet id and DUP.
        dup: sent_before_as.is_some(),
        pkid: sent_before_as.unwrap_or(0),
        ..Publish::new(&publication.topic, QoS::AtLeastOnce, payload, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acknowledged_publications_are_forgotten_in_any_order() {
        let mut outbox = outbox(3);
        (1..=3).for_each(|id| outbox.sent(id));
        assert_eq!(outbox.answered(2), Some(publication(2)));
        assert_eq!(outbox.answered(2), None);
        assert_eq!(outbox.len(), 2);
        assert_eq!([outbox.answered(1), outbox.answered(3)], [Some(publication(1)), Some(publication(3))]);
        assert_eq!(outbox.len(), 0);
    }

    #[test]
    fn a_kept_session_gets_the_same_ids_with_dup_and_the_rest_fresh() {
        let mut outbox = outbox(4);
        (1..=3).for_each(|id| outbox.sent(id));
        outbox.answered(2);
        outbox.disconnected();
        assert_eq!(resent(&mut outbox, 9), [(1, true, 1), (3, true, 3), (4, false, 0)]);
    }

    #[test]
    fn a_new_session_gets_everything_afresh() {
        let mut outbox = outbox(3);
        outbox.sent(1);
        outbox.disconnected();
        outbox.forget_ids();
        assert_eq!(resent(&mut outbox, 9), [(1, false, 0), (2, false, 0), (3, false, 0)]);
        outbox.disconnected();
        assert_eq!(resent(&mut outbox, 9)[0], (1, false, 0), "the ids are forgotten for good");
    }

    #[test]
    fn a_smaller_window_is_kept_and_nothing_new_overtakes() {
        let mut outbox = outbox(3);
        (1..=3).for_each(|id| outbox.sent(id));
        outbox.disconnected();
        assert_eq!(resent(&mut outbox, 2), [(1, true, 1), (2, true, 2)]);
        assert_eq!(resent(&mut outbox, 2), []);
        outbox.sent(1);
        outbox.answered(1);
        assert!(!outbox.has_room(2));
        assert_eq!(resent(&mut outbox, 2), [(3, true, 3)]);
        assert!(!outbox.has_room(2) && outbox.has_room(3));
    }

    #[test]
    fn losing_the_connection_twice_keeps_order_and_ids() {
        let mut outbox = outbox(3);
        (1..=3).for_each(|id| outbox.sent(id));
        outbox.disconnected();
        assert_eq!(resent(&mut outbox, 9).len(), 3);
        outbox.sent(1);
        outbox.disconnected();
        assert_eq!(resent(&mut outbox, 9), [(1, true, 1), (2, true, 2), (3, true, 3)]);
    }

    #[test]
    fn one_that_cannot_be_sent_is_taken_out() {
        let mut outbox = outbox(2);
        assert_eq!(outbox.unsendable(), Some(publication(1)));
        assert_eq!(outbox.len(), 1);
    }

    fn publication(number: u8) -> Publication {
        Publication { topic: "t".into(), payload: vec![number].into() }
    }

    fn outbox(publications: u8) -> Outbox {
        let mut outbox = Outbox::default();
        for number in 1..=publications {
            let packet = outbox.hand(publication(number));
            assert_eq!((packet.dup, packet.pkid, &*packet.payload), (false, 0, &[number][..]));
        }
        outbox
    }

    fn resent(outbox: &mut Outbox, window: usize) -> Vec<(u8, bool, u16)> {
        outbox.resend(window).iter().map(|packet| (packet.payload[0], packet.dup, packet.pkid)).collect()
    }
}
