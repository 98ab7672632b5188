//! Writes what belongs to a proven snapshot: the block hashes, the archive, and last the record.

use super::archive::archive;
use super::error::{RunError, write_error};
use super::order::Order;
use super::source::{SpaceGuard, Taken};
use super::steps::Steps;
use crate::member::{Peer, Status};
use crate::progress::SharedMonitor;
use crate::repository::Staging;
use crate::repository::names::{RECORD_FILE, archive_file, snapshot_file};
use crate::snapshot_facts::snapshot_record;
use crate::{blocks, durable_file};
use backup_plan::hex::hex;
use backup_plan::record::{
    self, ClusterMember, Level, MemberRecord, ReadBack, Record, SnapshotSource,
};
use etcd_file::mvcc::Summary;
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// The largest record that can be read.
const MAX_RECORD_BYTES: u64 = crate::repository::MAX_RECORD_BYTES;

/// The paths of the files of a backup that is being made. They are owned, so that other threads can use them.
#[derive(Clone)]
pub(crate) struct Files {
    pub(crate) snapshot: PathBuf,
    snapshot_name: String,
    archive: PathBuf,
    archive_name: String,
    blocks: PathBuf,
    record: PathBuf,
}

impl Files {
    pub(crate) fn of(staging: &Staging) -> Files {
        let snapshot_name = snapshot_file(staging.name());
        let archive_name = archive_file(staging.name());
        Files {
            snapshot: staging.path(&snapshot_name),
            archive: staging.path(&archive_name),
            snapshot_name,
            archive_name,
            blocks: staging.path(blocks::FILE),
            record: staging.path(RECORD_FILE),
        }
    }
}

/// Everything that is known of a proven snapshot.
pub(crate) struct Proven {
    pub(crate) sequence: u64,
    pub(crate) source: SnapshotSource,
    pub(crate) status: Status,
    pub(crate) peers: Vec<Peer>,
    pub(crate) linearized: bool,
    pub(crate) started_at: Timestamp,
    pub(crate) taken: Taken,
    pub(crate) summary: Summary,
    pub(crate) read_back: ReadBack,
    pub(crate) verified: Vec<Level>,
    pub(crate) compared_at: Option<Timestamp>,
    pub(crate) warnings: Vec<String>,
    pub(crate) took: Steps,
}

/// Writes the block hashes and the archive, and returns the record.
pub(crate) fn write_other_files(
    order: &Order,
    files: &Files,
    space: &SpaceGuard,
    proven: Proven,
    now: fn() -> Timestamp,
    monitor: &SharedMonitor,
) -> Result<Record, RunError> {
    let Proven {
        status,
        peers,
        taken,
        summary,
        mut warnings,
        mut took,
        ..
    } = proven;
    let mut sha256 = BTreeMap::from([(files.snapshot_name.clone(), taken.file_sha256)]);
    let mut written_bytes = taken.file_bytes;
    durable_file::write(&files.blocks, &taken.blocks).map_err(write_error(&files.blocks))?;
    sha256.insert(blocks::FILE.into(), hex(&Sha256::digest(&taken.blocks)));
    written_bytes += taken.blocks.len() as u64;
    let mut archive_missing = order.archive_missing.clone();
    if let Some((root, dirs)) = &order.resources {
        let archived = archive(root, dirs, &files.archive, space, monitor)?;
        warnings.extend(archived.warnings);
        archive_missing.extend(archived.lacks);
        if let Some((digest, bytes)) = archived.file {
            sha256.insert(files.archive_name.clone(), digest);
            written_bytes += bytes;
        }
        took.end("resources");
    }
    if monitor.advance(0).is_break() {
        return Err(RunError::Stopped);
    }
    Ok(Record {
        version: record::VERSION,
        sequence: proven.sequence,
        origin: order.origin.clone(),
        trigger: order.trigger.clone(),
        started_at: proven.started_at,
        finished_at: now(),
        node: order.node.clone(),
        platform: order.platform.clone(),
        etcd: order.etcd.clone(),
        not_backed_up: order.not_backed_up.clone(),
        member: member_record(&status, &peers),
        members: peers.iter().map(cluster_member).collect(),
        linearized: proven.linearized,
        snapshot: snapshot_record(&summary, taken.data_bytes, taken.file_bytes),
        sha256,
        written_bytes,
        source: proven.source,
        source_reason: order.source_reason.clone(),
        verified: proven.verified,
        read_back: Some(proven.read_back),
        archive_missing,
        encryption: order.encryption.clone(),
        compared_at: proven.compared_at,
        took_ms: took.took_ms,
        warnings,
        record_sha256: None,
    })
}

/// Writes the record, which completes the backup.
pub(crate) fn write_record(files: &Files, record: &Record) -> Result<(), RunError> {
    let path: &Path = &files.record;
    let json = record
        .to_json()
        .map_err(|error| write_error(path)(io::Error::other(error)))?;
    // A larger record could not be read.
    if json.len() as u64 > MAX_RECORD_BYTES {
        let problem = format!(
            "the record has {} bytes, expected at most {MAX_RECORD_BYTES}",
            json.len()
        );
        return Err(write_error(path)(io::Error::other(problem)));
    }
    durable_file::write(path, &json).map_err(write_error(path))
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
