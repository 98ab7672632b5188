//! Compares HashKV of a snapshot with HashKV of a member.

use crate::member::{HashKv, HashKvAnswer, Member};
use etcd_file::bolt::Bolt;
use etcd_file::mvcc::{Summary, hash_kv};
use etcd_file::{Progress, ReadAt, ScratchSource};

/// The result of comparing.
pub(crate) enum Comparison {
    /// Both have this hash.
    Equal(u32),
    /// The hash of the snapshot, which is not the member's.
    Differs(u32),
    /// The snapshot's hash could not be computed, and why.
    Impossible(String),
}

/// Asks the member for its hash at the revision of a snapshot.
///
/// # Errors
/// Why the two cannot be compared.
pub(crate) async fn ask(member: &Member, summary: &Summary) -> Result<HashKv, String> {
    let revision = summary.current_revision;
    let theirs = match member.hash_kv(revision).await {
        Ok(HashKvAnswer::Hash(theirs)) => theirs,
        Ok(HashKvAnswer::Compacted) => {
            return Err(format!(
                "the member has compacted its history beyond revision {revision}: only a newer snapshot can be compared"
            ));
        }
        Ok(HashKvAnswer::Future) => {
            return Err(format!(
                "the member has not reached revision {revision} yet: it lags behind, or belongs to another cluster"
            ));
        }
        Err(error) => return Err(error.to_string()),
    };
    if theirs.compact_revision < summary.compact_revision {
        return Err(format!(
            "the member's hash is for compact revision {}, but the snapshot is compacted to revision {}: only a newer snapshot can be compared",
            theirs.compact_revision, summary.compact_revision
        ));
    }
    Ok(theirs)
}

/// Computes the hash of a snapshot in the same way, and compares.
pub(crate) fn compare(
    data: &dyn ReadAt,
    summary: &Summary,
    theirs: &HashKv,
    scratch: &dyn ScratchSource,
    progress: Progress<'_>,
) -> Comparison {
    let bolt = match Bolt::open(data) {
        Ok(bolt) => bolt,
        Err(error) => return Comparison::Impossible(error.to_string()),
    };
    let revision = summary.current_revision;
    match hash_kv(&bolt, revision, theirs.compact_revision, scratch, progress) {
        Ok(ours) if ours == theirs.hash => Comparison::Equal(ours),
        Ok(ours) => Comparison::Differs(ours),
        Err(error) => Comparison::Impossible(error.to_string()),
    }
}
