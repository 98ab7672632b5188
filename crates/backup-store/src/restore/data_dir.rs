//! The data directory: built beside its place, and published by one rename.

use super::database::{changed, write};
use super::error::RestoreError;
use super::order::Order;
use super::place::{Placing, place};
use super::plan::Plan;
use super::proof::{Proof, prove};
use super::unfinished::{self, Done, MEMBER, MEMBER_NEW, RECORD, RestoreRecord, new_segment};
use crate::durable_file;
use crate::progress::Monitor;
use etcd_file::new_cluster::Changes;
use etcd_file::raft::{WalWriter, snapshot_file};
use jiff::Timestamp;
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use serde::Serialize;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

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

/// Makes the data directory.
///
/// # Errors
/// Why nothing was restored.
pub fn restore(
    plan: &Plan,
    now: Timestamp,
    monitor: &dyn Monitor,
) -> Result<Restored, RestoreError> {
    let order = &plan.order;
    let place = Place::prepare(order)?;
    let built = place.build(plan, order, now, monitor);
    match built.and_then(|restored| place.publish().map(|()| restored)) {
        Ok(restored) => Ok(restored),
        Err(error) => {
            place.discard(order);
            Err(error)
        }
    }
}

/// Where things are while they are built.
struct Place {
    data_dir: PathBuf,
    member_new: PathBuf,
    wal: Wal,
    /// Names this restore, so that what it leaves after a crash is recognised.
    id: String,
    /// Whether the data directory was created by this restore.
    is_created: bool,
    /// The lock of the data directory. Two restores at once would build one directory together.
    _lock: File,
}

/// Where the log is.
enum Wal {
    InMember,
    /// In a directory of its own, which can't be published by the same rename. Until the last step its segment is empty, and etcd
    /// does not start with an empty segment.
    Apart(PathBuf),
}

impl Place {
    /// Checks that nothing is there, locks the directory, and removes what a restore that was killed has left.
    fn prepare(order: &Order) -> Result<Self, RestoreError> {
        unfinished::check(&order.data_dir, order.wal_dir.as_deref())?;
        let data_dir = order.data_dir.clone();
        let is_created = data_dir.symlink_metadata().is_err();
        durable_file::create_dir_all(&data_dir).map_err(RestoreError::io("create", &data_dir))?;
        let lock = File::open(&data_dir).map_err(RestoreError::io("open", &data_dir))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                return Err(RestoreError::Busy { path: data_dir });
            }
            Err(error) => return Err(RestoreError::io("lock", &data_dir)(error.into())),
        }
        // Another restore may have ended before the lock was taken.
        if let Some(left) = unfinished::check(&data_dir, order.wal_dir.as_deref())? {
            left.remove()?;
        }
        Ok(Place {
            member_new: data_dir.join(MEMBER_NEW),
            data_dir,
            wal: match &order.wal_dir {
                Some(dir) => Wal::Apart(dir.clone()),
                None => Wal::InMember,
            },
            id: order.id.clone(),
            is_created,
            _lock: lock,
        })
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
        create_dir(&self.member_new)?;
        self.write_mark(order)?;
        let snap = self.member_new.join("snap");
        create_dir(&snap)?;
        let db = snap.join("db");
        let placed = place(&plan.source, &db, monitor)?;
        let copied = placed.read(&plan.source, &db)?;
        let proof = prove(
            &plan.source,
            &copied,
            order.skip_hash_check,
            &self.member_new,
            monitor,
        )?;
        let changes = Changes {
            members: Some(plan.members.clone()),
            revision: plan.target.as_ref().map(|target| target.revision),
        };
        let rewritten = changed(&plan.source, &copied.file, &plan.facts, &changes)?;
        let rewritten_bytes = (rewritten.pages.len() + rewritten.metas.len()) as u64;
        write(&placed.file, &db, &rewritten)?;
        let placing = placed.placing;
        drop((copied, placed));

        self.write_record(plan, order, now, placing)?;
        self.write_wal(plan)?;
        if plan.etcd_version.has_snapshot_file() {
            let (name, bytes) = snapshot_file(&plan.members);
            let path = snap.join(name);
            durable_file::write(&path, &bytes).map_err(RestoreError::io("write", &path))?;
        }
        durable_file::sync_dir(&snap).map_err(RestoreError::io("sync", &snap))?;
        self.give_to_owner(order)?;
        Ok(Restored {
            proof,
            placed: placing,
            rewritten_bytes,
        })
    }

    /// Writes the record as far as it is known, before anything else: it shows that the directory is from a restore.
    fn write_mark(&self, order: &Order) -> Result<(), RestoreError> {
        let mark = RestoreRecord {
            version: 1,
            id: self.id.clone(),
            wal_dir: order.wal_dir.clone(),
            done: None,
        };
        let path = self.member_new.join(RECORD);
        let json = serde_json::to_vec_pretty(&mark).map_err(io::Error::from);
        json.and_then(|json| durable_file::write(&path, &json))
            .and_then(|()| durable_file::sync_dir(&self.member_new))
            .map_err(RestoreError::io("write", &path))
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
            id: self.id.clone(),
            wal_dir: order.wal_dir.clone(),
            done: Some(Done {
                restored_at: now,
                snapshot: plan.source.path.clone(),
                cluster_id: format!("{:x}", plan.cluster_id),
                member_id: format!("{:x}", plan.member_id),
                revision: plan
                    .target
                    .as_ref()
                    .map_or(plan.facts.current_revision, |target| target.revision),
                shares_blocks_with_snapshot: placed == Placing::Clone,
            }),
        };
        let path = self.member_new.join(RECORD);
        let json = serde_json::to_vec_pretty(&record).map_err(io::Error::from);
        json.and_then(|json| durable_file::replace(&path, &json))
            .map_err(RestoreError::io("write", &path))
    }

    fn write_wal(&self, plan: &Plan) -> Result<(), RestoreError> {
        let bytes = WalWriter::new_cluster(&plan.members, plan.member_id, plan.cluster_id);
        let (dir, file, is_apart) = match &self.wal {
            Wal::InMember => {
                let dir = self.member_new.join("wal");
                let file = dir.join(WalWriter::FILE);
                (dir, file, false)
            }
            Wal::Apart(dir) => (dir.clone(), new_segment(dir, &self.id), true),
        };
        durable_file::create_dir_all(&dir).map_err(RestoreError::io("create", &dir))?;
        durable_file::write(&file, &bytes).map_err(RestoreError::io("write", &file))?;
        if is_apart {
            let empty = dir.join(WalWriter::FILE);
            durable_file::write(&empty, b"").map_err(RestoreError::io("write", &empty))?;
        }
        durable_file::sync_dir(&dir).map_err(RestoreError::io("sync", &dir))
    }

    /// etcd often runs as another user. If the data directory was there, or an old one is named, its owner gets what was made.
    fn give_to_owner(&self, order: &Order) -> Result<(), RestoreError> {
        let existing = Some(&self.data_dir).filter(|_| !self.is_created);
        let Some(like) = existing.or(order.witnesses.data_dir.as_ref()) else {
            return Ok(());
        };
        let owner = std::fs::metadata(like).map_err(RestoreError::io("read", like))?;
        let own = std::fs::metadata(&self.member_new)
            .map_err(RestoreError::io("read", &self.member_new))?;
        if (owner.uid(), owner.gid()) == (own.uid(), own.gid()) {
            return Ok(());
        }
        let mut dirs = vec![self.member_new.as_path()];
        if let Wal::Apart(dir) = &self.wal {
            dirs.push(dir);
        }
        for dir in dirs {
            durable_file::give_to(dir, owner.uid(), owner.gid())
                .map_err(RestoreError::io("change the owner of", dir))?;
        }
        if self.is_created {
            durable_file::set_owner(&self.data_dir, owner.uid(), owner.gid())
                .map_err(RestoreError::io("change the owner of", &self.data_dir))?;
        }
        Ok(())
    }

    fn publish(&self) -> Result<(), RestoreError> {
        let member = self.data_dir.join(MEMBER);
        // After the rename only a sync can fail: then everything is there, but may not survive a power failure.
        let failed = |error| match self.member_new.symlink_metadata() {
            Ok(_) => RestoreError::io("publish", &member)(error),
            Err(_) => RestoreError::NotSynced {
                path: self.data_dir.clone(),
                source: error,
            },
        };
        durable_file::publish(&self.member_new, &member).map_err(failed)?;
        if let Wal::Apart(dir) = &self.wal {
            let segment = dir.join(WalWriter::FILE);
            let new = new_segment(dir, &self.id);
            durable_file::rename(&new, &segment).map_err(RestoreError::io("publish", &segment))?;
            durable_file::sync_dir(dir).map_err(failed)?;
        }
        Ok(())
    }

    /// Removes what was built, if that works. The next restore does it otherwise.
    fn discard(&self, order: &Order) {
        if let Ok(Some(left)) = unfinished::check(&self.data_dir, order.wal_dir.as_deref()) {
            let _ = left.remove();
        }
        if self.is_created {
            // Only if it is empty.
            let _ = std::fs::remove_dir(&self.data_dir);
        }
    }
}
