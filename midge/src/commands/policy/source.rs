//! Where the rules of a command come from.

use crate::cli::Deciding;
use crate::commands::admin::Admin;
use crate::config::{self, EdgeConfig, Role};
use crate::exit::{self, WithCode as _, failure};
use crate::parts::{active_policy, policy};
use anyhow::Context as _;
use midge_api::midge::v1::{ListSessionsRequest, ShowPolicyRequest};
use midge_api::spire::api::server::entry::v1::ListEntriesRequest;
use midge_identity::{IdError, SPIFFE_ID_BYTES_MAX, SpiffeId};
use midge_policy::{DEFAULT_POLICY, DEFAULT_POLICY_NAME, PolicyError, Rule, RuleSource, SubscribeMode};
use midge_policy_tools::{Modes, Ruleset};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;
use tokio::sync::oneshot;

/// Configuration that a box is installed with.
pub(super) const DEFAULT_CONFIG: &str = "/etc/midge/edge.toml";

/// How long a file that somebody named may keep the command waiting before it says so.
const SILENCE: Duration = Duration::from_secs(2);

/// Word for what is in force at a running edge.
pub(super) const RUNNING: &str = "running";
/// Word for no rules.
pub(super) const NONE: &str = "none";
/// Word for the rules of every box that has not turned them off.
const BUILT_IN: &str = "built-in";

/// Rules, or every fault of them.
pub(super) type Read = Result<Ruleset, Vec<PolicyError>>;

/// Rules with what becomes of subscriptions that they allow in part, where that is said.
pub(super) struct Source {
    pub(super) rules: Ruleset,
    said: Said,
}

/// What one source has.
struct Found {
    rules: Result<Vec<Rule>, Vec<PolicyError>>,
    modes: Said,
    /// Where they come from, the whole before its parts: files and directories without links, or a word.
    origins: Vec<PathBuf>,
}

/// What a source says of subscriptions that are allowed in part.
enum Said {
    /// Nothing: it has rules alone.
    Nothing,
    /// Something that this program does not know.
    Unknown,
    Modes(Modes),
}

impl Found {
    fn rules(rules: Result<Vec<Rule>, Vec<PolicyError>>, origins: Vec<PathBuf>) -> Self {
        Self { rules, modes: Said::Nothing, origins }
    }
}

/// Reads rules from several sources as one policy, and what they say of subscriptions that are allowed in part.
pub(super) async fn read(
    admin: &Admin,
    sources: &[String],
    mode: Option<SubscribeMode>,
) -> anyhow::Result<Result<Source, Vec<PolicyError>>> {
    let (rules, said) = joined(all(admin, sources).await?);
    let said = match mode {
        Some(mode) => Said::Modes(Modes::everywhere(mode)),
        None if rules.is_err() => Said::Nothing,
        None => together(said, "--subscribe-mode")?,
    };
    Ok(rules.map(|rules| Source { rules, said }))
}

/// Reads two policies that are compared. One that does not say what becomes of subscriptions in part is taken to have
/// what the other has: then rules alone are compared.
pub(super) async fn both_with_modes(
    admin: &Admin,
    (old, old_mode): (String, Option<SubscribeMode>),
    (new, new_mode): (String, Option<SubscribeMode>),
) -> anyhow::Result<(Ruleset, Ruleset)> {
    let old = read(admin, &[old], old_mode).await?.map_err(refused)?;
    let new = read(admin, &[new], new_mode).await?.map_err(refused)?;
    compared((old, old_mode.is_some()), (new, new_mode.is_some()))
}

/// Gives two policies the modes by which they are compared; `true` where an option gives them.
pub(super) fn compared(
    (old, old_given): (Source, bool),
    (new, new_given): (Source, bool),
) -> anyhow::Result<(Ruleset, Ruleset)> {
    for (given, other, name) in [(new_given, &old.said, "OLD"), (old_given, &new.said, "NEW")] {
        if given && matches!(other, Said::Nothing) {
            let option = format!("--{}-subscribe-mode", name.to_lowercase());
            let text = format!(
                "{name} does not say what becomes of subscriptions that are allowed in part, so there is nothing to \
                 compare with: add {option}"
            );
            return Err(failure(exit::USAGE, text));
        }
    }
    let modes = match (old.said, new.said) {
        (Said::Modes(old), Said::Modes(new)) => (old, new),
        (Said::Unknown, Said::Modes(_)) => return Err(unknown("--old-subscribe-mode")),
        (Said::Modes(_), Said::Unknown) => return Err(unknown("--new-subscribe-mode")),
        _ => (Modes::default(), Modes::default()),
    };
    Ok((old.rules.with_modes(modes.0), new.rules.with_modes(modes.1)))
}

impl Source {
    /// Returns what becomes of subscriptions that are allowed in part, where that is said.
    pub(super) fn modes(&self) -> Option<Modes> {
        match self.said {
            Said::Modes(modes) => Some(modes),
            Said::Nothing | Said::Unknown => None,
        }
    }
}

/// Says why a policy cannot be looked at.
pub(super) fn refused(faults: Vec<PolicyError>) -> anyhow::Error {
    failure(exit::CONFIG, listed(&faults))
}

/// Reads rules that must be without fault.
pub(super) async fn ruleset(admin: &Admin, sources: &[String]) -> anyhow::Result<Ruleset> {
    joined(all(admin, sources).await?).0.map_err(refused)
}

/// Reads rules that must be without fault, with what becomes of subscriptions that they allow in part.
pub(super) async fn deciding(admin: &Admin, deciding: &Deciding) -> anyhow::Result<Ruleset> {
    let (rules, said) = joined(all(admin, &deciding.sources.policy).await?);
    let rules = rules.map_err(refused)?;
    let modes = deciding.subscribe_mode.map_or_else(|| agreed(said), |mode| Ok(Modes::everywhere(mode)));
    Ok(rules.with_modes(modes?))
}

/// Returns what the sources say that say something.
fn agreed(said: Vec<Said>) -> anyhow::Result<Modes> {
    match together(said, "--subscribe-mode")? {
        Said::Modes(modes) => Ok(modes),
        Said::Nothing => Ok(Modes::default()),
        Said::Unknown => Err(unknown("--subscribe-mode")),
    }
}

/// Puts together what several sources say; `option` says it in their place.
fn together(said: Vec<Said>, option: &str) -> anyhow::Result<Said> {
    let mut together = Said::Nothing;
    for said in said {
        together = match (together, said) {
            (Said::Modes(one), Said::Modes(other)) if one != other => {
                let text = format!("the sources differ in [mqtt.subscribe-mode]: {}", remedy(option));
                return Err(failure(exit::CONFIG, text));
            }
            (known, Said::Nothing) | (known @ Said::Unknown, _) => known,
            (_, said) => said,
        };
    }
    Ok(together)
}

fn unknown(option: &str) -> anyhow::Error {
    let text = "the running edge is of another version and does not tell its subscribe modes";
    failure(exit::CONFIG, format!("{text}: {}", remedy(option)))
}

fn remedy(option: &str) -> String {
    format!("say what becomes of subscriptions that are allowed in part with {option}")
}

async fn all(admin: &Admin, sources: &[String]) -> anyhow::Result<Vec<Found>> {
    let default = [DEFAULT_CONFIG.to_owned()];
    let sources = if sources.is_empty() { default.as_slice() } else { sources };
    let mut all = Vec::new();
    let mut known: BTreeMap<PathBuf, &str> = BTreeMap::new();
    for source in sources {
        let found = one(admin, source).await?;
        // Else each of its rules would be said to have the name of another.
        if let Some((origin, other)) = found.origins.iter().find_map(|path| known.get_key_value(path)) {
            let text =
                format!("the rules of {} are named twice, as {other} and as {source}", origin.display());
            return Err(failure(exit::USAGE, format!("{text}: leave one away")));
        }
        known.extend(found.origins.iter().map(|origin| (origin.clone(), &**source)));
        all.push(found);
    }
    Ok(all)
}

/// Returns the path that a file or directory has under whichever name; the name where there is no such path, as of a pipe.
fn without_links(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

fn joined(all: Vec<Found>) -> (Read, Vec<Said>) {
    let (rules, said): (Vec<_>, Vec<_>) = all.into_iter().map(|found| (found.rules, found.modes)).unzip();
    (rules.into_iter().fold(Ok(Vec::new()), both).and_then(Ruleset::new), said)
}

fn listed(faults: &[PolicyError]) -> String {
    faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

async fn one(admin: &Admin, source: &str) -> anyhow::Result<Found> {
    match source {
        RUNNING => running(admin).await,
        BUILT_IN => {
            Ok(Found::rules(Rule::from_toml_str(DEFAULT_POLICY, DEFAULT_POLICY_NAME), vec![BUILT_IN.into()]))
        }
        NONE => Ok(Found::rules(Ok(Vec::new()), Vec::new())),
        path => {
            let path = Path::new(path);
            if !path.exists() {
                let remedy =
                    "name a policy file, a directory, an edge's configuration, running, built-in or none";
                let text = format!("there are no rules at \"{}\": {remedy}", path.display());
                return Err(failure(exit::CONFIG, text));
            }
            if path.is_dir() { directory(path).await } else { file(path).await }
        }
    }
}

/// Reads a file that has to be text. Somebody has named it, so it may be a pipe; for one that stays silent it says so, and
/// one that does not end is left.
pub(in crate::commands) fn text(path: &Path) -> anyhow::Result<String> {
    text_within(path, policy::BYTES_MAX)
}

/// Reads a file that has to be text of so many bytes at most.
pub(super) fn text_within(path: &Path, bytes_max: u64) -> anyhow::Result<String> {
    let (done, reading) = std::sync::mpsc::channel::<()>();
    let shown = path.display().to_string();
    std::thread::spawn(move || {
        if reading.recv_timeout(SILENCE) == Err(RecvTimeoutError::Timeout) {
            still_waiting(&shown);
        }
    });
    let mut bytes = Vec::new();
    let read = std::fs::File::open(path)
        .and_then(|file| file.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes));
    drop(done);
    if bytes.len() as u64 > bytes_max {
        let text = format!("{} has more than {bytes_max} bytes: name another file", path.display());
        return Err(failure(exit::CONFIG, text));
    }
    as_text(path, read.map(|_| bytes))
}

#[expect(clippy::print_stderr, reason = "nothing is wrong yet, and somebody waits")]
fn still_waiting(shown: &str) {
    eprintln!(
        "midge: still waiting for {shown}: a pipe to which nobody writes, or a file system that does not answer"
    );
}

fn as_text(path: &Path, bytes: std::io::Result<Vec<u8>>) -> anyhow::Result<String> {
    let shown = path.display();
    let bytes = bytes.with_context(|| format!("cannot read {shown}")).code(exit::IO)?;
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        failure(exit::CONFIG, format!("{shown} is no text: byte {at} is not UTF-8; name another file"))
    })
}

/// Reads the policy files of a directory. One without any is the wrong one: a check of it would find nothing.
async fn directory(path: &Path) -> anyhow::Result<Found> {
    let texts = texts(path, exit::IO).await?;
    if texts.is_empty() {
        let remedy = "name another directory, or `none` for no rules";
        return Err(failure(
            exit::CONFIG,
            format!("{} has no policy files (*.toml): {remedy}", path.display()),
        ));
    }
    Ok(Found::rules(rules_of(&texts), origins(path, &texts)))
}

fn origins(dir: &Path, texts: &[(PathBuf, String)]) -> Vec<PathBuf> {
    std::iter::once(dir).chain(texts.iter().map(|(path, _)| &**path)).map(without_links).collect()
}

/// Reads a policy file, or the policy of an edge's configuration.
async fn file(path: &Path) -> anyhow::Result<Found> {
    let text = text(path)?;
    let is_config =
        toml::from_str::<toml::Table>(&text).is_ok_and(|table| table.contains_key("trust-domain"));
    if !is_config {
        let rules = Rule::from_toml_str(&text, &path.display().to_string());
        return Ok(Found::rules(rules, vec![without_links(path)]));
    }
    if config::parse_any(path)? != Role::Edge {
        return Err(failure(
            exit::CONFIG,
            format!("{} configures no edge: only edges have a policy", path.display()),
        ));
    }
    let config: EdgeConfig = config::load(path)?;
    let (mut read, mut known) = (Ok(Vec::new()), vec![without_links(path)]);
    if let Some(dir) = &config.policy.dir {
        let texts = texts(dir, exit::CONFIG).await?;
        read = rules_of(&texts);
        known.extend(origins(dir, &texts));
    }
    if config.policy.builtin {
        read = both(Rule::from_toml_str(DEFAULT_POLICY, DEFAULT_POLICY_NAME), read);
        known.push(BUILT_IN.into());
    }
    let modes = Modes::by_name(|listener| config.mqtt.subscribe_mode.on(listener));
    Ok(Found { rules: read, modes: Said::Modes(modes), origins: known })
}

/// Reads the policy files of a directory as an edge does. One that cannot be listed ends with the exit code `unlisted`.
async fn texts(dir: &Path, unlisted: u8) -> anyhow::Result<Vec<(PathBuf, String)>> {
    let (done, read) = oneshot::channel();
    let owned = dir.to_owned();
    // No task of the runtime, whose end would wait for it.
    std::thread::spawn(move || drop(done.send(read_all(&owned, unlisted))));
    match tokio::time::timeout(policy::READ_WITHIN, read).await {
        Ok(Ok(texts)) => texts,
        _ => Err(failure(exit::IO, format!("{}: {}", dir.display(), policy::overdue(policy::READ_WITHIN)))),
    }
}

fn read_all(dir: &Path, unlisted: u8) -> anyhow::Result<Vec<(PathBuf, String)>> {
    let listed = policy::policy_files(dir)
        .with_context(|| format!("cannot read the policy directory {}", dir.display()))
        .code(unlisted)?;
    let (mut texts, mut room) = (Vec::new(), policy::BYTES_MAX);
    for path in listed {
        let text = as_text(&path, policy::read_regular(&path, room))?;
        room = room.saturating_sub(text.len() as u64);
        texts.push((path, text));
    }
    Ok(texts)
}

fn rules_of(texts: &[(PathBuf, String)]) -> Result<Vec<Rule>, Vec<PolicyError>> {
    let read = texts.iter().map(|(path, text)| Rule::from_toml_str(text, &path.display().to_string()));
    read.fold(Ok(Vec::new()), both)
}

fn both(
    one: Result<Vec<Rule>, Vec<PolicyError>>,
    other: Result<Vec<Rule>, Vec<PolicyError>>,
) -> Result<Vec<Rule>, Vec<PolicyError>> {
    match (one, other) {
        (Ok(one), Ok(other)) => Ok([one, other].concat()),
        (Err(one), Err(other)) => Err([one, other].concat()),
        (Err(faults), _) | (_, Err(faults)) => Err(faults),
    }
}

async fn running(admin: &Admin) -> anyhow::Result<Found> {
    let response = admin.midge().await?.show_policy(ShowPolicyRequest {}).await;
    let mut pages = response.map_err(|status| admin.error(&status))?.into_inner();
    let (mut rules, mut modes) = (Vec::new(), Said::Unknown);
    while let Some(page) = pages.message().await.map_err(|status| admin.error(&status))? {
        for rule in &page.rules {
            let read = active_policy::read(rule);
            rules.push(read.context("a rule of the running edge cannot be read").code(exit::INTERNAL)?);
        }
        // Every page says them.
        modes = active_policy::read_modes(&page.modes).map_or(Said::Unknown, Said::Modes);
    }
    let files: BTreeSet<PathBuf> = rules.iter().filter_map(file_of).collect();
    let origins = std::iter::once(RUNNING.into()).chain(files).collect();
    Ok(Found { rules: Ok(rules), modes, origins })
}

/// Returns where a running edge has a rule from, as other sources name it.
fn file_of(rule: &Rule) -> Option<PathBuf> {
    match &rule.source {
        RuleSource::File { file, .. } if **file == *DEFAULT_POLICY_NAME => Some(BUILT_IN.into()),
        RuleSource::File { file, .. } => Some(without_links(Path::new(&**file))),
        RuleSource::Entry | RuleSource::Cloud | RuleSource::Built => None,
    }
}

/// Returns the identities that a running edge knows: of entries and of sessions.
pub(super) async fn registered(admin: &Admin) -> anyhow::Result<BTreeSet<SpiffeId>> {
    let mut texts = Vec::new();
    let response = admin.midge().await?.list_sessions(ListSessionsRequest {}).await;
    let sessions = response.map_err(|status| admin.error(&status))?.into_inner().sessions;
    texts.extend(sessions.into_iter().map(|session| session.spiffe_id));
    let mut entries = admin.entries().await?;
    let mut page_token = String::new();
    loop {
        let request = ListEntriesRequest { page_size: 500, page_token, ..ListEntriesRequest::default() };
        let page = entries.list_entries(request).await.map_err(|status| admin.error(&status))?.into_inner();
        texts.extend(page.entries.iter().map(|entry| super::super::admin::id_text(entry.spiffe_id.as_ref())));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(texts.iter().filter_map(|text| SpiffeId::new(text).ok()).collect());
        }
    }
}

/// Reads a list of identities, one a line; `#` begins a comment. One without any is the wrong one: the answer would be
/// about nobody.
pub(super) fn listed_ids(path: &Path) -> anyhow::Result<BTreeSet<SpiffeId>> {
    let shown = path.display();
    let text = text(path)?;
    let (mut ids, mut faults) = (BTreeSet::new(), Vec::new());
    let lines = (1..).zip(text.lines().map(str::trim));
    for (line, text) in lines.filter(|(_, text)| !text.is_empty() && !text.starts_with('#')) {
        match identity(text) {
            Ok(id) => drop(ids.insert(id)),
            Err(fault) => faults.push(format!("{shown}:{line}: {fault}")),
        }
    }
    if ids.is_empty() && faults.is_empty() {
        faults.push(format!("{shown} has no identities: write one SPIFFE ID a line, or leave --ids away"));
    }
    if faults.is_empty() { Ok(ids) } else { Err(failure(exit::CONFIG, faults.join("\n"))) }
}

fn identity(text: &str) -> Result<SpiffeId, String> {
    if text.len() > SPIFFE_ID_BYTES_MAX {
        return Err(IdError::TooLong { bytes: text.len() }.to_string());
    }
    SpiffeId::new(text).map_err(|error| format!("\"{text}\" is not a SPIFFE ID: {error}"))
}
