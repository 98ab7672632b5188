//! The custom resources: what a cluster's users write, and what they are told.
//!
//! `Backup` and `EtcdBackup` have the groups, versions, names, fields and values of OpenShift's (openshift/api:
//! `config/v1alpha1/types_backup.go`, `operator/v1alpha1/types_etcdbackup.go`), so that what was written for
//! one is read by the other. `NodeBackup` is our own.

use crate::cron::Schedule;
use crate::record::{ON_DEMAND, is_origin};
use crate::retention::Policy;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, CustomResourceExt, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The `Backup` that keeps backups on every control-plane node.
pub const DEFAULT_BACKUP: &str = "default";
/// The schedule of a `Backup` that names none.
pub const DEFAULT_SCHEDULE: &str = "*/5 * * * *";
/// The zone of a `Backup` that names none.
pub const DEFAULT_TIME_ZONE: &str = "UTC";
/// What `Backup/default` keeps on each node.
pub const DEFAULT_BACKUP_NUMBER: i32 = 3;
/// What a `Backup` without a retention policy keeps.
pub const DEFAULT_NUMBER: i32 = 15;
/// What `RetentionSize` without a size keeps, in GiB.
pub const DEFAULT_SIZE_GB: i32 = 10;
/// On an `EtcdBackup`: the `Backup` that it was asked for by.
pub const BACKUP_ANNOTATION: &str = "lifeboat.etcd.io/backup";
/// How many of its backups a `NodeBackup` names.
pub const NODE_BACKUP_ENTRIES: usize = 20;

/// Backups of etcd on a schedule. The one named "default" keeps them on the disk of every control-plane node; any other in a
/// volume, or, without pvcName, on those disks as well.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "config.openshift.io",
    version = "v1alpha1",
    kind = "Backup",
    plural = "backups",
    doc = "Backups of etcd on a schedule. The one named \"default\" keeps them on every control-plane node.",
    status = "BackupStatus",
    derive = "PartialEq",
    printcolumn = r#"{"name":"Schedule","type":"string","jsonPath":".spec.etcd.schedule"}"#,
    printcolumn = r#"{"name":"Zone","type":"string","jsonPath":".spec.etcd.timeZone"}"#,
    printcolumn = r#"{"name":"Retention","type":"string","jsonPath":".spec.etcd.retentionPolicy.retentionType"}"#,
    printcolumn = r#"{"name":"Degraded","type":"string","jsonPath":".status.conditions[?(@.type=='Degraded')].status"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.conditions[?(@.type=='Degraded')].reason"}"#,
    printcolumn = r#"{"name":"Evaluated","type":"date","jsonPath":".status.lastEvaluated"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct BackupSpec {
    /// How etcd is backed up.
    pub etcd: EtcdBackupPolicy,
}

/// When, where and how many.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct EtcdBackupPolicy {
    /// When a backup is due: five fields of cron, or a descriptor such as @hourly. Every five minutes if it is empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 512), extend("x-kubernetes-validations" = crate::admission::schedule()))]
    pub schedule: String,
    /// The IANA time zone of the schedule, such as Europe/Berlin. UTC if it is empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-validations" = crate::admission::time_zone()))]
    pub time_zone: String,
    /// Which backups are kept. The newest 15 if it is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retention_policy: Option<RetentionPolicy>,
    /// The claim of the volume that backups go to. The node's own disk if it is empty; "default" has none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub pvc_name: String,
}

/// Which backups are kept. The newest verified one always is.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RetentionPolicy {
    /// What decides: their number, or their size. Their number if it is empty.
    pub retention_type: RetentionType,
    /// With RetentionNumber.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retention_number: Option<RetentionNumber>,
    /// With RetentionSize.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retention_size: Option<RetentionSize>,
}

/// What decides which backups are kept.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RetentionType {
    /// Their number.
    #[default]
    #[serde(rename = "")]
    Default,
    /// Their number.
    RetentionNumber,
    /// Their size.
    RetentionSize,
    /// Something that came later: one `Backup` that is not understood must not hide all others.
    #[serde(other)]
    #[schemars(skip)]
    Other,
}

/// How many backups are kept.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct RetentionNumber {
    /// The newest so many. 15 if it is missing.
    #[schemars(range(min = 1))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_number_of_backups: Option<i32>,
}

/// How large backups may be together.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct RetentionSize {
    /// The newest that fit in so many GiB, and the newest in any case. 10 if it is missing.
    #[schemars(range(min = 1))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_size_of_backups_gb: Option<i32>,
}

/// What there is to know of a Backup.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct BackupStatus {
    /// How it is.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// When the next backup is due.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_run: Option<String>,
    /// When the operator last judged whether its backups are new enough; it does so every five minutes. What is older says how
    /// it was then.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub last_evaluated: Option<String>,
}

/// One backup of etcd, now.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "operator.openshift.io",
    version = "v1alpha1",
    kind = "EtcdBackup",
    plural = "etcdbackups",
    doc = "One backup of etcd, now. It says what came of it.",
    status = "EtcdBackupStatus",
    derive = "PartialEq",
    printcolumn = r#"{"name":"Completed","type":"string","jsonPath":".status.conditions[?(@.type=='BackupCompleted')].status"}"#,
    printcolumn = r#"{"name":"Job","type":"string","jsonPath":".status.backupJob.name"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct EtcdBackupSpec {
    /// The claim of the volume that the backup goes to. The disk of every control-plane node if it is empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[x_kube(validation = Rule::new("self == oldSelf").message("pvcName is immutable once set"))]
    pub pvc_name: String,
}

/// What came of an `EtcdBackup`.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct EtcdBackupStatus {
    /// BackupPending, BackupCompleted, BackupFailed, BackupSkipped.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// The Job that makes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backup_job: Option<BackupJob>,
}

/// A Job.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct BackupJob {
    /// Its namespace.
    #[schemars(length(min = 1))]
    pub namespace: String,
    /// Its name.
    #[schemars(length(min = 1))]
    pub name: String,
}

/// The backups of one control-plane node, as the node itself tells. Written by that node alone.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "lifeboat.etcd.io",
    version = "v1alpha1",
    kind = "NodeBackup",
    plural = "nodebackups",
    doc = "The backups of one control-plane node, as the node itself tells.",
    status = "NodeBackupStatus",
    derive = "PartialEq",
    derive = "Default",
    printcolumn = r#"{"name":"Verified","type":"date","jsonPath":".status.lastVerified.finishedAt"}"#,
    printcolumn = r#"{"name":"Revision","type":"integer","jsonPath":".status.lastVerified.revision"}"#,
    printcolumn = r#"{"name":"Kept","type":"integer","jsonPath":".status.kept"}"#,
    printcolumn = r#"{"name":"Member","type":"string","jsonPath":".status.member"}"#,
    printcolumn = r#"{"name":"Problem","type":"string","jsonPath":".status.problem"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct NodeBackupSpec {}

/// What a node tells of its backups.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeBackupStatus {
    /// The version of the backup server.
    pub version: String,
    /// The schedule that it works by.
    pub schedule: String,
    /// The time zone of the schedule.
    pub time_zone: String,
    /// What the node has of etcd.
    pub member: NodeMember,
    /// The newest backup that was proven.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_verified: Option<NodeBackupEntry>,
    /// The last run that has come to its end, whichever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_attempt: Option<Attempt>,
    /// What is wrong, for a person to read; missing if nothing is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// When the next run is due, by the node's clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_due: Option<String>,
    /// How many proven backups the node keeps.
    pub kept: i64,
    /// How many backups the node has whose record or files are damaged or missing.
    pub unreadable: i64,
    /// The newest of them, 20 at most.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    pub backups: Vec<NodeBackupEntry>,
}

/// What a node has of etcd.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NodeMember {
    /// A member with a vote: what backups are taken of.
    Voter,
    /// A member without a vote yet: no backup is taken of it.
    Learner,
    /// None.
    None,
    /// Not known yet, or something that came later.
    #[default]
    #[serde(other)]
    Unknown,
}

/// A backup that a node keeps.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeBackupEntry {
    /// Its name, which is that of its directory.
    pub name: String,
    /// The Backup it was made for, or on-demand.
    pub origin: String,
    /// When it was proven, by the node's clock.
    #[schemars(extend("format" = "date-time"))]
    pub finished_at: String,
    /// The revision of etcd that it holds.
    pub revision: i64,
    /// How many keys it holds.
    pub keys: i64,
    /// Size of its snapshot, in bytes.
    pub size_bytes: i64,
    /// Which cluster it is of: etcd's cluster id, as hex digits.
    pub cluster_id: String,
    /// What was checked.
    pub verified: Vec<String>,
    /// Its place in the order of the node's backups.
    pub sequence: i64,
    /// SHA-256 of its snapshot, as hex digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Whether somebody holds it, so that nothing automatic removes it.
    pub held: bool,
}

/// A run.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct Attempt {
    /// When it began, by the node's clock.
    #[schemars(extend("format" = "date-time"))]
    pub started_at: String,
    /// Whether it made a backup.
    pub succeeded: bool,
    /// Why not, in a word.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Why not, for a person.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// How many runs in a row have failed, this one included.
    pub consecutive_failures: i64,
}

/// The definitions of `Backup`, `EtcdBackup` and `NodeBackup`. What an object leaves out stays out, as upstream: what
/// a default is says each field's description, and who reads it knows.
#[must_use]
pub fn definitions() -> [CustomResourceDefinition; 3] {
    [Backup::crd(), EtcdBackup::crd(), NodeBackup::crd()].map(|mut definition| {
        for version in &mut definition.spec.versions {
            let schema = version.schema.as_mut();
            if let Some(schema) = schema.and_then(|schema| schema.open_api_v3_schema.as_mut()) {
                forget_defaults(schema);
            }
        }
        definition
    })
}

fn forget_defaults(schema: &mut JSONSchemaProps) {
    schema.default = None;
    for property in schema
        .properties
        .iter_mut()
        .flat_map(|all| all.values_mut())
    {
        forget_defaults(property);
    }
    match &mut schema.items {
        Some(JSONSchemaPropsOrArray::Schema(items)) => forget_defaults(items),
        Some(JSONSchemaPropsOrArray::Schemas(all)) => all.iter_mut().for_each(forget_defaults),
        None => {}
    }
}

/// A `Backup` with what it leaves out filled in, and nothing in it that can't be done.
#[derive(Debug, Clone, PartialEq)]
pub struct ValidBackup {
    /// When a backup is due, as it was written.
    pub schedule: String,
    /// In which zone, as it was written.
    pub time_zone: String,
    /// What is kept.
    pub policy: Policy,
    /// The claim, if there is one.
    pub pvc_name: Option<String>,
}

impl ValidBackup {
    /// What a `Backup/default` that says nothing comes to.
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

/// What is wrong with a `Backup`, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidBackup(String);

/// Judges what somebody wrote.
///
/// # Errors
/// What is wrong with it.
pub fn validate(name: &str, spec: &BackupSpec) -> Result<ValidBackup, InvalidBackup> {
    let invalid = |problem: String| Err(InvalidBackup(problem));
    let etcd = &spec.etcd;
    let or = |text: &str, default: &str| if text.is_empty() { default } else { text }.to_string();
    let schedule = or(&etcd.schedule, DEFAULT_SCHEDULE);
    let time_zone = or(&etcd.time_zone, DEFAULT_TIME_ZONE);
    // The zone has a field of its own, as in a CronJob.
    if schedule.starts_with("TZ=") || schedule.starts_with("CRON_TZ=") {
        return invalid(format!(
            "spec.etcd.schedule {schedule:?} names a time zone: write it into spec.etcd.timeZone"
        ));
    }
    let parsed = match Schedule::parse(&schedule) {
        Ok(parsed) => parsed,
        Err(error) => return invalid(format!("spec.etcd.schedule: {error}")),
    };
    let Ok(zone) = TimeZone::get(&time_zone) else {
        return invalid(format!(
            "spec.etcd.timeZone {time_zone:?} is no IANA time zone, expected one such as UTC or Europe/Berlin"
        ));
    };
    // Five years have all dates there are, whichever they are.
    if parsed.next_after(Timestamp::UNIX_EPOCH, &zone).is_none() {
        return invalid(format!(
            "spec.etcd.schedule {schedule:?} is never due: there is no such date"
        ));
    }
    if name == ON_DEMAND {
        return invalid(format!(
            "metadata.name {name:?} is what backups are called that somebody asked for by hand: give this Backup another name"
        ));
    }
    let is_default = name == DEFAULT_BACKUP;
    if is_default && !etcd.pvc_name.is_empty() {
        return invalid(format!(
            "spec.etcd.pvcName {:?}: Backup/default keeps backups on each node's own disk; leave it out, or give the Backup another name",
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
            "spec.etcd.pvcName {short:?} is not a name that a PersistentVolumeClaim can have: use small letters, digits, - and ."
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
            "spec.etcd.retentionPolicy.{field} goes with retentionType {kind}: leave it out or change retentionType"
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
            "spec.etcd.retentionPolicy.retentionType is none that this version knows, expected RetentionNumber or RetentionSize".into(),
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
        for (name, etcd, told) in [
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
            ("default", json!({"pvcName": "claim"}), "leave it out"),
            (
                "a",
                json!({"retentionPolicy": {"retentionType": "RetentionNumber", "retentionSize": {}}}),
                "goes with retentionType RetentionSize",
            ),
            (
                "a",
                json!({"retentionPolicy": {"retentionType": "RetentionSize", "retentionNumber": {}}}),
                "goes with retentionType RetentionNumber",
            ),
            (
                "a",
                json!({"retentionPolicy": {"retentionType": "", "retentionNumber": {"maxNumberOfBackups": 0}}}),
                "is 0, expected 1 or more",
            ),
        ] {
            let error = judged(name, etcd).unwrap_err();
            assert!(error.contains(told), "{error}");
        }
    }

    #[test]
    fn what_another_version_wrote_is_read_as_far_as_it_is_known() {
        let told = judged(
            "a",
            json!({"retentionPolicy": {"retentionType": "RetentionAge", "retentionAge": {}}, "more": 1}),
        );
        assert!(told.unwrap_err().contains("none that this version knows"));
        let newer = json!({"member": "Observer", "more": {"x": 1}, "lastVerified": {"name": "n", "more": 1}});
        let status: NodeBackupStatus = serde_json::from_value(newer).unwrap();
        assert_eq!(status.member, NodeMember::Unknown);
        assert_eq!(status.last_verified.unwrap().name, "n");
        let older: NodeBackupStatus = serde_json::from_value(json!({})).unwrap();
        assert_eq!(older, NodeBackupStatus::default());
    }

    #[test]
    fn the_definitions_have_the_names_and_rules_of_the_published_ones() {
        let [backup, request, _] =
            definitions().map(|definition| serde_json::to_value(definition).unwrap());
        let pointer = |value: &Value, path: &str| value.pointer(path).cloned().unwrap_or_default();
        assert_eq!(backup["metadata"]["name"], "backups.config.openshift.io");
        assert_eq!(backup["spec"]["scope"], "Cluster");
        let schema = "/spec/versions/0/schema/openAPIV3Schema/properties";
        let retention =
            format!("{schema}/spec/properties/etcd/properties/retentionPolicy/properties");
        assert_eq!(
            pointer(&backup, &format!("{retention}/retentionType/enum")),
            json!(["", "RetentionNumber", "RetentionSize"])
        );
        for field in [
            "retentionNumber/properties/maxNumberOfBackups",
            "retentionSize/properties/maxSizeOfBackupsGb",
        ] {
            let minimum = pointer(&backup, &format!("{retention}/{field}/minimum"));
            assert_eq!(minimum.as_f64(), Some(1.0), "{field}: {backup:#}");
        }
        assert_eq!(
            request["metadata"]["name"],
            "etcdbackups.operator.openshift.io"
        );
        let rule = format!("{schema}/spec/properties/pvcName/x-kubernetes-validations/0");
        assert_eq!(
            pointer(&request, &rule),
            json!({"rule": "self == oldSelf", "message": "pvcName is immutable once set"})
        );
    }
}
