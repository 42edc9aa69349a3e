//! What is right by the standard itself, apart from the code under test.

/// Whether a filter matches a topic: MQTT 5.0 §4.7 by the letter.
pub(crate) fn matches(filter: &str, topic: &str) -> bool {
    fn rest(filter: &[&str], topic: &[&str]) -> bool {
        match (filter.split_first(), topic.split_first()) {
            (Some((&"#", _)), _) | (None, None) => true,
            (Some((level, filter)), Some((name, topic))) => {
                (*level == "+" || level == name) && rest(filter, topic)
            }
            _ => false,
        }
    }
    let filter: Vec<&str> = filter.split('/').collect();
    let topic: Vec<&str> = topic.split('/').collect();
    !(topic[0].starts_with('$') && ["+", "#"].contains(&filter[0])) && rest(&filter, &topic)
}
