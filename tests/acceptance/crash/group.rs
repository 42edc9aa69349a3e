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
    deserter: Option<JoinHandle<u32>>,
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
        let deserter = (qos == QoS::AtLeastOnce).then(|| {
            let (on, random) = (Arc::clone(stage), Random(random.below(u64::MAX)));
            thread::spawn(move || desert(&on, &filter, random))
        });
        let mut publisher = Publisher::new(format!("pub-group-{}", qos as u8), topic, qos);
        let (on, received) = (Arc::clone(stage), Arc::clone(&inbox));
        let publisher = thread::spawn(move || {
            publisher.run(&on, |next| next < received.count() + AHEAD_MAX);
            publisher.next()
        });
        Self { qos, inbox, publisher, deserter, members }
    }

    pub(super) fn received(&self) -> u32 {
        self.inbox.count()
    }

    /// Waits until everything was received; the members go on until all is over.
    pub(super) fn end(self) -> impl FnOnce() -> String {
        let sent = self.publisher.join().unwrap();
        let deserted = self.deserter.map(|deserter| deserter.join().unwrap());
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
            format!("group-{}: sent {sent}, received {received}, deserted {deserted:?}", self.qos as u8)
        }
    }
}

/// A member whose session ends with messages that it did not acknowledge. Returns how many.
fn desert(stage: &Stage, filter: &str, mut random: Random) -> u32 {
    let mut taken = 0;
    loop {
        let is_last = stage.winding_up.load(Ordering::Relaxed);
        let served = desert_once(stage, filter, is_last, &mut random);
        match served {
            Ok(_) if is_last => return taken,
            Ok(count) => taken += count,
            Err(_) => sleep(Duration::from_millis(5)),
        }
    }
}

/// Ends the session there may be, and is a member for a while, unless this is the last time.
fn desert_once(stage: &Stage, filter: &str, is_last: bool, random: &mut Random) -> Result<u32> {
    let session_expiry_secs = (!is_last).then_some(3600);
    let (mut link, _) = Link::connect(stage, Connect { session_expiry_secs, ..new("deserter") })?;
    if is_last {
        return Ok(0);
    }
    link.send(&link::subscribe(filter, QoS::AtLeastOnce))?;
    let mut taken = 0;
    for _ in 0..random.below(10) {
        while let Some(packet) = link.next()? {
            taken += u32::from(matches!(packet, Packet::Publish(_)));
        }
    }
    // Its session ends now, or with the next one's clean start.
    if random.below(2) == 0 {
        link.send(&disconnect(Some(0)))?;
    }
    drop(link);
    sleep(Duration::from_millis(random.below(40)));
    Ok(taken)
}
