//! Peers that connect without end.

use super::table::MEASURED;
use super::{beside, is_measured};
use crate::client::{bytes_of, connect};
use crate::house::{House, eventually};
use mqtt_proto::{Packet, Version};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Semaphore;

/// Connects that are attempted each second, where the machine can.
const PER_SEC: u64 = 10_000;
/// Attempts at one time.
const AT_ONCE: usize = 2_000;
/// How long one may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// Loopback addresses they come from: one has too few ports for as many.
const SOURCES: u64 = 50;

/// Connects from one of many addresses, says this, waits for the beginning of an answer if it said anything, and
/// resets the connection. Tells whether it got there.
async fn come_and_go(number: u64, address: SocketAddr, bytes: &[u8]) -> std::io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    // The last bytes of addresses: 127.0.0.2 and on.
    let source = Ipv4Addr::new(127, 0, 0, u8::try_from(2 + number % SOURCES).unwrap());
    socket.bind((source, 0).into())?;
    let mut stream = socket.connect(address).await?;
    if !bytes.is_empty() {
        stream.write_all(bytes).await?;
        stream.read_u8().await?;
    }
    stream.set_zero_linger()
}

/// Connects at a fixed rate, as far as the machine goes; returns how many got there.
async fn flood(address: SocketAddr, bytes: &Arc<[u8]>) -> u64 {
    let (places, done) = (Arc::new(Semaphore::new(AT_ONCE)), Arc::new(AtomicU64::new(0)));
    let (begun, mut next) = (Instant::now(), 0);
    while begun.elapsed() < MEASURED {
        let due = u64::try_from(begun.elapsed().as_millis()).unwrap() * PER_SEC / 1000;
        while next < due && begun.elapsed() < MEASURED {
            let place = Arc::clone(&places).acquire_owned().await.unwrap();
            let (done, bytes) = (Arc::clone(&done), Arc::clone(bytes));
            tokio::spawn(async move {
                let came = tokio::time::timeout(PATIENCE, come_and_go(next, address, &bytes)).await;
                done.fetch_add(u64::from(matches!(came, Ok(Ok(())))), Ordering::Relaxed);
                drop(place);
            });
            next += 1;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let all = u32::try_from(AT_ONCE).unwrap();
    drop(places.acquire_many(all).await.unwrap());
    done.load(Ordering::Relaxed)
}

/// Connects twenty times a hundred at once, and says this to every other hundred.
async fn bursts(address: SocketAddr, bytes: &[u8]) -> u64 {
    let mut count = 0;
    for round in 0..20 {
        let connects = (0..100).map(|_| TcpStream::connect(address));
        for stream in futures_util::future::join_all(connects).await {
            let Ok(mut stream) = stream else { continue };
            count += 1;
            if round % 2 == 0 {
                drop(stream.write_all(bytes).await);
            }
        }
    }
    count
}

/// What a peer does with its connection.
enum Way {
    Silent,
    Connect,
    Hello,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_connects_leave_nothing_behind() {
    let connect: Arc<[u8]> = bytes_of(&Packet::Connect(Box::new(connect(""))), Version::V5).into();
    for (name, way) in
        [("silent", Way::Silent), ("with CONNECT", Way::Connect), ("with ClientHello", Way::Hello)]
    {
        // Nothing of one is left to the next.
        let house = House::open(|_| {}).await;
        let (address, bytes) = match way {
            Way::Silent => (house.tcp, Arc::from([])),
            Way::Connect => (house.tcp, Arc::clone(&connect)),
            Way::Hello => (house.tls, house.client_hello().into()),
        };
        let bytes = &bytes;
        let attack = || async move {
            if is_measured() { flood(address, bytes).await } else { bursts(address, bytes).await }
        };
        beside(&house, (&format!("connects {name}"), "connects"), attack).await;
        eventually("all are gone", || house.hub.metrics().connections == 0).await;
        eventually("no session is left", || house.hub.metrics().sessions == 0).await;
        house.close().await;
    }
}
