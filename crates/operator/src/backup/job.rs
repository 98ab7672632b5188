//! The Job that makes a backup for an `EtcdBackup`.

use crate::layout::NodeLayout;
use crate::names::{JOB_APP, JOB_CONTAINER, LABEL_CHARS, NAME_LABEL, NODE_ANNOTATION, shortened};
use crate::pods::{self, Target, with};
use crate::shape::Shape;
use crate::{Options, periodic};
use backup_plan::retention::Policy;
use cluster_api::resources::EtcdBackup;
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Time limit of a backup.
const JOB_LASTS_S: i64 = 900;
/// The Job's limit is a little later than the pod's, so that the pod's message is not lost.
const JOB_MARGIN_S: i64 = 30;
/// How long to wait while another run uses the same disk.
const WAITS_FOR_LOCK_S: i64 = 600;

/// The Job to create.
pub(super) fn job(
    shape: &Shape,
    layout: NodeLayout,
    options: &Options,
    request: &EtcdBackup,
    node: Option<&str>,
    origin: &str,
    policy: Policy,
) -> Value {
    let request_name = request.name_any();
    let name = match node {
        Some(node) => shortened(&format!("{request_name}-{node}"), LABEL_CHARS),
        None => shortened(&request_name, LABEL_CHARS),
    };
    let target = match request.spec.pvc_name.as_str() {
        "" => Target::Node,
        claim => Target::Claim(claim),
    };
    let mut args = vec![
        "cluster-backup".to_string(),
        format!("--backup-dir={}", target.path()),
        format!("--origin={origin}"),
        format!("--lock-timeout={WAITS_FOR_LOCK_S}s"),
    ];
    args.extend(periodic::retention_flags(policy));
    args.extend(options.backup_flags.iter().cloned());
    let pod = pods::taking_backups(layout, &options.image, JOB_CONTAINER, &args, target);
    let mut of_a_job = json!({"restartPolicy": "Never", "activeDeadlineSeconds": JOB_LASTS_S});
    if let Some(node) = node {
        of_a_job = with(of_a_job, json!({"affinity": pods::on_node(node)}));
    }
    let pod = with(pod, of_a_job);
    let labels = json!({"app": JOB_APP, NAME_LABEL: shortened(&request_name, LABEL_CHARS)});
    let annotations: BTreeMap<_, _> = node
        .map(|node| (NODE_ANNOTATION, node))
        .into_iter()
        .collect();
    json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name,
            "namespace": shape.namespace,
            "labels": labels,
            "annotations": annotations,
            "ownerReferences": [request.controller_owner_ref(&())],
        },
        "spec": {
            // A person asks again; a CronJob's request does.
            "backoffLimit": 0,
            "activeDeadlineSeconds": JOB_LASTS_S + JOB_MARGIN_S,
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    })
}
