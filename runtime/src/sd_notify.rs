//! The service manager's protocol.

use crate::health::Health;
use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// Tells the service manager how the process is doing, over the socket it named; does nothing where there is none.
#[derive(Clone, Debug)]
pub struct ServiceNotifier {
    socket: Option<SocketAddr>,
    watchdog: Option<Duration>,
}

impl ServiceNotifier {
    /// Returns the notifier for this process, as `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID` say.
    pub fn from_env() -> Self {
        let text = |name| env::var(name).ok();
        let watchdog = watchdog_interval(text("WATCHDOG_USEC").as_deref(), text("WATCHDOG_PID").as_deref());
        Self::new(env::var_os("NOTIFY_SOCKET").as_deref(), watchdog)
    }

    fn new(socket: Option<&OsStr>, watchdog: Option<Duration>) -> Self {
        let socket = socket.and_then(|name| match address(name) {
            Ok(address) => Some(address),
            Err(error) => {
                warn!(socket = ?name, %error, "NOTIFY_SOCKET is not usable");
                None
            }
        });
        Self { socket, watchdog }
    }

    /// Says that the process serves.
    pub fn ready(&self) {
        self.send("READY=1");
    }

    /// Says that the process has begun to stop.
    pub fn stopping(&self) {
        self.send("STOPPING=1");
    }

    /// Says in one line what the process is doing.
    pub fn status(&self, line: &str) {
        self.send(&format!("STATUS={}", line.replace('\n', " ")));
    }

    /// Pings the service manager's watchdog at half its time, as long as `health` is live; then the
    /// manager restarts the process. Ends at once where no watchdog is asked for.
    ///
    /// # Errors
    /// Never fails; the type is what a supervisor runs.
    pub async fn run_watchdog(self, health: Arc<Health>, token: CancellationToken) -> anyhow::Result<()> {
        let (Some(watchdog), Some(_)) = (self.watchdog, &self.socket) else { return Ok(()) };
        let mut ticks = interval((watchdog / 2).max(Duration::from_millis(1)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while token.run_until_cancelled(ticks.tick()).await.is_some() {
            let live = health.live();
            if live.ok {
                self.send("WATCHDOG=1");
            } else {
                warn!(failing = ?live.failing, "not live; the watchdog is not pinged");
            }
        }
        Ok(())
    }

    fn send(&self, message: &str) {
        let Some(socket) = &self.socket else { return };
        // A service manager that went away must not stop the service.
        let sent = UnixDatagram::unbound().and_then(|datagram| {
            datagram.set_nonblocking(true)?;
            datagram.send_to_addr(message.as_bytes(), socket)
        });
        if let Err(error) = sent {
            debug!(message, %error, "service manager not told");
        }
    }
}

/// `@name` is in Linux's abstract namespace; everything else is a path.
fn address(name: &OsStr) -> io::Result<SocketAddr> {
    match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(name),
    }
}

/// `WATCHDOG_PID` names the process that is to ping; a child that inherited the variables is not it.
fn watchdog_interval(micros: Option<&str>, pid: Option<&str>) -> Option<Duration> {
    let micros = micros?.parse().ok().filter(|micros| *micros > 0)?;
    let mine = pid.is_none_or(|pid| pid.parse() == Ok(std::process::id()));
    mine.then(|| Duration::from_micros(micros))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::CheckKind;

    #[test]
    fn messages_reach_a_path_socket() {
        let directory = tempfile::TempDir::new().unwrap();
        let path = directory.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let notifier = ServiceNotifier::new(Some(path.as_os_str()), None);
        notifier.ready();
        notifier.status("serving\n3 listeners");
        notifier.stopping();
        assert_eq!(
            [next(&manager), next(&manager), next(&manager)],
            ["READY=1", "STATUS=serving 3 listeners", "STOPPING=1"]
        );
    }

    #[test]
    fn messages_reach_an_abstract_socket() {
        let name = format!("midge-notify-{}", std::process::id());
        let manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        ServiceNotifier::new(Some(OsStr::new(&format!("@{name}"))), None).ready();
        assert_eq!(next(&manager), "READY=1");
    }

    #[test]
    fn without_a_manager_nothing_happens() {
        ServiceNotifier::new(None, None).ready();
        ServiceNotifier::new(Some(OsStr::new("/nonexistent/notify")), None).ready();
    }

    #[test]
    fn watchdog_is_for_the_named_process_only() {
        let mine = std::process::id().to_string();
        let secs = Some(Duration::from_secs(2));
        assert_eq!(watchdog_interval(Some("2000000"), Some(&mine)), secs);
        assert_eq!(watchdog_interval(Some("2000000"), None), secs);
        assert_eq!(watchdog_interval(Some("2000000"), Some("1")), None);
        assert_eq!(watchdog_interval(Some("0"), None), None);
        assert_eq!(watchdog_interval(Some("soon"), None), None);
        assert_eq!(watchdog_interval(None, None), None);
    }

    #[tokio::test(start_paused = true)]
    async fn watchdog_is_pinged_at_half_time_while_live() {
        let directory = tempfile::TempDir::new().unwrap();
        let path = directory.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        manager.set_nonblocking(true).unwrap();
        let health = Arc::new(Health::new());
        let check = health.register("hub", CheckKind::Liveness);
        check.ok();
        let token = CancellationToken::new();
        let notifier = ServiceNotifier::new(Some(path.as_os_str()), Some(Duration::from_secs(10)));
        let watchdog = tokio::spawn(notifier.run_watchdog(Arc::clone(&health), token.clone()));

        tokio::time::sleep(Duration::from_millis(20_100)).await;
        assert_eq!(pings(&manager), 5, "at 0, 5, 10, 15 and 20 s");
        check.failing("hub does not answer");
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert_eq!(pings(&manager), 0);
        token.cancel();
        watchdog.await.unwrap().unwrap();
    }

    fn next(manager: &UnixDatagram) -> String {
        manager.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut buffer = [0; 256];
        let length = manager.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    fn pings(manager: &UnixDatagram) -> usize {
        let mut buffer = [0; 64];
        std::iter::from_fn(|| manager.recv(&mut buffer).ok()).count()
    }
}
