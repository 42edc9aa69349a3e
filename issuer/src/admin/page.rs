//! Paging: lists in the order of a key, continued after the last key shown.

/// Cuts the page that follows `token` out of a list sorted by key. Returns the token for the next page, empty at the end.
pub(super) fn page<T>(
    mut items: Vec<T>,
    size: i32,
    token: &str,
    key: impl Fn(&T) -> String,
) -> (Vec<T>, String) {
    if !token.is_empty() {
        let start = items.partition_point(|item| key(item).as_str() <= token);
        items.drain(..start);
    }
    let size = usize::try_from(size).unwrap_or(0);
    if size == 0 || items.len() <= size {
        return (items, String::new());
    }
    items.truncate(size);
    let next = items.last().map(key).unwrap_or_default();
    (items, next)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letters() -> Vec<String> {
        ["a", "b", "c", "d", "e"].map(str::to_owned).to_vec()
    }

    #[test]
    fn pages_cover_everything_once() {
        let mut token = String::new();
        let mut seen = Vec::new();
        loop {
            let (items, next) = page(letters(), 2, &token, String::clone);
            seen.extend(items);
            if next.is_empty() {
                break;
            }
            token = next;
        }
        assert_eq!(seen, letters());
    }

    #[test]
    fn no_size_is_everything() {
        for size in [0, -1] {
            assert_eq!(page(letters(), size, "", String::clone), (letters(), String::new()));
        }
    }

    #[test]
    fn a_deleted_item_does_not_stop_the_walk() {
        let (_, token) = page(letters(), 2, "", String::clone);
        let rest = vec!["a".to_owned(), "c".to_owned(), "d".to_owned()];
        assert_eq!(page(rest, 2, &token, String::clone).0, ["c", "d"]);
    }
}
