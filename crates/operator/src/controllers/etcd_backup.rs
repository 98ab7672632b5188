//! Creates the Jobs for an `EtcdBackup`. A Job makes a backup and applies retention. With a PersistentVolumeClaim there is one Job;
//! without one there is a Job on each control-plane node, one node after another. Only one request runs at a time. Of several
//! pending requests, the first by name runs and the others are skipped, as upstream does it.

use super::etcd_backup_plan::{Action, JobEnd, JobView, RequestView, decide};
use super::on_change;
use crate::cluster::cache::Cache;
use crate::cluster::node_layout::NodeLayout;
use crate::cluster::pod_problems::pod_problem;
use crate::cluster::pvc::{pvc_exists, pvc_missing_message};
use crate::context::Context;
use crate::names::FIELD_MANAGER;
use crate::names::{JOB_APP, NODE_ANNOTATION};
use crate::objects::job::{JobOptions, job};
use crate::options::ETCD_BACKUP as NAME;
use crate::status::outcome::{self, Outcome, outcome};
use backup_plan::record::{ON_DEMAND, is_origin};
use backup_plan::retention::Policy;
use cluster_api::resources::{
    BACKUP_ANNOTATION, Backup, BackupJob, DEFAULT_BACKUP, DEFAULT_NUMBER, EtcdBackup,
    EtcdBackupStatus, NodeMember,
};
use cluster_api::validation::validate;
use futures::FutureExt;
use k8s_openapi::api::batch::v1::Job;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::runtime::reflector::ObjectRef;
use kube::{Resource, ResourceExt};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// Maximum length of a name in a message, because anyone can choose it.
const MAX_NAME_CHARS: usize = 253;

/// Acts on each change.
pub(crate) async fn run(context: Arc<Context>, cache: Arc<Cache>) {
    let act = || reconcile(&context, &cache).boxed();
    on_change::run(&context, &cache, NAME, act).await;
}

async fn reconcile(context: &Context, cache: &Cache) -> Result<(), kube::Error> {
    let requests: Vec<_> = cache
        .requests
        .state()
        .into_iter()
        .filter(|request| request.metadata.deletion_timestamp.is_none())
        .collect();
    let mut counts: BTreeMap<_, _> = Outcome::ALL
        .into_iter()
        .map(|outcome| (outcome.reason().name(), 0))
        .collect();
    for request in &requests {
        let outcome = outcome(request).map_or(Outcome::Pending, |(outcome, _)| outcome);
        *counts.entry(outcome.reason().name()).or_default() += 1;
    }
    context.state.update(|state| state.requests = counts);
    let views: Vec<_> = requests
        .iter()
        .map(|request| request_view(request))
        .collect();
    let by_name: HashMap<_, _> = requests
        .iter()
        .map(|request| (request.name_any(), request))
        .collect();
    let pods = pod_problems(cache);
    let jobs: Vec<_> = cache
        .jobs
        .state()
        .iter()
        .filter(|job| job.labels().get("app").is_some_and(|app| app == JOB_APP))
        .filter_map(|job| job_view(job, &pods))
        .collect();
    let mut written = None;
    // If the API server refuses something for one request, the other requests are still handled.
    let mut failed = None;
    for decision in decide(&views, &jobs, &nodes_to_back_up(cache)) {
        let (Action::CreateJob { request, .. } | Action::WriteOutcome { request, .. }) = &decision;
        let Some(request) = by_name.get(request) else {
            continue;
        };
        let result = match decision {
            Action::CreateJob { node, .. } => create_job(context, cache, request, node).await,
            Action::WriteOutcome {
                outcome, message, ..
            } => write_outcome(context, request, outcome, message, None).await,
        };
        match result {
            Ok(updated) => written = updated.or(written),
            Err(error) => failed = Some(error),
        }
    }
    // The object that was written last arrives in the cache last.
    if let Some(written) = written {
        cache.wait_until_cached(&cache.requests, &written).await;
    }
    failed.map_or(Ok(()), Err)
}

fn request_view(request: &EtcdBackup) -> RequestView {
    let reported = outcome(request);
    let status = request.status.as_ref();
    RequestView {
        name: request.name_any(),
        uid: request.uid().unwrap_or_default(),
        pvc: Some(request.spec.pvc_name.clone()).filter(|name| !name.is_empty()),
        node: request
            .annotations()
            .get(NODE_ANNOTATION)
            .map(|name| name.chars().take(MAX_NAME_CHARS).collect()),
        outcome: reported.as_ref().map(|(outcome, _)| *outcome),
        last_message: reported
            .map(|(_, condition)| condition.message)
            .unwrap_or_default(),
        job: status
            .and_then(|status| status.backup_job.as_ref())
            .map(|job| job.name.clone()),
    }
}

/// The problems of pods, by Job.
fn pod_problems(cache: &Cache) -> HashMap<String, String> {
    let mut problems: HashMap<String, String> = HashMap::new();
    for pod in cache.pods.state() {
        let job = pod.labels().get("batch.kubernetes.io/job-name");
        if let (Some(job), Some(problem)) = (job, pod_problem(&pod)) {
            let known = problems.entry(job.clone()).or_default();
            // The order of the pods must not change which problem is reported.
            *known = problem.max(std::mem::take(known));
        }
    }
    problems
}

fn job_view(job: &Job, pods: &HashMap<String, String>) -> Option<JobView> {
    let owner = job
        .owner_references()
        .iter()
        .find(|owner| owner.kind == EtcdBackup::kind(&()))?;
    let conditions = job
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    let end = conditions
        .filter(|condition| condition.status == "True")
        .find_map(|condition| match condition.type_.as_str() {
            "Complete" => Some(JobEnd::Complete),
            "Failed" => Some(JobEnd::Failed(
                condition.message.clone().unwrap_or_else(|| "failed".into()),
            )),
            _ => None,
        });
    let name = job.name_any();
    Some(JobView {
        owner_uid: owner.uid.clone(),
        node: job.annotations().get(NODE_ANNOTATION).cloned(),
        pod_problem: pods.get(&name).cloned(),
        name,
        end,
    })
}

/// The nodes to back up: control-plane nodes, except those that are known to have no voting member.
fn nodes_to_back_up(cache: &Cache) -> Vec<String> {
    let without: BTreeSet<_> = cache
        .node_backups
        .state()
        .iter()
        .filter(|node| {
            let member = node.status.as_ref().map(|status| status.member);
            matches!(member, Some(NodeMember::Learner | NodeMember::None))
        })
        .map(|node| node.name_any())
        .collect();
    let mut nodes: Vec<_> = cache
        .control_plane()
        .into_iter()
        .map(|node| node.name_any())
        .filter(|name| !without.contains(name))
        .collect();
    nodes.sort();
    nodes
}

/// Creates a Job and writes the status of the request. If that is not possible, writes the reason.
async fn create_job(
    context: &Context,
    cache: &Cache,
    request: &EtcdBackup,
    node: Option<String>,
) -> Result<Option<EtcdBackup>, kube::Error> {
    let pvc = Some(&request.spec.pvc_name).filter(|name| !name.is_empty());
    // Anyone who can create an EtcdBackup can write any text there, and it becomes part of the path of a request.
    if let Some(pvc) = pvc
        && !is_origin(pvc)
    {
        let short: String = pvc.chars().take(MAX_NAME_CHARS).collect();
        let message = format!(
            "spec.pvcName {short:?} is not a valid name of a PersistentVolumeClaim: use lowercase letters, digits, - and ."
        );
        return write_outcome(context, request, Outcome::Failed, message, None).await;
    }
    let namespace = &context.cluster.namespace;
    if let Some(pvc) = pvc
        && !pvc_exists(&context.client, namespace, pvc).await?
    {
        let message = pvc_missing_message(namespace, "spec.pvcName", pvc);
        return write_outcome(context, request, Outcome::Failed, message, None).await;
    }
    let (origin, policy) = match origin_and_policy(cache, request) {
        Ok(found) => found,
        Err(message) => {
            return write_outcome(context, request, Outcome::Failed, message, None).await;
        }
    };
    let of = JobOptions {
        namespace,
        layout: layout(context, cache, node.as_deref()),
        node: node.as_deref(),
        origin: &origin,
        policy,
    };
    let job = job(&context.options, request, &of);
    let jobs: Api<Job> = Api::namespaced(context.client.clone(), namespace);
    let name = job.name_any();
    let name = name.as_str();
    let params = PostParams {
        field_manager: Some(FIELD_MANAGER.into()),
        ..PostParams::default()
    };
    let made = match context.write(jobs.create(&params, &job)).await {
        Ok(made) => made,
        // It was made before, and the status does not say so yet; or an earlier request of this name has one that is being deleted.
        Err(kube::Error::Api(status)) if status.code == 409 => {
            match existing_job(cache, &jobs, request, name).await? {
                Ok(own) => own,
                Err((outcome, message)) => {
                    return write_outcome(context, request, outcome, message, None).await;
                }
            }
        }
        Err(kube::Error::Api(status)) if matches!(status.code, 400 | 422) => {
            let message = format!("the API server refused its Job: {}", status.message);
            return write_outcome(context, request, Outcome::Failed, message, None).await;
        }
        Err(error) => return Err(error),
    };
    tracing::info!("EtcdBackup/{}: created Job {name}", request.name_any());
    cache.wait_until_cached(&cache.jobs, &made).await;
    let message = match &node {
        Some(node) => format!("Job {name} on {node} is running"),
        None => format!("Job {name} is running"),
    };
    write_outcome(context, request, Outcome::Pending, message, Some(name)).await
}

/// The Job of this name if it is that of the request, or what its owner means for the request.
async fn existing_job(
    cache: &Cache,
    jobs: &Api<Job>,
    request: &EtcdBackup,
    name: &str,
) -> Result<Result<Job, (Outcome, String)>, kube::Error> {
    let found = jobs.get_opt(name).await?;
    let owners = found
        .as_ref()
        .map(|job| job.owner_references())
        .unwrap_or_default();
    let is_own = owners
        .iter()
        .any(|owner| Some(&owner.uid) == request.uid().as_ref());
    let controller = owners
        .iter()
        .find(|owner| owner.controller == Some(true))
        .map(|owner| owner.uid.clone());
    if let Some(own) = found.filter(|_| is_own) {
        return Ok(Ok(own));
    }
    let requests = cache.requests.state();
    if requests.iter().any(|other| other.uid() == controller) {
        let message = format!(
            "Job {name} exists and belongs to another EtcdBackup: delete the other EtcdBackup, or create this one with another name"
        );
        return Ok(Err((Outcome::Failed, message)));
    }
    let message = format!("waiting until Job {name} of an earlier EtcdBackup is deleted");
    Ok(Err((Outcome::Pending, message)))
}

/// The layout of a node. A Job for any node uses the layout of the cluster.
fn layout(context: &Context, cache: &Cache, node: Option<&str>) -> NodeLayout {
    let labelled = node.and_then(|name| {
        let nodes = cache.nodes.state();
        let node = nodes.iter().find(|node| node.name_any() == name)?;
        NodeLayout::from_label(&**node)
    });
    labelled.unwrap_or_else(|| context.layout())
}

/// The origin and retention of a request, from the `Backup` in its annotation. Refuses a `Backup` that does not create requests,
/// because the annotation decides which backups are removed.
fn origin_and_policy(cache: &Cache, request: &EtcdBackup) -> Result<(String, Policy), String> {
    let on_demand = Policy::Number(DEFAULT_NUMBER.unsigned_abs().into());
    let Some(name) = request.annotations().get(BACKUP_ANNOTATION) else {
        return Ok((ON_DEMAND.into(), on_demand));
    };
    let refused = |why: &str| {
        let short: String = name.chars().take(MAX_NAME_CHARS).collect();
        Err(format!(
            "the annotation {BACKUP_ANNOTATION} is {short:?}: {why}; remove the annotation, only the CronJob of a Backup sets it"
        ))
    };
    if !is_origin(name) {
        return refused("this is not a valid name of a Backup");
    }
    if name == DEFAULT_BACKUP || name == ON_DEMAND {
        return refused("a Backup with this name does not create EtcdBackups");
    }
    let Some(backup) = cache.backups.get(&ObjectRef::<Backup>::new(name)) else {
        return refused("this Backup does not exist");
    };
    // If the Backup is invalid now, no backup is removed.
    let policy = validate(name, &backup.spec).map_or(Policy::None, |valid| valid.policy);
    Ok((name.clone(), policy))
}

/// Writes the outcome to the status of a request. Returns the new object, or `None` if nothing has changed.
async fn write_outcome(
    context: &Context,
    request: &EtcdBackup,
    outcome: Outcome,
    message: String,
    job: Option<&str>,
) -> Result<Option<EtcdBackup>, kube::Error> {
    let old = request.status.clone().unwrap_or_default();
    let reported = self::outcome(request);
    let job = old.backup_job.clone().or(job.map(|name| BackupJob {
        namespace: context.cluster.namespace.clone(),
        name: name.into(),
    }));
    let same = reported
        .as_ref()
        .is_some_and(|(before, condition)| *before == outcome && condition.message == message);
    if same && job == old.backup_job {
        return Ok(None);
    }
    let status = EtcdBackupStatus {
        conditions: outcome::conditions(
            &old.conditions,
            outcome,
            &message,
            request.metadata.generation,
        ),
        backup_job: job,
    };
    let patch = Patch::Apply(json!({
        "apiVersion": EtcdBackup::api_version(&()),
        "kind": EtcdBackup::kind(&()),
        "status": status,
    }));
    let requests: Api<EtcdBackup> = Api::all(context.client.clone());
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let name = request.name_any();
    let written = match context
        .write(requests.patch_status(&name, &params, &patch))
        .await
    {
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(None),
        other => other?,
    };
    if reported.is_none_or(|(before, _)| before != outcome) {
        publish_outcome(context, request, outcome, &message).await;
    }
    Ok(Some(written))
}

async fn publish_outcome(context: &Context, request: &EtcdBackup, outcome: Outcome, message: &str) {
    let name = request.name_any();
    let object = request.object_ref(&());
    let reason = outcome.reason();
    match outcome {
        Outcome::Pending => {}
        Outcome::Completed => {
            tracing::info!("EtcdBackup/{name}: {message}");
            context.events.normal(&object, reason, message).await;
        }
        Outcome::Failed | Outcome::Skipped => {
            tracing::warn!("EtcdBackup/{name}: {message}");
            context.events.warning(&object, reason, message).await;
        }
    }
}
