//! Gives each control-plane node a volume for copies of its backups, if that is wanted: a StatefulSet for each node. The backups on the disks
//! of the nodes go on in any case.
//!
//! A volume is never deleted here. A StatefulSet is deleted when its node has left or volumes are no longer wanted; its
//! PersistentVolumeClaim, and the backups on it, stay until a person removes them.

use super::on_change;
use crate::api_error::ignore_not_found;
use crate::cluster::cache::Cache;
use crate::cluster::cluster_info::infrastructure;
use crate::cluster::node_backups::{creation_time, written_by};
use crate::cluster::pod_problems::pod_problem;
use crate::context::Context;
use crate::names::{VOLUME_APP, VOLUME_MANAGER};
use crate::objects::volume_set::{VolumeClass, volume_claim_name, volume_set, volume_set_name};
use crate::options::VOLUMES as NAME;
use crate::status::conditions::{ConditionUpdate, find_condition};
use backup_plan::record::is_origin;
use cluster_api::conditions::{ConditionType, StatusReason};
use cluster_api::freshness::shortened;
use cluster_api::placement::{
    DEFAULT_VOLUME_SIZE, Placement, Storage, Surroundings, Volumes, volumes,
};
use cluster_api::resources::{Backup, DEFAULT_BACKUP, VolumeStatus};
use cluster_api::validation::validate;
use futures::FutureExt;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::storage::v1::{CSIDriver, StorageClass};
use kube::api::{Api, DeleteParams, ListParams};
use kube::runtime::reflector::ObjectRef;
use kube::{Resource, ResourceExt};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The field manager of this condition.
const MANAGER: &str = "etcd-lifeboat-operator-volumes";
const CONDITION: ConditionType = ConditionType::VolumesDegraded;
const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";
/// A pod that reports nothing for this time does not work.
const REPORTS_WITHIN: SignedDuration = SignedDuration::from_mins(5);
/// How many nodes a message names.
const NODES_NAMED: usize = 5;

/// Acts on each change.
pub(crate) async fn run(context: Arc<Context>, cache: Arc<Cache>) {
    let act = || reconcile(&context, &cache).boxed();
    on_change::run(&context, &cache, NAME, act).await;
}

async fn reconcile(context: &Context, cache: &Cache) -> Result<(), kube::Error> {
    let backup = cache.backups.get(&ObjectRef::<Backup>::new(DEFAULT_BACKUP));
    let Some(backup) = backup.filter(|_| context.options.automated_backup) else {
        context.state.update(|state| state.volumes.clear());
        return delete_sets(context, cache, &BTreeSet::new()).await;
    };
    // What is wrong with the annotations is reported with the servers, and the volumes stay as they are.
    let Ok(placement) = Placement::read(backup.annotations()) else {
        return Ok(());
    };
    let Ok(valid) = validate(DEFAULT_BACKUP, &backup.spec) else {
        return Ok(());
    };
    let nodes: BTreeSet<_> = cache
        .control_plane()
        .iter()
        .map(|node| node.name_any())
        .collect();
    let wish = placement.storage.unwrap_or(context.options.storage);
    // This runs on each change: where only the disks count, the API server is not asked.
    let around = match wish {
        Storage::Auto | Storage::HostPath => Surroundings::default(),
        Storage::AutoPvc | Storage::Pvc => surroundings(context).await?,
    };
    let decided = volumes(wish, placement.storage_class.as_deref(), &around);
    let class = match decided {
        Err(problem) => {
            context
                .state
                .update(|state| state.volumes = none_copied(&nodes));
            return write_condition(context, &backup, true, StatusReason::Invalid, problem).await;
        }
        Ok(Volumes::None(why)) => {
            context.state.update(|state| state.volumes.clear());
            delete_sets(context, cache, &BTreeSet::new()).await?;
            return write_condition(context, &backup, false, StatusReason::AsExpected, why).await;
        }
        Ok(Volumes::Class(class)) => class,
    };
    let classes: Api<StorageClass> = Api::all(context.client.clone());
    let Some(found) = classes.get_opt(&class).await? else {
        context
            .state
            .update(|state| state.volumes = none_copied(&nodes));
        let message = format!(
            "StorageClass {class:?} does not exist: create it, or name another one; `kubectl get storageclasses` shows them"
        );
        return write_condition(context, &backup, true, StatusReason::Invalid, message).await;
    };
    let volume = VolumeClass {
        for_one_pod: is_csi(context, &found.provisioner).await?,
        size: placement
            .volume_size
            .unwrap_or_else(|| DEFAULT_VOLUME_SIZE.into()),
        class,
    };
    let owner = backup.controller_owner_ref(&());
    let sets = cache.volume_sets.state();
    let mut note = None;
    for node in &nodes {
        let mut set = volume_set(
            &context.options,
            &context.cluster.namespace,
            node,
            &volume,
            valid.policy,
            owner.as_ref(),
        );
        match context.apply(&set).await {
            // A volume keeps its class, size and access mode. All else can be changed.
            Err(kube::Error::Api(status)) if status.code == 422 => {
                let name = set.name_any();
                let message = format!(
                    "the volumes keep their StorageClass, size and access mode: to use other ones on {node}, run `kubectl -n {} delete statefulset {name} pvc/{}`. This deletes the copies on its volume, and not the backups on its disk",
                    context.cluster.namespace,
                    volume_claim_name(node)
                );
                note.get_or_insert(message);
                let known = sets.iter().find(|set| set.name_any() == name);
                let claims =
                    known.and_then(|set| set.spec.as_ref()?.volume_claim_templates.clone());
                if let Some(spec) = &mut set.spec {
                    spec.volume_claim_templates = claims;
                }
                context.apply(&set).await?;
            }
            applied => applied?,
        }
    }
    delete_sets(context, cache, &nodes).await?;
    let now = Timestamp::now();
    let pods = cache.pods.state();
    let reports = cache.node_backups.state();
    let mut waiting = Vec::new();
    let mut problems = BTreeMap::new();
    for node in &nodes {
        let report = reports.iter().find(|report| report.name_any() == *node);
        let status = report.and_then(|report| report.status.as_ref()?.volume.as_ref());
        let set = sets
            .iter()
            .find(|set| set.name_any() == volume_set_name(node));
        let since = set.map(|set| creation_time(&set.metadata));
        let reported_at = report.and_then(|report| written_by(report, VOLUME_MANAGER));
        match node_state(node, status.zip(reported_at), &pods, since, now) {
            NodeState::Works => {}
            NodeState::Waits => waiting.push(node.clone()),
            NodeState::Failed(problem) => {
                problems.insert(node.clone(), shortened(&problem));
            }
        }
    }
    let copied = |node: &String| (node.clone(), !problems.contains_key(node));
    let copied = nodes.iter().map(copied).collect();
    context.state.update(|state| state.volumes = copied);
    let (is_bad, reason, message) = match (problems.is_empty(), note) {
        (true, Some(note)) => (true, StatusReason::VolumeProblem, note),
        _ => sum_up(nodes.len(), &waiting, &problems),
    };
    write_condition(context, &backup, is_bad, reason, message).await
}

fn none_copied(nodes: &BTreeSet<String>) -> BTreeMap<String, bool> {
    nodes.iter().map(|node| (node.clone(), false)).collect()
}

/// Whether a provisioner is a CSI driver. Others have names that no driver can have, such as `kubernetes.io/no-provisioner`.
async fn is_csi(context: &Context, provisioner: &str) -> Result<bool, kube::Error> {
    if !is_origin(provisioner) {
        return Ok(false);
    }
    let drivers: Api<CSIDriver> = Api::all(context.client.clone());
    Ok(drivers.get_opt(provisioner).await?.is_some())
}

async fn surroundings(context: &Context) -> Result<Surroundings, kube::Error> {
    let classes: Api<StorageClass> = Api::all(context.client.clone());
    let classes = classes.list(&ListParams::default()).await?;
    let default_class = classes
        .iter()
        .filter(|class| {
            let annotation = class.annotations().get(DEFAULT_CLASS);
            annotation.is_some_and(|value| value == "true")
        })
        // Of several, Kubernetes takes the newest.
        .max_by_key(|class| {
            class
                .metadata
                .creation_timestamp
                .as_ref()
                .map(|time| time.0)
        })
        .map(ResourceExt::name_any);
    let (infrastructure, single_node) = infrastructure(&context.client).await?;
    Ok(Surroundings {
        infrastructure,
        single_node,
        default_class,
    })
}

/// Deletes the StatefulSets of all other nodes. Their PersistentVolumeClaims stay.
async fn delete_sets(
    context: &Context,
    cache: &Cache,
    nodes: &BTreeSet<String>,
) -> Result<(), kube::Error> {
    let wanted: BTreeSet<_> = nodes.iter().map(|node| volume_set_name(node)).collect();
    let sets: Api<StatefulSet> =
        Api::namespaced(context.client.clone(), &context.cluster.namespace);
    for set in cache.volume_sets.state() {
        let name = set.name_any();
        if wanted.contains(&name) || set.metadata.deletion_timestamp.is_some() {
            continue;
        }
        tracing::info!(
            "deleting StatefulSet {name}: its node has left, or volumes are no longer wanted; its PersistentVolumeClaim stays"
        );
        let params = DeleteParams::background();
        ignore_not_found(context.write(sets.delete(&name, &params)).await)?;
    }
    Ok(())
}

/// How it is with the volume of a node.
#[derive(Debug, PartialEq, Eq)]
enum NodeState {
    Works,
    /// It has reported nothing yet, and had not enough time.
    Waits,
    Failed(String),
}

/// Judges the volume of a node by its report and the time of the report, by the API server's clock. `since` is the age of its StatefulSet.
fn node_state(
    node: &str,
    reported: Option<(&VolumeStatus, Timestamp)>,
    pods: &[Arc<Pod>],
    since: Option<Timestamp>,
    now: Timestamp,
) -> NodeState {
    let pod_name = format!("{}-0", volume_set_name(node));
    let of_node = |pod: &&Arc<Pod>| {
        pod.labels().get("app").is_some_and(|app| app == VOLUME_APP) && pod.name_any() == pod_name
    };
    if let Some(problem) = pods.iter().find(of_node).and_then(|pod| pod_problem(pod)) {
        return NodeState::Failed(problem);
    }
    // What an earlier pod has reported says nothing about this one.
    let reported = reported.filter(|(_, at)| since.is_none_or(|since| *at >= since));
    if let Some(problem) = reported.and_then(|(status, _)| status.problem.clone()) {
        return NodeState::Failed(problem);
    }
    let is_late = |at: Timestamp| now.duration_since(at) > REPORTS_WITHIN;
    match (reported, since) {
        (Some((_, at)), _) if is_late(at) => {
            NodeState::Failed(format!("pod {pod_name} has reported nothing since {at:.0}"))
        }
        (Some(_), _) => NodeState::Works,
        (None, Some(since)) if is_late(since) => NodeState::Failed(format!(
            "pod {pod_name} has never reported: look at it and at PersistentVolumeClaim {}",
            volume_claim_name(node)
        )),
        (None, _) => NodeState::Waits,
    }
}

fn sum_up(
    nodes: usize,
    waiting: &[String],
    problems: &BTreeMap<String, String>,
) -> (bool, StatusReason, String) {
    if problems.is_empty() && !waiting.is_empty() {
        let message = format!("waiting for the volumes of: {}", waiting.join(", "));
        return (false, StatusReason::BackupPending, message);
    }
    if problems.is_empty() {
        let message = match nodes {
            1 => "1 node has a volume for its backups".to_string(),
            nodes => format!("{nodes} nodes have a volume for their backups"),
        };
        return (false, StatusReason::AsExpected, message);
    }
    let mut named: Vec<_> = problems
        .iter()
        .take(NODES_NAMED)
        .map(|(node, problem)| format!("{node}: {problem}"))
        .collect();
    if problems.len() > NODES_NAMED {
        named.push(format!("and {} more nodes", problems.len() - NODES_NAMED));
    }
    let message = format!(
        "backups are not copied to volumes, they are only on the disks of the nodes: {}",
        named.join("; ")
    );
    (true, StatusReason::VolumeProblem, message)
}

async fn write_condition(
    context: &Context,
    backup: &Backup,
    is_true: bool,
    reason: StatusReason,
    message: String,
) -> Result<(), kube::Error> {
    let update = ConditionUpdate {
        type_: CONDITION,
        is_true,
        reason,
        message,
    };
    let status = backup.status.clone().unwrap_or_default();
    let before = find_condition(&status.conditions, CONDITION.name());
    let generation = backup.metadata.generation;
    if update.is_unchanged(before, generation) {
        return Ok(());
    }
    context
        .publish_condition_event(&backup.object_ref(&()), before, &update)
        .await;
    let condition = update.to_condition(before, generation, Timestamp::now());
    context
        .patch_backup_status(&backup.name_any(), MANAGER, &condition, json!({}))
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_that_never_comes_is_reported_after_a_while_and_not_taken_for_one_that_works() {
        let now: Timestamp = "2026-11-27T12:00:00Z".parse().unwrap();
        let ago = |minutes: i64| Some(now - SignedDuration::from_mins(minutes));
        let well = VolumeStatus::default();
        let state = |reported: Option<Timestamp>, since| {
            node_state("a", reported.map(|at| (&well, at)), &[], since, now)
        };
        assert_eq!(state(None, ago(1)), NodeState::Waits);
        assert_eq!(state(ago(1), ago(60)), NodeState::Works);
        // From a StatefulSet that was there before.
        assert_eq!(state(ago(3), ago(2)), NodeState::Waits);
        for (reported, since) in [(None, ago(6)), (ago(6), ago(60))] {
            let found = state(reported, since);
            assert!(matches!(found, NodeState::Failed(_)), "{found:?}");
        }
        let failed = VolumeStatus {
            problem: Some("full".into()),
            ..VolumeStatus::default()
        };
        let found = node_state("a", ago(1).map(|at| (&failed, at)), &[], ago(60), now);
        assert_eq!(found, NodeState::Failed("full".into()));
        let (is_bad, _, message) = sum_up(2, &["a".into()], &BTreeMap::new());
        assert!(
            !is_bad && message == "waiting for the volumes of: a",
            "{message}"
        );
    }
}
