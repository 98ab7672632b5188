//! Any text as a schedule, at any time: due times go forward, and the last one is not in the future.
#![no_main]

use backup_plan::cron::Schedule;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use libfuzzer_sys::fuzz_target;

const ZONES: [&str; 6] = [
    "UTC",
    "Europe/Berlin",
    "America/St_Johns",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "Africa/Casablanca",
];

// The first character says when, the second where, the rest is the schedule.
fuzz_target!(|data: &str| {
    let mut chars = data.chars();
    let (Some(second), Some(zone)) = (chars.next(), chars.next()) else {
        return;
    };
    let (second, zone, text) = (i64::from(second as u32) * 3_599, zone as usize, chars.as_str());
    let Ok(schedule) = Schedule::parse(text) else {
        return;
    };
    let zone = TimeZone::get(ZONES[zone % ZONES.len()]).expect("a zone");
    let at = Timestamp::from_second(second).expect("a time");
    if let Some(next) = schedule.next_after(at, &zone) {
        assert!(next > at);
    }
    if let Some(last) = schedule.last_due(at, &zone) {
        assert!(last <= at);
    }
    let _ = schedule.period(at, &zone);
});
