//! Everything that touches disk or network on a node.
//!
//! - [`backup`]: one run, from a member to a published backup.
//! - [`blocks`]: a hash for each block of a snapshot.
//! - [`disk`]: work on a disk that may hang.
//! - [`durable_file`]: what is on the disk when a call returns.
//! - [`local_file`]: a file opened so that nothing but a file can be behind its name.
//! - [`member`]: one etcd member.
//! - [`progress`]: who hears how far long work is.
//! - [`repository`]: where backups are kept.
//! - [`static_resources`]: the archive of a node's control-plane files.
//! - [`transfer`]: a backup on its way to another machine.
//! - [`verify`]: whether a snapshot is whole, and what is in it.

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
