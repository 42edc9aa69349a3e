//! A timer without slack: waits of `poll` are rounded up to milliseconds.

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::Duration;

pub(crate) struct Timer(OwnedFd);

impl Timer {
    /// Returns a timer that makes its token ready at every interval, which is below a second.
    pub(crate) fn new(interval: Duration, registry: &Registry, token: Token) -> anyhow::Result<Self> {
        let fd = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK)?;
        let each = Timespec { tv_sec: 0, tv_nsec: interval.subsec_nanos().into() };
        timerfd_settime(&fd, TimerfdTimerFlags::empty(), &Itimerspec { it_interval: each, it_value: each })?;
        registry.register(&mut SourceFd(&fd.as_raw_fd()), token, Interest::READABLE)?;
        Ok(Self(fd))
    }

    /// Lets the timer be ready again.
    pub(crate) fn clear(&self) {
        // Nothing to read says that it was not due.
        rustix::io::read(&self.0, &mut [0; 8]).unwrap_or_default();
    }
}
