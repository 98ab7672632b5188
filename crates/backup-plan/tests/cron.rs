//! Schedules beside robfig/cron v3.0.1: the table was made by running it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use backup_plan::cron::Schedule;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use proptest::prelude::*;

fn check_table(table: &str) -> usize {
    let mut checked = 0;
    for line in table.lines() {
        let columns: Vec<_> = line.split('\t').collect();
        match columns.as_slice() {
            ["parse", schedule, accepted] => {
                let read = Schedule::parse(schedule);
                assert_eq!(
                    read.is_ok().to_string(),
                    **accepted,
                    "{schedule:?}: {read:?}"
                );
            }
            ["next", schedule, zone, from, wanted] => {
                let read = Schedule::parse(schedule).unwrap();
                let zone = TimeZone::get(zone).unwrap();
                let mut at = Timestamp::from_second(from.parse().unwrap()).unwrap();
                for wanted in wanted.split(' ') {
                    let next = read.next_after(at, &zone);
                    let told = next.map_or("-".to_string(), |next| next.as_second().to_string());
                    assert_eq!(told, wanted, "{line}, after {at}");
                    at = next.unwrap_or(at);
                }
            }
            _ => panic!("{line}"),
        }
        checked += 1;
    }
    checked
}

#[test]
fn every_schedule_is_due_when_kubernetes_says() {
    assert!(check_table(include_str!("robfig-v3.0.1.tsv")) > 500);
    // A larger table than is kept, for whoever makes one.
    if let Ok(path) = std::env::var("LIFEBOAT_ROBFIG_TABLE") {
        println!(
            "{} rows",
            check_table(&std::fs::read_to_string(path).unwrap())
        );
    }
}

#[test]
fn a_wrong_schedule_is_told_with_what_to_write_instead() {
    for (schedule, told) in [
        ("* * * * 7", "Sunday is 0"),
        ("* * * *", "4 fields, expected 5"),
        ("0 0 L * *", "day of month \"L\""),
        ("0 0 15W * *", "day of month \"15W\""),
        ("0 0 * * 5#2", "day of week \"5#2\""),
        ("60 * * * *", "expected numbers from 0 to 59"),
        ("*/5 */0 * * *", "the step is 0"),
        ("9-5 * * * *", "the start must not be greater"),
        ("@always", "use @hourly"),
        ("@every 5", "such as 90s"),
        ("TZ=UTC * * * * *", "time zone"),
        ("CRON_TZ=UTC * * * * *", "time zone"),
        ("", "0 fields, expected 5"),
    ] {
        let error = Schedule::parse(schedule).unwrap_err().to_string();
        assert!(error.contains(told), "{error}");
    }
}

proptest! {
    #[test]
    fn in_utc_the_next_time_is_the_first_minute_that_matches(
        minutes in proptest::collection::btree_set(0..60i8, 1..4),
        hours in proptest::collection::btree_set(0..24i8, 1..4),
        from in 0..4_000_000_000i64,
    ) {
        let list = |numbers: &std::collections::BTreeSet<i8>| {
            numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
        };
        let schedule = format!("{} {} * * *", list(&minutes), list(&hours));
        let schedule = Schedule::parse(&schedule).unwrap();
        let from = Timestamp::from_second(from).unwrap();
        let next = schedule.next_after(from, &TimeZone::UTC).unwrap();
        let wanted = (from.as_second() / 60 + 1..)
            .map(|minute| Timestamp::from_second(minute * 60).unwrap())
            .find(|at| {
                let at = at.to_zoned(TimeZone::UTC);
                minutes.contains(&at.minute()) && hours.contains(&at.hour())
            });
        prop_assert_eq!(Some(next), wanted);
        prop_assert_eq!(schedule.last_due(next, &TimeZone::UTC), Some(next));
    }

    #[test]
    fn no_text_makes_the_parser_panic_or_the_search_endless(
        text in "[-0-9*/?,@a-z #]{0,24}",
        from in 0..4_000_000_000i64,
    ) {
        if let Ok(schedule) = Schedule::parse(&text) {
            let zone = TimeZone::get("Pacific/Apia").unwrap();
            let from = Timestamp::from_second(from).unwrap();
            if let Some(next) = schedule.next_after(from, &zone) {
                prop_assert!(next > from);
            }
        }
    }
}
