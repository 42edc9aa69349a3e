//! Random policies, identities and requests, from one number each.

use crate::world::SPELLED;
use midge_policy::{Durability, QueueOverflow, Quota, Rate, Rule, RuleSource};

/// SplitMix64.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }

    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.below(from.len())]
    }

    fn some<T>(&mut self, n: usize, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.one_in(n).then(|| make(self))
    }
}

pub(crate) fn identity(random: &mut Random) -> String {
    let mut id = format!("spiffe://{}", random.pick(&["a", "b"]));
    for _ in 0..random.below(4) {
        id.push('/');
        id.push_str(random.pick(&["a", "b"]));
    }
    id
}

/// Returns an `id` pattern and the names of its captures.
fn id_pattern(random: &mut Random) -> (String, Vec<&'static str>) {
    let mut id = format!("spiffe://{}", random.pick(&["*", "{td}", "{td}", "a"]));
    let mut names = vec!["{td}"];
    let mut unused = vec!["{y}", "{x}"];
    for _ in 0..random.below(3) {
        id.push('/');
        match random.below(5) {
            0 => id.push_str(random.pick(&["a", "b"])),
            1 => id.push('*'),
            _ => {
                let name = unused.pop().unwrap();
                names.push(name);
                id.push_str(name);
            }
        }
    }
    if !random.one_in(4) {
        id.push_str("/**");
    }
    (id, names)
}

fn unless(random: &mut Random, names: &[&str]) -> String {
    let mut id = format!("spiffe://{}", random.pick(&["*", "{td}", "a"]));
    for _ in 0..random.below(3) {
        id.push('/');
        let name = random.pick(names);
        // {td} is no segment.
        let segment = if name == "{td}" { "*" } else { name };
        id.push_str(if random.one_in(2) { segment } else { random.pick(&["a", "b", "*"]) });
    }
    if random.one_in(3) {
        id.push_str("/**");
    }
    id
}

/// A filter of up to three levels and a `#`, now and then with a capture for a level.
pub(crate) fn filter(random: &mut Random, names: &[&str]) -> String {
    loop {
        if random.one_in(20) {
            return "#".to_owned();
        }
        let mut levels = Vec::new();
        if random.one_in(8) {
            levels.push("$x");
        }
        let depth = 1 + random.below(3);
        while levels.len() < depth {
            levels.push(match random.below(10) {
                0..4 => "+",
                4..6 if !names.is_empty() => random.pick(names),
                _ => random.pick(&[SPELLED[0], SPELLED[0], SPELLED[1], SPELLED[2]]),
            });
        }
        if random.one_in(2) {
            levels.push("#");
        }
        let text = levels.join("/");
        if !text.is_empty() {
            return text;
        }
    }
}

fn filters(random: &mut Random, names: &[&str], most: usize) -> Vec<String> {
    (0..random.below(most + 1)).map(|_| filter(random, names)).collect()
}

pub(crate) const GROUPS: [&str; 3] = ["g", "h", "a"];
pub(crate) const CLIENTS: [&str; 4] = ["a", "b", "a-1", "c"];
pub(crate) const LISTENERS: [&str; 2] = ["tls", "unix"];

fn source(random: &mut Random, line: usize) -> RuleSource {
    match random.below(6) {
        0 => RuleSource::Entry,
        1 => RuleSource::Cloud,
        2 => RuleSource::Built,
        3 => RuleSource::File { file: "built-in".into(), line },
        4 => RuleSource::File { file: "a.toml".into(), line },
        _ => RuleSource::File { file: "x.toml".into(), line },
    }
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn quota(random: &mut Random) -> Quota {
    let mut max = || random.some(2, |random| u32::try_from(1 + random.below(3)).unwrap());
    let quota = Quota {
        sessions: max(),
        subscriptions: max(),
        retained_messages: max(),
        retained_bytes: max(),
        queue_messages: max(),
        queue_bytes: max(),
    };
    if quota == Quota::default() { Quota { sessions: Some(1), ..quota } } else { quota }
}

/// Whom a rule speaks of, and on which connections it holds.
struct Kind {
    id: String,
    names: Vec<&'static str>,
    unless: Vec<String>,
    client_id: Vec<String>,
    listener: Vec<String>,
}

fn kind(random: &mut Random) -> Kind {
    let (id, names) = id_pattern(random);
    let unless = random.some(5, |random| vec![unless(random, &names)]).unwrap_or_default();
    let client_id = random.some(4, |random| owned(&[random.pick(&["a", "{td}", "{td}-*", "a*", "*"])]));
    let listener = random.some(5, |random| owned(&[random.pick(&LISTENERS)])).unwrap_or_default();
    Kind { id, names, unless, client_id: client_id.unwrap_or_default(), listener }
}

/// Some rules, in a few policies very many that speak of the same and hold on the same connections.
pub(crate) fn rules(random: &mut Random) -> Vec<Rule> {
    let mut kinds: Vec<Kind> = (0..1 + random.below(8)).map(|_| kind(random)).collect();
    if random.one_in(12) {
        kinds.truncate(2);
    }
    let often = if kinds.len() <= 2 && random.one_in(2) { 2 + random.below(20) } else { 1 };
    let each = kinds.iter().flat_map(|kind| std::iter::repeat_n(kind, often));
    each.enumerate().map(|(number, kind)| rule(random, kind, number)).collect()
}

/// A rule that is valid, whatever came out.
fn rule(random: &mut Random, kind: &Kind, number: usize) -> Rule {
    let Kind { id, names, unless, client_id, listener } = kind;
    let line = random.below(50);
    let mut rule = Rule {
        name: format!("r{number}"),
        id: id.clone(),
        unless: unless.clone(),
        client_id: client_id.clone(),
        listener: listener.clone(),
        source: source(random, line),
        ..Rule::default()
    };
    rule.publish = if !random.one_in(4) { filters(random, names, 3) } else { Vec::new() };
    rule.subscribe = if random.one_in(2) { filters(random, names, 4) } else { Vec::new() };
    rule.receive = if random.one_in(5) { filters(random, names, 2) } else { Vec::new() };
    rule.subscribe_literal = if random.one_in(6) { filters(random, names, 2) } else { Vec::new() };
    if rule.client_id.is_empty() {
        rule.deny_publish = if random.one_in(4) { filters(random, names, 2) } else { Vec::new() };
        rule.deny_subscribe = if random.one_in(5) { filters(random, names, 1) } else { Vec::new() };
        rule.deny_receive = if random.one_in(5) { filters(random, names, 2) } else { Vec::new() };
        rule.deny_subscribe_literal = if random.one_in(9) { filters(random, names, 1) } else { Vec::new() };
    }
    if !rule.publish.is_empty() {
        rule.retain = random.some(6, |r| r.one_in(2));
        rule.payload_max = random.some(5, |r| if r.one_in(4) { 0 } else { 10 });
        rule.will = random.some(6, |r| r.one_in(2));
        rule.rate = random.some(4, |_| Rate { messages_per_second: Some(5), ..Rate::default() });
        rule.durability = random
            .some(4, |r| [Durability::None, Durability::ProcessCrash, Durability::PowerLoss][r.below(3)]);
        rule.response_topics = random.some(3, |r| filters(r, names, 2)).unwrap_or_default();
        rule.queue_overflow = random.some(6, |_| QueueOverflow::Refuse);
    }
    if !(rule.subscribe.is_empty() && rule.subscribe_literal.is_empty()) {
        rule.share_groups = random.some(3, |r| match r.below(4) {
            0 => Vec::new(),
            1 => owned(&["*"]),
            2 => owned(&["{td}"]),
            _ => owned(&["g"]),
        });
    }
    if !(rule.publish.is_empty() && rule.subscribe.is_empty() && rule.receive.is_empty()) {
        rule.qos_max = random.some(2, |r| [0, 1, 2][r.below(3)]);
    }
    if rule.client_id.is_empty() {
        rule.quota = random.some(4, quota);
    }
    if rule.quota.is_none() && rule.topic_lists().iter().all(|(_, filters)| filters.is_empty()) {
        rule.subscribe = vec![filter(random, names)];
    }
    rule
}
