//! Deletes an `EtcdBackup` when its Job was deleted. The garbage collector of Kubernetes does not do that, because an `EtcdBackup` is
//! cluster-scoped and its owner is in a namespace.

use super::on_change;
use crate::cluster::cache::Cache;
use crate::context::Context;
use crate::options::BACKUP_REMOVAL as NAME;
use backup_plan::record::is_origin;
use cluster_api::resources::EtcdBackup;
use futures::FutureExt;
use k8s_openapi::api::batch::v1::Job;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, Preconditions};
use std::collections::BTreeSet;
use std::sync::Arc;

/// A Job that an `EtcdBackup` names.
#[derive(Debug, Clone, PartialEq, Eq)]
struct JobReference {
    name: String,
    /// The uid, if the Job is an owner. The Job in the status has no uid.
    uid: Option<String>,
}

/// The Jobs of an `EtcdBackup`. If one does not exist, the `EtcdBackup` is deleted.
fn job_references(request: &EtcdBackup) -> Vec<JobReference> {
    let owners = request.owner_references().iter();
    let mut named: Vec<_> = owners
        .filter(|owner| owner.kind == "Job")
        .map(|owner| JobReference {
            name: owner.name.clone(),
            uid: Some(owner.uid.clone()),
        })
        .collect();
    let job = request
        .status
        .as_ref()
        .and_then(|status| status.backup_job.as_ref());
    named.extend(job.map(|job| JobReference {
        name: job.name.clone(),
        uid: None,
    }));
    named
}

/// Acts on each change.
pub(crate) async fn run(context: Arc<Context>, cache: Arc<Cache>) {
    let act = || act(&context, &cache).boxed();
    on_change::run(&context, &cache, NAME, act).await;
}

async fn act(context: &Context, cache: &Cache) -> Result<(), kube::Error> {
    let jobs = cache.jobs.state();
    let names: BTreeSet<_> = jobs.iter().map(|job| job.name_any()).collect();
    let uids: BTreeSet<_> = jobs.iter().filter_map(|job| job.uid()).collect();
    let known = |reference: &JobReference| match &reference.uid {
        Some(uid) => uids.contains(uid),
        None => names.contains(&reference.name),
    };
    // If the API server refuses something for one request, the other requests are still handled.
    let mut failed = None;
    for request in cache.requests.state() {
        if request.metadata.deletion_timestamp.is_some() {
            continue;
        }
        for missing in job_references(&request)
            .iter()
            .filter(|reference| !known(reference))
        {
            // A Job that is not in the cache can still exist: it has other labels, or it is too new.
            match job_exists(context, missing).await {
                Ok(true) => continue,
                Ok(false) => {}
                Err(error) => {
                    failed = Some(error);
                    continue;
                }
            }
            if let Err(error) = delete_request(context, &request, missing).await {
                failed = Some(error);
            }
            break;
        }
    }
    failed.map_or(Ok(()), Err)
}

async fn job_exists(context: &Context, reference: &JobReference) -> Result<bool, kube::Error> {
    // Anyone who can write the EtcdBackup can write any text here. No Job can have this name.
    if !is_origin(&reference.name) {
        return Ok(false);
    }
    let jobs: Api<Job> = Api::namespaced(context.client.clone(), &context.cluster.namespace);
    let job = jobs.get_opt(&reference.name).await?;
    Ok(job.is_some_and(|job| reference.uid.is_none() || job.uid() == reference.uid))
}

async fn delete_request(
    context: &Context,
    request: &EtcdBackup,
    missing: &JobReference,
) -> Result<(), kube::Error> {
    let name = request.name_any();
    tracing::info!(
        "deleting EtcdBackup/{name}: its Job {:?} does not exist any more",
        missing.name
    );
    let requests: Api<EtcdBackup> = Api::all(context.client.clone());
    // Do not delete a newer EtcdBackup with the same name.
    let params = DeleteParams {
        preconditions: Some(Preconditions {
            uid: request.uid(),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    match context.write(requests.delete(&name, &params)).await {
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        other => other.map(|_| ()),
    }
}
