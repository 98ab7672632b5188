//! Verification: whether a snapshot is intact and restorable, and what it contains.
//!
//! Levels are cumulative: `trailer` compares the file's SHA-256 with the one at its end, `structure`
//! walks all pages, `content` reads all records, `member` compares HashKV with that of a live member.

use crate::digest::Hashed;
use crate::hash_comparison::{self, Comparison};
use crate::local_file::{LocalFile, OpenError, read_small};
use crate::member::{Connection, Member};
use crate::progress::Monitor;
use crate::repository::names::RECORD_FILE;
use crate::repository::{Backup, MAX_RECORD_BYTES};
use crate::snapshot_facts::snapshot_record;
pub use crate::verify_report::{Check, Details, Report};
use crate::{blocks, scratch_file};
use backup_plan::hex::hex;
use backup_plan::record::SnapshotRecord;
use etcd_file::Part;
use etcd_file::bolt::Bolt;
use etcd_file::check::{Checked, Origin};
use etcd_file::finding::{Finding, Findings, Severity};
use etcd_file::mvcc::Summary;
use etcd_file::snapshot_file::{self, Trailer};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The level of a verification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The SHA-256 at the end of the file.
    Trailer,
    /// Also every page of the database.
    Structure,
    /// Also every record.
    Content,
}

/// The settings of a verification.
#[derive(Debug, Clone)]
pub struct Options {
    /// The highest level to check. It includes all lower levels.
    pub level: Level,
    /// Whether a file without a trailer, such as a member's own `db`, is accepted.
    pub trailer_optional: bool,
}

/// Why nothing could be verified.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The file can't be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A directory that can't be listed.
    #[error("cannot list {path}: {source}")]
    List {
        /// The directory.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The directory contains no snapshot.
    #[error("{path} contains no snapshot_*.db: give a backup directory or a snapshot file")]
    NoSnapshot {
        /// The directory.
        path: PathBuf,
    },
    /// The directory contains more than one snapshot.
    #[error("{path} contains several snapshots: give one of them: {}", .names.join(", "))]
    SeveralSnapshots {
        /// The directory.
        path: PathBuf,
        /// Names of at most six of them.
        names: Vec<String>,
    },
}

/// Verifies a backup directory or a file.
///
/// # Errors
/// Why nothing could be checked. Damage is not an error but a [`Check`] that is not ok.
pub fn verify(
    path: &Path,
    options: &Options,
    monitor: &dyn Monitor,
) -> Result<Report, VerifyError> {
    Ok(Verification::of(path, options, monitor)?.report())
}

/// Verifies a backup directory or a file, and compares it with a live member.
///
/// # Errors
/// Why nothing could be checked.
pub async fn verify_against_member(
    path: &Path,
    options: &Options,
    connection: &Connection,
    monitor: &dyn Monitor,
) -> Result<Report, VerifyError> {
    let mut verification = Verification::of(path, options, monitor)?;
    verification.compare_with(connection, monitor).await;
    Ok(verification.report())
}

/// A file, and what was found in it so far.
struct Verification {
    path: PathBuf,
    file: LocalFile,
    data_bytes: u64,
    trailer_optional: bool,
    checked: Option<Checked>,
    checks: Vec<Check>,
}

impl Verification {
    fn of(path: &Path, options: &Options, monitor: &dyn Monitor) -> Result<Self, VerifyError> {
        let given_dir = path.is_dir();
        let path = snapshot_in(path)?;
        let file = LocalFile::open(&path)?;
        let trailer = Trailer::of(file.size_bytes());
        let mut checks = vec![check_trailer(&file, trailer, options, monitor)];
        let mut backup = None;
        if let Some(dir) = path.parent().filter(|_| given_dir) {
            if let Some(check) = checks.first_mut().filter(|check| check.ok == Some(false)) {
                check.errors.extend(damaged_blocks(&file, dir));
            }
            let (check, found) = check_files(dir, &path);
            checks.extend(check);
            backup = found;
        }
        let (data_bytes, origin) = match trailer {
            Trailer::Present { data_bytes } => (data_bytes, Origin::Snapshot),
            _ => (file.size_bytes(), Origin::Database),
        };
        let data = Part::first(&file, data_bytes);
        let mut checked = None;
        if options.level >= Level::Structure {
            checked = check_database(&data, origin, options, monitor, &mut checks);
        }
        let summary = checked
            .as_ref()
            .and_then(|checked| checked.summary.as_ref());
        if let (Some(backup), Some(summary)) = (&backup, summary)
            && let Some(check) = checks.iter_mut().find(|check| check.name == FILES)
        {
            compare_with_record(
                &backup.record.snapshot,
                &snapshot_record(summary, data_bytes, file.size_bytes()),
                check,
            );
        }
        Ok(Verification {
            path,
            data_bytes,
            trailer_optional: options.trailer_optional,
            checked,
            checks,
            file,
        })
    }

    fn summary(&self) -> Option<&Summary> {
        self.checked.as_ref()?.summary.as_ref()
    }

    async fn compare_with(&mut self, connection: &Connection, monitor: &dyn Monitor) {
        let start = Instant::now();
        let check = match self.summary() {
            None => Check::new(MEMBER, None, "not compared: the pages are damaged", start),
            Some(summary) => {
                let data = Part::first(&self.file, self.data_bytes);
                check_member(&data, summary, connection, monitor, start).await
            }
        };
        self.checks.push(check);
    }

    fn report(mut self) -> Report {
        // A member commits several times a second: the time stamp alone may not show the last commit.
        let data = Part::first(&self.file, self.data_bytes);
        let meta = Bolt::open(&data).ok().map(|bolt| *bolt.meta());
        let checked = self.checked.as_ref();
        let committed = checked.is_some_and(|checked| checked.meta != meta);
        if self.file.changed() || committed {
            for check in &mut self.checks {
                check.ok = Some(false);
            }
            if let Some(first) = self.checks.first_mut() {
                first.errors.push(
                    "the file changed while it was read: it may belong to a running member; verify a snapshot, or a clone of the file"
                        .into(),
                );
            }
        }
        // Every check must be made, except that of the trailer of a member's own database.
        let ok = self.checks.iter().all(|check| match check.ok {
            Some(ok) => ok,
            None => check.name == TRAILER && self.trailer_optional,
        });
        let summary = self.summary();
        Report {
            ok,
            hash: summary.map(|summary| format!("{:08x}", summary.status_hash)),
            revision: summary.map(|summary| summary.revision),
            total_keys: summary.map(|summary| summary.live_keys),
            size_bytes: checked.and_then(|checked| checked.logical_bytes),
            details: summary.map(details),
            checks: self.checks.clone(),
            file: self.path.clone(),
        }
    }
}

const TRAILER: &str = "trailer";
const FILES: &str = "files";
const STRUCTURE: &str = "structure";
const CONTENT: &str = "content";
const MEMBER: &str = "member";

fn details(summary: &Summary) -> Details {
    Details {
        current_revision: summary.current_revision,
        compact_revision: summary.compact_revision,
        records: summary.records,
        consistent_index: summary.consistent_index,
        storage_version: summary.storage_version.clone(),
        cluster_version: summary.cluster_version.clone(),
        members: summary.members,
    }
}

/// The snapshot of a backup directory, or the path itself.
pub(crate) fn snapshot_in(path: &Path) -> Result<PathBuf, VerifyError> {
    const NAMED: usize = 5;
    if !path.is_dir() {
        return Ok(path.into());
    }
    let list_error = |source| VerifyError::List {
        path: path.into(),
        source,
    };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path).map_err(list_error)? {
        let name = entry.map_err(list_error)?.file_name();
        if let Some(name) = name.to_str()
            && name.starts_with("snapshot_")
            && name.ends_with(".db")
        {
            names.push(name.to_owned());
        }
        if names.len() > NAMED {
            break;
        }
    }
    names.sort();
    match names.as_slice() {
        [] => Err(VerifyError::NoSnapshot { path: path.into() }),
        [name] => Ok(path.join(name)),
        _ => Err(VerifyError::SeveralSnapshots {
            path: path.into(),
            names,
        }),
    }
}

fn check_trailer(
    file: &LocalFile,
    trailer: Trailer,
    options: &Options,
    monitor: &dyn Monitor,
) -> Check {
    let start = Instant::now();
    let data_bytes = match trailer {
        Trailer::Present { data_bytes } => data_bytes,
        Trailer::Absent if options.trailer_optional => {
            let detail =
                "no SHA-256 at the end: the file is a member's own database, or a copy of it";
            return Check::new(TRAILER, None, detail, start);
        }
        Trailer::Absent => {
            let detail = "no SHA-256 at the end: the file is not a snapshot, or it is truncated; for a copy of a member's own database use --level content";
            return Check::new(TRAILER, Some(false), detail, start);
        }
        Trailer::Misplaced { odd_bytes } => {
            let detail = format!(
                "{odd_bytes} bytes after the last full sector, expected the 32 bytes of a SHA-256: the file is truncated, or data was added"
            );
            return Check::new(TRAILER, Some(false), detail, start);
        }
    };
    monitor.step(TRAILER, data_bytes);
    match snapshot_file::digests(file, data_bytes, &mut |bytes| monitor.advance(bytes)) {
        Ok(digests) if digests.stored == digests.computed => {
            let detail = format!("SHA-256 {}", hex(&digests.computed));
            Check::new(TRAILER, Some(true), detail, start)
        }
        Ok(digests) => {
            let detail = format!(
                "SHA-256 is {}, expected {}",
                hex(&digests.computed),
                hex(&digests.stored)
            );
            Check::new(TRAILER, Some(false), detail, start)
        }
        Err(failure) => Check::failed(TRAILER, &failure, start),
    }
}

/// The parts of a snapshot that differ from the block hashes.
fn damaged_blocks(file: &LocalFile, dir: &Path) -> Vec<String> {
    const REPORTED: usize = 20;
    // A truncated snapshot has more hashes than blocks. Some more are accepted, but the memory is limited.
    let max_bytes = blocks::max_bytes(file.size_bytes()).saturating_add(MAX_RECORD_BYTES);
    let Ok(hashes) = read_small(&dir.join(blocks::FILE), max_bytes) else {
        return Vec::new();
    };
    let mut go_on = |_| std::ops::ControlFlow::Continue(());
    match blocks::damaged(file, &hashes, REPORTED, &mut go_on) {
        Ok(places) => places
            .into_iter()
            .map(|place| {
                format!(
                    "the snapshot differs from what was written at offsets {} to {}",
                    place.start, place.end
                )
            })
            .collect(),
        Err(problem) => vec![problem],
    }
}

/// Checks the other files of a backup by the SHA-256 in its record. Directories of other programs have no such check.
fn check_files(dir: &Path, snapshot: &Path) -> (Option<Check>, Option<Backup>) {
    let start = Instant::now();
    if !dir.join(RECORD_FILE).exists() {
        // Only this program writes block hashes.
        let has_hashes = dir.join(blocks::FILE).exists();
        let detail =
            format!("{RECORD_FILE} is missing: the other files of the backup cannot be checked");
        return (
            has_hashes.then(|| Check::new(FILES, None, detail, start)),
            None,
        );
    }
    let failed = |detail: String| (Some(Check::new(FILES, Some(false), detail, start)), None);
    let backup = match Backup::read(dir, &name_in(snapshot)) {
        Ok(backup) => backup,
        Err(problem) => return failed(problem),
    };
    let unchanged = match unchanged_files(&backup) {
        Ok(unchanged) => unchanged,
        Err(problem) => return failed(problem),
    };
    let detail = format!("{unchanged} files beside the snapshot are unchanged");
    (
        Some(Check::new(FILES, Some(true), detail, start)),
        Some(backup),
    )
}

/// Compares the files of a backup with their SHA-256 in the record, except the snapshot, which has checks of its own. Returns their
/// number.
///
/// # Errors
/// The file that is different or can't be read.
pub(crate) fn unchanged_files(backup: &Backup) -> Result<usize, String> {
    let mut unchanged = 0;
    let snapshot = backup.snapshot();
    for (name, expected) in &backup.record.sha256 {
        let path = backup.path(name);
        if path == snapshot {
            continue;
        }
        let opened = LocalFile::open(&path).map_err(io::Error::other);
        let found = opened.and_then(|mut file| {
            let mut hashed = Hashed::new(io::sink());
            io::copy(&mut file, &mut hashed)?;
            Ok(hashed.hex())
        });
        match found {
            Ok(found) if found == *expected => unchanged += 1,
            Ok(found) => return Err(format!("{name}: SHA-256 is {found}, expected {expected}")),
            Err(error) => return Err(format!("{name}: {error}")),
        }
    }
    Ok(unchanged)
}

/// The name of the backup that a snapshot belongs to, by the name of its file.
pub(crate) fn name_in(snapshot: &Path) -> String {
    let file = snapshot.file_name().unwrap_or_default().to_string_lossy();
    let name = file.strip_prefix("snapshot_").unwrap_or(&file);
    name.strip_suffix(".db").unwrap_or(name).to_string()
}

/// Compares the record with the content of the snapshot.
fn compare_with_record(recorded: &SnapshotRecord, found: &SnapshotRecord, check: &mut Check) {
    let text = |id: Option<u64>| id.map_or("none".to_string(), |id| id.to_string());
    for (name, recorded, found) in [
        ("hash", recorded.hash.clone(), found.hash.clone()),
        (
            "revision",
            recorded.revision.to_string(),
            found.revision.to_string(),
        ),
        (
            "compact revision",
            recorded.compact_revision.to_string(),
            found.compact_revision.to_string(),
        ),
        (
            "consistent index",
            text(recorded.consistent_index),
            text(found.consistent_index),
        ),
        (
            "keys",
            recorded.total_keys.to_string(),
            found.total_keys.to_string(),
        ),
        (
            "records",
            recorded.records.to_string(),
            found.records.to_string(),
        ),
        (
            "size",
            recorded.size_bytes.to_string(),
            found.size_bytes.to_string(),
        ),
    ] {
        if recorded != found {
            check.ok = Some(false);
            check.errors.push(format!(
                "{RECORD_FILE} says {name} {recorded}, the snapshot has {found}"
            ));
        }
    }
}

fn check_database(
    data: &Part<'_>,
    origin: Origin,
    options: &Options,
    monitor: &dyn Monitor,
    checks: &mut Vec<Check>,
) -> Option<Checked> {
    let start = Instant::now();
    let wants_content = options.level >= Level::Content;
    let total_bytes = etcd_file::ReadAt::size_bytes(data).unwrap_or_default();
    monitor.step(STRUCTURE, total_bytes);
    let checked = match etcd_file::check::check(data, origin, &scratch_file::create, &mut |bytes| {
        monitor.advance(bytes)
    }) {
        Ok(checked) => checked,
        Err(failure) => {
            checks.push(Check::failed(STRUCTURE, &failure, start));
            if wants_content {
                checks.push(Check::failed(CONTENT, &failure, Instant::now()));
            }
            return None;
        }
    };
    let sound = format!(
        "{} pages of the trees are intact{}",
        checked.tree_pages,
        match checked.meta {
            Some(meta) => format!(
                ", {} bytes each, of {} in the file, at transaction {}",
                meta.page_size, meta.high_water_mark, meta.txid
            ),
            None => String::new(),
        }
    );
    checks.push(judged(STRUCTURE, &checked.structure, sound, start));
    if wants_content {
        let start = Instant::now();
        checks.push(match &checked.summary {
            None => Check::new(CONTENT, None, "not checked: the pages are damaged", start),
            Some(summary) => {
                let sound = format!(
                    "{} records up to revision {}, {} keys",
                    summary.records, summary.revision, summary.live_keys
                );
                judged(CONTENT, &checked.content, sound, start)
            }
        });
    }
    Some(checked)
}

fn judged(name: &'static str, findings: &Findings, sound: String, since: Instant) -> Check {
    let errors = findings.errors();
    let mut check = if errors == 0 {
        Check::new(name, Some(true), sound, since)
    } else {
        let detail = format!("{errors} error{}", if errors == 1 { "" } else { "s" });
        Check::new(name, Some(false), detail, since)
    };
    let texts = |severity| {
        findings
            .of(severity)
            .map(Finding::to_string)
            .collect::<Vec<_>>()
    };
    check.errors = texts(Severity::Error);
    check.warnings = texts(Severity::Warning);
    check
}

async fn check_member(
    data: &Part<'_>,
    summary: &Summary,
    connection: &Connection,
    monitor: &dyn Monitor,
    start: Instant,
) -> Check {
    let asked = async {
        let member = Member::connect(connection)
            .await
            .map_err(|error| error.to_string())?;
        hash_comparison::ask(&member, summary).await
    };
    let theirs = match asked.await {
        Ok(theirs) => theirs,
        Err(reason) => {
            return Check::new(MEMBER, None, format!("cannot compare: {reason}"), start);
        }
    };
    let total_bytes = etcd_file::ReadAt::size_bytes(data).unwrap_or_default();
    monitor.step(MEMBER, total_bytes.saturating_mul(2));
    let compared = hash_comparison::compare(
        data,
        summary,
        &theirs,
        &scratch_file::create,
        &mut |bytes| monitor.advance(bytes),
    );
    let at = format!(
        "at revision {}, compacted to {}, of member {:x}",
        summary.current_revision, theirs.compact_revision, theirs.member_id
    );
    match compared {
        Comparison::Equal(ours) => {
            Check::new(MEMBER, Some(true), format!("HashKV {ours:08x} {at}"), start)
        }
        Comparison::Differs(ours) => {
            let detail = format!("HashKV is {ours:08x}, expected {:08x} {at}", theirs.hash);
            Check::new(MEMBER, Some(false), detail, start)
        }
        Comparison::Impossible(problem) => Check::new(MEMBER, None, problem, start),
    }
}
