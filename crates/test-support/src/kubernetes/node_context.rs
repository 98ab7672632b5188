//! What everything of a node shares.

use super::container::Spawner;
use super::image::Images;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

/// What a node's pods are run with.
pub(super) struct Context {
    /// The node's name.
    pub(super) node: String,
    /// The version that its kubelet says it has: that of the API server.
    pub(super) version: String,
    /// What stands for the node's root directory.
    pub(super) root: PathBuf,
    /// Where pods have their files.
    pub(super) pods: PathBuf,
    pub(super) client: kube::Client,
    pub(super) images: Arc<Mutex<Images>>,
    pub(super) spawner: Spawner,
    /// Where pods find the API server.
    pub(super) api_port: u16,
    /// Where the API server finds what serves logs and commands.
    pub(super) streams_port: u16,
}
