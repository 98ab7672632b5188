//! Verification: whether a snapshot is intact and restorable, and what it contains.
//!
//! Levels are cumulative: `trailer` compares the file's SHA-256 with the one at its end, `structure`
//! walks all pages, `content` reads all records, `member` compares HashKV with that of a live member.

use crate::backup::snapshot_record;
use crate::digest::{Hashed, hex};
use crate::local_file::{LocalFile, OpenError, read_small};
use crate::member::{Connection, HashKv, HashKvAnswer, Member, MemberError};
use crate::progress::Monitor;
use crate::repository::{MAX_RECORD_BYTES, RECORD_FILE};
use crate::{blocks, scratch_file};
use backup_plan::record::{Record, SnapshotRecord};
use etcd_file::bolt::Bolt;
use etcd_file::check::{Checked, Origin};
use etcd_file::finding::{Finding, Findings, Severity};
use etcd_file::mvcc::{Summary, hash_kv};
use etcd_file::snapshot_file::{self, Trailer};
use etcd_file::{Failure, Part};
use serde::Serialize;
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
    /// Also the same hash as a live member.
    Member,
}

/// The settings of a verification.
#[derive(Debug, Clone)]
pub struct Options {
    /// The level.
    pub level: Level,
    /// Whether a file without a trailer, such as a member's own `db`, is accepted.
    pub trailer_optional: bool,
    /// The member to compare with, for [`Level::Member`].
    pub against: Option<Connection>,
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
        /// Some of their names.
        names: Vec<String>,
    },
}

/// The result of a verification. Scripts may rely on the fields up to `checks`.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Whether every requested check was made and passed.
    pub ok: bool,
    /// The hash that `etcdutl snapshot status` shows, as 8 hex digits. Missing if the pages are damaged or
    /// were not checked. The same applies to the numbers below.
    pub hash: Option<String>,
    /// The revision of the last record.
    pub revision: Option<i64>,
    /// Keys with a value.
    pub total_keys: Option<u64>,
    /// High-water mark × page size, in bytes.
    pub size_bytes: Option<u64>,
    /// The checks, in order.
    pub checks: Vec<Check>,
    /// The file that was checked.
    pub file: PathBuf,
    /// More details of the file.
    #[serde(flatten)]
    pub details: Option<Details>,
}

/// More details of a file.
#[derive(Debug, Clone, Serialize)]
pub struct Details {
    /// The revision at which a member starts from this file.
    pub current_revision: i64,
    /// The revision up to which history is compacted, or -1.
    pub compact_revision: i64,
    /// Records, which are all changes that are stored.
    pub records: u64,
    /// The raft index that the file reflects.
    pub consistent_index: Option<u64>,
    /// The storage version, from etcd 3.6 on.
    pub storage_version: Option<String>,
    /// The cluster version, from etcd 3.5 on.
    pub cluster_version: Option<String>,
    /// Members of the cluster the file is from.
    pub members: u64,
}

/// One check of a verification.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    /// `trailer`, `structure`, `content`, `member`, or `files` for the other files of a backup.
    pub name: &'static str,
    /// Whether the check passed; none if it could not be made.
    pub ok: Option<bool>,
    /// The result in one line.
    pub detail: String,
    /// How long it took, in milliseconds. Structure and content share one pass, counted for structure.
    pub took_ms: u64,
    /// The first errors, with their place. `detail` has the number of all errors.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<String>,
    /// Unusual, but no damage.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

impl Check {
    fn new(
        name: &'static str,
        ok: Option<bool>,
        detail: impl Into<String>,
        since: Instant,
    ) -> Self {
        Check {
            name,
            ok,
            detail: detail.into(),
            took_ms: since.elapsed().as_millis().try_into().unwrap_or(u64::MAX),
            errors: Vec::new(),
            warnings: Vec::new(),
        }
    }

    fn failed(name: &'static str, failure: &Failure, since: Instant) -> Self {
        // A file that can't be read is no backup; a full temporary directory says nothing about it.
        let ok = match failure {
            Failure::Read { .. } => Some(false),
            _ => None,
        };
        Check::new(name, ok, failure.to_string(), since)
    }
}

/// Verifies a backup directory or a file.
///
/// # Errors
/// Nothing could be verified. Damage is not an error, but a [`Check`] that is not ok.
pub async fn verify(
    path: &Path,
    options: &Options,
    monitor: &dyn Monitor,
) -> Result<Report, VerifyError> {
    let given_dir = path.is_dir();
    let path = snapshot_in(path)?;
    let file = LocalFile::open(&path)?;
    let trailer = Trailer::of(file.size_bytes());
    let mut checks = vec![check_trailer(&file, trailer, options, monitor)];
    let mut record = None;
    if let Some(dir) = path.parent().filter(|_| given_dir) {
        if let Some(check) = checks.first_mut().filter(|check| check.ok == Some(false)) {
            check.errors.extend(damaged_blocks(&file, dir));
        }
        let (check, found) = check_files(dir);
        checks.extend(check);
        record = found;
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
    if let (Some(record), Some(summary)) = (&record, summary)
        && let Some(check) = checks.iter_mut().find(|check| check.name == FILES)
    {
        compare_with_record(
            &record.snapshot,
            &snapshot_record(summary, data_bytes),
            check,
        );
    }
    if options.level >= Level::Member {
        checks.push(check_member(&data, summary, options, monitor).await);
    }
    // A member commits several times a second: a time stamp alone may not show the last one.
    let meta = Bolt::open(&data).ok().map(|bolt| *bolt.meta());
    let committed = checked.as_ref().is_some_and(|checked| checked.meta != meta);
    if file.changed() || committed {
        for check in &mut checks {
            check.ok = Some(false);
        }
        if let Some(first) = checks.first_mut() {
            first.errors.push(
                "the file changed while it was read: it may belong to a running member; verify a snapshot, or a clone of the file"
                    .into(),
            );
        }
    }
    // Nothing but the trailer of a raw database may be left open.
    let ok = checks.iter().all(|check| match check.ok {
        Some(ok) => ok,
        None => check.name == TRAILER && options.trailer_optional,
    });
    Ok(Report {
        ok,
        hash: summary.map(|summary| format!("{:08x}", summary.status_hash)),
        revision: summary.map(|summary| summary.revision),
        total_keys: summary.map(|summary| summary.live_keys),
        size_bytes: checked.as_ref().and_then(|checked| checked.logical_bytes),
        details: summary.map(details),
        checks,
        file: path,
    })
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
fn snapshot_in(path: &Path) -> Result<PathBuf, VerifyError> {
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
    const TOLD: usize = 20;
    // A cut snapshot has more hashes than blocks: so many more, and no more memory.
    let max_bytes = blocks::max_bytes(file.size_bytes()).saturating_add(MAX_RECORD_BYTES);
    let Ok(hashes) = read_small(&dir.join(blocks::FILE), max_bytes) else {
        return Vec::new();
    };
    let mut go_on = |_| std::ops::ControlFlow::Continue(());
    match blocks::damaged(file, &hashes, TOLD, &mut go_on) {
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

/// Checks the other files of a backup by the digests in its record; none for other directories.
fn check_files(dir: &Path) -> (Option<Check>, Option<Record>) {
    let start = Instant::now();
    let path = dir.join(RECORD_FILE);
    if !path.exists() {
        // Only we write block hashes.
        let ours = dir.join(blocks::FILE).exists();
        let detail =
            format!("{RECORD_FILE} is missing: the other files of the backup cannot be checked");
        return (ours.then(|| Check::new(FILES, None, detail, start)), None);
    }
    let failed = |detail: String| (Some(Check::new(FILES, Some(false), detail, start)), None);
    let record: Record = match read_small(&path, MAX_RECORD_BYTES)
        .and_then(|json| Ok(serde_json::from_slice(&json)?))
    {
        Ok(record) => record,
        Err(error) => return failed(format!("{RECORD_FILE}: {error}")),
    };
    let mut whole = 0;
    for (name, expected) in &record.sha256 {
        // The snapshot has its own trailer, and more.
        if name.ends_with(".db") {
            continue;
        }
        // A name from a file is no path.
        if name.contains('/') {
            return failed(format!(
                "{RECORD_FILE} lists {name:?}, which is not a file in the same directory"
            ));
        }
        let opened = LocalFile::open(&dir.join(name)).map_err(io::Error::other);
        let found = opened.and_then(|mut file| {
            let mut hashed = Hashed::new(io::sink());
            io::copy(&mut file, &mut hashed)?;
            Ok(hashed.hex())
        });
        match found {
            Ok(found) if found == *expected => whole += 1,
            Ok(found) => {
                return failed(format!("{name}: SHA-256 is {found}, expected {expected}"));
            }
            Err(error) => return failed(format!("{name}: {error}")),
        }
    }
    let detail = format!("{whole} files beside the snapshot are unchanged");
    (
        Some(Check::new(FILES, Some(true), detail, start)),
        Some(record),
    )
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
    let told = |severity| {
        findings
            .of(severity)
            .map(Finding::to_string)
            .collect::<Vec<_>>()
    };
    check.errors = told(Severity::Error);
    check.warnings = told(Severity::Warning);
    check
}

async fn check_member(
    data: &Part<'_>,
    summary: Option<&Summary>,
    options: &Options,
    monitor: &dyn Monitor,
) -> Check {
    let start = Instant::now();
    let Some(summary) = summary else {
        return Check::new(MEMBER, None, "not compared: the pages are damaged", start);
    };
    let Some(connection) = &options.against else {
        return Check::new(MEMBER, None, "not compared: no member was given", start);
    };
    let revision = summary.current_revision;
    let answer = match ask(connection, revision).await {
        Ok(answer) => answer,
        Err(error) => return Check::new(MEMBER, None, error.to_string(), start),
    };
    let theirs = match answer {
        HashKvAnswer::Hash(theirs) => theirs,
        HashKvAnswer::Compacted => {
            let detail = format!(
                "cannot compare: the member has compacted its history beyond revision {revision}; make a newer snapshot"
            );
            return Check::new(MEMBER, None, detail, start);
        }
        HashKvAnswer::Future => {
            let detail = format!(
                "cannot compare: the member has not reached revision {revision} yet; it may belong to another cluster"
            );
            return Check::new(MEMBER, None, detail, start);
        }
    };
    if theirs.compact_revision < summary.compact_revision {
        let detail = format!(
            "cannot compare: the member's hash is for compact revision {}, but the file is compacted to revision {}; make a newer snapshot",
            theirs.compact_revision, summary.compact_revision
        );
        return Check::new(MEMBER, None, detail, start);
    }
    compare(data, revision, theirs, monitor, start)
}

async fn ask(connection: &Connection, revision: i64) -> Result<HashKvAnswer, MemberError> {
    Member::connect(connection).await?.hash_kv(revision).await
}

fn compare(
    data: &Part<'_>,
    revision: i64,
    theirs: HashKv,
    monitor: &dyn Monitor,
    start: Instant,
) -> Check {
    let total_bytes = etcd_file::ReadAt::size_bytes(data).unwrap_or_default();
    monitor.step(MEMBER, total_bytes.saturating_mul(2));
    let computed = Bolt::open(data)
        .map_err(|error| error.to_string())
        .and_then(|bolt| {
            hash_kv(
                &bolt,
                revision,
                theirs.compact_revision,
                &scratch_file::create,
                &mut |bytes| monitor.advance(bytes),
            )
            .map_err(|error| error.to_string())
        });
    let at = format!(
        "at revision {revision}, compacted to {}, of member {:x}",
        theirs.compact_revision, theirs.member_id
    );
    match computed {
        Ok(ours) if ours == theirs.hash => {
            Check::new(MEMBER, Some(true), format!("HashKV {ours:08x} {at}"), start)
        }
        Ok(ours) => {
            let detail = format!("HashKV is {ours:08x}, expected {:08x} {at}", theirs.hash);
            Check::new(MEMBER, Some(false), detail, start)
        }
        Err(problem) => Check::new(MEMBER, None, problem, start),
    }
}
