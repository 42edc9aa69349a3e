//! Times as KubeEdge shows them.

use crate::UnixMillis;

const DAY_SECS: i64 = 86_400;

/// Formats a time as RFC 3339 in UTC, to the second.
pub fn rfc3339(time: UnixMillis) -> String {
    let secs = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    let (year, month, day) = civil(secs.div_euclid(DAY_SECS));
    let of_day = secs.rem_euclid(DAY_SECS);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Reads what [`rfc3339`] wrote, as milliseconds since the epoch.
pub(super) fn parse_millis(text: &str) -> Option<i64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let mut date = date.split('-').map(|part| part.parse::<i64>().ok());
    let mut time = time.split(':').map(|part| part.parse::<i64>().ok());
    let days = days_from_civil(date.next()??, date.next()??, date.next()??);
    let secs = time.next()??.checked_mul(3600)?.checked_add(time.next()??.checked_mul(60)?)?;
    days.checked_mul(DAY_SECS)?.checked_add(secs)?.checked_add(time.next()??)?.checked_mul(1000)
}

// Howard Hinnant, "chrono-compatible low-level date algorithms".
fn civil(days: i64) -> (i64, i64, i64) {
    let z = days.saturating_add(719_468);
    let era = z.div_euclid(146_097);
    let of_era = z.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = year.clamp(-9_999, 99_999) - i64::from(month <= 2);
    let (month, day) = (month.clamp(1, 12), day.clamp(1, 31));
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let shifted = if month > 2 { month - 3 } else { month + 9 };
    let of_year = (153 * shifted + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_times() {
        for (secs, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_700_000_000, "2023-11-14T22:13:20Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(UnixMillis::from_secs(secs)), text);
            assert_eq!(parse_millis(text), Some(i64::try_from(secs).unwrap() * 1000));
        }
        assert_eq!(parse_millis(""), None);
        assert_eq!(parse_millis("x-y-zTa:b:cZ"), None);
    }
}
