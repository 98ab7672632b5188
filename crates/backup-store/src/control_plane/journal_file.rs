//! The journal on the disk.

use super::error::NodeError;
use crate::durable_file;
use crate::local_file::read_small;
use backup_plan::restore::journal::{Journal, OWN_PREFIX};
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// Where the journal and the manifests are that were moved away. It is on the filesystem of the manifests, so that they can be renamed,
/// and outside their folder, because the kubelet reads everything in that.
pub const STATE_DIR: &str = "/etc/kubernetes/etcd-lifeboat";
const NAME: &str = "journal.json";
const MAX_BYTES: u64 = 1 << 20;

/// The journal of a node.
pub struct JournalFile {
    dir: PathBuf,
    /// Held while something is changed.
    lock: Option<File>,
}

impl JournalFile {
    /// The journal in a directory that may not exist.
    #[must_use]
    pub fn in_dir(dir: &Path) -> Self {
        JournalFile {
            dir: dir.into(),
            lock: None,
        }
    }

    /// What was begun on this node and is not ended, if there is anything.
    ///
    /// # Errors
    /// The journal can't be read, or this program did not write it.
    pub fn read(&self) -> Result<Option<Journal>, NodeError> {
        let path = self.dir.join(NAME);
        let json = match read_small(&path, MAX_BYTES) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            json => json.map_err(NodeError::io("read", &path))?,
        };
        let journal = Journal::from_json(&json);
        journal
            .map(Some)
            .map_err(|problem| NodeError::Journal { path, problem })
    }

    /// The journals of what ended on this node. One that cannot be read is left out.
    #[must_use]
    pub fn ended(&self) -> Vec<Journal> {
        let entries = std::fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let names = entries.filter(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.starts_with(OWN_PREFIX) && name.ends_with(".json")
        });
        let journals = names.filter_map(|entry| {
            let json = read_small(&entry.path(), MAX_BYTES).ok()?;
            Journal::from_json(&json).ok()
        });
        journals.collect()
    }

    /// Makes the directory, and keeps other processes from changing the node. `seen` is what was read before.
    ///
    /// # Errors
    /// Another process does, or has done since.
    pub fn lock(&mut self, seen: Option<&Journal>) -> Result<(), NodeError> {
        durable_file::create_dir_all(&self.dir).map_err(NodeError::io("create", &self.dir))?;
        let dir = File::open(&self.dir).map_err(NodeError::io("open", &self.dir))?;
        match rustix::fs::flock(&dir, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(NodeError::Busy),
            Err(error) => return Err(NodeError::io("lock", &self.dir)(error.into())),
        }
        self.lock = Some(dir);
        match self.read()?.as_ref() == seen {
            true => Ok(()),
            false => Err(NodeError::Changed),
        }
    }

    /// Writes the journal.
    ///
    /// # Errors
    /// The error of the operating system.
    pub fn write(&self, journal: &Journal) -> Result<(), NodeError> {
        let path = self.dir.join(NAME);
        let json = serde_json::to_vec_pretty(journal).map_err(io::Error::from);
        json.and_then(|json| durable_file::replace(&path, &json))
            .map_err(NodeError::io("write", &path))
    }

    /// Ends what was begun. The journal stays under another name, which is given back.
    ///
    /// # Errors
    /// The error of the operating system.
    pub fn end(&self, journal: &Journal) -> Result<PathBuf, NodeError> {
        let path = self.dir.join(NAME);
        let ended = self.dir.join(format!("{}.json", journal.own_dir()));
        durable_file::rename(&path, &ended)
            .and_then(|()| durable_file::sync_dir(&self.dir))
            .map_err(NodeError::io("rename", &path))?;
        Ok(ended)
    }
}
