//! Everything that touches disk or network on a node.
//!
//! - [`local_file`]: a file opened so that nothing but a file can be behind its name.
//! - [`member`]: one etcd member.
//! - [`progress`]: who hears how far long work is.
//! - [`verify`]: whether a snapshot is whole, and what is in it.

pub mod local_file;
pub mod member;
pub mod progress;
mod scratch_file;
pub mod verify;
