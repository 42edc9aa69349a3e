//! What the disk takes.

use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

/// About what one transaction of a busy broker writes.
const BYTES: usize = 64 * 1024;
const WRITES: usize = 64;

/// Returns the median time for writing and syncing what lies in the middle of a file, as a log in use does.
pub(super) fn sync_time(dir: &Path) -> anyhow::Result<Duration> {
    let mut file = tempfile::tempfile_in(dir)?;
    let block = vec![1; BYTES];
    for _ in 0..WRITES {
        file.write_all(&block)?;
    }
    file.sync_all()?;
    file.seek(SeekFrom::Start(0))?;
    let mut times = Vec::new();
    for _ in 0..WRITES {
        let began = Instant::now();
        file.write_all(&block)?;
        file.sync_data()?;
        times.push(began.elapsed());
    }
    times.sort_unstable();
    Ok(times.get(WRITES / 2).copied().unwrap_or_default())
}
