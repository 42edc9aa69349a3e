//! What the process may ask of the system.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Raises the limit of open files to the most the system grants: a connection costs one, a caller of
/// the Workload API two, and the usual soft limit of 1,024 is soon reached.
pub(crate) fn raise_open_files() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}
