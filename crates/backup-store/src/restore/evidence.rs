//! Which revisions anyone may have seen, and so where a restored cluster begins.

use super::error::RestoreError;
use super::old_data_dir;
use super::order::Witnesses;
use crate::repository::Repository;
use backup_plan::record::Level;
use backup_plan::restore::revision::{self, Bump, Evidence, Target};
use etcd_file::new_cluster::Facts;
use jiff::Timestamp;
use std::path::Path;

/// Decides the revision.
pub(super) fn target(
    bump: Bump,
    facts: &Facts,
    witnesses: &Witnesses,
    now: Timestamp,
) -> Result<Option<Target>, RestoreError> {
    let evidence = match bump {
        Bump::Auto => of(witnesses)?,
        _ => Vec::new(),
    };
    let (last, current) = (facts.last_record, facts.current_revision);
    Ok(revision::target(bump, last, current, &evidence, now)?)
}

/// Everything that shows revisions.
///
/// # Errors
/// A repository, or the data directory that is replaced, can't be read.
fn of(witnesses: &Witnesses) -> Result<Vec<Evidence>, RestoreError> {
    let mut evidence = witnesses.known.clone();
    for repository in &witnesses.repositories {
        evidence.extend(of_repository(repository)?);
    }
    if let Some(data_dir) = &witnesses.data_dir {
        evidence.push(old_data_dir::evidence(
            data_dir,
            witnesses.wal_dir.as_deref(),
        )?);
    }
    Ok(evidence)
}

/// The proven backups of a repository. All of them count, whatever their cluster id: a cluster that was restored has another one.
fn of_repository(root: &Path) -> Result<Vec<Evidence>, RestoreError> {
    let entries = Repository::open(root)?.entries()?;
    let records = entries.iter().filter_map(|entry| entry.record());
    let evidence = records
        .filter(|record| record.verified.contains(&Level::Content))
        .map(|record| Evidence {
            from: format!("a backup of {} from {}", record.node, record.finished_at),
            revision: record.snapshot.revision,
            at: Some(record.finished_at),
        });
    Ok(evidence.collect())
}
