//! SPIFFE IDs as they are allowed to arrive: canonical only.

use crate::{SpiffeId, SpiffeIdError, TrustDomain};
use thiserror::Error;

/// Longest SPIFFE ID that is accepted, in bytes. SPIFFE-ID §2.3
pub const SPIFFE_ID_BYTES_MAX: usize = 2048;

/// Why a text is not an acceptable SPIFFE ID.
#[derive(Clone, Debug, PartialEq, Error)]
#[non_exhaustive]
pub enum IdError {
    /// Breaks the grammar of SPIFFE-ID §2.
    #[error("'{text}' is not a SPIFFE ID: {reason}")]
    Grammar {
        /// What was given.
        text: String,
        /// What is wrong with it.
        reason: SpiffeIdError,
    },
    /// Would be valid after lower-casing scheme or trust domain.
    #[error("'{text}' is not in canonical form: write '{canonical}'")]
    NotCanonical {
        /// What was given.
        text: String,
        /// What it should be.
        canonical: String,
    },
    /// Longer than [`SPIFFE_ID_BYTES_MAX`].
    #[error("SPIFFE ID of {bytes} bytes is longer than 2048")]
    TooLong {
        /// Length in bytes.
        bytes: usize,
    },
}

/// Parses a SPIFFE ID and refuses every spelling but the canonical one.
///
/// Two spellings of one identity are two keys for whoever compares text (audit, foreign
/// policy, go-spiffe rejects upper case), so none but the lower-case one is let in.
///
/// # Errors
///
/// [`IdError`] when the text breaks the grammar, is too long, or is not canonical.
pub fn parse_spiffe_id(text: &str) -> Result<SpiffeId, IdError> {
    if text.len() > SPIFFE_ID_BYTES_MAX {
        return Err(IdError::TooLong { bytes: text.len() });
    }
    let id = SpiffeId::new(text)
        .map_err(|reason| IdError::Grammar { text: text.escape_debug().to_string(), reason })?;
    let canonical = id.to_string();
    // SPIFFE-ID §2.4: scheme and trust domain are case-insensitive; the crate lower-cases them.
    if canonical != text {
        return Err(IdError::NotCanonical { text: text.to_owned(), canonical });
    }
    Ok(id)
}

/// Returns the SPIFFE ID of a trust domain itself: `spiffe://<td>`, as CA certificates carry it.
pub fn trust_domain_id(trust_domain: &TrustDomain) -> String {
    format!("spiffe://{}", trust_domain.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn canonical_ids_are_accepted() {
        for text in
            ["spiffe://plant.example/edge/box-1/mapper/led_1", "spiffe://127.0.0.1/a", "spiffe://td/A/b.C"]
        {
            assert_eq!(parse_spiffe_id(text).unwrap().to_string(), text);
        }
        assert_eq!(parse_spiffe_id("spiffe://td").unwrap().path(), "");
    }

    // SPIFFE-ID §2, §2.1, §2.2
    #[test]
    fn ids_outside_the_grammar_are_refused() {
        for text in [
            "",
            "td/a",
            "https://td/a",
            "spiffe:///a",
            "spiffe://td/",
            "spiffe://td/a/",
            "spiffe://td//a",
            "spiffe://td/a/../b",
            "spiffe://td/./a",
            "spiffe://td/a%2fb",
            "spiffe://td/a?x=1",
            "spiffe://td/a#x",
            "spiffe://td/+",
            "spiffe://td/#",
            "spiffe://user@td/a",
            "spiffe://td:8883/a",
            "spiffe://t%64/a",
            "spiffe://td/é",
            "spiffe://td/a\0",
            "spiffe://td/a\n",
            " spiffe://td/a",
        ] {
            assert!(matches!(parse_spiffe_id(text), Err(IdError::Grammar { .. })), "{text:?}");
        }
    }

    // SPIFFE-ID §2.4
    #[test]
    fn upper_case_scheme_or_trust_domain_is_not_canonical() {
        for text in ["SPIFFE://td/a", "spiffe://TD/a", "Spiffe://Td/a"] {
            let error = parse_spiffe_id(text).unwrap_err();
            assert_eq!(
                error,
                IdError::NotCanonical { text: text.to_owned(), canonical: "spiffe://td/a".to_owned() }
            );
        }
    }

    // SPIFFE-ID §2.3
    #[test]
    fn length_is_limited_to_2048_bytes() {
        let prefix = "spiffe://td/";
        let longest = format!("{prefix}{}", "a".repeat(2048 - prefix.len()));
        assert!(parse_spiffe_id(&longest).is_ok());
        assert_eq!(parse_spiffe_id(&format!("{longest}a")), Err(IdError::TooLong { bytes: 2049 }));
        let domain = "d".repeat(255);
        assert!(parse_spiffe_id(&format!("spiffe://{domain}/a")).is_ok());
        assert!(parse_spiffe_id(&format!("spiffe://{domain}d/a")).is_err());
    }

    proptest! {
        #[test]
        fn what_is_accepted_has_one_spelling_and_plain_segments(text in "(spiffe://)?[a-zA-Z0-9./%:?#@_+-]{0,40}") {
            if let Ok(id) = parse_spiffe_id(&text) {
                prop_assert_eq!(id.to_string(), text);
                for segment in id.path().split('/').skip(1) {
                    prop_assert!(!segment.is_empty() && segment != "." && segment != "..");
                    prop_assert!(!segment.contains(['+', '#', '%']));
                }
            }
        }
    }
}
