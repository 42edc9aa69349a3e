//! The command line. Flags have SPIRE's names where SPIRE has the command, with one dash or two.

mod dashes;
mod policy;

pub(crate) use policy::{Conditions, Deciding, PolicyCommand};

use crate::output::Output;
use clap::{Args, CommandFactory as _, Parser, Subcommand};
use std::path::PathBuf;

/// Parses the arguments of the process; prints help or the usage error and exits.
pub(crate) fn parse() -> Cli {
    match Cli::try_parse_from(dashes::two_dashes(std::env::args_os(), Cli::command())) {
        Ok(cli) => cli,
        Err(error) => {
            let code = match error.print() {
                _ if error.use_stderr() => crate::exit::USAGE,
                Err(unwritten) => crate::output::ended_by(&unwritten),
                Ok(()) => 0,
            };
            std::process::exit(code.into())
        }
    }
}

/// MQTT broker and SPIFFE identity server for the edge.
#[derive(Debug, Parser)]
#[command(name = "midge", version, subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// How results are printed.
    #[arg(long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) output: Output,
    /// Admin socket of the edge or cloud to talk to; default: that of MIDGE_SOCKET, else
    /// /var/lib/midge/run/admin.sock.
    // Not read from the environment here: a variable would count as an argument, and `midge` alone show no help.
    #[arg(long = "socketPath", visible_alias = "socket", global = true, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Runs the edge: MQTT broker, identity server, agent, event-bus.
    Edge(ConfigFile),
    /// Runs the cloud: root CA, nodes, entries, devices.
    Cloud(ConfigFile),
    /// Runs a Workload API agent in a process of its own, beside an edge on the same host.
    Agent(ConfigFile),
    /// Plays the main job end to end on this machine and checks every step.
    Demo(DemoArgs),
    /// Manages registration entries.
    #[command(subcommand)]
    Entry(EntryCommand),
    /// Manages join tokens.
    #[command(subcommand)]
    Token(TokenCommand),
    /// Shows the trust bundle, and sets and deletes those of other trust domains.
    #[command(subcommand)]
    Bundle(BundleCommand),
    /// Shows and replaces the CA of a cloud or of a box without one, and ends trust in old ones.
    #[command(subcommand, name = "localauthority")]
    LocalAuthority(LocalAuthorityCommand),
    /// Fetches or mints X.509-SVIDs.
    #[command(subcommand)]
    Svid(SvidCommand),
    /// Lists and ends MQTT sessions.
    #[command(subcommand)]
    Session(SessionCommand),
    /// Shows, bans and deletes the boxes that have joined a cloud; bans agents of their own beside a box.
    #[command(subcommand)]
    Node(NodeCommand),
    /// Manages devices and their twins.
    #[command(subcommand)]
    Device(DeviceCommand),
    /// Shows what applications on nodes have uploaded (at the cloud).
    #[command(subcommand)]
    Event(EventCommand),
    /// Checks, explains and compares policies, on files or at a running edge.
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Manages rules that the cloud hands to its edges.
    #[command(subcommand)]
    Rule(RuleCommand),
    /// Shows, follows, verifies and exports the audit log, from its files.
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Shows the state of an edge or cloud; exit code 1 when it is degraded.
    Status,
    /// Publishes a message with the identity of this process.
    Pub(PubArgs),
    /// Subscribes with the identity of this process and prints what comes.
    Sub(SubArgs),
    /// Checks a configuration file and prints every problem with its key.
    Check(ConfigFile),
    /// Runs the light mapper.
    #[command(hide = true)]
    LightMapper(LightArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ConfigFile {
    /// Configuration file (TOML); see conf/.
    #[arg(short = 'c', long = "config", value_name = "FILE")]
    pub(crate) config: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Leaves everything running at the end and prints how to connect.
    #[arg(long)]
    pub(crate) keep: bool,
    /// Waits for a key before each step.
    #[arg(long)]
    pub(crate) step: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum EntryCommand {
    /// Creates an entry.
    Create {
        /// Entry ID; default: a random one.
        #[arg(
            long = "newEntryID",
            visible_aliases = ["new-entry-id", "entryID", "entry-id"],
            value_name = "ID"
        )]
        id: Option<String>,
        #[command(flatten)]
        fields: EntryFields,
    },
    /// Shows entries, all or those that match.
    Show(EntrySelection),
    /// Replaces all fields of an entry by those given.
    Update {
        /// Entry to update.
        #[arg(long = "entryID", visible_alias = "entry-id", value_name = "ID")]
        entry_id: String,
        #[command(flatten)]
        fields: EntryFields,
    },
    /// Deletes an entry; its sessions are cut at once.
    Delete {
        /// Entry to delete.
        #[arg(long = "entryID", visible_alias = "entry-id", value_name = "ID")]
        entry_id: String,
    },
    /// Counts entries.
    Count,
}

#[derive(Debug, Args)]
pub(crate) struct EntryFields {
    /// Identity that matching workloads get.
    #[arg(long = "spiffeID", visible_alias = "spiffe-id", value_name = "ID")]
    pub(crate) spiffe_id: String,
    /// Node that serves the entry; default: the edge this command talks to.
    #[arg(long = "parentID", visible_alias = "parent-id", value_name = "ID")]
    pub(crate) parent_id: Option<String>,
    /// Selector such as unix:uid:1000; may be given several times, all must hold.
    #[arg(long = "selector", value_name = "TYPE:VALUE", required = true)]
    pub(crate) selectors: Vec<String>,
    /// Topic filter the identity may publish to; may be given several times.
    #[arg(long = "publish", value_name = "FILTER")]
    pub(crate) publish: Vec<String>,
    /// Topic filter the identity may subscribe to; may be given several times.
    #[arg(long = "subscribe", value_name = "FILTER")]
    pub(crate) subscribe: Vec<String>,
    /// Lifetime of X.509-SVIDs in seconds; 0 means the server's default.
    #[arg(long = "x509SVIDTTL", visible_alias = "x509-svid-ttl", value_name = "SECS", default_value_t = 0)]
    pub(crate) x509_svid_ttl: i32,
    /// Other trust domain whose bundle the workload gets too, such as spiffe://other.org; may be given several times.
    #[arg(long = "federatesWith", visible_alias = "federates-with", value_name = "ID")]
    pub(crate) federates_with: Vec<String>,
    /// DNS name for the SVID; may be given several times.
    #[arg(long = "dns", value_name = "NAME")]
    pub(crate) dns: Vec<String>,
    /// Hint that tells SVIDs of one workload apart.
    #[arg(long = "hint", value_name = "TEXT", default_value = "")]
    pub(crate) hint: String,
    /// Kept for SPIRE's tools, without effect here: who may open the admin socket may call it.
    #[arg(long = "admin")]
    pub(crate) admin: bool,
    /// Kept for SPIRE's tools, without effect here: a box gets its CA by joining.
    #[arg(long = "downstream")]
    pub(crate) downstream: bool,
    /// When the entry ends, in seconds since the epoch; 0 means never.
    #[arg(long = "entryExpiry", visible_alias = "entry-expiry", value_name = "TIME", default_value_t = 0)]
    pub(crate) expires_at: i64,
}

#[derive(Debug, Args)]
pub(crate) struct EntrySelection {
    /// Only this entry.
    #[arg(long = "entryID", visible_alias = "entry-id", value_name = "ID")]
    pub(crate) entry_id: Option<String>,
    /// Only entries with this identity.
    #[arg(long = "spiffeID", visible_alias = "spiffe-id", value_name = "ID")]
    pub(crate) spiffe_id: Option<String>,
    /// Only entries of this node.
    #[arg(long = "parentID", visible_alias = "parent-id", value_name = "ID")]
    pub(crate) parent_id: Option<String>,
    /// Only entries that federate with this trust domain; may be given several times, all must hold.
    #[arg(long = "federatesWith", visible_alias = "federates-with", value_name = "ID")]
    pub(crate) federates_with: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Generates a join token: a node's one-time ticket.
    Generate {
        /// Identity of the node, such as spiffe://plant.example/edge/box-1.
        #[arg(long = "spiffeID", visible_alias = "spiffe-id", value_name = "ID")]
        spiffe_id: String,
        /// Lifetime in seconds.
        #[arg(long = "ttl", value_name = "SECS", default_value_t = 600)]
        ttl: i32,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum BundleCommand {
    /// Prints the roots of the trust domain.
    Show {
        /// pem, or spiffe for a SPIFFE bundle document.
        #[arg(long = "format", value_enum, default_value_t, value_name = "FORMAT")]
        format: BundleFormat,
    },
    /// Prints the roots of other trust domains.
    List {
        /// Only of this trust domain, such as spiffe://other.org.
        #[arg(long = "id", value_name = "ID")]
        id: Option<String>,
        /// pem, or spiffe for SPIFFE bundle documents.
        #[arg(long = "format", value_enum, default_value_t, value_name = "FORMAT")]
        format: BundleFormat,
    },
    /// Sets the roots of another trust domain, in place of those it has here.
    Set {
        /// The trust domain, such as spiffe://other.org.
        #[arg(long = "id", value_name = "ID")]
        id: String,
        /// File with the roots; default: standard input.
        #[arg(long = "path", value_name = "FILE")]
        path: Option<PathBuf>,
        /// pem, or spiffe for a SPIFFE bundle document.
        #[arg(long = "format", value_enum, default_value_t, value_name = "FORMAT")]
        format: BundleFormat,
    },
    /// Deletes the roots of another trust domain; sessions of its identities are cut at once.
    Delete {
        /// The trust domain, such as spiffe://other.org.
        #[arg(long = "id", value_name = "ID")]
        id: String,
        /// What becomes of entries that federate with it: restrict keeps the bundle while there are any, dissociate
        /// takes it from them, delete deletes them.
        #[arg(long = "mode", value_enum, default_value_t, value_name = "MODE")]
        mode: BundleDeletion,
    },
    /// Counts bundles, that of the own trust domain among them.
    Count,
}

#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
pub(crate) enum BundleDeletion {
    #[default]
    Restrict,
    Delete,
    Dissociate,
}

#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
pub(crate) enum BundleFormat {
    #[default]
    Pem,
    Spiffe,
}

#[derive(Debug, Subcommand)]
pub(crate) enum LocalAuthorityCommand {
    /// Manages the X.509 authorities: prepare, activate, taint, revoke, in this order.
    #[command(subcommand)]
    X509(X509AuthorityCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum X509AuthorityCommand {
    /// Lists the authorities: the active one, the prepared one, and older ones that are still trusted.
    Show,
    /// Makes the next authority and publishes its root.
    Prepare,
    /// Lets the prepared authority sign from now on.
    Activate(AuthorityId),
    /// Ends what an old authority signed: sessions by it are cut, its SVIDs and the CAs of boxes are renewed at once.
    Taint(AuthorityId),
    /// Takes a tainted authority out of the bundle. Whoever has not renewed by then has to join anew.
    Revoke(AuthorityId),
}

#[derive(Debug, Args)]
pub(crate) struct AuthorityId {
    /// ID of the authority, as `show` prints it.
    #[arg(long = "authorityID", visible_alias = "authority-id", value_name = "ID")]
    pub(crate) authority_id: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SvidCommand {
    /// Fetches the SVID of this process from the Workload API.
    Fetch {
        /// Workload API socket, such as unix:///var/lib/midge/run/workload.sock.
        /// Default: that of SPIFFE_ENDPOINT_SOCKET, else the edge's.
        #[arg(long = "workload-api", value_name = "URI")]
        workload_api: Option<String>,
        /// Writes svid.pem, svid.key and bundle.pem there and keeps them fresh.
        #[arg(long = "write", value_name = "DIR")]
        write: Option<PathBuf>,
        /// Writes the SVID of this SPIFFE ID or hint; default: the first of those it gets.
        #[arg(long = "spiffeID", visible_alias = "spiffe-id", value_name = "ID", requires = "write")]
        spiffe_id: Option<String>,
        /// Runs this command (sh -c) after each write.
        #[arg(long = "on-renew", value_name = "CMD", requires = "write")]
        on_renew: Option<String>,
        /// Waits for an identity instead of failing when there is none yet.
        #[arg(long = "wait")]
        wait: bool,
        /// Ends after the first write.
        #[arg(long = "once", requires = "write")]
        once: bool,
    },
    /// Mints an SVID for any identity through the admin socket.
    Mint {
        /// Identity to mint for.
        #[arg(long = "spiffeID", visible_alias = "spiffe-id", value_name = "ID")]
        spiffe_id: String,
        /// Lifetime in seconds; 0 means the server's default.
        #[arg(long = "ttl", value_name = "SECS", default_value_t = 0)]
        ttl: i32,
        /// DNS name for the SVID; may be given several times.
        #[arg(long = "dns", value_name = "NAME")]
        dns: Vec<String>,
        /// Writes svid.pem, svid.key and bundle.pem there instead of printing them.
        #[arg(long = "write", value_name = "DIR")]
        write: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum SessionCommand {
    /// Lists sessions with identity, client id and queue.
    List,
    /// Ends a session with its connection, subscriptions and queue; a client that may connect again gets a new one.
    End {
        /// SPIFFE ID of the session.
        #[arg(value_name = "SPIFFE_ID")]
        spiffe_id: String,
        /// MQTT client id of the session.
        #[arg(value_name = "CLIENT_ID", allow_hyphen_values = true)]
        client_id: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// Lists nodes with the state of their link and the end of their CA.
    List,
    /// Shows one node.
    Show {
        /// Name or SPIFFE ID of the node.
        node: String,
    },
    /// Locks a node out at once: a box that is lost or stolen, or at a box an agent in a process of its own.
    Ban {
        /// Name or SPIFFE ID of the node; of an agent its SPIFFE ID.
        node: String,
    },
    /// Forgets a node, banned or not, so that it can join with a new token.
    Delete {
        /// Name or SPIFFE ID of the node.
        node: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct DeviceName {
    /// Device, such as led-light-instance-01.
    pub(crate) device: String,
    /// Node of the device (at the cloud).
    #[arg(long, value_name = "NODE")]
    pub(crate) node: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DeviceCommand {
    /// Creates a device on a node.
    Create {
        #[command(flatten)]
        name: DeviceName,
        /// Text for people.
        #[arg(long, value_name = "TEXT", default_value = "")]
        description: String,
        /// Twin property with its first desired value; may be given several times.
        #[arg(long = "property", value_name = "NAME=VALUE")]
        properties: Vec<String>,
    },
    /// Lists devices.
    List {
        /// Only devices of this node (at the cloud).
        #[arg(long, value_name = "NODE")]
        node: Option<String>,
    },
    /// Sets the desired value of a twin property.
    Set {
        #[command(flatten)]
        name: DeviceName,
        /// Twin property.
        property: String,
        /// Desired value; it may begin with a dash.
        #[arg(allow_hyphen_values = true)]
        value: String,
        /// Adds the property if the device has none of that name.
        #[arg(long = "new")]
        is_new: bool,
    },
    /// Deletes a device with its twin.
    Delete(DeviceName),
    /// Shows a device and its twin.
    Show(DeviceName),
}

#[derive(Debug, Subcommand)]
pub(crate) enum EventCommand {
    /// Lists what a node has uploaded, oldest first: the newest 10,000, of at most 16 MiB.
    List {
        /// Name of the node.
        #[arg(long, value_name = "NODE")]
        node: String,
        /// Only what came after the event with this ID.
        #[arg(long, value_name = "ID")]
        since: Option<String>,
        /// Goes on with what comes, until it is stopped. With `--output json` each event is a line.
        #[arg(long)]
        follow: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum RuleCommand {
    /// Hands the rules of a policy file to a node, or to all.
    Apply {
        /// Policy file (TOML).
        file: PathBuf,
        /// Node; default: all.
        #[arg(long, value_name = "NODE")]
        node: Option<String>,
    },
    /// Lists the rules handed out.
    List,
    /// Takes a rule back.
    Delete {
        /// Name of the rule.
        name: String,
        /// Node; default: all.
        #[arg(long, value_name = "NODE")]
        node: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Shows records, oldest first.
    Show {
        #[command(flatten)]
        place: AuditPlace,
        #[command(flatten)]
        filter: AuditFilter,
        /// Only the last so many.
        #[arg(short = 'n', long = "last", value_name = "N")]
        last: Option<usize>,
    },
    /// Shows records as they are written, until it is stopped; with --since also those before.
    Follow {
        #[command(flatten)]
        place: AuditPlace,
        #[command(flatten)]
        filter: AuditFilter,
    },
    /// Verifies chain and signatures and says where something is wrong; exit code 1 then.
    Verify {
        #[command(flatten)]
        place: AuditPlace,
        /// Fingerprint of the key that must have signed, as `midge status` shows it; may be given several times.
        /// Default: the key in the data directory, where it can be read.
        #[arg(long = "key", value_name = "SHA256")]
        keys: Vec<String>,
        /// Files of a log, in order, or an export; default: the whole log of the data directory.
        #[arg(value_name = "FILE", conflicts_with_all = ["dir", "node", "branch"])]
        files: Vec<PathBuf>,
    },
    /// Takes note of what was found wrong with a node's log at its cloud; `midge status` tells of it no more.
    Accept {
        /// Name of the node.
        node: String,
    },
    /// Writes a part of the log that can be verified elsewhere.
    Export {
        #[command(flatten)]
        place: AuditPlace,
        /// Begins with the file of this time: 10m, 2h, 1d (ago), or 2026-01-31T23:59:59Z.
        #[arg(long, value_name = "TIME")]
        since: Option<String>,
        /// Ends with the first checkpoint after this time.
        #[arg(long, value_name = "TIME")]
        until: Option<String>,
        /// New file; default: standard output.
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct AuditPlace {
    /// Data directory; default: that of the edge or cloud on the admin socket, or /var/lib/midge where no socket is
    /// named and no edge runs.
    #[arg(long = "dir", value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// At a cloud: the log of this node, as it has arrived.
    #[arg(long = "node", value_name = "NODE")]
    pub(crate) node: Option<String>,
    /// Of the node's log this branch: another begins when a log contradicts what had arrived before. Default: the newest;
    /// verify takes all.
    #[arg(long = "branch", value_name = "N", requires = "node")]
    pub(crate) branch: Option<u32>,
}

#[derive(Debug, Args)]
pub(crate) struct AuditFilter {
    /// Only since: 10m, 2h, 1d (ago), or a time such as 2026-01-31T23:59:59Z.
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,
    /// Only this identity, or those that end so.
    #[arg(long, value_name = "ID")]
    pub(crate) identity: Option<String>,
    /// Only this kind of event, such as connected or `*-denied`; may be given several times.
    #[arg(long = "kind", value_name = "EVENT")]
    pub(crate) kinds: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct MqttTarget {
    /// Broker: mqtts://host:port (identity from the Workload API), mqtt://127.0.0.1:port or
    /// unix:///path (identity from the kernel).
    #[arg(long, value_name = "URL", default_value = "mqtt://127.0.0.1:1883")]
    pub(crate) broker: String,
    /// Workload API socket for mqtts://; default: that of SPIFFE_ENDPOINT_SOCKET, else the edge's.
    // Not read from the environment here: --svid would conflict with it.
    #[arg(long = "workload-api", value_name = "URI")]
    pub(crate) workload_api: Option<String>,
    /// SPIFFE ID that the broker must prove over mqtts://; default: the broker beside the own identity.
    #[arg(long = "broker-id", value_name = "ID")]
    pub(crate) broker_id: Option<String>,
    /// Directory with svid.pem, svid.key and bundle.pem for mqtts://, instead of the Workload API.
    #[arg(long = "svid", value_name = "DIR", conflicts_with = "workload_api")]
    pub(crate) svid: Option<PathBuf>,
    /// Which of several identities to use: a SPIFFE ID or a hint.
    #[arg(long = "spiffeID", visible_alias = "spiffe-id", value_name = "ID")]
    pub(crate) spiffe_id: Option<String>,
    /// MQTT client id; default: a random one. With it, `sub` has a session that lasts an hour.
    #[arg(long = "id", value_name = "CLIENT-ID")]
    pub(crate) client_id: Option<String>,
    /// Quality of service.
    #[arg(short = 'q', long = "qos", value_name = "0|1|2", default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub(crate) qos: u8,
    /// Seconds to wait for the broker's answers.
    #[arg(long, value_name = "SECS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) timeout: u64,
    /// Topic of the will: the broker publishes `gone` there when the connection breaks.
    #[arg(long = "will-topic", value_name = "TOPIC")]
    pub(crate) will_topic: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct PubArgs {
    #[command(flatten)]
    pub(crate) target: MqttTarget,
    /// Topic name.
    #[arg(short = 't', long = "topic", value_name = "TOPIC")]
    pub(crate) topic: String,
    /// Payload.
    #[arg(
        short = 'm',
        long = "message",
        value_name = "TEXT",
        conflicts_with = "stdin",
        allow_hyphen_values = true
    )]
    pub(crate) message: Option<String>,
    /// Takes each line of standard input as a payload.
    #[arg(short = 'l', long = "stdin-line")]
    pub(crate) stdin: bool,
    /// Asks the broker to retain the message.
    #[arg(short = 'r', long = "retain")]
    pub(crate) retain: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SubArgs {
    #[command(flatten)]
    pub(crate) target: MqttTarget,
    /// Topic filter; may be given several times.
    #[arg(short = 't', long = "topic", value_name = "FILTER", required = true)]
    pub(crate) topics: Vec<String>,
    /// Ends after so many messages; 0 ends as soon as the subscription stands.
    #[arg(short = 'C', long = "count", value_name = "N")]
    pub(crate) count: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct LightArgs {
    /// Device, such as led-light-instance-01.
    #[arg(long, value_name = "NAME")]
    pub(crate) device: String,
    /// Address of the broker's mTLS listener.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8883")]
    pub(crate) broker: String,
    /// SPIFFE ID of the broker.
    #[arg(long = "broker-id", value_name = "ID")]
    pub(crate) broker_id: String,
    /// Workload API socket.
    #[arg(long = "workload-api", env = "SPIFFE_ENDPOINT_SOCKET", value_name = "URI")]
    pub(crate) workload_api: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
