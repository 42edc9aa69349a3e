//! `midge policy diff`: which access a change of the policy gives and takes, and which quotas and subscribe modes are not
//! as they were.

use crate::exit::{self, WithCode as _, failure};
use crate::output::{self, Output};
use midge_identity::SpiffeId;
use midge_policy_tools::{Change, Diff, Kind, ModeChange, QuotaChange, Ruleset};
use serde_json::json;

/// Exceptions that are listed for people; programs get all.
const EXCEPT_SHOWN: usize = 5;

/// Prints the difference; tells whether there is one.
pub(super) fn run(
    old: &Ruleset,
    new: &Ruleset,
    id: Option<&SpiffeId>,
    output: Output,
) -> anyhow::Result<bool> {
    let (kinds, quotas) = match id {
        None => {
            let diff = Diff::between(old, new).map_err(|error| {
                let dearest =
                    Diff::dearest(old, new).map(|dearest| format!("; {dearest}")).unwrap_or_default();
                failure(exit::INTERNAL, format!("{error}, or ask for one identity: --spiffeID ID{dearest}"))
            })?;
            (diff.kinds(), QuotaChange::between(old, new))
        }
        Some(id) => {
            let changes = Diff::for_identity(old, new, id).code(exit::INTERNAL)?;
            (one(id, changes), QuotaChange::for_identity(old, new, id))
        }
    };
    let modes = ModeChange::between(old, new);
    match output {
        Output::Json => output::json(&json!({ "modes": modes, "kinds": kinds, "quotas": quotas }))?,
        Output::Pretty => {
            for ModeChange { listener, old, new } in &modes {
                output::line(format_args!(
                    "subscribe-mode on {listener} = {} (was {})",
                    new.name(),
                    old.name()
                ));
            }
            if !modes.is_empty() {
                output::line("");
            }
            print(&kinds);
            print_quotas(&quotas);
        }
    }
    Ok(!(kinds.is_empty() && quotas.is_empty() && modes.is_empty()))
}

fn print_quotas(quotas: &[QuotaChange]) {
    let mut last = None;
    for change in quotas {
        let whom = (&change.id, &change.except);
        if last.replace(whom) != Some(whom) {
            output::line("");
            output::line(&change.id);
            change.except.iter().for_each(|except| output::line(format_args!("  except {except}")));
        }
        output::line(format_args!("  {change}"));
    }
}

fn one(id: &SpiffeId, changes: Vec<Change>) -> Vec<Kind> {
    let id = id.to_string();
    let kind = Kind { id: id.clone(), except: Vec::new(), example: id, changes };
    if kind.changes.is_empty() { Vec::new() } else { vec![kind] }
}

fn print(kinds: &[Kind]) {
    if kinds.is_empty() {
        return output::line("no access is gained or lost");
    }
    for (number, kind) in kinds.iter().enumerate() {
        if number > 0 {
            output::line("");
        }
        output::line(&kind.id);
        for except in kind.except.iter().take(EXCEPT_SHOWN) {
            output::line(format_args!("  except {except}"));
        }
        if kind.except.len() > EXCEPT_SHOWN {
            output::line(format_args!(
                "  and {} more (--output json lists all)",
                kind.except.len() - EXCEPT_SHOWN
            ));
        }
        for change in &kind.changes {
            output::line(format_args!("  {} {change}", if change.gained { '+' } else { '-' }));
            if kind.example == kind.id {
                output::line(format_args!("      such as {}", change.example));
            } else {
                output::line(format_args!("      such as {} by {}", change.example, kind.example));
            }
        }
    }
}
