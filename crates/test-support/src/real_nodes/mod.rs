//! A genuine kubeadm cluster on this machine: nodes with real kubelets, containerd and static pods, each in namespaces of its own.
//!
//! The machine keeps its own network, settings and folders. Nodes are on a network that only they have. Everything ends with the process
//! that started it, also if that is killed.

pub mod cgroups;
mod cluster;
mod disk;
mod faults;
mod image;
pub mod kit;
mod kubeadm;
mod missing;
mod network;
mod node;

pub use cluster::{KubeadmCluster, Options, PREFIX_OF_FOLDERS, in_network_of};
pub use disk::Filesystem;
pub use image::{ImageContent, with_libraries, write_image};
pub use kit::Kit;
pub use missing::missing;
pub use network::MAX_NODES;
pub use node::RealNode;
