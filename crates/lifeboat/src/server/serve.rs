//! The main loop: waits until a run is due, lets other members go first, makes the backup, tries again after a failure.

use super::observed::{Observed, has_come};
use super::origin::ORIGIN;
use super::plan::{Plan, Settings};
use crate::cli::flags::node::{NodeArgs, Orders};
use crate::cli::stop::{Stop, UntilStopped};
use backup_plan::agenda::{Agenda, Next, retry_delay};
use backup_plan::reason::Reason;
use backup_plan::record::{Trigger, names_of};
use backup_plan::retention::Policy;
use backup_plan::turns;
use backup_store::disk::Disk;
use backup_store::member::{Member, MemberError};
use backup_store::progress::Silent;
use backup_store::repository::{Repository, Seat};
use backup_store::run::{Order, RunError, RunEvent, Runner};
use jiff::Timestamp;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

pub(crate) struct Server {
    pub(crate) node: NodeArgs,
    pub(crate) backup_path: PathBuf,
    pub(crate) stop: Stop,
    /// Changes when somebody asks for a backup now.
    pub(crate) requests: watch::Receiver<u64>,
    pub(crate) disk: Disk,
    pub(crate) observed: Arc<Observed>,
}

/// How often a server that waits looks whether the other one has ended.
const SEAT_AGAIN: Duration = Duration::from_secs(5);

/// Waits for a change. Without a sender there is none any more.
async fn changed<T>(receiver: &mut watch::Receiver<T>) {
    if receiver.changed().await.is_err() {
        std::future::pending().await
    }
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
    orders: Orders,
    /// Whether the endpoint is only the default, because no flag and no file names one.
    guessed: bool,
}

impl Server {
    /// Works by the plan until a signal.
    pub(crate) async fn serve(&self, mut plan: watch::Receiver<Plan>) {
        let mut seat = None;
        let mut requests = self.requests.clone();
        while !self.stop.wanted() {
            let current = plan.borrow_and_update().clone();
            match current {
                Plan::On(settings) => {
                    self.follow(&settings, &mut plan, &mut requests, &mut seat)
                        .await;
                }
                Plan::Reading => tokio::select! {
                    () = self.stop.wait() => {}
                    () = changed(&mut plan) => {}
                },
                Plan::Off(why) => {
                    seat = None;
                    tracing::info!("no backups are made: {why}");
                    tokio::select! {
                        () = self.stop.wait() => {}
                        () = changed(&mut plan) => {}
                        () = self.watch_seat() => {}
                    }
                }
            }
        }
        tracing::info!("stopped");
    }

    /// Notes all the time whether another server works on the repository: then that one reports.
    async fn watch_seat(&self) {
        loop {
            let path = self.backup_path.clone();
            let asking = move || Seat::is_taken(&path);
            let is_taken = self.disk.run("opening the repository", asking).await;
            self.observed.set_standby(matches!(is_taken, Ok(Ok(true))));
            tokio::time::sleep(SEAT_AGAIN).await;
        }
    }

    /// Waits until no other server works on the repository, so that two of them never double the load on etcd. If the disk cannot be
    /// asked, the runs report that.
    async fn take_seat(&self) -> Option<Seat> {
        let mut reported = false;
        while !self.stop.wanted() {
            let path = self.backup_path.clone();
            let taking = move || Seat::take(&path);
            let taken = self.disk.run("opening the repository", taking).await;
            match taken {
                Ok(Ok(Some(seat))) => {
                    self.observed.set_standby(false);
                    return Some(seat);
                }
                Ok(Ok(None)) => {
                    self.observed.set_standby(true);
                    if !reported {
                        tracing::warn!(
                            repository = %self.backup_path.display(),
                            "another backup server makes the backups of this node: waiting until it ends"
                        );
                        reported = true;
                    }
                    self.stop.sleep(SEAT_AGAIN).await;
                }
                Ok(Err(error)) => {
                    tracing::warn!(
                        "cannot take the lock of the server: {error}; continuing without it, and trying again before the next backup"
                    );
                    break;
                }
                Err(_) => break,
            }
        }
        self.observed.set_standby(false);
        None
    }

    /// Takes the seat, if this server does not have it yet. Returns whether the plan is still the same: waiting may have taken days, and
    /// an old retention must not remove anything.
    async fn take_missing_seat(
        &self,
        seat: &mut Option<Seat>,
        plan: &watch::Receiver<Plan>,
    ) -> bool {
        if seat.is_none() {
            *seat = self.take_seat().await;
        }
        !plan.has_changed().unwrap_or(false)
    }

    /// Works by these settings until the plan changes.
    async fn follow(
        &self,
        settings: &Settings,
        plan: &mut watch::Receiver<Plan>,
        requests: &mut watch::Receiver<u64>,
        seat: &mut Option<Seat>,
    ) {
        if !self.take_missing_seat(seat, plan).await {
            return;
        }
        let Settings {
            schedule_text,
            schedule,
            zone,
            policy,
        } = settings;
        let policy = *policy;
        let mut agenda = Agenda::new(schedule.clone(), zone.clone(), Timestamp::now());
        tracing::info!(
            schedule = schedule_text,
            timezone = zone.iana_name(),
            repository = %self.backup_path.display(),
            next_due = agenda.next_due().map(tracing::field::display),
            "started"
        );
        if self.missed(&agenda).await {
            tracing::info!("the last due backup was not made: making it now");
            self.run_all(&mut agenda, Trigger::CatchUp, policy, plan)
                .await;
        }
        while !self.stop.wanted() && !plan.has_changed().unwrap_or(false) {
            match agenda.ask(Timestamp::now()) {
                Next::Run(_) => {
                    if !self.take_missing_seat(seat, plan).await {
                        return;
                    }
                    self.run_all(&mut agenda, Trigger::Schedule, policy, plan)
                        .await;
                }
                Next::Wait(duration) => tokio::select! {
                    () = self.stop.sleep(duration) => {}
                    () = changed(plan) => return,
                    () = changed(requests) => {
                        if !self.take_missing_seat(seat, plan).await {
                            return;
                        }
                        tracing::info!("a backup was requested: making it now");
                        self.run_all(&mut agenda, Trigger::Request, policy, plan).await;
                    }
                },
                Next::Never => {
                    tracing::error!(
                        "the schedule has no more due times: waiting for a signal to stop"
                    );
                    tokio::select! {
                        () = self.stop.wait() => {}
                        () = changed(plan) => return,
                    }
                }
            }
        }
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

    /// Makes a backup of each etcd of the node, one after another. A change of the plan ends waiting, and not a backup that is being made.
    async fn run_all(
        &self,
        agenda: &mut Agenda,
        trigger: Trigger,
        policy: Policy,
        plan: &watch::Receiver<Plan>,
    ) {
        self.take_turn_and_run(agenda, trigger.clone(), policy, plan)
            .await;
        if plan.has_changed().unwrap_or(false) {
            return;
        }
        if let Ok(node) = self.look_at_node(trigger).await {
            for order in node.orders.others {
                self.run_other(order, policy).await;
            }
        }
    }

    /// Makes a backup of an etcd that has only a part of the objects, in a repository of its own. After a failure it is tried again when
    /// the next backup is due, because the etcd that has all other objects must not wait for it.
    async fn run_other(&self, order: Order, policy: Policy) {
        let name = order.etcd.clone().unwrap_or_default();
        let path = Repository::of_other_etcd(&self.backup_path, &name);
        let made = self.run_in(&path, &order, policy).await;
        if self.stop.wanted() {
            return;
        }
        let problem = made.err().map(|error| {
            tracing::error!(
                etcd = name,
                reason = error.reason().name(),
                "backup failed: {error}; trying again at the next due time"
            );
            error.to_string()
        });
        self.observed.other_ended(&name, problem);
    }

    /// Makes a backup. After a failure, tries again until it succeeds or the next run is due.
    async fn take_turn_and_run(
        &self,
        agenda: &mut Agenda,
        trigger: Trigger,
        policy: Policy,
        plan: &watch::Receiver<Plan>,
    ) {
        let mut plan = plan.clone();
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
            tokio::select! {
                () = self.stop.sleep(delay) => {}
                () = changed(&mut plan) => return,
            }
        }
        let mut failures = 0;
        while !self.stop.wanted() {
            self.observed.attempt(Timestamp::now());
            let node = match found.take() {
                Some(node) => node,
                None => self.look_at_node(trigger.clone()).await,
            };
            let made = match node {
                Ok(node) => self.run_once(node, policy).await,
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
                    tokio::select! {
                        () = self.stop.sleep(retry) => {}
                        () = changed(&mut plan) => return,
                    }
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
            let member = Member::connect(&node.orders.main.connection).await.ok()?;
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
            let orders = node.orders(ORIGIN, trigger)?;
            let guessed = node.guesses();
            Ok(Node { orders, guessed })
        };
        let read = self.disk.run("reading the node's files", reading).await;
        let read = read.map_err(RunError::DiskHangs)?;
        read.map_err(|problem| Failed {
            reason: Reason::Node,
            problem,
            waits_for_the_next_run: false,
        })
    }

    async fn run_once(&self, node: Node, policy: Policy) -> Result<(), Failed> {
        let Node { orders, guessed } = node;
        let made = self.run_in(&self.backup_path, &orders.main, policy).await;
        made.map_err(|error| explained(error, guessed))
    }

    /// Makes a backup in a repository.
    async fn run_in(&self, path: &Path, order: &Order, policy: Policy) -> Result<(), RunError> {
        let path = path.to_path_buf();
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
        let made = self.stop.or_end(runner.run(order, policy)).await?;
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
        for what in &record.not_backed_up {
            tracing::error!("{what}");
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
