//! One run: makes a backup of a member, or returns why it failed.
//!
//! A backup is published only after it was proven: the complete stream with its trailer, the bytes on the disk, every page,
//! every record, and all changes that the cluster had agreed on before the run began.

use crate::archive_file::archive;
use crate::digest::hex;
use crate::disk::Disk;
use crate::member::{Connection, HashKvAnswer, Member, Peer, Status};
use crate::notes::Notes;
use crate::progress::{Limited, Monitor, SharedMonitor};
use crate::read_back::{self, How};
use crate::receive::{Received, SpaceGuard, receive};
use crate::repository::{Lock, MAX_RECORD_BYTES, RECORD_FILE, Repository, RepositoryError, Run};
use crate::room::{Room, needed_bytes};
pub use crate::run_error::RunError;
use crate::run_error::write_error;
use crate::{blocks, durable_file, scratch_file};
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
use std::time::Instant;

/// HashKV stops a member's writes while it scans. Up to this size the scan is short.
const MAX_COMPARED_BYTES: u64 = 2 << 30;
const COMPARE_EVERY_HOURS: i64 = 24;

/// The settings of one run.
#[derive(Clone)]
pub struct Order {
    /// How to connect to the member.
    pub connection: Connection,
    /// Who requested the backup: the name of a `Backup`, or `on-demand`.
    pub origin: String,
    /// What started the run: `schedule`, `catch-up` or `command`.
    pub trigger: String,
    /// The node's name.
    pub node: String,
    /// The platform that was found.
    pub platform: String,
    /// The control-plane files to archive: a root directory, and paths below it.
    pub resources: Option<(PathBuf, Vec<PathBuf>)>,
    /// Warnings about the node, to be written into the record.
    pub warnings: Vec<String>,
    /// Why the snapshot is taken from the member's stream.
    pub source_reason: String,
    /// Bytes to keep free; none for the default of the filesystem.
    pub reserve_bytes: Option<u64>,
    /// Limit for reading the snapshot back, in bytes per second.
    pub max_bytes_per_s: Option<u64>,
}

/// An event during a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunEvent {
    /// Files left over from an earlier run were removed.
    Swept(String),
    /// Files left over from an earlier run cannot be removed.
    SweepFailed {
        /// Their name.
        name: String,
        /// Why they cannot be removed.
        problem: String,
    },
    /// A proven backup was removed to free space for this run.
    GivenUp(Removal),
    /// Retention removed a backup.
    Removed(Removal),
    /// Retention could not remove a backup. The new backup is complete.
    PruneFailed(String),
    /// The cluster id differs from that of the previous backup.
    ClusterChanged {
        /// The cluster id of the previous backup.
        old_id: String,
        /// The cluster id of this backup.
        new_id: String,
    },
}

impl RunEvent {
    /// Whether an administrator should look at this event.
    #[must_use]
    pub fn is_warning(&self) -> bool {
        !matches!(self, RunEvent::Swept(_) | RunEvent::Removed(_))
    }
}

impl std::fmt::Display for RunEvent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            RunEvent::Swept(name) => write!(f, "removed {name}, left over from an earlier run"),
            RunEvent::SweepFailed { name, problem } => write!(
                f,
                "cannot remove {name}, left over from an earlier run: {problem}; remove it by hand. Backups continue"
            ),
            RunEvent::GivenUp(Removal { name, reason, .. }) => {
                write!(f, "removed backup {name} to free space: {reason}")
            }
            RunEvent::Removed(Removal { name, reason, .. }) => {
                write!(f, "removed backup {name}: {reason}")
            }
            RunEvent::PruneFailed(problem) => write!(
                f,
                "the backup was made, but older backups could not be removed: {problem}"
            ),
            RunEvent::ClusterChanged { old_id, new_id } => write!(
                f,
                "the cluster id has changed from {old_id} to {new_id}: this is another cluster than before. Backups of the old cluster stay until you remove them"
            ),
        }
    }
}

/// A finished backup.
#[derive(Debug, Clone)]
pub struct Finished {
    /// The directory of the backup.
    pub path: PathBuf,
    /// The record of the backup.
    pub record: Record,
}

/// Makes backups in a repository.
#[derive(Clone)]
pub struct Runner {
    /// The repository that stores the backups.
    pub repository: Repository,
    /// The disk of the repository. It remembers between runs whether it hangs.
    pub disk: Disk,
    /// Returns the current time.
    pub now: fn() -> Timestamp,
    /// Receives the progress of a run, and can stop it.
    pub monitor: SharedMonitor,
    /// Receives the events of a run.
    pub tell: Arc<dyn Fn(RunEvent) + Send + Sync>,
}

/// The state of the repository before the member is asked.
struct Prepared {
    lock: Arc<Lock>,
    warnings: Vec<String>,
    /// The cluster id of the newest backup.
    cluster_id: Option<String>,
}

/// The paths of a run's files.
#[derive(Clone)]
struct Place {
    snapshot: PathBuf,
    snapshot_file: String,
    resources: PathBuf,
    resources_file: String,
    blocks: PathBuf,
    record: PathBuf,
    sequence: u64,
    space: SpaceGuard,
}

/// What a run knows before it publishes the backup.
struct Facts {
    status: Status,
    peers: Vec<Peer>,
    linearized: bool,
    started_at: Timestamp,
    received: Received,
    checked: Summary,
    how: How,
    verified: Vec<String>,
    compared_at: Option<Timestamp>,
    warnings: Vec<String>,
    took: Steps,
}

impl Runner {
    /// Makes a backup, and then removes older backups of its origin according to the policy.
    ///
    /// # Errors
    /// Why the run failed. Its files are removed now or by the next run.
    pub async fn run(&self, order: &Order, policy: Policy) -> Result<Finished, RunError> {
        let started_at = (self.now)();
        let mut took = Steps::default();
        let this = self.clone();
        let prepared = self
            .disk
            .run("reading the repository", move || this.prepare())
            .await??;
        let mut warnings = order.warnings.clone();
        warnings.extend(prepared.warnings);

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
                "the cluster has no quorum: the newest acknowledged changes may be missing from the backup"
                    .into(),
            );
        }
        took.end("ask");

        let (run, place) = self.begin(order, &prepared.lock, status.db_bytes).await?;
        let asked = Asked {
            member,
            status,
            peers,
            agreed,
        };
        let made = self
            .fill(
                order,
                asked,
                &place,
                &prepared.lock,
                started_at,
                warnings,
                took,
            )
            .await;
        let record = match made {
            Ok(record) => record,
            Err(error) => {
                // Unless the disk hangs: then the next run sweeps it.
                let _ = self
                    .disk
                    .run("removing an unfinished backup", move || run.discard())
                    .await;
                return Err(error);
            }
        };
        let this = self.clone();
        let finishing =
            self.disk
                .run_watched("publishing the backup", &self.monitor, move |monitor| {
                    this.publish(run, &place, record, &prepared.lock, policy, monitor)
                });
        let finished = finishing.await??;
        let new_id = &finished.record.member.cluster_id;
        if let Some(old_id) = prepared.cluster_id.filter(|old_id| old_id != new_id) {
            let new_id = new_id.clone();
            (self.tell)(RunEvent::ClusterChanged { old_id, new_id });
        }
        Ok(finished)
    }

    fn prepare(&self) -> Result<Prepared, RunError> {
        let repository = &self.repository;
        let lock = Arc::new(repository.lock()?);
        let swept = repository.sweep(&lock)?;
        for name in swept.removed {
            (self.tell)(RunEvent::Swept(name));
        }
        for (name, error) in swept.stuck {
            let problem = error.to_string();
            (self.tell)(RunEvent::SweepFailed { name, problem });
        }
        let entries = repository.entries()?;
        let newest = entries.iter().find_map(|entry| entry.record());
        Ok(Prepared {
            lock,
            warnings: repository.mode_warning().into_iter().collect(),
            cluster_id: newest.map(|record| record.member.cluster_id.clone()),
        })
    }

    /// Frees space and creates the run's directory.
    async fn begin(
        &self,
        order: &Order,
        lock: &Arc<Lock>,
        db_bytes: u64,
    ) -> Result<(Run, Place), RunError> {
        let (this, lock, reserve_bytes) = (self.clone(), lock.clone(), order.reserve_bytes);
        let making_room = move |monitor: &SharedMonitor| {
            let repository = &this.repository;
            let reserve_bytes = match reserve_bytes {
                Some(bytes) => bytes,
                None => repository.space()?.default_reserve_bytes(),
            };
            let now = (this.now)();
            let room = Room {
                repository,
                lock: &lock,
                monitor,
                given_up: &|removal| (this.tell)(RunEvent::GivenUp(removal.clone())),
                now,
            };
            room.make(needed_bytes(db_bytes), reserve_bytes)?;
            let run = repository.begin(&lock, now)?;
            let place = Place {
                snapshot: run.path(&run.snapshot_file()),
                snapshot_file: run.snapshot_file(),
                resources: run.path(&run.resources_file()),
                resources_file: run.resources_file(),
                blocks: run.path(blocks::FILE),
                record: run.path(RECORD_FILE),
                sequence: run.sequence,
                space: SpaceGuard {
                    repository: repository.clone(),
                    reserve_bytes,
                },
            };
            Ok((run, place))
        };
        self.disk
            .run_watched("freeing space", &self.monitor, making_room)
            .await?
    }

    /// Writes all files of the backup except the record.
    #[allow(clippy::too_many_arguments)]
    async fn fill(
        &self,
        order: &Order,
        asked: Asked,
        place: &Place,
        lock: &Arc<Lock>,
        started_at: Timestamp,
        warnings: Vec<String>,
        mut took: Steps,
    ) -> Result<Record, RunError> {
        let Asked {
            member,
            status,
            peers,
            agreed,
        } = asked;
        let (disk, snapshot) = (&self.disk, place.snapshot.clone());
        let db_bytes = status.db_bytes;
        let received = receive(
            disk,
            &member,
            &snapshot,
            &place.space,
            db_bytes,
            &self.monitor,
        )
        .await?;
        took.end("stream");

        let data_bytes = received.data_bytes;
        let limited: SharedMonitor =
            Arc::new(Limited::new(self.monitor.clone(), order.max_bytes_per_s));
        let (path, hashes) = (snapshot.clone(), received.blocks.clone());
        let reading = move |monitor: &SharedMonitor| {
            let how = read_back::compare(&path, &hashes, &**monitor)?;
            let proven = prove(&path, data_bytes, monitor);
            if matches!(proven, Err(RunError::Damaged { .. } | RunError::Check(_))) {
                // Whether that is the member's doing or the disk's, which may have changed its mind.
                read_back::compare(&path, &hashes, &**monitor)?;
            }
            Ok::<_, RunError>((how, proven?))
        };
        let (how, checked) = disk
            .run_watched("reading the snapshot back", &limited, reading)
            .await??;
        if let Some(agreed) = agreed
            && checked.current_revision < agreed
        {
            return Err(RunError::Behind {
                found: checked.current_revision,
                agreed,
            });
        }
        took.end("verify");

        let mut facts = Facts {
            status,
            peers,
            linearized: agreed.is_some(),
            started_at,
            received,
            checked,
            how,
            verified: vec!["trailer".to_string(), "structure".into(), "content".into()],
            compared_at: None,
            warnings,
            took,
        };
        self.compare_with_member(&member, place, lock, &limited, &mut facts)
            .await?;
        drop(member);
        let (this, order, place) = (self.clone(), order.clone(), place.clone());
        self.disk
            .run_watched("writing the other files of the backup", &self.monitor, {
                move |monitor| this.complete(&order, &place, facts, monitor)
            })
            .await?
    }

    /// Compares HashKV with the member's, if the comparison is due.
    async fn compare_with_member(
        &self,
        member: &Member,
        place: &Place,
        lock: &Arc<Lock>,
        limited: &SharedMonitor,
        facts: &mut Facts,
    ) -> Result<(), RunError> {
        let (repository, status) = (self.repository.clone(), facts.status.clone());
        let now = facts.started_at;
        let reading = move || last_compared(&repository, &status, now);
        facts.compared_at = self.disk.run("reading the notes", reading).await??;
        let started_at = facts.started_at;
        if !wants_comparison(facts.compared_at, &facts.status, &facts.peers, started_at) {
            return Ok(());
        }
        // Before the member is asked, and also where no backup comes of it: it is asked once a day, and no more.
        let before = facts.compared_at.replace(started_at);
        let (repository, lock) = (self.repository.clone(), lock.clone());
        let key = member_key(&facts.status);
        let noting = move || {
            let mut notes = Notes::of(&repository);
            notes.compared.insert(key, started_at);
            notes.keep(&repository, &lock)
        };
        if let Err(error) = self.disk.run("writing the notes", noting).await? {
            // It would be asked again and again.
            facts.compared_at = before;
            facts
                .warnings
                .push(format!("not compared with the member: {error}"));
            return Ok(());
        }
        let compared = compare(
            &self.disk,
            member,
            &place.snapshot,
            facts.received.data_bytes,
            &facts.checked,
            limited,
        );
        match compared.await? {
            None => facts.verified.push("member".into()),
            Some(reason) => {
                let warning = format!("not compared with the member: {reason}");
                facts.warnings.push(warning);
            }
        }
        facts.took.end("member");
        Ok(())
    }

    /// Writes the block hashes and the archive, and returns the record.
    fn complete(
        &self,
        order: &Order,
        place: &Place,
        facts: Facts,
        monitor: &SharedMonitor,
    ) -> Result<Record, RunError> {
        let Facts {
            status,
            peers,
            received,
            checked,
            mut warnings,
            mut took,
            ..
        } = facts;
        let mut sha256 = BTreeMap::from([(place.snapshot_file.clone(), received.file_sha256)]);
        let mut written_bytes = received.data_bytes + TRAILER_BYTES;
        durable_file::write(&place.blocks, &received.blocks).map_err(write_error(&place.blocks))?;
        sha256.insert(blocks::FILE.into(), hex(&Sha256::digest(&received.blocks)));
        written_bytes += received.blocks.len() as u64;
        let mut archive_missing = Vec::new();
        if let Some((root, dirs)) = &order.resources {
            let archived = archive(root, dirs, &place.resources, &place.space, monitor)?;
            warnings.extend(archived.warnings);
            archive_missing = archived.lacks;
            if let Some((digest, bytes)) = archived.file {
                sha256.insert(place.resources_file.clone(), digest);
                written_bytes += bytes;
            }
            took.end("resources");
        }
        if monitor.advance(0).is_break() {
            return Err(RunError::Stopped);
        }
        Ok(Record {
            version: record::VERSION,
            sequence: place.sequence,
            origin: order.origin.clone(),
            trigger: order.trigger.clone(),
            started_at: facts.started_at,
            finished_at: (self.now)(),
            node: order.node.clone(),
            platform: order.platform.clone(),
            member: member_record(&status, &peers),
            members: peers.iter().map(cluster_member).collect(),
            linearized: facts.linearized,
            snapshot: snapshot_record(&checked, received.data_bytes),
            sha256,
            written_bytes,
            source: "stream".into(),
            source_reason: order.source_reason.clone(),
            verified: facts.verified,
            read_back: Some(facts.how.name().into()),
            archive_missing,
            compared_at: facts.compared_at,
            took_ms: took.took_ms,
            warnings,
        })
    }

    /// Renames the run's directory to its final name, and then applies retention.
    fn publish(
        &self,
        run: Run,
        place: &Place,
        record: Record,
        lock: &Lock,
        policy: Policy,
        monitor: &SharedMonitor,
    ) -> Result<Finished, RunError> {
        let mut json = serde_json::to_vec_pretty(&record)
            .map_err(|error| write_error(&place.record)(io::Error::other(error)))?;
        json.push(b'\n');
        // Whoever reads it would refuse it.
        if json.len() as u64 > MAX_RECORD_BYTES {
            let problem = format!(
                "the record has {} bytes, expected at most {MAX_RECORD_BYTES}",
                json.len()
            );
            return Err(write_error(&place.record)(io::Error::other(problem)));
        }
        durable_file::write(&place.record, &json).map_err(write_error(&place.record))?;
        let path = run.publish()?;
        match prune(
            &self.repository,
            lock,
            policy,
            Some(&record.origin),
            &**monitor,
        ) {
            Ok(pruned) => {
                for removal in pruned.removed {
                    (self.tell)(RunEvent::Removed(removal));
                }
                if !pruned.failed.is_empty() {
                    (self.tell)(RunEvent::PruneFailed(pruned.failed.join("; ")));
                }
            }
            Err(error) => (self.tell)(RunEvent::PruneFailed(error.to_string())),
        }
        Ok(Finished { path, record })
    }
}

/// The answers of the member.
struct Asked {
    member: Member,
    status: Status,
    peers: Vec<Peer>,
    agreed: Option<i64>,
}

/// The result of applying retention.
#[derive(Debug, Default)]
pub struct Pruned {
    /// The removed backups.
    pub removed: Vec<Removal>,
    /// The backups that could not be removed, and why.
    pub failed: Vec<String>,
}

/// Removes backups according to the policy, oldest first. If one cannot be removed, the others still are.
///
/// # Errors
/// The repository cannot be listed.
pub fn prune(
    repository: &Repository,
    lock: &Lock,
    policy: Policy,
    origin: Option<&str>,
    monitor: &dyn Monitor,
) -> Result<Pruned, RepositoryError> {
    let mut pruned = Pruned::default();
    for removal in planned_removals(repository, policy, origin)? {
        // Retention is finished also when the process is to end: it is short.
        let _ = monitor.advance(0);
        match repository.remove(lock, &removal.name) {
            Ok(true) => pruned.removed.push(removal),
            // Somebody holds it since a moment.
            Ok(false) => {}
            Err(error) => pruned.failed.push(error.to_string()),
        }
    }
    Ok(pruned)
}

/// The backups that [`prune`] would remove.
///
/// # Errors
/// The repository cannot be listed.
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

/// Checks every page and every record of a snapshot.
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
                "the database has {} bytes according to its meta page",
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

/// Creates temporary files in the run's own directory, which is writable.
fn scratch_beside(path: &Path) -> impl Fn() -> io::Result<Box<dyn Scratch>> {
    let dir = path.parent().unwrap_or(path);
    move || scratch_file::create_beside(dir)
}

/// Removes a file from the page cache. etcd needs that memory for its own files.
fn forget(file: &File) {
    // A filesystem that can't do it keeps the pages: no harm.
    let _ = rustix::fs::fadvise(file, 0, None, Advice::DontNeed);
}

fn member_key(status: &Status) -> String {
    format!("{:x}/{:x}", status.cluster_id, status.member_id)
}

/// When this member was last asked for its HashKV.
fn last_compared(
    repository: &Repository,
    status: &Status,
    now: Timestamp,
) -> Result<Option<Timestamp>, RunError> {
    let cluster_id = format!("{:x}", status.cluster_id);
    let noted = Notes::of(repository)
        .compared
        .get(&member_key(status))
        .copied();
    let recorded = repository
        .entries()?
        .iter()
        .filter_map(|entry| entry.record())
        .find(|record| record.member.cluster_id == cluster_id)
        .and_then(|record| record.compared_at);
    // A time that has not come is of a clock that was wrong.
    let known = [noted, recorded].into_iter().flatten();
    Ok(known.filter(|at| *at <= now).max())
}

/// Whether to compare: once a day, never on a leader with followers, and only if the scan is short.
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

/// Compares HashKV with the member's. Returns the reason if this is not possible.
async fn compare(
    disk: &Disk,
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
            return Ok(Some("it has compacted its history in the meantime".into()));
        }
        Ok(HashKvAnswer::Future) => {
            return Ok(Some(
                "it has not reached the revision of the snapshot".into(),
            ));
        }
        // A backup that is whole is not thrown away because its member can't hash.
        Err(error) => return Ok(Some(error.to_string())),
    };
    monitor.step("member", data_bytes.saturating_mul(2));
    let path = snapshot.to_path_buf();
    let computing = move |monitor: &SharedMonitor| -> Result<Result<u32, String>, RunError> {
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
    };
    let computed = disk
        .run_watched("hashing the snapshot", monitor, computing)
        .await??;
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
