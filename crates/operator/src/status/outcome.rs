//! The outcome of a request in its conditions.

use crate::status::conditions::{self, ConditionUpdate};
use cluster_api::conditions::{ConditionType, StatusReason};
use cluster_api::resources::EtcdBackup;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// The outcome of a request. The names are upstream's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// The request waits or is running.
    Pending,
    /// The backup was made.
    Completed,
    /// The backup could not be made.
    Failed,
    /// Another request runs instead.
    Skipped,
}

impl Outcome {
    /// The type of its condition, the reason in it, and that of its event.
    #[must_use]
    pub fn reason(self) -> StatusReason {
        match self {
            Outcome::Pending => StatusReason::BackupPending,
            Outcome::Completed => StatusReason::BackupCompleted,
            Outcome::Failed => StatusReason::BackupFailed,
            Outcome::Skipped => StatusReason::BackupSkipped,
        }
    }

    pub(crate) const ALL: [Outcome; 4] = [
        Outcome::Pending,
        Outcome::Completed,
        Outcome::Failed,
        Outcome::Skipped,
    ];
}

/// Reads the outcome and its condition from the status of a request.
#[must_use]
pub fn outcome(request: &EtcdBackup) -> Option<(Outcome, Condition)> {
    let conditions = &request.status.as_ref()?.conditions;
    let holds = conditions
        .iter()
        .find(|condition| condition.status == "True")?;
    let outcome = Outcome::ALL
        .into_iter()
        .find(|outcome| outcome.reason().name() == holds.type_)?;
    Some((outcome, holds.clone()))
}

/// The conditions after a new outcome. Only the newest condition is true; earlier ones become false.
pub(crate) fn conditions(
    before: &[Condition],
    outcome: Outcome,
    message: &str,
    generation: Option<i64>,
) -> Vec<Condition> {
    let now = Timestamp::now();
    let type_ = outcome.reason().name();
    let newest = ConditionUpdate {
        type_: ConditionType::Outcome(outcome.reason()),
        is_true: true,
        reason: outcome.reason(),
        message: message.into(),
    };
    let old = before.iter().filter(|condition| condition.type_ != type_);
    let mut all: Vec<_> = old
        .map(|condition| {
            let over = Condition {
                status: "False".into(),
                ..condition.clone()
            };
            if condition.status == "False" {
                return over;
            }
            Condition {
                last_transition_time: Time(now),
                ..over
            }
        })
        .collect();
    let same = conditions::find_condition(before, type_);
    all.push(newest.to_condition(same, generation, now));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_condition_holds_at_a_time() {
        let pending = conditions(&[], Outcome::Pending, "waits", Some(1));
        let done = conditions(&pending, Outcome::Completed, "made", Some(1));
        let held: Vec<_> = done
            .iter()
            .map(|condition| (condition.type_.as_str(), condition.status.as_str()))
            .collect();
        assert_eq!(
            held,
            [("BackupPending", "False"), ("BackupCompleted", "True")]
        );
    }
}
