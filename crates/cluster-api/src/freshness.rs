//! Whether a node's backups are up to date. Another process than the one that makes them decides this, by another
//! clock than the node's.

use crate::conditions::StatusReason;
use crate::resources::{NodeBackupStatus, NodeMember, OtherEtcdStatus};
use backup_plan::cron::Schedule;
use backup_plan::freshness::{self, Freshness};
use jiff::Timestamp;
use jiff::tz::TimeZone;

/// Problem texts are shortened to this length.
const MESSAGE_CHARS: usize = 400;
/// How many nodes a message lists.
const NODES_NAMED: usize = 5;

/// The observed state of a node.
#[derive(Debug, Clone)]
pub struct NodeView<'n> {
    /// Its name.
    pub name: &'n str,
    /// Since when the node should have backups by this schedule.
    pub covered_since: Timestamp,
    /// The status that the node reports, if any.
    pub reported: Option<&'n NodeBackupStatus>,
    /// When a new proven backup was last seen, by the observer's clock.
    pub advanced_at: Option<Timestamp>,
    /// What is wrong with the pod of its backup server, if known.
    pub pod_problem: Option<String>,
}

/// Whether the backups of a node are up to date.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The node has nothing to back up, and why.
    NotApplicable(String),
    /// The newest proven backup is up to date.
    Fresh {
        /// When it becomes stale.
        until: Option<Timestamp>,
    },
    /// It has no proven backup yet, but it had not enough time.
    Pending {
        /// When the node becomes stale.
        until: Option<Timestamp>,
    },
    /// Its backups are not up to date, and why.
    Stale(String),
}

/// Decides whether a node's backups are up to date at `now`.
#[must_use]
pub fn judge(schedule: &Schedule, zone: &TimeZone, node: &NodeView<'_>, now: Timestamp) -> Verdict {
    let reported = node.reported;
    let verified = reported.and_then(|reported| reported.last_verified.as_ref());
    match reported.map(|reported| reported.member) {
        Some(NodeMember::Learner) => {
            return Verdict::NotApplicable(
                "its etcd member is a learner: it has no vote yet".into(),
            );
        }
        // A node that had one is not excused by what its files say today.
        Some(NodeMember::None) if verified.is_none() => {
            return Verdict::NotApplicable("it has no etcd member".into());
        }
        _ => {}
    }
    let mut others = reported.iter().flat_map(|reported| &reported.other_etcds);
    if let Some(stale) = others.find(|etcd| etcd.stale) {
        return Verdict::Stale(why_other(stale));
    }
    let newest = node.advanced_at.filter(|_| verified.is_some());
    match freshness::judge(schedule, zone, newest, node.covered_since, now) {
        Freshness::Stale { .. } => Verdict::Stale(why(node)),
        // Proven, but the one who judges has not seen yet when it came.
        Freshness::Fresh { until } | Freshness::Pending { until } if verified.is_some() => {
            Verdict::Fresh { until }
        }
        Freshness::Fresh { until } | Freshness::Pending { until } => Verdict::Pending { until },
    }
}

/// What is wrong with a node; the most likely cause first.
fn why(node: &NodeView<'_>) -> String {
    let has = match node
        .reported
        .and_then(|reported| reported.last_verified.as_ref())
    {
        Some(newest) => format!(
            "its newest proven backup finished at {}",
            newest.finished_at
        ),
        None => "it has no proven backup".to_string(),
    };
    let attempt = node
        .reported
        .and_then(|reported| reported.last_attempt.as_ref());
    let failed = attempt.filter(|attempt| !attempt.succeeded);
    let reason = if let Some(problem) = &node.pod_problem {
        problem.clone()
    } else if let Some(failed) = failed {
        // Without a count, which would make it news each time.
        format!(
            "its last run failed ({}): {}",
            failed.reason, failed.message
        )
    } else if let Some(problem) = node.reported.and_then(|reported| reported.problem.clone()) {
        problem
    } else {
        "its backup server runs but reports nothing new: it hangs, or it cannot reach the API server"
            .into()
    };
    shortened(&format!("{has}; {reason}"))
}

/// What is wrong with another etcd of a node.
fn why_other(etcd: &OtherEtcdStatus) -> String {
    let has = match &etcd.last_verified {
        Some(newest) => format!(
            "its newest proven backup of etcd {} finished at {}",
            etcd.name, newest.finished_at
        ),
        None => format!("it has no proven backup of etcd {}", etcd.name),
    };
    let problem = etcd.problem.as_ref();
    let problem = problem.map_or_else(String::new, |problem| format!("; {problem}"));
    shortened(&format!("{has}{problem}"))
}

/// A text of a node or a container, short enough for a message.
#[must_use]
pub fn shortened(text: &str) -> String {
    let mut short: String = text.chars().take(MESSAGE_CHARS).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short.replace('\n', " ")
}

/// All nodes together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// Whether an administrator should look.
    pub degraded: bool,
    /// The reason, as one word.
    pub reason: StatusReason,
    /// The message to read. It does not change if nothing has changed.
    pub message: String,
    /// When to check again, if nothing happens before.
    pub look_again_at: Option<Timestamp>,
}

/// Combines the verdicts of all control-plane nodes, in the order of their names.
#[must_use]
pub fn sum_up(verdicts: &[(&str, Verdict)]) -> Judgement {
    let mut stale = Vec::new();
    let mut not_applicable = Vec::new();
    let (mut fresh, mut pending) = (0usize, Vec::new());
    let mut look_again_at: Option<Timestamp> = None;
    for (node, verdict) in verdicts {
        match verdict {
            Verdict::Stale(why) => stale.push(format!("{node}: {why}")),
            Verdict::NotApplicable(why) => not_applicable.push(format!("{node}: {why}")),
            Verdict::Fresh { until } => {
                fresh += 1;
                look_again_at = earlier(look_again_at, *until);
            }
            Verdict::Pending { until } => {
                pending.push(*node);
                look_again_at = earlier(look_again_at, *until);
            }
        }
    }
    let (degraded, reason, message) = if !stale.is_empty() {
        (true, StatusReason::BackupsStale, listed(&stale))
    } else if fresh + pending.len() == 0 {
        let message = if not_applicable.is_empty() {
            "nothing is backed up: no node has the role label control-plane, master or etcd".into()
        } else {
            format!("nothing is backed up: {}", listed(&not_applicable))
        };
        (true, StatusReason::NoNodesCovered, message)
    } else if pending.is_empty() {
        let message = format!("{} an up-to-date proven backup", has(fresh));
        (false, StatusReason::AsExpected, message)
    } else {
        let message = format!(
            "{} an up-to-date proven backup; waiting for: {}",
            has(fresh),
            pending.join(", ")
        );
        (false, StatusReason::BackupPending, message)
    };
    Judgement {
        degraded,
        reason,
        message,
        look_again_at,
    }
}

fn has(nodes: usize) -> String {
    match nodes {
        1 => "1 node has".into(),
        nodes => format!("{nodes} nodes have"),
    }
}

fn earlier(one: Option<Timestamp>, other: Option<Timestamp>) -> Option<Timestamp> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

fn listed(problems: &[String]) -> String {
    let named = problems
        .iter()
        .take(NODES_NAMED)
        .cloned()
        .collect::<Vec<_>>()
        .join(". ");
    match problems.len().saturating_sub(NODES_NAMED) {
        0 => named,
        more => format!("{named}. And {more} more nodes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conditions::StatusReason;
    use crate::resources::{Attempt, NodeBackupEntry};

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn reported(member: NodeMember, verified: bool) -> NodeBackupStatus {
        NodeBackupStatus {
            member,
            last_verified: verified.then(|| NodeBackupEntry {
                // A clock that is an hour behind.
                finished_at: "2026-11-22T02:01:00Z".into(),
                ..NodeBackupEntry::default()
            }),
            ..NodeBackupStatus::default()
        }
    }

    fn node<'n>(reported: Option<&'n NodeBackupStatus>, advanced_at: Option<&str>) -> NodeView<'n> {
        NodeView {
            name: "a",
            covered_since: at("2026-11-22T00:00:00Z"),
            reported,
            advanced_at: advanced_at.map(at),
            pod_problem: None,
        }
    }

    fn verdict(node: &NodeView<'_>, now: &str) -> Verdict {
        let schedule = Schedule::parse("*/5 * * * *").unwrap();
        judge(&schedule, &TimeZone::UTC, node, at(now))
    }

    #[test]
    fn a_backup_is_too_old_when_two_more_were_due_and_had_their_time() {
        let reported = reported(NodeMember::Voter, true);
        let seen = node(Some(&reported), Some("2026-11-22T03:01:00Z"));
        let until = Some(at("2026-11-22T03:12:00Z"));
        assert_eq!(
            verdict(&seen, "2026-11-22T03:11:59Z"),
            Verdict::Fresh { until }
        );
        assert!(matches!(
            verdict(&seen, "2026-11-22T03:12:00Z"),
            Verdict::Stale(_)
        ));
    }

    #[test]
    fn a_schedule_that_was_changed_a_moment_ago_is_not_missed_yet() {
        let reported = reported(NodeMember::Voter, true);
        let mut seen = node(Some(&reported), Some("2026-11-21T03:01:00Z"));
        seen.covered_since = at("2026-11-22T03:00:00Z");
        assert!(matches!(
            verdict(&seen, "2026-11-22T03:01:00Z"),
            Verdict::Fresh { .. }
        ));
    }

    #[test]
    fn a_node_without_a_voting_member_is_not_missed_unless_it_had_one() {
        for (member, verified, applicable) in [
            (NodeMember::Learner, false, false),
            (NodeMember::Learner, true, false),
            (NodeMember::None, false, false),
            (NodeMember::None, true, true),
            (NodeMember::Unknown, false, true),
        ] {
            let reported = reported(member, verified);
            let verdict = verdict(&node(Some(&reported), None), "2026-11-22T03:00:00Z");
            let is_applicable = !matches!(verdict, Verdict::NotApplicable(_));
            assert_eq!(is_applicable, applicable, "{member:?} {verified}");
        }
    }

    #[test]
    fn it_is_told_why_by_what_a_person_would_look_at_first() {
        let now = "2026-11-22T03:00:00Z";
        let mut status = reported(NodeMember::Voter, true);
        let advanced = Some("2026-11-22T00:01:00Z");
        let Verdict::Stale(why) = verdict(&node(Some(&status), advanced), now) else {
            panic!("it is stale");
        };
        assert!(
            why.contains("2026-11-22T02:01:00Z") && why.contains("hangs"),
            "{why}"
        );
        status.last_attempt = Some(Attempt {
            reason: "member".into(),
            message: "connection\nrefused".into(),
            consecutive_failures: 4,
            ..Attempt::default()
        });
        let Verdict::Stale(why) = verdict(&node(Some(&status), advanced), now) else {
            panic!("it is stale");
        };
        assert!(
            why.contains("its last run failed (member): connection refused"),
            "{why}"
        );
        let mut seen = node(Some(&status), advanced);
        seen.pod_problem = Some("pod x: CrashLoopBackOff".into());
        let Verdict::Stale(why) = verdict(&seen, now) else {
            panic!("it is stale");
        };
        assert!(
            why.contains("CrashLoopBackOff") && !why.contains("refused"),
            "{why}"
        );
    }

    #[test]
    fn all_nodes_together_are_as_well_as_the_worst_of_them() {
        let until = Some(at("2026-11-22T03:12:00Z"));
        let fresh = || Verdict::Fresh { until };
        let none = || Verdict::NotApplicable("none".into());
        for (verdicts, degraded, reason) in [
            (vec![], true, StatusReason::NoNodesCovered),
            (
                vec![("a", none()), ("b", none())],
                true,
                StatusReason::NoNodesCovered,
            ),
            (
                vec![("a", none()), ("b", fresh())],
                false,
                StatusReason::AsExpected,
            ),
            (
                vec![("a", Verdict::Pending { until }), ("b", fresh())],
                false,
                StatusReason::BackupPending,
            ),
            (
                vec![("a", Verdict::Stale("old".into())), ("b", fresh())],
                true,
                StatusReason::BackupsStale,
            ),
        ] {
            let judged = sum_up(&verdicts);
            assert_eq!((judged.degraded, judged.reason), (degraded, reason));
        }
        let many: Vec<_> = (0..9)
            .map(|_| ("n", Verdict::Stale("old".into())))
            .collect();
        assert!(sum_up(&many).message.ends_with("And 4 more nodes"));
    }
}
