//! Creates an `EtcdBackup` and waits for its result. If it is skipped, creates it again.

use crate::api_error::api_error_message;
use crate::cluster::api_schema::ApiProblems;
use crate::cluster::backup_job;
use crate::cluster::cluster_info::{self, ClusterInfo, CrdOwner};
pub use crate::cluster::request_result::RequestResult;
use crate::cluster::watch_backoff::{WatchBackoff, watch_error_message};
use crate::names::NODE_ANNOTATION;
use crate::status::outcome::{Outcome, outcome};
use cluster_api::resources::{BACKUP_ANNOTATION, EtcdBackup, EtcdBackupSpec};
use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, DeleteParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use std::collections::BTreeMap;
use std::pin::pin;
use std::time::{Duration, Instant};

/// Delay before the first retry of a skipped request. Each further delay is twice as long.
const FIRST_RETRY: Duration = Duration::from_secs(5);
/// After this time without a status, the command reports that the operator does not react.
const OPERATOR_REACTS_WITHIN: Duration = Duration::from_secs(20);
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// The Job that owns the request.
#[derive(Debug, Clone)]
pub struct Owner {
    /// Name of the Job, which is in the operator's namespace.
    pub name: String,
    /// Uid of the Job. When no Job has it any more, the operator deletes the `EtcdBackup`.
    pub uid: String,
}

/// The requested backup.
#[derive(Debug, Clone)]
pub struct RequestOptions {
    /// Name of the `EtcdBackup`. If `None`, the API server generates one.
    pub name: Option<String>,
    /// Name of the `Backup` that the request belongs to, or `None` for a backup on demand.
    pub backup: Option<String>,
    /// The only node to back up, or `None` for all.
    pub node: Option<String>,
    /// The PersistentVolumeClaim. Empty for the disks of the nodes.
    pub pvc_name: String,
    /// The Job that owns the request, if any.
    pub owner: Option<Owner>,
    /// How long to wait for the result, with all retries.
    pub timeout: Duration,
}

/// Creates the `EtcdBackup` and waits for its result.
///
/// # Errors
/// If the API server refuses the `EtcdBackup`.
pub async fn run(
    client: Client,
    options: &RequestOptions,
    report: &dyn Fn(&str),
) -> Result<RequestResult, kube::Error> {
    // A CronJob exists only if this operator owns the CRDs.
    if options.owner.is_none() {
        match handled_by(&client).await {
            Handler::ThisOperator => {}
            Handler::Upstream if options.pvc_name.is_empty() => {
                let message = "OpenShift's own operator handles every EtcdBackup of this cluster and stores backups only on volumes: give a PersistentVolumeClaim with --pvc-name".into();
                return Ok(RequestResult::NotCreated { message });
            }
            Handler::Upstream => {}
            Handler::Nobody { problem, .. } if !options.pvc_name.is_empty() => {
                let message = format!(
                    "{problem}, so a backup on a PersistentVolumeClaim cannot be requested: leave out --pvc-name to make a backup on the disks of the nodes"
                );
                return Ok(RequestResult::NotCreated { message });
            }
            Handler::Nobody { problem, namespace } => {
                report(&format!("{problem}: asking by Jobs instead"));
                let only = options.node.as_deref();
                return backup_job::run(&client, &namespace, only, options.timeout, report).await;
            }
        }
    }
    let requests: Api<EtcdBackup> = Api::all(client);
    // A timeout that no clock can hold never ends.
    let deadline = Instant::now().checked_add(options.timeout);
    let mut delay = FIRST_RETRY;
    let mut number = 0u32;
    loop {
        number = number.saturating_add(1);
        let created = requests
            .create(&PostParams::default(), &request(options, number))
            .await?;
        let name = created.name_any();
        report(&format!("created EtcdBackup {name}"));
        let left = deadline.map_or(Duration::MAX, |deadline| {
            deadline.saturating_duration_since(Instant::now())
        });
        let Ok(ended) =
            tokio::time::timeout(left, wait_for_outcome(&requests, &name, report)).await
        else {
            let message = format!("not complete after {} s", options.timeout.as_secs());
            return Ok(RequestResult::Failed { name, message });
        };
        match ended {
            Some((Outcome::Completed, message)) => {
                return Ok(RequestResult::Completed { name, message });
            }
            Some((Outcome::Skipped, message))
                if deadline.is_none_or(|at| Instant::now() + delay < at) =>
            {
                report(&format!(
                    "EtcdBackup {name}: {message}; trying again in {} s",
                    delay.as_secs()
                ));
                // If the user is not allowed to delete it, it stays. It has ended, so it does no harm.
                if let Err(error) = requests.delete(&name, &DeleteParams::default()).await {
                    report(&format!(
                        "cannot delete EtcdBackup {name}: {}",
                        api_error_message(&error)
                    ));
                }
                tokio::time::sleep(delay).await;
                delay = (delay * 2).min(LONGEST_RETRY);
            }
            Some((_, message)) => return Ok(RequestResult::Failed { name, message }),
            None => {
                let message = "the EtcdBackup was deleted before its end".into();
                return Ok(RequestResult::Failed { name, message });
            }
        }
    }
}

/// Who acts on an `EtcdBackup`.
enum Handler {
    /// Also if the user is not allowed to read who does.
    ThisOperator,
    Upstream,
    /// The CRD has not the fields that are written.
    Nobody {
        problem: String,
        namespace: String,
    },
}

async fn handled_by(client: &Client) -> Handler {
    match cluster_info::read_cluster_info(client).await {
        Ok(ClusterInfo {
            api_problems:
                ApiProblems {
                    etcd_backup: Some(problem),
                    ..
                },
            namespace,
            ..
        }) => Handler::Nobody { problem, namespace },
        Ok(info) if info.crd_owner == CrdOwner::Upstream => Handler::Upstream,
        _ => Handler::ThisOperator,
    }
}

fn request(options: &RequestOptions, number: u32) -> EtcdBackup {
    let spec = EtcdBackupSpec {
        pvc_name: options.pvc_name.clone(),
    };
    let mut request = EtcdBackup::new("", spec);
    let metadata = &mut request.metadata;
    metadata.name = options.name.as_ref().map(|name| match number {
        1 => name.clone(),
        number => format!("{name}-{number}"),
    });
    if metadata.name.is_none() {
        metadata.generate_name = Some("on-demand-".into());
    }
    let backup = options.backup.iter().map(|name| (BACKUP_ANNOTATION, name));
    let node = options.node.iter().map(|name| (NODE_ANNOTATION, name));
    let annotations: BTreeMap<_, _> = backup
        .chain(node)
        .map(|(key, name)| (key.to_string(), name.clone()))
        .collect();
    metadata.annotations = Some(annotations).filter(|all| !all.is_empty());
    metadata.owner_references = options.owner.as_ref().map(|owner| {
        vec![OwnerReference {
            api_version: "batch/v1".into(),
            kind: "Job".into(),
            name: owner.name.clone(),
            uid: owner.uid.clone(),
            ..OwnerReference::default()
        }]
    });
    request
}

/// Waits for the result of a request. Returns `None` if it was deleted.
async fn wait_for_outcome(
    requests: &Api<EtcdBackup>,
    name: &str,
    report: &dyn Fn(&str),
) -> Option<(Outcome, String)> {
    let named = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut events = watcher(requests.clone(), named)
        .backoff(WatchBackoff::default())
        .boxed();
    let mut listed = false;
    let mut reported = String::new();
    let mut reaction_timeout = pin!(tokio::time::sleep(OPERATOR_REACTS_WITHIN));
    loop {
        let event = tokio::select! {
            event = events.next() => event?,
            () = &mut reaction_timeout, if !reaction_timeout.is_elapsed() => {
                if reported.is_empty() {
                    report("the operator has not processed the EtcdBackup yet: run `status` to see whether the operator works");
                }
                continue;
            }
        };
        let request = match event {
            Ok(watcher::Event::Init) => {
                listed = false;
                continue;
            }
            Ok(watcher::Event::InitApply(request)) => {
                listed = true;
                request
            }
            Ok(watcher::Event::Apply(request)) => request,
            Ok(watcher::Event::Delete(_)) => return None,
            Ok(watcher::Event::InitDone) if !listed => return None,
            Ok(watcher::Event::InitDone) => continue,
            Err(error) => {
                if let Some(problem) =
                    watch_error_message(&error).filter(|problem| *problem != reported)
                {
                    report(&format!("cannot watch EtcdBackup {name}: {problem}"));
                    reported = problem;
                }
                continue;
            }
        };
        match outcome(&request) {
            Some((Outcome::Pending, condition)) if condition.message != reported => {
                report(&condition.message);
                reported = condition.message;
            }
            Some((Outcome::Pending, _)) | None => {}
            Some((outcome, condition)) => return Some((outcome, condition.message)),
        }
    }
}
