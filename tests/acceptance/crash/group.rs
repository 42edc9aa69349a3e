//! A share group whose members come and go: each message reaches one of them, and at QoS 2 once.

use super::inbox::Inbox;
use super::link::{self, Link, disconnect, new};
use super::restless::Restless;
use super::{AHEAD_MAX, Publisher, Random, Stage, Subscriber};
use crate::support::eventually;
use mqtt_proto::{Connect, Packet, QoS};
use std::io::Result;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle, sleep};
use std::time::Duration;

pub(super) struct Group {
    qos: QoS,
    inbox: Arc<Inbox>,
    publisher: JoinHandle<u32>,
    deserters: Vec<JoinHandle<u32>>,
    members: Vec<JoinHandle<()>>,
}

impl Group {
    pub(super) fn start(stage: &Arc<Stage>, qos: QoS, random: &mut Random) -> Self {
        let inbox = Arc::new(Inbox::default());
        let (topic, filter) =
            (format!("demo/group/{}", qos as u8), format!("$share/crew/demo/group/{}", qos as u8));
        let members = (0..3).map(|n| {
            let id = format!("member-{}-{n}", qos as u8);
            let member = Subscriber::new(id, filter.clone(), qos).noting(&inbox);
            let mut member = member.restless(Restless::new(random.below(u64::MAX), 150));
            drop(member.subscribe(stage).unwrap());
            let on = Arc::clone(stage);
            thread::spawn(move || member.run(&on))
        });
        let members = members.collect();
        // What is in flight at QoS 2 goes to nobody else when a session ends ([MQTT-4.8.2-5]).
        let kinds = if qos == QoS::AtLeastOnce { &KINDS[..] } else { &[] };
        let deserters = kinds.iter().map(|kind| {
            let (on, filter) = (Arc::clone(stage), filter.clone());
            let random = Random(random.below(u64::MAX));
            thread::spawn(move || kind.desert(&on, &filter, random))
        });
        let deserters = deserters.collect();
        let mut publisher = Publisher::new(format!("pub-group-{}", qos as u8), topic, qos);
        let (on, received) = (Arc::clone(stage), Arc::clone(&inbox));
        let publisher = thread::spawn(move || {
            publisher.run(&on, |next| next < received.count() + AHEAD_MAX);
            publisher.next()
        });
        Self { qos, inbox, publisher, deserters, members }
    }

    pub(super) fn received(&self) -> u32 {
        self.inbox.count()
    }

    /// Waits until everything was received; the members go on until all is over.
    pub(super) fn end(self) -> impl FnOnce() -> String {
        let sent = self.publisher.join().unwrap();
        let deserted: Vec<u32> =
            self.deserters.into_iter().map(|deserter| deserter.join().unwrap()).collect();
        eventually("received by the group", || match self.inbox.count() {
            count if count >= sent => Ok(()),
            count => Err(format!("{count} of {sent}")),
        });
        move || {
            self.members.into_iter().for_each(|member| member.join().unwrap());
            let mut all = self.inbox.all();
            let received = all.len();
            all.sort_unstable();
            if self.qos == QoS::ExactlyOnce {
                assert!(all.windows(2).all(|two| two[0] != two[1]), "twice in the group");
            }
            all.dedup();
            assert!(sent > 0 && all.into_iter().eq(0..sent), "not all that were sent");
            let (stored, brief) = (deserted.first(), deserted.get(1));
            // Or nothing was shown of them.
            assert!(deserted.iter().all(|taken| *taken > 0), "nothing deserted: {deserted:?}");
            format!(
                "group-{}: sent {sent}, received {received}, deserted {stored:?} by stored sessions, {brief:?} by others",
                self.qos as u8
            )
        }
    }
}

/// A member that takes messages, acknowledges none, and whose session ends.
struct Deserter {
    client_id: &'static str,
    /// None where its session ends with its connection: then nothing of it is stored but what the group is owed.
    expiry_secs: Option<u32>,
}

const KINDS: [Deserter; 2] = [
    Deserter { client_id: "deserter", expiry_secs: Some(3600) },
    Deserter { client_id: "brief", expiry_secs: None },
];

impl Deserter {
    /// Is a member again and again. Returns how many messages it took.
    fn desert(&self, stage: &Stage, filter: &str, mut random: Random) -> u32 {
        let mut taken = 0;
        loop {
            let is_last = stage.winding_up.load(Ordering::Relaxed);
            let served = self.once(stage, filter, (is_last, &mut taken), &mut random);
            match served {
                Ok(()) if is_last => return taken,
                Ok(()) => {}
                Err(_) => sleep(Duration::from_millis(5)),
            }
        }
    }

    /// Ends the session there may be, and is a member for a while, unless this is the last time.
    fn once(
        &self,
        stage: &Stage,
        filter: &str,
        (is_last, taken): (bool, &mut u32),
        random: &mut Random,
    ) -> Result<()> {
        let session_expiry_secs = self.expiry_secs.filter(|_| !is_last);
        let (mut link, _) = Link::connect(stage, Connect { session_expiry_secs, ..new(self.client_id) })?;
        if is_last {
            return Ok(());
        }
        link.send(&link::subscribe(filter, QoS::AtLeastOnce))?;
        for _ in 0..random.below(10) {
            while let Some(packet) = link.next()? {
                *taken += u32::from(matches!(packet, Packet::Publish(_)));
            }
        }
        // Its session ends now, or with the next one's clean start.
        if random.below(2) == 0 {
            link.send(&disconnect(self.expiry_secs.map(|_| 0)))?;
        }
        drop(link);
        sleep(Duration::from_millis(random.below(40)));
        Ok(())
    }
}
