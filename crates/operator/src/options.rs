//! Options of the operator.

use crate::cluster::node_layout::NodeLayout;
use cluster_api::placement::Storage;
use std::collections::BTreeSet;

/// How the operator runs, as the flags of `etcd-lifeboat operator` set it.
#[derive(Debug, Clone)]
pub struct Options {
    /// The image of the pods that the operator creates.
    pub image: String,
    /// Whether the feature gate `AutomatedEtcdBackup` is on.
    pub automated_backup: bool,
    /// The name of this replica in the Lease.
    pub identity: String,
    /// The controllers to run.
    pub controllers: Controllers,
    /// The node layout; if `None`, the platform of the cluster decides.
    pub layout: Option<NodeLayout>,
    /// Directories of the nodes that pods mount in addition, for the archive.
    pub node_directories: Vec<String>,
    /// Additional flags for the backup servers, for tests.
    pub server_flags: Vec<String>,
    /// Where backups are stored, if no annotation says it.
    pub storage: Storage,
    /// Additional flags for the pods that copy backups to volumes, for tests.
    pub volume_flags: Vec<String>,
    /// Additional flags for the Jobs that make a backup, for tests.
    pub backup_flags: Vec<String>,
}

/// Creates `Backup/default`.
pub(crate) const DEFAULT_BACKUP: &str = "default-backup";
/// Creates the objects of each `Backup`.
pub(crate) const PERIODIC_BACKUP: &str = "periodic-backup";
/// Creates the Jobs of each `EtcdBackup`.
pub(crate) const ETCD_BACKUP: &str = "backup";
/// Deletes an `EtcdBackup` whose Job was deleted.
pub(crate) const BACKUP_REMOVAL: &str = "backup-removal";
/// Creates a StatefulSet with a volume for each node, where that is wanted.
pub(crate) const VOLUMES: &str = "volumes";
/// Evaluates whether backups are up to date.
pub(crate) const FRESHNESS: &str = "freshness";

/// The controllers to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Controllers(BTreeSet<&'static str>);

impl Controllers {
    /// The names of all controllers, as in the flag `--controllers`, in logs and in metrics.
    pub const NAMES: [&'static str; 6] = [
        DEFAULT_BACKUP,
        PERIODIC_BACKUP,
        ETCD_BACKUP,
        BACKUP_REMOVAL,
        VOLUMES,
        FRESHNESS,
    ];

    /// All controllers.
    #[must_use]
    pub fn all() -> Self {
        Controllers(Self::NAMES.into_iter().collect())
    }

    /// Parses a list as the Kubernetes controller manager does: `*` means all, `-NAME` turns one off.
    ///
    /// # Errors
    /// If a name is unknown.
    pub fn parse(list: &str) -> Result<Self, String> {
        let mut chosen = BTreeSet::new();
        let mut without = BTreeSet::new();
        for word in list
            .split(',')
            .map(str::trim)
            .filter(|word| !word.is_empty())
        {
            let (name, set) = match word.strip_prefix('-') {
                Some(name) => (name, &mut without),
                None => (word, &mut chosen),
            };
            match Self::NAMES.into_iter().find(|known| *known == name) {
                Some(known) => drop(set.insert(known)),
                None if word == "*" => set.extend(Self::NAMES),
                None => {
                    return Err(format!(
                        "unknown controller {word:?}: expected * for all, or names of {}; a - before a name turns that controller off",
                        Self::NAMES.join(", ")
                    ));
                }
            }
        }
        Ok(Controllers(&chosen - &without))
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.contains(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controllers_are_chosen_as_kubernetes_own_are() {
        let chosen = |list| Controllers::parse(list).map(|chosen| chosen.0);
        assert_eq!(chosen("*"), Ok(Controllers::all().0));
        assert_eq!(chosen("*,-freshness").map(|chosen| chosen.len()), Ok(5));
        assert_eq!(
            chosen("backup, backup-removal").map(|chosen| chosen.len()),
            Ok(2)
        );
        let problem = chosen("freshnes").err().unwrap_or_default();
        assert!(
            problem.contains("expected * for all, or names of default-backup"),
            "{problem}"
        );
    }
}
