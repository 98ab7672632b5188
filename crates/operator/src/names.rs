//! What things are called in a cluster. Where upstream has a name for it, that is the name.

use sha2::{Digest, Sha256};
use std::fmt::Write;

/// The DaemonSet of backup servers.
pub const DAEMON_SET: &str = "backup-server-daemon-set";
/// Its container.
pub const SERVER_CONTAINER: &str = "etcd-backup-server";
/// Its pods, by their label `app`.
pub const SERVER_APP: &str = "etcd-auto-backup";
/// The operator's own pods, by their label `app`.
pub const OPERATOR_APP: &str = "etcd-lifeboat-operator";
/// CronJobs and their Jobs, by their label `app`.
pub const CRON_APP: &str = "cluster-backup-cronjob";
/// Jobs that make a backup, and their pods, by their label `app`.
pub const JOB_APP: &str = "cluster-backup-job";
/// The container of both kinds of Jobs.
pub const JOB_CONTAINER: &str = "cluster-backup";
/// On a CronJob the name of its `Backup`, on a Job that of its `EtcdBackup`; shortened if need be.
pub const NAME_LABEL: &str = "backup-name";
/// Who writes `NodeBackup`s, as the API server records it.
pub const SERVER_MANAGER: &str = "etcd-lifeboat-backup-server";
/// On a Job: the node that it is for. On an `EtcdBackup`: the one node that it is for, if it is not for all.
pub const NODE_ANNOTATION: &str = "lifeboat.etcd.io/node";
/// Whom the operator is to the API server.
pub const OPERATOR_ACCOUNT: &str = "etcd-lifeboat-operator";
/// Whom backup servers are.
pub const AGENT_ACCOUNT: &str = "etcd-lifeboat-agent";
/// Whom `request-backup` is.
pub const REQUEST_ACCOUNT: &str = "etcd-lifeboat-request";
/// Where backups are on a node.
pub const REPOSITORY: &str = "/var/lib/etcd-auto-backup";

/// What a label's value and a Job's name may be at most.
pub(crate) const LABEL_CHARS: usize = 63;
/// What a CronJob's name may be: its Jobs' names are longer.
pub(crate) const CRON_JOB_CHARS: usize = 52;
const HASH_CHARS: usize = 8;

/// A name as it is if it is short enough, else its beginning and a hash, so that two stay two.
#[must_use]
pub fn shortened(name: &str, chars: usize) -> String {
    if name.len() <= chars {
        return name.into();
    }
    let mut hash = String::new();
    for byte in Sha256::digest(name.as_bytes()).iter().take(HASH_CHARS / 2) {
        let _ = write!(hash, "{byte:02x}");
    }
    let end = chars.saturating_sub(HASH_CHARS + 1);
    // Names of objects are ASCII.
    let start = name.get(..end).unwrap_or_default();
    format!("{}-{hash}", start.trim_end_matches(['-', '.']))
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
