//! Topic names and filters: what is one, and what matches.

use mqtt_proto::{InvalidTopic, SharedFilter, TopicFilter, TopicName};

/// Two texts, divided by the first line feed: a filter and a topic.
///
/// Both are judged as a second reading of the standard judges them, and so is their match.
pub fn filters(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let (filter, topic) = text.split_once('\n').unwrap_or((text, ""));
    let name = TopicName::new(topic);
    assert_eq!(name.is_ok(), is_text(topic) && !topic.contains(['+', '#']), "{topic:?}");
    let shared = SharedFilter::new(filter);
    assert_eq!(shared.is_ok(), is_shared_filter(filter), "{filter:?}: {shared:?}");
    if let Ok(shared) = &shared {
        assert_eq!(shared.to_string(), filter);
        assert_eq!(SharedFilter::new(&shared.to_string()).as_ref(), Ok(shared));
    }
    let parsed: Result<TopicFilter, InvalidTopic> = TopicFilter::new(filter);
    assert_eq!(parsed.is_ok(), is_filter(filter), "{filter:?}");
    let (Ok(parsed), Ok(name)) = (parsed, name) else { return };
    assert_eq!((parsed.as_str(), name.as_str()), (filter, topic));
    let hidden = topic.starts_with('$') && filter.starts_with(['+', '#']);
    let levels: (Vec<&str>, Vec<&str>) = (filter.split('/').collect(), topic.split('/').collect());
    assert_eq!(parsed.matches(&name), !hidden && matches(&levels.0, &levels.1), "{filter:?} on {topic:?}");
}

fn is_text(text: &str) -> bool {
    (1..=65_535).contains(&text.len()) && !text.contains('\0')
}

fn is_filter(text: &str) -> bool {
    let levels: Vec<&str> = text.split('/').collect();
    is_text(text)
        && levels.iter().all(|level| !level.contains('+') || *level == "+")
        && levels.iter().all(|level| !level.contains('#') || *level == "#")
        && levels.iter().rev().skip(1).all(|level| *level != "#")
}

fn is_shared_filter(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("$share/") else { return is_filter(text) };
    rest.split_once('/')
        .is_some_and(|(group, filter)| is_text(group) && !group.contains(['+', '#']) && is_filter(filter))
}

fn matches(filter: &[&str], topic: &[&str]) -> bool {
    match (filter, topic) {
        (["#"], _) | ([], []) => true,
        (["+", filter @ ..], [_, topic @ ..]) => matches(filter, topic),
        ([level, filter @ ..], [name, topic @ ..]) => level == name && matches(filter, topic),
        _ => false,
    }
}
