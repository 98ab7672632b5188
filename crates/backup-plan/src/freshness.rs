//! Whether backups are stale. Everything that reports it uses this one function: the operator, `kubectl lifeboat status`,
//! `/readyz` and the metrics of a backup server.

use crate::cron::Schedule;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use std::time::Duration;

/// Limits of the time that a due run gets to wait for its turn and to finish. Within them it is one period.
const LONGEST_GRACE: Duration = Duration::from_secs(120);
const SHORTEST_GRACE: Duration = Duration::from_secs(10);

/// Whether backups are stale. `None` as a time means never: the schedule has no more due times in five years.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// The newest proven backup is not stale.
    Fresh {
        /// When it becomes stale.
        until: Option<Timestamp>,
    },
    /// There is no proven backup yet, and none was missed.
    Pending {
        /// When the state becomes `Stale` if there is still no backup.
        until: Option<Timestamp>,
    },
    /// Two runs were due and had time to finish, and there is no newer proven backup.
    Stale {
        /// When the backups became stale.
        since: Timestamp,
    },
}

/// Judges at `now` the newest proven backup, which became known at `newest`. Runs count only from `covered_since` on: what was
/// not scheduled before cannot be missed.
#[must_use]
pub fn judge(
    schedule: &Schedule,
    zone: &TimeZone,
    newest: Option<Timestamp>,
    covered_since: Timestamp,
    now: Timestamp,
) -> Freshness {
    let since = newest.map_or(covered_since, |newest| newest.max(covered_since));
    let until = stale_at(schedule, zone, since);
    if let Some(since) = until.filter(|until| *until <= now) {
        Freshness::Stale { since }
    } else if newest.is_some() {
        Freshness::Fresh { until }
    } else {
        Freshness::Pending { until }
    }
}

/// When a newest backup of `since` becomes stale: two more were due by then, and had time to finish.
#[must_use]
pub fn stale_at(schedule: &Schedule, zone: &TimeZone, since: Timestamp) -> Option<Timestamp> {
    let period = schedule.period(since, zone).unwrap_or(LONGEST_GRACE);
    let grace = period.clamp(SHORTEST_GRACE, LONGEST_GRACE);
    let grace = SignedDuration::try_from(grace).ok()?;
    let second = schedule.second_due_after(since, zone)?;
    second.checked_add(grace).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn over_a_weekend_nothing_is_missed() {
        let schedule = Schedule::parse("0 3 * * MON-FRI").unwrap();
        let friday = at("2026-11-20T03:00:30Z");
        assert_eq!(
            stale_at(&schedule, &TimeZone::UTC, friday),
            Some(at("2026-11-24T03:02:00Z"))
        );
    }

    #[test]
    fn a_first_backup_is_pending_until_two_runs_were_missed() {
        let schedule = Schedule::parse("*/5 * * * *").unwrap();
        let started = at("2026-11-22T03:01:00Z");
        let judged = |now| judge(&schedule, &TimeZone::UTC, None, started, at(now));
        let since = at("2026-11-22T03:12:00Z");
        let until = Some(since);
        assert_eq!(judged("2026-11-22T03:11:59Z"), Freshness::Pending { until });
        assert_eq!(judged("2026-11-22T03:12:00Z"), Freshness::Stale { since });
    }
}
