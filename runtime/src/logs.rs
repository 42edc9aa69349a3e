//! Logs on standard error: for people or as JSON lines.

use serde::{Deserialize, Serialize};
use std::io::{self, IsTerminal as _};
use thiserror::Error;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer, Registry, fmt};

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// One line of text, coloured on a terminal.
    #[default]
    Human,
    /// One JSON object a line, with the fields of the event and its spans.
    Json,
}

/// Why logging was not set up.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LogError {
    /// The filter does not parse.
    #[error(
        "log filter {filter:?} does not parse ({reason}); use a level such as info, or target=level pairs"
    )]
    Filter {
        /// What was given.
        filter: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Logging was set up before.
    #[error("logs are initialised already")]
    Again,
}

/// Sends what passes `filter` (such as `info,midge_broker=debug`) to standard error, for the whole process.
///
/// # Errors
/// Fails when the filter does not parse or logs were initialised before.
pub fn init(format: LogFormat, filter: &str) -> Result<(), LogError> {
    let filter = parse(filter)?;
    tracing_subscriber::registry()
        .with(lines(format, io::stderr).with_filter(filter))
        .try_init()
        .map_err(|_| LogError::Again)
}

/// Checks a filter as [`init`] reads it.
///
/// # Errors
/// Fails when the filter does not parse.
pub fn check(filter: &str) -> Result<(), LogError> {
    parse(filter).map(drop)
}

fn parse(filter: &str) -> Result<EnvFilter, LogError> {
    let wrong = |reason: String| LogError::Filter { filter: filter.to_owned(), reason };
    // The library takes a level that is misspelt for the name of a target, and all others are silent then.
    let is_level =
        |word: &str| word.is_empty() || word.contains(['=', '[', ']']) || word.parse::<LevelFilter>().is_ok();
    match filter.split(',').find(|word| !is_level(word)) {
        Some(word) => Err(wrong(format!("{word:?} is no level"))),
        None => EnvFilter::builder().parse(filter).map_err(|error| wrong(error.to_string())),
    }
}

fn lines<W>(format: LogFormat, writer: W) -> Box<dyn Layer<Registry> + Send + Sync>
where
    W: for<'a> fmt::MakeWriter<'a> + Send + Sync + 'static,
{
    match format {
        LogFormat::Human => fmt::layer().with_ansi(io::stderr().is_terminal()).with_writer(writer).boxed(),
        LogFormat::Json => fmt::layer().json().flatten_event(true).with_writer(writer).boxed(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;
    use std::io::Write;
    use std::sync::Arc;

    #[test]
    fn json_lines_carry_level_target_span_and_fields() {
        let text = logged(LogFormat::Json, "info");
        assert!(text.contains(r#""level":"WARN""#) && text.contains(r#""client_id":"press-7""#), "{text}");
        assert!(text.contains(r#""addr":"127.0.0.1""#) && text.contains(r#""message":"refused""#), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }

    #[test]
    fn human_lines_are_one_line_each_and_filtered() {
        let text = logged(LogFormat::Human, "debug");
        assert!(text.contains("WARN") && text.contains("refused client_id=\"press-7\""), "{text}");
        assert_eq!(text.lines().count(), 2, "{text}");
        assert_eq!(logged(LogFormat::Human, "off"), "");
    }

    #[test]
    fn a_line_break_in_a_field_cannot_forge_a_line() {
        for format in [LogFormat::Human, LogFormat::Json] {
            let buffer = Buffer::default();
            let subscriber = tracing_subscriber::registry().with(lines(format, buffer.clone()));
            tracing::subscriber::with_default(subscriber, || {
                tracing::info!(client_id = "a\n2026 ERROR forged", "connected");
            });
            assert_eq!(buffer.text().lines().count(), 1, "{}", buffer.text());
        }
    }

    #[test]
    fn a_bad_filter_says_what_is_right() {
        assert!(init(LogFormat::Human, "midge=loud").unwrap_err().to_string().contains("\"midge=loud\""));
        for (filter, wrong) in
            [("inof", "\"inof\" is no level"), ("info,midge_broker", "\"midge_broker\" is no level")]
        {
            assert!(check(filter).unwrap_err().to_string().contains(wrong), "{filter}");
        }
        for filter in ["info", "OFF", "warn,midge_broker=debug", "midge_agent[attest]=trace", "info,"] {
            check(filter).unwrap();
        }
    }

    fn logged(format: LogFormat, filter: &str) -> String {
        let buffer = Buffer::default();
        let layer = lines(format, buffer.clone()).with_filter(parse(filter).unwrap());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            let _listener = tracing::info_span!("listener", addr = "127.0.0.1").entered();
            tracing::warn!(client_id = "press-7", "refused");
            tracing::debug!("detail");
        });
        buffer.text()
    }

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Buffer {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().clone()).unwrap()
        }
    }

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl fmt::MakeWriter<'_> for Buffer {
        type Writer = Self;

        fn make_writer(&self) -> Self {
            self.clone()
        }
    }
}
