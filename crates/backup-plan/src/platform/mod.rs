//! Finds a node's etcd from the node's own files, so that it need not be configured.
//!
//! Each platform is looked for in turn; [`find`] has the order. All paths are the node's own, and absolute.

mod api_server;
pub mod control_plane;
mod discovery;
pub mod environment_file;
mod found;
mod kops;
mod kubeadm;
mod microshift;
mod node_files;
mod openshift;
mod other_etcd;
mod rancher;
mod settings;
mod static_pod;
mod systemd;
mod systemd_unit;

pub use discovery::find;
pub use found::{Found, Platform, PlatformError};
pub use node_files::NodeFiles;
pub(crate) use node_files::or_default;
pub use other_etcd::OtherEtcd;

#[cfg(test)]
mod tests;
