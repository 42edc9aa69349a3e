//! Starting and stopping what is compared.

use crate::admin::{Edge, Entries};
use crate::load::{Dialect, Level, Target, Version};
use crate::tls::{self, Pki};
use anyhow::{Context as _, bail, ensure};
use midge_agent::client::WorkloadClient;
use rustls::ClientConfig;
use std::fs::File;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Identities among which the connections take turns: a broker may bound the sessions of each.
const IDENTITIES: usize = 16;
/// How long a server may take to serve.
const START: Duration = Duration::from_secs(20);

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Server {
    Midge,
    Mosquitto,
    Rumqttd,
    Relay,
}

impl Server {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Midge => "midge",
            Self::Mosquitto => "mosquitto",
            Self::Rumqttd => "rumqttd",
            Self::Relay => "relay",
        }
    }
}

/// Where the programs are.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    pub(crate) midge: PathBuf,
    pub(crate) mosquitto: PathBuf,
    pub(crate) rumqttd: Option<PathBuf>,
    pub(crate) version: Version,
    /// A line for the section `[mqtt]` of Midge's configuration.
    pub(crate) midge_option: Option<String>,
    /// Where the servers keep their files.
    pub(crate) dir: PathBuf,
}

/// A running server; dropped, it is stopped and its files are gone.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    pub(crate) target: Target,
    _dir: TempDir,
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Running {
    pub(crate) async fn start(
        server: Server,
        programs: &Programs,
        durable: Option<Level>,
    ) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir_in(&programs.dir)?;
        let started = match server {
            Server::Midge => return Self::midge(programs, POLICY, true, durable).await,
            Server::Mosquitto => mosquitto(programs, dir.path(), durable.is_some()),
            Server::Rumqttd => rumqttd(programs, dir.path()),
            Server::Relay => relay(dir.path()),
        };
        let (mut command, address, pki) = started?;
        let dialect = if server == Server::Relay { Dialect::Relay } else { Dialect::Mqtt(programs.version) };
        let child = spawn(&mut command, dir.path())?;
        let target = Target { address, pid: child.id(), dialect, identities: pki.clients };
        let mut running = Self { child, target, _dir: dir };
        running.wait_for(|| TcpStream::connect(address).is_ok())?;
        Ok(running)
    }

    /// Where the policy files of a Midge are.
    pub(crate) fn policies(&self) -> PathBuf {
        self._dir.path().join("policies")
    }

    /// Where a Midge is administered.
    pub(crate) fn admin_socket(&self) -> PathBuf {
        self._dir.path().join("data/run/admin.sock")
    }

    /// Starts Midge with a policy of its own, and with the built-in rules or without them.
    pub(crate) async fn midge(
        programs: &Programs,
        policy: &str,
        builtin: bool,
        durable: Option<Level>,
    ) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir_in(&programs.dir)?;
        let (address, policies) = (free_address()?, dir.path().join("policies"));
        std::fs::create_dir(&policies)?;
        std::fs::write(policies.join("bench.toml"), policy)?;
        let config = dir.path().join("edge.toml");
        let lines = format!(
            "trust-domain = \"bench.example\"\nnode = \"bench\"\ndata-dir = \"{}\"\n\
             [mqtt]\ntls = \"{address}\"\ntcp = \"off\"\n{}\n{}\
             [policy]\ndir = \"{}\"\nbuiltin = {builtin}\n[log]\nfilter = \"warn\"\n",
            dir.path().join("data").display(),
            programs.midge_option.as_deref().unwrap_or_default(),
            durable.map(storing).unwrap_or_default(),
            policies.display(),
        );
        std::fs::write(&config, lines)?;
        let mut command = Command::new(&programs.midge);
        command.arg("edge").arg("-c").arg(config);
        let child = spawn(&mut command, dir.path())?;
        let target = Target {
            address,
            pid: child.id(),
            dialect: Dialect::Mqtt(programs.version),
            identities: Vec::new(),
        };
        let workload = dir.path().join("data/run/workload.sock");
        let mut running = Self { child, target, _dir: dir };
        let admin = running.admin_socket();
        running.wait_for(|| admin.exists() && workload.exists() && TcpStream::connect(address).is_ok())?;
        let edge = Edge::find(&admin).await?;
        let mut entries = Entries::connect(&admin).await?;
        for n in 0..IDENTITIES {
            let name = tls::identity(n);
            entries.create(&edge, &name, &format!("/app/{name}")).await?;
        }
        running.target.identities = own_identities(&workload).await?;
        Ok(running)
    }

    fn wait_for(&mut self, mut is_there: impl FnMut() -> bool) -> anyhow::Result<()> {
        let deadline = Instant::now() + START;
        while !is_there() {
            if let Some(status) = self.child.try_wait()? {
                let log = std::fs::read_to_string(self._dir.path().join("log")).unwrap_or_default();
                bail!("it ended at once ({status}):\n{log}");
            }
            ensure!(Instant::now() < deadline, "it does not serve after {} seconds", START.as_secs());
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

fn spawn(command: &mut Command, dir: &Path) -> anyhow::Result<Child> {
    let log = File::create(dir.join("log"))?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    command.spawn().with_context(|| format!("cannot start {}", command.get_program().display()))
}

/// Returns an address nobody listens on just now.
fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

type Prepared = (Command, SocketAddr, Pki);

fn relay(dir: &Path) -> anyhow::Result<Prepared> {
    let (pki, address) = (Pki::make(dir, IDENTITIES)?, free_address()?);
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("relay").arg("--ca").arg(&pki.ca).arg("--cert").arg(&pki.cert).arg("--key").arg(&pki.key);
    command.arg("--port").arg(address.port().to_string());
    Ok((command, address, pki))
}

fn mosquitto(programs: &Programs, dir: &Path, durable: bool) -> anyhow::Result<Prepared> {
    let (pki, address) = (Pki::make(dir, IDENTITIES)?, free_address()?);
    let (config, acl) = (dir.join("mosquitto.conf"), dir.join("acl"));
    let rights = (0..IDENTITIES).map(|n| {
        let name = tls::identity(n);
        format!(
            "user {name}\ntopic readwrite bench/#\ntopic write {name}/user/#\ntopic deny bench/secret/#\n\n"
        )
    });
    std::fs::write(&acl, rights.collect::<String>())?;
    let lines = format!(
        "listener {} 127.0.0.1\ncafile {}\ncertfile {}\nkeyfile {}\nrequire_certificate true\n\
         use_identity_as_username true\nacl_file {}\nmax_inflight_messages 1024\nmax_queued_messages 0\n\
         set_tcp_nodelay true\nuser root\n",
        address.port(),
        pki.ca.display(),
        pki.cert.display(),
        pki.key.display(),
        acl.display(),
    );
    let persistence = format!("persistence true\npersistence_location {}/\n", dir.display());
    std::fs::write(&config, lines + if durable { &persistence } else { "" })?;
    let mut command = Command::new(&programs.mosquitto);
    command.arg("-c").arg(config);
    Ok((command, address, pki))
}

fn rumqttd(programs: &Programs, dir: &Path) -> anyhow::Result<Prepared> {
    let (pki, address) = (Pki::make(dir, IDENTITIES)?, free_address()?);
    let section = if programs.version == Version::V5 { "v5" } else { "v4" };
    let config = dir.join("rumqttd.toml");
    let lines = format!(
        "id = 0\n[router]\nid = 0\nmax_connections = 10100\nmax_outgoing_packet_count = 200\n\
         max_segment_size = 104857600\nmax_segment_count = 10\n\
         [{section}.1]\nname = \"bench\"\nlisten = \"{address}\"\nnext_connection_delay_ms = 0\n\
         [{section}.1.tls]\ncapath = \"{}\"\ncertpath = \"{}\"\nkeypath = \"{}\"\n\
         [{section}.1.connections]\nconnection_timeout_ms = 60000\nmax_payload_size = 1048576\n\
         max_inflight_count = 1024\ndynamic_filters = true\n",
        pki.ca.display(),
        pki.cert.display(),
        pki.key.display(),
    );
    std::fs::write(&config, lines)?;
    let mut command = Command::new(programs.rumqttd.as_ref().context("not installed")?);
    command.arg("-c").arg(config).arg("-q");
    Ok((command, address, pki))
}

/// What durable shapes need of Midge: the level, and room for all that comes while receivers are away.
fn storing(level: Level) -> String {
    let level = match level {
        Level::None => "none",
        Level::ProcessCrash => "process-crash",
        Level::PowerLoss => "power-loss",
    };
    format!(
        "durability = \"{level}\"\nlimits.queue-messages-max = 10000000\nlimits.queue-bytes-max = 4000000000\n\
         limits.queues-bytes-max = 32000000000\n"
    )
}

/// Waits for the SVIDs that a Midge gives this process.
async fn own_identities(workload: &Path) -> anyhow::Result<Vec<Arc<ClientConfig>>> {
    let deadline = Instant::now() + START;
    loop {
        let context = WorkloadClient::connect(workload).await?.fetch_x509().await;
        if let Ok(context) = context
            && context.svids.len() == IDENTITIES
        {
            let configs = context.svids.iter().map(|svid| {
                let chain = svid.chain.iter().map(|der| der.clone().into()).collect();
                let key = svid.key.to_vec().try_into().map_err(anyhow::Error::msg)?;
                tls::client(chain, key)
            });
            return configs.collect();
        }
        ensure!(Instant::now() < deadline, "its identities do not arrive");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Rules as an operator would write them: rights with captures, denies, and the built-in rules beside them.
pub(crate) const POLICY: &str = r#"
[[rule]]
name = "bench"
id = "spiffe://{td}/edge/{node}/app/{app}"
publish = ["bench/#", "{app}/user/#"]
subscribe = ["bench/#"]

[[rule]]
name = "bench-limits"
id = "spiffe://{td}/edge/{node}/app/{app}"
deny-publish = ["bench/secret/#"]
"#;
