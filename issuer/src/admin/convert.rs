//! Between what admin services are asked and the server's types, with SPIRE's words for what does not fit.

use crate::IssueError;
use issuer_core::{AuthorityError, EntryError, FederationError, JoinError, Selector, SetMatch};
use midge_api::entries::selector_from_api;
use midge_api::spire::api::types;
use std::collections::BTreeSet;
use tonic::{Code, Status};

/// Reads a filter by selectors.
pub(super) fn selectors_from_api(
    by: Option<types::SelectorMatch>,
) -> Result<Option<(SetMatch, BTreeSet<Selector>)>, Status> {
    let Some(by) = by else { return Ok(None) };
    let malformed = |why: String| Status::invalid_argument(format!("malformed selectors filter: {why}"));
    let how =
        set_match(by.r#match).ok_or_else(|| malformed(format!("unknown match behavior {}", by.r#match)))?;
    let selectors: BTreeSet<Selector> = by.selectors.into_iter().map(selector_from_api).collect();
    if selectors.is_empty() {
        return Err(malformed("empty selector set".to_owned()));
    }
    for selector in &selectors {
        issuer_core::check_selector(selector).map_err(|error| malformed(error.to_string()))?;
    }
    Ok(Some((how, selectors)))
}

/// SPIRE's two match enums have the same numbers.
pub(super) fn set_match(number: i32) -> Option<SetMatch> {
    match number {
        0 => Some(SetMatch::Exact),
        1 => Some(SetMatch::Subset),
        2 => Some(SetMatch::Superset),
        3 => Some(SetMatch::Any),
        _ => None,
    }
}

pub(super) fn ok() -> types::Status {
    types::Status { code: Code::Ok as i32, message: "OK".to_owned() }
}

pub(super) fn item_status(code: Code, message: String) -> types::Status {
    types::Status { code: code as i32, message }
}

/// Says which code an error has, from the view of the caller.
pub(super) fn code_of(error: &IssueError) -> Code {
    match error {
        IssueError::Entry(error) => entry_code(error),
        IssueError::Join(JoinError::UnknownNode) => Code::NotFound,
        IssueError::Join(JoinError::Banned(_)) => Code::PermissionDenied,
        IssueError::Join(JoinError::TokenExists) => Code::AlreadyExists,
        IssueError::Join(JoinError::TooMany { .. }) => Code::ResourceExhausted,
        IssueError::Authority(AuthorityError::NoId) => Code::InvalidArgument,
        IssueError::Authority(AuthorityError::Unknown(_)) => Code::NotFound,
        IssueError::Authority(_) => Code::FailedPrecondition,
        IssueError::Federation(error) => federation_code(error),
        IssueError::Join(_)
        | IssueError::Id(_)
        | IssueError::Csr(_)
        | IssueError::CsrWithoutId
        | IssueError::CsrDnsName { .. }
        | IssueError::Ttl(_)
        | IssueError::NodeName { .. }
        | IssueError::NotABox(_) => Code::InvalidArgument,
        IssueError::Store(_) => Code::DataLoss,
        IssueError::NoAuthority(_) | IssueError::CaExpired(_) | IssueError::Stopping => Code::Unavailable,
        _ => Code::Internal,
    }
}

fn federation_code(error: &FederationError) -> Code {
    match error {
        FederationError::Exists => Code::AlreadyExists,
        FederationError::NotFound => Code::NotFound,
        FederationError::InUse(_) | FederationError::ManagedByCloud => Code::FailedPrecondition,
        FederationError::TooManyDomains => Code::ResourceExhausted,
        _ => Code::InvalidArgument,
    }
}

pub(super) fn entry_code(error: &EntryError) -> Code {
    match error {
        EntryError::Similar(_) => Code::AlreadyExists,
        EntryError::NotFound => Code::NotFound,
        EntryError::ManagedByCloud | EntryError::Builtin | EntryError::NoBundle { .. } => {
            Code::FailedPrecondition
        }
        EntryError::TooMany { what: "entries", .. } => Code::ResourceExhausted,
        _ => Code::InvalidArgument,
    }
}

/// Answers with SPIRE's form of a message: what was attempted, then why it failed.
pub(super) fn status(attempt: &str, error: &IssueError) -> Status {
    Status::new(code_of(error), format!("{attempt}: {error}"))
}
