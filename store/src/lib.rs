//! The embedded store: one committer thread, atomic batches, prefix scans.
