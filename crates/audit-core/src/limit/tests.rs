use super::*;

const NOW: UnixMillis = UnixMillis(1_000_000);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
/// Shares of 1 MB for an identity, of 200 kB for a host, of 10 MB for all hosts.
const LOG_BYTES: u64 = 100_000_000;

fn limiter() -> Limiter {
    Limiter::new(MINUTE, LOG_BYTES)
}

fn denial<'a>(name: &'a str, class: &'a str, burst: u32) -> Alike<'a> {
    let (peer, event, sort) = (Peer::Identity(name), "publish-denied", Sort::Denial);
    Alike { peer, event, class, burst, count: 1, sort, at: NOW }
}

fn refused<'a>(host: &'a str) -> Alike<'a> {
    Alike { peer: Peer::Host(host), event: "connection-refused", ..denial("", "tls", 20) }
}

fn all_due(limiter: &mut Limiter, now: UnixMillis) -> Vec<Summary> {
    std::iter::from_fn(|| limiter.due(now, 100)).flatten().collect()
}

fn counted(summaries: &[Summary]) -> u64 {
    summaries.iter().map(|summary| summary.count).sum()
}

/// Does it as long as lines of so many bytes are admitted, within a time; returns how many bytes are written.
fn written(limiter: &mut Limiter, alike: &Alike<'_>, bytes: u64, from: UnixMillis, time: Duration) -> u64 {
    let mut written = 0;
    for second in 0..time.as_secs() {
        let at = from.after(Duration::from_secs(second));
        for _ in 0..4 {
            let alike = Alike { at, ..*alike };
            if limiter.admit(&alike) {
                limiter.charge(&alike.payer(), bytes, at);
                written += bytes;
            }
        }
        // The counts are lines as well.
        written += 300 * all_due(limiter, at).len() as u64;
    }
    written
}

#[test]
fn the_first_are_written_and_the_others_are_one_count() {
    let mut limiter = limiter();
    let admitted = (0..1_000).filter(|n| {
        limiter.admit(&Alike { at: NOW.after(Duration::from_millis(*n)), ..denial("a", "x/y/z/", 5) })
    });
    assert_eq!(admitted.count(), 5);
    assert!(all_due(&mut limiter, NOW.after(Duration::from_secs(59))).is_empty());
    let due = all_due(&mut limiter, NOW.after(MINUTE));
    let until = NOW.after(Duration::from_millis(999));
    let (peer, class) = ("a".into(), "x/y/z/".into());
    assert_eq!(due, [Summary { peer, event: "publish-denied", class, count: 995, since: NOW, until }]);
    assert!(limiter.admit(&Alike { at: NOW.after(MINUTE), ..denial("a", "x/y/z/", 5) }), "a new interval");
}

#[test]
fn what_stands_for_many_counts_as_many() {
    let mut limiter = limiter();
    assert!(!limiter.admit(&Alike { count: 95, ..denial("a", "", 0) }));
    assert_eq!(counted(&limiter.finish()), 95);
}

#[test]
fn others_are_not_held_back() {
    let mut limiter = limiter();
    for _ in 0..100 {
        limiter.admit(&denial("noisy", "a", 1));
    }
    assert!(limiter.admit(&denial("quiet", "a", 1)));
    assert!(limiter.admit(&Alike { event: "subscribe-denied", ..denial("noisy", "a", 1) }));
    assert!(limiter.admit(&denial("noisy", "b", 1)));
    assert!(!limiter.admit(&denial("noisy", "a", 1)));
}

#[test]
fn made_up_topics_cost_neither_lines_nor_memory() {
    let mut limiter = limiter();
    let topics: Vec<String> = (0..10_000).map(|n| format!("t{n}{}", "ä".repeat(10_000))).collect();
    let admitted = topics.iter().filter(|topic| limiter.admit(&denial("a", topic, 1))).count();
    assert_eq!(admitted, 33);
    let summaries = limiter.finish();
    assert_eq!(counted(&summaries), 10_000 - 33);
    assert_eq!(&*summaries[0].class, "*");
    // What is alike in the first 128 bytes is alike.
    let long = |end: &str| format!("{}{end}", "ä".repeat(64));
    assert!(limiter.admit(&denial("a", &long("x"), 1)));
    assert!(!limiter.admit(&denial("a", &long("y"), 1)));
    assert_eq!(limiter.finish()[0].class.len(), 128);
}

#[test]
fn hosts_without_an_identity_take_nothing_from_who_has_one() {
    let mut limiter = limiter();
    let hosts: Vec<String> = (0..5_000).map(|n| format!("192.0.2.{n}")).collect();
    let mut lines = 0;
    for host in &hosts {
        for _ in 0..25 {
            let alike = refused(host);
            if limiter.admit(&alike) {
                limiter.charge(&alike.payer(), 300, NOW);
                lines += 1;
            }
        }
    }
    // Each of the first got its twenty, until the share of all was used up.
    assert!((10_000_000 / 300..=10_000_000 / 300 + 1).contains(&lines), "{lines}");
    assert!((limiter.hosts(), limiter.identities()) == (lines / 20 + 2, 0), "{}", limiter.hosts());
    let names: Vec<String> = (0..100).map(|n| format!("spiffe://td/app/{n}")).collect();
    for name in &names {
        assert_eq!((0..9).filter(|_| limiter.admit(&denial(name, "line/x/setpoint", 5))).count(), 5);
    }
    let summaries = limiter.finish();
    assert!(names.iter().all(|name| summaries.iter().any(|summary| summary.peer == *name)));
    assert_eq!(counted(&summaries), 5_000 * 25 - lines as u64 + 100 * 4);
}

#[test]
fn ten_thousand_identities_are_told_apart_and_of_further_ones_each_has_its_line() {
    let mut limiter = limiter();
    let names: Vec<String> = (0..IDENTITIES_MAX + 100).map(|n| format!("spiffe://td/app/{n}")).collect();
    for name in &names {
        let connect = Alike { event: "connected", sort: Sort::Routine, ..denial(name, "", 600) };
        assert!(limiter.admit(&connect), "{name}");
    }
    assert_eq!(limiter.identities(), IDENTITIES_MAX + 1);
    for name in names.iter().rev().take(200) {
        for n in 0..7 {
            let is_told_apart = !names[IDENTITIES_MAX..].contains(name);
            assert_eq!(limiter.admit(&denial(name, "t", 5)), n < 5 || !is_told_apart, "{name} {n}");
        }
    }
    // Even those are bounded, and what is over is a count of its own.
    let further = denial(&names[IDENTITIES_MAX], "t", 5);
    limiter.charge(&further.payer(), 2_000_000, NOW);
    assert!(!limiter.admit(&further));
    let summaries = limiter.finish();
    let others: Vec<_> = summaries.iter().filter(|summary| summary.peer == OTHERS).collect();
    assert_eq!((others.len(), others[0].event, others[0].count), (1, "publish-denied", 1));
    assert_eq!(counted(&summaries), 100 * 2 + 1);
}

#[test]
fn one_peer_takes_its_share_of_the_log_and_no_more() {
    let mut limiter = limiter();
    let topics: Vec<String> = (0..40).map(|n| format!("t{n}")).collect();
    let mut bytes = 0;
    let loud = |class| denial("loud", class, 1_000_000);
    for (minute, topic) in (0..).zip(topics.iter().cycle().take(180)) {
        bytes += written(&mut limiter, &loud(topic), 4_000, NOW.after(MINUTE * minute), MINUTE);
    }
    // A share at once, and an eighth of one in these three hours.
    assert!((1_000_000..1_200_000).contains(&bytes), "{bytes}");
    let later = NOW.after(HOUR * 3);
    assert!(!limiter.admit(&Alike { at: later, ..loud("t") }));
    // Neither what it may do nor others are held back by it; and a day later it has its share again.
    assert!(limiter.admit(&Alike { at: later, sort: Sort::Routine, event: "connected", ..loud("") }));
    assert!(limiter.admit(&Alike { at: later, ..denial("quiet", "t", 5) }));
    let tomorrow = later.after(HOUR * 24);
    assert!(!all_due(&mut limiter, tomorrow).is_empty());
    let bytes = written(&mut limiter, &Alike { ..loud("t") }, 4_000, tomorrow, MINUTE);
    assert!((900_000..1_010_000).contains(&bytes), "{bytes}");
}

#[test]
fn when_its_share_is_used_up_nothing_is_lost_from_the_counts() {
    let mut limiter = limiter();
    let alike = denial("a", "t", 5);
    limiter.charge(&alike.payer(), 5_000_000, NOW);
    assert!(limiter.admit(&alike), "whoever was never seen owes nothing");
    limiter.charge(&alike.payer(), 5_000_000, NOW);
    for n in 0..100 {
        assert!(!limiter.admit(&denial("a", &format!("t{n}"), 5)));
    }
    assert!(!limiter.admit(&Alike { event: "subscribe-denied", ..alike }));
    assert!(all_due(&mut limiter, NOW.after(MINUTE)).is_empty(), "a line a minute would be too many");
    let due = all_due(&mut limiter, NOW.after(HOUR));
    let told: Vec<_> = due.iter().map(|told| (&*told.peer, told.event, &*told.class, told.count)).collect();
    assert_eq!(told, [("a", "publish-denied", "*", 100), ("a", "subscribe-denied", "*", 1)]);
}

#[test]
fn a_small_log_leaves_a_share_all_the_same() {
    let mut limiter = Limiter::new(MINUTE, 0);
    let alike = denial("a", "t", 1_000);
    let bytes = written(&mut limiter, &alike, 400, NOW, MINUTE);
    assert!((16 * 1024..17 * 1024).contains(&bytes), "{bytes}");
}

#[test]
fn who_owes_nothing_is_forgotten() {
    let mut limiter = limiter();
    let alike = Alike { event: "connected", sort: Sort::Routine, ..denial("a", "", 600) };
    assert!(limiter.admit(&alike));
    // 1 MB a day: a line of 500 bytes is paid for after 43 seconds, one of 5,000 after 432.
    limiter.charge(&alike.payer(), 5_000, NOW);
    for (seconds, known) in [(59, 1), (60, 1), (431, 1), (500, 0)] {
        assert!(all_due(&mut limiter, NOW.after(Duration::from_secs(seconds))).is_empty());
        assert_eq!(limiter.identities(), known, "{seconds}");
    }
    assert!(limiter.finish().is_empty() && limiter.is_empty());
}

#[test]
fn a_count_is_due_in_its_time_also_of_who_is_watched_for_longer() {
    let mut limiter = limiter();
    limiter.admit(&denial("a", "t", 5));
    limiter.charge(&denial("a", "t", 5).payer(), 500_000, NOW);
    assert!(all_due(&mut limiter, NOW.after(HOUR)).is_empty());
    let at = NOW.after(HOUR + MINUTE / 2);
    for _ in 0..6 {
        limiter.admit(&Alike { at, ..denial("a", "t", 5) });
    }
    assert!(all_due(&mut limiter, at.after(MINUTE - Duration::from_millis(1))).is_empty());
    assert_eq!(counted(&all_due(&mut limiter, at.after(MINUTE))), 1);
}

#[test]
fn counts_come_in_portions() {
    let mut limiter = limiter();
    let names: Vec<String> = (0..250).map(|n| format!("spiffe://td/app/{n}")).collect();
    for name in &names {
        limiter.admit(&denial(name, "t", 0));
    }
    let portions: Vec<usize> =
        std::iter::from_fn(|| limiter.due(NOW.after(MINUTE), 100)).map(|part| part.len()).collect();
    assert_eq!(portions, [100, 100, 50]);
}

#[test]
fn a_clock_set_back_ends_the_interval_and_gives_shares_back() {
    let mut limiter = limiter();
    let alike = denial("a", "t", 5);
    limiter.admit(&alike);
    limiter.charge(&alike.payer(), 5_000_000, NOW);
    let late = NOW.after(HOUR * 24 * 365);
    limiter.admit(&Alike { at: late, ..alike });
    limiter.charge(&alike.payer(), 5_000_000, late);
    assert!(!limiter.admit(&Alike { at: late, ..alike }));
    assert!(all_due(&mut limiter, late).is_empty());
    assert_eq!(counted(&all_due(&mut limiter, NOW)), 1);
    assert!(limiter.admit(&alike));
}

#[test]
fn classes_are_the_first_levels() {
    assert_eq!(topic_class("a/b"), "a/b");
    assert_eq!(topic_class("a/b/c/d/e"), "a/b/c/");
    assert_eq!(topic_class("$hw/events/device/led/twin/get"), "$hw/events/device/led/");
    assert_eq!(topic_class(""), "");
    assert_eq!(topic_class("//ä/ö"), "//ä/");
}
