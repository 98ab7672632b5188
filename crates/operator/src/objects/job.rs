//! The Jobs that make backups: for an `EtcdBackup`, and for a person where no `EtcdBackup` can be written.

use super::pod::{BackupTarget, backup_pod, node_affinity};
use super::retention_flags::retention_flags;
use crate::cluster::node_layout::NodeLayout;
use crate::names::{
    JOB_APP, JOB_CONTAINER, LABEL_CHARS, NAME_LABEL, NODE_ANNOTATION, REPOSITORY, shortened,
};
use crate::options::Options;
use backup_plan::retention::Policy;
use cluster_api::resources::EtcdBackup;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{PodSpec, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Resource, ResourceExt};
use std::collections::BTreeMap;

/// Time limit of a backup.
const JOB_TIMEOUT_S: i64 = 900;
/// The Job's limit is a little later than the pod's, so that the pod's message is not lost.
const JOB_MARGIN_S: i64 = 30;
/// How long to wait while another run uses the same disk.
const LOCK_TIMEOUT_S: i64 = 600;
/// How long the Job of a person is kept after its end, for whoever reads its log.
const KEPT_S: i32 = 24 * 3600;

/// What a Job backs up, and how.
pub(crate) struct JobOptions<'j> {
    pub(crate) namespace: &'j str,
    pub(crate) layout: NodeLayout,
    /// The node to back up; `None` with a PersistentVolumeClaim.
    pub(crate) node: Option<&'j str>,
    pub(crate) origin: &'j str,
    pub(crate) policy: Policy,
}

/// The Job to create.
pub(crate) fn job(options: &Options, request: &EtcdBackup, of: &JobOptions<'_>) -> Job {
    let request_name = request.name_any();
    let name = match of.node {
        Some(node) => shortened(&format!("{request_name}-{node}"), LABEL_CHARS),
        None => shortened(&request_name, LABEL_CHARS),
    };
    let target = match request.spec.pvc_name.as_str() {
        "" => BackupTarget::Node,
        pvc => BackupTarget::Pvc(pvc),
    };
    let mut args = vec![
        "cluster-backup".to_string(),
        format!("--backup-dir={}", target.path()),
        format!("--origin={}", of.origin),
        format!("--lock-timeout={LOCK_TIMEOUT_S}s"),
    ];
    args.extend(retention_flags(of.policy));
    args.extend(options.backup_flags.iter().cloned());
    let mut pod = backup_pod(of.layout, options, JOB_CONTAINER, args, target);
    if let Some(node) = of.node {
        pod.affinity = Some(node_affinity(node));
    }
    let labels = BTreeMap::from([
        ("app".to_string(), JOB_APP.to_string()),
        (NAME_LABEL.into(), shortened(&request_name, LABEL_CHARS)),
    ]);
    let annotations = of
        .node
        .map(|node| (NODE_ANNOTATION.to_string(), node.to_string()));
    let metadata = ObjectMeta {
        name: Some(name),
        namespace: Some(of.namespace.into()),
        annotations: Some(annotations.into_iter().collect()),
        owner_references: Some(request.controller_owner_ref(&()).into_iter().collect()),
        ..ObjectMeta::default()
    };
    one_try(metadata, labels, pod)
}

/// The Job to create on a node for a person: with the pod of the node's backup server.
pub(crate) fn on_demand_job(set: &DaemonSet, node: &str) -> Job {
    let template = set
        .spec
        .as_ref()
        .and_then(|spec| spec.template.spec.clone());
    let mut pod = template.unwrap_or_default();
    pod.automount_service_account_token = Some(false);
    pod.affinity = Some(node_affinity(node));
    for container in &mut pod.containers {
        container.name = JOB_CONTAINER.into();
        container.args = Some(vec![
            "cluster-backup".into(),
            format!("--backup-dir={REPOSITORY}"),
            format!("--lock-timeout={LOCK_TIMEOUT_S}s"),
            "--type=RetentionNumber".into(),
        ]);
    }
    let name = shortened(&format!("on-demand-{node}"), LABEL_CHARS - 6);
    let metadata = ObjectMeta {
        generate_name: Some(format!("{name}-")),
        annotations: Some(BTreeMap::from([(NODE_ANNOTATION.into(), node.into())])),
        ..ObjectMeta::default()
    };
    let labels = BTreeMap::from([("app".to_string(), JOB_APP.to_string())]);
    let mut job = one_try(metadata, labels, pod);
    if let Some(spec) = &mut job.spec {
        spec.ttl_seconds_after_finished = Some(KEPT_S);
    }
    job
}

/// A Job with one pod. A failed backup is requested again by a person or by the pod of a CronJob.
fn one_try(metadata: ObjectMeta, labels: BTreeMap<String, String>, mut pod: PodSpec) -> Job {
    pod.restart_policy = Some("Never".into());
    pod.active_deadline_seconds = Some(JOB_TIMEOUT_S);
    Job {
        metadata: ObjectMeta {
            labels: Some(labels.clone()),
            ..metadata
        },
        spec: Some(JobSpec {
            backoff_limit: Some(0),
            active_deadline_seconds: Some(JOB_TIMEOUT_S + JOB_MARGIN_S),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: Some(labels),
                    ..ObjectMeta::default()
                }),
                spec: Some(pod),
            },
            ..JobSpec::default()
        }),
        ..Job::default()
    }
}
