//! What shows of which cluster this node and a backup are.

use super::node::Node;
use backup_plan::platform::control_plane::{Component, image_tag};
use backup_plan::restore::fit::ClusterSigns;
use backup_store::local_file::read_small;
use backup_store::restore::{RestoreError, Source};
use std::path::Path;

/// Where kubeadm has certificates, as an archive names it.
const PKI: &str = "etc/kubernetes/pki/";
const MAX_FILE_BYTES: u64 = 1 << 20;

pub(super) fn of_node(node: &Node) -> ClusterSigns {
    let api_server = node.control_plane.manifest(Component::KubeApiserver);
    let own = |name: &str| read_small(&Path::new("/").join(PKI).join(name), MAX_FILE_BYTES).ok();
    ClusterSigns {
        ca: own("ca.crt"),
        etcd_ca: own("etcd/ca.crt"),
        service_account_key: own("sa.pub"),
        api_server_tag: api_server.and_then(|manifest| manifest.image_tag.clone()),
        encryption: node.found().encryption.clone(),
    }
}

pub(super) fn of_backup(node: &Node, source: &Source) -> Result<ClusterSigns, RestoreError> {
    let api_server = node.control_plane.manifest(Component::KubeApiserver);
    let file = api_server.map_or("kube-apiserver.yaml", |manifest| &manifest.file);
    let manifest = format!("etc/kubernetes/manifests/{file}");
    let [ca, etcd_ca, key] = ["ca.crt", "etcd/ca.crt", "sa.pub"].map(|name| format!("{PKI}{name}"));
    let mut files = source.archived(&[&ca, &etcd_ca, &key, &manifest])?;
    let manifest = files.remove(&manifest);
    let manifest = manifest.and_then(|text| String::from_utf8(text).ok());
    Ok(ClusterSigns {
        ca: files.remove(&ca),
        etcd_ca: files.remove(&etcd_ca),
        service_account_key: files.remove(&key),
        api_server_tag: manifest.and_then(|text| image_tag(&text, Component::KubeApiserver)),
        encryption: source
            .record
            .as_ref()
            .map_or_else(Vec::new, |record| record.encryption.clone()),
    })
}

/// Whether a backup in a repository can be of this node's cluster. What cannot be read, or has no certificates, can be.
pub(super) fn can_be_of(node: &Node, backup: &Path) -> bool {
    let signs = Source::open(backup).and_then(|source| of_backup(node, &source));
    let Ok(of_backup) = signs else { return true };
    let of_node = of_node(node);
    let pairs = [
        (of_node.ca, of_backup.ca),
        (of_node.etcd_ca, of_backup.etcd_ca),
    ];
    pairs.iter().all(|pair| match pair {
        (Some(one), Some(other)) => one.trim_ascii() == other.trim_ascii(),
        _ => true,
    })
}
