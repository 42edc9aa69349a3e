//! The kernel's answer to whose a TCP socket is (`NETLINK_SOCK_DIAG`): one look into its table of connections,
//! where `/proc/net/tcp` would have to be read to the row.

use super::loopback::{HELD, Socket};
use rustix::{
    io::Errno,
    net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, sendto, socket_with},
};
use std::net::{IpAddr, SocketAddr};

// From linux/netlink.h, linux/sock_diag.h and linux/inet_diag.h.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const IPPROTO_TCP: u8 = 6;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const EVERY_STATE: u32 = u32::MAX;
const NO_COOKIE: [u8; 8] = [0xFF; 8];

const HEADER_BYTES: usize = 16;
const REQUEST_BYTES: usize = HEADER_BYTES + 56;
const ANSWER_BYTES: usize = HEADER_BYTES + 72;

/// Returns the socket at `client` that is connected to `server` and held by somebody; `None` when there is none.
///
/// # Errors
/// When the kernel does not answer such questions, or not here: it says the same of a connection that it does not
/// know and of a module that it does not have.
pub(super) fn find_socket(client: SocketAddr, server: SocketAddr) -> Result<Option<Socket>, Errno> {
    let request = request(client, server).ok_or(Errno::AFNOSUPPORT)?;
    let link = socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        Some(netlink::SOCK_DIAG),
    )?;
    sendto(&link, &request, SendFlags::empty(), &netlink::SocketAddrNetlink::new(0, 0))?;
    let mut answer = [0; 512];
    // The kernel answers before it returns from the question.
    let (_, count) = recv(&link, &mut answer, RecvFlags::DONTWAIT)?;
    parse(answer.get(..count).unwrap_or_default(), &request)
}

/// `nlmsghdr` and `inet_diag_req_v2`, in the machine's own order; addresses and ports in the network's.
fn request(client: SocketAddr, server: SocketAddr) -> Option<Vec<u8>> {
    let (family, from, to) = match (client.ip(), server.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => (AF_INET, padded(&from.octets()), padded(&to.octets())),
        (IpAddr::V6(from), IpAddr::V6(to)) => (AF_INET6, from.octets(), to.octets()),
        _ => return None,
    };
    let mut bytes = Vec::with_capacity(REQUEST_BYTES);
    bytes.extend(u32::try_from(REQUEST_BYTES).ok()?.to_ne_bytes());
    bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes.extend(NLM_F_REQUEST.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend([family, IPPROTO_TCP, 0, 0]);
    bytes.extend(EVERY_STATE.to_ne_bytes());
    bytes.extend(client.port().to_be_bytes());
    bytes.extend(server.port().to_be_bytes());
    bytes.extend(from);
    bytes.extend(to);
    bytes.extend([0; 4]);
    bytes.extend(NO_COOKIE);
    Some(bytes)
}

fn padded(octets: &[u8; 4]) -> [u8; 16] {
    let [a, b, c, d] = *octets;
    [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
}

/// `nlmsghdr` and `inet_diag_msg`, or `nlmsgerr`.
fn parse(answer: &[u8], request: &[u8]) -> Result<Option<Socket>, Errno> {
    let word = |at: usize| answer.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
    let kind = answer.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
    if kind == Some(NLMSG_ERROR) {
        let code = word(HEADER_BYTES).map_or(0, i32::from_ne_bytes);
        return Err(Errno::from_raw_os_error(code.checked_neg().unwrap_or_default()));
    }
    if kind != Some(SOCK_DIAG_BY_FAMILY) || answer.len() < ANSWER_BYTES {
        return Err(Errno::BADMSG);
    }
    // Where nothing is connected the kernel names the listener, which has another pair of addresses.
    let same =
        answer.get(HEADER_BYTES + 4..HEADER_BYTES + 40) == request.get(HEADER_BYTES + 8..HEADER_BYTES + 44);
    let is_held = answer.get(HEADER_BYTES + 1).is_some_and(|state| HELD.contains(state));
    if !same || !is_held {
        return Ok(None);
    }
    let uid = word(HEADER_BYTES + 64).map(u32::from_ne_bytes).ok_or(Errno::BADMSG)?;
    let inode = word(HEADER_BYTES + 68).map(u32::from_ne_bytes).ok_or(Errno::BADMSG)?;
    // Else its last owner has closed it, and what the kernel says of its user is no longer true.
    Ok((inode != 0).then_some(Socket { uid, inode: inode.into() }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_connection_is_found_and_neither_its_listener_nor_another_one() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = listener.local_addr().unwrap();
        let stream = TcpStream::connect(server).unwrap();
        let client = stream.local_addr().unwrap();
        let _accepted = listener.accept().unwrap();
        let found = match find_socket(client, server) {
            Ok(found) => found.unwrap(),
            Err(error) => return eprintln!("skipped: this kernel does not answer ({error})"),
        };
        assert_eq!(found.uid, rustix::process::getuid().as_raw());
        let link = std::fs::read_link(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&stream)));
        assert_eq!(link.unwrap().to_str(), Some(format!("socket:[{}]", found.inode).as_str()));
        let other = SocketAddr::new(client.ip(), client.port() ^ 1);
        assert!(!matches!(find_socket(other, server), Ok(Some(_))));
        // Who has only said that nothing more comes still holds it.
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(find_socket(client, server), Ok(Some(found)));
        drop(stream);
        assert!(!matches!(find_socket(client, server), Ok(Some(_))));
    }

    #[test]
    fn only_a_whole_answer_to_the_question_counts() {
        let (client, server) = ("127.0.0.1:40000".parse().unwrap(), "127.0.0.1:1883".parse().unwrap());
        let request = request(client, server).unwrap();
        assert_eq!(request.len(), REQUEST_BYTES);
        let mut answer = vec![0; ANSWER_BYTES];
        answer[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        answer[HEADER_BYTES + 1] = 1;
        answer[HEADER_BYTES + 4..HEADER_BYTES + 40]
            .copy_from_slice(&request[HEADER_BYTES + 8..HEADER_BYTES + 44]);
        answer[HEADER_BYTES + 64..HEADER_BYTES + 68].copy_from_slice(&1000_u32.to_ne_bytes());
        assert_eq!(parse(&answer, &request), Ok(None));
        answer[HEADER_BYTES + 68..HEADER_BYTES + 72].copy_from_slice(&7_u32.to_ne_bytes());
        assert_eq!(parse(&answer, &request), Ok(Some(Socket { uid: 1000, inode: 7 })));
        assert_eq!(parse(&answer[..ANSWER_BYTES - 1], &request), Err(Errno::BADMSG));
        // Half closed, from this side or from both; then closing, waiting for time to pass, listening.
        for (state, is_held) in [(4, true), (5, true), (11, true), (2, false), (6, false), (10, false)] {
            answer[HEADER_BYTES + 1] = state;
            assert_eq!(parse(&answer, &request).unwrap().is_some(), is_held, "state {state}");
        }
        answer[HEADER_BYTES + 1] = 1;
        let mut foreign = answer.clone();
        foreign[HEADER_BYTES + 5] ^= 1;
        assert_eq!(parse(&foreign, &request), Ok(None));
        answer[4..6].copy_from_slice(&NLMSG_ERROR.to_ne_bytes());
        answer[HEADER_BYTES..HEADER_BYTES + 4].copy_from_slice(&(-2_i32).to_ne_bytes());
        assert_eq!(parse(&answer, &request), Err(Errno::NOENT));
    }
}
