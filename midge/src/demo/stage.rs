//! The stage: a temporary directory, programs under names of their own, configuration, and the
//! commands an operator would type.

use super::narrator::Narrator;
use super::process::{Ended, Process, run_to_end};
use anyhow::{Context as _, bail, ensure};
use serde_json::Value;
use std::hash::{BuildHasher as _, RandomState};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Trust domain of the demo.
pub(super) const TRUST_DOMAIN: &str = "demo.midge";
/// The box.
pub(super) const NODE: &str = "box-1";
/// The device of KubeEdge's example.
pub(super) const DEVICE: &str = "led-light-instance-01";
/// Lifetime of SVIDs: short, so that rotation can be watched.
pub(super) const SVID_TTL_SECS: u64 = 6;
/// Lifetime of the box's intermediate CA.
pub(super) const EDGE_CA_TTL_SECS: u64 = 80;
/// Longest wait for anything that should come at once.
pub(super) const SOON: Duration = Duration::from_secs(10);

/// Everything the steps share.
pub(super) struct Stage {
    pub(super) dir: PathBuf,
    pub(super) cloud: Option<Process>,
    pub(super) edge: Option<Process>,
    pub(super) mapper: Option<Process>,
    pub(super) app: Option<Process>,
    ports: Ports,
}

struct Ports {
    bootstrap: u16,
    channel: u16,
    tls: u16,
    tcp: u16,
}

/// The programs of the cast: the same file under names of their own, so that `unix:path` selectors
/// can tell them apart.
#[derive(Clone, Copy, Debug)]
pub(super) enum Role {
    Midge,
    LightMapper,
    App,
    Late,
    Intruder,
}

impl Role {
    const ALL: [Self; 5] = [Self::Midge, Self::LightMapper, Self::App, Self::Late, Self::Intruder];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Midge => "midge",
            Self::LightMapper => "light-mapper",
            Self::App => "app",
            Self::Late => "late",
            Self::Intruder => "intruder",
        }
    }
}

impl Stage {
    pub(super) fn set(narrator: &Narrator) -> anyhow::Result<Self> {
        let dir = std::env::temp_dir().join(format!("midge-demo-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("bin")).with_context(|| format!("cannot make {}", dir.display()))?;
        let [bootstrap, channel, tls, tcp] = free_ports()?;
        let ports = Ports { bootstrap, channel, tls, tcp };
        let stage = Self { dir, cloud: None, edge: None, mapper: None, app: None, ports };
        stage.copy_programs()?;
        stage.write_configuration()?;
        narrator.note(&format!("working in {}", stage.dir.display()));
        Ok(stage)
    }

    fn copy_programs(&self) -> anyhow::Result<()> {
        let own = std::env::current_exe().context("cannot find this program's own file")?;
        for role in Role::ALL {
            let path = self.program(role);
            if std::fs::hard_link(&own, &path).is_err() {
                std::fs::copy(&own, &path).with_context(|| format!("cannot copy to {}", path.display()))?;
            }
        }
        Ok(())
    }

    fn write_configuration(&self) -> anyhow::Result<()> {
        let Ports { bootstrap, channel, tls, tcp } = &self.ports;
        let dir = self.dir.display();
        let cloud = format!(
            r#"trust-domain = "{TRUST_DOMAIN}"
data-dir = "{dir}/cloud"
bootstrap = "127.0.0.1:{bootstrap}"
channel = "127.0.0.1:{channel}"
edge-ca-ttl-secs = {EDGE_CA_TTL_SECS}
"#
        );
        let edge = |name: &str, data: &str, tls: u16, tcp: u16| {
            format!(
                r#"trust-domain = "{TRUST_DOMAIN}"
node = "{name}"
data-dir = "{dir}/{data}"

[cloud]
bootstrap = "https://127.0.0.1:{bootstrap}"
channel = "wss://127.0.0.1:{channel}"
join-token-file = "{dir}/join-token"

[mqtt]
tls = "127.0.0.1:{tls}"
tcp = "127.0.0.1:{tcp}"

[issuer]
x509-svid-ttl-secs = {SVID_TTL_SECS}
"#
            )
        };
        std::fs::write(self.dir.join("cloud.toml"), cloud)?;
        std::fs::write(self.dir.join("edge.toml"), edge(NODE, "edge", *tls, *tcp))?;
        std::fs::write(self.dir.join("thief.toml"), edge("box-2", "thief", 0, 0))?;
        Ok(())
    }

    /// Path of a program of the cast.
    pub(super) fn program(&self, role: Role) -> PathBuf {
        self.dir.join("bin").join(role.name())
    }

    /// Address of the mTLS listener.
    pub(super) fn mqtts(&self) -> String {
        format!("mqtts://127.0.0.1:{}", self.ports.tls)
    }

    /// Address of the kernel-attested loopback listener.
    pub(super) fn mqtt(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.ports.tcp)
    }

    pub(super) fn tcp_port(&self) -> u16 {
        self.ports.tcp
    }

    pub(super) fn tls_port(&self) -> u16 {
        self.ports.tls
    }

    /// Workload API address.
    pub(super) fn workload_api(&self) -> String {
        format!("unix://{}/edge/run/workload.sock", self.dir.display())
    }

    pub(super) fn edge_dir(&self) -> PathBuf {
        self.dir.join("edge")
    }

    pub(super) fn cloud_dir(&self) -> PathBuf {
        self.dir.join("cloud")
    }

    /// Starts the cloud and waits until it answers.
    pub(super) async fn start_cloud(&mut self, narrator: &Narrator) -> anyhow::Result<()> {
        narrator.command("midge cloud -c cloud.toml");
        self.cloud = Some(self.start("cloud", Role::Midge, &["cloud", "-c", &self.path("cloud.toml")])?);
        self.answers("cloud").await
    }

    /// Starts the edge and waits until it answers.
    pub(super) async fn start_edge(&mut self, narrator: &Narrator) -> anyhow::Result<()> {
        narrator.command("midge edge -c edge.toml");
        self.edge = Some(self.start("edge", Role::Midge, &["edge", "-c", &self.path("edge.toml")])?);
        self.answers("edge").await
    }

    async fn answers(&mut self, name: &str) -> anyhow::Result<()> {
        let since = Instant::now();
        loop {
            if self.status(name).await.is_ok() {
                return Ok(());
            }
            let process = if name == "cloud" { &mut self.cloud } else { &mut self.edge };
            if let Some(process) = process
                && !process.runs()
            {
                bail!("{name} ended\n{}", process.tail());
            }
            ensure!(since.elapsed() < SOON, "{name} does not answer\n{}", self.last_words());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Starts a program of the cast in the background.
    pub(super) fn start(
        &self,
        name: &'static str,
        role: Role,
        arguments: &[&str],
    ) -> anyhow::Result<Process> {
        Process::start(name, &self.program(role), arguments)
    }

    /// Runs a program of the cast to its end.
    pub(super) async fn run(&self, role: Role, arguments: &[&str]) -> anyhow::Result<Ended> {
        run_to_end(&self.program(role), arguments, Duration::from_secs(20)).await
    }

    /// Types an operator's command at the cloud or the edge, showing it, and returns its JSON.
    pub(super) async fn operator(
        &self,
        narrator: &Narrator,
        at: &str,
        arguments: &[&str],
    ) -> anyhow::Result<Value> {
        narrator.call(arguments, &format!("at the {at}"));
        let ended = self.quietly(at, arguments).await?;
        ensure!(ended.ok(), "midge {}: {}", arguments.join(" "), ended.said());
        ended.json()
    }

    /// Runs an operator's command without showing it.
    pub(super) async fn quietly(&self, at: &str, arguments: &[&str]) -> anyhow::Result<Ended> {
        let socket = self.dir.join(at).join("run/admin.sock");
        let socket = socket.display().to_string();
        let mut all = arguments.to_vec();
        all.extend(["--output", "json", "--socketPath", &socket]);
        self.run(Role::Midge, &all).await
    }

    /// Returns the status of the cloud or the edge.
    pub(super) async fn status(&self, at: &str) -> anyhow::Result<Value> {
        let ended = self.quietly(at, &["status"]).await?;
        ended.json()
    }

    /// Waits until the status of the cloud or the edge is as wanted.
    pub(super) async fn status_when(
        &self,
        at: &str,
        limit: Duration,
        what: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> anyhow::Result<Value> {
        let since = Instant::now();
        loop {
            let status = self.status(at).await.unwrap_or_default();
            if wanted(&status) {
                return Ok(status);
            }
            ensure!(
                since.elapsed() < limit,
                "{at}: not {what} within {limit:?}: {status}\n{}",
                self.last_words()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until an entry made at the cloud is at the edge: a workload that asks before is refused.
    pub(super) async fn entry_arrives(&self, id: &str) -> anyhow::Result<()> {
        let since = Instant::now();
        while !self.quietly("edge", &["entry", "show", "-entryID", id]).await?.ok() {
            anyhow::ensure!(since.elapsed() < SOON, "the entry {id} does not reach the edge");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Returns the session of an identity at the edge, by the end of its SPIFFE ID.
    pub(super) async fn session(&self, id_end: &str) -> anyhow::Result<Option<Value>> {
        let sessions = self.quietly("edge", &["session", "list"]).await?.json()?;
        let sessions = sessions["sessions"].as_array().cloned().unwrap_or_default();
        Ok(sessions.into_iter().find(|session| {
            session["spiffe_id"].as_str().is_some_and(|id| id.ends_with(id_end))
                && session["connected"] == true
        }))
    }

    /// Returns the audit records of the edge from line `from` on.
    pub(super) fn audit(&self, from: usize) -> Vec<Value> {
        let text = std::fs::read_to_string(self.edge_dir().join("audit.jsonl")).unwrap_or_default();
        text.lines().skip(from).filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits for an audit record from line `from` on, and returns its reason.
    pub(super) async fn audited(&self, from: usize, wanted: impl Fn(&Value) -> bool) -> Option<Value> {
        let since = Instant::now();
        while since.elapsed() < Duration::from_secs(3) {
            if let Some(record) = self.audit(from).into_iter().find(|record| wanted(record)) {
                return Some(record);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        None
    }

    /// Returns the path of a file on the stage, as text.
    pub(super) fn path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    /// Returns what the servers said last, for when something went wrong.
    pub(super) fn last_words(&self) -> String {
        let cast = [&self.cloud, &self.edge, &self.mapper, &self.app];
        cast.into_iter().flatten().map(Process::tail).collect()
    }

    /// Leaves everything running until the user has seen enough.
    pub(super) async fn keep(&mut self, narrator: &Narrator) -> anyhow::Result<()> {
        let dir = self.dir.display().to_string();
        narrator.note(&format!(
            "everything is left running; Ctrl-C ends it\n\
             cloud:   {bin} status --socketPath {dir}/cloud/run/admin.sock\n\
             edge:    {bin} status --socketPath {dir}/edge/run/admin.sock\n\
             broker:  {mqtts} (SVID), {mqtt} (identity of your uid)\n\
             try:     {bin} sub --broker {mqtt} -t 'plant/line-1/#'",
            bin = self.program(Role::Midge).display(),
            mqtts = self.mqtts(),
            mqtt = self.mqtt(),
        ));
        tokio::signal::ctrl_c().await?;
        Ok(())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.dir).unwrap_or_default();
    }
}

/// Ports below those that Linux and other systems give out by themselves (from 32,768 on): the demo's servers
/// come back on them after a while, and no connection of another program may have got them meanwhile.
const PORTS: std::ops::Range<u16> = 20_000..32_768;

/// Finds ports that nobody uses, each another one. Should another program take one before we do, the server
/// says so and the demo ends.
fn free_ports<const N: usize>() -> anyhow::Result<[u16; N]> {
    // Anywhere in the range, so that demos side by side rarely look at the same ones.
    let start = usize::try_from(RandomState::new().hash_one(std::process::id()) % PORTS.len() as u64)?;
    let ports = PORTS.skip(start).chain(PORTS.take(start));
    let found: Vec<TcpListener> =
        ports.filter_map(|port| TcpListener::bind(("127.0.0.1", port)).ok()).take(N).collect();
    let found: Vec<u16> = found.iter().flat_map(TcpListener::local_addr).map(|at| at.port()).collect();
    found.try_into().map_err(|_| anyhow::anyhow!("no free ports from {} to {}", PORTS.start, PORTS.end - 1))
}

/// Tells whether any file below `dir` holds these bytes.
pub(super) fn holds(dir: &Path, needle: &[u8]) -> bool {
    let Ok(items) = std::fs::read_dir(dir) else { return false };
    items.flatten().any(|item| {
        let path = item.path();
        if path.is_dir() {
            return holds(&path, needle);
        }
        std::fs::read(path).is_ok_and(|bytes| bytes.windows(needle.len()).any(|window| window == needle))
    })
}
