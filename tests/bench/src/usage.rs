//! What processes cost, as the kernel counts it.

use anyhow::Context as _;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Costs of one process so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    /// Time on a CPU of all its present threads, in user and kernel mode, to the nanosecond.
    pub(crate) cpu: Duration,
    /// Bytes of anonymous memory that are resident.
    pub(crate) memory: u64,
}

impl Usage {
    pub(crate) fn of(pid: u32) -> anyhow::Result<Self> {
        let mut cpu = Duration::ZERO;
        for task in std::fs::read_dir(format!("/proc/{pid}/task")).context("the server has ended")? {
            // A thread may end meanwhile.
            cpu += on_cpu(&task?.path().join("schedstat")).unwrap_or_default();
        }
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let anonymous = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let anonymous = anonymous.and_then(|rest| rest.trim().strip_suffix(" kB")).context("no RssAnon")?;
        Ok(Self { cpu, memory: anonymous.trim().parse::<u64>()? * 1_024 })
    }
}

/// Returns the time that this thread was on a CPU.
pub(crate) fn own_thread() -> anyhow::Result<Duration> {
    on_cpu("/proc/thread-self/schedstat".as_ref())
}

/// Has the kernel run this thread as soon as it has something to do, as if clients had a machine of their own. Tells
/// whether it does: that takes `chrt` (util-linux) and root.
pub(crate) fn come_first() -> bool {
    let thread = rustix::thread::gettid().as_raw_nonzero().to_string();
    let tool = Command::new("chrt").args(["--fifo", "--pid", "1", &thread]).stderr(Stdio::null()).status();
    tool.is_ok_and(|status| status.success())
}

fn on_cpu(schedstat: &std::path::Path) -> anyhow::Result<Duration> {
    let text = std::fs::read_to_string(schedstat)?;
    let nanos = text.split(' ').next().context("empty schedstat")?;
    Ok(Duration::from_nanos(nanos.parse()?))
}
