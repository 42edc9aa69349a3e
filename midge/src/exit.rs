//! Exit codes, as documented in `docs/exit-codes.md` (the values of sysexits.h).

use crate::config::ConfigError;
use midge_broker::BindError;
use midge_issuer::IssueError;
use midge_pki::{FileError, KeyFileError};
use std::process::ExitCode;

/// Something the user must change in the call.
pub(crate) const USAGE: u8 = 64;
/// The answer is no: not found, not permitted by a rule, no identity.
pub(crate) const NO: u8 = 1;
/// Another program is needed and does not answer.
pub(crate) const UNAVAILABLE: u8 = 69;
/// A bug or an unexpected failure.
pub(crate) const INTERNAL: u8 = 70;
/// A file or disk cannot be used.
pub(crate) const IO: u8 = 74;
/// A file or socket may not be used as it is.
pub(crate) const PERMISSION: u8 = 77;
/// The configuration, or the data directory it names, cannot be used.
pub(crate) const CONFIG: u8 = 78;

/// An error with the exit code it ends in.
#[derive(Debug, thiserror::Error)]
#[error("{}", told(inner))]
pub(crate) struct Failure {
    pub(crate) code: u8,
    pub(crate) inner: anyhow::Error,
}

/// Gives an error its exit code.
pub(crate) trait WithCode<T> {
    fn code(self, code: u8) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> WithCode<T> for Result<T, E> {
    fn code(self, code: u8) -> anyhow::Result<T> {
        self.map_err(|source| Failure { code, inner: source.into() }.into())
    }
}

/// Returns an error with this text and exit code.
pub(crate) fn failure(code: u8, text: impl Into<String>) -> anyhow::Error {
    Failure { code, inner: anyhow::Error::msg(text.into()) }.into()
}

/// Prints the error and returns its exit code.
#[expect(clippy::print_stderr, reason = "where a command tells why it failed")]
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    eprintln!("midge: {}", crate::output::short(&told(error)));
    ExitCode::from(code_of(error))
}

/// Tells an error with its causes; many messages contain their cause already.
fn told(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !text.contains(&cause) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&cause);
        }
    }
    text
}

pub(crate) fn code_of(error: &anyhow::Error) -> u8 {
    for cause in error.chain() {
        if let Some(failure) = cause.downcast_ref::<Failure>() {
            return failure.code;
        }
        if cause.is::<ConfigError>() {
            return CONFIG;
        }
        if let Some(bind) = cause.downcast_ref::<BindError>() {
            return match bind {
                BindError::NotLoopback { .. } | BindError::NotASocket(_) => CONFIG,
                _ => UNAVAILABLE,
            };
        }
        if let Some(issue) = cause.downcast_ref::<IssueError>() {
            return issue_code(issue);
        }
    }
    INTERNAL
}

fn issue_code(error: &IssueError) -> u8 {
    match error {
        IssueError::Key(KeyFileError::File(FileError::TooOpen { .. })) => PERMISSION,
        IssueError::Key(_)
        | IssueError::RootKey { .. }
        | IssueError::Store(_)
        | IssueError::Record { .. } => IO,
        IssueError::NodeName { .. } => CONFIG,
        _ => INTERNAL,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_that_is_told_already_is_not_told_again() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot read x: {source}")]
        struct Unreadable {
            source: std::io::Error,
        }
        let error = || Unreadable { source: std::io::ErrorKind::PermissionDenied.into() };
        let failed = Err::<(), _>(error()).code(IO).unwrap_err();
        assert_eq!(told(&failed), "cannot read x: permission denied");
        let failed = Err::<(), _>(anyhow::Error::from(error()).context("no log")).code(IO).unwrap_err();
        assert_eq!(
            (told(&failed).as_str(), code_of(&failed)),
            ("no log: cannot read x: permission denied", IO)
        );
    }
}
