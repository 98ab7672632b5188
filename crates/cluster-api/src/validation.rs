//! Validates a `Backup` and fills in its defaults.

use crate::resources::{
    BackupSpec, DEFAULT_BACKUP, DEFAULT_BACKUP_NUMBER, DEFAULT_NUMBER, DEFAULT_SCHEDULE,
    DEFAULT_SIZE_GB, DEFAULT_TIME_ZONE, RetentionNumber, RetentionPolicy, RetentionType,
};
use backup_plan::cron::Schedule;
use backup_plan::record::{ON_DEMAND, is_origin};
use backup_plan::retention::Policy;
use jiff::Timestamp;
use jiff::tz::TimeZone;

/// A valid `Backup` with all defaults filled in.
#[derive(Debug, Clone, PartialEq)]
pub struct ValidBackup {
    /// The schedule as it was written, or the default. It can be parsed, and has a due time within five years.
    pub schedule: String,
    /// The time zone as it was written, or the default. It is known to this program.
    pub time_zone: String,
    /// Which backups are kept. Limits that were not written have their defaults.
    pub policy: Policy,
    /// The PersistentVolumeClaim. `None` if backups are stored on the local disk of each control-plane node.
    pub pvc_name: Option<String>,
}

impl ValidBackup {
    /// The defaults of `Backup/default`.
    #[must_use]
    pub fn of_servers() -> Self {
        ValidBackup {
            schedule: DEFAULT_SCHEDULE.into(),
            time_zone: DEFAULT_TIME_ZONE.into(),
            policy: Policy::Number(DEFAULT_BACKUP_NUMBER.unsigned_abs().into()),
            pvc_name: None,
        }
    }
}

/// Why a `Backup` is not valid, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidBackup(String);

/// Validates a `Backup` and fills in its defaults.
///
/// # Errors
/// The `Backup` is not valid.
pub fn validate(name: &str, spec: &BackupSpec) -> Result<ValidBackup, InvalidBackup> {
    let invalid = |problem: String| Err(InvalidBackup(problem));
    let etcd = &spec.etcd;
    let or_default =
        |text: &str, default: &str| if text.is_empty() { default } else { text }.to_string();
    let schedule = or_default(&etcd.schedule, DEFAULT_SCHEDULE);
    let time_zone = or_default(&etcd.time_zone, DEFAULT_TIME_ZONE);
    // The zone has a field of its own, as in a CronJob.
    if schedule.starts_with("TZ=") || schedule.starts_with("CRON_TZ=") {
        return invalid(format!(
            "spec.etcd.schedule {schedule:?} contains a time zone: set spec.etcd.timeZone instead"
        ));
    }
    let parsed = match Schedule::parse(&schedule) {
        Ok(parsed) => parsed,
        Err(error) => return invalid(format!("spec.etcd.schedule: {error}")),
    };
    let Ok(zone) = TimeZone::get(&time_zone) else {
        return invalid(format!(
            "spec.etcd.timeZone {time_zone:?} is not an IANA time zone: use a name such as UTC or Europe/Berlin"
        ));
    };
    // Every date that exists occurs within the five years that are searched.
    if parsed.next_after(Timestamp::UNIX_EPOCH, &zone).is_none() {
        return invalid(format!(
            "spec.etcd.schedule {schedule:?} is never due: no date matches it; change the day or the month"
        ));
    }
    if name == ON_DEMAND {
        return invalid(format!(
            "metadata.name {name:?} is reserved for backups that are requested by hand: give this Backup another name"
        ));
    }
    let is_default = name == DEFAULT_BACKUP;
    if is_default && !etcd.pvc_name.is_empty() {
        return invalid(format!(
            "spec.etcd.pvcName {:?}: Backup/default stores backups on the local disk of each node: remove pvcName, or give this Backup another name",
            etcd.pvc_name
        ));
    }
    let default_number = if is_default {
        DEFAULT_BACKUP_NUMBER
    } else {
        DEFAULT_NUMBER
    };
    if !etcd.pvc_name.is_empty() && !is_origin(&etcd.pvc_name) {
        let short: String = etcd.pvc_name.chars().take(253).collect();
        return invalid(format!(
            "spec.etcd.pvcName {short:?} is not a valid name of a PersistentVolumeClaim: use lowercase letters, digits, - and ."
        ));
    }
    Ok(ValidBackup {
        policy: policy(etcd.retention_policy.as_ref(), default_number)?,
        schedule,
        time_zone,
        pvc_name: Some(etcd.pvc_name.clone()).filter(|name| !name.is_empty()),
    })
}

fn policy(
    retention: Option<&RetentionPolicy>,
    default_number: i32,
) -> Result<Policy, InvalidBackup> {
    let at_least_one = |field: &str, value: i32| {
        u64::try_from(value)
            .ok()
            .filter(|value| *value >= 1)
            .ok_or_else(|| {
                InvalidBackup(format!(
                    "spec.etcd.retentionPolicy.{field} is {value}, expected 1 or more"
                ))
            })
    };
    let misplaced = |field: &str, kind: &str| {
        InvalidBackup(format!(
            "spec.etcd.retentionPolicy.{field} is only allowed with retentionType {kind}: remove it, or change retentionType"
        ))
    };
    let number = |set: Option<&RetentionNumber>| {
        let value = set.and_then(|set| set.max_number_of_backups);
        at_least_one(
            "retentionNumber.maxNumberOfBackups",
            value.unwrap_or(default_number),
        )
    };
    let Some(retention) = retention else {
        return number(None).map(Policy::Number);
    };
    match retention.retention_type {
        RetentionType::RetentionSize if retention.retention_number.is_some() => {
            Err(misplaced("retentionNumber", "RetentionNumber"))
        }
        RetentionType::RetentionSize => {
            let set = retention.retention_size.as_ref();
            let value = set.and_then(|set| set.max_size_of_backups_gb);
            let gib = at_least_one(
                "retentionSize.maxSizeOfBackupsGb",
                value.unwrap_or(DEFAULT_SIZE_GB),
            )?;
            Ok(Policy::SizeBytes(gib.saturating_mul(1 << 30)))
        }
        RetentionType::Other => Err(InvalidBackup(
            "spec.etcd.retentionPolicy.retentionType is not known to this version: use RetentionNumber or RetentionSize".into(),
        )),
        _ if retention.retention_size.is_some() => Err(misplaced("retentionSize", "RetentionSize")),
        _ => number(retention.retention_number.as_ref()).map(Policy::Number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn judged(name: &str, etcd: Value) -> Result<ValidBackup, String> {
        let spec = serde_json::from_value(json!({"etcd": etcd})).unwrap();
        validate(name, &spec).map_err(|error| error.to_string())
    }

    #[test]
    fn what_a_backup_leaves_out_has_its_documented_default() {
        let default = judged("default", json!({})).unwrap();
        assert_eq!(
            (default.schedule.as_str(), default.time_zone.as_str()),
            ("*/5 * * * *", "UTC")
        );
        assert_eq!(default.policy, Policy::Number(3));
        assert_eq!(default, ValidBackup::of_servers());
        assert_eq!(
            judged("weekly", json!({})).unwrap().policy,
            Policy::Number(15)
        );
        let kept = |retention: Value| {
            judged("weekly", json!({"retentionPolicy": retention}))
                .unwrap()
                .policy
        };
        assert_eq!(kept(json!({"retentionType": ""})), Policy::Number(15));
        assert_eq!(
            kept(json!({"retentionType": "RetentionSize"})),
            Policy::SizeBytes(10 << 30)
        );
        let seven = json!({"retentionType": "RetentionNumber", "retentionNumber": {"maxNumberOfBackups": 7}});
        assert_eq!(kept(seven), Policy::Number(7));
        let two =
            json!({"retentionType": "RetentionSize", "retentionSize": {"maxSizeOfBackupsGb": 2}});
        assert_eq!(kept(two), Policy::SizeBytes(2 << 30));
    }

    #[test]
    fn what_can_not_be_done_is_told_with_what_to_write() {
        for (name, etcd, expected) in [
            (
                "a",
                json!({"schedule": "*/5 */0 * * *"}),
                "spec.etcd.schedule: ",
            ),
            ("a", json!({"schedule": "0 0 30 2 *"}), "is never due"),
            ("on-demand", json!({}), "give this Backup another name"),
            (
                "a",
                json!({"schedule": "TZ=UTC 0 * * * *"}),
                "spec.etcd.timeZone",
            ),
            ("a", json!({"timeZone": "Berlin"}), "Europe/Berlin"),
            ("default", json!({"pvcName": "claim"}), "remove pvcName"),
            (
                "a",
                json!({"retentionPolicy": {"retentionType": "RetentionNumber", "retentionSize": {}}}),
                "is only allowed with retentionType RetentionSize",
            ),
            (
                "a",
                json!({"retentionPolicy": {"retentionType": "RetentionSize", "retentionNumber": {}}}),
                "is only allowed with retentionType RetentionNumber",
            ),
            (
                "a",
                json!({"retentionPolicy": {"retentionType": "", "retentionNumber": {"maxNumberOfBackups": 0}}}),
                "is 0, expected 1 or more",
            ),
        ] {
            let error = judged(name, etcd).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn what_another_version_wrote_is_read_as_far_as_it_is_known() {
        let result = judged(
            "a",
            json!({"retentionPolicy": {"retentionType": "RetentionAge", "retentionAge": {}}, "more": 1}),
        );
        assert!(result.unwrap_err().contains("not known to this version"));
    }
}
