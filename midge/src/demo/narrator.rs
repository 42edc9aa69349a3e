//! Tells what happens and keeps the score.

use crate::output::{self, Output};
use serde_json::json;
use std::io::{BufRead as _, IsTerminal as _};
use std::time::Instant;

/// Tells the story, as prose or as one JSON object a line.
pub(crate) struct Narrator {
    output: Output,
    wait_for_key: bool,
    colour: bool,
    started: Instant,
    step: Option<(u32, &'static str)>,
    step_held: bool,
    steps_held: u32,
    steps_played: u32,
}

/// Waits for the Enter key; false once there is nobody to press it.
#[expect(clippy::print_stderr, reason = "a prompt is for people, not part of the output")]
fn enter_pressed() -> bool {
    eprint!("    [Enter] ");
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).unwrap_or_default() > 0
}

impl Narrator {
    pub(crate) fn new(output: Output, wait_for_key: bool) -> Self {
        let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        let started = Instant::now();
        Self {
            output,
            wait_for_key,
            colour,
            started,
            step: None,
            step_held: true,
            steps_held: 0,
            steps_played: 0,
        }
    }

    /// Begins a step.
    pub(crate) fn step(&mut self, number: u32, title: &'static str) {
        self.end_step();
        self.step = Some((number, title));
        self.step_held = true;
        self.steps_played += 1;
        match self.output {
            Output::Json => self.event(&json!({ "step": number, "title": title })),
            Output::Pretty => {
                output::line("");
                output::line(self.paint("1", &format!("{number:>2}. {title}")));
            }
        }
        if self.wait_for_key {
            self.wait_for_key = enter_pressed();
        }
    }

    /// Shows a call of `midge` as an operator would type it, and by whom or where.
    pub(crate) fn call(&self, arguments: &[&str], remark: &str) {
        self.command(&format!("{}   # {remark}", typed(arguments)));
    }

    /// Shows a command as an operator would type it.
    pub(crate) fn command(&self, text: &str) {
        match self.output {
            Output::Json => self.event(&json!({ "command": text })),
            Output::Pretty => output::line(self.paint("2", &format!("    $ {text}"))),
        }
    }

    /// Says something that is not a check.
    pub(crate) fn note(&self, text: &str) {
        match self.output {
            Output::Json => self.event(&json!({ "note": text })),
            Output::Pretty => {
                for line in text.lines() {
                    output::line(format_args!("      {line}"));
                }
            }
        }
    }

    /// States a check and whether it held.
    pub(crate) fn check(&mut self, held: bool, what: &str, seen: &str) {
        self.step_held &= held;
        match self.output {
            Output::Json => {
                let step = self.step.map(|(number, _)| number);
                self.event(&json!({ "step": step, "check": what, "held": held, "seen": seen }));
            }
            Output::Pretty => {
                let mark = if held { self.paint("32", "✓") } else { self.paint("31;1", "✗") };
                let seen =
                    if seen.is_empty() { String::new() } else { self.paint("2", &format!(" — {seen}")) };
                output::line(format_args!("    {mark} {what}{seen}"));
            }
        }
    }

    /// Says that the play cannot go on.
    pub(crate) fn stumbled(&mut self, error: &anyhow::Error) {
        self.check(false, "the step can be played", &format!("{error:#}"));
    }

    /// Says the score and whether all held.
    pub(crate) fn finish(&mut self) -> bool {
        self.end_step();
        let secs = self.started.elapsed().as_secs_f64();
        let all = super::steps::COUNT;
        let held = self.steps_held == all;
        match self.output {
            Output::Json => self.event(&json!({ "held": self.steps_held, "of": all, "secs": secs })),
            Output::Pretty => {
                output::line("");
                let score = format!("{} of {all} steps held, {secs:.1} s", self.steps_held);
                output::line(self.paint(if held { "32;1" } else { "31;1" }, &score));
            }
        }
        held
    }

    fn end_step(&mut self) {
        if self.step.take().is_some() && self.step_held {
            self.steps_held += 1;
        }
    }

    fn event(&self, event: &serde_json::Value) {
        output::line(event);
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

/// Writes a call of `midge` for a shell: words in which a shell would see more are quoted.
fn typed(arguments: &[&str]) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-.,:/@%+=".contains(c);
    let word = |word: &&str| {
        if !word.is_empty() && word.chars().all(is_plain) {
            (*word).to_owned()
        } else {
            format!("'{}'", word.replace('\'', "'\\''"))
        }
    };
    let words: Vec<String> = arguments.iter().map(word).collect();
    format!("midge {}", words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::typed;

    #[test]
    fn a_command_can_be_typed_as_it_is_shown() {
        assert_eq!(typed(&["pub", "-t", "$hw/a", "-m", "{}"]), "midge pub -t '$hw/a' -m '{}'");
        assert_eq!(typed(&["sub", "-t", "#", "-C", "0", "it's", ""]), r"midge sub -t '#' -C 0 'it'\''s' ''");
    }
}
