//! Expected decisions, written down by an operator, and whether a policy makes them.

use crate::decision::Decision;
use crate::explain::{Explanation, qos};
use crate::model::Ruleset;
use crate::request::{Request, Verb};
use midge_identity::{IdError, SPIFFE_ID_BYTES_MAX, SpiffeId};
use midge_policy::LISTENERS;
use mqtt_proto::TopicName;
use serde::{Deserialize, Serialize};

/// One expected decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// Line of the file, from 1.
    pub line: usize,
    /// Who asks.
    pub id: SpiffeId,
    /// What for.
    pub request: Request,
    /// What should come of it, on each listener that the request may come by.
    pub expected: Expected,
    /// Name of the rule that should decide.
    pub rule: Option<String>,
}

/// What is expected of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Expected {
    /// That it is allowed; of a subscription at least in part.
    Allow,
    /// That a subscription is granted and brings every topic of its filter.
    AllowWhole,
    /// That a subscription is granted and brings less than that.
    AllowPart,
    /// That it is denied.
    Deny,
}

/// What came of one case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// Line of the file, from 1.
    pub line: usize,
    /// Whether the decision is the expected one.
    pub ok: bool,
    /// What was expected.
    pub expected: Expected,
    /// What was not expected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mismatch: Option<String>,
    /// The decision.
    pub explanation: Explanation,
}

/// A line that is no case.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {fault}")]
pub struct CaseError {
    /// Line of the file, from 1.
    pub line: usize,
    /// What is wrong and what to write instead.
    pub fault: String,
}

/// A case as it is written.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Written {
    expect: String,
    id: String,
    action: String,
    topic: Option<String>,
    filter: Option<String>,
    rule: Option<String>,
    #[serde(default)]
    qos: u8,
    #[serde(default)]
    retain: bool,
    #[serde(default)]
    payload: usize,
    response_topic: Option<String>,
    client_id: Option<String>,
    listener: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    case: Vec<toml::Spanned<Written>>,
}

impl Case {
    /// Reads cases: TOML with one `[[case]]` each, or a table with one case a line,
    /// `allow|allow-whole|allow-part|deny ID ACTION TOPIC [key=value …]`, where `#` begins a comment at the start of a line.
    ///
    /// # Errors
    /// Every line that is no case.
    pub fn read(text: &str, is_toml: bool) -> Result<Vec<Self>, Vec<CaseError>> {
        let (written, mut errors) = if is_toml { (read_toml(text)?, Vec::new()) } else { read_table(text) };
        let mut cases = Vec::with_capacity(written.len());
        for (line, written) in written {
            match written.case(line) {
                Ok(case) => cases.push(case),
                Err(fault) => errors.push(CaseError { line, fault }),
            }
        }
        errors.sort_by_key(|error| error.line);
        if errors.is_empty() { Ok(cases) } else { Err(errors) }
    }

    /// Holds the case against a policy.
    pub fn run(&self, rules: &Ruleset) -> Outcome {
        let explanation = Explanation::of(rules, &self.id, &self.request);
        let answer = &explanation.answer;
        let (expected, mut mismatch) = (self.expected, None);
        if !answer.decisions().all(|decision| expected.admits(decision)) {
            let got = if answer.by_listener.is_empty() {
                Expected::of(&answer.decision).name()
            } else {
                &answer.decision.reason
            };
            mismatch = Some(format!("expected {}, got {got}", expected.name()));
        } else if let Some(rule) = &self.rule
            && !answer.decisions().all(|decision| decision.rule.as_ref() == Some(rule))
        {
            let by = answer.decision.rule.as_deref().unwrap_or("no single rule");
            mismatch = Some(format!("expected rule {rule} to decide, got {by}"));
        }
        Outcome { line: self.line, ok: mismatch.is_none(), expected, mismatch, explanation }
    }
}

impl Expected {
    const ALL: [Self; 4] = [Self::Allow, Self::AllowWhole, Self::AllowPart, Self::Deny];

    /// Name in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::AllowWhole => "allow-whole",
            Self::AllowPart => "allow-part",
            Self::Deny => "deny",
        }
    }

    fn read(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|expected| expected.name() == text)
    }

    /// Returns what most exactly is to be expected of a decision.
    fn of(decision: &Decision) -> Self {
        match (decision.allowed, decision.in_part) {
            (false, _) => Self::Deny,
            (true, true) => Self::AllowPart,
            (true, false) if decision.extent.is_some() => Self::AllowWhole,
            (true, false) => Self::Allow,
        }
    }

    fn admits(self, decision: &Decision) -> bool {
        let is_part = decision.in_part;
        match self {
            Self::Allow => decision.allowed,
            Self::AllowWhole => decision.allowed && !is_part,
            Self::AllowPart => decision.allowed && is_part,
            Self::Deny => !decision.allowed,
        }
    }
}

fn read_toml(text: &str) -> Result<Vec<(usize, Written)>, Vec<CaseError>> {
    let line_of = |at: usize| text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1;
    match toml::from_str::<File>(text) {
        Ok(file) => {
            Ok(file.case.into_iter().map(|case| (line_of(case.span().start), case.into_inner())).collect())
        }
        Err(error) => {
            let line = line_of(error.span().map_or(0, |span| span.start));
            Err(vec![CaseError { line, fault: error.message().to_owned() }])
        }
    }
}

/// Returns the lines that may be cases, and the faults of the others.
fn read_table(text: &str) -> (Vec<(usize, Written)>, Vec<CaseError>) {
    let mut cases = Vec::new();
    let mut errors = Vec::new();
    for (line, row) in (1..).zip(text.lines()) {
        let words: Vec<&str> = row.split_whitespace().collect();
        match words.as_slice() {
            [] => {}
            [first, ..] if first.starts_with('#') => {}
            [expect, id, action, topic, more @ ..] => {
                let written = Written {
                    expect: (*expect).to_owned(),
                    id: (*id).to_owned(),
                    action: (*action).to_owned(),
                    topic: Some((*topic).to_owned()),
                    ..Written::default()
                };
                match more.iter().try_fold(written, |written, word| written.with(word)) {
                    Ok(written) => cases.push((line, written)),
                    Err(fault) => errors.push(CaseError { line, fault }),
                }
            }
            _ => {
                let fault = "write `allow|deny ID ACTION TOPIC [key=value …]`".to_owned();
                errors.push(CaseError { line, fault });
            }
        }
    }
    (cases, errors)
}

impl Written {
    fn with(mut self, word: &str) -> Result<Self, String> {
        let unknown = || {
            format!(
                "`{word}` is none of rule=, qos=, retain=, payload=, response-topic=, client-id=, listener= with a value"
            )
        };
        let (key, value) = word.split_once('=').ok_or_else(unknown)?;
        let text = || Some(value.to_owned());
        match key {
            "rule" => self.rule = text(),
            "response-topic" => self.response_topic = text(),
            "client-id" => self.client_id = text(),
            "listener" => self.listener = text(),
            "qos" => self.qos = value.parse().map_err(|_| unknown())?,
            "retain" => self.retain = value.parse().map_err(|_| unknown())?,
            "payload" => self.payload = value.parse().map_err(|_| unknown())?,
            _ => return Err(unknown()),
        }
        Ok(self)
    }

    fn case(self, line: usize) -> Result<Case, String> {
        let expected = Expected::read(&self.expect).ok_or_else(|| {
            let names = Expected::ALL.map(Expected::name).join(", ");
            format!("expected decision `{}` is none of {names}", self.expect)
        })?;
        if self.id.len() > SPIFFE_ID_BYTES_MAX {
            return Err(IdError::TooLong { bytes: self.id.len() }.to_string());
        }
        let id = SpiffeId::new(&self.id).map_err(|error| format!("id `{}`: {error}", self.id))?;
        let verb = Verb::read(&self.action).ok_or_else(|| {
            format!("action `{}` is none of publish, will, subscribe, receive", self.action)
        })?;
        if matches!(expected, Expected::AllowWhole | Expected::AllowPart) && verb != Verb::Subscribe {
            let remedy = "only a subscription is granted in part, write allow";
            return Err(format!("expected decision `{}` for {}: {remedy}", self.expect, self.action));
        }
        let ((Some(subject), None) | (None, Some(subject))) = (&self.topic, &self.filter) else {
            return Err("give one of topic and filter".into());
        };
        let request = Request::new(verb, subject).map_err(|error| format!("`{subject}`: {error}"))?;
        if let Some(name) = self.listener.as_ref().filter(|name| !LISTENERS.contains(&name.as_str())) {
            return Err(format!("listener `{name}` is none of {}", LISTENERS.join(", ")));
        }
        let reply = self.response_topic.as_ref().map(TopicName::new).transpose();
        let request = Request {
            qos: qos(self.qos).ok_or_else(|| format!("qos {}: must be 0, 1 or 2", self.qos))?,
            retain: self.retain,
            payload_len: self.payload,
            response_topic: reply.map_err(|error| format!("response-topic: {error}"))?,
            client_id: self.client_id,
            listener: self.listener,
            ..request
        };
        if let Some(why) = request.beside_the_point() {
            return Err(format!("{} `{subject}`: {why}", self.action));
        }
        Ok(Case { line, id, request, expected, rule: self.rule })
    }
}
