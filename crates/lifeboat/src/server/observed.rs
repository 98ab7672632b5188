//! The state of the runs and of the repository, for metrics, health checks and the `NodeBackup`.

use super::origin::ORIGIN;
use super::plan::{Plan, Settings};
use crate::http::listener::Answers;
use crate::http::openmetrics;
use backup_plan::cron::Schedule;
use backup_plan::freshness::{self, Freshness};
use backup_plan::reason::Reason;
use backup_plan::record::Record;
use backup_store::repository::{Entry, Kind, Repository, RepositoryError, Space};
use backup_store::run::RunEvent;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// A disk that takes longer counts as hanging.
const LOOK_WITHIN: Duration = Duration::from_secs(10);
/// Maximum number of messages about backups removed for space that wait for an event.
const NEWS: usize = 16;
/// How many of the newest backups are kept in memory, for a `NodeBackup`.
pub(crate) const NEWEST_KEPT: usize = 20;
/// How often the repository is read. It is also read after each run.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// Settings that do not change while the server runs.
pub(crate) struct Fixed {
    pub(crate) repository: PathBuf,
    /// Bytes to keep free, if set.
    pub(crate) reserve_bytes: Option<u64>,
}

/// Runs since the server started.
#[derive(Debug, Clone, Default)]
pub(crate) struct Attempts {
    /// When the last run started, also if it is still running.
    pub(crate) last: Option<Timestamp>,
    /// When the last finished run started.
    pub(crate) last_ended: Option<Timestamp>,
    pub(crate) successes: u64,
    /// Failures by their reason.
    pub(crate) failures: BTreeMap<Reason, u64>,
    pub(crate) consecutive_failures: u64,
    /// The reason of the last run, if it failed, as a label value.
    pub(crate) reason: Option<Reason>,
    /// The message of the last run, if it failed.
    pub(crate) problem: Option<String>,
    /// Number of proven backups that were removed for space.
    pub(crate) given_up: u64,
    /// The newest messages about these removals.
    pub(crate) news_of_given_up: VecDeque<String>,
}

/// An etcd of the node that has only a part of the objects.
#[cfg_attr(not(feature = "kubernetes"), allow(dead_code))]
#[derive(Debug, Clone)]
pub(crate) struct OtherEtcd {
    pub(crate) name: String,
    pub(crate) newest: Option<KeptBackup>,
    /// Number of its proven backups.
    pub(crate) kept: u64,
    /// What is wrong, if something is.
    pub(crate) problem: Option<String>,
    pub(crate) freshness: Option<Freshness>,
}

/// A proven backup.
// Only a `NodeBackup` shows all fields.
#[cfg_attr(not(feature = "kubernetes"), allow(dead_code))]
#[derive(Debug, Clone)]
pub(crate) struct KeptBackup {
    pub(crate) name: String,
    pub(crate) held: bool,
    pub(crate) record: Record,
}

/// The content of the repository, made by any process.
#[derive(Debug, Clone, Default)]
pub(crate) struct Kept {
    /// The newest proven backup.
    pub(crate) newest: Option<Record>,
    /// The newest proven backups, by name.
    pub(crate) entries: Vec<KeptBackup>,
    /// When this server's newest backup was complete.
    pub(crate) last_success: Option<Timestamp>,
    /// Proven backups by origin and cluster id.
    pub(crate) lineages: BTreeMap<(String, String), u64>,
    /// Damaged backups: name and reason.
    pub(crate) unreadable: Vec<(String, String)>,
    pub(crate) held: u64,
    pub(crate) space: Option<Space>,
    /// Why the repository could not be read.
    pub(crate) problem: Option<String>,
    /// The content of the repositories of other etcds, by the name of the etcd.
    others: BTreeMap<String, Box<Kept>>,
}

/// The complete state at one moment.
#[derive(Debug, Clone)]
pub(crate) struct View {
    pub(crate) plan: Plan,
    /// Whether another server works on the repository, and this one waits.
    pub(crate) standby: bool,
    pub(crate) attempts: Attempts,
    pub(crate) kept: Kept,
    pub(crate) reserve_bytes: Option<u64>,
    pub(crate) next_due: Option<Timestamp>,
    /// Whether the newest proven backup is stale.
    pub(crate) freshness: Option<Freshness>,
    /// The other etcds of the node.
    pub(crate) others: Vec<OtherEtcd>,
}

pub(crate) struct Observed {
    fixed: Fixed,
    plan: watch::Receiver<Plan>,
    standby: AtomicBool,
    /// Whether it was asked if another server works on the repository.
    seat_is_known: AtomicBool,
    state: Mutex<(Attempts, Kept)>,
    /// Why the last run failed, if it did, for each other etcd that was found since the start.
    other_runs: Mutex<BTreeMap<String, Option<String>>>,
    changed: Notify,
    /// Whether the repository was read, or could not be.
    looked: watch::Sender<bool>,
}

impl Observed {
    pub(crate) fn new(fixed: Fixed, plan: watch::Receiver<Plan>) -> Self {
        Observed {
            fixed,
            plan,
            standby: AtomicBool::new(false),
            seat_is_known: AtomicBool::new(false),
            state: Mutex::default(),
            other_runs: Mutex::default(),
            changed: Notify::new(),
            looked: watch::Sender::new(false),
        }
    }

    /// Receives a message each time the repository was read.
    #[cfg_attr(not(feature = "kubernetes"), allow(dead_code))]
    pub(crate) fn looks(&self) -> watch::Receiver<bool> {
        self.looked.subscribe()
    }

    /// The directory of the backups.
    #[cfg_attr(not(feature = "kubernetes"), allow(dead_code))]
    pub(crate) fn repository(&self) -> &Path {
        &self.fixed.repository
    }

    /// What the server does at the moment.
    pub(crate) fn plan(&self) -> Plan {
        self.plan.borrow().clone()
    }

    /// Waits until the repository was read for the first time.
    #[cfg_attr(not(feature = "kubernetes"), allow(dead_code))]
    pub(crate) async fn first_look(&self) {
        let _ = self.looks().wait_for(|looked| *looked).await;
    }

    /// Whether this server reports what is on the node. If another one works on the repository, that one does.
    #[cfg_attr(not(feature = "kubernetes"), allow(dead_code))]
    pub(crate) fn reports(&self) -> bool {
        self.seat_is_known.load(Ordering::Relaxed) && !self.standby.load(Ordering::Relaxed)
    }

    /// Notes whether another server works on the repository.
    pub(crate) fn set_standby(&self, standby: bool) {
        let before = self.standby.swap(standby, Ordering::Relaxed);
        let was_known = self.seat_is_known.swap(true, Ordering::Relaxed);
        if !was_known || before != standby {
            self.changed.notify_one();
        }
    }

    fn state(&self) -> MutexGuard<'_, (Attempts, Kept)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn attempt(&self, now: Timestamp) {
        self.state().0.last = Some(now);
    }

    pub(crate) fn success(&self) {
        let attempts = &mut self.state().0;
        attempts.last_ended = attempts.last;
        attempts.successes += 1;
        attempts.consecutive_failures = 0;
        attempts.reason = None;
        attempts.problem = None;
        self.changed.notify_one();
    }

    pub(crate) fn failure(&self, reason: Reason, problem: String) {
        let attempts = &mut self.state().0;
        attempts.last_ended = attempts.last;
        *attempts.failures.entry(reason).or_default() += 1;
        attempts.consecutive_failures += 1;
        attempts.reason = Some(reason);
        attempts.problem = Some(problem);
        self.changed.notify_one();
    }

    /// Notes how a run for another etcd ended.
    pub(crate) fn other_ended(&self, name: &str, problem: Option<String>) {
        let mut runs = self
            .other_runs
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        runs.insert(name.into(), problem);
        drop(runs);
        self.changed.notify_one();
    }

    /// Logs and counts an event of a run.
    pub(crate) fn hear(&self, event: &RunEvent) {
        if event.is_warning() {
            tracing::warn!("{event}");
        } else {
            tracing::info!("{event}");
        }
        if matches!(event, RunEvent::GivenUp(_)) {
            let attempts = &mut self.state().0;
            attempts.given_up += 1;
            attempts.news_of_given_up.push_back(event.to_string());
            while attempts.news_of_given_up.len() > NEWS {
                attempts.news_of_given_up.pop_front();
            }
            self.changed.notify_one();
        }
    }

    /// The number of proven backups that were removed for space, and the newest messages about them.
    #[cfg_attr(not(feature = "kubernetes"), allow(dead_code))]
    pub(crate) fn given_up(&self) -> (u64, VecDeque<String>) {
        let attempts = &self.state().0;
        (attempts.given_up, attempts.news_of_given_up.clone())
    }

    /// Reads the repository again and again. A hanging disk blocks at most one thread.
    pub(crate) async fn watch(self: std::sync::Arc<Self>) {
        let mut looking = None;
        loop {
            let mut look = looking.take().unwrap_or_else(|| {
                let observed = self.clone();
                tokio::task::spawn_blocking(move || observed.look())
            });
            if tokio::time::timeout(LOOK_WITHIN, &mut look).await.is_err() {
                // The last known content stays and becomes older. The problem is reported with it.
                self.state().1.problem = Some(format!(
                    "the disk of the backups has not answered for {} s: the reported backups may be out of date",
                    LOOK_WITHIN.as_secs()
                ));
                looking = Some(look);
            }
            self.looked.send_replace(true);
            let _ = tokio::time::timeout(LOOK_AGAIN, self.changed.notified()).await;
        }
    }

    fn look(&self) {
        let opened = Repository::open(&self.fixed.repository).and_then(|all| {
            let now = Timestamp::now();
            let of_others = all.other_etcds()?.into_iter();
            let of_others =
                of_others.map(|(name, all)| (name, Box::new(content_of_other(&all, now))));
            Ok::<_, RepositoryError>(Kept {
                space: Some(all.space()?),
                others: of_others.collect(),
                ..kept(&all.entries()?, now)
            })
        });
        let kept = match opened {
            Ok(kept) => kept,
            // The first run creates it.
            Err(RepositoryError::NotADirectory { .. }) if !self.fixed.repository.exists() => {
                Kept::default()
            }
            // What was known stays and becomes older, as with a disk that hangs.
            Err(error) => Kept {
                problem: Some(error.to_string()),
                ..self.state().1.clone()
            },
        };
        self.state().1 = kept;
    }

    pub(crate) fn view(&self, now: Timestamp) -> View {
        let (attempts, kept) = self.state().clone();
        let plan = self.plan();
        let settings = plan.settings();
        let reserve_bytes = self
            .fixed
            .reserve_bytes
            .or(kept.space.map(|space| space.default_reserve_bytes()));
        View {
            reserve_bytes,
            next_due: settings.and_then(|set| set.schedule.next_after(now, &set.zone)),
            freshness: settings.map(|set| kept.freshness(&set.schedule, &set.zone, now)),
            others: self.others(&kept, settings, now),
            standby: self.standby.load(Ordering::Relaxed),
            plan,
            attempts,
            kept,
        }
    }
}

impl Observed {
    /// The other etcds: those that were found, and those that have backups.
    fn others(&self, kept: &Kept, settings: Option<&Settings>, now: Timestamp) -> Vec<OtherEtcd> {
        let runs = self
            .other_runs
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let names: BTreeSet<_> = runs.keys().chain(kept.others.keys()).collect();
        let others = names.into_iter().map(|name| {
            let run = runs.get(name);
            let nothing = Kept::default();
            let kept = kept.others.get(name).map_or(&nothing, |kept| kept);
            let problem = kept.problem.clone();
            OtherEtcd {
                name: name.clone(),
                newest: kept.entries.first().cloned(),
                kept: kept.lineages.values().sum(),
                problem: problem.or_else(|| run.cloned().flatten()),
                // One that is no longer there has nothing to back up.
                freshness: settings
                    .filter(|_| run.is_some())
                    .map(|set| kept.freshness(&set.schedule, &set.zone, now)),
            }
        });
        others.collect()
    }
}

impl Answers for Observed {
    fn metrics(&self) -> Result<String, fmt::Error> {
        openmetrics::text(self.view(Timestamp::now()))
    }

    fn not_ready(&self) -> Option<String> {
        self.view(Timestamp::now()).not_ready()
    }
}

/// A time that is further in the future is wrong, or this clock is wrong.
const CLOCKS_DIFFER: SignedDuration = SignedDuration::from_hours(1);

/// Whether a time is not in the future. A backup with a time in the future would stay up to date for too long.
pub(crate) fn has_come(time: Timestamp, now: Timestamp) -> bool {
    time.duration_since(now) <= CLOCKS_DIFFER
}

/// The content of the repository of another etcd. If it cannot be read, that is its problem.
fn content_of_other(repository: &Repository, now: Timestamp) -> Kept {
    match repository.entries() {
        Ok(entries) => kept(&entries, now),
        Err(error) => Kept {
            problem: Some(error.to_string()),
            ..Kept::default()
        },
    }
}

fn kept(entries: &[Entry], now: Timestamp) -> Kept {
    let mut kept = Kept::default();
    // Newest first.
    for entry in entries {
        if let Kind::Unreadable(problem) = &entry.kind {
            kept.unreadable.push((entry.name.clone(), problem.clone()));
        }
        kept.held += u64::from(entry.held);
        let (Some(record), Some(candidate)) = (entry.record(), entry.candidate()) else {
            continue;
        };
        if !candidate.verified {
            continue;
        }
        *kept
            .lineages
            .entry((candidate.origin, candidate.cluster_id))
            .or_default() += 1;
        if has_come(record.finished_at, now) {
            if record.origin == ORIGIN {
                kept.last_success.get_or_insert(record.finished_at);
            }
            kept.newest.get_or_insert_with(|| record.clone());
        }
        if kept.entries.len() < NEWEST_KEPT {
            kept.entries.push(KeptBackup {
                name: entry.name.clone(),
                held: entry.held,
                record: record.clone(),
            });
        }
    }
    kept
}

impl Kept {
    fn freshness(&self, schedule: &Schedule, zone: &TimeZone, now: Timestamp) -> Freshness {
        let newest = self.newest.as_ref().map(|record| record.finished_at);
        freshness::judge(schedule, zone, newest, newest.unwrap_or(now), now)
    }

    /// Whether some backups are of another etcd cluster than the newest backup.
    pub(crate) fn cluster_changed(&self) -> bool {
        self.newest.as_ref().is_some_and(|newest| {
            self.lineages
                .keys()
                .any(|(_, cluster_id)| *cluster_id != newest.member.cluster_id)
        })
    }
}

impl View {
    /// Why the node has no backup that is up to date, or `None` if it has one.
    pub(crate) fn not_ready(&self) -> Option<String> {
        if self.plan.settings().is_none() || self.standby {
            return None;
        }
        let with_problem = |what: &str| match (&self.kept.problem, &self.attempts.problem) {
            (Some(problem), _) | (None, Some(problem)) => format!("{what}: {problem}"),
            (None, None) => what.to_string(),
        };
        match (&self.kept.newest, self.freshness) {
            (None, _) => Some(with_problem("there is no proven backup")),
            (Some(newest), Some(Freshness::Stale { .. })) => Some(with_problem(&format!(
                "the newest proven backup is stale: it is from {}, and two more runs were due since then",
                newest.finished_at
            ))),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use backup_plan::retention::Policy;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_server_without_a_proven_backup_is_not_ready_and_says_why() {
        let fixed = Fixed {
            repository: "/no/such/directory".into(),
            reserve_bytes: None,
        };
        let settings = Settings {
            schedule_text: "*/5 * * * *".into(),
            schedule: Schedule::parse("*/5 * * * *").unwrap(),
            zone: TimeZone::UTC,
            policy: Policy::Number(3),
        };
        let observed = Observed::new(fixed, watch::Sender::new(Plan::On(settings)).subscribe());
        observed.look();
        observed.failure(Reason::Member, "refused".into());
        let view = observed.view(at("2026-11-23T03:00:00Z"));
        assert_eq!(
            view.not_ready().as_deref(),
            Some("there is no proven backup: refused")
        );
    }
}
