//! What is to be restored, and how.

use super::error::RestoreError;
use backup_plan::restore::etcd_version::EtcdVersion;
use backup_plan::restore::initial_cluster::InitialCluster;
use backup_plan::restore::revision::{Bump, Evidence};
use backup_plan::restore::token::RestoreId;
use std::path::{Path, PathBuf};

/// What is to be restored, and how.
#[derive(Debug, Clone)]
pub struct Order {
    /// A backup directory or a snapshot file.
    pub source: PathBuf,
    /// Where the data directory is made.
    pub data_dir: PathBuf,
    /// The directory of the log, if it is not in the data directory.
    pub wal_dir: Option<PathBuf>,
    /// The name of the member.
    pub name: String,
    /// All members of the cluster that begins.
    pub cluster: InitialCluster,
    /// Where the ids of the members and of the cluster follow from.
    pub identity: Identity,
    /// The revision at which the cluster begins.
    pub bump: Bump,
    /// Random: names this restore on the disk, so that what it leaves after a crash is recognised.
    pub id: String,
    /// The version of etcd that will start. If `None`, that of the data.
    pub etcd_version: Option<EtcdVersion>,
    /// Whether the SHA-256 is not compared.
    pub skip_hash_check: bool,
    /// Whether data that differed from that of other members is accepted.
    pub allow_corrupt_alarm: bool,
    /// Where it is known which revisions were seen.
    pub witnesses: Witnesses,
}

/// What shows which revisions anyone may have seen.
#[derive(Debug, Clone, Default)]
pub struct Witnesses {
    /// Repositories: their proven backups.
    pub repositories: Vec<PathBuf>,
    /// The data directory that is replaced.
    pub data_dir: Option<PathBuf>,
    /// The directory of its log, if it is not in the data directory.
    pub wal_dir: Option<PathBuf>,
    /// What is known from elsewhere.
    pub known: Vec<Evidence>,
}

impl Order {
    /// Makes the paths absolute: they are written down, and a restore may be repeated from elsewhere.
    ///
    /// # Errors
    /// The log can't be where it is wanted.
    pub(super) fn resolved(&self) -> Result<Order, RestoreError> {
        let absolute =
            |path: &Path| std::path::absolute(path).map_err(RestoreError::io("find", path));
        let data_dir = absolute(&self.data_dir)?;
        let wal_dir = self.wal_dir.as_deref().map(absolute).transpose()?;
        // Where etcd has it by itself.
        let wal_dir = wal_dir.filter(|dir| *dir != data_dir.join("member/wal"));
        if let Some(dir) = wal_dir.as_ref().filter(|dir| dir.starts_with(&data_dir)) {
            return Err(RestoreError::WalDirInside { path: dir.clone() });
        }
        Ok(Order {
            data_dir,
            wal_dir,
            ..self.clone()
        })
    }
}

/// Where the ids follow from.
#[derive(Debug, Clone)]
pub enum Identity {
    /// A token that someone chose.
    Token(String),
    /// This restore of this data.
    Restore {
        /// Its id.
        id: RestoreId,
        /// Whether the id comes from the first node.
        is_given: bool,
    },
}
