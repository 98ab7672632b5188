//! An `EtcdBackup` becomes a Job that makes a backup and then keeps what its retention says: in a claim's volume, or,
//! without one, a Job on each control-plane node, one node after another. One request at a time; of several that
//! wait the first by name is next, and the others are told that they were skipped, as upstream does it.

use crate::conditions::Saying;
use crate::names::{JOB_APP, JOB_CONTAINER, LABEL_CHARS, NAME_LABEL, NODE_ANNOTATION, shortened};
use crate::pods::{self, Target, with};
use crate::seen::{self, Seen};
use crate::shape::Shape;
use crate::{Context, FIELD_MANAGER, Options, freshness, periodic};
use backup_plan::api::{
    BACKUP_ANNOTATION, Backup, BackupJob, DEFAULT_NUMBER, EtcdBackup, EtcdBackupStatus, NodeMember,
    validate,
};
use backup_plan::record::ON_DEMAND;
use backup_plan::retention::Policy;
use futures::FutureExt;
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::runtime::reflector::ObjectRef;
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// In logs and metrics.
pub(crate) const NAME: &str = "backup";
/// A backup may take so long.
const JOB_LASTS_S: i64 = 900;
/// A pod that never started is ended by its Job, a little later than one that runs ends: so its words are not lost.
const JOB_MARGIN_S: i64 = 30;
/// Another run on the same disk may go on before it.
const WAITS_FOR_LOCK_S: i64 = 600;

/// What has become of a request; the names are upstream's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// It waits, or it is made.
    Pending,
    /// It was made.
    Completed,
    /// It could not be made.
    Failed,
    /// Another one was made instead.
    Skipped,
}

impl Outcome {
    /// The type of its condition.
    #[must_use]
    pub fn condition(self) -> &'static str {
        match self {
            Outcome::Pending => "BackupPending",
            Outcome::Completed => "BackupCompleted",
            Outcome::Failed => "BackupFailed",
            Outcome::Skipped => "BackupSkipped",
        }
    }

    const ALL: [Outcome; 4] = [
        Outcome::Pending,
        Outcome::Completed,
        Outcome::Failed,
        Outcome::Skipped,
    ];
}

/// What a request was last told.
#[must_use]
pub fn outcome(request: &EtcdBackup) -> Option<(Outcome, Condition)> {
    let conditions = &request.status.as_ref()?.conditions;
    let holds = conditions
        .iter()
        .find(|condition| condition.status == "True")?;
    let outcome = Outcome::ALL
        .into_iter()
        .find(|outcome| outcome.condition() == holds.type_)?;
    Some((outcome, holds.clone()))
}

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Request {
    name: String,
    uid: String,
    claim: Option<String>,
    /// On this node only.
    node: Option<String>,
    /// Nothing has been said of it yet.
    outcome: Option<Outcome>,
    /// What was last said of it.
    said: String,
    /// The Job it was told to have.
    job: Option<String>,
}

/// A Job that makes a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Made {
    name: String,
    /// The request's.
    owner_uid: String,
    node: Option<String>,
    end: Option<End>,
    /// What its pod waits for or died of.
    pod: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum End {
    Complete,
    Failed(String),
}

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Do {
    /// Make the Job of a request, on a node or with its claim.
    Make {
        request: String,
        node: Option<String>,
    },
    /// Tell what has become of it.
    Tell {
        request: String,
        outcome: Outcome,
        message: String,
    },
}

/// Decides. Nodes are those to be backed up, in order.
fn decide(requests: &[Request], jobs: &[Made], nodes: &[String]) -> Vec<Do> {
    let mut all = Vec::new();
    let tell = |request: &Request, outcome: Outcome, message: String| Do::Tell {
        request: request.name.clone(),
        outcome,
        message,
    };
    let mut goes_on = None;
    let mut waiting = Vec::new();
    for request in requests {
        if matches!(request.outcome, Some(outcome) if outcome != Outcome::Pending) {
            continue;
        }
        let own: Vec<_> = jobs
            .iter()
            .filter(|job| job.owner_uid == request.uid)
            .collect();
        if own.is_empty() && request.job.is_none() {
            waiting.push(request);
            continue;
        }
        goes_on.get_or_insert(&request.name);
        all.push(if own.is_empty() {
            let job = request.job.as_deref().unwrap_or_default();
            tell(
                request,
                Outcome::Failed,
                format!("its Job {job} was deleted"),
            )
        } else {
            go_on(request, &own, &of_request(request, nodes))
        });
    }
    waiting.sort_by(|one, other| one.name.cmp(&other.name));
    if let Some(running) = goes_on {
        let message = format!("waits for EtcdBackup {running}: one is made at a time");
        let told = waiting
            .into_iter()
            .map(|request| tell(request, Outcome::Pending, message.clone()));
        all.extend(told);
        return all;
    }
    let Some((first, others)) = waiting.split_first() else {
        return all;
    };
    all.push(match (&first.claim, of_request(first, nodes).first()) {
        (None, None) => tell(first, Outcome::Failed, no_node(first)),
        (None, Some(node)) => Do::Make {
            request: first.name.clone(),
            node: Some(node.clone()),
        },
        (Some(_), _) => Do::Make {
            request: first.name.clone(),
            node: None,
        },
    });
    let message = format!(
        "skipped for EtcdBackup {}: one is made at a time; ask again",
        first.name
    );
    all.extend(
        others
            .iter()
            .map(|request| tell(request, Outcome::Skipped, message.clone())),
    );
    all
}

/// The nodes that a request is for.
fn of_request(request: &Request, nodes: &[String]) -> Vec<String> {
    let is_for = |node: &&String| request.node.as_ref().is_none_or(|only| only == *node);
    nodes.iter().filter(is_for).cloned().collect()
}

fn no_node(request: &Request) -> String {
    match &request.node {
        Some(node) => format!("{node} is no node of the control plane that has a voting member"),
        None => "there is no node with a role label control-plane, master or etcd that has a voting member".into(),
    }
}

/// Decides of a request that has a Job.
fn go_on(request: &Request, jobs: &[&Made], nodes: &[String]) -> Do {
    let tell = |outcome, message| Do::Tell {
        request: request.name.clone(),
        outcome,
        message,
    };
    let place = |job: &Made| {
        let node = job.node.iter().map(|node| format!(" on {node}"));
        format!("Job {}{}", job.name, node.collect::<String>())
    };
    let done = jobs
        .iter()
        .filter(|job| job.end == Some(End::Complete))
        .count();
    let running = jobs.iter().find(|job| job.end.is_none());
    if let Some(job) = running {
        let pod = job.pod.iter().map(|pod| format!(": {pod}"));
        let so_far = if request.claim.is_none() {
            format!("{done} of {} nodes done; ", nodes.len().max(jobs.len()))
        } else {
            String::new()
        };
        let message = format!("{so_far}{} is at it{}", place(job), pod.collect::<String>());
        return tell(Outcome::Pending, message);
    }
    if request.claim.is_none()
        && let Some(node) = nodes
            .iter()
            .find(|node| jobs.iter().all(|job| job.node.as_ref() != Some(node)))
    {
        return Do::Make {
            request: request.name.clone(),
            node: Some(node.clone()),
        };
    }
    let failed: Vec<_> = jobs
        .iter()
        .filter_map(|job| match &job.end {
            Some(End::Failed(why)) => Some(format!(
                "{}: {}",
                place(job),
                // With its Job an overdue pod is gone, and what it waited for is known from before.
                job.pod.as_ref().unwrap_or(why)
            )),
            _ => None,
        })
        .collect();
    if failed.is_empty() {
        let places: Vec<_> = jobs.iter().map(|job| place(job)).collect();
        return tell(
            Outcome::Completed,
            format!("a proven backup was made by {}", places.join(", ")),
        );
    }
    let mut message = if request.claim.is_none() {
        format!("{done} of {} nodes have a new backup. ", jobs.len())
    } else {
        String::new()
    };
    message += &failed.join(". ");
    // It was said while its pod was still there.
    if jobs.iter().all(|job| job.pod.is_none()) && request.said.contains(" is at it: ") {
        message += &format!(" (before: {})", request.said);
    }
    tell(Outcome::Failed, message)
}

/// Acts on whatever changes.
pub(crate) async fn run(context: Arc<Context>, seen: Arc<Seen>) {
    let act = || act(&context, &seen).boxed();
    seen::follow(&context, &seen, NAME, act).await;
}

async fn act(context: &Context, seen: &Seen) -> Result<(), kube::Error> {
    let requests: Vec<_> = seen
        .requests
        .state()
        .into_iter()
        .filter(|request| request.metadata.deletion_timestamp.is_none())
        .collect();
    let mut counts: BTreeMap<_, _> = Outcome::ALL
        .into_iter()
        .map(|outcome| (outcome.condition(), 0))
        .collect();
    for request in &requests {
        let outcome = outcome(request).map_or(Outcome::Pending, |(outcome, _)| outcome);
        *counts.entry(outcome.condition()).or_default() += 1;
    }
    context.telling.change(|telling| telling.requests = counts);
    let views: Vec<_> = requests.iter().map(|request| view(request)).collect();
    let jobs: Vec<_> = seen
        .jobs
        .state()
        .iter()
        .filter(|job| job.labels().get("app").is_some_and(|app| app == JOB_APP))
        .filter_map(|job| made(job, seen))
        .collect();
    let mut written = None;
    for decision in decide(&views, &jobs, &targets(seen)) {
        match decision {
            Do::Make { request, node } => {
                if let Some(request) = requests.iter().find(|known| known.name_any() == request) {
                    written = make(context, seen, request, node).await?.or(written);
                }
            }
            Do::Tell {
                request,
                outcome,
                message,
            } => {
                if let Some(request) = requests.iter().find(|known| known.name_any() == request) {
                    written = tell(context, request, outcome, message, None)
                        .await?
                        .or(written);
                }
            }
        }
    }
    // The last that was written is seen last.
    if let Some(written) = written {
        seen.until_seen(&seen.requests, &written).await;
    }
    Ok(())
}

fn view(request: &EtcdBackup) -> Request {
    let said = outcome(request);
    let status = request.status.as_ref();
    Request {
        name: request.name_any(),
        uid: request.uid().unwrap_or_default(),
        claim: Some(request.spec.pvc_name.clone()).filter(|name| !name.is_empty()),
        node: request.annotations().get(NODE_ANNOTATION).cloned(),
        outcome: said.as_ref().map(|(outcome, _)| *outcome),
        said: said
            .map(|(_, condition)| condition.message)
            .unwrap_or_default(),
        job: status
            .and_then(|status| status.backup_job.as_ref())
            .map(|job| job.name.clone()),
    }
}

fn made(job: &Job, seen: &Seen) -> Option<Made> {
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
            "Complete" => Some(End::Complete),
            "Failed" => Some(End::Failed(
                condition.message.clone().unwrap_or_else(|| "failed".into()),
            )),
            _ => None,
        });
    let name = job.name_any();
    let pods = seen.pods.state();
    let own = pods.iter().filter(|pod| {
        let label = pod.labels().get("batch.kubernetes.io/job-name");
        label.is_some_and(|label| *label == name)
    });
    Some(Made {
        owner_uid: owner.uid.clone(),
        node: job.annotations().get(NODE_ANNOTATION).cloned(),
        pod: own.filter_map(|pod| freshness::pod_problem(pod)).max(),
        name,
        end,
    })
}

/// The nodes that have a backup each: control-plane nodes, as far as they are known to have a voting member.
fn targets(seen: &Seen) -> Vec<String> {
    let without: BTreeSet<_> = seen
        .node_backups
        .state()
        .iter()
        .filter(|node| {
            let member = node.status.as_ref().map(|status| status.member);
            matches!(member, Some(NodeMember::Learner | NodeMember::None))
        })
        .map(|node| node.name_any())
        .collect();
    let mut nodes: Vec<_> = freshness::control_plane(seen)
        .into_iter()
        .map(|node| node.name_any())
        .filter(|name| !without.contains(name))
        .collect();
    nodes.sort();
    nodes
}

/// Makes a Job, and says so; of a request that can't be made, why.
async fn make(
    context: &Context,
    seen: &Seen,
    request: &EtcdBackup,
    node: Option<String>,
) -> Result<Option<EtcdBackup>, kube::Error> {
    let claim = Some(&request.spec.pvc_name).filter(|name| !name.is_empty());
    if let Some(claim) = claim
        && !periodic::claim_exists(context, claim).await?
    {
        let message = periodic::claim_missing(context, claim);
        return tell(context, request, Outcome::Failed, message, None).await;
    }
    let (origin, policy) = of_backup(seen, request);
    let job = job(
        &context.shape,
        &context.options,
        request,
        node.as_deref(),
        &origin,
        policy,
    );
    let jobs: Api<Job> = Api::namespaced(context.client.clone(), &context.shape.namespace);
    let name = job
        .pointer("/metadata/name")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let object = serde_json::from_value(job.clone()).map_err(kube::Error::SerdeError)?;
    let params = PostParams {
        field_manager: Some(FIELD_MANAGER.into()),
        ..PostParams::default()
    };
    let made = match context.write(jobs.create(&params, &object)).await {
        Ok(made) => made,
        // Made before, and not told; or that of a request of the same name, which is on its way out.
        Err(kube::Error::Api(status)) if status.code == 409 => {
            let found = jobs.get_opt(name).await?;
            let own = found.filter(|job| {
                let mut owners = job.owner_references().iter();
                owners.any(|owner| Some(&owner.uid) == request.uid().as_ref())
            });
            match own {
                Some(own) => own,
                None => {
                    let message = format!("waits until Job {name} of a request before is gone");
                    return tell(context, request, Outcome::Pending, message, None).await;
                }
            }
        }
        Err(kube::Error::Api(status)) if matches!(status.code, 400 | 422) => {
            let message = format!("its Job was refused: {}", status.message);
            return tell(context, request, Outcome::Failed, message, None).await;
        }
        Err(error) => return Err(error),
    };
    tracing::info!("EtcdBackup/{}: made Job {name}", request.name_any());
    seen.until_seen(&seen.jobs, &made).await;
    let message = match &node {
        Some(node) => format!("Job {name} on {node} is at it"),
        None => format!("Job {name} is at it"),
    };
    tell(context, request, Outcome::Pending, message, Some(name)).await
}

/// The origin and the retention of what is made: those of the `Backup` that asked.
fn of_backup(seen: &Seen, request: &EtcdBackup) -> (String, Policy) {
    let on_demand = Policy::Number(DEFAULT_NUMBER.unsigned_abs().into());
    let Some(name) = request.annotations().get(BACKUP_ANNOTATION) else {
        return (ON_DEMAND.into(), on_demand);
    };
    let backup = seen.backups.get(&ObjectRef::<Backup>::new(name));
    // One that is gone or wrong meanwhile gives nothing up.
    let policy = backup
        .and_then(|backup| validate(name, &backup.spec).ok())
        .map_or(Policy::None, |valid| valid.policy);
    (name.clone(), policy)
}

/// A Job, as it is made.
fn job(
    shape: &Shape,
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
    let pod = pods::taking_backups(shape.platform, &options.image, JOB_CONTAINER, &args, target);
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

/// Tells a request what has become of it; gives it as it is then, if that was something new.
async fn tell(
    context: &Context,
    request: &EtcdBackup,
    outcome: Outcome,
    message: String,
    job: Option<&str>,
) -> Result<Option<EtcdBackup>, kube::Error> {
    let old = request.status.clone().unwrap_or_default();
    let said = self::outcome(request);
    let job = old.backup_job.clone().or(job.map(|name| BackupJob {
        namespace: context.shape.namespace.clone(),
        name: name.into(),
    }));
    let same = said
        .as_ref()
        .is_some_and(|(before, condition)| *before == outcome && condition.message == message);
    if same && job == old.backup_job {
        return Ok(None);
    }
    let status = EtcdBackupStatus {
        conditions: conditions(
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
    if said.is_none_or(|(before, _)| before != outcome) {
        announce(context, request, outcome, &message).await;
    }
    Ok(Some(written))
}

async fn announce(context: &Context, request: &EtcdBackup, outcome: Outcome, message: &str) {
    let name = request.name_any();
    let object = request.object_ref(&());
    let reason = outcome.condition();
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

/// Only the newest holds; those before it stay, and do not.
fn conditions(
    before: &[Condition],
    outcome: Outcome,
    message: &str,
    generation: Option<i64>,
) -> Vec<Condition> {
    let now = Timestamp::now();
    let type_ = outcome.condition();
    let newest = Saying {
        type_,
        holds: true,
        reason: type_,
        message: message.into(),
    };
    let old = before.iter().filter(|condition| condition.type_ != type_);
    let mut all: Vec<_> = old
        .map(|condition| {
            let over = Condition {
                status: "False".into(),
                ..condition.clone()
            };
            if condition.status == "False" {
                return over;
            }
            Condition {
                last_transition_time: k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now),
                ..over
            }
        })
        .collect();
    let same = crate::conditions::before(before, type_);
    all.push(newest.after(same, generation, now));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(name: &str) -> Request {
        Request {
            name: name.into(),
            uid: format!("uid-{name}"),
            claim: None,
            node: None,
            outcome: None,
            said: String::new(),
            job: None,
        }
    }

    fn with_claim(name: &str) -> Request {
        Request {
            claim: Some("claim".into()),
            ..request(name)
        }
    }

    fn job(of: &str, node: Option<&str>, end: Option<End>) -> Made {
        Made {
            name: format!("{of}-{}", node.unwrap_or("claim")),
            owner_uid: format!("uid-{of}"),
            node: node.map(String::from),
            end,
            pod: None,
        }
    }

    fn nodes(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_string()).collect()
    }

    /// In short: who, and what.
    fn decided(requests: &[Request], jobs: &[Made], on: &[&str]) -> Vec<String> {
        decide(requests, jobs, &nodes(on))
            .into_iter()
            .map(|decision| match decision {
                Do::Make { request, node } => {
                    format!("{request} make {}", node.unwrap_or_default())
                }
                Do::Tell {
                    request, outcome, ..
                } => format!("{request} {outcome:?}"),
            })
            .collect()
    }

    #[test]
    fn of_several_the_first_by_name_is_made_and_the_others_are_skipped() {
        let all = [with_claim("c"), with_claim("a"), with_claim("b")];
        assert_eq!(
            decided(&all, &[], &["n1"]),
            ["a make ", "b Skipped", "c Skipped"]
        );
    }

    #[test]
    fn while_one_is_made_the_others_wait() {
        let running = job("b", Some("n1"), None);
        assert_eq!(
            decided(&[request("a"), request("b")], &[running], &["n1"]),
            ["b Pending", "a Pending"]
        );
    }

    #[test]
    fn one_node_comes_after_another_and_each_failure_is_told() {
        let on = ["n1", "n2", "n3"];
        let end = |node, end| job("a", Some(node), Some(end));
        let mut jobs = Vec::new();
        for node in on {
            assert_eq!(
                decided(&[request("a")], &jobs, &on),
                [format!("a make {node}")]
            );
            jobs.push(end(node, End::Complete));
        }
        assert_eq!(decided(&[request("a")], &jobs, &on), ["a Completed"]);
        jobs.pop();
        jobs.push(end("n3", End::Failed("the disk is full".into())));
        let told = decide(&[request("a")], &jobs, &nodes(&on));
        let Some(Do::Tell {
            outcome, message, ..
        }) = told.first()
        else {
            panic!("it is told");
        };
        assert_eq!(*outcome, Outcome::Failed);
        assert!(message.starts_with("2 of 3 nodes have"), "{message}");
        assert!(message.contains("on n3: the disk is full"), "{message}");
    }

    #[test]
    fn a_request_for_one_node_is_made_there_or_refused() {
        let only = |node: &str| Request {
            node: Some(node.into()),
            ..request("a")
        };
        assert_eq!(decided(&[only("n2")], &[], &["n1", "n2"]), ["a make n2"]);
        assert_eq!(decided(&[only("n7")], &[], &["n1", "n2"]), ["a Failed"]);
        let done = job("a", Some("n2"), Some(End::Complete));
        assert_eq!(
            decided(&[only("n2")], &[done], &["n1", "n2"]),
            ["a Completed"]
        );
    }

    #[test]
    fn what_has_an_end_keeps_it_and_a_job_that_was_deleted_is_one() {
        let over = Request {
            outcome: Some(Outcome::Completed),
            ..request("a")
        };
        assert_eq!(decided(&[over], &[], &["n1"]), Vec::<String>::new());
        let lost = Request {
            outcome: Some(Outcome::Pending),
            job: Some("a-n1".into()),
            ..request("a")
        };
        assert_eq!(decided(&[lost], &[], &["n1"]), ["a Failed"]);
        assert_eq!(decided(&[request("a")], &[], &[]), ["a Failed"]);
    }

    #[test]
    fn one_condition_holds_at_a_time() {
        let pending = conditions(&[], Outcome::Pending, "waits", Some(1));
        let done = conditions(&pending, Outcome::Completed, "made", Some(1));
        let held: Vec<_> = done
            .iter()
            .map(|condition| (condition.type_.as_str(), condition.status.as_str()))
            .collect();
        assert_eq!(
            held,
            [("BackupPending", "False"), ("BackupCompleted", "True")]
        );
    }
}
