//! What the commands for developers share.

pub mod command;
pub mod etcd;
