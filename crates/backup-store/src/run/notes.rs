//! Notes of a repository in `.notes.json`: values that must survive a failed run. A missing or damaged file does not harm
//! any backup.

use crate::durable_file;
use crate::local_file::read_small;
use crate::repository::{Locked, Repository, RepositoryError};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

const FILE: &str = ".notes.json";
const MAX_BYTES: u64 = 1 << 16;
/// A node has only a few members, even over years.
const MAX_MEMBERS: usize = 100;

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Notes {
    /// When a member was last asked for its HashKV, even if the run failed.
    pub(crate) compared: BTreeMap<String, Timestamp>,
    /// Space that a removal should have freed but is not free yet.
    pub(crate) awaited: Option<AwaitedSpace>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct AwaitedSpace {
    /// The removed backup.
    pub(crate) removed: String,
    /// The time of the removal.
    pub(crate) at: Timestamp,
    /// Free bytes before the removal.
    pub(crate) free_bytes_before: u64,
    /// Bytes that the removal should free.
    pub(crate) expected_bytes: u64,
}

impl Notes {
    /// Reads the notes of a repository. They are empty if they cannot be read.
    pub(crate) fn of(repository: &Repository) -> Notes {
        let json = read_small(&repository.root().join(FILE), MAX_BYTES);
        let notes = json
            .ok()
            .and_then(|json| serde_json::from_slice(&json).ok());
        notes.unwrap_or_default()
    }

    /// Writes the notes.
    pub(crate) fn keep(&mut self, repository: &Locked) -> Result<(), RepositoryError> {
        while self.compared.len() > MAX_MEMBERS {
            let oldest = self.compared.iter().min_by_key(|(_, at)| **at);
            let Some(oldest) = oldest.map(|(member, _)| member.clone()) else {
                break;
            };
            self.compared.remove(&oldest);
        }
        let path = repository.root().join(FILE);
        let mut json = serde_json::to_vec(self).unwrap_or_default();
        json.push(b'\n');
        durable_file::replace(&path, &json).map_err(RepositoryError::io("write", &path))
    }
}
