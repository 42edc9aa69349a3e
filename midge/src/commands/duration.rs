//! Durations as people write them.

/// Reads `90s`, `10m`, `2h` or `1d` in seconds; `None` for anything else.
pub(crate) fn secs(text: &str) -> Option<u64> {
    let mut count = text.chars();
    let unit: u64 = match count.next_back()? {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => return None,
    };
    count.as_str().parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_a_number_and_its_unit() {
        assert_eq!(["90s", "10m", "2h", "1d"].map(secs), [90, 600, 7_200, 86_400].map(Some));
        for wrong in ["", "s", "10", "10w", "-1s", "1.5h", "1h30m", &format!("{}d", u64::MAX)] {
            assert_eq!(secs(wrong), None, "{wrong}");
        }
    }
}
