//! A database with which a new cluster begins: other members, and the log begins again. Everything else stays as it is
//! (etcd-io/etcd: `etcdutl/snapshot/v3_snapshot.go`).

use crate::bolt::{Entries, Rewrite, RewriteError};
use crate::membership::{Member, StoredMember};
use crate::mvcc::buckets::{KEY_BUCKET, META_BUCKET};
use crate::mvcc::{RecordKey, Revision, RevisionError};
use serde::Deserialize;

const MEMBERS: &[u8] = b"members";
const MEMBERS_REMOVED: &[u8] = b"members_removed";
const ALARM: &[u8] = b"alarm";
const CLUSTER: &[u8] = b"cluster";
const CONSISTENT_INDEX: &[u8] = b"consistent_index";
const STORAGE_VERSION: &[u8] = b"storageVersion";
const TERM: &[u8] = b"term";
const FINISHED_COMPACTION: &[u8] = b"finishedCompactRev";
const SCHEDULED_COMPACTION: &[u8] = b"scheduledCompactRev";

/// What a database says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The revision of the last record, 0 without records. `--bump-revision` of `etcdutl` counts from here.
    pub last_record: i64,
    /// The revision at which a member starts from this database.
    pub current_revision: i64,
    /// The raft index of the last entry that the database reflects.
    pub consistent_index: Option<u64>,
    /// The storage version, from etcd 3.6 on.
    pub storage_version: Option<String>,
    /// The version that the members agreed on, from etcd 3.5 on.
    pub cluster_version: Option<String>,
    /// Members with a `CORRUPT` alarm: their data differed from that of the others.
    pub corrupt: Vec<u64>,
    /// Whether a member has a `NOSPACE` alarm: etcd refuses writes then.
    pub has_no_space: bool,
    /// The members of the cluster. `None` if etcd cannot decode one of them; a new cluster has others.
    pub membership: Option<Membership>,
    /// The version that a downgrade leads to, while one is in progress.
    pub downgrade: Option<String>,
}

/// The members of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// The members, in the order of their ids.
    pub members: Vec<StoredMember>,
    /// Ids of members that were removed.
    pub removed: Vec<u64>,
}

impl Membership {
    fn of(members: &Entries, removed: &Entries) -> Option<Self> {
        let members = members.values().map(|json| serde_json::from_slice(json));
        let mut members: Vec<StoredMember> = members.collect::<Result<_, _>>().ok()?;
        members.sort_by_key(|member| member.id);
        let removed = removed.keys().map(|key| {
            let id = std::str::from_utf8(key).ok()?;
            u64::from_str_radix(id, 16).ok()
        });
        Some(Membership {
            members,
            removed: removed.collect::<Option<_>>()?,
        })
    }
}

/// The state of a downgrade (etcd-io/etcd: `server/etcdserver/version/downgrade.go`).
#[derive(Deserialize)]
struct Downgrade {
    #[serde(default, rename = "target-version")]
    target: String,
    #[serde(default)]
    enabled: bool,
}

/// Why a database does not say what it must.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FactsError {
    /// The database can't be read.
    #[error(transparent)]
    Read(#[from] RewriteError),
    /// A key that is no revision.
    #[error("{place}: {problem}")]
    NotARevision {
        /// The bucket, or the key in bucket `meta`.
        place: &'static str,
        /// What it is instead.
        problem: RevisionError,
    },
    /// An alarm that can't be read.
    #[error("bucket alarm has an entry that etcd cannot decode")]
    Alarm,
}

/// Reads what a database says about itself, from its last record and its small buckets.
///
/// # Errors
/// See [`FactsError`].
pub fn facts(rewrite: &Rewrite<'_, '_>) -> Result<Facts, FactsError> {
    const NO_SPACE: u64 = 1;
    const CORRUPT: u64 = 2;
    let revision = |place, key: &[u8]| match RecordKey::parse(key) {
        Ok(key) => Ok(key.revision.main),
        Err(problem) => Err(FactsError::NotARevision { place, problem }),
    };
    let text = |entries: &Entries, key: &[u8]| {
        let value = entries.get(key)?;
        Some(String::from_utf8_lossy(value).into_owned())
    };
    let last_record = match rewrite.last_key(KEY_BUCKET)? {
        Some(key) => revision("the last record", &key)?,
        None => 0,
    };
    let meta = rewrite.read(META_BUCKET)?;
    let mut current_revision = last_record.max(1);
    for (name, key) in [
        ("scheduledCompactRev", SCHEDULED_COMPACTION),
        ("finishedCompactRev", FINISHED_COMPACTION),
    ] {
        if let Some(compacted) = meta.get(key) {
            current_revision = current_revision.max(revision(name, compacted)?);
        }
    }
    let (mut corrupt, mut has_no_space) = (Vec::new(), false);
    for key in rewrite.read(ALARM)?.keys() {
        let (member, alarm) = crate::mvcc::start::alarm(key).map_err(|_| FactsError::Alarm)?;
        if alarm == CORRUPT {
            corrupt.push(member);
        }
        has_no_space |= alarm == NO_SPACE;
    }
    let cluster = rewrite.read(CLUSTER)?;
    let downgrade = cluster.get(&b"downgrade"[..]);
    let downgrade = downgrade.and_then(|json| serde_json::from_slice::<Downgrade>(json).ok());
    let index = meta
        .get(CONSISTENT_INDEX)
        .and_then(|index| index.first_chunk());
    Ok(Facts {
        last_record,
        current_revision,
        consistent_index: index.map(|index| u64::from_be_bytes(*index)),
        storage_version: text(&meta, STORAGE_VERSION),
        cluster_version: text(&cluster, b"clusterVersion"),
        corrupt,
        has_no_space,
        membership: Membership::of(&rewrite.read(MEMBERS)?, &rewrite.read(MEMBERS_REMOVED)?),
        downgrade: downgrade
            .filter(|downgrade| downgrade.enabled)
            .map(|downgrade| downgrade.target),
    })
}

/// What is changed.
#[derive(Debug, Clone, Default)]
pub struct Changes {
    /// The members of the new cluster. With them raft's index and term become those of a log in which only they were added.
    pub members: Option<Vec<Member>>,
    /// The revision at which the new cluster begins. All earlier ones are then compacted, so that clients that watch read
    /// everything again. It must be higher than that of the last record.
    pub revision: Option<i64>,
}

/// Changes the buckets. Only what is named here changes; users, leases, alarms, versions and the keys stay as they are.
///
/// # Errors
/// The database can't be read, or can't be changed.
pub fn change(rewrite: &mut Rewrite<'_, '_>, changes: &Changes) -> Result<(), RewriteError> {
    let mut meta = rewrite.read(META_BUCKET)?;
    if let Some(members) = &changes.members {
        let entries = members
            .iter()
            .map(|member| (member.key(), member.json()))
            .collect();
        rewrite.replace(MEMBERS, entries)?;
        rewrite.replace(MEMBERS_REMOVED, Entries::new())?;
        if !rewrite.has_bucket(CLUSTER) {
            rewrite.replace(CLUSTER, Entries::new())?;
        }
        let index = members.len() as u64;
        meta.insert(CONSISTENT_INDEX.into(), index.to_be_bytes().into());
        meta.insert(TERM.into(), 1u64.to_be_bytes().into());
    }
    if let Some(main) = changes.revision {
        let key = Revision { main, sub: 0 }.to_key();
        rewrite.append(KEY_BUCKET, &key, b"")?;
        meta.insert(SCHEDULED_COMPACTION.into(), key);
    }
    rewrite.replace(META_BUCKET, meta)
}
