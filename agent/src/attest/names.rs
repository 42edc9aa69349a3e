//! Names of users and groups, as the system's user database (NSS) has them.
//!
//! A statically linked (musl) build knows only `/etc/passwd` and `/etc/group`.

use super::AttestError;
use nix::unistd::{Gid, Group, Uid, User};

/// Name of a user; `None` when nobody knows one.
pub(super) fn user(uid: u32) -> Result<Option<String>, AttestError> {
    User::from_uid(Uid::from_raw(uid))
        .map(|user| user.map(|user| user.name))
        .map_err(|errno| AttestError::Names { kind: "user", id: uid, what: errno.desc().to_owned() })
}

/// Name of a group; `None` when nobody knows one.
pub(super) fn group(gid: u32) -> Result<Option<String>, AttestError> {
    Group::from_gid(Gid::from_raw(gid))
        .map(|group| group.map(|group| group.name))
        .map_err(|errno| AttestError::Names { kind: "group", id: gid, what: errno.desc().to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_has_a_name_and_a_free_id_has_none() {
        assert_eq!(user(0).unwrap().as_deref(), Some("root"));
        assert_eq!(group(0).unwrap().as_deref(), Some("root"));
        assert_eq!(user(4_000_000_001).unwrap(), None);
        assert_eq!(group(4_000_000_001).unwrap(), None);
    }
}
