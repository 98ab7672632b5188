//! What all parts of a node share.

use super::container::Spawner;
use super::image::Images;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

/// What a node's pods are run with.
pub(super) struct Context {
    pub(super) node: String,
    /// The version that the kubelet reports: the version of the API server.
    pub(super) version: String,
    /// What stands for the node's root directory.
    pub(super) root: PathBuf,
    /// Where pods have their files.
    pub(super) pods: PathBuf,
    pub(super) client: kube::Client,
    pub(super) images: Arc<Mutex<Images>>,
    pub(super) spawner: Spawner,
    /// The port on which pods reach the API server.
    pub(super) api_port: u16,
    /// The port on which the API server reaches the program that serves logs and commands.
    pub(super) streams_port: u16,
}
