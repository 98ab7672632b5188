//! The data directory: built beside its place, and published by one rename.

use super::database::write;
use super::error::RestoreError;
use super::facts::read_facts;
use super::lock::is_locked;
use super::order::Order;
use super::place::{Placing, place};
use super::plan::Plan;
use super::proof::{Proof, prove};
use crate::durable_file;
use crate::local_file::{LocalFile, read_small};
use crate::progress::Monitor;
use etcd_file::bolt::{Bolt, Rewrite, Rewritten};
use etcd_file::new_cluster::{Changes, change};
use etcd_file::raft::{WalWriter, snapshot_file};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};

const MEMBER: &str = "member";
const MEMBER_NEW: &str = "member.new";
/// The record that a restore leaves in the directory `member`. etcd ignores it.
const RECORD: &str = "lifeboat-restore.json";
const MAX_RECORD_BYTES: u64 = 1 << 20;

/// What was restored.
#[derive(Debug, Clone, Serialize)]
pub struct Restored {
    /// How the data was proven.
    pub proof: Proof,
    /// How the database came to its place.
    pub placed: Placing,
    /// Bytes of pages that were written again.
    pub rewritten_bytes: u64,
}

/// What a restore leaves beside the database, for the next backup and for people.
#[derive(Debug, Serialize, Deserialize)]
struct RestoreRecord {
    version: u32,
    restored_at: Timestamp,
    snapshot: PathBuf,
    cluster_id: String,
    member_id: String,
    revision: i64,
    /// The database shares blocks with the snapshot: a clone of the database is no independent copy of it.
    shares_blocks_with_snapshot: bool,
    /// The directory of the log, if it is not in the data directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    wal_dir: Option<PathBuf>,
}

/// Makes the data directory.
///
/// # Errors
/// Why nothing was restored.
pub fn restore(
    plan: &Plan,
    order: &Order,
    now: Timestamp,
    monitor: &dyn Monitor,
) -> Result<Restored, RestoreError> {
    let place = Place::prepare(order)?;
    let built = place.build(plan, order, now, monitor);
    match built.and_then(|restored| place.publish().map(|()| restored)) {
        Ok(restored) => Ok(restored),
        Err(error) => {
            place.discard();
            Err(error)
        }
    }
}

/// Where things are while they are built.
struct Place {
    data_dir: PathBuf,
    member_new: PathBuf,
    wal: Wal,
    /// Whether the data directory was created by this restore.
    is_created: bool,
}

/// Where the log is.
enum Wal {
    InMember,
    /// In a directory of its own, which can't be published by the same rename. Until the last step its segment is empty, and etcd
    /// does not start with an empty segment.
    Apart(PathBuf),
}

impl Place {
    /// Checks that nothing is there, and removes what a restore that was killed has left.
    fn prepare(order: &Order) -> Result<Self, RestoreError> {
        let data_dir = order.data_dir.clone();
        let wal = match &order.wal_dir {
            Some(dir) => Wal::Apart(dir.clone()),
            None => Wal::InMember,
        };
        let place = Place {
            member_new: data_dir.join(MEMBER_NEW),
            is_created: data_dir.symlink_metadata().is_err(),
            data_dir,
            wal,
        };
        place.remove_unfinished()?;
        let not_empty = |path: &Path, what| RestoreError::NotEmpty {
            path: path.into(),
            what,
        };
        if !place.is_created {
            let mut entries = std::fs::read_dir(&place.data_dir)
                .map_err(RestoreError::io("list", &place.data_dir))?;
            if entries.next().is_some() {
                let what = match is_locked(&place.data_dir) {
                    true => "is the data directory of a running etcd",
                    false => "is not empty",
                };
                return Err(not_empty(&place.data_dir, what));
            }
        }
        if let Wal::Apart(dir) = &place.wal
            && dir.symlink_metadata().is_ok()
        {
            return Err(not_empty(dir, "exists"));
        }
        Ok(place)
    }

    /// Removes what a restore that was killed has left: a directory that is not published, or one whose log is not.
    fn remove_unfinished(&self) -> Result<(), RestoreError> {
        let remove = |path: &Path| match durable_file::remove_dir(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(RestoreError::io("remove", path)(error))
            }
            _ => Ok(()),
        };
        for dir in [self.member_new.clone(), self.data_dir.join(MEMBER)] {
            let record = read_small(&dir.join(RECORD), MAX_RECORD_BYTES).ok();
            let record =
                record.and_then(|json| serde_json::from_slice::<RestoreRecord>(&json).ok());
            let wal_dir = record.and_then(|record| record.wal_dir);
            let is_unpublished = dir == self.member_new;
            let unfinished_wal = wal_dir.filter(|wal| {
                new_segment(wal).exists() || is_unpublished && is_unfinished_log(wal)
            });
            let is_unfinished = is_unpublished || unfinished_wal.is_some();
            if let Some(wal) = unfinished_wal {
                remove(&wal)?;
            }
            if is_unfinished {
                remove(&dir)?;
            }
        }
        Ok(())
    }

    fn build(
        &self,
        plan: &Plan,
        order: &Order,
        now: Timestamp,
        monitor: &dyn Monitor,
    ) -> Result<Restored, RestoreError> {
        let create_dir = |path: &Path| {
            durable_file::create_dir_all(path).map_err(RestoreError::io("create", path))
        };
        create_dir(&self.data_dir)?;
        create_dir(&self.member_new)?;
        let snap = self.member_new.join("snap");
        create_dir(&snap)?;
        let db = snap.join("db");
        let (file, placed) = place(&plan.source, &db, monitor)?;
        let copied = LocalFile::open(&db)?;
        let proof = prove(
            &plan.source,
            &copied,
            order.skip_hash_check,
            &self.member_new,
            monitor,
        )?;
        let rewritten = rewrite(plan, &copied)?;
        let rewritten_bytes = (rewritten.pages.len() + rewritten.metas.len()) as u64;
        write(&file, &db, &rewritten)?;
        drop((file, copied));

        self.write_record(plan, order, now, placed)?;
        self.write_wal(plan, now)?;
        if plan.etcd_version.has_snapshot_file() {
            let (name, bytes) = snapshot_file(&plan.members);
            let path = snap.join(name);
            durable_file::write(&path, &bytes).map_err(RestoreError::io("write", &path))?;
        }
        durable_file::sync_dir(&snap).map_err(RestoreError::io("sync", &snap))?;
        Ok(Restored {
            proof,
            placed,
            rewritten_bytes,
        })
    }

    fn write_record(
        &self,
        plan: &Plan,
        order: &Order,
        now: Timestamp,
        placed: Placing,
    ) -> Result<(), RestoreError> {
        let record = RestoreRecord {
            version: 1,
            restored_at: now,
            snapshot: plan.source.path.clone(),
            cluster_id: format!("{:x}", plan.cluster_id),
            member_id: format!("{:x}", plan.member_id),
            revision: plan
                .target
                .as_ref()
                .map_or(plan.facts.current_revision, |target| target.revision),
            shares_blocks_with_snapshot: placed == Placing::Clone,
            wal_dir: order.wal_dir.clone(),
        };
        let path = self.member_new.join(RECORD);
        let json = serde_json::to_vec_pretty(&record).map_err(io::Error::from);
        json.and_then(|json| durable_file::write(&path, &json))
            .map_err(RestoreError::io("write", &path))
    }

    fn write_wal(&self, plan: &Plan, _: Timestamp) -> Result<(), RestoreError> {
        let bytes = WalWriter::new_cluster(&plan.members, plan.member_id, plan.cluster_id);
        let (dir, file, is_apart) = match &self.wal {
            Wal::InMember => {
                let dir = self.member_new.join("wal");
                let file = dir.join(WalWriter::FILE);
                (dir, file, false)
            }
            Wal::Apart(dir) => (dir.clone(), new_segment(dir), true),
        };
        durable_file::create_dir_all(&dir).map_err(RestoreError::io("create", &dir))?;
        durable_file::write(&file, &bytes).map_err(RestoreError::io("write", &file))?;
        if is_apart {
            let empty = dir.join(WalWriter::FILE);
            durable_file::write(&empty, b"").map_err(RestoreError::io("write", &empty))?;
        }
        durable_file::sync_dir(&dir).map_err(RestoreError::io("sync", &dir))
    }

    fn publish(&self) -> Result<(), RestoreError> {
        let member = self.data_dir.join(MEMBER);
        durable_file::publish(&self.member_new, &member)
            .map_err(RestoreError::io("publish", &member))?;
        if let Wal::Apart(dir) = &self.wal {
            let segment = dir.join(WalWriter::FILE);
            durable_file::rename(&new_segment(dir), &segment)
                .and_then(|()| durable_file::sync_dir(dir))
                .map_err(RestoreError::io("publish", &segment))?;
        }
        Ok(())
    }

    /// Removes what was built, if that works. The next restore does it otherwise.
    fn discard(&self) {
        let _ = self.remove_unfinished();
        if let Wal::Apart(dir) = &self.wal
            && new_segment(dir).exists()
        {
            let _ = durable_file::remove_dir(dir);
        }
        if self.is_created {
            // Only if it is empty.
            let _ = std::fs::remove_dir(&self.data_dir);
        }
    }
}

/// Whether a directory has nothing but what a restore puts there first.
fn is_unfinished_log(wal_dir: &Path) -> bool {
    let Ok(mut entries) = std::fs::read_dir(wal_dir) else {
        return false;
    };
    entries.all(|entry| entry.is_ok_and(|entry| new_segment(wal_dir) == entry.path()))
}

/// The segment of a log, before the rename that publishes it.
fn new_segment(wal_dir: &Path) -> PathBuf {
    wal_dir.join(format!("{}.new", WalWriter::FILE))
}

/// The pages that must differ.
fn rewrite(plan: &Plan, copied: &LocalFile) -> Result<Rewritten, RestoreError> {
    let path = &plan.source.path;
    let data = etcd_file::Part::first(copied, plan.source.data_bytes);
    // What was decided must be about the data that is here.
    if read_facts(&data, path)? != plan.facts {
        return Err(RestoreError::Changed { path: path.clone() });
    }
    let damaged = |error: &dyn ToString| RestoreError::damaged(path, error.to_string());
    let bolt = Bolt::open(&data).map_err(|error| damaged(&error))?;
    let mut rewrite = Rewrite::of(&bolt).map_err(|error| damaged(&error))?;
    let changes = Changes {
        members: Some(plan.members.clone()),
        revision: plan.target.as_ref().map(|target| target.revision),
    };
    change(&mut rewrite, &changes).map_err(|error| damaged(&error))?;
    rewrite.finish().map_err(|error| damaged(&error))
}
