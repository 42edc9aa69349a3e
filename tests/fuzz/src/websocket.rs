//! MQTT over WebSocket: the upgrade and the frames, as the shell reads them, against frames by RFC 6455 §5.2.

// The shell's files (`upgrade.rs` and `wire.rs` too) and nothing else of the shell: a fuzzer builds all that a target needs anew.
#[path = "../../../broker/src/websocket.rs"]
mod shell;

use crate::wire::Wire as _;
use std::collections::VecDeque;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Largest packet: with what a frame may hold besides, more than any input.
const PACKET_BYTES_MAX: usize = 1 << 20;

/// Where a request ends that is fuzzed itself.
const REQUEST_BYTES: usize = 400;

const UPGRADE: &[u8] = b"GET /mqtt HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n";

/// The first byte says in which pieces the rest comes; 0 that it begins with the request for the upgrade, which is made
/// up otherwise.
///
/// What the broker reads is what the binary frames hold, up to the first that is none, in whatever pieces they come;
/// and everything ends.
pub fn websocket(input: &[u8]) {
    let Some((piece, stream)) = input.split_first() else { return };
    if *piece == 0 {
        let (request, frames) = stream.split_at(stream.len().min(REQUEST_BYTES));
        drop(read(request, frames, 7));
        return;
    }
    let read = read(UPGRADE, stream, usize::from(*piece)).expect("the upgrade is right");
    assert_eq!(read, payloads(stream));
}

/// What comes out of a request and what follows once it is answered; none when it is refused.
fn read(request: &[u8], frames: &[u8], piece: usize) -> Option<Vec<u8>> {
    let pipe = Pipe { request: request.to_vec().into(), frames: frames.to_vec().into(), piece };
    let pages = crate::upgrade::Pages { origins: &["https://hmi.example".to_owned()], is_tls: false };
    let limits = mqtt_proto::Limits { packet_bytes_max: PACKET_BYTES_MAX, ..mqtt_proto::Limits::default() };
    let mut frames = wait(shell::accept(pipe, pages, &limits)).ok()?;
    frames.connected();
    let mut all = Vec::new();
    loop {
        let mut space = [0; 512];
        let mut buffer = ReadBuf::new(&mut space);
        let read = std::future::poll_fn(|cx| Pin::new(&mut frames).poll_read(cx, &mut buffer));
        match wait(read) {
            Ok(()) if !buffer.filled().is_empty() => all.extend_from_slice(buffer.filled()),
            Ok(()) | Err(_) => return Some(all),
        }
    }
}

/// Waits for what only waits to let others have their turn.
fn wait<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let mut cx = Context::from_waker(Waker::noop());
    // No input has so many control frames that more turns are needed.
    for _ in 0..100_000 {
        if let Poll::Ready(done) = future.as_mut().poll(&mut cx) {
            return done;
        }
    }
    panic!("it never ends")
}

/// Bytes from a peer that then hangs up; what it is sent goes nowhere.
struct Pipe {
    request: VecDeque<u8>,
    frames: VecDeque<u8>,
    piece: usize,
}

impl AsyncRead for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { request, frames, piece } = &mut *self;
        // The request comes whole: bit by bit it is taken for an attack, and frames at its heels are refused.
        let (rest, piece) = if request.is_empty() { (frames, *piece) } else { (request, usize::MAX) };
        let count = piece.min(rest.len()).min(buf.remaining());
        buf.put_slice(&rest.drain(..count).collect::<Vec<_>>());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// One frame of a client; none where it is cut short or no frame that a client may send.
struct Frame {
    is_last: bool,
    opcode: u8,
    payload: Vec<u8>,
}

impl Frame {
    fn take<'a>(stream: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (head, rest) = stream.split_at_checked(2)?;
        let [first, second] = *head else { return None };
        let take = |count: usize, rest: &'a [u8]| {
            let (bytes, rest) = rest.split_at_checked(count)?;
            let number = bytes
                .iter()
                .try_fold(0_usize, |number, byte| number.checked_mul(256)?.checked_add(usize::from(*byte)))?;
            Some((number, rest))
        };
        let (len, rest) = match second & 0x7F {
            126 => take(2, rest)?,
            127 => take(8, rest)?,
            len => (usize::from(len), rest),
        };
        let (mask, rest) = rest.split_at_checked(4)?;
        let (payload, rest) = rest.split_at_checked(len)?;
        let payload = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
        let (is_last, reserved, opcode) = (first & 0x80 != 0, first & 0x70, first & 0x0F);
        let is_control = opcode >= 8;
        let is_known = matches!(opcode, 0 | 1 | 2 | 8 | 9 | 10);
        let is_right =
            second & 0x80 != 0 && reserved == 0 && is_known && !(is_control && (!is_last || len > 125));
        is_right.then_some((Self { is_last, opcode, payload }, rest))
    }
}

/// The payloads of the binary messages before the first frame that is wrong, text, or the close.
fn payloads(mut stream: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    let mut message: Option<Vec<u8>> = None;
    while let Some((frame, rest)) = Frame::take(stream) {
        stream = rest;
        match (frame.opcode, &mut message) {
            (9 | 10, _) => continue,
            (2, None) => message = Some(frame.payload),
            (0, Some(message)) => message.extend(frame.payload),
            _ => return all,
        }
        if frame.is_last {
            all.extend(message.take().unwrap_or_default());
        }
    }
    all
}
