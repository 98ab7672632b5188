//! Builds conditions and detects whether they have changed.

use cluster_api::conditions::{ConditionType, StatusReason};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// A new value for a condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ConditionUpdate {
    pub(crate) type_: ConditionType,
    pub(crate) is_true: bool,
    pub(crate) reason: StatusReason,
    pub(crate) message: String,
}

/// The current condition of a type.
pub(crate) fn find_condition<'c>(
    conditions: &'c [Condition],
    type_: &str,
) -> Option<&'c Condition> {
    conditions.iter().find(|condition| condition.type_ == type_)
}

impl ConditionUpdate {
    /// Makes the condition. Keeps the transition time if the status does not change.
    pub(crate) fn to_condition(
        &self,
        before: Option<&Condition>,
        generation: Option<i64>,
        now: Timestamp,
    ) -> Condition {
        let status = if self.is_true { "True" } else { "False" };
        let unchanged = before.filter(|before| before.status == status);
        Condition {
            type_: self.type_.name().into(),
            status: status.into(),
            reason: self.reason.name().into(),
            message: self.message.clone(),
            observed_generation: generation,
            last_transition_time: unchanged
                .map_or(Time(now), |before| before.last_transition_time.clone()),
        }
    }

    /// Whether the current condition is the same. Writing it again would only wake all watchers.
    pub(crate) fn is_unchanged(&self, before: Option<&Condition>, generation: Option<i64>) -> bool {
        before.is_some_and(|before| {
            before.status == if self.is_true { "True" } else { "False" }
                && before.reason == self.reason.name()
                && before.message == self.message
                && before.observed_generation == generation
        })
    }
}
