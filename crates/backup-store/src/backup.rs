//! One run: from a member to a published backup, or to a reason why there is none.
//!
//! Nothing is published that was not proven: the whole stream with its trailer, every page, every
//! record, and all that the cluster had agreed on before the run began.

use crate::digest::{Hashed, hex};
use crate::member::{Connection, HashKvAnswer, Member, MemberError, Peer, Status};
use crate::progress::{Limited, Monitor};
use crate::receive::{SpaceGuard, receive};
use crate::repository::{Lock, RECORD_FILE, Repository, RepositoryError, Run};
use crate::{blocks, durable_file, scratch_file, static_resources};
use backup_plan::record::{self, ClusterMember, MemberRecord, Record, SnapshotRecord};
use backup_plan::retention::{self, Policy, Removal};
use etcd_file::bolt::Bolt;
use etcd_file::check::{Origin, check};
use etcd_file::finding::Severity;
use etcd_file::mvcc::{Summary, hash_kv};
use etcd_file::snapshot_file::TRAILER_BYTES;
use etcd_file::{Failure, Part, Scratch};
use jiff::Timestamp;
use rustix::fs::Advice;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// HashKV stops a member's writes while it scans; up to here that is short.
const MAX_COMPARED_BYTES: u64 = 2 << 30;
const COMPARE_EVERY_HOURS: i64 = 24;

/// What a run is to do.
#[derive(Clone)]
pub struct Order {
    /// The member.
    pub connection: Connection,
    /// Who wants it: a `Backup`'s name, or `on-demand`.
    pub origin: String,
    /// What started it.
    pub trigger: String,
    /// The node's name.
    pub node: String,
    /// The platform that was found.
    pub platform: String,
    /// The control-plane files to take along: below this directory, these.
    pub resources: Option<(PathBuf, Vec<PathBuf>)>,
    /// What is worth knowing of the node and was no reason to fail.
    pub warnings: Vec<String>,
    /// Why the member's stream is taken.
    pub source_reason: String,
    /// Bytes to keep free; by the filesystem's size where none are given.
    pub reserve_bytes: Option<u64>,
    /// How fast the snapshot may be read back.
    pub max_bytes_per_s: Option<u64>,
}

/// A backup that was made.
#[derive(Debug, Clone)]
pub struct Finished {
    /// Where it is.
    pub path: PathBuf,
    /// What is known of it.
    pub record: Record,
}

/// Why a run made no backup.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The member can't be spoken to, or did not answer.
    #[error(transparent)]
    Member(#[from] MemberError),
    /// The repository can't be used.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// The member has no vote yet, and may lag far behind.
    #[error("member {id:x} is a learner: backups are taken from voting members only")]
    Learner {
        /// Which one.
        id: u64,
    },
    /// The stream ended, and is not whole.
    #[error("the member ended the stream after {received_bytes} bytes, {problem}")]
    Cut {
        /// What came.
        received_bytes: u64,
        /// What is missing.
        problem: String,
    },
    /// The stream goes on, and would for ever.
    #[error("the stream is too slow: {received_bytes} bytes in {} s; what is between, or is the disk?", .took.as_secs())]
    TooSlow {
        /// What came.
        received_bytes: u64,
        /// In which time.
        took: Duration,
    },
    /// The stream's own SHA-256 is not that of its data.
    #[error(
        "the stream's SHA-256 is {expected}, that of what came is {found}: it was changed on its way"
    )]
    Trailer {
        /// What the trailer says.
        expected: String,
        /// What the data gives.
        found: String,
    },
    /// The snapshot is whole, and what it holds is damaged: so is the member's database.
    #[error(
        "the member's own database is damaged ({errors} errors; replace this member, and keep its older backups): {first}"
    )]
    Damaged {
        /// How many errors there are.
        errors: u64,
        /// The first of them.
        first: String,
    },
    /// The snapshot misses what the cluster had agreed on.
    #[error(
        "the snapshot ends at revision {found}, but the cluster was at {agreed} before it was taken: the member lags"
    )]
    Behind {
        /// What the snapshot has.
        found: i64,
        /// What the cluster had.
        agreed: i64,
    },
    /// Less room than the run and the reserve need, and nothing that may go.
    #[error(
        "the disk is short: {} are free, the run needs {} and {} are to stay free; free some, keep fewer backups, or lower --min-free",
        mib(*.free_bytes), mib(*.needed_bytes), mib(*.reserve_bytes)
    )]
    DiskShort {
        /// What is free.
        free_bytes: u64,
        /// What the run needs.
        needed_bytes: u64,
        /// What is to stay free.
        reserve_bytes: u64,
    },
    /// A file of the backup can't be written.
    #[error("{path}: {source}")]
    Write {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The snapshot can't be read back.
    #[error("checking the snapshot: {0}")]
    Check(#[from] Failure),
    /// The data differs from the member's own.
    #[error(
        "HashKV of the snapshot is {found:08x}, the member's is {expected:08x} at revision {revision}"
    )]
    Differs {
        /// What the snapshot gives.
        found: u32,
        /// What the member says.
        expected: u32,
        /// At which revision.
        revision: i64,
    },
    /// Somebody wanted an end.
    #[error("stopped")]
    Stopped,
}

/// For people, who would have to count digits otherwise.
pub(crate) fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

impl RunError {
    /// All reasons.
    pub const REASONS: [&'static str; 11] = [
        "member",
        "locked",
        "repository",
        "learner",
        "stream",
        "damaged",
        "behind",
        "disk-short",
        "write",
        "check",
        "stopped",
    ];

    /// What it is, in a word that stays the same; one of [`RunError::REASONS`].
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            RunError::Member(_) => "member",
            RunError::Repository(error) if error.is_disk_full() => "disk-short",
            RunError::Repository(RepositoryError::Locked { .. }) => "locked",
            RunError::Repository(_) => "repository",
            RunError::Learner { .. } => "learner",
            RunError::Cut { .. } | RunError::TooSlow { .. } | RunError::Trailer { .. } => "stream",
            RunError::Damaged { .. } | RunError::Differs { .. } => "damaged",
            RunError::Behind { .. } => "behind",
            RunError::DiskShort { .. } => "disk-short",
            RunError::Write { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                "disk-short"
            }
            RunError::Write { .. } => "write",
            RunError::Check(_) => "check",
            RunError::Stopped => "stopped",
        }
    }
}

/// Listens to a run from whatever thread it is on.
pub type SharedMonitor = Arc<dyn Monitor + Send + Sync>;

/// Makes a backup.
///
/// `now` is asked for the time when it is needed, `tell` hears what happens on the way.
///
/// # Errors
/// Why there is none. What there was is gone again, or is swept by the next run.
pub async fn run(
    repository: &Repository,
    order: &Order,
    now: &dyn Fn() -> Timestamp,
    monitor: &SharedMonitor,
    tell: &dyn Fn(&str),
) -> Result<Finished, RunError> {
    let started_at = now();
    let mut took = Steps::default();
    let mut warnings = order.warnings.clone();
    warnings.extend(repository.mode_warning());
    let lock = repository.lock()?;
    for swept in repository.sweep(&lock)? {
        tell(&format!("swept {swept}, which a run before had left"));
    }

    let member = Member::connect(&order.connection).await?;
    let status = member.status().await?;
    if status.learner {
        return Err(RunError::Learner {
            id: status.member_id,
        });
    }
    let peers = member.members().await?;
    let agreed = member.agreed_revision().await?;
    if agreed.is_none() {
        warnings.push(
            "the cluster has no quorum: the newest changes that were acknowledged may be missing"
                .into(),
        );
    }
    took.end("ask");

    let reserve_bytes = make_room(repository, &lock, order, status.db_bytes, tell)?;
    let run = repository.begin(&lock, started_at)?;
    let snapshot = run.path(&run.snapshot_file());
    let guard = SpaceGuard {
        repository,
        reserve_bytes,
    };
    let received = receive(&member, &snapshot, &guard, status.db_bytes, monitor).await?;
    took.end("stream");

    let data_bytes = received.data_bytes;
    let checked = {
        let (path, monitor) = (snapshot.clone(), limited(monitor, order));
        blocking(move || prove(&path, data_bytes, &monitor)).await?
    };
    if let Some(agreed) = agreed
        && checked.current_revision < agreed
    {
        return Err(RunError::Behind {
            found: checked.current_revision,
            agreed,
        });
    }
    took.end("verify");

    let mut verified = vec!["trailer".to_string(), "structure".into(), "content".into()];
    let mut compared_at = last_compared(repository, &status)?;
    if wants_comparison(compared_at, &status, &peers, started_at) {
        // Also where nothing comes of it: the member is asked once a day, and no more.
        compared_at = Some(started_at);
        let monitor = limited(monitor, order);
        match compare(&member, &snapshot, data_bytes, &checked, &monitor).await? {
            None => verified.push("member".into()),
            Some(reason) => warnings.push(format!("not compared with the member: {reason}")),
        }
        took.end("member");
    }

    let mut sha256 = BTreeMap::from([(run.snapshot_file(), received.file_sha256)]);
    let mut written_bytes = received.data_bytes + TRAILER_BYTES;
    let blocks_path = run.path(blocks::FILE);
    durable_file::write(&blocks_path, &received.blocks).map_err(write_error(&blocks_path))?;
    sha256.insert(blocks::FILE.into(), hex(&Sha256::digest(&received.blocks)));
    written_bytes += received.blocks.len() as u64;
    if let Some((root, dirs)) = &order.resources {
        let path = run.path(&run.resources_file());
        let (archived, digest, bytes) = archive(root, dirs, &path)?;
        warnings.extend(archived.warnings);
        sha256.insert(run.resources_file(), digest);
        written_bytes += bytes;
        took.end("resources");
    }

    let record = Record {
        version: record::VERSION,
        sequence: run.sequence,
        origin: order.origin.clone(),
        trigger: order.trigger.clone(),
        started_at,
        finished_at: now(),
        node: order.node.clone(),
        platform: order.platform.clone(),
        member: member_record(&status, &peers),
        members: peers.iter().map(cluster_member).collect(),
        linearized: agreed.is_some(),
        snapshot: snapshot_record(&checked, data_bytes),
        sha256,
        written_bytes,
        source: "stream".into(),
        source_reason: order.source_reason.clone(),
        verified,
        compared_at,
        took_ms: took.took_ms,
        warnings,
    };
    let path = publish(run, &record)?;
    Ok(Finished { path, record })
}

/// Removes what a policy gives up, oldest first.
///
/// # Errors
/// Why something can't be removed.
pub fn prune(
    repository: &Repository,
    lock: &Lock,
    policy: Policy,
    origin: Option<&str>,
) -> Result<Vec<Removal>, RepositoryError> {
    let removals = planned_removals(repository, policy, origin)?;
    for removal in &removals {
        repository.remove(lock, &removal.name)?;
    }
    Ok(removals)
}

/// What [`prune`] would remove.
///
/// # Errors
/// Why the repository can't be listed.
pub fn planned_removals(
    repository: &Repository,
    policy: Policy,
    origin: Option<&str>,
) -> Result<Vec<Removal>, RepositoryError> {
    let entries = repository.entries()?;
    let candidates: Vec<_> = entries
        .iter()
        .filter_map(|entry| entry.candidate())
        .collect();
    Ok(retention::removals(&candidates, policy, origin))
}

/// How long each step took.
struct Steps {
    since: Instant,
    took_ms: BTreeMap<String, u64>,
}

impl Default for Steps {
    fn default() -> Self {
        Steps {
            since: Instant::now(),
            took_ms: BTreeMap::new(),
        }
    }
}

impl Steps {
    fn end(&mut self, step: &str) {
        let took_ms = self
            .since
            .elapsed()
            .as_millis()
            .try_into()
            .unwrap_or(u64::MAX);
        self.took_ms.insert(step.into(), took_ms);
        self.since = Instant::now();
    }
}

/// For what reads the disk: the stream is never slowed down.
fn limited(monitor: &SharedMonitor, order: &Order) -> SharedMonitor {
    Arc::new(Limited::new(monitor.clone(), order.max_bytes_per_s))
}

/// Gives up old backups until there is room for a run and the reserve; gives the reserve.
fn make_room(
    repository: &Repository,
    lock: &Lock,
    order: &Order,
    db_bytes: u64,
    tell: &dyn Fn(&str),
) -> Result<u64, RunError> {
    // The block hashes and the archive are small beside the snapshot.
    let needed_bytes = db_bytes + db_bytes / 100 + (1 << 20);
    loop {
        let space = repository.space()?;
        let reserve_bytes = order
            .reserve_bytes
            .unwrap_or_else(|| space.default_reserve_bytes());
        let wanted_bytes = needed_bytes.saturating_add(reserve_bytes);
        if space.free_bytes >= wanted_bytes {
            return Ok(reserve_bytes);
        }
        let short = RunError::DiskShort {
            free_bytes: space.free_bytes,
            needed_bytes,
            reserve_bytes,
        };
        let entries = repository.entries()?;
        let candidates: Vec<_> = entries
            .iter()
            .filter_map(|entry| entry.candidate())
            .collect();
        // Nothing is given up in vain.
        let shortage_bytes = wanted_bytes - space.free_bytes;
        let Some(removal) = retention::next_for_space(&candidates, shortage_bytes) else {
            return Err(short);
        };
        repository.remove(lock, &removal.name)?;
        tell(&format!("removed {}: {}", removal.name, removal.reason));
    }
}

/// Runs work that may take long beside the loop that hears signals.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        // Nothing cancels it, and a panic has ended the process.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Reads the snapshot back, all of it.
fn prove(path: &Path, data_bytes: u64, monitor: &SharedMonitor) -> Result<Summary, RunError> {
    monitor.step("verify", data_bytes);
    let file = File::open(path).map_err(write_error(path))?;
    let data = Part::first(&file, data_bytes);
    let checked = check(
        &data,
        Origin::Snapshot,
        &scratch_beside(path),
        &mut |bytes| monitor.advance(bytes),
    )
    .map_err(|failure| match failure {
        Failure::Cancelled => RunError::Stopped,
        failure => RunError::Check(failure),
    })?;
    if checked
        .logical_bytes
        .is_some_and(|bytes| bytes != data_bytes)
    {
        return Err(RunError::Cut {
            received_bytes: data_bytes,
            problem: format!(
                "its meta page says {}",
                checked.logical_bytes.unwrap_or_default()
            ),
        });
    }
    forget(&file);
    let errors = checked.structure.errors() + checked.content.errors();
    let first = checked
        .structure
        .of(Severity::Error)
        .chain(checked.content.of(Severity::Error))
        .next();
    match (first, checked.summary) {
        (None, Some(summary)) => Ok(summary),
        (first, _) => Err(RunError::Damaged {
            errors,
            first: first.map(ToString::to_string).unwrap_or_default(),
        }),
    }
}

/// Scratch files of a run: its own directory can be written, whatever else can.
fn scratch_beside(path: &Path) -> impl Fn() -> io::Result<Box<dyn Scratch>> {
    let dir = path.parent().unwrap_or(path);
    move || scratch_file::create_beside(dir)
}

/// Takes a file out of the page cache, which is better used for etcd's own.
fn forget(file: &File) {
    // A filesystem that can't do it keeps the pages: no harm.
    let _ = rustix::fs::fadvise(file, 0, None, Advice::DontNeed);
}

/// When this member was last asked for its HashKV.
fn last_compared(repository: &Repository, status: &Status) -> Result<Option<Timestamp>, RunError> {
    let cluster_id = format!("{:x}", status.cluster_id);
    Ok(repository
        .entries()?
        .iter()
        .filter_map(|entry| entry.record())
        .find(|record| record.member.cluster_id == cluster_id)
        .and_then(|record| record.compared_at))
}

/// Once a day, never on a leader that has followers, and not where the scan would take long.
fn wants_comparison(
    compared_at: Option<Timestamp>,
    status: &Status,
    peers: &[Peer],
    now: Timestamp,
) -> bool {
    let leads_others = status.leader == status.member_id && peers.len() > 1;
    let recently =
        compared_at.is_some_and(|at| now.duration_since(at).as_hours().abs() < COMPARE_EVERY_HOURS);
    !leads_others && !recently && status.db_bytes <= MAX_COMPARED_BYTES
}

/// Compares HashKV with the member's; gives the reason if the two can't be compared.
async fn compare(
    member: &Member,
    snapshot: &Path,
    data_bytes: u64,
    summary: &Summary,
    monitor: &SharedMonitor,
) -> Result<Option<String>, RunError> {
    let revision = summary.current_revision;
    let theirs = match member.hash_kv(revision).await {
        Ok(HashKvAnswer::Hash(theirs)) if theirs.compact_revision >= summary.compact_revision => {
            theirs
        }
        Ok(HashKvAnswer::Hash(_) | HashKvAnswer::Compacted) => {
            return Ok(Some("its history was compacted meanwhile".into()));
        }
        Ok(HashKvAnswer::Future) => {
            return Ok(Some("it has not come to the snapshot's revision".into()));
        }
        // A backup that is whole is not thrown away because its member can't hash.
        Err(error) => return Ok(Some(error.to_string())),
    };
    monitor.step("member", data_bytes.saturating_mul(2));
    let (path, monitor) = (snapshot.to_path_buf(), monitor.clone());
    let computed = blocking(move || -> Result<Result<u32, String>, RunError> {
        let file = File::open(&path).map_err(write_error(&path))?;
        let data = Part::first(&file, data_bytes);
        let bolt = match Bolt::open(&data) {
            Ok(bolt) => bolt,
            Err(error) => return Ok(Err(error.to_string())),
        };
        let hash = hash_kv(
            &bolt,
            revision,
            theirs.compact_revision,
            &scratch_beside(&path),
            &mut |bytes| monitor.advance(bytes),
        );
        forget(&file);
        Ok(hash.map_err(|error| error.to_string()))
    })
    .await?;
    match computed {
        Ok(found) if found != theirs.hash => Err(RunError::Differs {
            found,
            expected: theirs.hash,
            revision,
        }),
        Ok(_) => Ok(None),
        Err(reason) => Ok(Some(reason)),
    }
}

fn archive(
    root: &Path,
    dirs: &[PathBuf],
    path: &Path,
) -> Result<(static_resources::Archived, String, u64), RunError> {
    let file = durable_file::create(path).map_err(write_error(path))?;
    let mut out = Hashed::new(file);
    let archived = static_resources::archive(root, dirs, &mut out).map_err(write_error(path))?;
    durable_file::sync(&out.out).map_err(write_error(path))?;
    Ok((archived, out.hex(), out.bytes))
}

fn publish(run: Run, record: &Record) -> Result<PathBuf, RunError> {
    let path = run.path(RECORD_FILE);
    let mut json = serde_json::to_vec_pretty(record)
        .map_err(|error| write_error(&path)(io::Error::other(error)))?;
    json.push(b'\n');
    durable_file::write(&path, &json).map_err(write_error(&path))?;
    Ok(run.publish()?)
}

pub(crate) fn write_error(path: &Path) -> impl FnOnce(io::Error) -> RunError {
    move |source| RunError::Write {
        path: path.into(),
        source,
    }
}

fn member_record(status: &Status, peers: &[Peer]) -> MemberRecord {
    let name = peers
        .iter()
        .find(|peer| peer.id == status.member_id)
        .map(|peer| peer.name.clone());
    MemberRecord {
        id: format!("{:x}", status.member_id),
        name: name.unwrap_or_default(),
        cluster_id: format!("{:x}", status.cluster_id),
        etcd_version: status.version.clone(),
        leader: status.leader == status.member_id,
    }
}

fn cluster_member(peer: &Peer) -> ClusterMember {
    ClusterMember {
        id: format!("{:x}", peer.id),
        name: peer.name.clone(),
        peer_urls: peer.peer_urls.clone(),
        learner: peer.learner,
    }
}

pub(crate) fn snapshot_record(summary: &Summary, data_bytes: u64) -> SnapshotRecord {
    SnapshotRecord {
        revision: summary.revision,
        compact_revision: summary.compact_revision,
        consistent_index: summary.consistent_index,
        total_keys: summary.live_keys,
        records: summary.records,
        hash: format!("{:08x}", summary.status_hash),
        size_bytes: data_bytes,
        storage_version: summary.storage_version.clone(),
    }
}
