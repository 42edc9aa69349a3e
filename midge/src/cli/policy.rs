//! `midge policy …`

use clap::builder::PossibleValuesParser;
use clap::{ArgGroup, Args, Subcommand};
use midge_policy::SubscribeMode;
use std::path::PathBuf;

/// Where rules are taken from.
#[derive(Debug, Args)]
pub(crate) struct Sources {
    /// Rules to look at: a policy file, a directory of them, the configuration of an edge, `built-in`,
    /// `none`, or `running` for what is in force at the edge behind --socketPath; may be given several
    /// times. Default: /etc/midge/edge.toml.
    #[arg(short = 'p', long = "policy", value_name = "SOURCE")]
    pub(crate) policy: Vec<String>,
}

/// By what a request is decided.
#[derive(Debug, Args)]
pub(crate) struct Deciding {
    #[command(flatten)]
    pub(crate) sources: Sources,
    /// What becomes of a subscription that is allowed in part, on every listener: reject, narrow or filter. Default: what
    /// the configuration of an edge or a running one says for each listener ([mqtt.subscribe-mode]), else reject.
    #[arg(long = "subscribe-mode", value_name = "MODE", value_parser = mode)]
    pub(crate) subscribe_mode: Option<SubscribeMode>,
}

fn mode(text: &str) -> Result<SubscribeMode, String> {
    let names = || SubscribeMode::ALL.map(SubscribeMode::name).join(", ");
    SubscribeMode::read(text).ok_or_else(|| format!("write one of {}", names()))
}

/// What a request is, apart from who, what and where.
#[derive(Debug, Args)]
pub(crate) struct Conditions {
    /// Quality of service.
    #[arg(short = 'q', long = "qos", value_name = "0|1|2", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub(crate) qos: u8,
    /// A retained publication.
    #[arg(short = 'r', long = "retain")]
    pub(crate) retain: bool,
    /// Length of the payload in bytes.
    #[arg(long = "payload", value_name = "BYTES", default_value_t = 0)]
    pub(crate) payload: usize,
    /// Response Topic that the publication names.
    #[arg(long = "response-topic", value_name = "TOPIC")]
    pub(crate) response_topic: Option<String>,
    /// Client id of the connection; without it no right counts that depends on it.
    #[arg(long = "client-id", value_name = "CLIENT-ID")]
    pub(crate) client_id: Option<String>,
    /// Listener of the connection; without it each is looked at, and told of where they decide differently.
    #[arg(long = "listener", value_name = "NAME", value_parser = PossibleValuesParser::new(midge_policy::LISTENERS))]
    pub(crate) listener: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Finds faults, rules without effect, and grants beyond a reference; exit code 1 when there are any.
    Check {
        /// Rules to check, as for --policy. Default: /etc/midge/edge.toml.
        sources: Vec<String>,
        /// Names every grant that goes beyond this policy.
        #[arg(long = "against", value_name = "SOURCE")]
        against: Option<String>,
        /// What becomes of subscriptions that are allowed in part, on every listener: reject, narrow or filter. Default:
        /// what the sources say; what modes make idle is found only where it is said.
        #[arg(long = "subscribe-mode", value_name = "MODE", value_parser = mode)]
        subscribe_mode: Option<SubscribeMode>,
        /// Counts notes as findings.
        #[arg(long = "strict")]
        strict: bool,
    },
    /// Tells whether an identity may do something, and why: every rule considered, with file and line.
    Explain {
        /// SPIFFE ID.
        id: String,
        /// publish, will, subscribe or receive.
        action: String,
        /// Topic name or filter.
        topic: String,
        #[command(flatten)]
        conditions: Conditions,
        #[command(flatten)]
        deciding: Deciding,
    },
    /// Tells whether an identity may do something; exit code 0 for yes, also where a subscription is granted in part, 1 for
    /// no, and where it is not yes on every listener.
    Can {
        /// SPIFFE ID.
        id: String,
        /// publish, will, subscribe or receive.
        action: String,
        /// Topic name or filter; to publish to a filter is to publish to every topic it matches.
        topic: String,
        #[command(flatten)]
        conditions: Conditions,
        #[command(flatten)]
        deciding: Deciding,
    },
    /// Lists who may do something, by id pattern and one by one; exit code 1 when nobody may. Without --listener and
    /// --client-id it lists who may on some connection, and on which listeners, where `can` asks for all of them.
    Who {
        /// publish, will, subscribe or receive.
        action: String,
        /// Topic name or filter.
        topic: String,
        /// File with one SPIFFE ID a line; with `--policy running`, those of entries and sessions as well.
        #[arg(long = "ids", value_name = "FILE")]
        ids: Option<PathBuf>,
        #[command(flatten)]
        conditions: Conditions,
        #[command(flatten)]
        deciding: Deciding,
    },
    /// Tells exactly which access a change of policy gives and takes.
    Diff {
        /// Rules before, as for --policy.
        old: String,
        /// Rules after.
        new: String,
        /// Only for this identity.
        #[arg(long = "spiffeID", visible_alias = "spiffe-id", value_name = "ID")]
        id: Option<String>,
        /// What became of subscriptions that are allowed in part, on every listener: reject, narrow or filter. Default:
        /// what OLD says, else what NEW says.
        #[arg(long = "old-subscribe-mode", value_name = "MODE", value_parser = mode)]
        old_mode: Option<SubscribeMode>,
        /// What becomes of them. Default: what NEW says, else what OLD says.
        #[arg(long = "new-subscribe-mode", value_name = "MODE", value_parser = mode)]
        new_mode: Option<SubscribeMode>,
        /// Ends with exit code 1 when access differs.
        #[arg(long = "exit-code")]
        exit_code: bool,
    },
    /// Holds expected decisions against the rules; exit code 1 when one is not as expected.
    Test {
        /// Cases: TOML (`*.toml`), or a table with one case a line.
        file: PathBuf,
        #[command(flatten)]
        deciding: Deciding,
    },
    /// Proposes least-privilege rules for what was seen, as a policy file; exit code 1 when they would
    /// have refused some of it.
    #[command(group = ArgGroup::new("seen").args(["from", "duration"]).required(true).multiple(true))]
    Learn {
        /// Observations: lines of JSON, or the audit log; may be given several times.
        #[arg(long = "from", value_name = "FILE")]
        from: Vec<PathBuf>,
        /// Watches the running edge behind --socketPath for so long: 90s, 10m, 2h, 1d.
        #[arg(long = "for", value_name = "DURATION")]
        duration: Option<String>,
        /// Keeps what was observed in this file too, for --from.
        #[arg(long = "save", value_name = "FILE", requires = "duration")]
        save: Option<PathBuf>,
        /// Counts what was denied as wanted.
        #[arg(long = "denied")]
        denied: bool,
        /// Gives each identity rules of its own instead of one rule for its kind.
        #[arg(long = "exact-ids")]
        exact_ids: bool,
        /// Most values of a topic level before `+` stands for all.
        #[arg(long = "values-max", value_name = "N", default_value_t = 8)]
        values_max: usize,
    },
    /// Has a running edge read its policy files now; exit code 78 when they are refused.
    Reload,
    /// Shows what the candidate policy of a running edge (policy.shadow) would decide otherwise.
    Shadow {
        /// Ends with exit code 1 when decisions differ.
        #[arg(long = "exit-code")]
        exit_code: bool,
    },
    /// Lists the rules in order of precedence with their sources.
    Rules {
        #[command(flatten)]
        sources: Sources,
    },
}
