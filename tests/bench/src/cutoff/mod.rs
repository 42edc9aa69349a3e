//! Live cut-offs: with thousands of sessions, how long from the end of a right to the end of its use, and what
//! others notice of it.

mod crowd;
mod loader;

use crate::compare::programs;
use crate::compare::servers::{Running, Server};
use crate::figures;
use crate::load::{Role, Shape, Version};
use anyhow::{Context as _, ensure};
use crowd::Crowd;
use loader::{Loader, Part, Plan, Seen};
use std::collections::HashSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Sessions that are there, over mTLS.
    #[arg(long, default_value_t = 10_000)]
    sessions: usize,
    /// Identities among which they are divided.
    #[arg(long, default_value_t = 2_000)]
    identities: usize,
    /// Messages a second, QoS 1, of the pairs whose latency is measured.
    #[arg(long, default_value_t = 1_000)]
    per_second: u32,
    /// Seconds of each measurement of the pairs alone.
    #[arg(long, default_value_t = 10)]
    quiet_secs: u64,
    /// The midge to measure; default: it is built.
    #[arg(long)]
    midge: Option<PathBuf>,
}

/// Every app has its own topics, what the pairs use, and the topics of the probes.
const POLICY: &str = r#"
[[rule]]
name = "app"
id = "spiffe://{td}/edge/{node}/app/{app}"
publish = ["bench/#", "own/{app}/#", "probe/#", "tick/#"]
subscribe = ["bench/#", "own/{app}/#", "tick/#"]

[[rule]]
name = "app-limits"
id = "spiffe://{td}/edge/{node}/app/{app}"
deny-publish = ["bench/secret/#"]
"#;

/// How long anything may take before it counts as missing.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between rounds: a new one begins when the last is over for everybody.
const PAUSE: Duration = Duration::from_millis(60);
/// NOT AUTHORIZED.
const NOT_AUTHORIZED: u8 = 0x87;
/// Lifetime of the SVIDs of the crowd.
const LONG: Duration = Duration::from_secs(3_600);
/// First end of the short-lived SVIDs: all are connected before.
const SHORT_SECS: u64 = 15;
/// How many SVIDs end within the same second.
const ENDS_PER_SECOND: usize = 10;

struct Stage {
    running: Running,
    crowd: Crowd,
    loader: Loader,
    per_identity: usize,
    first: usize,
    quiet: Vec<u64>,
}

pub(crate) async fn run(arguments: Arguments, rounds: usize) -> anyhow::Result<()> {
    crate::compare::raise_file_limit();
    let (_, programs) = programs::find(&[Server::Midge], arguments.midge.clone(), None, Version::V5).await?;
    let running = Running::midge(&programs, POLICY, true, None).await?;
    let mut stage = Stage::set(running, &arguments).await?;
    let quiet = Duration::from_secs(arguments.quiet_secs);
    stage.rest(quiet).await?;
    let times = stage.deletions(rounds).await?;
    stage.report("entry deleted -> DISCONNECT", &times);
    for (name, whom) in [("of one identity", "prober"), ("of every identity", "*")] {
        stage.rest(quiet).await?;
        let (refused, silent) = stage.policies(rounds, whom).await?;
        stage.report(&format!("policy {name} changed -> first refused publication"), &refused);
        say(&format!("policy {name} changed -> last delivery: {}", figures::line(&silent)));
    }
    stage.rest(quiet).await?;
    let times = stage.expiries(rounds).await?;
    stage.report("SVID expired -> DISCONNECT", &times);
    stage.rest(quiet).await?;
    stage.loader.end()
}

impl Stage {
    async fn set(running: Running, arguments: &Arguments) -> anyhow::Result<Self> {
        let shape = Shape::named("latency").context("no shape latency")?;
        let mut crowd = Crowd::connect(&running.admin_socket()).await?;
        let mut loader = Loader::start(running.target.address, shape, arguments.per_second)?;
        loader.connect(pairs(&running, shape)?).await?;
        let names: Vec<String> = (0..arguments.identities).map(name).collect();
        crowd.register(&names).await?;
        let per_identity = arguments.sessions / arguments.identities.max(1);
        let (mut plans, since) = (Vec::new(), Instant::now());
        for name in &names {
            let member = crowd.mint(name, LONG).await?;
            plans.extend((0..per_identity).map(|n| Plan {
                config: member.config.clone(),
                client_id: format!("{name}-{n}"),
                subscribe: Some(format!("own/{name}/#")),
                part: Part::Crowd,
            }));
        }
        let first = loader.connect(plans).await?;
        say(&format!(
            "{} sessions of {} identities after {:.1} s",
            per_identity * names.len(),
            names.len(),
            since.elapsed().as_secs_f64()
        ));
        let probers = ["prober".to_owned(), "ticker".to_owned()];
        crowd.register(&probers).await?;
        let mut plans = Vec::new();
        let parts = [("prober", Part::Prober), ("prober", Part::Listener), ("ticker", Part::Ticker)];
        for (name, part) in parts {
            let config = crowd.mint(name, LONG).await?.config;
            let subscribe = (part == Part::Listener).then(|| "tick/#".to_owned());
            plans.push(Plan { config, client_id: format!("{part:?}"), subscribe, part });
        }
        loader.connect(plans).await?;
        Ok(Self { running, crowd, loader, per_identity, first, quiet: Vec::new() })
    }

    /// Lets only the pairs and the probes be at work.
    async fn rest(&mut self, quiet: Duration) -> anyhow::Result<()> {
        tokio::time::sleep(Duration::from_secs(1)).await;
        self.loader.latencies();
        tokio::time::sleep(quiet).await;
        let latencies = self.loader.latencies();
        say(&format!("pairs alone: {}", quantiles(&latencies)));
        self.quiet.extend(latencies);
        self.quiet.sort_unstable();
        Ok(())
    }

    fn report(&self, what: &str, times: &[Duration]) {
        let latencies = self.loader.latencies();
        let more = at(&latencies, 99) / at(&self.quiet, 99);
        say(&format!("{what}: {}", figures::line(times)));
        say(&format!(
            "  pairs meanwhile: {}; p99 {more:.2} x that of all times alone",
            quantiles(&latencies)
        ));
    }

    async fn deletions(&mut self, rounds: usize) -> anyhow::Result<Vec<Duration>> {
        let mut times = Vec::new();
        for round in 0..rounds {
            let start = self.first + round * self.per_identity;
            let mut waiting: HashSet<usize> = (start..start + self.per_identity).collect();
            let since = Instant::now();
            self.crowd.delete(&name(round)).await?;
            while !waiting.is_empty() {
                if let Seen::Ended { client, at, reason, .. } = self.loader.next(PATIENCE).await? {
                    ensure!(waiting.remove(&client), "another session was ended: {client}");
                    ensure!(reason == Some(NOT_AUTHORIZED), "ended with {reason:?}");
                    times.push(at.saturating_duration_since(since));
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(times)
    }

    /// Takes a right away from all identities that a pattern names, and gives it back. Returns the times to the
    /// first publication that was refused, and to the last message that was delivered.
    async fn policies(
        &mut self,
        rounds: usize,
        whom: &str,
    ) -> anyhow::Result<(Vec<Duration>, Vec<Duration>)> {
        let (mut refused, mut silent) = (Vec::new(), Vec::new());
        let deny = format!(
            "[[rule]]\nname = \"cut\"\nid = \"spiffe://*/edge/*/app/{whom}\"\n\
             deny-publish = [\"probe/#\"]\ndeny-subscribe = [\"tick/#\"]\n"
        );
        for _ in 0..rounds {
            self.is_heard().await?;
            let since = Instant::now();
            self.change(&deny)?;
            let (at, mut last) = self.probed(true, since).await?;
            refused.push(at);
            tokio::time::sleep(PAUSE).await;
            while let Ok(seen) = self.loader.seen.try_recv() {
                if let Seen::Heard { at } = seen {
                    last = last.max(at.saturating_duration_since(since));
                }
            }
            silent.push(last);
            self.change("")?;
            self.probed(false, Instant::now()).await?;
            self.loader.listen()?;
        }
        Ok((refused, silent))
    }

    /// Waits for a probe with this outcome. Returns how long it took, and until when the listener heard.
    async fn probed(&mut self, refused: bool, since: Instant) -> anyhow::Result<(Duration, Duration)> {
        let (deadline, mut last) = (Instant::now() + PATIENCE, Duration::ZERO);
        loop {
            ensure!(Instant::now() < deadline, "the change had no effect");
            match self.loader.next(PATIENCE).await? {
                Seen::Probed { at, is_refused } if is_refused == refused && at >= since => {
                    return Ok((at.saturating_duration_since(since), last));
                }
                Seen::Heard { at } => last = at.saturating_duration_since(since),
                Seen::Ended { reason, .. } => anyhow::bail!("a session was ended: {reason:?}"),
                Seen::Probed { .. } | Seen::Connected => {}
            }
        }
    }

    async fn is_heard(&mut self) -> anyhow::Result<()> {
        while self.loader.seen.try_recv().is_ok() {}
        while !matches!(self.loader.next(PATIENCE).await?, Seen::Heard { .. }) {}
        Ok(())
    }

    fn change(&self, rules: &str) -> anyhow::Result<()> {
        let dir = self.running.policies();
        std::fs::write(dir.join("change.new"), rules)?;
        std::fs::rename(dir.join("change.new"), dir.join("change.toml"))?;
        hang_up(self.running.target.pid)
    }

    async fn expiries(&mut self, rounds: usize) -> anyhow::Result<Vec<Duration>> {
        self.crowd.register(&["short".to_owned()]).await?;
        let (mut plans, mut ends) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            let secs = SHORT_SECS + u64::try_from(round / ENDS_PER_SECOND)?;
            let member = self.crowd.mint("short", Duration::from_secs(secs)).await?;
            ends.push(member.expires);
            let (config, client_id) = (member.config, format!("short-{round}"));
            plans.push(Plan { config, client_id, subscribe: None, part: Part::Crowd });
        }
        let first = self.loader.connect(plans).await?;
        self.loader.latencies();
        let mut times = Vec::new();
        while times.len() < rounds {
            if let Seen::Ended { client, wall, reason, .. } = self.loader.next(4 * PATIENCE).await? {
                let index = client.checked_sub(first).context("another session was ended")?;
                let end = ends.get(index).context("another session was ended")?;
                ensure!(reason == Some(NOT_AUTHORIZED), "ended with {reason:?}");
                times.push(wall.duration_since(*end).context("ended before its SVID")?);
            }
        }
        Ok(times)
    }
}

fn pairs(running: &Running, shape: Shape) -> anyhow::Result<Vec<Plan>> {
    let receivers = (0..shape.receivers).map(Role::Receiver);
    let roles = receivers.chain((0..shape.publishers).map(Role::Publisher));
    let plan = |(index, role): (usize, Role)| {
        let identities = &running.target.identities;
        let config = identities.get(index % identities.len().max(1)).context("no identity")?.clone();
        let subscribe = match role {
            Role::Receiver(n) => Some(shape.topic(n)),
            Role::Publisher(_) | Role::Idle => None,
        };
        Ok(Plan { config, client_id: format!("pair-{index}"), subscribe, part: Part::Pair(role) })
    };
    roles.enumerate().map(plan).collect()
}

fn name(n: usize) -> String {
    format!("app-{n}")
}

fn hang_up(pid: u32) -> anyhow::Result<()> {
    use rustix::process::{Pid, Signal, kill_process};
    let pid = Pid::from_raw(i32::try_from(pid)?).context("no process")?;
    Ok(kill_process(pid, Signal::HUP)?)
}

#[expect(clippy::cast_precision_loss, reason = "nanoseconds of one run")]
fn at(sorted: &[u64], percent: usize) -> f64 {
    let index = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(index).map_or(f64::NAN, |nanos| *nanos as f64 / 1e6)
}

fn quantiles(sorted: &[u64]) -> String {
    let [half, high, all] = [50, 99, 100].map(|percent| at(sorted, percent));
    format!("{} messages, p50 {half:.2} ms, p99 {high:.2} ms, max {all:.2} ms", sorted.len())
}

#[expect(clippy::print_stdout, reason = "the figures are the result")]
fn say(line: &str) {
    println!("{line}");
}
