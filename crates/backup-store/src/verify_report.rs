//! The result of a verification.

use etcd_file::Failure;
use serde::Serialize;
use std::path::PathBuf;
use std::time::Instant;

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
    /// Number of keys with a value at the newest revision.
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
    /// Number of stored changes, including deletions.
    pub records: u64,
    /// The raft index that the file reflects.
    pub consistent_index: Option<u64>,
    /// The storage version, from etcd 3.6 on.
    pub storage_version: Option<String>,
    /// The cluster version, from etcd 3.5 on.
    pub cluster_version: Option<String>,
    /// Number of members of the cluster that the file comes from.
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
    /// What is unusual but not damage.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

impl Check {
    pub(crate) fn new(
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

    pub(crate) fn failed(name: &'static str, failure: &Failure, since: Instant) -> Self {
        // A file that cannot be read fails the check. A full temporary directory does not mean that the file is damaged.
        let ok = match failure {
            Failure::Read { .. } => Some(false),
            _ => None,
        };
        Check::new(name, ok, failure.to_string(), since)
    }
}
