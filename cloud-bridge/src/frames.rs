//! Messages on a websocket: JSON text frames out, text or binary in, reassembled and bounded.

use crate::limits::{
    INCOMING_BYTES_MAX, INCOMING_MESSAGES_MAX, MESSAGE_BYTES_MAX, MESSAGE_WEIGHT_MAX, OUTGOING_MESSAGES_MAX,
    WRITE_TIMEOUT,
};
use bridge_core::{DecodeError, Message};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use std::sync::Arc;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error as WsError, Message as Frame};

/// Why a connection ended.
#[derive(Debug, Error)]
pub(crate) enum ChannelError {
    /// The peer closed it.
    #[error("the other end closed the connection")]
    Closed,
    /// The socket or the framing failed.
    #[error("websocket: {0}")]
    Websocket(Box<WsError>),
    /// A message that is none.
    #[error(transparent)]
    Message(#[from] DecodeError),
    /// A message of very many small values.
    #[error("a message takes {weight} bytes of memory, the limit is {max}")]
    Heavy {
        /// What it takes in bytes.
        weight: usize,
        /// Limit in bytes.
        max: usize,
    },
    /// The peer does not read.
    #[error("the other end takes no messages for {} s", WRITE_TIMEOUT.as_secs())]
    Stuck,
    /// A message that cannot be encoded: a bug.
    #[error("cannot encode a message: {0}")]
    Encode(#[from] serde_json::Error),
}

impl From<WsError> for ChannelError {
    fn from(error: WsError) -> Self {
        match error {
            WsError::ConnectionClosed | WsError::AlreadyClosed => Self::Closed,
            // A process that ends closes neither websocket nor TLS.
            WsError::Io(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Self::Closed,
            other => Self::Websocket(Box::new(other)),
        }
    }
}

pub(crate) fn websocket_config() -> WebSocketConfig {
    WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX))
        .read_buffer_size(8 * 1024)
        .write_buffer_size(0)
        .max_write_buffer_size(2 * MESSAGE_BYTES_MAX)
}

/// A message, or the end; with its share of what may wait, which is given back when it is taken.
type Incoming = (Result<Message, ChannelError>, Option<OwnedSemaphorePermit>);

/// A connection with a reader and a writer of its own, so that neither waits for the other.
/// Dropping it aborts both.
#[derive(Debug)]
pub(crate) struct Channel {
    outgoing: mpsc::Sender<Message>,
    incoming: mpsc::Receiver<Incoming>,
    tasks: JoinSet<()>,
}

impl Channel {
    pub(crate) fn new<S>(socket: WebSocketStream<S>) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (outgoing, to_write) = mpsc::channel(OUTGOING_MESSAGES_MAX);
        let (from_peer, incoming) = mpsc::channel(INCOMING_MESSAGES_MAX);
        let (sink, stream) = socket.split();
        let mut tasks = JoinSet::new();
        tasks.spawn(read(stream, from_peer.clone(), INCOMING_BYTES_MAX));
        tasks.spawn(write(sink, to_write, from_peer));
        Self { outgoing, incoming, tasks }
    }

    /// Hands a message to the writer.
    ///
    /// # Errors
    /// The peer has not taken what was sent before.
    pub(crate) fn send(&self, message: Message) -> Result<(), ChannelError> {
        self.outgoing.try_send(message).map_err(|_| ChannelError::Stuck)
    }

    /// Next message of the peer, or why there is none any more.
    pub(crate) async fn next(&mut self) -> Result<Message, ChannelError> {
        self.incoming.recv().await.map_or(Err(ChannelError::Closed), |(message, _)| message)
    }

    /// Lets the writer finish what it has, says goodbye, and ends.
    pub(crate) async fn close(mut self) {
        drop(self.outgoing);
        let finish = async { while self.tasks.join_next().await.is_some() {} };
        drop(self.incoming);
        // Whoever does not read the goodbye is not waited for.
        drop(tokio::time::timeout(std::time::Duration::from_secs(1), finish).await);
    }
}

async fn read<S>(mut stream: SplitStream<WebSocketStream<S>>, to: mpsc::Sender<Incoming>, bytes_max: u32)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let room = Arc::new(Semaphore::new(bytes_max as usize));
    loop {
        let next = tokio::select! {
            () = to.closed() => return,
            next = stream.next() => next,
        };
        let result = match next {
            None => Err(ChannelError::Closed),
            Some(Err(error)) => Err(error.into()),
            Some(Ok(frame)) => match decode(&frame) {
                Some(result) => result,
                None => continue,
            },
        };
        let weight = result.as_ref().map_or(0, Message::weight);
        let weight = u32::try_from(weight).unwrap_or(u32::MAX).min(bytes_max);
        let permit = tokio::select! {
            () = to.closed() => return,
            permit = Arc::clone(&room).acquire_many_owned(weight) => permit.ok(),
        };
        let ended = result.is_err();
        if to.send((result, permit)).await.is_err() || ended {
            return;
        }
    }
}

fn decode(frame: &Frame) -> Option<Result<Message, ChannelError>> {
    let bytes: &[u8] = match frame {
        Frame::Text(text) => text.as_bytes(),
        Frame::Binary(bytes) => bytes,
        Frame::Close(_) => return Some(Err(ChannelError::Closed)),
        Frame::Ping(_) | Frame::Pong(_) | Frame::Frame(_) => return None,
    };
    let message = Message::decode(bytes, MESSAGE_BYTES_MAX).map_err(ChannelError::from);
    Some(message.and_then(|message| not_too_heavy(message, MESSAGE_WEIGHT_MAX)))
}

fn not_too_heavy(message: Message, max: usize) -> Result<Message, ChannelError> {
    match message.weight() {
        weight if weight > max => Err(ChannelError::Heavy { weight, max }),
        _ => Ok(message),
    }
}

async fn write<S>(
    mut sink: SplitSink<WebSocketStream<S>, Frame>,
    mut messages: mpsc::Receiver<Message>,
    failed: mpsc::Sender<Incoming>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(message) = messages.recv().await {
        if let Err(error) = write_one(&mut sink, &message).await {
            // The reader's end has gone when nobody listens.
            drop(failed.send((Err(error), None)).await);
            return;
        }
    }
    drop(tokio::time::timeout(WRITE_TIMEOUT, sink.close()).await);
}

async fn write_one<S>(
    sink: &mut SplitSink<WebSocketStream<S>, Frame>,
    message: &Message,
) -> Result<(), ChannelError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let frame = Frame::text(message.encode()?);
    match tokio::time::timeout(WRITE_TIMEOUT, sink.send(frame)).await {
        Ok(sent) => Ok(sent?),
        Err(_) => Err(ChannelError::Stuck),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bridge_core::{MessageIds, Now, Route};
    use serde_json::json;
    use tokio_tungstenite::tungstenite::protocol::Role;

    fn message(ids: &mut MessageIds) -> Message {
        let route = Route::new("edgehub", "resource", "insert", "audit/a");
        Message::new(ids, Now::default(), route, json!(vec![1; 1000]))
    }

    #[test]
    fn a_message_may_weigh_up_to_the_limit() {
        let message = message(&mut MessageIds::new(1));
        let weight = message.weight();
        assert!(matches!(not_too_heavy(message.clone(), weight - 1), Err(ChannelError::Heavy { .. })));
        assert!(not_too_heavy(message, weight).is_ok());
    }

    // One thread and no real socket: whoever can go on has gone on after some turns.
    async fn rest() {
        for _ in 0..200 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn what_has_been_read_and_not_taken_is_bounded_by_what_it_weighs() {
        let mut ids = MessageIds::new(1);
        let weight = u32::try_from(message(&mut ids).weight()).unwrap();
        // One alone always fits.
        for (bytes_max, waiting) in [(1, 1), (weight, 1), (2 * weight, 2), (4 * weight, 3)] {
            let (near, far) = tokio::io::duplex(1 << 20);
            let mut peer = WebSocketStream::from_raw_socket(near, Role::Client, None).await;
            let hub = WebSocketStream::from_raw_socket(far, Role::Server, None).await;
            let (to, mut incoming) = mpsc::channel(INCOMING_MESSAGES_MAX);
            let reader = tokio::spawn(read(hub.split().1, to, bytes_max));
            for _ in 0..3 {
                peer.send(Frame::text(message(&mut ids).encode().unwrap())).await.unwrap();
            }
            rest().await;
            assert_eq!(incoming.len(), waiting, "{bytes_max}");
            for _ in 0..3 {
                assert!(incoming.recv().await.unwrap().0.is_ok());
                rest().await;
            }
            reader.abort();
        }
    }
}
