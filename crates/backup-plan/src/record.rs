//! The record that is written beside each backup, `backup.json`.
//!
//! Readers ignore fields they do not know, and a field that came later is optional, so that every version
//! reads the records of every other.

use crate::encryption::EncryptedResources;
use crate::hex::hex;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// The version of the record format that this program writes.
pub const VERSION: u32 = 2;

/// The first version whose records have a SHA-256 of themselves.
const FIRST_WITH_DIGEST: u32 = 2;
/// The start of the last line of a record, before the 64 hex digits.
const DIGEST_KEY: &str = "\"record_sha256\": \"";
const DIGEST_DIGITS: usize = 64;

/// The origin of backups that were requested by hand.
pub const ON_DEMAND: &str = "on-demand";

/// Whether this can be an origin: what Kubernetes takes as the name of a `Backup`, which is a DNS name in lower case.
#[must_use]
pub fn is_origin(name: &str) -> bool {
    const MAX_BYTES: usize = 253;
    let is_label = |label: &str| {
        let ends = [label.bytes().next(), label.bytes().last()];
        ends.iter()
            .all(|byte| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()))
            && label
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    };
    name.len() <= MAX_BYTES && name.split('.').all(is_label)
}

/// The record of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The record's own version.
    pub version: u32,
    /// Counts the backups of a repository. It defines their order, independent of the clock.
    pub sequence: u64,
    /// Who requested it: the name of a `Backup`, or `on-demand`.
    pub origin: String,
    /// What started it: `schedule`, `catch-up` or `command`.
    pub trigger: Trigger,
    /// When it was started.
    pub started_at: Timestamp,
    /// When it was verified and complete.
    pub finished_at: Timestamp,
    /// The node it was taken on.
    pub node: String,
    /// The platform of that node, such as `kubeadm`.
    pub platform: String,
    /// The name of the etcd, such as `events`, if it is not the one with all objects of Kubernetes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etcd: Option<String>,
    /// Other etcds of the node that are not backed up, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_backed_up: Vec<String>,
    /// The member it was taken from.
    pub member: MemberRecord,
    /// All members of the cluster, as that member knew them.
    pub members: Vec<ClusterMember>,
    /// Whether the backup has all changes that were acknowledged before the run. This is unknown without a quorum.
    pub linearized: bool,
    /// The content of the snapshot.
    pub snapshot: SnapshotRecord,
    /// SHA-256 of each file of the backup except the record, as hex digits.
    pub sha256: BTreeMap<String, String>,
    /// Size of the files of the backup except the record, in bytes.
    pub written_bytes: u64,
    /// How the snapshot was made: `stream`.
    pub source: SnapshotSource,
    /// Why this source was used.
    pub source_reason: String,
    /// Which levels were verified, in order.
    pub verified: Vec<Level>,
    /// How the snapshot was read back from the disk: `direct`, around the page cache, or `uncached`, after it was dropped
    /// from there. Missing in older records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_back: Option<ReadBack>,
    /// The control-plane files that are missing from the archive, and why. The archive is complete if this is empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub archive_missing: Vec<String>,
    /// How the API server encrypts what it stores, so which keys a restored cluster needs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub encryption: Vec<EncryptedResources>,
    /// When this member was last asked for its HashKV, at most once a day, because the member does not write meanwhile.
    /// Each record repeats it from the record before, so that it is not lost when retention removes a backup.
    #[serde(default)]
    pub compared_at: Option<Timestamp>,
    /// How long each step took, in milliseconds.
    pub took_ms: BTreeMap<String, u64>,
    /// Warnings of the run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// SHA-256 of the text of this record with zeros in the place of these 64 hex digits. [`Record::to_json`] sets it; from version 2
    /// on every record has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record_sha256: Option<String>,
}

/// Why a text is not a record.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// Not JSON, or a field is missing or has another type.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// The text is not as it was written.
    #[error("the record is damaged: its SHA-256 is {found}, expected {expected}")]
    Changed {
        /// The SHA-256 of the text.
        found: String,
        /// The one that is in it.
        expected: String,
    },
    /// There is no such version.
    #[error("the record has version {version} and no SHA-256, which is not possible")]
    NoDigest {
        /// The version in the record.
        version: u32,
    },
}

impl Record {
    /// The text of the record, with its own SHA-256.
    ///
    /// # Errors
    /// It can't be written as JSON.
    pub fn to_json(&self) -> Result<Vec<u8>, serde_json::Error> {
        let record = Record {
            record_sha256: Some("0".repeat(DIGEST_DIGITS)),
            ..self.clone()
        };
        let mut text = serde_json::to_string_pretty(&record)?;
        text.push('\n');
        Ok(with_digest(&text).into_bytes())
    }

    /// Reads the text of a record, and compares it with its own SHA-256.
    ///
    /// # Errors
    /// It is not a record, or not as it was written.
    pub fn from_json(json: &[u8]) -> Result<Record, RecordError> {
        let record: Record = serde_json::from_slice(json)?;
        match &record.record_sha256 {
            None if record.version == 0 || record.version >= FIRST_WITH_DIGEST => {
                Err(RecordError::NoDigest {
                    version: record.version,
                })
            }
            None => Ok(record),
            Some(expected) => {
                let found = std::str::from_utf8(json)
                    .ok()
                    .and_then(digest_of)
                    .map(|(found, _)| found);
                let found = found.unwrap_or_default();
                if found == *expected {
                    return Ok(record);
                }
                Err(RecordError::Changed {
                    found,
                    expected: expected.chars().take(DIGEST_DIGITS).collect(),
                })
            }
        }
    }
}

/// Puts the right SHA-256 into the text of a record, which has any 64 characters in its place.
#[must_use]
pub fn with_digest(text: &str) -> String {
    match digest_of(text) {
        Some((digest, place)) => {
            let (before, rest) = text.split_at(place);
            format!(
                "{before}{digest}{}",
                rest.get(DIGEST_DIGITS..).unwrap_or_default()
            )
        }
        None => text.into(),
    }
}

/// The SHA-256 of a text with zeros in the place of its last digest, and that place.
fn digest_of(text: &str) -> Option<(String, usize)> {
    let place = text.rfind(DIGEST_KEY)? + DIGEST_KEY.len();
    let rest = text.get(place + DIGEST_DIGITS..)?;
    let mut hash = Sha256::new();
    hash.update(text.get(..place)?);
    hash.update("0".repeat(DIGEST_DIGITS));
    hash.update(rest);
    Some((hex(&hash.finalize()), place))
}

/// The member that a backup was taken from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRecord {
    /// Its id, as hex digits.
    pub id: String,
    /// Its name in the list of members. Empty if it is not in the list.
    pub name: String,
    /// Its cluster's id, as hex digits.
    pub cluster_id: String,
    /// The etcd version it runs.
    pub etcd_version: String,
    /// Whether it was the leader.
    pub leader: bool,
}

/// A member of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterMember {
    /// Its id, as hex digits.
    pub id: String,
    /// Its name. Empty if the member has never started.
    pub name: String,
    /// The URLs that other members use to reach it.
    pub peer_urls: Vec<String>,
    /// Whether it has no vote yet.
    pub learner: bool,
}

/// The content of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRecord {
    /// The revision of the last record.
    pub revision: i64,
    /// The revision up to which history is compacted, or -1.
    pub compact_revision: i64,
    /// The raft index of the last entry that the snapshot reflects. Missing if the snapshot has none.
    pub consistent_index: Option<u64>,
    /// Number of keys with a value at the newest revision.
    pub total_keys: u64,
    /// Number of stored changes, including deletions.
    pub records: u64,
    /// The hash that `etcdutl snapshot status` shows, as hex digits.
    pub hash: String,
    /// High-water mark × page size, in bytes.
    pub size_bytes: u64,
    /// Length of the file, in bytes. Missing in a snapshot that ends with a SHA-256 of the data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_bytes: Option<u64>,
    /// The storage version, from etcd 3.6 on.
    pub storage_version: Option<String>,
}

impl SnapshotRecord {
    /// The length of the file; `None` if no file has the recorded length.
    #[must_use]
    pub fn file_bytes(&self) -> Option<u64> {
        const TRAILER_BYTES: u64 = 32;
        match self.file_bytes {
            Some(bytes) => Some(bytes),
            None => self.size_bytes.checked_add(TRAILER_BYTES),
        }
    }
}

/// A word in a record. Words of later versions are kept as they are.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$variant_doc])* #[serde(rename = $word)] $variant,)*
            /// A word of a later version.
            #[serde(untagged)]
            Other(String),
        }

        impl $name {
            /// The word in records, and in everything that is printed.
            #[must_use]
            pub fn name(&self) -> &str {
                match self {
                    $($name::$variant => $word,)*
                    $name::Other(word) => word,
                }
            }
        }
    };
}

words! {
    /// What started a run.
    Trigger {
        /// It was due.
        Schedule = "schedule",
        /// It was due while the server was stopped.
        CatchUp = "catch-up",
        /// A command requested it.
        Command = "command",
        /// An annotation of its `Backup` requested it.
        Request = "request",
    }
}

words! {
    /// Where a snapshot comes from.
    SnapshotSource {
        /// The snapshot stream of the member.
        Stream = "stream",
    }
}

words! {
    /// A level of verification.
    Level {
        /// The SHA-256 at the end of the file.
        Trailer = "trailer",
        /// Every page of the database.
        Structure = "structure",
        /// Every record.
        Content = "content",
        /// The same hash as a live member.
        Member = "member",
    }
}

words! {
    /// How a file was read back from the disk.
    ReadBack {
        /// Around the page cache.
        Direct = "direct",
        /// Through the page cache, after the file was removed from it.
        Uncached = "uncached",
    }
}

/// The names of levels in one line, with `separator` between them.
#[must_use]
pub fn names_of(levels: &[Level], separator: &str) -> String {
    let names: Vec<_> = levels.iter().map(Level::name).collect();
    names.join(separator)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_a_name_that_a_backup_can_have() {
        for name in ["default", "on-demand", "a", "a.b-c.9", &"a".repeat(253)] {
            assert!(is_origin(name), "{name}");
        }
        let long = "a".repeat(254);
        for name in [
            "",
            ".",
            "a..b",
            "-a",
            "a-",
            "A",
            "a_b",
            "a/b",
            "a\n",
            "\u{1b}[2J",
            "ä",
            &long,
        ] {
            assert!(!is_origin(name), "{name:?}");
        }
    }
}
