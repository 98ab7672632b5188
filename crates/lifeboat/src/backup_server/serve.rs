//! The loop: waits until a run is due, takes its turn, runs, tries again.

use super::observed::Observed;
use super::{Args, ORIGIN};
use crate::stop::{Stop, UntilStopped};
use backup_plan::agenda::{Agenda, Next, retry_delay};
use backup_plan::retention::Policy;
use backup_plan::turns;
use backup_store::backup::{self, RunError, SharedMonitor};
use backup_store::member::Member;
use backup_store::progress::Silent;
use backup_store::repository::Repository;
use jiff::Timestamp;
use std::sync::Arc;
use std::time::Duration;

/// After a signal a run has so long to clean up; what it leaves is swept by the next one.
const STOP_WITHIN: Duration = Duration::from_secs(4);

/// The reason of a run that failed because the node's files do not say where etcd is.
pub(super) const NODE_UNKNOWN: &str = "node";

pub(super) struct Server<'a> {
    pub(super) args: &'a Args,
    pub(super) policy: Policy,
    pub(super) stop: Stop,
    pub(super) observed: Arc<Observed>,
}

/// Why a run made no backup.
struct Failed {
    /// In a word, for the metrics.
    reason: &'static str,
    /// For people.
    problem: String,
}

impl From<RunError> for Failed {
    fn from(error: RunError) -> Self {
        Failed {
            reason: error.reason(),
            problem: error.to_string(),
        }
    }
}

impl Server<'_> {
    pub(super) async fn serve(&self, mut agenda: Agenda) {
        tracing::info!(
            schedule = self.args.schedule,
            timezone = self.args.timezone,
            repository = %self.args.backup_path.display(),
            next_due = agenda.next_due().map(tracing::field::display),
            "started"
        );
        if self.missed(&agenda) {
            tracing::info!("no backup since the last one was due: catching up");
            self.take_turn_and_run(&mut agenda, "catch-up").await;
        }
        while !self.stop.wanted() {
            match agenda.ask(Timestamp::now()) {
                Next::Run(_) => self.take_turn_and_run(&mut agenda, "schedule").await,
                Next::Wait(duration) => self.stop.sleep(duration).await,
                Next::Never => {
                    tracing::error!("the schedule is never due again: idle until stopped");
                    self.stop.wait().await;
                }
            }
        }
        tracing::info!("stopped");
    }

    fn missed(&self, agenda: &Agenda) -> bool {
        let entries = Repository::open(&self.args.backup_path).and_then(|all| all.entries());
        let newest = entries.ok().and_then(|entries| {
            entries
                .iter()
                .filter_map(|entry| entry.record())
                .filter(|record| record.origin == ORIGIN)
                .map(|record| record.started_at)
                .max()
        });
        agenda.missed(newest, Timestamp::now())
    }

    /// Runs, and tries again until it works or the next run is due.
    async fn take_turn_and_run(&self, agenda: &mut Agenda, trigger: &str) {
        let period = agenda.period(Timestamp::now());
        let delay = self.turn(period).await;
        if !delay.is_zero() {
            tracing::info!(delay_s = delay.as_secs(), "other members first");
            self.stop.sleep(delay).await;
        }
        let mut failures = 0;
        while !self.stop.wanted() {
            self.observed.attempt(Timestamp::now());
            match self.run_once(trigger).await {
                Ok(()) => {
                    self.observed.success();
                    return;
                }
                Err(_) if self.stop.wanted() => return,
                Err(Failed { reason, problem }) => {
                    failures += 1;
                    let retry = retry_delay(failures, period);
                    tracing::error!(
                        failures,
                        reason,
                        retry_s = retry.as_secs(),
                        "backup failed: {problem}"
                    );
                    self.observed.failure(reason, problem);
                    self.stop.sleep(retry).await;
                    // The next run takes over, and begins with its own count.
                    if agenda.next_due().is_some_and(|due| due <= Timestamp::now()) {
                        return;
                    }
                }
            }
        }
    }

    /// How long this member lets others go first.
    async fn turn(&self, period: Duration) -> Duration {
        let known = async {
            let order = self.args.node.order(ORIGIN, "").ok()?;
            let member = Member::connect(&order.connection).await.ok()?;
            let status = member.status().await.ok()?;
            let voters: Vec<_> = member
                .members()
                .await
                .ok()?
                .iter()
                .filter(|peer| !peer.learner)
                .map(|peer| peer.id)
                .collect();
            Some(turns::delay(
                &voters,
                status.member_id,
                status.leader,
                period,
            ))
        };
        // Who can't be asked is told by the run itself.
        tokio::select! {
            delay = known => delay.unwrap_or_default(),
            () = self.stop.wait() => Duration::ZERO,
        }
    }

    async fn run_once(&self, trigger: &str) -> Result<(), Failed> {
        let order = self
            .args
            .node
            .order(ORIGIN, trigger)
            .map_err(|problem| Failed {
                reason: NODE_UNKNOWN,
                problem,
            })?;
        let repository = Repository::open(&self.args.backup_path).map_err(RunError::Repository)?;
        let monitor: SharedMonitor = Arc::new(UntilStopped(self.stop.clone(), Silent));
        let tell = |what: &str| tracing::info!("{what}");
        let running = backup::run(&repository, &order, &Timestamp::now, &monitor, &tell);
        let stopped = async {
            self.stop.wait().await;
            tokio::time::sleep(STOP_WITHIN).await;
        };
        let made = tokio::select! {
            made = running => made,
            () = stopped => Err(RunError::Stopped),
        };
        let made = made.map_err(|error| self.explained(error))?;
        let record = &made.record;
        tracing::info!(
            backup = %made.path.display(),
            revision = record.snapshot.revision,
            keys = record.snapshot.total_keys,
            size_bytes = record.snapshot.size_bytes,
            written_bytes = record.written_bytes,
            verified = record.verified.join(","),
            took_ms = record.took_ms.values().sum::<u64>(),
            "backup made"
        );
        for warning in &record.warnings {
            tracing::warn!("{warning}");
        }
        self.tell_of_a_new_cluster(&repository, &record.member.cluster_id);
        let pruned = repository
            .lock()
            .and_then(|lock| backup::prune(&repository, &lock, self.policy, Some(ORIGIN)));
        match pruned {
            Ok(removals) => {
                for removal in removals {
                    tracing::info!("removed {}: {}", removal.name, removal.reason);
                }
            }
            // The backup is there all the same.
            Err(error) => tracing::error!("pruning failed: {error}"),
        }
        Ok(())
    }

    /// Where nothing on the node speaks of etcd and nobody answers at the usual place, there is no member here.
    fn explained(&self, error: RunError) -> Failed {
        match error {
            RunError::Member(problem) if self.args.node.guesses() => Failed {
                reason: NODE_UNKNOWN,
                problem: format!(
                    "no file of this node says where etcd is, and at the usual place: {problem}"
                ),
            },
            other => other.into(),
        }
    }

    /// A cluster id that was not there before means a restore, or a wiped cluster.
    fn tell_of_a_new_cluster(&self, repository: &Repository, cluster_id: &str) {
        let Ok(entries) = repository.entries() else {
            return;
        };
        let before = entries.iter().filter_map(|entry| entry.record()).nth(1);
        if let Some(before) = before
            && before.member.cluster_id != cluster_id
        {
            tracing::error!(
                old_cluster_id = before.member.cluster_id,
                cluster_id,
                "the cluster id has changed: this is another cluster than before; backups of the old one stay until you remove them"
            );
        }
    }
}
