//! Everything that touches disk or network on a node.
//!
//! - [`backup`]: one run, from a member to a published backup.
//! - [`blocks`]: a hash for each block of a snapshot.
//! - [`disk`]: work on a disk that may hang.
//! - [`durable_file`]: durable changes to files.
//! - [`local_file`]: a regular file, opened for reading.
//! - [`member`]: one etcd member.
//! - [`progress`]: progress of long work.
//! - [`repository`]: where backups are kept.
//! - [`static_resources`]: the archive of a node's control-plane files.
//! - [`transfer`]: sending a backup to another machine.
//! - [`verify`]: whether a snapshot is intact, and what it contains.

mod archive_file;
pub mod backup;
pub mod blocks;
mod digest;
pub mod disk;
pub mod durable_file;
pub mod local_file;
pub mod member;
mod notes;
pub mod progress;
mod read_back;
mod receive;
pub mod repository;
mod room;
mod run_error;
mod scratch_file;
pub mod static_resources;
pub mod transfer;
pub mod verify;
