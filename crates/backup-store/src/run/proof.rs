//! The proof of a snapshot: the bytes on the disk, every page, every record, and once a day the member's own hash.

use super::error::{RunError, write_error};
use super::notes::Notes;
use super::read_back;
use crate::disk::Disk;
use crate::hash_comparison::{self, Comparison};
use crate::member::{Member, Peer, Status};
use crate::progress::SharedMonitor;
use crate::repository::{Locked, Repository};
use crate::scratch_file;
use backup_plan::record::ReadBack;
use etcd_file::check::{Origin, check};
use etcd_file::finding::Severity;
use etcd_file::mvcc::Summary;
use etcd_file::{Failure, Part, Scratch};
use jiff::Timestamp;
use rustix::fs::Advice;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// A member does not write while it computes HashKV. Up to this size of the database, the pause is short.
const MAX_COMPARED_BYTES: u64 = 2 << 30;
const COMPARE_EVERY_HOURS: i64 = 24;

/// Compares a snapshot on the disk with what was written, and checks all of it.
pub(crate) fn read_back_and_check(
    path: &Path,
    data_bytes: u64,
    blocks: &[u8],
    monitor: &SharedMonitor,
) -> Result<(ReadBack, Summary), RunError> {
    let how = read_back::compare(path, blocks, &**monitor)?;
    let proven = check_content(path, data_bytes, monitor);
    if matches!(proven, Err(RunError::Damaged { .. } | RunError::Check(_))) {
        // Read it again: if the file now differs from what was written, the disk is damaged and not the member's database.
        read_back::compare(path, blocks, &**monitor)?;
    }
    Ok((how, proven?))
}

/// Checks every page and every record of a snapshot.
fn check_content(
    path: &Path,
    data_bytes: u64,
    monitor: &SharedMonitor,
) -> Result<Summary, RunError> {
    monitor.step("verify", data_bytes);
    let file = File::open(path).map_err(write_error(path))?;
    let data = Part::first(&file, data_bytes);
    let checked = check(
        &data,
        Origin::Snapshot,
        &scratch_beside(path),
        &mut |bytes| monitor.advance(bytes),
    )
    .map_err(|failure| match failure {
        Failure::Cancelled => RunError::Stopped,
        failure => RunError::Check(failure),
    })?;
    if checked
        .logical_bytes
        .is_some_and(|bytes| bytes != data_bytes)
    {
        return Err(RunError::Cut {
            received_bytes: data_bytes,
            problem: format!(
                "the database has {} bytes according to its meta page",
                checked.logical_bytes.unwrap_or_default()
            ),
        });
    }
    forget(&file);
    let errors = checked.structure.errors() + checked.content.errors();
    let first = checked
        .structure
        .of(Severity::Error)
        .chain(checked.content.of(Severity::Error))
        .next();
    match (first, checked.summary) {
        (None, Some(summary)) => Ok(summary),
        (first, _) => Err(RunError::Damaged {
            errors,
            first: first.map(ToString::to_string).unwrap_or_default(),
        }),
    }
}

/// Creates temporary files in the run's own directory, which is writable.
fn scratch_beside(path: &Path) -> impl Fn() -> io::Result<Box<dyn Scratch>> {
    let dir = path.parent().unwrap_or(path);
    move || scratch_file::create_beside(dir)
}

/// Removes a file from the page cache. etcd needs that memory for its own files.
fn forget(file: &File) {
    // If a filesystem cannot do this, the pages stay in memory, which does no harm.
    let _ = rustix::fs::fadvise(file, 0, None, Advice::DontNeed);
}

fn member_key(status: &Status) -> String {
    format!("{:x}/{:x}", status.cluster_id, status.member_id)
}

/// When this member was last asked for its HashKV.
fn last_compared(
    repository: &Repository,
    status: &Status,
    now: Timestamp,
) -> Result<Option<Timestamp>, RunError> {
    let key = member_key(status);
    let noted = Notes::of(repository).compared.get(&key).copied();
    let recorded = repository
        .entries()?
        .iter()
        .filter_map(|entry| entry.record())
        .find(|record| format!("{}/{}", record.member.cluster_id, record.member.id) == key)
        .and_then(|record| record.compared_at);
    // A time in the future comes from a wrong clock.
    let known = [noted, recorded].into_iter().flatten();
    Ok(known.filter(|at| *at <= now).max())
}

/// Whether to compare: once a day, never on a leader with followers, and only if the scan is short.
fn wants_comparison(
    compared_at: Option<Timestamp>,
    status: &Status,
    peers: &[Peer],
    now: Timestamp,
) -> bool {
    let leads_others = status.leader == status.member_id && peers.len() > 1;
    let recently =
        compared_at.is_some_and(|at| now.duration_since(at).as_hours().abs() < COMPARE_EVERY_HOURS);
    !leads_others && !recently && status.db_bytes <= MAX_COMPARED_BYTES
}

/// What the daily comparison needs.
pub(crate) struct DailyComparison<'c> {
    pub(crate) disk: &'c Disk,
    pub(crate) repository: &'c Arc<Locked>,
    pub(crate) member: &'c Member,
    pub(crate) status: &'c Status,
    pub(crate) peers: &'c [Peer],
    pub(crate) snapshot: &'c Path,
    pub(crate) data_bytes: u64,
    pub(crate) summary: &'c Summary,
    pub(crate) now: Timestamp,
    pub(crate) monitor: &'c SharedMonitor,
}

/// The result of the daily comparison.
pub(crate) struct Compared {
    /// When the member was last asked.
    pub(crate) at: Option<Timestamp>,
    /// Whether it was asked now and has the same hash.
    pub(crate) is_equal: bool,
    pub(crate) warning: Option<String>,
}

impl DailyComparison<'_> {
    /// Compares HashKV with the member's, if that is due.
    pub(crate) async fn run(&self) -> Result<Compared, RunError> {
        let (repository, status, now) = (self.repository.clone(), self.status.clone(), self.now);
        let reading = move || last_compared(&repository, &status, now);
        let last = self.disk.run("reading the notes", reading).await??;
        let not_compared = |at, warning| Compared {
            at,
            is_equal: false,
            warning,
        };
        if !wants_comparison(last, self.status, self.peers, now) {
            return Ok(not_compared(last, None));
        }
        // Written before the member is asked, so that it is asked at most once a day, even if the run fails.
        let (repository, key) = (self.repository.clone(), member_key(self.status));
        let noting = move || {
            let mut notes = Notes::of(&repository);
            notes.compared.insert(key, now);
            notes.keep(&repository)
        };
        if let Err(error) = self.disk.run("writing the notes", noting).await? {
            // Without the note, each run would ask the member again.
            return Ok(not_compared(
                last,
                Some(format!("not compared with the member: {error}")),
            ));
        }
        // A complete backup is also kept if the member cannot compute its hash.
        let theirs = match hash_comparison::ask(self.member, self.summary).await {
            Ok(theirs) => theirs,
            Err(reason) => {
                let warning = format!("not compared with the member: {reason}");
                return Ok(not_compared(Some(now), Some(warning)));
            }
        };
        self.monitor
            .step("member", self.data_bytes.saturating_mul(2));
        let (path, summary, data_bytes) = (
            self.snapshot.to_path_buf(),
            self.summary.clone(),
            self.data_bytes,
        );
        let expected = theirs.hash;
        let computing = move |monitor: &SharedMonitor| {
            let file = File::open(&path).map_err(write_error(&path))?;
            let data = Part::first(&file, data_bytes);
            let compared = hash_comparison::compare(
                &data,
                &summary,
                &theirs,
                &scratch_beside(&path),
                &mut |bytes| monitor.advance(bytes),
            );
            forget(&file);
            Ok::<_, RunError>(compared)
        };
        let compared = self
            .disk
            .run_watched("hashing the snapshot", self.monitor, computing)
            .await??;
        match compared {
            Comparison::Equal(_) => Ok(Compared {
                at: Some(now),
                is_equal: true,
                warning: None,
            }),
            Comparison::Differs(found) => Err(RunError::Differs {
                found,
                expected,
                revision: self.summary.current_revision,
            }),
            Comparison::Impossible(reason) => {
                let warning = format!("not compared with the member: {reason}");
                Ok(not_compared(Some(now), Some(warning)))
            }
        }
    }
}
