//! One run: source → proof → seal → publish.

use super::error::RunError;
use super::events::RunEvent;
use super::order::Order;
use super::proof::{DailyComparison, read_back_and_check};
use super::prune::prune;
use super::room::{Room, needed_bytes};
use super::seal::{Files, Proven, write_other_files, write_record};
use super::source::stream::StreamSource;
use super::source::{Source, SpaceGuard};
use super::steps::Steps;
use crate::disk::Disk;
use crate::member::{Member, Peer, Status};
use crate::progress::{Limited, SharedMonitor};
use crate::repository::{Locked, Repository, Staging};
use backup_plan::record::{Level, MemberRecord, Record};
use backup_plan::retention::Policy;
use jiff::Timestamp;
use std::path::PathBuf;
use std::sync::Arc;

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
    pub on_event: Arc<dyn Fn(RunEvent) + Send + Sync>,
}

/// The state of the repository before the member is asked.
struct Prepared {
    lock: Arc<Locked>,
    warnings: Vec<String>,
    /// The member of the newest backup, and its revision.
    newest: Option<(MemberRecord, i64)>,
}

/// What a run knows before it takes the snapshot.
struct Begun {
    lock: Arc<Locked>,
    member: Member,
    status: Status,
    peers: Vec<Peer>,
    /// The revision that the cluster had agreed on. `None` without a quorum.
    agreed: Option<i64>,
    started_at: Timestamp,
    warnings: Vec<String>,
    took: Steps,
}

/// The directory of a run.
struct Place {
    staging: Staging,
    sequence: u64,
    space: SpaceGuard,
}

impl Runner {
    /// Makes a backup, and then removes older backups of its origin that the policy does not keep.
    ///
    /// # Errors
    /// Why there is no backup. What the run wrote is removed, at the latest by the next run.
    pub async fn run(&self, order: &Order, policy: Policy) -> Result<Finished, RunError> {
        let mut took = Steps::default();
        let started_at = (self.now)();
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

        let place = self.begin(order, &prepared.lock, status.db_bytes).await?;
        let files = Files::of(&place.staging);
        let begun = Begun {
            lock: prepared.lock.clone(),
            member,
            status,
            peers,
            agreed,
            started_at,
            warnings,
            took,
        };
        let made = self
            .make(order, begun, &files, place.sequence, &place.space)
            .await;
        let record = match made {
            Ok(record) => record,
            Err(error) => {
                // If the disk hangs, the next run removes it.
                let discard = move || place.staging.discard();
                let _ = self
                    .disk
                    .run("removing an unfinished backup", discard)
                    .await;
                return Err(error);
            }
        };
        let (this, lock) = (self.clone(), prepared.lock);
        let finishing =
            self.disk
                .run_watched("publishing the backup", &self.monitor, move |monitor| {
                    this.publish(place.staging, &files, record, &lock, policy, monitor)
                });
        let finished = finishing.await??;
        if let Some((before, revision)) = prepared.newest {
            self.compare_with(&before, revision, &finished.record);
        }
        Ok(finished)
    }

    /// Whether this is still the life of the cluster that the previous backup was of.
    fn compare_with(&self, before: &MemberRecord, revision: i64, record: &Record) {
        let (old_id, new_id) = (&before.cluster_id, &record.member.cluster_id);
        if old_id != new_id {
            let (old_id, new_id) = (old_id.clone(), new_id.clone());
            (self.on_event)(RunEvent::ClusterChanged { old_id, new_id });
        } else if before.id == record.member.id && record.snapshot.revision < revision {
            (self.on_event)(RunEvent::RevisionFell {
                before: revision,
                now: record.snapshot.revision,
            });
        }
    }

    fn prepare(&self) -> Result<Prepared, RunError> {
        let repository = &self.repository;
        let lock = Arc::new(repository.lock()?);
        let swept = lock.sweep()?;
        for name in swept.removed {
            (self.on_event)(RunEvent::Swept(name));
        }
        for (name, error) in swept.stuck {
            let problem = error.to_string();
            (self.on_event)(RunEvent::SweepFailed { name, problem });
        }
        let entries = repository.entries()?;
        let newest = entries.iter().find_map(|entry| entry.record());
        let newest = newest.map(|record| (record.member.clone(), record.snapshot.revision));
        Ok(Prepared {
            lock,
            warnings: repository.mode_warning().into_iter().collect(),
            newest,
        })
    }

    /// Frees space, and creates the directory of the run.
    async fn begin(
        &self,
        order: &Order,
        lock: &Arc<Locked>,
        db_bytes: u64,
    ) -> Result<Place, RunError> {
        let (this, lock, reserve_bytes) = (self.clone(), lock.clone(), order.reserve_bytes);
        let making_room = move |monitor: &SharedMonitor| {
            let reserve_bytes = match reserve_bytes {
                Some(bytes) => bytes,
                None => lock.space()?.default_reserve_bytes(),
            };
            let now = (this.now)();
            let room = Room {
                repository: &lock,
                monitor,
                given_up: &|removal| (this.on_event)(RunEvent::GivenUp(removal.clone())),
                now,
            };
            room.make(needed_bytes(db_bytes), reserve_bytes)?;
            let (staging, sequence) = lock.begin(now)?;
            let space = SpaceGuard {
                repository: this.repository.clone(),
                reserve_bytes,
            };
            Ok(Place {
                staging,
                sequence,
                space,
            })
        };
        self.disk
            .run_watched("freeing space", &self.monitor, making_room)
            .await?
    }

    /// Takes a snapshot, proves it, and writes everything but the record.
    async fn make(
        &self,
        order: &Order,
        begun: Begun,
        files: &Files,
        sequence: u64,
        space: &SpaceGuard,
    ) -> Result<Record, RunError> {
        let source = StreamSource {
            member: &begun.member,
            expected_bytes: begun.status.db_bytes,
        };
        let proven = self
            .prove(order, &source, &begun, files, sequence, space)
            .await?;
        let (order, files, space, now) = (order.clone(), files.clone(), space.clone(), self.now);
        drop(begun);
        self.disk
            .run_watched(
                "writing the other files of the backup",
                &self.monitor,
                move |monitor| write_other_files(&order, &files, &space, proven, now, monitor),
            )
            .await?
    }

    async fn prove<S: Source>(
        &self,
        order: &Order,
        source: &S,
        begun: &Begun,
        files: &Files,
        sequence: u64,
        space: &SpaceGuard,
    ) -> Result<Proven, RunError> {
        let disk = &self.disk;
        let mut took = begun.took.clone();
        let mut warnings = begun.warnings.clone();
        let taken = source
            .take(disk, &files.snapshot, space, &self.monitor)
            .await?;
        took.end(S::KIND.name());

        let limited: SharedMonitor =
            Arc::new(Limited::new(self.monitor.clone(), order.max_bytes_per_s));
        let (path, blocks, data_bytes) = (
            files.snapshot.clone(),
            taken.blocks.clone(),
            taken.data_bytes,
        );
        let reading =
            move |monitor: &SharedMonitor| read_back_and_check(&path, data_bytes, &blocks, monitor);
        let (read_back, summary) = disk
            .run_watched("reading the snapshot back", &limited, reading)
            .await??;
        if let Some(agreed) = begun.agreed
            && summary.current_revision < agreed
        {
            return Err(RunError::Behind {
                found: summary.current_revision,
                agreed,
            });
        }
        took.end("verify");

        let comparison = DailyComparison {
            disk,
            repository: &begun.lock,
            member: &begun.member,
            status: &begun.status,
            peers: &begun.peers,
            snapshot: &files.snapshot,
            data_bytes,
            summary: &summary,
            now: begun.started_at,
            monitor: &limited,
        };
        let compared = comparison.run().await?;
        warnings.extend(compared.warning);
        let mut verified = taken.verified.clone();
        verified.extend([Level::Structure, Level::Content]);
        if compared.is_equal {
            verified.push(Level::Member);
            took.end("member");
        }
        Ok(Proven {
            sequence,
            source: S::KIND,
            status: begun.status.clone(),
            peers: begun.peers.clone(),
            linearized: begun.agreed.is_some(),
            started_at: begun.started_at,
            taken,
            summary,
            read_back,
            verified,
            compared_at: compared.at,
            warnings,
            took,
        })
    }

    /// Gives the backup its name, and then removes what retention does not keep.
    fn publish(
        &self,
        staging: Staging,
        files: &Files,
        record: Record,
        lock: &Locked,
        policy: Policy,
        monitor: &SharedMonitor,
    ) -> Result<Finished, RunError> {
        write_record(files, &record)?;
        let path = staging.publish()?;
        match prune(lock, policy, Some(&record.origin), &**monitor) {
            Ok(pruned) => {
                for removal in pruned.removed {
                    (self.on_event)(RunEvent::Removed(removal));
                }
                if !pruned.failed.is_empty() {
                    (self.on_event)(RunEvent::PruneFailed(pruned.failed.join("; ")));
                }
            }
            Err(error) => (self.on_event)(RunEvent::PruneFailed(error.to_string())),
        }
        Ok(Finished { path, record })
    }
}
