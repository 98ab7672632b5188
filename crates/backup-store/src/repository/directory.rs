//! A repository, and the right to change it.

use super::entry::{Entry, Kind, disk_bytes};
use super::error::RepositoryError;
use super::lock_file;
use super::names::{HOLD_FILE, LOCK_FILE, OTHER_ETCD, PARTIAL, REMOVING, name_of, time_of_name};
use super::space::Space;
use super::staging::Staging;
use crate::durable_file;
use backup_plan::record::is_origin;
use jiff::{SignedDuration, Timestamp};
use std::fs::{File, Permissions};
use std::io;
use std::ops::Deref;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The default directory of the backups.
pub const DEFAULT_ROOT: &str = "/var/lib/etcd-auto-backup";

/// A directory with backups.
#[derive(Debug, Clone)]
pub struct Repository {
    root: PathBuf,
}

/// The right to change a repository, until it is dropped or the process ends. It owns the repository, so that it can go to the
/// thread that works on the disk.
#[derive(Debug)]
pub struct Locked {
    repository: Repository,
    _file: File,
}

/// The result of removing what crashed runs left over.
#[derive(Debug, Default)]
pub struct Swept {
    /// The names of the removed directories and files.
    pub removed: Vec<String>,
    /// What could not be removed, with the reason.
    pub stuck: Vec<(String, io::Error)>,
}

impl Repository {
    /// Opens a repository. Changes nothing.
    ///
    /// # Errors
    /// The path is not a directory.
    pub fn open(root: &Path) -> Result<Self, RepositoryError> {
        if !root.is_dir() {
            return Err(RepositoryError::NotADirectory { root: root.into() });
        }
        Ok(Repository { root: root.into() })
    }

    /// Opens a repository to make backups in it. Creates its directory if it does not exist.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn create(root: &Path) -> Result<Self, RepositoryError> {
        if !root.exists() {
            durable_file::create_dir_all(root).map_err(RepositoryError::io("create", root))?;
        }
        let repository = Repository::open(root)?;
        let is_empty = std::fs::read_dir(root)
            .map_err(RepositoryError::io("list", root))?
            .next()
            .is_none();
        if is_empty && repository.mode_warning().is_some() {
            // The kubelet creates the directories of volumes so that everyone can read them. If this fails, because another user
            // owns the directory, each record contains the warning.
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
    pub fn lock(&self) -> Result<Locked, RepositoryError> {
        let file = lock_file::lock(&self.root.join(LOCK_FILE))?;
        let file = file.ok_or_else(|| RepositoryError::Locked {
            path: self.root.clone(),
        })?;
        Ok(Locked {
            repository: self.clone(),
            _file: file,
        })
    }

    fn names(&self) -> Result<Vec<String>, RepositoryError> {
        let failed = || RepositoryError::io("list", &self.root);
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.root).map_err(failed())? {
            // Our own names are valid UTF-8. Others are ignored.
            if let Ok(name) = entry.map_err(failed())?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// Where the backups of another etcd of this node are: a repository of its own in this one.
    #[must_use]
    pub fn of_other_etcd(root: &Path, name: &str) -> PathBuf {
        root.join(format!("{OTHER_ETCD}{name}"))
    }

    /// The repositories of other etcds in this one, with the names of the etcds.
    ///
    /// # Errors
    /// The repository cannot be listed.
    pub fn other_etcds(&self) -> Result<Vec<(String, Repository)>, RepositoryError> {
        let mut others = Vec::new();
        for name in self.names()? {
            let root = self.root.join(&name);
            if let Some(etcd) = other_etcd(&name, &root) {
                others.push((etcd.to_string(), Repository { root }));
            }
        }
        Ok(others)
    }

    /// All entries, newest first: backups by their sequence, then the rest by name. Left out are the repositories of other etcds, and
    /// names that start with a dot, except the working directories of runs.
    ///
    /// # Errors
    /// The repository cannot be listed.
    pub fn entries(&self) -> Result<Vec<Entry>, RepositoryError> {
        let mut entries = Vec::new();
        for name in self.names()? {
            let path = self.root.join(&name);
            if name.starts_with('.') && !name.starts_with(PARTIAL) {
                continue;
            }
            if other_etcd(&name, &path).is_some() {
                continue;
            }
            let kind = Kind::of(&path, &name);
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
        if time_of_name(name).is_some() && !matches!(Kind::of(&path, name), Kind::Foreign) {
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

/// The name of the etcd whose repository this is: a real directory, and not a link that leads elsewhere.
fn other_etcd<'n>(name: &'n str, path: &Path) -> Option<&'n str> {
    let etcd = name
        .strip_prefix(OTHER_ETCD)
        .filter(|etcd| is_origin(etcd))?;
    let metadata = path.symlink_metadata().ok()?;
    metadata.is_dir().then_some(etcd)
}

impl Deref for Locked {
    type Target = Repository;

    fn deref(&self) -> &Repository {
        &self.repository
    }
}

impl Locked {
    /// Removes the files that crashed runs left over. Returns what was removed, and what cannot be removed and why. Files that
    /// cannot be removed do not stop a run.
    ///
    /// # Errors
    /// The repository cannot be listed.
    pub fn sweep(&self) -> Result<Swept, RepositoryError> {
        let mut swept = Swept::default();
        for name in self.names()? {
            let path = self.root.join(&name);
            let result = if name.starts_with(PARTIAL) {
                durable_file::remove_dir(&path)
            } else if let Some(backup) = name.strip_prefix(REMOVING) {
                self.finish_removal(&path, backup).map(drop)
            } else {
                continue;
            };
            match result {
                Ok(()) => swept.removed.push(name),
                Err(error) => swept.stuck.push((name, error)),
            }
        }
        Ok(swept)
    }

    /// Starts a backup. Its name is later than the name of the newest backup. Also returns its sequence number.
    ///
    /// # Errors
    /// Why its directory cannot be created.
    pub fn begin(self: &Arc<Self>, now: Timestamp) -> Result<(Staging, u64), RepositoryError> {
        let mut newest: Option<Timestamp> = None;
        let mut sequence = 0;
        for entry in self.entries()? {
            newest = newest.max(time_of_name(&entry.name));
            sequence = sequence.max(entry.record().map_or(0, |record| record.sequence));
        }
        // Names also increase when the clock is set back.
        let after_newest =
            newest.and_then(|newest| newest.checked_add(SignedDuration::from_secs(1)).ok());
        let name = name_of(after_newest.map_or(now, |after| after.max(now)));
        let dir = self.root().join(format!("{PARTIAL}{name}"));
        let staging = Staging::in_repository(self.clone(), self.root().join(&name), name, dir)?;
        // If two have the highest possible number, the later name is the newer backup.
        Ok((staging, sequence.saturating_add(1)))
    }

    /// Starts a copy of a backup with this name.
    ///
    /// # Errors
    /// Why its directory cannot be created.
    pub(crate) fn begin_copy(self: &Arc<Self>, name: &str) -> Result<Staging, RepositoryError> {
        let dir = self.root().join(format!("{PARTIAL}{name}"));
        Staging::in_repository(self.clone(), self.root().join(name), name.into(), dir)
    }

    /// Removes a backup. It is no longer listed at once, and its files are removed when this returns. A backup that is held in the
    /// meantime stays. Returns whether the backup was removed.
    ///
    /// # Errors
    /// The backup cannot be removed.
    pub fn remove(&self, name: &str) -> Result<bool, RepositoryError> {
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
}
