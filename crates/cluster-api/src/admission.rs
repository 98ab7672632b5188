//! CEL rules with which the API server itself refuses a `Backup` whose schedule or time zone is not valid.
//!
//! They accept everything that [`crate::validation::validate`] accepts. They leave to it what a regular expression cannot find:
//! ranges that end before they begin, days that no month has, unknown time zones. The maximum lengths of the fields limit the cost
//! of the rules.

use serde_json::{Value, json};

/// White space as in the parser of schedules, for a character class of a regular expression.
const SPACE: &str = r"\s\v\x{85}\pZ";
/// Matches a schedule that does not consist of fields: a descriptor, or one with a time zone, which has its own rule.
const NO_FIELDS: &str = "self.matches('^(@|(CRON_)?TZ=)')";

/// The fields of a schedule: the name of the field, a pattern of one number or name, what to write.
const FIELDS: [(&str, &str, &str); 5] = [
    (
        "minute (the first field)",
        r"[0-5]?\d",
        "numbers from 0 to 59, such as 5 or 0,30 or 10-20, * for every minute, or */15",
    ),
    (
        "hour (the second field)",
        r"1?\d|2[0-3]",
        "numbers from 0 to 23, such as 3 or 0,12 or 9-17, * for every hour, or */6",
    ),
    (
        "day of the month (the third field)",
        r"[1-9]|[12]\d|3[01]",
        "numbers from 1 to 31, such as 1 or 1,15 or 1-7, or * for every day. L and W are not supported",
    ),
    (
        "month (the fourth field)",
        r"[1-9]|1[0-2]|jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec",
        "numbers from 1 to 12 or names from JAN to DEC, such as 1 or JAN,JUL or 4-9, or * for every month",
    ),
    (
        "day of the week (the fifth field)",
        r"[0-6]|sun|mon|tue|wed|thu|fri|sat",
        "numbers from 0 (Sunday) to 6 or names from SUN to SAT, such as 0 or MON-FRI, or * for every day. 7, L and # are not supported",
    ),
];

fn rule(rule: impl Into<String>, message: &str) -> Value {
    json!({"rule": rule.into(), "message": message})
}

/// The rules on `spec.etcd.schedule`.
#[must_use]
pub fn schedule() -> Vec<Value> {
    let five = format!("self.findAll(r'[^{SPACE}]+').size() == 5");
    let mut rules = vec![
        rule(
            "!self.matches('^(CRON_)?TZ=')",
            "the schedule contains a time zone: set spec.etcd.timeZone instead",
        ),
        rule(
            "!self.startsWith('@') || self.matches('^@every .') || self.matches('^@(yearly|annually|monthly|weekly|daily|midnight|hourly)$')",
            "the schedule is not a known word: use @hourly, @daily, @weekly, @monthly, @yearly, @every 90s, or five fields such as 0 3 * * *",
        ),
        rule(
            format!("self == '' || {NO_FIELDS} || {five}"),
            "the schedule needs five fields (minute, hour, day of the month, month, day of the week), such as 0 3 * * * for every day at 03:00",
        ),
    ];
    rules.extend((0..).zip(FIELDS).map(|(index, (what, number, write))| {
        let number = format!(r"(?:\+?0*(?:{number}))");
        let part = format!(
            r"(?:(?:[*?](?:-[^/,{SPACE}]*)?|{number}(?:-{number})?)(?:/\+?0*[1-9]\d{{0,9}})?)?"
        );
        let word = format!("[^{SPACE}]+");
        let (before, after) = (index, 4 - index);
        // The schedule has five words. The pattern matches the words before and after this one.
        let field = format!(
            "(?i)^[{SPACE}]*(?:{word}[{SPACE}]+){{{before}}}(?:{part}(?:[,{SPACE}]|$))+(?:{word}(?:[{SPACE}]+|$)){{{after}}}$"
        );
        rule(
            format!("{NO_FIELDS} || !({five}) || self.matches(r'{field}')"),
            &format!("the {what} is not valid: use {write}"),
        )
    }));
    rules
}

/// The rules on `spec.etcd.timeZone`.
#[must_use]
pub fn time_zone() -> Vec<Value> {
    let offset = r"self.matches(r'(?i)^(etc/)?(utc?|gmt|z)?[+-]?\d[\d:.]*$')";
    let name =
        r"self.matches(r'(?i)^((etc/)?gmt[+-]?0|etc/gmt(\+([1-9]|1[0-2])|-([1-9]|1[0-4])))$')";
    vec![rule(
        format!("!{offset} || {name}"),
        "the time zone is an offset, not a name: use a name such as Europe/Berlin, or UTC",
    )]
}
