//! Whether a run is due now, on a clock that may be set forwards and back.

use crate::cron::Schedule;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use std::time::Duration;

/// The clock is read again after this time, because it may have been set.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// Delay before the first retry of a failed run. It doubles with each further retry.
const FIRST_RETRY: Duration = Duration::from_secs(5);
const LONGEST_RETRY: Duration = Duration::from_secs(300);

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// A run, which was due at this time.
    Run(Timestamp),
    /// Wait this long, and then ask again.
    Wait(Duration),
    /// Never: the schedule has no due time within five years.
    Never,
}

/// Returns each due time of a schedule once.
pub struct Agenda {
    schedule: Schedule,
    zone: TimeZone,
    next: Option<Timestamp>,
}

impl Agenda {
    /// Starts at `now`; the first run is the first one due after it.
    #[must_use]
    pub fn new(schedule: Schedule, zone: TimeZone, now: Timestamp) -> Self {
        let next = schedule.next_after(now, &zone);
        Agenda {
            schedule,
            zone,
            next,
        }
    }

    /// The next due time. `None` if the schedule has no due time within five years.
    #[must_use]
    pub fn next_due(&self) -> Option<Timestamp> {
        self.next
    }

    /// Time between the next two due times after `now`. 300 s if the schedule does not have two within five years.
    #[must_use]
    pub fn period(&self, now: Timestamp) -> Duration {
        self.schedule
            .period(now, &self.zone)
            .unwrap_or(LONGEST_RETRY)
    }

    /// Whether a run was missed since the start of the newest backup.
    #[must_use]
    pub fn missed(&self, newest: Option<Timestamp>, now: Timestamp) -> bool {
        match (self.schedule.last_due(now, &self.zone), newest) {
            (Some(due), Some(newest)) => newest < due,
            (_, None) => true,
            (None, Some(_)) => false,
        }
    }

    /// What to do at `now`. Several missed due times, for example after a clock jump, are one run.
    pub fn ask(&mut self, now: Timestamp) -> Next {
        let Some(next) = self.next else {
            return Next::Never;
        };
        if now >= next {
            self.next = self.schedule.next_after(now, &self.zone);
            return Next::Run(next);
        }
        // If the clock was set back, the next due time of the new clock is used.
        let by_this_clock = self.schedule.next_after(now, &self.zone);
        if by_this_clock < self.next {
            self.next = by_this_clock;
        }
        let until = self.next.map_or(LOOK_AGAIN, |next| {
            next.duration_since(now).try_into().unwrap_or(LOOK_AGAIN)
        });
        Next::Wait(until.min(LOOK_AGAIN))
    }
}

/// The delay before the next retry after this many failures; at most a quarter of the period.
#[must_use]
pub fn retry_delay(failures: u32, period: Duration) -> Duration {
    let doubled =
        FIRST_RETRY.saturating_mul(2u32.saturating_pow(failures.saturating_sub(1).min(16)));
    doubled
        .min(LONGEST_RETRY)
        .min((period / 4).max(Duration::from_secs(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 / 300 * 300 + second).unwrap()
    }

    fn agenda() -> Agenda {
        Agenda::new(
            Schedule::parse("*/5 * * * *").unwrap(),
            TimeZone::UTC,
            at(10),
        )
    }

    #[test]
    fn every_due_time_is_one_run() {
        let mut agenda = agenda();
        assert_eq!(agenda.ask(at(10)), Next::Wait(LOOK_AGAIN));
        assert_eq!(agenda.ask(at(295)), Next::Wait(Duration::from_secs(5)));
        assert_eq!(agenda.ask(at(300)), Next::Run(at(300)));
        assert_eq!(agenda.ask(at(301)), Next::Wait(LOOK_AGAIN));
        assert_eq!(agenda.ask(at(600)), Next::Run(at(600)));
    }

    #[test]
    fn a_clock_that_jumps_an_hour_forward_gives_one_run_and_goes_on() {
        let mut agenda = agenda();
        assert_eq!(agenda.ask(at(3905)), Next::Run(at(300)));
        assert_eq!(agenda.ask(at(3906)), Next::Wait(LOOK_AGAIN));
        assert_eq!(agenda.ask(at(4200)), Next::Run(at(4200)));
    }

    #[test]
    fn a_clock_that_jumps_an_hour_back_does_not_stop_the_runs_for_an_hour() {
        let mut agenda = agenda();
        assert_eq!(agenda.ask(at(300)), Next::Run(at(300)));
        assert_eq!(agenda.ask(at(301 - 3600)), Next::Wait(LOOK_AGAIN));
        assert_eq!(agenda.ask(at(600 - 3600)), Next::Run(at(600 - 3600)));
    }

    #[test]
    fn a_missed_run_is_noticed() {
        let agenda = agenda();
        assert!(agenda.missed(None, at(10)));
        assert!(agenda.missed(Some(at(-301)), at(10)));
        assert!(!agenda.missed(Some(at(5)), at(10)));
    }

    #[test]
    fn retries_back_off_inside_the_period() {
        let period = Duration::from_secs(300);
        let delays: Vec<_> = (1..=6).map(|n| retry_delay(n, period).as_secs()).collect();
        assert_eq!(delays, [5, 10, 20, 40, 75, 75]);
        assert_eq!(retry_delay(40, Duration::from_secs(86_400)).as_secs(), 300);
        assert_eq!(retry_delay(3, Duration::from_secs(2)).as_secs(), 1);
    }
}
