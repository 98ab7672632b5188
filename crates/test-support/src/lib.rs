//! What the tests of etcd-lifeboat share: database files made by hand, real etcd servers.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

pub mod bolt_file;
pub mod etcd_binaries;
pub mod etcd_client;
pub mod etcd_content;
pub mod etcd_server;
pub mod etcd_start;
pub mod faulty_disk;
#[cfg(feature = "kubernetes")]
pub mod kubernetes;
#[cfg(feature = "lying-member")]
pub mod lying_member;
mod node_texts;
pub mod node_trees;
pub mod pki;
pub mod private_network;
#[cfg(feature = "kubernetes")]
pub mod real_nodes;
pub mod requirement;
mod reserved_port;
pub mod scratch_dir;
