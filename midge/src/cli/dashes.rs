//! SPIRE writes `-spiffeID`, clap reads `--spiffeID`: which words of a command line are such flags.

use clap::{Arg, Command};
use std::ffi::OsString;

/// Gives flags with one dash the second one. What is a value stays as it is: the word after an option that takes
/// one, what a command takes as a value though it begins with a dash, and everything after `--`.
pub(super) fn two_dashes(words: impl IntoIterator<Item = OsString>, mut root: Command) -> Vec<OsString> {
    // Hands the options that hold everywhere to each command.
    root.build();
    let mut words = words.into_iter();
    let mut read: Vec<OsString> = words.next().into_iter().collect();
    let mut command = &root;
    while let Some(word) = words.next() {
        let text = word.to_str().unwrap_or_default();
        if text == "--" {
            read.push(word);
            break;
        }
        let flag = Flag::of(text, command);
        command = command.find_subcommand(text).unwrap_or(command);
        let takes_next = flag.as_ref().is_some_and(|flag| flag.takes_next);
        read.push(if flag.is_some_and(|flag| flag.lacks_a_dash) { format!("-{text}").into() } else { word });
        if takes_next {
            read.extend(words.next());
        }
    }
    read.extend(words);
    read
}

struct Flag {
    /// It is a name behind a single dash.
    lacks_a_dash: bool,
    /// The next word is its value.
    takes_next: bool,
}

impl Flag {
    fn of(text: &str, command: &Command) -> Option<Self> {
        let name = text.strip_prefix('-')?;
        let bare = name.strip_prefix('-');
        let (long, has_value) = bare
            .unwrap_or(name)
            .split_once('=')
            .map_or((bare.unwrap_or(name), false), |(long, _)| (long, true));
        let option = command.get_arguments().find(|option| is_called(option, long));
        if bare.is_some()
            || option.is_some()
            || (is_long(long) && !are_short(name, command) && !takes_dashes(command))
        {
            // One that nobody knows is told as the name it is meant to be.
            let takes_next = !has_value && option.is_some_and(takes_value);
            return Some(Self { lacks_a_dash: bare.is_none(), takes_next });
        }
        // `-m`, also behind others as in `-rm`; in `-q1` the value is there.
        let mut letters = name.chars();
        let option = letters.find_map(|letter| {
            command.get_arguments().find(|option| option.get_short() == Some(letter) && takes_value(option))
        });
        Some(Self { lacks_a_dash: false, takes_next: option.is_some() && letters.next().is_none() })
    }
}

fn is_called(option: &Arg, long: &str) -> bool {
    option.get_long() == Some(long) || option.get_all_aliases().is_some_and(|names| names.contains(&long))
}

fn takes_value(option: &Arg) -> bool {
    option.get_action().takes_values()
}

/// Whether these are short flags behind one dash, as in `-rm`.
fn are_short(letters: &str, command: &Command) -> bool {
    letters.chars().all(|letter| command.get_arguments().any(|option| option.get_short() == Some(letter)))
}

/// Whether the command has a value such as `-5` by its place.
fn takes_dashes(command: &Command) -> bool {
    command.get_positionals().any(Arg::is_allow_hyphen_values_set)
}

/// `-q1` is a short flag with its value, `-x509SVIDTTL` a name.
fn is_long(name: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(|c| c.is_ascii_alphabetic())
        && chars.any(|c| c.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command as Chosen, DeviceCommand, EntryCommand};
    use clap::{CommandFactory as _, Parser as _};

    fn dashed(line: &str) -> String {
        let words = line.split(' ').map(OsString::from);
        let words = two_dashes(words, Cli::command());
        words.iter().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    fn read(line: &str) -> Cli {
        Cli::try_parse_from(two_dashes(line.split(' ').map(OsString::from), Cli::command())).unwrap()
    }

    #[test]
    fn flags_may_be_written_as_spire_writes_them() {
        let cli = read(
            "midge -output json entry create -spiffeID spiffe://td/x -selector unix:uid:0 -x509SVIDTTL 60 -socketPath=/s",
        );
        assert_eq!(cli.socket.unwrap().to_str(), Some("/s"));
        let Chosen::Entry(EntryCommand::Create { fields, .. }) = cli.command else {
            panic!("{:?}", cli.command)
        };
        assert_eq!(fields.x509_svid_ttl, 60);
        assert_eq!(fields.selectors, ["unix:uid:0"]);
        assert_eq!(
            dashed("midge entry show -entry-id e -socket /s"),
            "midge entry show --entry-id e --socket /s"
        );
    }

    #[test]
    fn a_name_that_nobody_knows_is_told_as_a_name() {
        assert_eq!(dashed("midge entry create -spifeID x"), "midge entry create --spifeID x");
    }

    #[test]
    fn short_flags_stay_what_they_are() {
        for line in ["midge sub -q1 -C 5 -t/a", "midge pub -h", "midge - -5", "midge audit show -n 5"] {
            assert_eq!(dashed(line), line);
        }
    }

    #[test]
    fn values_stay_as_they_are() {
        let line = "midge pub -topic -m -message -retain -qos 1";
        assert_eq!(dashed(line), "midge pub --topic -m --message -retain --qos 1");
        for line in
            ["midge pub -t a -m -hello", "midge pub -rm -retain", "midge pub --message -topic -m=-topic"]
        {
            assert_eq!(dashed(line), line);
        }
        let Chosen::Pub(publish) = read("midge pub -t a -m -hello -retain").command else { panic!() };
        assert_eq!((publish.message.as_deref(), publish.retain), (Some("-hello"), true));
        use std::os::unix::ffi::OsStringExt as _;
        let no_text = OsString::from_vec(b"-publish\xff".to_vec());
        let words = ["midge".into(), "pub".into(), no_text];
        assert_eq!(two_dashes(words.clone(), Cli::command()), words);
    }

    #[test]
    fn a_desired_value_may_begin_with_a_dash() {
        for (line, wanted) in [
            ("midge device set d1 celsius -5", "-5"),
            ("midge device set d1 celsius -hot -node box-1", "-hot"),
            ("midge device set -node box-1 d1 celsius -- -node", "-node"),
            ("midge device set --node box-1 d1 celsius -- --node", "--node"),
        ] {
            let Chosen::Device(DeviceCommand::Set { name, value, .. }) = read(line).command else { panic!() };
            assert_eq!((name.device.as_str(), value.as_str()), ("d1", wanted), "{line}");
            assert_eq!(name.node.is_some(), line.contains("box-1"), "{line}");
        }
    }
}
