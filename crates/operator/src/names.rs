//! Names of objects in a cluster. If upstream has a name, it is the same here.

use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt::Write;

/// The field manager of the operator's writes.
pub const FIELD_MANAGER: &str = "etcd-lifeboat-operator";
/// The DaemonSet of backup servers.
pub const DAEMON_SET: &str = "backup-server-daemon-set";
/// Kubernetes' label for the manager of an object.
pub(crate) const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// The value of this label for what this operator has created.
pub(crate) const US: &str = "etcd-lifeboat";

/// Whether these are the labels of an object that this operator has created.
pub(crate) fn is_managed_by_us(labels: &BTreeMap<String, String>) -> bool {
    labels.get(MANAGED_BY).is_some_and(|manager| manager == US)
}

/// Namespace of the static pods of etcd, which can have a backup server beside it.
pub const ETCD_POD_NAMESPACE: &str = "kube-system";
/// Labels of the static pods of etcd, as kubeadm writes them.
pub const ETCD_POD_LABELS: &str = "component=etcd,tier=control-plane";
/// The container of a backup server.
pub const SERVER_CONTAINER: &str = "etcd-backup-server";
/// Label `app` of backup servers.
pub const SERVER_APP: &str = "etcd-auto-backup";
/// Label `app` of the pods that copy backups to volumes, and the beginning of the names of their StatefulSets.
pub const VOLUME_APP: &str = "etcd-backup-volume";
/// The container of these pods.
pub const VOLUME_CONTAINER: &str = "etcd-backup-volume";
/// The volume of these pods, and where it is mounted.
pub const VOLUME: &str = "volume";
/// Where a pod mounts the volume of its node.
pub const VOLUME_MOUNT: &str = "/volume";
/// The field manager of `NodeBackup`s for what these pods report.
pub const VOLUME_MANAGER: &str = "etcd-lifeboat-volume";
/// Label `app` of the operator.
pub const OPERATOR_APP: &str = "etcd-lifeboat-operator";
/// Label `app` of CronJobs and their Jobs.
pub const CRON_APP: &str = "cluster-backup-cronjob";
/// Label `app` of Jobs that make a backup, and of their pods.
pub const JOB_APP: &str = "cluster-backup-job";
/// The container of both kinds of Jobs.
pub const JOB_CONTAINER: &str = "cluster-backup";
/// Label with the name of the `Backup` of a CronJob, or of the `EtcdBackup` of a Job. Long names are shortened.
pub const NAME_LABEL: &str = "backup-name";
/// The field manager of `NodeBackup`s.
pub const SERVER_MANAGER: &str = "etcd-lifeboat-backup-server";
/// Annotation with the node of a Job, or with the only node of an `EtcdBackup`.
pub const NODE_ANNOTATION: &str = "lifeboat.etcd.io/node";
/// Service account of the operator.
pub const OPERATOR_ACCOUNT: &str = "etcd-lifeboat-operator";
/// Service account of the backup servers and of Jobs that make a backup.
pub const AGENT_ACCOUNT: &str = "etcd-lifeboat-agent";
/// Service account of backup servers in the static pod of etcd.
pub const SIDECAR_ACCOUNT: &str = "etcd-lifeboat-sidecar";
/// Service account of `request-backup`.
pub const REQUEST_ACCOUNT: &str = "etcd-lifeboat-request";
/// Directory of the backups on a node.
pub const REPOSITORY: &str = "/var/lib/etcd-auto-backup";

/// Maximum length of a label value and of a Job name.
pub(crate) const LABEL_CHARS: usize = 63;
/// Maximum length of a CronJob name. The names of its Jobs are longer.
pub(crate) const CRON_JOB_CHARS: usize = 52;
const HASH_CHARS: usize = 8;

/// Shortens a long name to its beginning and a hash, so that different names stay different.
#[must_use]
pub fn shortened(name: &str, chars: usize) -> String {
    if name.len() <= chars {
        return name.into();
    }
    hashed(name, name, chars)
}

/// A name without dots, where none are allowed. One that had dots gets a hash, so that `a.b` and `a-b` stay different.
pub(crate) fn without_dots(prefix: &str, name: &str, chars: usize) -> String {
    let plain = format!("{prefix}-{}", name.replace('.', "-"));
    if name.contains('.') {
        hashed(&plain, name, chars)
    } else {
        shortened(&plain, chars)
    }
}

/// The beginning of a name, and a hash of what it stands for.
fn hashed(name: &str, whole: &str, chars: usize) -> String {
    let mut hash = String::new();
    for byte in Sha256::digest(whole.as_bytes()).iter().take(HASH_CHARS / 2) {
        let _ = write!(hash, "{byte:02x}");
    }
    let end = chars.saturating_sub(HASH_CHARS + 1).min(name.len());
    // Names of objects are ASCII.
    let start = name.get(..end).unwrap_or_default();
    format!("{}-{hash}", start.trim_end_matches(['-', '.']))
}

/// The namespace of the operator's objects. On OpenShift, it is the namespace that upstream uses.
#[must_use]
pub fn default_namespace(openshift: bool) -> &'static str {
    if openshift {
        "openshift-etcd"
    } else {
        "etcd-lifeboat"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_stay_apart_and_fit() {
        let long = "a".repeat(100);
        let other = format!("{}b", "a".repeat(99));
        let short = shortened(&long, LABEL_CHARS);
        assert_eq!(short.len(), LABEL_CHARS);
        assert_ne!(short, shortened(&other, LABEL_CHARS));
        assert_eq!(shortened("weekly", LABEL_CHARS), "weekly");
        let dotted = format!("{}.{}", "a".repeat(53), "b".repeat(40));
        assert!(!shortened(&dotted, LABEL_CHARS).contains(".-"));
    }
}
