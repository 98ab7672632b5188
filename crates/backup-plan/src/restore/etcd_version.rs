//! Which versions of etcd can start from a database (etcd-io/etcd: `server/storage/schema/schema.go`,
//! `server/etcdserver/version/downgrade.go`).

use std::fmt;
use std::str::FromStr;

/// A minor version of etcd.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct EtcdVersion {
    major: u32,
    minor: u32,
}

/// The oldest version for which a data directory is made.
const OLDEST: EtcdVersion = EtcdVersion { major: 3, minor: 4 };
/// The last version that reads the snapshot of raft, or writes one.
const LAST_WITH_SNAPSHOT: EtcdVersion = EtcdVersion { major: 3, minor: 7 };
/// The newest version that was tried.
const NEWEST: EtcdVersion = EtcdVersion { major: 3, minor: 8 };

/// Why a version can't start from a database.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VersionProblem {
    /// Not a version of etcd that is known.
    #[error("--etcd-version {found:?} is not a version from {OLDEST} to {NEWEST}, such as 3.6")]
    Unknown {
        /// The text.
        found: String,
    },
    /// The data is of a version that is not known.
    #[error(
        "the snapshot is of etcd {found:?}, which this program does not know: use a newer etcd-lifeboat"
    )]
    UnknownData {
        /// The version in the database.
        found: String,
    },
    /// etcd refuses databases of later versions.
    #[error(
        "the snapshot is of etcd {needed}: etcd {wanted} does not start from it; use etcd {needed}, or a snapshot that an etcd {wanted} made"
    )]
    TooOld {
        /// The version that was asked for.
        wanted: EtcdVersion,
        /// The version of the data.
        needed: EtcdVersion,
    },
}

impl fmt::Display for EtcdVersion {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}", self.major, self.minor)
    }
}

impl FromStr for EtcdVersion {
    type Err = VersionProblem;

    /// Reads `3.6`, and also `3.6.5` and `v3.6.5`.
    fn from_str(text: &str) -> Result<Self, VersionProblem> {
        let mut parts = text
            .trim_start_matches('v')
            .split('.')
            .map(str::parse::<u32>);
        let version = match (parts.next(), parts.next(), parts.next()) {
            (Some(Ok(major)), Some(Ok(minor)), None | Some(Ok(_))) => EtcdVersion { major, minor },
            _ => return Err(VersionProblem::Unknown { found: text.into() }),
        };
        if parts.next().is_some() || !(OLDEST..=NEWEST).contains(&version) {
            return Err(VersionProblem::Unknown { found: text.into() });
        }
        Ok(version)
    }
}

impl EtcdVersion {
    /// Whether this version reads or writes raft's snapshot in a file of its own.
    #[must_use]
    pub fn has_snapshot_file(self) -> bool {
        self <= LAST_WITH_SNAPSHOT
    }

    /// The oldest version that starts from a database with these versions in it: the storage version, which etcd has from 3.6 on,
    /// and the version of the cluster, which it has from 3.5 on.
    ///
    /// # Errors
    /// A version that this program does not know.
    pub fn of_data(
        storage_version: Option<&str>,
        cluster_version: Option<&str>,
    ) -> Result<Self, VersionProblem> {
        let mut oldest = OLDEST;
        for text in [storage_version, cluster_version].into_iter().flatten() {
            let version: EtcdVersion = text.parse().map_err(|_| VersionProblem::UnknownData {
                found: text.chars().take(40).collect(),
            })?;
            oldest = oldest.max(version);
        }
        Ok(oldest)
    }

    /// The version for which a data directory is made.
    ///
    /// # Errors
    /// The version that was asked for does not start from the data.
    pub fn for_data(self, wanted: Option<EtcdVersion>) -> Result<EtcdVersion, VersionProblem> {
        match wanted {
            Some(wanted) if wanted < self => Err(VersionProblem::TooOld {
                wanted,
                needed: self,
            }),
            Some(wanted) => Ok(wanted),
            None => Ok(self),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_directory_is_for_the_version_of_its_data_or_a_later_one() {
        let version = |text: &str| text.parse::<EtcdVersion>().unwrap();
        assert_eq!(EtcdVersion::of_data(None, None), Ok(version("3.4")));
        let future = EtcdVersion::of_data(Some("3.6.0"), Some("3.9.0")).unwrap_err();
        assert!(
            future.to_string().contains("newer etcd-lifeboat"),
            "{future}"
        );
        assert_eq!(
            EtcdVersion::of_data(None, Some("3.5.0")),
            Ok(version("3.5"))
        );
        assert_eq!(
            EtcdVersion::of_data(Some("3.6.0"), Some("3.6.0")),
            Ok(version("v3.6.9"))
        );
        let data = version("3.6");
        assert_eq!(data.for_data(None), Ok(data));
        assert_eq!(data.for_data(Some(version("3.7"))), Ok(version("3.7")));
        let error = data.for_data(Some(version("3.5"))).unwrap_err();
        assert!(error.to_string().contains("use etcd 3.6"), "{error}");
        for wrong in ["", "3", "3.3", "4.0", "3.6.x", "3.6.1.1", "3.99"] {
            assert!(wrong.parse::<EtcdVersion>().is_err(), "{wrong}");
        }
        assert!(version("3.7").has_snapshot_file() && !version("3.8").has_snapshot_file());
    }
}
