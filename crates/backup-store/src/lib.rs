//! Everything that touches disk or network on a node.
//!
//! - [`blocks`]: a hash for each block of a snapshot.
//! - [`control_plane`]: what a restore stops, moves and starts on a node.
//! - [`disk`]: work on a disk that may hang.
//! - [`durable_file`]: durable changes to files.
//! - [`local_file`]: a regular file, opened for reading.
//! - [`member`]: one etcd member.
//! - [`progress`]: progress of long work.
//! - [`repository`]: where backups are kept.
//! - [`restore`]: from a snapshot to a data directory that etcd starts from.
//! - [`run`]: one run, from a member to a published backup.
//! - [`static_resources`]: the archive of a node's control-plane files.
//! - [`transfer`]: sending a backup to another machine.
//! - [`verify`]: whether a snapshot is intact, and what it contains.
//! - [`volume`]: copies of the backups on a volume.

pub mod blocks;
mod channel;
pub mod control_plane;
mod digest;
pub mod disk;
mod disk_use;
pub mod durable_file;
mod hash_comparison;
pub mod local_file;
pub mod member;
mod member_error;
pub mod progress;
pub mod repository;
pub mod restore;
pub mod run;
mod scratch_file;
mod size;
mod snapshot_facts;
pub mod static_resources;
pub mod transfer;
pub mod verify;
mod verify_report;
pub mod volume;
