//! Which revisions anyone may have seen.

use crate::repository::Repository;
use backup_plan::record::Level;
use backup_plan::restore::revision::Evidence;
use std::path::Path;

/// The proven backups of a repository. All of them count, whatever their cluster id: a cluster that was restored has another one.
pub(super) fn of_repository(root: &Path) -> Vec<Evidence> {
    let Ok(entries) = Repository::open(root).and_then(|repository| repository.entries()) else {
        return Vec::new();
    };
    let records = entries.iter().filter_map(|entry| entry.record());
    records
        .filter(|record| record.verified.contains(&Level::Content))
        .map(|record| Evidence {
            from: format!("a backup of {} from {}", record.node, record.finished_at),
            revision: record.snapshot.revision,
            at: Some(record.finished_at),
        })
        .collect()
}
