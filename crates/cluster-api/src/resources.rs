//! The custom resources: what a cluster's users write, and what they are told.
//!
//! `Backup` and `EtcdBackup` have the groups, versions, names, fields and values of OpenShift's (openshift/api:
//! `config/v1alpha1/types_backup.go`, `operator/v1alpha1/types_etcdbackup.go`), so that what was written for
//! one is read by the other. `NodeBackup` is our own.

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
pub fn crds() -> [CustomResourceDefinition; 3] {
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn what_another_version_wrote_is_read_as_far_as_it_is_known() {
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
            crds().map(|definition| serde_json::to_value(definition).unwrap());
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
