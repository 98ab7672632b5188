//! Cron schedules exactly as Kubernetes reads them, which is as robfig/cron v3 does (`parser.go`,
//! `spec.go`, `constantdelay.go`), including its rules for days and for clock changes.

use jiff::civil::{Date, DateTime};
use jiff::tz::{Offset, TimeZone};
use jiff::{Span, Timestamp};
use std::time::Duration;

/// How far ahead the search for the next due time goes.
const YEARS_AHEAD: i16 = 5;
/// In some time zones robfig's search never ends at a clock change. A search through five years needs
/// fewer steps than this.
const MAX_STEPS: u32 = 100_000;
/// Marks a field that was written as `*` or `?`, for the rule on days of the month and of the week.
const STAR: u64 = 1 << 63;

/// When a backup is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Schedule {
    /// At the times that match the five fields.
    Fields(Fields),
    /// At every multiple of a period since the epoch, so that the times are the same on all nodes.
    Every(Duration),
}

/// The five fields, a bit for each number they name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fields {
    minute: u64,
    hour: u64,
    day_of_month: u64,
    month: u64,
    day_of_week: u64,
}

/// What is wrong with a schedule, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("schedule {schedule:?}: {problem}")]
pub struct ScheduleError {
    /// The schedule as it was written.
    pub schedule: String,
    /// What is wrong with the schedule.
    pub problem: String,
}

struct Bounds {
    name: &'static str,
    min: u32,
    max: u32,
    names: &'static [&'static str],
}

const MINUTE: Bounds = Bounds {
    name: "minute",
    min: 0,
    max: 59,
    names: &[],
};
const HOUR: Bounds = Bounds {
    name: "hour",
    min: 0,
    max: 23,
    names: &[],
};
const DAY_OF_MONTH: Bounds = Bounds {
    name: "day of month",
    min: 1,
    max: 31,
    names: &[],
};
const MONTH: Bounds = Bounds {
    name: "month",
    min: 1,
    max: 12,
    names: &[
        "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
    ],
};
const DAY_OF_WEEK: Bounds = Bounds {
    name: "day of week",
    min: 0,
    max: 6,
    names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
};

impl Schedule {
    /// Reads a schedule: five fields, a descriptor such as `@hourly`, or `@every 90s`.
    ///
    /// # Errors
    /// What is wrong with it, and what to write instead.
    pub fn parse(text: &str) -> Result<Self, ScheduleError> {
        let error = |problem: String| ScheduleError {
            schedule: text.into(),
            problem,
        };
        if text.starts_with("TZ=") || text.starts_with("CRON_TZ=") {
            return Err(error(
                "the schedule cannot contain a time zone: set the time zone separately".into(),
            ));
        }
        if let Some(period) = text.strip_prefix("@every ") {
            let period = go_duration(period).ok_or_else(|| {
                error(format!(
                    "{period:?} is not a duration: use one such as 90s, 15m or 1h30m"
                ))
            })?;
            // As robfig does: whole seconds, and at least one.
            return Ok(Schedule::Every(Duration::from_secs(
                period.as_secs().max(1),
            )));
        }
        let fields = match text {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            _ if text.starts_with('@') => {
                return Err(error(
                    "unknown descriptor: use @hourly, @daily, @midnight, @weekly, @monthly, @yearly, @annually, or @every 90s".into(),
                ));
            }
            fields => fields,
        };
        let parts: Vec<_> = fields.split_whitespace().collect();
        let [minute, hour, day_of_month, month, day_of_week] = parts.as_slice() else {
            return Err(error(format!(
                "{} fields, expected 5: minute, hour, day of month, month, day of week, such as */5 * * * *",
                parts.len()
            )));
        };
        let field = |text: &str, bounds: &Bounds| {
            bits_of_field(text, bounds)
                .map_err(|problem| error(format!("{} {text:?}: {problem}", bounds.name)))
        };
        Ok(Schedule::Fields(Fields {
            minute: field(minute, &MINUTE)?,
            hour: field(hour, &HOUR)?,
            day_of_month: field(day_of_month, &DAY_OF_MONTH)?,
            month: field(month, &MONTH)?,
            day_of_week: field(day_of_week, &DAY_OF_WEEK)?,
        }))
    }

    /// The first due time after `after`; none if there is none within five years.
    #[must_use]
    pub fn next_after(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match self {
            Schedule::Every(period) => {
                let period = i64::try_from(period.as_secs()).ok()?;
                let periods = after.as_second().div_euclid(period).checked_add(1)?;
                Timestamp::from_second(periods.checked_mul(period)?).ok()
            }
            Schedule::Fields(fields) => fields.next_after(after.as_second(), zone),
        }
    }

    /// The last due time at or before `at`; none if there was none within five years.
    #[must_use]
    pub fn last_due(&self, at: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        // Due times can only be searched forwards: go back, twice as far each time, and search from there.
        let mut back_s = 60;
        const FIVE_YEARS_S: i64 = 5 * 366 * 24 * 3600;
        loop {
            let from = Timestamp::from_second(at.as_second().checked_sub(back_s)?).ok()?;
            let mut due = self.next_after(from, zone).filter(|due| *due <= at);
            if due.is_some() {
                while let Some(later) = due
                    .and_then(|due| self.next_after(due, zone))
                    .filter(|later| *later <= at)
                {
                    due = Some(later);
                }
                return due;
            }
            if back_s > FIVE_YEARS_S {
                return None;
            }
            back_s *= 2;
        }
    }

    /// When the second run after `since` is due. If the newest backup is from `since`, a run is missed by then.
    #[must_use]
    pub fn second_due_after(&self, since: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        self.next_after(self.next_after(since, zone)?, zone)
    }

    /// Time between the next two due times after `at`.
    #[must_use]
    pub fn period(&self, at: Timestamp, zone: &TimeZone) -> Option<Duration> {
        let first = self.next_after(at, zone)?;
        let second = self.next_after(first, zone)?;
        u64::try_from(second.as_second() - first.as_second())
            .ok()
            .map(Duration::from_secs)
    }
}

/// One field: parts with commas between them.
fn bits_of_field(field: &str, bounds: &Bounds) -> Result<u64, String> {
    // Empty parts are skipped, as robfig does.
    field
        .split(',')
        .filter(|part| !part.is_empty())
        .try_fold(0, |bits, part| Ok(bits | bits_of_range(part, bounds)?))
}

/// One part: `*`, `5`, `5-9`, each with or without a step.
fn bits_of_range(part: &str, bounds: &Bounds) -> Result<u64, String> {
    let (range, step) = match part.split('/').collect::<Vec<_>>().as_slice() {
        [range] => (*range, None),
        [range, step] => (*range, Some(number(step)?)),
        _ => return Err("more than one slash: use one step such as */5".into()),
    };
    let ends: Vec<_> = range.split('-').collect();
    let single = ends.len() == 1;
    let (start, mut end, mut star) = match ends.as_slice() {
        ["*" | "?", ..] => (bounds.min, bounds.max, STAR),
        [only] => {
            let only = number_or_name(only, bounds)?;
            (only, only, 0)
        }
        [start, end] => (
            number_or_name(start, bounds)?,
            number_or_name(end, bounds)?,
            0,
        ),
        _ => return Err("more than one hyphen: use one range such as 1-5".into()),
    };
    if let Some(step) = step {
        // "5/15" starts at 5 and ends at the maximum.
        if single {
            end = bounds.max;
        }
        // "*/2" does not count as a star in the rule on days.
        if step > 1 {
            star = 0;
        }
    }
    let step = step.unwrap_or(1);
    let Bounds { min, max, .. } = *bounds;
    if start < min || end > max {
        let hint = if bounds.name == DAY_OF_WEEK.name && end == 7 {
            ": Sunday is 0"
        } else {
            ""
        };
        return Err(format!("expected numbers from {min} to {max}{hint}"));
    }
    if start > end {
        return Err(format!(
            "the range starts at {start} and ends at {end}: the start must not be greater than the end"
        ));
    }
    if step == 0 {
        return Err("the step is 0, expected 1 or more".into());
    }
    let bits = (start..=end)
        .step_by(step as usize)
        .fold(0, |bits, bit| bits | 1u64 << bit);
    Ok(bits | star)
}

fn number_or_name(text: &str, bounds: &Bounds) -> Result<u32, String> {
    let lower = text.to_ascii_lowercase();
    match (bounds.min..)
        .zip(bounds.names)
        .find(|(_, name)| **name == lower)
    {
        Some((number, _)) => Ok(number),
        None => number(text),
    }
}

fn number(text: &str) -> Result<u32, String> {
    text.parse()
        .map_err(|_| format!("{text:?} is not a valid number or name"))
}

/// A duration as Go writes it: numbers with units, such as `1h30m` or `1.5h`.
fn go_duration(text: &str) -> Option<Duration> {
    let text = text.strip_prefix('+').unwrap_or(text);
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut total_s = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, behind) = rest.split_at(digits);
        let unit_len = behind
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(unit_len);
        let unit_s = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" | "μs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        total_s += number.parse::<f64>().ok()? * unit_s;
        rest = behind;
    }
    if text.is_empty() {
        return None;
    }
    // Rounding can give slightly less than a whole second. One nanosecond more corrects this.
    Duration::try_from_secs_f64(total_s + 1e-9).ok()
}

/// A time in robfig's search: seconds since the epoch, in a time zone.
struct Local<'z> {
    second: i64,
    zone: &'z TimeZone,
}

impl Local<'_> {
    fn offset_s(&self, second: i64) -> Option<i64> {
        let offset = self.zone.to_offset(Timestamp::from_second(second).ok()?);
        Some(i64::from(offset.seconds()))
    }

    fn civil(&self) -> Option<DateTime> {
        let offset = self
            .zone
            .to_offset(Timestamp::from_second(self.second).ok()?);
        Some(offset.to_datetime(Timestamp::from_second(self.second).ok()?))
    }

    /// Sets the time as Go's `time.Date` does: reads `civil` as UTC, takes the zone's offset there for a guess, and uses
    /// the offset at the guess. This matters when the clock changes: such a time exists twice, or not at all.
    fn set(&mut self, civil: DateTime) -> Option<()> {
        let as_utc = Offset::UTC.to_timestamp(civil).ok()?.as_second();
        let guess = as_utc - self.offset_s(as_utc)?;
        self.second = as_utc - self.offset_s(guess)?;
        Some(())
    }
}

impl Fields {
    fn next_after(&self, after: i64, zone: &TimeZone) -> Option<Timestamp> {
        let mut at = Local {
            second: after + 1,
            zone,
        };
        let year_limit = at.civil()?.year() + YEARS_AHEAD;
        // Whether the smaller fields were set to their start.
        let mut started = false;
        let mut steps = 0;
        let mut step = || {
            steps += 1;
            (steps < MAX_STEPS).then_some(())
        };
        'wrap: loop {
            let mut now = at.civil()?;
            if now.year() > year_limit {
                return None;
            }
            while !has(self.month, now.month()) {
                step()?;
                if !started {
                    started = true;
                    now = midnight(now.date().first_of_month());
                    at.set(now)?;
                    now = at.civil()?;
                }
                // As Go adds a month: April 31 is May 1. This happens if the clock changes at midnight
                // of the first day.
                let first =
                    now.date()
                        .first_of_month()
                        .at(now.hour(), now.minute(), now.second(), 0);
                let days_in = Span::new().days(now.day() - 1);
                let next = first.checked_add(Span::new().months(1)).ok()?;
                at.set(next.checked_add(days_in).ok()?)?;
                now = at.civil()?;
                if now.month() == 1 {
                    continue 'wrap;
                }
            }
            while !self.day_matches(now.date()) {
                step()?;
                if !started {
                    started = true;
                    at.set(midnight(now.date()))?;
                    now = at.civil()?;
                }
                at.set(now.checked_add(Span::new().days(1)).ok()?)?;
                now = at.civil()?;
                // If the clock changed at midnight, go to the start of the day.
                let hour = i64::from(now.hour());
                if hour != 0 {
                    at.second += 3600 * if hour > 12 { 24 - hour } else { -hour };
                    now = at.civil()?;
                }
                if now.day() == 1 {
                    continue 'wrap;
                }
            }
            while !has(self.hour, now.hour()) {
                step()?;
                if !started {
                    started = true;
                    at.set(now.date().at(now.hour(), 0, 0, 0))?;
                }
                at.second += 3600;
                now = at.civil()?;
                if now.hour() == 0 {
                    continue 'wrap;
                }
            }
            while !has(self.minute, now.minute()) {
                step()?;
                if !started {
                    started = true;
                    at.second -= at.second.rem_euclid(60);
                }
                at.second += 60;
                now = at.civil()?;
                if now.minute() == 0 {
                    continue 'wrap;
                }
            }
            while now.second() != 0 {
                step()?;
                started = true;
                at.second += 1;
                now = at.civil()?;
                if now.second() == 0 {
                    continue 'wrap;
                }
            }
            return Timestamp::from_second(at.second).ok();
        }
    }

    /// If one of the two fields is a star, both must match. Otherwise one is enough.
    fn day_matches(&self, date: Date) -> bool {
        let month = has(self.day_of_month, date.day());
        let week = has(self.day_of_week, date.weekday().to_sunday_zero_offset());
        if self.day_of_month & STAR != 0 || self.day_of_week & STAR != 0 {
            month && week
        } else {
            month || week
        }
    }
}

fn has(bits: u64, number: i8) -> bool {
    u32::try_from(number).is_ok_and(|number| bits & 1 << number != 0)
}

fn midnight(date: Date) -> DateTime {
    date.at(0, 0, 0, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, seconds) in [
            ("90s", 90.0),
            ("1h30m", 5400.0),
            ("1.5h", 5400.0),
            ("100ms", 0.1),
            ("0", 0.0),
            (".5m", 30.0),
        ] {
            let read = go_duration(text).unwrap().as_secs_f64();
            assert!((read - seconds).abs() < 1e-6, "{text}: {read}");
        }
        for text in ["", "5", "x", "5x", "-5s", "s", "1h 5m", "1.2.3s"] {
            assert_eq!(go_duration(text), None, "{text}");
        }
    }

    #[test]
    fn every_is_on_a_grid_that_all_nodes_share() {
        let schedule = Schedule::parse("@every 90s").unwrap();
        let next = |second| {
            schedule
                .next_after(Timestamp::from_second(second).unwrap(), &TimeZone::UTC)
                .unwrap()
                .as_second()
        };
        assert_eq!(next(0), 90);
        assert_eq!(next(89), 90);
        assert_eq!(next(90), 180);
        assert_eq!(next(1_700_000_000) % 90, 0);
    }

    #[test]
    fn the_last_due_time_is_found() {
        let at: Timestamp = "2026-03-04T12:34:56Z".parse().unwrap();
        for (schedule, due) in [
            ("*/5 * * * *", Some("2026-03-04T12:30:00Z")),
            ("34 12 * * *", Some("2026-03-04T12:34:00Z")),
            ("35 12 * * *", Some("2026-03-03T12:35:00Z")),
            ("0 0 1 1 *", Some("2026-01-01T00:00:00Z")),
            ("@every 1h", Some("2026-03-04T12:00:00Z")),
            ("0 0 31 2 *", None),
        ] {
            let found = Schedule::parse(schedule)
                .unwrap()
                .last_due(at, &TimeZone::UTC);
            assert_eq!(found, due.map(|due| due.parse().unwrap()), "{schedule}");
        }
    }
}
