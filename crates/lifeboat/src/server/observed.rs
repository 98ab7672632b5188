//! What a server knows of its runs and its repository, for whoever asks while it works.

use super::reasons::ORIGIN;
use crate::http::listener::Answers;
use crate::http::openmetrics;
use backup_plan::cron::Schedule;
use backup_plan::freshness::{self, Freshness};
use backup_plan::record::Record;
use backup_store::backup::RunEvent;
use backup_store::repository::{Entry, Kind, Repository, RepositoryError, Space};
use cluster_api::resources::NODE_BACKUP_ENTRIES;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// A disk that takes longer hangs.
const LOOK_WITHIN: Duration = Duration::from_secs(10);
/// So many backups that were given up are kept in mind, for who has not heard of them yet.
const NEWS: usize = 16;
/// The repository is looked at this often, and after each run.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// What does not change while the server runs.
pub(crate) struct Fixed {
    /// Whether it makes backups at all.
    pub(crate) enabled: bool,
    /// As it was written.
    pub(crate) schedule_text: String,
    pub(crate) schedule: Schedule,
    pub(crate) zone: TimeZone,
    pub(crate) repository: PathBuf,
    /// Bytes to keep free, if that was said.
    pub(crate) reserve_bytes: Option<u64>,
}

/// Since the server started.
#[derive(Debug, Clone, Default)]
pub(crate) struct Attempts {
    /// When the last run began, also if it goes on.
    pub(crate) last: Option<Timestamp>,
    /// When the last one began that has come to its end.
    pub(crate) last_ended: Option<Timestamp>,
    pub(crate) successes: u64,
    /// Failures by their reason.
    pub(crate) failures: BTreeMap<&'static str, u64>,
    pub(crate) consecutive_failures: u64,
    /// Of the last attempt, if it failed: in a word, and for people.
    pub(crate) reason: Option<&'static str>,
    /// Of the last attempt, if it failed.
    pub(crate) problem: Option<String>,
    /// Proven backups that were given up to make room.
    pub(crate) given_up: u64,
    /// What was said of the newest of them.
    pub(crate) news_of_given_up: VecDeque<String>,
}

/// A proven backup.
#[derive(Debug, Clone)]
pub(crate) struct KeptBackup {
    pub(crate) name: String,
    pub(crate) held: bool,
    pub(crate) record: Record,
}

/// In the repository, whichever process put it there.
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
    /// Backups of ours that can't be read as such, by name, and why.
    pub(crate) unreadable: Vec<(String, String)>,
    pub(crate) held: u64,
    pub(crate) space: Option<Space>,
    /// Why nothing is known of it.
    pub(crate) problem: Option<String>,
}

/// All of it, at one moment.
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

    /// Hears whenever the repository was looked at anew: after each run, and now and then.
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

    pub(crate) fn failure(&self, reason: &'static str, problem: String) {
        let attempts = &mut self.state().0;
        attempts.last_ended = attempts.last;
        *attempts.failures.entry(reason).or_default() += 1;
        attempts.consecutive_failures += 1;
        attempts.reason = Some(reason);
        attempts.problem = Some(problem);
        self.changed.notify_one();
    }

    /// Hears what happens in a run.
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

    /// How many proven backups were given up to make room, and what was said of the newest of them.
    pub(crate) fn given_up(&self) -> (u64, VecDeque<String>) {
        let attempts = &self.state().0;
        (attempts.given_up, attempts.news_of_given_up.clone())
    }

    /// Keeps what is known of the repository new. A disk that hangs keeps one thread, and no more.
    pub(crate) async fn watch(self: std::sync::Arc<Self>) {
        let mut looking = None;
        loop {
            let mut look = looking.take().unwrap_or_else(|| {
                let observed = self.clone();
                tokio::task::spawn_blocking(move || observed.look())
            });
            if tokio::time::timeout(LOOK_WITHIN, &mut look).await.is_err() {
                // What was seen before stays, and grows old. Whoever listens hears why.
                self.state().1.problem = Some(format!(
                    "the disk of the backups has not answered for {} s: what is known of them is of before",
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

/// A clock that is ahead of this one by more was wrong, or this one is.
const CLOCKS_DIFFER: SignedDuration = SignedDuration::from_hours(1);

/// A backup that says it is of the future would be new enough for as long as that is away.
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
    /// Whether there are backups of another cluster than that of the newest.
    pub(crate) fn cluster_changed(&self) -> bool {
        self.newest.as_ref().is_some_and(|newest| {
            self.lineages
                .keys()
                .any(|(_, cluster_id)| *cluster_id != newest.member.cluster_id)
        })
    }
}

impl View {
    /// Why the node is not protected as it should be; nothing if it is.
    pub(crate) fn not_ready(&self) -> Option<String> {
        if !self.enabled {
            return None;
        }
        let told = |what: &str| match (&self.kept.problem, &self.attempts.problem) {
            (Some(problem), _) | (None, Some(problem)) => format!("{what}: {problem}"),
            (None, None) => what.to_string(),
        };
        match (&self.kept.newest, self.freshness) {
            (None, _) => Some(told("there is no proven backup")),
            (Some(newest), Some(Freshness::Stale { .. })) => Some(told(&format!(
                "the newest proven backup is from {}, and two more runs were due since then",
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
        observed.failure("member", "refused".into());
        let view = observed.view(at("2026-11-23T03:00:00Z"));
        assert_eq!(
            view.not_ready().as_deref(),
            Some("there is no proven backup: refused")
        );
    }
}
