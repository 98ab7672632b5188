//! A genuine kubeadm cluster on this machine: nodes with real kubelets, containerd and static pods, each in namespaces of its own.
//!
//! The machine keeps its own network, settings and folders. Nodes are on a network that only they have. Everything ends with the process
//! that started it, also if that is killed.

mod cluster;
mod image;
pub mod kit;
mod network;
mod node;

pub use cluster::{KubeadmCluster, Options};
pub use image::write_image;
pub use node::RealNode;
