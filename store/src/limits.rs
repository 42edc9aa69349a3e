//! Every cap of the store, each with its reason.

/// Longest key, in bytes: keys are paths of names that are themselves limited, and an index page holds four.
pub const KEY_BYTES_MAX: usize = 1024;

/// Largest value, in bytes: twice the largest packet of MQTT, and half of what SQLite takes. A batch as a whole has no
/// limit: its caller holds it in memory already, and one that was refused for its size would be so for ever.
pub const VALUE_BYTES_MAX: usize = 512 * 1024 * 1024;

/// Batches that may wait for the committer. Further callers wait in `commit` (backpressure, nothing is dropped).
pub(crate) const QUEUE_BATCHES_MAX: usize = 4096;

/// Bytes that may wait for the committer, in KiB. Further callers wait in `commit`.
pub(crate) const QUEUE_KIB_MAX: usize = 64 * 1024;

/// Batches in one transaction: beyond this the fsync is already amortised and latency only grows.
pub(crate) const GROUP_BATCHES_MAX: usize = 1024;

/// Reads that may wait for the reader thread. Further callers wait in `get` and `scan`.
pub(crate) const QUEUE_READS_MAX: usize = 1024;

/// A file up to this size is checked at every open: it costs a few milliseconds.
pub(crate) const QUICK_CHECK_ALWAYS_BYTES: u64 = 8 * 1024 * 1024;

/// What the write-ahead log shrinks to after a checkpoint, in bytes: a burst does not keep the disk.
pub(crate) const LOG_BYTES_KEPT: i64 = 16 * 1024 * 1024;

/// Pages (4 KiB) in the log from which on they are moved into the database, which takes two syncs more: as many as are
/// kept, so that pages which are written again and again are moved seldom. A start reads the log once, in milliseconds.
pub(crate) const LOG_PAGES: i64 = LOG_BYTES_KEPT / 4096;

/// Pages in memory, in KiB. The writer's hold about what one large transaction touches: more than fits is written into
/// the log before its end, and often twice.
pub(crate) const WRITER_CACHE_KIB: i32 = 4096;
pub(crate) const READER_CACHE_KIB: i32 = 1024;
