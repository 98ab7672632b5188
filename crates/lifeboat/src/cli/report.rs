//! The report of a verification, for people.

use super::output;
use backup_store::verify::{Check, Report};

pub(crate) fn for_people(name: &str, report: &Report) -> String {
    let verdict = if report.ok { "ok" } else { "NOT OK" };
    let mut text = format!("{name}: {verdict}\n\n");
    text += &output::table(
        ["CHECK", "RESULT", "TIME", "DETAIL"],
        report.checks.iter().map(|check| {
            let result = match check.ok {
                Some(true) => "ok",
                Some(false) => "FAILED",
                None => "skipped",
            };
            [
                check.name.to_string(),
                result.to_string(),
                format!("{:.1} s", check.took_ms as f64 / 1000.0),
                check.detail.clone(),
            ]
        }),
    );
    for check in &report.checks {
        text += &findings(check);
    }
    let numbers = numbers(report);
    if !numbers.is_empty() {
        text += "\n";
        text += output::table(["", ""], numbers).trim_start();
    }
    text
}

/// Errors and warnings of a check, one per line.
fn findings(check: &Check) -> String {
    let mut text = String::new();
    for (kind, lines) in [("error", &check.errors), ("warning", &check.warnings)] {
        for line in lines {
            text += &format!("{kind}: {}: {line}\n", check.name);
        }
    }
    if !text.is_empty() {
        text.insert(0, '\n');
    }
    text
}

fn numbers(report: &Report) -> Vec<[String; 2]> {
    let mut rows = Vec::new();
    let mut row = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            rows.push([name.to_string(), value]);
        }
    };
    let number = |value: u64| Some(value.to_string());
    row("hash", report.hash.clone());
    row(
        "revision",
        report.revision.map(|revision| revision.to_string()),
    );
    if let Some(details) = &report.details {
        row(
            "compacted to",
            (details.compact_revision >= 0).then(|| details.compact_revision.to_string()),
        );
        row("keys", report.total_keys.map(|keys| keys.to_string()));
        row("records", number(details.records));
        row(
            "raft index",
            details.consistent_index.map(|index| index.to_string()),
        );
        row("members", number(details.members));
        row("cluster version", details.cluster_version.clone());
        row("storage version", details.storage_version.clone());
    }
    row("size", report.size_bytes.map(output::bytes));
    rows
}
