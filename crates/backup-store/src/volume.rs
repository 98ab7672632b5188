//! Copies the proven backups of a node's repository to a volume, which is a repository of its own. etcd is not asked again.

use crate::progress::Monitor;
use crate::repository::{Entry, Locked, Repository, RepositoryError, Space};
use crate::run::prune;
use crate::size::mib;
use crate::transfer::{TransferError, send, take_as};
use backup_plan::retention::{Policy, removals_for_space};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a volume needs beyond the files of a backup: directories, and the journal of its filesystem.
const MARGIN_BYTES: u64 = 4 << 20;

/// What was done.
#[derive(Debug, Default)]
pub struct Copied {
    /// The names of the new copies, oldest first.
    pub copied: Vec<String>,
    /// What was removed on the volume, with the reason.
    pub removed: Vec<(String, String)>,
    /// What was left undone, and why.
    pub warnings: Vec<String>,
}

/// Why a backup is not on the volume.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VolumeError {
    /// One of the two repositories cannot be used.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// A backup cannot be copied.
    #[error("cannot copy backup {name} to the volume: {source}")]
    Copy {
        /// Name of the backup.
        name: String,
        /// Why.
        source: TransferError,
    },
    /// The copy is not intact.
    #[error("the copy of backup {name} is damaged on the volume, and was removed: {problem}")]
    Damaged {
        /// Name of the backup.
        name: String,
        /// The first failed check.
        problem: String,
    },
    /// The volume is too small, even without all backups that may be removed.
    #[error(
        "the volume {place} has {} free, and backup {name} needs {}: use a larger volume, or keep fewer backups",
        mib(*.free_bytes),
        mib(*.needed_bytes)
    )]
    TooSmall {
        /// The volume.
        place: PathBuf,
        /// Name of the backup.
        name: String,
        /// Free bytes.
        free_bytes: u64,
        /// Needed bytes.
        needed_bytes: u64,
    },
}

/// Copies the proven backups that came after the newest one that is on the volume, oldest first, verifies each copy, and then applies
/// retention.
///
/// A copy keeps its name and record. Only if the node's repository was begun anew, its position in the order is changed, so that it is
/// newer than the older copies.
///
/// # Errors
/// Why a backup was not copied. A backup that cannot be copied, for example because the disk of the node has lost a part of it, does not stop
/// the newer ones.
pub fn copy_new(
    from: &Repository,
    volume: &Path,
    policy: Policy,
    monitor: &dyn Monitor,
) -> Result<Copied, VolumeError> {
    let locked = Arc::new(Repository::create(volume)?.lock()?);
    let mut done = Copied::default();
    for (name, error) in locked.sweep()?.stuck {
        done.warnings.push(format!("cannot remove {name}: {error}"));
    }
    let mut problem = None;
    for entry in to_copy(&from.entries()?, &locked.entries()?) {
        if monitor.advance(0).is_break() {
            break;
        }
        let copied = make_room(&locked, &entry, &mut done)
            .and_then(|()| copy(from, &locked, &entry.name, monitor));
        if let Err(error) = copied {
            // The newest problem is the one to mend.
            problem = Some(error);
            continue;
        }
        done.copied.push(entry.name.clone());
        // Otherwise the volume would have to hold one more than the policy for each new copy.
        let pruned = prune(&locked, policy, None, monitor)?;
        let removed = pruned.removed.into_iter();
        done.removed
            .extend(removed.map(|removal| (removal.name, removal.reason)));
        done.warnings.extend(pruned.failed);
    }
    match problem {
        Some(problem) => Err(problem),
        None => Ok(done),
    }
}

/// The proven backups that came after the newest one that is on the volume, oldest first. `there` is in the order of the node's repository,
/// newest first: times say nothing, because the clock of the node may have been wrong.
fn to_copy(there: &[Entry], copies: &[Entry]) -> Vec<Entry> {
    // A repository that was begun anew within seconds can have another backup of the same name.
    let digests = |entry: &Entry| entry.record().map(|record| record.sha256.clone());
    let is_copied = |entry: &Entry| {
        let mut copies = copies.iter();
        copies.any(|copy| copy.name == entry.name && digests(copy) == digests(entry))
    };
    let is_proven = |entry: &Entry| {
        let candidate = entry.candidate();
        candidate.is_some_and(|candidate| candidate.verified)
    };
    let newer = there.iter().take_while(|entry| !is_copied(entry));
    let mut new: Vec<_> = newer.filter(|entry| is_proven(entry)).cloned().collect();
    new.reverse();
    new
}

fn make_room(volume: &Locked, entry: &Entry, done: &mut Copied) -> Result<(), VolumeError> {
    let needed_bytes = entry
        .record()
        .map_or(0, |record| record.written_bytes)
        .saturating_add(MARGIN_BYTES);
    let space = || Space::at(volume.root()).map(|space| space.free_bytes);
    let free_bytes = space()?;
    if free_bytes >= needed_bytes {
        return Ok(());
    }
    let candidates: Vec<_> = volume
        .entries()?
        .iter()
        .filter_map(Entry::candidate)
        .collect();
    let freed_by = |names: &[&str]| {
        let removed = candidates.iter();
        removed
            .filter(|candidate| names.contains(&candidate.name.as_str()))
            .map(|candidate| candidate.disk_bytes)
            .sum()
    };
    let removals = removals_for_space(&candidates, needed_bytes - free_bytes, freed_by);
    for removal in removals.into_iter().flatten() {
        if volume.remove(&removal.name)? {
            done.removed.push((removal.name, removal.reason));
        }
    }
    let free_bytes = space()?;
    if free_bytes >= needed_bytes {
        return Ok(());
    }
    Err(VolumeError::TooSmall {
        place: volume.root().into(),
        name: entry.name.clone(),
        free_bytes,
        needed_bytes,
    })
}

fn copy(
    from: &Repository,
    volume: &Arc<Locked>,
    name: &str,
    monitor: &dyn Monitor,
) -> Result<(), VolumeError> {
    let failed = |source: TransferError| VolumeError::Copy {
        name: name.into(),
        source,
    };
    let newest = volume
        .entries()?
        .iter()
        .filter_map(|entry| Some(entry.record()?.sequence))
        .max()
        .unwrap_or_default();
    let (input, output) = std::io::pipe().map_err(|source| {
        failed(TransferError::Send {
            name: name.into(),
            source,
        })
    })?;
    let arrived = std::thread::scope(|scope| {
        let sending = scope.spawn(|| send(from, Some(name), output));
        let arrived = take_as(input, monitor, |name| Ok(volume.begin_copy(name)?));
        match sending.join() {
            // What is wrong with the source is the better message than that it ended too soon.
            Ok(Err(TransferError::Send { .. })) | Ok(Ok(())) => arrived,
            Ok(Err(error)) => Err(error),
            Err(_) => arrived,
        }
    });
    let mut arrived = arrived.map_err(failed)?;
    if arrived.record.sequence <= newest {
        arrived
            .set_sequence(newest.saturating_add(1))
            .map_err(failed)?;
    }
    let (_, report) = arrived.prove(monitor).map_err(failed)?;
    if report.ok {
        return Ok(());
    }
    let mut checks = report.checks.iter();
    let bad = checks.find(|check| check.ok == Some(false));
    Err(VolumeError::Damaged {
        name: name.into(),
        problem: bad.map_or_else(String::new, |check| check.detail.clone()),
    })
}
