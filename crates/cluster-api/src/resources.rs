//! The custom resources: what users write, and the status they get.
//!
//! `Backup` and `EtcdBackup` have the groups, versions, names, fields and values of OpenShift's (openshift/api:
//! `config/v1alpha1/types_backup.go`, `operator/v1alpha1/types_etcdbackup.go`), so that objects
//! written for one work with the other. `NodeBackup` is our own.

// kube's derive repeats each `pub struct` in a private module, where the lint looks for it.
#![allow(unreachable_pub)]

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, CustomResourceExt, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The `Backup` that stores backups on every control-plane node.
pub const DEFAULT_BACKUP: &str = "default";
/// Default of `spec.etcd.schedule`.
pub const DEFAULT_SCHEDULE: &str = "*/5 * * * *";
/// Default of `spec.etcd.timeZone`.
pub const DEFAULT_TIME_ZONE: &str = "UTC";
/// Default of `maxNumberOfBackups` for `Backup/default`.
pub const DEFAULT_BACKUP_NUMBER: i32 = 3;
/// Default of `maxNumberOfBackups` for every other `Backup`.
pub const DEFAULT_NUMBER: i32 = 15;
/// Default of `maxSizeOfBackupsGb`, in GiB.
pub const DEFAULT_SIZE_GB: i32 = 10;
/// Annotation of an `EtcdBackup`: the `Backup` that requested it.
pub const BACKUP_ANNOTATION: &str = "lifeboat.etcd.io/backup";
/// Annotation of a `Backup`: every server of it makes a backup now, if this time (RFC 3339) is newer than its newest backup.
pub const REQUESTED_AT: &str = "lifeboat.etcd.io/backup-requested-at";
/// How many other etcds the status of a `NodeBackup` lists at most.
pub const OTHER_ETCD_ENTRIES: usize = 8;
/// How many backups the status of a `NodeBackup` lists at most.
pub const NODE_BACKUP_ENTRIES: usize = 20;

/// Backups of etcd on a schedule. The Backup named "default" stores them on the local disk of every control-plane node. Any other
/// Backup stores them in a PersistentVolumeClaim, or on these disks too if pvcName is empty.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "config.openshift.io",
    version = "v1alpha1",
    kind = "Backup",
    plural = "backups",
    doc = "Backups of etcd on a schedule. The Backup named \"default\" stores them on the local disk of every control-plane node.",
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
    /// When etcd is backed up, where backups are stored, and how many are kept.
    pub etcd: EtcdBackupPolicy,
}

/// When etcd is backed up, where backups are stored, and how many are kept.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct EtcdBackupPolicy {
    /// When backups are due: a cron schedule with five fields, or a descriptor such as @hourly. Default: every five minutes.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 512), extend("x-kubernetes-validations" = crate::admission::schedule()))]
    pub schedule: String,
    /// The IANA time zone of the schedule, such as Europe/Berlin. Default: UTC.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-validations" = crate::admission::time_zone()))]
    pub time_zone: String,
    /// Which backups are kept. Default: the newest 15; for the Backup named "default", the newest 3.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retention_policy: Option<RetentionPolicy>,
    /// The PersistentVolumeClaim that stores the backups. It must be in the operator's namespace. If this field is empty, backups
    /// are stored on the local disk of every control-plane node. The Backup named "default" cannot use this field.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub pvc_name: String,
}

/// Which backups are kept. The newest verified backup is always kept.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RetentionPolicy {
    /// The limit: RetentionNumber for the number of backups, RetentionSize for their total size. Default: RetentionNumber.
    pub retention_type: RetentionType,
    /// The limit of retentionType RetentionNumber.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retention_number: Option<RetentionNumber>,
    /// The limit of retentionType RetentionSize.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retention_size: Option<RetentionSize>,
}

/// Which limit decides which backups are kept.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RetentionType {
    /// The default: the number of backups.
    #[default]
    #[serde(rename = "")]
    Default,
    /// The number of backups.
    RetentionNumber,
    /// The total size of the backups.
    RetentionSize,
    /// A value of a later version. It can be read, so that one unknown `Backup` does not hide all others.
    #[serde(other)]
    #[schemars(skip)]
    Other,
}

/// Limits the number of backups.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct RetentionNumber {
    /// How many of the newest backups are kept. Default: 15; for the Backup named "default", 3.
    #[schemars(range(min = 1))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_number_of_backups: Option<i32>,
}

/// Limits the total size of the backups.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct RetentionSize {
    /// The newest backups are kept if they fit together in this size, in GiB. The newest backup is always kept. Default: 10.
    #[schemars(range(min = 1))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_size_of_backups_gb: Option<i32>,
}

/// The status of a Backup.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct BackupStatus {
    /// Conditions of the Backup. Degraded says whether its backups are up to date, and if not, why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// When the next backup is due.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_run: Option<String>,
    /// When the operator last checked whether the backups are up to date. It checks every five minutes. The conditions describe
    /// the state at this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub last_evaluated: Option<String>,
}

/// Requests one backup of etcd now.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "operator.openshift.io",
    version = "v1alpha1",
    kind = "EtcdBackup",
    plural = "etcdbackups",
    doc = "Requests one backup of etcd now. The status shows the result.",
    status = "EtcdBackupStatus",
    derive = "PartialEq",
    printcolumn = r#"{"name":"Completed","type":"string","jsonPath":".status.conditions[?(@.type=='BackupCompleted')].status"}"#,
    printcolumn = r#"{"name":"Job","type":"string","jsonPath":".status.backupJob.name"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct EtcdBackupSpec {
    /// The PersistentVolumeClaim that stores the backup. It must be in the operator's namespace. If this field is empty, the
    /// backup is stored on the local disk of every control-plane node.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[x_kube(validation = Rule::new("self == oldSelf").message("pvcName is immutable once set"))]
    pub pvc_name: String,
}

/// The result of an EtcdBackup.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct EtcdBackupStatus {
    /// Conditions of the backup: BackupPending, BackupCompleted, BackupFailed or BackupSkipped.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// The Job that makes the backup.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backup_job: Option<BackupJob>,
}

/// A reference to a Job.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct BackupJob {
    /// Namespace of the Job.
    #[schemars(length(min = 1))]
    pub namespace: String,
    /// Name of the Job.
    #[schemars(length(min = 1))]
    pub name: String,
}

/// The backups of one control-plane node, as the node reports them. Only the node itself writes this object.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "lifeboat.etcd.io",
    version = "v1alpha1",
    kind = "NodeBackup",
    plural = "nodebackups",
    doc = "The backups of one control-plane node, as the node reports them.",
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

/// What a node reports about its backups.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeBackupStatus {
    /// Version of the backup server.
    pub version: String,
    /// The schedule that the backup server uses.
    pub schedule: String,
    /// The time zone of the schedule.
    pub time_zone: String,
    /// The role of the node in the etcd cluster.
    pub member: NodeMember,
    /// The newest proven backup.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_verified: Option<NodeBackupEntry>,
    /// The last run that ended, successful or not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_attempt: Option<Attempt>,
    /// What is wrong, as a text to read. Missing if nothing is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// When the next run is due, by the node's clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_due: Option<String>,
    /// How many proven backups the node has.
    pub kept: i64,
    /// How many backups of the node have a damaged or missing record, or damaged or missing files.
    pub unreadable: i64,
    /// The newest backups of the node, at most 20.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    pub backups: Vec<NodeBackupEntry>,
    /// The copies of the backups on the volume of the node. Missing if the node has no volume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume: Option<VolumeStatus>,
    /// Other etcds of the node, each with a part of the objects of Kubernetes, at most 8.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub other_etcds: Vec<OtherEtcdStatus>,
}

/// The copies of the backups of a node on a volume.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct VolumeStatus {
    /// When the volume was last looked at, by the node's clock.
    #[schemars(extend("format" = "date-time"))]
    pub checked_at: String,
    /// The newest proven backup on the volume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_copied: Option<NodeBackupEntry>,
    /// How many proven backups the volume has.
    pub kept: i64,
    /// What is wrong, as a text to read. Missing if nothing is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// The newest backups on the volume, at most 20.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    pub backups: Vec<NodeBackupEntry>,
}

/// The backups of an etcd that has only a part of the objects of Kubernetes, such as events.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct OtherEtcdStatus {
    /// Name of the etcd, such as events.
    pub name: String,
    /// The newest proven backup of this etcd.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_verified: Option<NodeBackupEntry>,
    /// How many proven backups of this etcd the node has.
    pub kept: i64,
    /// Whether the newest proven backup is too old, by the schedule and the node's clock.
    pub stale: bool,
    /// What is wrong, as a text to read. Missing if nothing is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// The role of a node in the etcd cluster.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NodeMember {
    /// The node has a voting member. Backups are taken from it.
    Voter,
    /// The node has a learner: a member without a vote yet. No backups are taken from it.
    Learner,
    /// The node has no member.
    None,
    /// Unknown so far, or a value of a later version.
    #[default]
    #[serde(other)]
    Unknown,
}

/// A backup on a node.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeBackupEntry {
    /// Name of the backup and of its directory.
    pub name: String,
    /// Name of the Backup that requested it, or on-demand.
    pub origin: String,
    /// When the backup was proven, by the node's clock.
    #[schemars(extend("format" = "date-time"))]
    pub finished_at: String,
    /// The etcd revision of the backup.
    pub revision: i64,
    /// Number of keys in the backup.
    pub keys: i64,
    /// Size of the snapshot, in bytes.
    pub size_bytes: i64,
    /// The etcd cluster id, in hexadecimal.
    pub cluster_id: String,
    /// The checks that the backup passed.
    pub verified: Vec<String>,
    /// Position of the backup in the order of the node's backups. A higher number is newer.
    pub sequence: i64,
    /// SHA-256 of the snapshot, in hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Whether the backup is held. A held backup is never removed automatically.
    pub held: bool,
}

/// A run: one attempt to make a backup.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct Attempt {
    /// When the run began, by the node's clock.
    #[schemars(extend("format" = "date-time"))]
    pub started_at: String,
    /// Whether the run made a backup.
    pub succeeded: bool,
    /// Why the run failed, as one word.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Why the run failed, as a text to read.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// How many runs in a row have failed, including this one.
    pub consecutive_failures: i64,
}

/// The CRDs of `Backup`, `EtcdBackup` and `NodeBackup`. The API server does not fill in defaults, as upstream. The description of
/// each field has its default.
#[must_use]
pub fn crds() -> [CustomResourceDefinition; 3] {
    [Backup::crd(), EtcdBackup::crd(), NodeBackup::crd()].map(|mut definition| {
        for version in &mut definition.spec.versions {
            let schema = version.schema.as_mut();
            if let Some(schema) = schema.and_then(|schema| schema.open_api_v3_schema.as_mut()) {
                remove_defaults(schema);
            }
        }
        definition
    })
}

fn remove_defaults(schema: &mut JSONSchemaProps) {
    schema.default = None;
    for property in schema
        .properties
        .iter_mut()
        .flat_map(|all| all.values_mut())
    {
        remove_defaults(property);
    }
    match &mut schema.items {
        Some(JSONSchemaPropsOrArray::Schema(items)) => remove_defaults(items),
        Some(JSONSchemaPropsOrArray::Schemas(all)) => all.iter_mut().for_each(remove_defaults),
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
