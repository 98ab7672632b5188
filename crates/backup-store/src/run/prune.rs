//! Retention in a repository.

use crate::progress::Monitor;
use crate::repository::{Locked, Repository, RepositoryError};
use backup_plan::retention::{self, Policy, Removal};

/// The result of applying retention.
#[derive(Debug, Default)]
pub struct Pruned {
    /// The removed backups.
    pub removed: Vec<Removal>,
    /// The backups that could not be removed, and why.
    pub failed: Vec<String>,
}

/// Removes backups according to the policy, oldest first. If one cannot be removed, the others still are.
///
/// # Errors
/// The repository cannot be listed.
pub fn prune(
    repository: &Locked,
    policy: Policy,
    origin: Option<&str>,
    monitor: &dyn Monitor,
) -> Result<Pruned, RepositoryError> {
    let mut pruned = Pruned::default();
    for removal in planned_removals(repository, policy, origin)? {
        // Reports progress only. Retention is short, so a request to stop does not interrupt it.
        let _ = monitor.advance(0);
        match repository.remove(&removal.name) {
            Ok(true) => pruned.removed.push(removal),
            // The backup was held in the meantime.
            Ok(false) => {}
            Err(error) => pruned.failed.push(error.to_string()),
        }
    }
    Ok(pruned)
}

/// The backups that [`prune`] would remove.
///
/// # Errors
/// The repository cannot be listed.
pub fn planned_removals(
    repository: &Repository,
    policy: Policy,
    origin: Option<&str>,
) -> Result<Vec<Removal>, RepositoryError> {
    let entries = repository.entries()?;
    let candidates: Vec<_> = entries
        .iter()
        .filter_map(|entry| entry.candidate())
        .collect();
    Ok(retention::removals(&candidates, policy, origin))
}
