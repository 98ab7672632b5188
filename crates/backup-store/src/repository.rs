//! Where backups are kept: a directory, with a directory for each backup.
//!
//! A run works in a hidden directory, which becomes the backup by one rename. So every listed backup is
//! complete. What a crash leaves over is hidden, and the next run removes it. `docs/repository.md` has the layout.

use crate::durable_file;
use crate::local_file::read_small;
use backup_plan::record::{Record, is_origin};
use backup_plan::retention::Candidate;
use etcd_file::snapshot_file::TRAILER_BYTES;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use rustix::fs::{FlockOperation, OFlags};
use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The default directory of a repository.
pub const DEFAULT_ROOT: &str = "/var/lib/etcd-auto-backup";
/// The name of the record file.
pub const RECORD_FILE: &str = "backup.json";

/// A backup with this file is held.
const HOLD_FILE: &str = "hold";
const PARTIAL: &str = ".partial-";
const REMOVING: &str = ".removing-";
const LOCK_FILE: &str = ".lock";
const NAME_FORMAT: &str = "%Y-%m-%d_%H%M%S";
/// A record is a few KiB. A larger file is not a record.
pub(crate) const MAX_RECORD_BYTES: u64 = 1 << 20;
/// The default reserve of free space: this part of the filesystem, but at most `MAX_RESERVE_BYTES`.
const RESERVE_PERCENT: u64 = 15;
const MAX_RESERVE_BYTES: u64 = 10 << 30;

/// Why a repository cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RepositoryError {
    /// An operation on a file or directory failed.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// The operation.
        what: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// Another process uses the repository.
    #[error(
        "{path} is in use by another process: only one run at a time can use a repository; try again later"
    )]
    Locked {
        /// The repository.
        path: PathBuf,
    },
    /// No backup has this name.
    #[error("{root} has no backup {name:?}: `etcd-lifeboat list` shows the existing backups")]
    NoBackup {
        /// The repository.
        root: PathBuf,
        /// The name.
        name: String,
    },
}

impl RepositoryError {
    pub(crate) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| RepositoryError::Io {
            what,
            path: path.into(),
            source,
        }
    }

    /// Whether the disk is full.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        matches!(self, RepositoryError::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull)
    }
}

/// A directory with backups.
#[derive(Debug, Clone)]
pub struct Repository {
    root: PathBuf,
}

/// An entry of a repository.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The name of its directory.
    pub name: String,
    /// Its kind.
    pub kind: Kind,
    /// Its size on the disk, in bytes.
    pub disk_bytes: u64,
    /// Whether the backup is held. A held backup is never removed automatically.
    pub held: bool,
}

/// The kind of an entry.
#[derive(Debug, Clone)]
pub enum Kind {
    /// A backup.
    Backup(Box<Record>),
    /// A backup with a damaged or missing record or files, and what is wrong. It is never removed automatically: it may be
    /// the only backup that is left.
    Unreadable(String),
    /// Not a backup. It is never touched.
    Foreign,
    /// The working directory of a run that is not finished or has crashed.
    Partial,
}

/// An exclusive lock on a repository, until it is dropped or the process ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// The space of a filesystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Free bytes, as `df` reports them as available.
    pub free_bytes: u64,
    /// Total bytes.
    pub total_bytes: u64,
}

impl Space {
    /// The space of the filesystem of a directory.
    pub(crate) fn at(dir: &Path) -> Result<Self, RepositoryError> {
        let stat = rustix::fs::statvfs(dir)
            .map_err(|error| RepositoryError::io("read the free space of", dir)(error.into()))?;
        Ok(Space {
            free_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
            total_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
        })
    }

    /// The default reserve of free space.
    #[must_use]
    pub fn default_reserve_bytes(&self) -> u64 {
        (self.total_bytes / 100 * RESERVE_PERCENT).min(MAX_RESERVE_BYTES)
    }
}

/// The result of removing leftover files.
#[derive(Debug, Default)]
pub struct Swept {
    /// The removed files and directories.
    pub removed: Vec<String>,
    /// What cannot be removed, and why.
    pub stuck: Vec<(String, io::Error)>,
}

/// The working directory of a run. Unless it is published, it is removed on drop.
pub struct Run {
    /// The backup's name.
    pub name: String,
    /// Its sequence number.
    pub sequence: u64,
    partial: PathBuf,
    place: PathBuf,
    /// Whether nothing remains to be removed.
    done: bool,
    /// Keeps other processes out until the directory is removed.
    lock: Arc<Lock>,
}

impl Repository {
    /// Opens a repository, and creates its directory if it does not exist.
    ///
    /// # Errors
    /// The directory cannot be created or listed.
    pub fn open(root: &Path) -> Result<Self, RepositoryError> {
        if !root.exists() {
            if let Some(parent) = root.parent() {
                std::fs::create_dir_all(parent)
                    .map_err(RepositoryError::io("create the directory of", root))?;
            }
            match durable_file::create_dir(root) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(RepositoryError::io("create", root)(error));
                }
                _ => {}
            }
        }
        let empty = std::fs::read_dir(root)
            .map_err(RepositoryError::io("list", root))?
            .next()
            .is_none();
        let repository = Repository { root: root.into() };
        if empty && repository.mode_warning().is_some() {
            // The kubelet makes the directories of volumes for everybody to read. Where it is somebody else's, or
            // can't be changed, each record says so.
            let _ = std::fs::set_permissions(root, Permissions::from_mode(durable_file::DIR_MODE));
        }
        Ok(repository)
    }

    /// Its directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A warning if other users can read the backups, which contain the keys of the cluster. The mode of a
    /// repository that is not empty is never changed.
    #[must_use]
    pub fn mode_warning(&self) -> Option<String> {
        let mode = std::fs::metadata(&self.root).ok()?.permissions().mode() & 0o777;
        (mode & 0o077 != 0).then(|| {
            format!(
                "{} has mode {mode:04o}: other users can read the backups, which contain the keys of the cluster; run `chmod 0700` on it",
                self.root.display()
            )
        })
    }

    /// Locks the repository.
    ///
    /// # Errors
    /// Another process has the lock, or the lock file cannot be created.
    pub fn lock(&self) -> Result<Lock, RepositoryError> {
        let path = self.root.join(LOCK_FILE);
        let file = match durable_file::create(&path) {
            Ok(file) => file,
            // Whatever somebody has put there can be locked, and opening it must not wait for who writes into a pipe.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => OpenOptions::new()
                .read(true)
                .custom_flags((OFlags::NONBLOCK | OFlags::NOFOLLOW).bits().cast_signed())
                .open(&path)
                .map_err(RepositoryError::io("open", &path))?,
            Err(error) => return Err(RepositoryError::io("create", &path)(error)),
        };
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Lock { _file: file }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(RepositoryError::Locked {
                path: self.root.clone(),
            }),
            Err(error) => Err(RepositoryError::io("lock", &path)(error.into())),
        }
    }

    /// Removes the files that crashed runs left over. Returns what was removed, and what cannot be removed and why. Files that
    /// cannot be removed do not stop a run.
    ///
    /// # Errors
    /// The repository cannot be listed.
    pub fn sweep(&self, _lock: &Lock) -> Result<Swept, RepositoryError> {
        let mut swept = Swept::default();
        for name in self.names()? {
            let path = self.root.join(&name);
            let cleared = if name.starts_with(PARTIAL) {
                durable_file::remove_dir(&path)
            } else if let Some(was) = name.strip_prefix(REMOVING) {
                self.finish_removal(&path, was).map(drop)
            } else {
                continue;
            };
            match cleared {
                Ok(()) => swept.removed.push(name),
                Err(error) => swept.stuck.push((name, error)),
            }
        }
        Ok(swept)
    }

    fn names(&self) -> Result<Vec<String>, RepositoryError> {
        let failed = || RepositoryError::io("list", &self.root);
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.root).map_err(failed())? {
            // A name that is no text is none of ours.
            if let Ok(name) = entry.map_err(failed())?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// All entries, newest first: backups by their sequence, then the rest by name. Names that start
    /// with a dot are left out, except the working directories of runs.
    ///
    /// # Errors
    /// The repository cannot be listed.
    pub fn entries(&self) -> Result<Vec<Entry>, RepositoryError> {
        let mut entries = Vec::new();
        for name in self.names()? {
            let path = self.root.join(&name);
            let kind = if name.starts_with(PARTIAL) {
                Kind::Partial
            } else if name.starts_with('.') {
                continue;
            } else {
                kind_of(&path, &name)
            };
            entries.push(Entry {
                disk_bytes: disk_bytes(&path),
                held: path.join(HOLD_FILE).symlink_metadata().is_ok(),
                name,
                kind,
            });
        }
        entries.sort_by_key(|entry| {
            let sequence = entry.record().map_or(0, |record| record.sequence);
            std::cmp::Reverse((sequence, entry.name.clone()))
        });
        Ok(entries)
    }

    /// Creates the working directory of a run. Its name sorts after the newest backup.
    ///
    /// # Errors
    /// The directory cannot be created.
    pub fn begin(&self, lock: &Arc<Lock>, now: Timestamp) -> Result<Run, RepositoryError> {
        let mut newest: Option<Timestamp> = None;
        let mut sequence = 0;
        for entry in self.entries()? {
            newest = newest.max(time_of_name(&entry.name));
            sequence = sequence.max(entry.record().map_or(0, |record| record.sequence));
        }
        // Names follow one another also when the clock goes back.
        let after_newest =
            newest.and_then(|newest| newest.checked_add(SignedDuration::from_secs(1)).ok());
        let name = name_of(after_newest.map_or(now, |after| after.max(now)));
        let partial = self.root.join(format!("{PARTIAL}{name}"));
        durable_file::create_dir(&partial).map_err(RepositoryError::io("create", &partial))?;
        Ok(Run {
            place: self.root.join(&name),
            name,
            // Of two with the largest there is the later name is the newer one.
            sequence: sequence.saturating_add(1),
            partial,
            done: false,
            lock: lock.clone(),
        })
    }

    /// Removes a backup. It is no longer listed at once, and its files are removed when this returns. A backup that is held in the
    /// meantime stays. Returns whether the backup was removed.
    ///
    /// # Errors
    /// The backup cannot be removed.
    pub fn remove(&self, _lock: &Lock, name: &str) -> Result<bool, RepositoryError> {
        let path = self.root.join(name);
        let hidden = self.root.join(format!("{REMOVING}{name}"));
        durable_file::rename(&path, &hidden).map_err(RepositoryError::io("rename", &path))?;
        durable_file::sync_dir(&self.root).map_err(RepositoryError::io("sync", &self.root))?;
        self.finish_removal(&hidden, name)
            .map_err(RepositoryError::io("remove", &hidden))
    }

    /// A hold needs no lock: either it exists before the backup is hidden and is seen here, or it comes too late and fails.
    fn finish_removal(&self, hidden: &Path, name: &str) -> io::Result<bool> {
        if hidden.join(HOLD_FILE).symlink_metadata().is_ok() {
            durable_file::publish(hidden, &self.root.join(name))?;
            return Ok(false);
        }
        durable_file::remove_dir(hidden)?;
        Ok(true)
    }

    /// Holds a backup until it is released: it is never removed automatically, and it does not count for retention.
    ///
    /// # Errors
    /// The backup does not exist, or the hold cannot be written.
    pub fn hold(&self, name: &str) -> Result<(), RepositoryError> {
        let path = self.backup_dir(name)?.join(HOLD_FILE);
        match durable_file::write(&path, b"") {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            written => written.map_err(RepositoryError::io("write", &path))?,
        }
        self.sync_backup(name)
    }

    /// Releases a held backup, so that retention may remove it again.
    ///
    /// # Errors
    /// The backup does not exist, or the hold cannot be removed.
    pub fn release(&self, name: &str) -> Result<(), RepositoryError> {
        let path = self.backup_dir(name)?.join(HOLD_FILE);
        match durable_file::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            removed => removed.map_err(RepositoryError::io("remove", &path))?,
        }
        self.sync_backup(name)
    }

    fn backup_dir(&self, name: &str) -> Result<PathBuf, RepositoryError> {
        let path = self.root.join(name);
        if time_of_name(name).is_some() && !matches!(kind_of(&path, name), Kind::Foreign) {
            return Ok(path);
        }
        Err(RepositoryError::NoBackup {
            root: self.root.clone(),
            name: name.into(),
        })
    }

    fn sync_backup(&self, name: &str) -> Result<(), RepositoryError> {
        let path = self.root.join(name);
        durable_file::sync_dir(&path).map_err(RepositoryError::io("sync", &path))
    }

    /// The space of its filesystem.
    ///
    /// # Errors
    /// The error of the operating system.
    pub fn space(&self) -> Result<Space, RepositoryError> {
        Space::at(&self.root)
    }
}

impl Entry {
    /// The record of a backup.
    #[must_use]
    pub fn record(&self) -> Option<&Record> {
        match &self.kind {
            Kind::Backup(record) => Some(record),
            _ => None,
        }
    }

    /// The path of one of its files.
    #[must_use]
    pub fn path_in(&self, repository: &Repository, file: &str) -> PathBuf {
        repository.root.join(&self.name).join(file)
    }

    /// The values that retention needs, if this is a backup.
    #[must_use]
    pub fn candidate(&self) -> Option<Candidate> {
        let record = self.record()?;
        Some(Candidate {
            name: self.name.clone(),
            sequence: record.sequence,
            origin: record.origin.clone(),
            cluster_id: record.member.cluster_id.clone(),
            verified: record.verified.iter().any(|level| level == "content"),
            held: self.held,
            disk_bytes: self.disk_bytes,
        })
    }
}

impl Run {
    /// The path of one of its files while the run is in progress.
    #[must_use]
    pub fn path(&self, file: &str) -> PathBuf {
        self.partial.join(file)
    }

    /// The name of the snapshot file.
    #[must_use]
    pub fn snapshot_file(&self) -> String {
        format!("snapshot_{}.db", self.name)
    }

    /// The name of the archive file.
    #[must_use]
    pub fn resources_file(&self) -> String {
        format!("static_kuberesources_{}.tar.gz", self.name)
    }

    /// Renames the working directory to its final name. All files must be synced.
    ///
    /// # Errors
    /// The directory cannot be renamed.
    pub fn publish(mut self) -> Result<PathBuf, RepositoryError> {
        durable_file::publish(&self.partial, &self.place)
            .map_err(RepositoryError::io("publish", &self.place))?;
        self.done = true;
        Ok(self.place.clone())
    }

    /// Removes the working directory.
    pub fn discard(mut self) {
        self.clear();
    }

    fn clear(&mut self) {
        self.done = true;
        // What stays behind here is swept by the next run.
        let _ = durable_file::remove_dir(&self.partial);
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        // The disk may hang, and who drops this may hear signals: nobody waits for it.
        let (partial, lock) = (self.partial.clone(), self.lock.clone());
        std::thread::spawn(move || {
            let _ = durable_file::remove_dir(&partial);
            drop(lock);
        });
    }
}

fn name_of(time: Timestamp) -> String {
    time.to_zoned(TimeZone::UTC)
        .strftime(NAME_FORMAT)
        .to_string()
}

pub(crate) fn time_of_name(name: &str) -> Option<Timestamp> {
    let time = jiff::civil::DateTime::strptime(NAME_FORMAT, name).ok()?;
    Some(time.to_zoned(TimeZone::UTC).ok()?.timestamp())
}

/// The kind of an entry that is not a working directory. A backup has a time as its name, a record, a snapshot of the recorded
/// size, and the other files that its record lists.
fn kind_of(path: &Path, name: &str) -> Kind {
    let snapshot = path.join(format!("snapshot_{name}.db"));
    let is_there = |path: &Path| path.symlink_metadata().is_ok();
    if time_of_name(name).is_none() || !(is_there(&path.join(RECORD_FILE)) || is_there(&snapshot)) {
        return Kind::Foreign;
    }
    match read_record(path, &snapshot) {
        Ok(record) => Kind::Backup(Box::new(record)),
        Err(problem) => Kind::Unreadable(problem),
    }
}

fn read_record(path: &Path, snapshot: &Path) -> Result<Record, String> {
    let json = read_small(&path.join(RECORD_FILE), MAX_RECORD_BYTES)
        .map_err(|error| format!("{RECORD_FILE}: {error}"))?;
    let record: Record =
        serde_json::from_slice(&json).map_err(|error| format!("{RECORD_FILE}: {error}"))?;
    if !is_origin(&record.origin) {
        return Err(format!(
            "{RECORD_FILE}: the origin {:?} is not a valid name of a Backup",
            record.origin
        ));
    }
    let found_bytes = std::fs::metadata(snapshot)
        .map_err(|error| format!("cannot read the snapshot: {error}"))?
        .len();
    let data_bytes = record.snapshot.size_bytes;
    if data_bytes.checked_add(TRAILER_BYTES) != Some(found_bytes) {
        return Err(format!(
            "the snapshot has {found_bytes} bytes, expected {data_bytes} and {TRAILER_BYTES} for its SHA-256"
        ));
    }
    for file in record.sha256.keys() {
        let metadata = path.join(file).symlink_metadata();
        if file.contains('/') || !metadata.is_ok_and(|metadata| metadata.is_file()) {
            return Err(format!("the file {file:?} is missing"));
        }
    }
    Ok(record)
}

/// The size on the disk of a file, or of a directory with its files.
fn disk_bytes(path: &Path) -> u64 {
    const SECTOR_BYTES: u64 = 512;
    let own =
        std::fs::symlink_metadata(path).map_or(0, |metadata| metadata.blocks() * SECTOR_BYTES);
    let files = std::fs::read_dir(path).into_iter().flatten().flatten();
    files.fold(own, |sum, file| {
        sum + file
            .metadata()
            .map_or(0, |metadata| metadata.blocks() * SECTOR_BYTES)
    })
}
