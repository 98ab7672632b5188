//! The CronJob of a `Backup` that is not `default`.

use super::pod::{
    control_plane_affinity, every_taint, field_variable, quantities, restricted, runtime_seccomp,
};
use crate::cluster::cluster_info::ClusterInfo;
use crate::names::{
    CRON_APP, CRON_JOB_CHARS, JOB_CONTAINER, LABEL_CHARS, NAME_LABEL, REQUEST_ACCOUNT, shortened,
};
use crate::options::Options;
use cluster_api::validation::ValidBackup;
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, JobSpec, JobTemplateSpec};
use k8s_openapi::api::core::v1::{
    Container, PodSecurityContext, PodSpec, PodTemplateSpec, ResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use std::collections::BTreeMap;

/// History limits of a CronJob, the same as upstream's.
const SUCCESSFUL_KEPT: i32 = 5;
const FAILED_KEPT: i32 = 10;
/// Time limit of a request, so that one that cannot start does not block the next ones.
const REQUEST_TIMEOUT_S: i64 = 3600;
/// A user that exists on no node.
const NOBODY: i64 = 65534;

pub(crate) fn cron_job_name(backup: &str) -> String {
    shortened(backup, CRON_JOB_CHARS)
}

/// The CronJob to apply. Its pods only create `EtcdBackup`s and mount nothing of the node.
pub(crate) fn cron_job(
    cluster: &ClusterInfo,
    options: &Options,
    name: &str,
    valid: &ValidBackup,
    owner: Option<&OwnerReference>,
) -> CronJob {
    let labels = BTreeMap::from([
        ("app".to_string(), CRON_APP.to_string()),
        (NAME_LABEL.into(), shortened(name, LABEL_CHARS)),
    ]);
    let metadata = || {
        Some(ObjectMeta {
            labels: Some(labels.clone()),
            ..ObjectMeta::default()
        })
    };
    CronJob {
        metadata: ObjectMeta {
            name: Some(cron_job_name(name)),
            namespace: Some(cluster.namespace.clone()),
            labels: Some(labels.clone()),
            owner_references: Some(owner.into_iter().cloned().collect()),
            ..ObjectMeta::default()
        },
        spec: Some(CronJobSpec {
            schedule: valid.schedule.clone(),
            time_zone: Some(valid.time_zone.clone()),
            concurrency_policy: Some("Forbid".into()),
            successful_jobs_history_limit: Some(SUCCESSFUL_KEPT),
            failed_jobs_history_limit: Some(FAILED_KEPT),
            job_template: JobTemplateSpec {
                metadata: metadata(),
                spec: Some(JobSpec {
                    backoff_limit: Some(2),
                    active_deadline_seconds: Some(REQUEST_TIMEOUT_S),
                    template: PodTemplateSpec {
                        metadata: metadata(),
                        spec: Some(request_pod(options, name, valid)),
                    },
                    ..JobSpec::default()
                }),
            },
            ..CronJobSpec::default()
        }),
        ..CronJob::default()
    }
}

fn request_pod(options: &Options, name: &str, valid: &ValidBackup) -> PodSpec {
    let mut args = vec!["request-backup".to_string(), format!("--backup={name}")];
    args.extend(valid.pvc_name.iter().map(|pvc| format!("--pvc-name={pvc}")));
    let label = |label: &str| format!("metadata.labels['batch.kubernetes.io/{label}']");
    PodSpec {
        restart_policy: Some("Never".into()),
        host_network: Some(true),
        tolerations: Some(every_taint()),
        service_account_name: Some(REQUEST_ACCOUNT.into()),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(NOBODY),
            seccomp_profile: Some(runtime_seccomp()),
            ..PodSecurityContext::default()
        }),
        affinity: Some(control_plane_affinity()),
        containers: vec![Container {
            name: JOB_CONTAINER.into(),
            image: Some(options.image.clone()),
            args: Some(args),
            // The same variables as upstream's request-backup has.
            env: Some(vec![
                field_variable("MY_JOB_NAME", &label("job-name")),
                field_variable("MY_JOB_UID", &label("controller-uid")),
                field_variable("MY_POD_NAME", "metadata.name"),
            ]),
            termination_message_policy: Some("FallbackToLogsOnError".into()),
            resources: Some(ResourceRequirements {
                requests: Some(quantities(&[("cpu", "5m"), ("memory", "16Mi")])),
                ..ResourceRequirements::default()
            }),
            security_context: Some(restricted(&[])),
            ..Container::default()
        }],
        ..PodSpec::default()
    }
}
