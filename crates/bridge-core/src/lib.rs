//! KubeEdge messages, sync by cursor, spool and twin state as a pure core.
