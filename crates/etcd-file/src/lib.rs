//! etcd's files: bytes in, values out.
//!
//! This crate reads the formats that etcd stores on disk, and checks whether they are intact. It does not use the
//! network or the clock. It uses a disk only through [`ReadAt`] and [`Scratch`], so that the caller decides where bytes
//! come from and where temporary data is stored. Every length that comes from a file is checked before it is used, and
//! memory does not grow with the file.
//!
//! - [`bolt`]: bbolt, the database file: pages, metas, cursor, structural check.
//! - [`mvcc`]: what etcd stores in it: revisions, records, hashes, semantic checks.
//! - [`membership`], [`raft`]: members and their ids, the log, the snapshot of raft.
//! - [`new_cluster`]: a database with which a new cluster begins.
//! - [`keyspace`]: the keys at the end of a database, ordered, compared with those of another.
//! - [`snapshot_file`]: the SHA-256 trailer that `etcdctl snapshot save` leaves at the end.
//! - [`check`]: all of it together, in one pass.

pub mod bolt;
pub mod check;
mod failure;
pub mod finding;
pub mod keyspace;
pub mod membership;
pub mod mvcc;
pub mod new_cluster;
pub mod raft;
mod read_at;
mod scratch;
pub mod snapshot_file;
mod wire;

pub use failure::{Failure, Progress};
pub(crate) use read_at::ReadAhead;
pub use read_at::{Part, ReadAt};
pub use scratch::{Scratch, ScratchSource};
