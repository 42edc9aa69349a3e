//! Alphabets, lengths and types of twin keys and values, and the state words.

const KEY_BYTES_MAX: usize = 128;
const VALUE_BYTES_MAX: usize = 512;

// `^[a-zA-Z0-9-_.,:/@#]{1,N}$`
fn is_twin_text(text: &str, max: usize) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.,:/@#".contains(&b);
    (1..=max).contains(&text.len()) && text.bytes().all(allowed)
}

pub(super) fn check_key(key: &str) -> Result<(), String> {
    if is_twin_text(key, KEY_BYTES_MAX) {
        return Ok(());
    }
    Err("The key of twin must only contain upper or lowercase letters, number, english, and special letter \
         - _ . , : / @ # and the length of key should be less than 128 bytes"
        .to_owned())
}

pub(super) fn check_value(value: &str, kind: &str) -> Result<(), String> {
    if !is_twin_text(value, VALUE_BYTES_MAX) {
        return Err(
            "The value of twin must only contain upper or lowercase letters, number, english, and special \
             letter - _ . , : / @ # and the length of value should be less than 512 bytes"
                .to_owned(),
        );
    }
    let fits = match kind {
        "int" | "integer" => value.parse::<i64>().is_ok(),
        "float" | "double" => value.parse::<f64>().is_ok(),
        "boolean" => matches!(value, "true" | "false"),
        _ => true,
    };
    if fits { Ok(()) } else { Err(format!("the value {value} is not of type {kind}")) }
}

/// The state a word names; others are ignored, as KubeEdge does.
pub(super) fn state_of(word: &str) -> Option<&'static str> {
    ["online", "offline", "ok", "unknown", "unhealthy"]
        .into_iter()
        .find(|state| state.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values_have_kubeedges_alphabet_and_lengths() {
        for good in ["a", "power-status", "a_b.c,d:e/f@g#h", &"k".repeat(128)] {
            assert!(check_key(good).is_ok(), "{good}");
        }
        for bad in ["", "a b", "ü", "a+b", "a\n", &"k".repeat(129)] {
            assert!(check_key(bad).is_err(), "{bad}");
        }
        assert!(check_value(&"v".repeat(512), "string").is_ok());
        for bad in ["", "a b", "\"", &"v".repeat(513)] {
            assert!(check_value(bad, "string").is_err(), "{bad}");
        }
    }

    #[test]
    fn values_fit_their_type() {
        for (value, kind, fits) in [
            ("12", "int", true),
            ("-1", "integer", true),
            ("1.5", "int", false),
            ("1.5", "float", true),
            ("x", "float", false),
            ("true", "boolean", true),
            ("yes", "boolean", false),
            ("yes", "", true),
            ("yes", "colour", true),
        ] {
            assert_eq!(check_value(value, kind).is_ok(), fits, "{value} {kind}");
        }
    }

    #[test]
    fn states_are_case_insensitive() {
        assert_eq!(state_of("ONLINE"), Some("online"));
        assert_eq!(state_of("unhealthy"), Some("unhealthy"));
        assert_eq!(state_of("on"), None);
    }
}
