//! What a restore changes: the keys of one source, compared with those of another.

use super::error::RestoreError;
use super::facts::read_facts;
use super::lock::{DB_FILE, SNAP_DIR, is_locked};
use super::log_files::{LogFiles, LogSummary, WAL_DIR};
use super::source::Source;
use crate::local_file::LocalFile;
use crate::progress::Monitor;
use crate::scratch_file;
use backup_plan::hex::hex;
use etcd_file::ReadAt;
use etcd_file::bolt::{Bolt, Rewrite};
use etcd_file::keyspace::{
    Change, Fingerprints, KeyState, KeyspaceError, LiveKeys, Replayed, SortedKeys, compare, read,
    replay,
};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// A source of keys.
#[derive(Debug, Clone, Serialize)]
pub struct Side {
    /// The file, or the data directory.
    pub path: PathBuf,
    /// The revision of its last change.
    pub revision: i64,
    /// What the log of a data directory added to its database. `None` without a log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<LogPart>,
}

/// What the log of a data directory added to its database.
#[derive(Debug, Clone, Serialize)]
pub struct LogPart {
    /// Number of entries that were applied.
    pub entries: u64,
    /// How many of them, at the end, are not known to be committed.
    pub maybe_uncommitted_entries: u64,
    /// Number of entries that were left out.
    pub left_out_entries: u64,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left_out_because: Option<String>,
}

/// A key that a restore changes. Scripts depend on its JSON.
#[derive(Debug, Clone, Serialize)]
pub struct ChangedKey {
    /// What happens to it.
    pub change: ChangeType,
    /// The key. Bytes that are not UTF-8 are replaced.
    pub key: String,
    /// The bytes of the key, if it is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_hex: Option<String>,
    /// Of an object of Kubernetes that is not encrypted, such as `ConfigMap`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Of an object of Kubernetes, such as `configmaps`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// The namespace of an object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The name of an object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What is there before the restore.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<KeyRecord>,
    /// What is there after it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<KeyRecord>,
}

/// What happens to a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChangeType {
    /// It is there before the restore only.
    Vanishes,
    /// It is there after the restore only.
    Returns,
    /// Its values differ.
    Differs,
}

/// The newest record of a key.
#[derive(Debug, Clone, Serialize)]
pub struct KeyRecord {
    /// The revision of the record.
    pub mod_revision: i64,
    /// Length of the value, in bytes.
    pub value_bytes: u64,
}

impl ChangedKey {
    fn of(change: &Change, fingerprints: &Fingerprints) -> Self {
        let record = |state: &KeyState| KeyRecord {
            mod_revision: state.mod_revision.main,
            value_bytes: state.value_bytes,
        };
        let (change, state, from, to) = match change {
            Change::Vanishes(state) => (ChangeType::Vanishes, state, Some(record(state)), None),
            Change::Returns(state) => (ChangeType::Returns, state, None, Some(record(state))),
            Change::Differs { from, to } => (
                ChangeType::Differs,
                to,
                Some(record(from)),
                Some(record(to)),
            ),
        };
        let (kind, resource, namespace, name) = match fingerprints.object(state) {
            None => (None, None, None, None),
            Some(object) => (
                object.kind,
                Some(object.resource),
                object.namespace,
                Some(object.name),
            ),
        };
        ChangedKey {
            change,
            key: String::from_utf8_lossy(&state.key).into_owned(),
            key_hex: std::str::from_utf8(&state.key)
                .is_err()
                .then(|| hex(&state.key)),
            kind,
            resource,
            namespace,
            name,
            from,
            to,
        }
    }
}

/// Two sources that can be compared.
pub struct Difference {
    /// What is there before the restore.
    pub from: Side,
    /// What is there after it.
    pub to: Side,
    keys: [(SortedKeys, Replayed); 2],
    fingerprints: Fingerprints,
}

impl Difference {
    /// Reads the keys of both sources: a backup, a snapshot, a database, or the data directory of a stopped member, whose log is in
    /// `wal_dir` if it is not in it.
    ///
    /// # Errors
    /// A source can't be read, or etcd runs in it.
    pub fn read(
        from: &Path,
        to: &Path,
        wal_dir: Option<&Path>,
        monitor: &dyn Monitor,
    ) -> Result<Self, RestoreError> {
        let mut fingerprints = Fingerprints::default();
        if wal_dir.is_some() && ![from, to].iter().any(|path| path.join(DB_FILE).exists()) {
            return Err(RestoreError::Unreadable {
                path: from.into(),
                problem:
                    "--wal-dir is for a data directory, and neither of the two is one: leave it out"
                        .into(),
            });
        }
        let one = read_side(from, wal_dir, "keys before", &mut fingerprints, monitor)?;
        // The log belongs to the first data directory.
        let wal_dir = wal_dir.filter(|_| one.0.log.is_none());
        let other = read_side(to, wal_dir, "keys after", &mut fingerprints, monitor)?;
        Ok(Difference {
            from: one.0,
            to: other.0,
            keys: [one.1, other.1],
            fingerprints,
        })
    }

    /// Shows what changes, in the order of the keys. Returns the number of keys that stay as they are.
    ///
    /// # Errors
    /// The temporary file can't be read, or the monitor stopped it.
    pub fn each(
        &self,
        on_change: &mut dyn FnMut(ChangedKey),
        monitor: &dyn Monitor,
    ) -> Result<u64, RestoreError> {
        let [one, other] = &self.keys;
        let mut from = LiveKeys::of(&one.0, &one.1);
        let mut to = LiveKeys::of(&other.0, &other.1);
        monitor.step("compare", 0);
        let mut show = |change| on_change(ChangedKey::of(&change, &self.fingerprints));
        compare(&mut from, &mut to, &mut show, &mut |_| monitor.advance(0))
            .map_err(|failure| failed(&self.from.path, failure.into()))
    }
}

type Keys = (SortedKeys, Replayed);

fn read_side(
    path: &Path,
    wal_dir: Option<&Path>,
    step: &'static str,
    fingerprints: &mut Fingerprints,
    monitor: &dyn Monitor,
) -> Result<(Side, Keys), RestoreError> {
    let db = path.join(DB_FILE);
    if db.symlink_metadata().is_err() {
        if let (true, Some(above)) = (path.join("snap/db").exists(), path.parent()) {
            return Err(RestoreError::Unreadable {
                path: path.into(),
                problem: format!("it is inside a data directory: give {}", above.display()),
            });
        }
        let source = Source::open(path)?;
        let keys = read_keys(&source.data(), &source.path, step, fingerprints, monitor)?;
        let facts = read_facts(&source.data(), &source.path)?;
        let side = Side {
            path: source.path,
            revision: facts.current_revision,
            log: None,
        };
        return Ok((side, (keys, Replayed::default())));
    }
    if is_locked(path) {
        return Err(RestoreError::EtcdRuns { path: path.into() });
    }
    let wal_dir = wal_dir.map_or_else(|| path.join(WAL_DIR), Path::to_path_buf);
    let log = LogFiles::open(&wal_dir)?;
    let summary = log.summary();
    let summary = summary.map_err(|error| without_log(path, &db, error.to_string()))?;
    let db = database_of(path, db, &summary)?;
    let file = LocalFile::open(&db)?;
    belongs_to(&summary, &file, &db, path)?;
    let keys = read_keys(&file, &db, step, fingerprints, monitor)?;
    let replayed = replay(
        &file,
        &keys,
        &log.segments(),
        fingerprints,
        &scratch_file::create,
    )
    .map_err(|error| match failed(path, error) {
        RestoreError::Unreadable { problem, .. } => without_log(path, &db, problem),
        error => error,
    })?;
    let stopped = replayed.stopped.as_ref();
    let side = Side {
        path: path.into(),
        revision: replayed.revision,
        log: Some(LogPart {
            entries: replayed.entries,
            maybe_uncommitted_entries: replayed.maybe_uncommitted,
            left_out_entries: stopped.map_or(0, |stopped| stopped.entries),
            left_out_because: stopped.map(|stopped| stopped.reason.clone()),
        }),
    };
    Ok((side, (keys, replayed)))
}

/// The database that a member starts from: after a crash, that may be one that it has received from the leader and not yet put in its
/// place (etcd-io/etcd: `server/storage/backend.go`).
fn database_of(data_dir: &Path, db: PathBuf, log: &LogSummary) -> Result<PathBuf, RestoreError> {
    let reflected = read_facts(&LocalFile::open(&db)?, &db)?.consistent_index;
    match log.snapshot {
        Some(index) if index > reflected.unwrap_or_default() => {
            let received = data_dir.join(format!("{SNAP_DIR}/{index:016x}.snap.db"));
            match received.symlink_metadata() {
                Ok(_) => Ok(received),
                Err(_) => Err(without_log(
                    data_dir,
                    &db,
                    format!(
                        "the log goes on after entry {index}, with a database from the leader that is missing: {} does not exist",
                        received.display()
                    ),
                )),
            }
        }
        _ => Ok(db),
    }
}

/// Whether the member of the log is one of those in the database, if it has any.
fn belongs_to(
    log: &LogSummary,
    file: &LocalFile,
    db: &Path,
    data_dir: &Path,
) -> Result<(), RestoreError> {
    let damaged = |error: &dyn ToString| RestoreError::damaged(db, error.to_string());
    let bolt = Bolt::open(file).map_err(|error| damaged(&error))?;
    let rewrite = Rewrite::of(&bolt).map_err(|error| damaged(&error))?;
    let mut members = rewrite.read(b"members").map_err(|error| damaged(&error))?;
    let removed = rewrite.read(b"members_removed");
    members.extend(removed.map_err(|error| damaged(&error))?);
    let Some(id) = log.member_id.filter(|_| !members.is_empty()) else {
        return Ok(());
    };
    match members.contains_key(format!("{id:x}").as_bytes()) {
        true => Ok(()),
        false => Err(without_log(
            data_dir,
            db,
            format!(
                "the log is of member {id:x}, which is not a member in {}",
                db.display()
            ),
        )),
    }
}

fn without_log(path: &Path, db: &Path, problem: String) -> RestoreError {
    RestoreError::Unreadable {
        path: path.into(),
        problem: format!(
            "{problem}; to compare without the log, give {}",
            db.display()
        ),
    }
}

fn read_keys(
    data: &dyn ReadAt,
    path: &Path,
    step: &'static str,
    fingerprints: &mut Fingerprints,
    monitor: &dyn Monitor,
) -> Result<SortedKeys, RestoreError> {
    let bytes = data.size_bytes().map_err(RestoreError::io("read", path))?;
    monitor.step(step, bytes);
    let mut progress = |bytes| monitor.advance(bytes);
    read(data, fingerprints, &scratch_file::create, &mut progress)
        .map_err(|error| failed(path, error))
}

fn failed(path: &Path, error: KeyspaceError) -> RestoreError {
    match error.failure() {
        Ok(failure) => RestoreError::failed(path, failure),
        Err(error) => RestoreError::Unreadable {
            path: path.into(),
            problem: error.to_string(),
        },
    }
}
