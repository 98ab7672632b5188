//! Makes backups by Jobs, without an `EtcdBackup`: for clusters in which another owner has the CRD. The Jobs run on the nodes that have a
//! backup server, with its own pod template, one node after another.

use crate::cluster::lenient::{self, Lenient};
use crate::cluster::pod_problems::pod_problem;
use crate::cluster::request_result::RequestResult;
use crate::names::{DAEMON_SET, REPOSITORY, SERVER_APP};
use crate::objects::job::on_demand_job;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams, PostParams};
use kube::{Client, ResourceExt};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Creates a Job on each node with a backup server, or on one, and waits for their ends.
///
/// # Errors
/// The error of the API server.
pub(crate) async fn run(
    client: &Client,
    namespace: &str,
    only: Option<&str>,
    timeout: Duration,
    report: &dyn Fn(&str),
) -> Result<RequestResult, kube::Error> {
    let servers = ListParams::default().labels(&format!("app={SERVER_APP}"));
    let sets: Api<Lenient<DaemonSet>> = Api::namespaced(client.clone(), namespace);
    let (sets, _) = lenient::list(&sets, &servers).await?;
    let pods: Api<Lenient<Pod>> = Api::namespaced(client.clone(), namespace);
    let (pods, _) = lenient::list(&pods, &servers).await?;
    let mut nodes: BTreeMap<String, &DaemonSet> = BTreeMap::new();
    for pod in &pods {
        let of = |set: &&DaemonSet| {
            set.name_any().starts_with(DAEMON_SET)
                && pod.owner_references().iter().any(|owner| {
                    owner.controller == Some(true) && Some(&owner.uid) == set.uid().as_ref()
                })
        };
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
        if let (Some(node), Some(set)) = (node, sets.iter().find(of)) {
            nodes.insert(node, set);
        }
    }
    if let Some(only) = only {
        nodes.retain(|node, _| node == only);
    }
    if nodes.is_empty() {
        let where_ = only.map_or_else(String::new, |node| format!(" on node {node}"));
        let message = format!(
            "no backup server runs{where_} in namespace {namespace}, so there is no pod to copy for a Job; run `status` to see why"
        );
        return Ok(RequestResult::NotCreated { message });
    }
    let deadline = Instant::now().checked_add(timeout);
    let jobs: Api<Job> = Api::namespaced(client.clone(), namespace);
    let mut name = String::new();
    let mut failed = Vec::new();
    for (node, set) in &nodes {
        if deadline.is_some_and(|at| Instant::now() >= at) {
            failed.push(format!("on {node}: not started, because the time was over"));
            continue;
        }
        let created = jobs
            .create(&PostParams::default(), &on_demand_job(set, node))
            .await?;
        name = created.name_any();
        report(&format!("created Job {name} on {node}"));
        if let Err(problem) = wait_for_end(client, namespace, &name, deadline).await? {
            failed.push(format!("on {node}: {problem}"));
        }
    }
    let made = nodes.len() - failed.len();
    let message = format!(
        "{made} of {} nodes have a new proven backup in {REPOSITORY}{}",
        nodes.len(),
        failed
            .iter()
            .map(|what| format!("; {what}"))
            .collect::<String>()
    );
    Ok(if failed.is_empty() {
        RequestResult::Completed { name, message }
    } else {
        RequestResult::Failed { name, message }
    })
}

/// Waits for the end of a Job. The inner error is why it made no backup.
async fn wait_for_end(
    client: &Client,
    namespace: &str,
    name: &str,
    deadline: Option<Instant>,
) -> Result<Result<(), String>, kube::Error> {
    let jobs: Api<Job> = Api::namespaced(client.clone(), namespace);
    let pods: Api<Lenient<Pod>> = Api::namespaced(client.clone(), namespace);
    let of_job = ListParams::default().labels(&format!("batch.kubernetes.io/job-name={name}"));
    loop {
        let Some(job) = jobs.get_opt(name).await? else {
            return Ok(Err(format!("Job {name} was deleted before its end")));
        };
        let status = job.status.unwrap_or_default();
        if status.succeeded.unwrap_or_default() > 0 {
            return Ok(Ok(()));
        }
        let mut conditions = status.conditions.iter().flatten();
        let condition = conditions.find(|one| one.type_ == "Failed" && one.status == "True");
        let ended = status.failed.unwrap_or_default() > 0 || condition.is_some();
        let is_late = deadline.is_some_and(|at| Instant::now() >= at);
        if ended || is_late {
            let (pods, _) = lenient::list(&pods, &of_job).await?;
            let reason = condition.and_then(|condition| condition.message.clone());
            let problem = pods.iter().find_map(pod_problem).or(reason);
            let what = match ended {
                true => format!("Job {name} failed"),
                false => format!("Job {name} was not complete in time"),
            };
            return Ok(Err(match problem {
                Some(problem) => format!("{what}: {problem}"),
                None => what,
            }));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}
