//! Decisions of a restore: which cluster begins, with which ids, at which revision, and which versions of etcd can start from it.

pub mod diagnosis;
pub mod etcd_version;
pub mod fit;
pub mod initial_cluster;
pub mod journal;
pub mod revision;
pub mod token;
