//! The state of the runs and of the repository, for metrics, health checks and the `NodeBackup`.

use super::ORIGIN;
use crate::listener::Answers;
use crate::openmetrics;
use backup_plan::api::NODE_BACKUP_ENTRIES;
use backup_plan::cron::Schedule;
use backup_plan::record::Record;
use backup_store::backup::RunEvent;
use backup_store::repository::{Entry, Kind, Repository, RepositoryError, Space};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// A disk that takes longer counts as hanging.
const LOOK_WITHIN: Duration = Duration::from_secs(10);
/// Maximum number of messages about backups removed for space that wait for an event.
const NEWS: usize = 16;
/// How often the repository is read. It is also read after each run.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// Settings that do not change while the server runs.
pub(super) struct Fixed {
    /// Whether the server makes backups.
    pub(super) enabled: bool,
    /// The schedule as the user wrote it.
    pub(super) schedule_text: String,
    pub(super) schedule: Schedule,
    pub(super) zone: TimeZone,
    pub(super) repository: PathBuf,
    /// Bytes to keep free, if set.
    pub(super) reserve_bytes: Option<u64>,
}

/// Runs since the server started.
#[derive(Debug, Clone, Default)]
pub(super) struct Attempts {
    /// When the last run started, also if it is still running.
    pub(super) last: Option<Timestamp>,
    /// When the last finished run started.
    pub(super) last_ended: Option<Timestamp>,
    pub(super) successes: u64,
    /// Failures by their reason.
    pub(super) failures: BTreeMap<&'static str, u64>,
    pub(super) consecutive_failures: u64,
    /// The reason of the last run, if it failed, as a label value.
    pub(super) reason: Option<&'static str>,
    /// The error message of the last run, if it failed.
    pub(super) problem: Option<String>,
    /// Number of proven backups that were removed for space.
    pub(super) given_up: u64,
    /// The newest messages about these removals.
    pub(super) news_of_given_up: VecDeque<String>,
}

/// A proven backup.
#[derive(Debug, Clone)]
pub(super) struct KeptBackup {
    pub(super) name: String,
    pub(super) held: bool,
    pub(super) record: Record,
}

/// The content of the repository, made by any process.
#[derive(Debug, Clone, Default)]
pub(super) struct Kept {
    /// The newest proven backup.
    pub(super) newest: Option<Record>,
    /// The newest proven backups, by name.
    pub(super) entries: Vec<KeptBackup>,
    /// When this server's newest backup was complete.
    pub(super) last_success: Option<Timestamp>,
    /// Proven backups by origin and cluster id.
    pub(super) lineages: BTreeMap<(String, String), u64>,
    /// Damaged backups: name and reason.
    pub(super) unreadable: Vec<(String, String)>,
    pub(super) held: u64,
    pub(super) space: Option<Space>,
    /// Why the repository could not be read.
    pub(super) problem: Option<String>,
}

/// The complete state at one moment.
#[derive(Debug, Clone)]
pub(super) struct View {
    pub(super) enabled: bool,
    pub(super) attempts: Attempts,
    pub(super) kept: Kept,
    pub(super) reserve_bytes: Option<u64>,
    pub(super) next_due: Option<Timestamp>,
    /// The node is stale if its newest proven backup is older: the second last due time.
    pub(super) stale_before: Option<Timestamp>,
}

pub(super) struct Observed {
    fixed: Fixed,
    state: Mutex<(Attempts, Kept)>,
    changed: Notify,
    looked: watch::Sender<()>,
}

impl Observed {
    pub(super) fn new(fixed: Fixed) -> Self {
        Observed {
            fixed,
            state: Mutex::default(),
            changed: Notify::new(),
            looked: watch::Sender::new(()),
        }
    }

    /// Receives a message each time the repository was read.
    pub(super) fn looks(&self) -> watch::Receiver<()> {
        self.looked.subscribe()
    }

    pub(super) fn fixed(&self) -> &Fixed {
        &self.fixed
    }

    fn state(&self) -> MutexGuard<'_, (Attempts, Kept)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn attempt(&self, now: Timestamp) {
        self.state().0.last = Some(now);
    }

    pub(super) fn success(&self) {
        let attempts = &mut self.state().0;
        attempts.last_ended = attempts.last;
        attempts.successes += 1;
        attempts.consecutive_failures = 0;
        attempts.reason = None;
        attempts.problem = None;
        self.changed.notify_one();
    }

    pub(super) fn failure(&self, reason: &'static str, problem: String) {
        let attempts = &mut self.state().0;
        attempts.last_ended = attempts.last;
        *attempts.failures.entry(reason).or_default() += 1;
        attempts.consecutive_failures += 1;
        attempts.reason = Some(reason);
        attempts.problem = Some(problem);
        self.changed.notify_one();
    }

    /// Logs and counts an event of a run.
    pub(super) fn hear(&self, event: &RunEvent) {
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
    pub(super) fn given_up(&self) -> (u64, VecDeque<String>) {
        let attempts = &self.state().0;
        (attempts.given_up, attempts.news_of_given_up.clone())
    }

    /// Reads the repository again and again. A hanging disk blocks at most one thread.
    pub(super) async fn watch(self: std::sync::Arc<Self>) {
        let mut looking = None;
        loop {
            let mut look = looking.take().unwrap_or_else(|| {
                let observed = self.clone();
                tokio::task::spawn_blocking(move || observed.look())
            });
            if tokio::time::timeout(LOOK_WITHIN, &mut look).await.is_err() {
                // What was seen before stays, and grows old. Whoever listens hears why.
                self.state().1.problem = Some(format!(
                    "the disk of the backups has not answered for {} s: the reported backups may be out of date",
                    LOOK_WITHIN.as_secs()
                ));
                looking = Some(look);
            }
            self.looked.send_replace(());
            let _ = tokio::time::timeout(LOOK_AGAIN, self.changed.notified()).await;
        }
    }

    fn look(&self) {
        // Opening would make one; that is for runs.
        let kept = if self.fixed.repository.exists() {
            let kept = Repository::open(&self.fixed.repository).and_then(|all| {
                Ok::<_, RepositoryError>(Kept {
                    space: Some(all.space()?),
                    ..kept(&all.entries()?, Timestamp::now())
                })
            });
            kept.unwrap_or_else(|error| Kept {
                problem: Some(error.to_string()),
                ..Kept::default()
            })
        } else {
            Kept::default()
        };
        self.state().1 = kept;
    }

    pub(super) fn view(&self, now: Timestamp) -> View {
        let (attempts, kept) = self.state().clone();
        let Fixed {
            enabled,
            schedule,
            zone,
            ..
        } = &self.fixed;
        let reserve_bytes = self
            .fixed
            .reserve_bytes
            .or(kept.space.map(|space| space.default_reserve_bytes()));
        View {
            enabled: *enabled,
            reserve_bytes,
            next_due: schedule.next_after(now, zone).filter(|_| *enabled),
            stale_before: stale_before(schedule, zone, now).filter(|_| *enabled),
            attempts,
            kept,
        }
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

/// The second last due time.
fn stale_before(schedule: &Schedule, zone: &TimeZone, now: Timestamp) -> Option<Timestamp> {
    let last = schedule.last_due(now, zone)?;
    schedule.last_due(last.checked_sub(SignedDuration::from_secs(1)).ok()?, zone)
}

/// A time that is further in the future is wrong, or this clock is wrong.
const CLOCKS_DIFFER: SignedDuration = SignedDuration::from_hours(1);

/// Whether a time is not in the future. A backup with a time in the future would stay up to date for too long.
pub(super) fn has_come(time: Timestamp, now: Timestamp) -> bool {
    time.duration_since(now) <= CLOCKS_DIFFER
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
        if kept.entries.len() < NODE_BACKUP_ENTRIES {
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
    /// Whether some backups are of another etcd cluster than the newest backup.
    pub(super) fn cluster_changed(&self) -> bool {
        self.newest.as_ref().is_some_and(|newest| {
            self.lineages
                .keys()
                .any(|(_, cluster_id)| *cluster_id != newest.member.cluster_id)
        })
    }
}

impl View {
    /// Why the node has no backup that is up to date, or `None` if it has one.
    pub(super) fn not_ready(&self) -> Option<String> {
        if !self.enabled {
            return None;
        }
        let told = |what: &str| match (&self.kept.problem, &self.attempts.problem) {
            (Some(problem), _) | (None, Some(problem)) => format!("{what}: {problem}"),
            (None, None) => what.to_string(),
        };
        match (&self.kept.newest, self.stale_before) {
            (None, _) => Some(told("there is no proven backup")),
            (Some(newest), Some(limit)) if newest.finished_at < limit => Some(told(&format!(
                "the newest proven backup is stale: it is from {}, and two backups were due since {limit}",
                newest.finished_at
            ))),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn how_old_is_too_old_comes_from_the_schedule_also_over_a_weekend() {
        let weekdays = Schedule::parse("0 3 * * MON-FRI").unwrap();
        for (now, limit) in [
            // On Monday morning before it is due, Thursday's is old enough.
            ("2026-11-23T02:59:59Z", "2026-11-19T03:00:00Z"),
            ("2026-11-23T03:00:00Z", "2026-11-20T03:00:00Z"),
            ("2026-11-24T12:00:00Z", "2026-11-23T03:00:00Z"),
        ] {
            assert_eq!(
                stale_before(&weekdays, &TimeZone::UTC, at(now)),
                Some(at(limit)),
                "{now}"
            );
        }
    }

    #[test]
    fn a_server_without_a_proven_backup_is_not_ready_and_says_why() {
        let observed = Observed::new(Fixed {
            enabled: true,
            schedule_text: "*/5 * * * *".into(),
            schedule: Schedule::parse("*/5 * * * *").unwrap(),
            zone: TimeZone::UTC,
            repository: "/no/such/directory".into(),
            reserve_bytes: None,
        });
        observed.look();
        observed.failure("member", "refused".into());
        let view = observed.view(at("2026-11-23T03:00:00Z"));
        assert_eq!(
            view.not_ready().as_deref(),
            Some("there is no proven backup: refused")
        );
    }
}
