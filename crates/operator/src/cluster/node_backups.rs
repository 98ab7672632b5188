//! What the operator reads from `NodeBackup`s beyond their fields.

use crate::names::SERVER_MANAGER;
use cluster_api::resources::NodeBackup;
use jiff::Timestamp;

/// Estimates when a node's newest proven backup first appeared, if nobody has observed the node before. If the last run made the backup,
/// this is the time when the node wrote its status. Otherwise it is the time in the backup's record.
pub(crate) fn estimate_newest_seen_at(report: &NodeBackup, now: Timestamp) -> Option<Timestamp> {
    let status = report.status.as_ref()?;
    let newest = status.last_verified.as_ref()?;
    let written = written_by_node(report).unwrap_or(now).min(now);
    let Ok(finished) = newest.finished_at.parse::<Timestamp>() else {
        return Some(written);
    };
    let of_last_run = status.last_attempt.as_ref().is_some_and(|attempt| {
        let started = attempt.started_at.parse::<Timestamp>();
        attempt.succeeded && started.is_ok_and(|started| started <= finished)
    });
    Some(if of_last_run {
        written
    } else {
        finished.min(written)
    })
}

pub(crate) fn creation_time(metadata: &kube::api::ObjectMeta) -> Timestamp {
    let created = metadata.creation_timestamp.as_ref();
    created.map_or(Timestamp::UNIX_EPOCH, |time| time.0)
}

/// When the node last wrote its `NodeBackup`, by the API server's clock. Writes of others do not count.
pub(crate) fn written_by_node(report: &NodeBackup) -> Option<Timestamp> {
    written_by(report, SERVER_MANAGER)
}

/// When this field manager last wrote a `NodeBackup`, by the API server's clock.
pub(crate) fn written_by(report: &NodeBackup, name: &str) -> Option<Timestamp> {
    let managers = report.metadata.managed_fields.iter().flatten();
    managers
        .filter(|manager| manager.manager.as_deref() == Some(name))
        .filter_map(|manager| manager.time.as_ref())
        .map(|time| time.0)
        .max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_somebody_else_writes_on_a_node_backup_makes_no_backup_new() {
        let written = |manager: &str, time: &str| json!({"manager": manager, "operation": "Update", "apiVersion": "v1", "time": time});
        let report: NodeBackup = serde_json::from_value(json!({
            "apiVersion": "lifeboat.etcd.io/v1alpha1",
            "kind": "NodeBackup",
            "metadata": {"name": "a", "managedFields": [
                written(SERVER_MANAGER, "2026-11-22T03:00:05Z"),
                written("kubectl-label", "2026-11-22T09:00:00Z"),
            ]},
            "spec": {},
            "status": {
                "lastVerified": {"name": "b", "finishedAt": "2026-11-22T03:00:00Z"},
                "lastAttempt": {"startedAt": "2026-11-22T03:00:00Z", "succeeded": true},
            },
        }))
        .unwrap();
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        assert_eq!(
            estimate_newest_seen_at(&report, at("2026-11-22T10:00:00Z")),
            Some(at("2026-11-22T03:00:05Z"))
        );
        // If the last run did not make the newest backup, the time in the record counts.
        let mut removed = report.clone();
        let status = removed.status.as_mut().unwrap();
        status.last_verified.as_mut().unwrap().finished_at = "2026-11-22T01:00:00Z".into();
        assert_eq!(
            estimate_newest_seen_at(&removed, at("2026-11-22T10:00:00Z")),
            Some(at("2026-11-22T01:00:00Z"))
        );
    }
}
