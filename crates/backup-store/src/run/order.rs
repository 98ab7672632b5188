//! The settings of a run.

use crate::member::Connection;
use backup_plan::encryption::EncryptedResources;
use backup_plan::record::Trigger;
use std::path::PathBuf;

/// The settings of one run.
#[derive(Clone)]
pub struct Order {
    /// How to connect to the member.
    pub connection: Connection,
    /// Who requested the backup: the name of a `Backup`, or `on-demand`.
    pub origin: String,
    /// What started the run: `schedule`, `catch-up` or `command`.
    pub trigger: Trigger,
    /// The node's name.
    pub node: String,
    /// The platform of the node, such as `kubeadm`, for the record.
    pub platform: String,
    /// The name of the etcd, if it is not the one with all objects of Kubernetes.
    pub etcd: Option<String>,
    /// Other etcds of this node that no run backs up, and why.
    pub not_backed_up: Vec<String>,
    /// The control-plane files to archive: a root directory, and paths below it. `None`: no archive is written.
    pub resources: Option<(PathBuf, Vec<PathBuf>)>,
    /// Warnings about the node, to be written into the record.
    pub warnings: Vec<String>,
    /// Control-plane files that cannot be archived, and why.
    pub archive_missing: Vec<String>,
    /// How the API server encrypts what it stores.
    pub encryption: Vec<EncryptedResources>,
    /// Why the snapshot is taken from the member's stream.
    pub source_reason: String,
    /// Bytes to keep free; none for the default of the filesystem.
    pub reserve_bytes: Option<u64>,
    /// Limit for reading the snapshot back, in bytes per second; none for no limit.
    pub max_bytes_per_s: Option<u64>,
}
