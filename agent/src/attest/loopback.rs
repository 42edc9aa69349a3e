//! Who owns the other end of a TCP connection over loopback.
//!
//! Owns the way from a pair of addresses to the socket's inode and user, and from the inode to
//! the process. Leaves attestation of that process to [`super::Attestor`].

use super::diag;
use rustix::{
    fd::OwnedFd,
    fs::{AtFlags, Mode, OFlags, RawDir},
    io::Errno,
};
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs::File,
    io::{self, BufRead, BufReader},
    mem::MaybeUninit,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    os::unix::fs::MetadataExt,
    path::Path,
};

/// States of the kernel's tcp_states.h in which the end of a client that connected may be held by a process: ESTABLISHED,
/// and FIN_WAIT1, FIN_WAIT2 and CLOSING, where it has said that nothing more comes.
pub(super) const HELD: [u8; 4] = [1, 4, 5, 11];

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
const DIRECTORY_BUFFER_BYTES: usize = 8 * 1024;

/// Who owns a local socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalPeer {
    /// The process, where it can be told: `/proc` may hide it, and several programs may share the socket.
    pub pid: Option<u32>,
    /// The user the socket belongs to.
    pub uid: u32,
    /// Effective group of the process, where that is known.
    pub gid: Option<u32>,
    /// When the process started, in clock ticks since boot, where it is known.
    pub start_ticks: Option<u64>,
}

/// Why the owner of a loopback socket is not known.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoopbackError {
    /// One end is not on this machine's loopback.
    #[error("{0} is not a loopback address: only local connections can be attested")]
    NotLoopback(SocketAddr),
    /// The kernel knows no such connection.
    #[error(
        "the kernel knows no connection from {peer} to {local}: it may have closed, or come from another network namespace"
    )]
    NoSocket {
        /// The client's address.
        peer: SocketAddr,
        /// The listener's address.
        local: SocketAddr,
    },
    /// The socket is held by a process of another user.
    #[error("the socket of user {uid} is held by process {pid} of user {holder}")]
    OtherUser {
        /// User of the socket.
        uid: u32,
        /// Process that holds it.
        pid: u32,
        /// User of that process.
        holder: u32,
    },
    /// The kernel's tables cannot be read.
    #[error("cannot read {path}: {error}")]
    Proc {
        /// File.
        path: String,
        /// What went wrong.
        error: io::Error,
    },
}

/// Returns who owns the client end of the connection that a listener at `local` accepted from `peer`.
///
/// # Errors
/// When the connection is not local, is gone, or is held by a process of another user than the socket's.
pub fn owner_of_loopback(peer: SocketAddr, local: SocketAddr) -> Result<LocalPeer, LoopbackError> {
    let socket = socket_of(peer, local)?;
    let holders = holders(socket.uid, &format!("socket:[{}]", socket.inode));
    let Some(holder) = single_program(&holders) else {
        return Ok(LocalPeer { pid: None, uid: socket.uid, gid: None, start_ticks: None });
    };
    // Bytes written before a change of user would be taken for the new user's.
    if holder.uid != socket.uid {
        return Err(LoopbackError::OtherUser { uid: socket.uid, pid: holder.pid, holder: holder.uid });
    }
    Ok(LocalPeer {
        pid: Some(holder.pid),
        uid: socket.uid,
        gid: Some(holder.gid),
        start_ticks: Some(holder.start_ticks),
    })
}

/// Returns the user whose socket the client end is, whatever process holds it: that costs the same however many
/// sockets and processes there are.
///
/// # Errors
/// When the connection is not local, or is gone.
pub fn user_of_loopback(peer: SocketAddr, local: SocketAddr) -> Result<u32, LoopbackError> {
    Ok(socket_of(peer, local)?.uid)
}

fn socket_of(peer: SocketAddr, local: SocketAddr) -> Result<Socket, LoopbackError> {
    for address in [peer, local] {
        if !is_loopback(address.ip()) {
            return Err(LoopbackError::NotLoopback(address));
        }
    }
    find_socket(peer, local)?.ok_or(LoopbackError::NoSocket { peer, local })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Socket {
    pub(super) uid: u32,
    pub(super) inode: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Holder {
    pid: u32,
    uid: u32,
    gid: u32,
    start_ticks: u64,
    program: Option<(u64, u64)>,
}

fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

fn find_socket(client: SocketAddr, server: SocketAddr) -> Result<Option<Socket>, LoopbackError> {
    let (client, server) = (canonical(client), canonical(server));
    if let Ok(found) = ask_kernel(client, server) {
        return Ok(found);
    }
    if client.is_ipv4()
        && let Some(socket) = find_row("/proc/net/tcp", client, server)?
    {
        return Ok(Some(socket));
    }
    // An IPv6 socket connected to an IPv4 address is listed with mapped addresses.
    find_row("/proc/net/tcp6", mapped(client), mapped(server))
}

fn ask_kernel(client: SocketAddr, server: SocketAddr) -> Result<Option<Socket>, Errno> {
    let found = diag::find_socket(client, server)?;
    // The kernel knows an IPv6 socket connected to an IPv4 address by mapped addresses.
    if found.is_none() && client.is_ipv4() {
        return diag::find_socket(mapped(client), mapped(server));
    }
    Ok(found)
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn mapped(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(v4) => SocketAddr::new(v4.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    }
}

fn find_row(path: &str, client: SocketAddr, server: SocketAddr) -> Result<Option<Socket>, LoopbackError> {
    let failed = |error| LoopbackError::Proc { path: path.to_owned(), error };
    let file = match File::open(path) {
        Ok(file) => file,
        // No IPv6 in this kernel.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let (client, server) = (hex_address(client), hex_address(server));
    let mut reader = BufReader::with_capacity(64 * 1024, file);
    let mut line = String::with_capacity(256);
    loop {
        line.clear();
        if reader.read_line(&mut line).map_err(failed)? == 0 {
            return Ok(None);
        }
        if let Some(socket) = parse_row(&line, &client, &server) {
            return Ok(Some(socket));
        }
    }
}

// sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode …
fn parse_row(line: &str, client: &str, server: &str) -> Option<Socket> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    if fields.next()? != client || fields.next()? != server {
        return None;
    }
    let state = u8::from_str_radix(fields.next()?, 16).ok()?;
    if !HELD.contains(&state) {
        return None;
    }
    let uid = fields.nth(3)?.parse().ok()?;
    let inode = fields.nth(1)?.parse().ok()?;
    // A socket no process has open any more.
    (inode != 0).then_some(Socket { uid, inode })
}

fn hex_address(address: SocketAddr) -> String {
    let mut text = String::with_capacity(37);
    let words: &[[u8; 4]] = match address.ip() {
        IpAddr::V4(v4) => &[v4.octets()],
        IpAddr::V6(v6) => &words(v6),
    };
    for word in words {
        // The kernel prints 32-bit words as its own machine reads them.
        append(&mut text, format_args!("{:08X}", u32::from_ne_bytes(*word)));
    }
    append(&mut text, format_args!(":{:04X}", address.port()));
    text
}

fn append(text: &mut String, piece: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    text.write_fmt(piece).unwrap_or_default();
}

fn words(address: Ipv6Addr) -> [[u8; 4]; 4] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = address.octets();
    [[a, b, c, d], [e, f, g, h], [i, j, k, l], [m, n, o, p]]
}

/// Every process of the socket's user that visibly has it open.
///
/// Processes of other users are passed over, except root's, whose directories those of programs
/// without core dumps look like. A user who hands his connection to another speaks for himself.
fn holders(uid: u32, link: &str) -> Vec<Holder> {
    let Ok(proc) = rustix::fs::open("/proc", DIRECTORY, Mode::empty()) else { return Vec::new() };
    let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
    let mut buffer = vec![MaybeUninit::uninit(); DIRECTORY_BUFFER_BYTES];
    processes
        .flatten()
        .filter_map(|item| {
            let pid: u32 = item.file_name().to_str()?.parse().ok()?;
            let owner = rustix::fs::statat(&proc, item.file_name(), AtFlags::empty()).ok()?.st_uid;
            if (owner != uid && owner != 0) || !has_open(&proc, pid, link, &mut buffer) {
                return None;
            }
            let holder = describe(pid, &item.path())?;
            // Still the same process, still holding it: the pid has not been reused meanwhile.
            has_open(&proc, pid, link, &mut buffer).then_some(holder)
        })
        .collect()
}

fn has_open(proc: &OwnedFd, pid: u32, link: &str, buffer: &mut [MaybeUninit<u8>]) -> bool {
    let Ok(open) = rustix::fs::openat(proc, format!("{pid}/fd"), DIRECTORY, Mode::empty()) else {
        return false;
    };
    // Longer than any "socket:[inode]".
    let mut target = [MaybeUninit::uninit(); 64];
    let mut descriptors = RawDir::new(&open, buffer);
    while let Some(Ok(descriptor)) = descriptors.next() {
        let read = rustix::fs::readlinkat_raw(&open, descriptor.file_name(), &mut target);
        if read.is_ok_and(|(target, _)| target == link.as_bytes()) {
            return true;
        }
    }
    false
}

fn describe(pid: u32, process: &Path) -> Option<Holder> {
    let status = super::status::Status::parse(&read_lossy(&process.join("status"))?).ok()?;
    let start_ticks = super::status::start_ticks(&read_lossy(&process.join("stat"))?).ok()?;
    let program = std::fs::metadata(process.join("exe")).ok().map(|file| (file.dev(), file.ino()));
    Some(Holder { pid, uid: status.uid, gid: status.gid, start_ticks, program })
}

fn read_lossy(path: &Path) -> Option<String> {
    std::fs::read(path).ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// Returns the oldest holder if all are the same program run by the same user and group.
///
/// Of several programs sharing a socket any may have written what was read: none can be named.
fn single_program(holders: &[Holder]) -> Option<&Holder> {
    let by_age: BTreeMap<(u64, u32), &Holder> =
        holders.iter().map(|holder| ((holder.start_ticks, holder.pid), holder)).collect();
    let (_, oldest) = by_age.first_key_value()?;
    let same = |holder: &Holder| {
        (holder.uid, holder.gid, holder.program) == (oldest.uid, oldest.gid, oldest.program)
    };
    (holders.len() == 1 || (oldest.program.is_some() && holders.iter().all(same))).then_some(oldest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    fn holder(pid: u32, start_ticks: u64, program: u64) -> Holder {
        Holder { pid, uid: 1000, gid: 1000, start_ticks, program: Some((1, program)) }
    }

    fn connect(listen: SocketAddr, to: impl Fn(u16) -> SocketAddr) -> (TcpStream, TcpStream, SocketAddr) {
        let listener = TcpListener::bind(listen).unwrap();
        let client = TcpStream::connect(to(listener.local_addr().unwrap().port())).unwrap();
        let (accepted, peer) = listener.accept().unwrap();
        (client, accepted, peer)
    }

    fn assert_own(accepted: &TcpStream, peer: SocketAddr) {
        let found = owner_of_loopback(peer, accepted.local_addr().unwrap()).unwrap();
        assert_eq!(found.pid, Some(std::process::id()));
        assert_eq!(found.uid, rustix::process::geteuid().as_raw());
        assert_eq!(found.gid, Some(rustix::process::getegid().as_raw()));
    }

    #[test]
    fn the_owner_of_an_ipv4_connection_is_found() {
        let (_client, accepted, peer) =
            connect((Ipv4Addr::LOCALHOST, 0).into(), |port| (Ipv4Addr::LOCALHOST, port).into());
        assert_own(&accepted, peer);
    }

    #[test]
    fn the_owner_of_ipv6_and_mapped_connections_is_found() {
        // Without IPv6 on the machine there is nothing to find.
        if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
            return;
        }
        let (_client, accepted, peer) =
            connect((Ipv6Addr::LOCALHOST, 0).into(), |port| (Ipv6Addr::LOCALHOST, port).into());
        assert_own(&accepted, peer);
        let (_client, accepted, peer) = connect((Ipv4Addr::LOCALHOST, 0).into(), |port| {
            (Ipv4Addr::LOCALHOST.to_ipv6_mapped(), port).into()
        });
        assert_own(&accepted, peer);
    }

    // What it has sent before is its own, and it may wait for the answer.
    #[test]
    fn who_has_closed_its_side_only_still_owns_the_connection() {
        let (client, accepted, peer) =
            connect((Ipv4Addr::LOCALHOST, 0).into(), |port| (Ipv4Addr::LOCALHOST, port).into());
        client.shutdown(std::net::Shutdown::Write).unwrap();
        assert_own(&accepted, peer);
        // As the table says it where the kernel cannot be asked.
        let found = find_row("/proc/net/tcp", peer, accepted.local_addr().unwrap()).unwrap();
        assert_eq!(found.map(|socket| socket.uid), Some(rustix::process::geteuid().as_raw()));
        drop(client);
        let gone = find_row("/proc/net/tcp", peer, accepted.local_addr().unwrap()).unwrap();
        assert_eq!(gone, None);
    }

    #[test]
    fn a_closed_or_foreign_connection_has_no_owner() {
        let (client, accepted, peer) =
            connect((Ipv4Addr::LOCALHOST, 0).into(), |port| (Ipv4Addr::LOCALHOST, port).into());
        let local = accepted.local_addr().unwrap();
        drop(client);
        assert!(matches!(owner_of_loopback(peer, local), Err(LoopbackError::NoSocket { .. })));
        let outside: SocketAddr = "192.0.2.1:5000".parse().unwrap();
        assert!(matches!(user_of_loopback(peer, local), Err(LoopbackError::NoSocket { .. })));
        assert!(matches!(user_of_loopback(outside, local), Err(LoopbackError::NotLoopback(_))));
        assert!(matches!(owner_of_loopback(outside, local), Err(LoopbackError::NotLoopback(_))));
        assert!(matches!(owner_of_loopback(peer, outside), Err(LoopbackError::NotLoopback(_))));
    }

    #[test]
    fn rows_match_on_both_addresses_and_state() {
        let client = hex_address("127.0.0.1:40000".parse().unwrap());
        let server = hex_address("127.0.0.1:1883".parse().unwrap());
        let row = |local: &str, remote: &str, state: &str, inode: u64| {
            format!(
                "   3: {local} {remote} {state} 00000000:00000000 02:000A7D2C 00000000  1000        0 {inode} 2 0 20 4 30 10 -1\n"
            )
        };
        let found = Some(Socket { uid: 1000, inode: 77 });
        assert_eq!(parse_row(&row(&client, &server, "01", 77), &client, &server), found);
        assert_eq!(parse_row(&row(&server, &client, "01", 77), &client, &server), None);
        assert_eq!(parse_row(&row(&client, &server, "06", 77), &client, &server), None);
        assert_eq!(parse_row(&row(&client, &server, "05", 77), &client, &server), found);
        assert_eq!(parse_row(&row(&client, &server, "0B", 77), &client, &server), found);
        assert_eq!(parse_row(&row(&client, &server, "0A", 77), &client, &server), None);
        assert_eq!(parse_row(&row(&client, &server, "01", 0), &client, &server), None);
        assert_eq!(parse_row(&row(&client, &server, "05", 0), &client, &server), None);
        assert_eq!(parse_row("  sl  local_address rem_address   st", &client, &server), None);
    }

    #[test]
    fn only_one_program_can_be_named() {
        assert_eq!(single_program(&[]), None);
        assert_eq!(single_program(&[holder(9, 1, 5)]).map(|holder| holder.pid), Some(9));
        // A server that forks shares the socket with copies of itself.
        let forked = [holder(4, 200, 5), holder(9, 100, 5)];
        assert_eq!(single_program(&forked).map(|holder| holder.pid), Some(9));
        assert_eq!(single_program(&[holder(4, 200, 5), holder(9, 100, 6)]), None);
        let other_user = Holder { uid: 0, ..holder(4, 200, 5) };
        assert_eq!(single_program(&[other_user, holder(9, 100, 5)]), None);
        let unreadable = |pid| Holder { program: None, ..holder(pid, 100, 5) };
        assert_eq!(single_program(&[unreadable(4), unreadable(9)]), None);
    }
}
