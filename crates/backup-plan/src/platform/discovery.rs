//! Looks for each platform in turn.

use super::found::{Found, PLAIN_ENDPOINT, PlatformError};
use super::node_files::NodeFiles;
use super::{kops, kubeadm, microshift, openshift, rancher, systemd};

const PLAIN_DATA_DIR: &str = "/var/lib/etcd";

/// Finds a node's etcd: `OpenShift`, kubeadm, kOps, RKE2, k3s, `MicroShift`, a systemd service (kubespray, Debian
/// and others), and otherwise an etcd at the default endpoint.
///
/// # Errors
/// A file is missing, incomplete or cannot be read.
pub fn find(files: &dyn NodeFiles) -> Result<Found, PlatformError> {
    for look in [
        openshift::find,
        kubeadm::find,
        kops::find,
        rancher::find_rke2,
        rancher::find_k3s,
        microshift::find,
        systemd::find,
    ] {
        if let Some(found) = look(files)? {
            return Ok(found);
        }
    }
    Ok(plain(files))
}

fn plain(files: &dyn NodeFiles) -> Found {
    Found {
        data_dir: files
            .exists(PLAIN_DATA_DIR)
            .then(|| PLAIN_DATA_DIR.to_string()),
        ..Found::at(PLAIN_ENDPOINT.into(), Vec::new())
    }
}
