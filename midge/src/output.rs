//! Tables for people, JSON for programs.

use clap::ValueEnum;
use serde::Serialize;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Tables and sentences.
    #[default]
    #[value(alias = "table")]
    Pretty,
    /// One JSON document, or one a line for streams.
    Json,
}

/// Longest word of an error, in characters.
const WORD_MAX: usize = 256;

/// Characters that are left of the end of a longer one.
const WORD_ENDS: usize = 16;

/// The command ends when nobody reads what it prints.
static ENDS_WITH_READER: AtomicBool = AtomicBool::new(false);

/// Nobody reads any more.
static IS_UNREAD: AtomicBool = AtomicBool::new(false);

/// Says that this command has nothing to do once nobody reads what it prints. All others go on to their end, for their exit
/// code is an answer as well: "no" must not become "yes" because somebody read its first line only.
pub(crate) fn end_with_reader() {
    ENDS_WITH_READER.store(true, Ordering::Relaxed);
}

/// Prints one line. A closed pipe is the reader's choice and no error of ours; on any other error the process ends here,
/// since whoever asked has no answer, whatever else is still to be said.
pub(crate) fn line(text: impl std::fmt::Display) {
    if IS_UNREAD.load(Ordering::Relaxed) {
        return;
    }
    let Err(error) = writeln!(std::io::stdout(), "{text}") else { return };
    let code = ended_by(&error);
    if code == 0 && !ENDS_WITH_READER.load(Ordering::Relaxed) {
        IS_UNREAD.store(true, Ordering::Relaxed);
    } else {
        std::process::exit(code.into());
    }
}

/// Says what an error of standard output ends in where the exit code says nothing else, and tells of it.
#[expect(clippy::print_stderr, reason = "standard output takes nothing")]
pub(crate) fn ended_by(error: &std::io::Error) -> u8 {
    if error.kind() == std::io::ErrorKind::BrokenPipe {
        return 0;
    }
    eprintln!("midge: cannot write to standard output: {error}");
    crate::exit::IO
}

/// Prints a value as one JSON document.
pub(crate) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    line(serde_json::to_string_pretty(value)?);
    Ok(())
}

/// Prints rows under headings, columns aligned.
pub(crate) fn table(headings: &[&str], rows: &[Vec<String>]) {
    let mut widths: Vec<usize> = headings.iter().map(|heading| heading.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    line(padded(headings.iter().copied(), &widths));
    for row in rows {
        line(padded(row.iter().map(String::as_str), &widths));
    }
}

/// Joins the cells of a row. Widths of formats end at 65,535, which the list of a thousand rules exceeds.
fn padded<'a>(cells: impl Iterator<Item = &'a str>, widths: &[usize]) -> String {
    let mut text = String::new();
    let mut owed = 0;
    for (cell, width) in cells.zip(widths) {
        text.extend(std::iter::repeat_n(' ', owed));
        text.push_str(cell);
        owed = width.saturating_sub(cell.chars().count()).saturating_add(2);
    }
    text.truncate(text.trim_end().len());
    text
}

/// Prints names and values, one a line, as SPIRE's commands do.
pub(crate) fn fields(fields: &[(&str, String)]) {
    let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    for (name, value) in fields.iter().filter(|(_, value)| !value.is_empty()) {
        line(format_args!("{name:<width$} : {value}"));
    }
}

/// Makes a text from elsewhere safe to print: it cannot write lines of its own, nor move the cursor.
pub(crate) fn plain(text: &str) -> String {
    let shown = |c: char| if c.is_control() { c.escape_debug().to_string() } else { c.to_string() };
    text.chars().map(shown).collect()
}

/// Makes an error with values from elsewhere safe to print, and shortens words that nobody could read: what is wrong
/// with a value of 70,000 bytes stands after it.
pub(crate) fn short(text: &str) -> String {
    fn shown(text: impl Iterator<Item = char>) -> String {
        let escaped = |c: char| c.is_control() && c != '\n';
        text.map(|c| if escaped(c) { c.escape_debug().to_string() } else { c.into() }).collect()
    }
    let word = |word: &str| {
        let count = word.chars().count();
        if count <= WORD_MAX {
            return shown(word.chars());
        }
        let (start, end) = (word.chars().take(WORD_MAX / 2), word.chars().skip(count - WORD_ENDS));
        format!("{}…({} bytes)…{}", shown(start), word.trim_end().len(), shown(end))
    };
    text.split_inclusive([' ', '\n']).map(word).collect()
}

/// Says a span of time the way people do: two units at most.
pub(crate) fn span(secs: u64) -> String {
    let units = [(86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")];
    let mut rest = secs;
    let mut said = Vec::new();
    for (unit, name) in units {
        if rest >= unit && said.len() < 2 {
            said.push(format!("{} {name}", rest / unit));
            rest %= unit;
        } else if !said.is_empty() {
            break;
        }
    }
    if said.is_empty() { "0 s".into() } else { said.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::{ended_by, padded, plain, short, span};

    #[test]
    fn cells_of_any_width_stand_under_each_other() {
        let wide = "x".repeat(70_000);
        assert_eq!(padded(["a", "é", ""].into_iter(), &[3, 2, 9]), "a    é");
        let line = padded([&*wide, "end"].into_iter(), &[70_001, 3]);
        assert_eq!((line.len(), line.split_once("   ")), (70_006, Some((&*wide, "end"))));
    }

    #[test]
    fn words_that_nobody_can_read_are_shortened() {
        assert_eq!(short("a b\nc\u{1b}[2J "), "a b\nc\\u{1b}[2J ");
        let text = short(&format!("rule `a`: \"{}\": too long", "ä".repeat(40_000)));
        assert!(text.starts_with("rule `a`: \"ää") && text.ends_with("ä\": too long"), "{text}");
        assert!(text.contains("…(80003 bytes)…") && text.chars().count() < 250, "{text}");
    }

    #[test]
    fn only_a_reader_who_has_enough_is_no_error() {
        assert_eq!(ended_by(&std::io::ErrorKind::BrokenPipe.into()), 0);
        assert_eq!(ended_by(&std::io::ErrorKind::StorageFull.into()), crate::exit::IO);
    }

    #[test]
    fn texts_from_elsewhere_stay_in_their_line() {
        assert_eq!(plain("a \"b\"\n\u{1b}[2J"), "a \"b\"\\n\\u{1b}[2J");
    }

    #[test]
    fn spans_read_like_speech() {
        assert_eq!(span(0), "0 s");
        assert_eq!(span(59), "59 s");
        assert_eq!(span(3_700), "1 h 1 min");
        assert_eq!(span(90 * 86_400), "90 d");
        assert_eq!(span(86_400 + 5), "1 d");
    }
}
