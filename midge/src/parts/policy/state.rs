//! What there is to say about the policy in force, for `status`, metrics and commands.

use midge_identity::UnixMillis;
use midge_policy::{PolicyError, SourceCounts, Sources};
use midge_policy_tools::Finding;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::watch;

/// Where rules come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    Files,
    Cloud,
    Entries,
    Shadow,
}

impl Origin {
    pub(crate) const ALL: [Self; 4] = [Self::Files, Self::Cloud, Self::Entries, Self::Shadow];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Files => "files",
            Self::Cloud => "cloud",
            Self::Entries => "entries",
            Self::Shadow => "shadow",
        }
    }
}

/// Why a change was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// File with line, or another source.
    pub(crate) place: String,
    pub(crate) rule: Option<String>,
    pub(crate) message: String,
}

impl Fault {
    pub(crate) fn new(place: impl fmt::Display, message: String) -> Self {
        Self { place: place.to_string(), rule: None, message }
    }
}

impl From<&PolicyError> for Fault {
    fn from(error: &PolicyError) -> Self {
        let rule = error.rule.as_deref().map(str::to_owned);
        Self { place: error.place.to_string(), rule, message: error.problem.to_string() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, rule, message } = self;
        let text = match rule {
            Some(rule) => format!("{place}: rule `{rule}`: {message}"),
            None => format!("{place}: {message}"),
        };
        // A rule from elsewhere must not write lines of its own into the log.
        let shown = |c: char| if c.is_control() { c.escape_debug().to_string() } else { c.to_string() };
        text.chars().try_for_each(|c| f.write_str(&shown(c)))
    }
}

/// Returns faults a line each.
pub(super) fn listed(faults: &[Fault]) -> String {
    faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// A change that was not put in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) at: UnixMillis,
    pub(crate) origin: Origin,
    pub(crate) faults: Vec<Fault>,
    /// Whether its source was corrected since.
    pub(crate) is_corrected: bool,
}

/// How many changes of one source were put in force, and how many refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    pub(crate) taken: u64,
    pub(crate) refused: u64,
}

/// What the rules in force do not do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Lint {
    /// It is being looked at.
    #[default]
    Unknown,
    /// There are too many rules to look at each beside the broker.
    TooMany(usize),
    Known(Arc<[Finding]>),
}

/// All there is to say.
#[derive(Clone, Debug, Default)]
pub(crate) struct PolicyState {
    pub(crate) epoch: u64,
    pub(crate) rules: usize,
    pub(crate) counts: SourceCounts,
    pub(crate) dir: Option<PathBuf>,
    pub(crate) shadow_dir: Option<PathBuf>,
    pub(crate) changes: [Changes; 4],
    /// When a change was put in force last: the start, if none was.
    pub(crate) taken_at: UnixMillis,
    /// The change that was refused last, of whatever source.
    pub(crate) refused: Option<Refused>,
    /// The last one of the candidate's files.
    pub(crate) shadow_refused: Option<Refused>,
    /// Counts how often files were read.
    pub(crate) loads: u64,
    /// Of the files of which load the lint is.
    pub(crate) linted: u64,
    pub(crate) lint: Lint,
}

impl PolicyState {
    pub(crate) fn changes_of(&self, origin: Origin) -> Changes {
        self.changes.get(origin as usize).copied().unwrap_or_default()
    }
}

/// Where it is kept. Cheap to clone.
#[derive(Clone)]
pub(super) struct State(Arc<watch::Sender<PolicyState>>);

impl State {
    pub(super) fn new(dirs: (Option<PathBuf>, Option<PathBuf>), now: UnixMillis) -> Self {
        let (dir, shadow_dir) = dirs;
        let state = PolicyState { dir, shadow_dir, taken_at: now, ..PolicyState::default() };
        Self(Arc::new(watch::Sender::new(state)))
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<PolicyState> {
        self.0.subscribe()
    }

    /// What was taken over at the start is no change; what was refused stays told.
    pub(super) fn start(&self, sources: &Sources) {
        self.0.send_modify(|state| state.changes.iter_mut().for_each(|changes| changes.taken = 0));
        self.in_force(sources);
    }

    pub(super) fn in_force(&self, sources: &Sources) {
        let policy = sources.policy();
        self.0.send_modify(|state| {
            (state.epoch, state.rules, state.counts) = (policy.epoch(), policy.rules(), sources.counts());
        });
    }

    pub(super) fn taken(&self, origin: Origin, at: UnixMillis) {
        self.0.send_modify(|state| {
            if let Some(changes) = state.changes.get_mut(origin as usize) {
                changes.taken += 1;
            }
            if origin != Origin::Shadow {
                state.taken_at = at;
            }
            for refused in [&mut state.refused, &mut state.shadow_refused].into_iter().flatten() {
                refused.is_corrected |= refused.origin == origin;
            }
        });
    }

    pub(super) fn refused(&self, origin: Origin, at: UnixMillis, faults: Vec<Fault>) {
        self.0.send_modify(|state| {
            if let Some(changes) = state.changes.get_mut(origin as usize) {
                changes.refused += 1;
            }
            let refused = Refused { at, origin, faults, is_corrected: false };
            if origin == Origin::Shadow {
                state.shadow_refused = Some(refused.clone());
            }
            state.refused = Some(refused);
        });
    }

    /// Counts that files were read; returns the count.
    pub(super) fn loaded(&self) -> u64 {
        self.0.send_modify(|state| state.loads += 1);
        self.0.borrow().loads
    }

    /// Keeps what the rules of a load do not do; tells whether it is something else than before.
    pub(super) fn linted(&self, load: u64, lint: Lint) -> bool {
        let mut differs = false;
        self.0.send_modify(|state| {
            differs = state.lint != lint;
            (state.linted, state.lint) = (load, lint);
        });
        differs
    }
}
