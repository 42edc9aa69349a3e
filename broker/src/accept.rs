//! Accept loops: from a socket to a connection whose peer is proven and has sent its CONNECT. All that runs on the
//! threads for arrivals, since it costs much and may come to nothing; what follows runs on the connection's own.

use crate::arrivals::{Arrival, Source};
use crate::bulk::Bulk;
use crate::connection::{Arrived, Entrance, Refused, Visit, arrive, serve};
use crate::limits::{PEER_ASKED_AFTER, PEER_ASKED_EVERY, PEER_ASKED_TIMES};
use crate::threads::Thread;
use crate::upgrade::Pages;
use crate::wire::Wire;
use crate::{LocalClaims, LocalOrigin, Refusal, Server, websocket};
use broker_core::Listener;
use midge_identity::VerifiedPeer;
use midge_runtime::RateLimitedWarn;
use rustix::net::sockopt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Clients that cannot be accepted come again and again.
static NOT_ACCEPTED: RateLimitedWarn = RateLimitedWarn::new(Duration::from_secs(60));

/// What belongs to a peer while it is proven who it is.
struct Guest {
    thread: Thread,
    remote: Arc<str>,
    arrival: Arrival,
    /// Beyond what connections and arrivals together may be, a socket is closed at once.
    place: OwnedSemaphorePermit,
}

/// A TCP listener by what it asks of its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Tls,
    Tcp,
    WebsocketTls,
    WebsocketLoopback,
}

impl Way {
    /// Name in configuration, status and audit log.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::Tcp => "tcp",
            Self::WebsocketTls => "websocket-tls",
            Self::WebsocketLoopback => "websocket-loopback",
        }
    }
}

impl Server {
    pub(crate) async fn accept(
        self: &Arc<Self>,
        listener: Option<TcpListener>,
        way: Way,
    ) -> anyhow::Result<()> {
        let Some(listener) = listener else { return std::future::pending().await };
        // What it accepts is watched by the reactor of this thread.
        let listener = TcpListener::from_std(listener.into_std()?)?;
        loop {
            let Some((stream, remote)) = self.accepted(listener.accept().await).await else { continue };
            let source = Source::of(remote.ip());
            let Some(place) = self.place(way.name(), (&remote, source)) else { continue };
            let arrival = self.arrivals.enter(source).await;
            let thread = self.threads.next();
            let this = Arc::clone(self);
            self.tasks.spawn(async move {
                if let Err(error) = prepare(&stream) {
                    tracing::debug!(%error, "a socket keeps the system's own settings");
                }
                let guest = Guest { thread, remote: remote.to_string().into(), arrival, place };
                if let Err(refused) = this.welcome(stream, remote, way, guest).await {
                    this.refuse(way.name(), (&remote.to_string(), source), &refused);
                }
            });
        }
    }

    pub(crate) async fn accept_unix(self: &Arc<Self>, listener: Option<UnixListener>) -> anyhow::Result<()> {
        let Some(listener) = listener else { return std::future::pending().await };
        let listener = UnixListener::from_std(listener.into_std()?)?;
        loop {
            let Some((stream, _)) = self.accepted(listener.accept().await).await else { continue };
            let Some((pid, uid, gid)) = credentials(&stream) else { continue };
            let source = Source::User(uid);
            let remote: Arc<str> = format!("pid {pid} uid {uid}").into();
            let Some(place) = self.place("unix", (&remote, source)) else { continue };
            let arrival = self.arrivals.enter(source).await;
            let thread = self.threads.next();
            let this = Arc::clone(self);
            self.tasks.spawn(async move {
                let guest = Guest { thread, remote: Arc::clone(&remote), arrival, place };
                let origin = LocalOrigin::Unix { pid, uid, gid };
                if let Err(refused) = this.welcome_local(stream, origin, guest).await {
                    this.refuse("unix", (&remote, source), &refused);
                }
            });
        }
    }

    /// As [`Self::welcome`].
    async fn welcome_local(
        self: &Arc<Self>,
        stream: UnixStream,
        origin: LocalOrigin,
        guest: Guest,
    ) -> Result<(), Refused> {
        let claims = self.attest(origin, &guest.arrival).await?;
        let arrived = self.arrive(stream, Entrance::Local(claims), &guest).await?;
        let arrived = moved(arrived, |stream| guest.thread.adopt_unix(stream))?;
        self.run(arrived, &self.listeners.unix, guest).await
    }

    /// Proves who a peer is, and has it served once its CONNECT has come.
    async fn welcome(
        self: &Arc<Self>,
        stream: TcpStream,
        remote: SocketAddr,
        way: Way,
        guest: Guest,
    ) -> Result<(), Refused> {
        let (listener, arrival, thread) = (self.listeners.of(way), &guest.arrival, &guest.thread);
        match way {
            Way::Tls => {
                let (stream, peer) = self.shake(stream, arrival).await?;
                let arrived = self.arrive(stream, Entrance::Verified(peer), &guest).await?;
                let arrived = moved(arrived, |stream| adopt_tls(thread, stream))?;
                self.run(arrived, listener, guest).await
            }
            Way::Tcp => {
                let claims = self.attest(local_origin(&stream, remote)?, arrival).await?;
                let arrived = self.arrive(stream, Entrance::Local(claims), &guest).await?;
                let arrived = moved(arrived, |stream| thread.adopt_tcp(stream))?;
                self.run(arrived, listener, guest).await
            }
            // What is inside a WebSocket cannot be moved any more.
            Way::WebsocketTls => {
                let (stream, peer) = self.shake(stream, arrival).await?;
                let stream = adopt_tls(thread, stream).map_err(Refusal::from)?;
                let stream = arrival.within(self.upgrade(stream, true)).await??;
                let arrived = self.arrive(stream, Entrance::Verified(peer), &guest).await?;
                self.run(arrived, listener, guest).await
            }
            Way::WebsocketLoopback => {
                let claims = self.attest(local_origin(&stream, remote)?, arrival).await?;
                let stream = thread.adopt_tcp(stream).map_err(Refusal::from)?;
                let stream = arrival.within(self.upgrade(stream, false)).await??;
                let arrived = self.arrive(stream, Entrance::Local(claims), &guest).await?;
                self.run(arrived, listener, guest).await
            }
        }
    }

    async fn arrive<S: Wire>(
        &self,
        stream: S,
        entrance: Entrance,
        guest: &Guest,
    ) -> Result<Arrived<Box<S>>, Refused> {
        // A task keeps room for a value in each place that it was moved to.
        let stream = Box::new(stream);
        arrive(&*self.parts.admission, stream, entrance, &guest.arrival, &self.limits).await
    }

    /// Shakes hands with a client that has to show its SVID.
    async fn shake(
        &self,
        stream: TcpStream,
        arrival: &Arrival,
    ) -> Result<(TlsStream<Bulk<TcpStream>>, VerifiedPeer), Refusal> {
        let acceptor = TlsAcceptor::from(Arc::clone(&self.parts.tls));
        let shaken = arrival.in_turns(acceptor.accept(Bulk::new(stream))).await;
        let stream = shaken?.map_err(|error| {
            let reason =
                midge_pki::rejection_of(&error).map_or_else(|| error.to_string(), ToString::to_string);
            Refusal(format!("TLS handshake: {reason}"))
        })?;
        let peer = midge_pki::peer_of(stream.get_ref().1, &*self.parts.trust);
        Ok((stream, peer.map_err(|rejection| Refusal(rejection.to_string()))?))
    }

    async fn attest(&self, origin: LocalOrigin, arrival: &Arrival) -> Result<Box<dyn LocalClaims>, Refusal> {
        arrival.within(self.parts.admission.attest(origin)).await?
    }

    async fn upgrade<S>(&self, stream: S, is_tls: bool) -> Result<websocket::Frames<S>, Refusal>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let pages = Pages { origins: &self.origins, is_tls };
        websocket::accept(stream, pages, &self.limits.codec).await
    }

    /// Serves a peer on its thread from now on.
    async fn run<S>(
        self: &Arc<Self>,
        arrived: Arrived<S>,
        listener: &Arc<Listener>,
        guest: Guest,
    ) -> Result<(), Refused>
    where
        S: Wire + Send + 'static,
    {
        let (this, listener) = (Arc::clone(self), Arc::clone(listener));
        let Guest { thread, remote, arrival, place } = guest;
        let turn = arrival.waits_for(Arc::clone(&self.openings).acquire_owned()).await?;
        let turn = turn.map_err(|closed| Refusal(closed.to_string()))?;
        drop(arrival);
        let serving = async move {
            let visit = Visit { from: (&listener, &remote), limits: &this.limits, turn };
            serve(&this.hub, &*this.parts.admission, arrived, visit).await;
            drop(place);
        };
        self.tasks.spawn_on(serving, thread.handle());
        Ok(())
    }

    fn refuse(&self, listener: &str, from: (&str, Source), refused: &Refused) {
        self.hub.refused(listener, from, refused.client_id.as_deref(), &refused.refusal);
    }

    /// Each socket costs a file descriptor, and the process must keep some for itself.
    fn place(&self, listener: &str, from: (&dyn fmt::Display, Source)) -> Option<OwnedSemaphorePermit> {
        let place = Arc::clone(&self.sockets).try_acquire_owned().ok();
        if place.is_none() {
            self.hub.traffic().refused();
            let full = Refusal("as many connections as connections-max and arrivals-max allow".into());
            self.hub.refused(listener, (&from.0.to_string(), from.1), None, &full);
        }
        place
    }

    /// Running out of file descriptors must not end the listener nor spin: it passes when clients go.
    async fn accepted<T>(&self, result: io::Result<T>) -> Option<T> {
        let error = match result {
            Ok(accepted) => {
                self.hub.traffic().accepted();
                return Some(accepted);
            }
            Err(error) => error,
        };
        if !matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) {
            self.hub.traffic().failed();
            if let Some(suppressed) = NOT_ACCEPTED.occurred() {
                tracing::warn!(%error, suppressed, "no connection can be accepted, trying again");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        None
    }
}

/// Has what a peer is served on moved to its thread.
fn moved<S>(
    arrived: Arrived<Box<S>>,
    to: impl FnOnce(S) -> io::Result<S>,
) -> Result<Arrived<Box<S>>, Refusal> {
    Ok(arrived.moved(|stream| to(*stream).map(Box::new))?)
}

fn adopt_tls(
    thread: &Thread,
    mut stream: TlsStream<Bulk<TcpStream>>,
) -> io::Result<TlsStream<Bulk<TcpStream>>> {
    stream.get_mut().0.move_socket(|socket| thread.adopt_tcp(socket))?;
    Ok(stream)
}

/// Settings of every TCP socket, whatever speaks through it.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    // Small answers must not wait for more (without, 200 TLS connects one after the other took 8.4 s).
    stream.set_nodelay(true)?;
    sockopt::set_tcp_keepidle(stream, PEER_ASKED_AFTER)?;
    sockopt::set_tcp_keepintvl(stream, PEER_ASKED_EVERY)?;
    sockopt::set_tcp_keepcnt(stream, PEER_ASKED_TIMES)?;
    Ok(sockopt::set_socket_keepalive(stream, true)?)
}

fn local_origin(stream: &TcpStream, peer: SocketAddr) -> Result<LocalOrigin, Refusal> {
    let local = stream.local_addr()?;
    Ok(LocalOrigin::Tcp { peer, local })
}

fn credentials(stream: &UnixStream) -> Option<(u32, u32, u32)> {
    let credentials = stream.peer_cred().ok()?;
    Some((u32::try_from(credentials.pid()?).ok()?, credentials.uid(), credentials.gid()))
}

impl Wire for TcpStream {}
impl Wire for UnixStream {}
impl Wire for TlsStream<Bulk<TcpStream>> {}
#[cfg(test)]
impl Wire for tokio::io::DuplexStream {}

#[cfg(test)]
mod tests {
    use super::*;

    // A peer that vanishes without a word cannot be made on one machine: that the kernel will ask for it can be seen.
    #[tokio::test]
    async fn the_kernel_asks_for_peers_that_say_nothing() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (far, _) = listener.accept().await.unwrap();
        prepare(&far).unwrap();
        let asks = |stream: &TcpStream| sockopt::socket_keepalive(stream).unwrap();
        // The twin: by itself it asks for nobody.
        assert_eq!([asks(&far), asks(&near)], [true, false]);
        assert_eq!(sockopt::tcp_keepidle(&far).unwrap(), PEER_ASKED_AFTER);
        assert_eq!(sockopt::tcp_keepintvl(&far).unwrap(), PEER_ASKED_EVERY);
        assert_eq!(sockopt::tcp_keepcnt(&far).unwrap(), PEER_ASKED_TIMES);
        assert!(far.nodelay().unwrap());
    }
}
