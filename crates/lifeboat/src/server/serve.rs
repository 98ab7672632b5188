//! The main loop: waits until a run is due, lets other members go first, makes the backup, tries again after a failure.

use super::observed::{Observed, has_come};
use super::origin::ORIGIN;
use crate::cli::flags::node::NodeArgs;
use crate::cli::stop::{Stop, UntilStopped};
use backup_plan::agenda::{Agenda, Next, retry_delay};
use backup_plan::reason::Reason;
use backup_plan::record::{Trigger, names_of};
use backup_plan::retention::Policy;
use backup_plan::turns;
use backup_store::disk::Disk;
use backup_store::member::{Member, MemberError};
use backup_store::progress::Silent;
use backup_store::repository::Repository;
use backup_store::run::{Order, RunError, RunEvent, Runner};
use jiff::Timestamp;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub(crate) struct Server {
    pub(crate) node: NodeArgs,
    pub(crate) backup_path: PathBuf,
    pub(crate) policy: Policy,
    pub(crate) stop: Stop,
    pub(crate) disk: Disk,
    pub(crate) observed: Arc<Observed>,
}

/// Why a run made no backup.
struct Failed {
    /// The label value in the metrics.
    reason: Reason,
    /// The message for people.
    problem: String,
    /// Whether to wait for the next due time, because another try would only put load on the member.
    waits_for_the_next_run: bool,
}

impl From<RunError> for Failed {
    fn from(error: RunError) -> Self {
        Failed {
            reason: error.reason(),
            problem: error.to_string(),
            waits_for_the_next_run: error.waits_for_the_next_run(),
        }
    }
}

/// This node's etcd, as found from flags or files.
struct Node {
    order: Order,
    /// Whether the endpoint is only the default, because no flag and no file names one.
    guessed: bool,
}

impl Server {
    pub(crate) async fn serve(&self, mut agenda: Agenda) {
        tracing::info!(
            schedule = self.observed.fixed().schedule_text,
            timezone = self.observed.fixed().zone.iana_name(),
            repository = %self.backup_path.display(),
            next_due = agenda.next_due().map(tracing::field::display),
            "started"
        );
        if self.missed(&agenda).await {
            tracing::info!("the last due backup was not made: making it now");
            self.take_turn_and_run(&mut agenda, Trigger::CatchUp).await;
        }
        while !self.stop.wanted() {
            match agenda.ask(Timestamp::now()) {
                Next::Run(_) => self.take_turn_and_run(&mut agenda, Trigger::Schedule).await,
                Next::Wait(duration) => self.stop.sleep(duration).await,
                Next::Never => {
                    tracing::error!(
                        "the schedule has no more due times: waiting for a signal to stop"
                    );
                    self.stop.wait().await;
                }
            }
        }
        tracing::info!("stopped");
    }

    /// Whether a run was due while the server was stopped. If the disk does not answer, the run itself reports that.
    async fn missed(&self, agenda: &Agenda) -> bool {
        let path = self.backup_path.clone();
        let looking = move || {
            let entries = Repository::open(&path).and_then(|all| all.entries());
            let own = entries.ok()?.into_iter().filter_map(|entry| {
                let record = entry.record().filter(|record| record.origin == ORIGIN);
                let started_at = record.map(|record| record.started_at);
                started_at.filter(|at| has_come(*at, Timestamp::now()))
            });
            own.max()
        };
        let newest = self.disk.run("reading the repository", looking).await;
        agenda.missed(newest.ok().flatten(), Timestamp::now())
    }

    /// Makes a backup. After a failure, tries again until it succeeds or the next run is due.
    async fn take_turn_and_run(&self, agenda: &mut Agenda, trigger: Trigger) {
        let period = agenda.period(Timestamp::now());
        // The first run uses what is found here. A retry reads the node's files again, because they may be the cause of the failure.
        let node = self.look_at_node(trigger.clone()).await;
        let delay = match &node {
            Ok(node) => self.turn(node, period).await,
            Err(_) => Duration::ZERO,
        };
        let mut found = Some(node);
        if !delay.is_zero() {
            tracing::info!(
                delay_s = delay.as_secs(),
                "waiting: other members make their backups first"
            );
            self.stop.sleep(delay).await;
        }
        let mut failures = 0;
        while !self.stop.wanted() {
            self.observed.attempt(Timestamp::now());
            let node = match found.take() {
                Some(node) => node,
                None => self.look_at_node(trigger.clone()).await,
            };
            let made = match node {
                Ok(node) => self.run_once(node).await,
                Err(failed) => Err(failed),
            };
            match made {
                Ok(()) => {
                    self.observed.success();
                    return;
                }
                Err(_) if self.stop.wanted() => return,
                Err(Failed {
                    reason,
                    problem,
                    waits_for_the_next_run: true,
                }) => {
                    tracing::error!(
                        reason = reason.name(),
                        "backup failed: {problem}; trying again at the next due time"
                    );
                    self.observed.failure(reason, problem);
                    return;
                }
                Err(Failed {
                    reason, problem, ..
                }) => {
                    failures += 1;
                    let retry = retry_delay(failures, period);
                    tracing::error!(
                        failures,
                        reason = reason.name(),
                        retry_s = retry.as_secs(),
                        "backup failed: {problem}"
                    );
                    self.observed.failure(reason, problem);
                    self.stop.sleep(retry).await;
                    // The next run takes over, and counts its own failures.
                    if agenda.next_due().is_some_and(|due| due <= Timestamp::now()) {
                        return;
                    }
                }
            }
        }
    }

    /// How long this member waits for the other members.
    async fn turn(&self, node: &Node, period: Duration) -> Duration {
        // The run asks the member again: by then minutes may have passed, and another member may be the leader.
        let known = async {
            let member = Member::connect(&node.order.connection).await.ok()?;
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
                status.db_bytes,
                period,
            ))
        };
        // If the member cannot be asked, the run itself reports it.
        tokio::select! {
            delay = known => delay.unwrap_or_default(),
            () = self.stop.wait() => Duration::ZERO,
        }
    }

    /// Reads the node's files.
    async fn look_at_node(&self, trigger: Trigger) -> Result<Node, Failed> {
        let (node, trigger) = (self.node.clone(), trigger);
        let reading = move || {
            let order = node.order(ORIGIN, trigger)?;
            let guessed = node.guesses();
            Ok(Node { order, guessed })
        };
        let read = self.disk.run("reading the node's files", reading).await;
        let read = read.map_err(RunError::DiskHangs)?;
        read.map_err(|problem| Failed {
            reason: Reason::Node,
            problem,
            waits_for_the_next_run: false,
        })
    }

    async fn run_once(&self, node: Node) -> Result<(), Failed> {
        let Node { order, guessed } = node;
        let path = self.backup_path.clone();
        let opening = move || Repository::create(&path);
        let repository = self.disk.run("opening the repository", opening).await;
        let repository = repository
            .map_err(RunError::DiskHangs)?
            .map_err(RunError::Repository)?;
        let observed = self.observed.clone();
        let runner = Runner {
            repository,
            disk: self.disk.clone(),
            now: Timestamp::now,
            monitor: Arc::new(UntilStopped(self.stop.clone(), Silent)),
            on_event: Arc::new(move |event: RunEvent| observed.hear(&event)),
        };
        let made = self.stop.or_end(runner.run(&order, self.policy)).await;
        let made = made.map_err(|error| explained(error, guessed))?;
        let record = &made.record;
        tracing::info!(
            backup = %made.path.display(),
            revision = record.snapshot.revision,
            keys = record.snapshot.total_keys,
            size_bytes = record.snapshot.size_bytes,
            written_bytes = record.written_bytes,
            verified = names_of(&record.verified, ","),
            took_ms = record.took_ms.values().sum::<u64>(),
            "backup made"
        );
        for warning in &record.warnings {
            tracing::warn!("{warning}");
        }
        for what in &record.archive_missing {
            tracing::error!("the archive of control-plane files is incomplete: {what}");
        }
        Ok(())
    }
}

/// A node has no etcd only if no file names one and nothing listens on the default endpoint. Otherwise it is unknown.
fn explained(error: RunError, guessed: bool) -> Failed {
    let (reason, problem) = match error {
        RunError::Member(MemberError::Dial {
            refused: true,
            endpoint,
            ..
        }) if guessed => (
            Reason::NoEtcd,
            format!(
                "found no etcd on this node: no file names an etcd, and nothing listens on {endpoint}"
            ),
        ),
        RunError::Member(problem) if guessed => (
            Reason::Node,
            format!(
                "cannot find etcd: no file of this node says where etcd is, and the default endpoint failed: {problem}"
            ),
        ),
        other => return other.into(),
    };
    Failed {
        reason,
        problem,
        waits_for_the_next_run: false,
    }
}
