//! etcd's files: bytes in, values out.
//!
//! This room reads the formats that etcd keeps on disk and says whether they are whole. It does no
//! network and reads no clock; what it needs of a disk comes through [`ReadAt`] and [`Scratch`], so
//! that the caller decides where bytes come from and where temporary ones may go. Every length that
//! comes from a file is checked before it is used, and memory never grows with the file.
//!
//! - [`bolt`]: bbolt, the database file: pages, metas, cursor, structural check.
//! - [`mvcc`]: what etcd stores in it: revisions, records, hashes, semantic checks.
//! - [`snapshot_file`]: the SHA-256 trailer that `etcdctl snapshot save` leaves at the end.
//! - [`check`]: all of it together, in one pass.

pub mod bolt;
pub mod check;
mod failure;
pub mod finding;
pub mod mvcc;
mod read_at;
mod scratch;
pub mod snapshot_file;

pub use failure::{Failure, Progress};
pub(crate) use read_at::ReadAhead;
pub use read_at::{Part, ReadAt};
pub use scratch::{Scratch, ScratchSource};
