//! The state of the runs and of the repository, for metrics, health checks and the `NodeBackup`.

use super::origin::ORIGIN;
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
/// How many of the newest backups are kept in memory, for a `NodeBackup`.
pub(crate) const NEWEST_KEPT: usize = 20;
/// How often the repository is read. It is also read after each run.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// Settings that do not change while the server runs.
pub(crate) struct Fixed {
    /// Whether the server makes backups.
    pub(crate) enabled: bool,
    /// The schedule as the user wrote it.
    pub(crate) schedule_text: String,
    pub(crate) schedule: Schedule,
    pub(crate) zone: TimeZone,
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
}

/// The complete state at one moment.
#[derive(Debug, Clone)]
pub(crate) struct View {
    pub(crate) enabled: bool,
    pub(crate) attempts: Attempts,
    pub(crate) kept: Kept,
    pub(crate) reserve_bytes: Option<u64>,
    pub(crate) next_due: Option<Timestamp>,
    /// Whether the newest proven backup is stale.
    pub(crate) freshness: Option<Freshness>,
}

pub(crate) struct Observed {
    fixed: Fixed,
    state: Mutex<(Attempts, Kept)>,
    changed: Notify,
    looked: watch::Sender<()>,
}

impl Observed {
    pub(crate) fn new(fixed: Fixed) -> Self {
        Observed {
            fixed,
            state: Mutex::default(),
            changed: Notify::new(),
            looked: watch::Sender::new(()),
        }
    }

    /// Receives a message each time the repository was read.
    #[cfg_attr(not(feature = "kubernetes"), allow(dead_code))]
    pub(crate) fn looks(&self) -> watch::Receiver<()> {
        self.looked.subscribe()
    }

    pub(crate) fn fixed(&self) -> &Fixed {
        &self.fixed
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
            self.looked.send_replace(());
            let _ = tokio::time::timeout(LOOK_AGAIN, self.changed.notified()).await;
        }
    }

    fn look(&self) {
        let opened = Repository::open(&self.fixed.repository).and_then(|all| {
            Ok::<_, RepositoryError>(Kept {
                space: Some(all.space()?),
                ..kept(&all.entries()?, Timestamp::now())
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
            freshness: enabled.then(|| {
                let newest = kept.newest.as_ref().map(|record| record.finished_at);
                freshness::judge(schedule, zone, newest, newest.unwrap_or(now), now)
            }),
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

/// A time that is further in the future is wrong, or this clock is wrong.
const CLOCKS_DIFFER: SignedDuration = SignedDuration::from_hours(1);

/// Whether a time is not in the future. A backup with a time in the future would stay up to date for too long.
pub(crate) fn has_come(time: Timestamp, now: Timestamp) -> bool {
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
        if !self.enabled {
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

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
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
        observed.failure(Reason::Member, "refused".into());
        let view = observed.view(at("2026-11-23T03:00:00Z"));
        assert_eq!(
            view.not_ready().as_deref(),
            Some("there is no proven backup: refused")
        );
    }
}
