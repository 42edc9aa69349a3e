//! WebSocket as bytes, for what no library sends.

use crate::house::{House, SOON};
use tokio::io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A socket after its upgrade to WebSocket, and nothing of it yet.
pub(crate) async fn upgraded(house: &House) -> TcpStream {
    let mut stream = TcpStream::connect(house.websocket_loopback).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let request = "GET /mqtt HTTP/1.1\r\nhost: broker\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
        sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-protocol: mqtt\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(tokio::time::timeout(SOON, stream.read_u8()).await.unwrap().unwrap());
    }
    assert!(answer.starts_with(b"HTTP/1.1 101"));
    stream
}

/// A frame with a mask of zeros, which leaves the payload as it is.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        len @ 0..=125 => frame.push(0x80 | len as u8),
        len => {
            frame.push(0x80 | 126);
            frame.extend((len as u16).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

pub(crate) const BINARY: u8 = 0x82;
pub(crate) const PING: u8 = 0x89;

pub(crate) async fn send_all<S: AsyncWrite + Unpin>(stream: &mut S, bytes: &[u8]) {
    // The broker may have closed before it has all.
    drop(tokio::time::timeout(SOON, stream.write_all(bytes)).await.unwrap());
}

/// The codes of the Close frames among what the broker sent after the upgrade; 0 for one without.
pub(crate) fn close_codes(mut bytes: &[u8]) -> Vec<u16> {
    let mut codes = Vec::new();
    while let [first, length, rest @ ..] = bytes {
        let (length, rest) = match (*length, rest) {
            (126, [high, low, rest @ ..]) => (usize::from(u16::from_be_bytes([*high, *low])), rest),
            (length, rest) => (usize::from(length), rest),
        };
        let (payload, rest) = rest.split_at(length);
        if *first == 0x88 {
            codes.push(payload.first_chunk().map_or(0, |code| u16::from_be_bytes(*code)));
        }
        bytes = rest;
    }
    codes
}
