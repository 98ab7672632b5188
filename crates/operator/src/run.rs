//! Runs the operator: waits for the cluster and the lease, then runs the controllers.

use crate::api_error::api_error_message;
use crate::cluster::cache::Cache;
use crate::cluster::cluster_info::{self, ClusterInfo, CrdOwner};
use crate::cluster::lease::Lease;
use crate::context::Context;
use crate::controllers::{
    api_problems, backup_removal, default_backup, etcd_backup, freshness, periodic_backup, volumes,
};
use crate::install::crds;
use crate::options::{self, Options};
use crate::status::state::SharedState;
use kube::Client;
use std::future::{Future, pending};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// The reason why the operator ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OperatorError {
    /// Another replica can hold the lease now, so this one must not write.
    #[error("the lease was lost: {0}")]
    LeaseLost(String),
    /// The properties of the cluster have changed since the start.
    #[error("a feature gate or a CRD of the cluster has changed: the operator must start again")]
    ClusterChanged,
}

/// Delay before the first retry of a request. Each further delay is twice as long.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(15);
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Retries a necessary request until it succeeds. If the process ended instead while the API server is down, the kubelet would delay
/// its next start by minutes.
async fn retry_until_success<T, F>(what: &str, attempt: impl Fn() -> F) -> T
where
    F: Future<Output = Result<T, kube::Error>>,
{
    let mut delay = FIRST_RETRY;
    let mut reported = String::new();
    loop {
        let problem = match tokio::time::timeout(ANSWER_WITHIN, attempt()).await {
            Ok(Ok(done)) => return done,
            Ok(Err(error)) => api_error_message(&error),
            Err(_) => "the API server does not answer".into(),
        };
        if problem != reported {
            tracing::warn!("{what} failed: {problem}; trying again until it succeeds");
            reported = problem;
        }
        tokio::time::sleep(delay).await;
        delay = (delay * 2).min(LONGEST_RETRY);
    }
}

/// Runs until `stop` ends, the lease is lost, a feature gate has changed, or a controller has stopped. Then the caller must end the
/// process. After `stop`, another replica can take the lease at once.
///
/// # Errors
/// The reason why the operator ended, unless that was `stop`.
pub async fn run(
    client: Client,
    options: Options,
    state: Arc<SharedState>,
    stop: impl Future<Output = ()>,
) -> Result<(), OperatorError> {
    let mut stop = pin!(stop);
    let (cluster, lease) = tokio::select! {
        ready = wait_for_lease(&client, &options) => ready,
        () = &mut stop => return Ok(()),
    };
    tracing::info!("this replica holds the lease and is active");
    state.update(|state| state.leader = true);
    let context = Arc::new(Context::new(client, options, cluster, lease.clone(), state));
    tokio::select! {
        lost = lease.renew_until_lost() => Err(OperatorError::LeaseLost(lost)),
        () = cluster_info::wait_for_change(&context.client, &context.cluster) => Err(OperatorError::ClusterChanged),
        ended = run_controllers(context.clone()) => ended,
        () = &mut stop => {
            lease.release().await;
            Ok(())
        }
    }
}

async fn wait_for_lease(client: &Client, options: &Options) -> (ClusterInfo, Arc<Lease>) {
    let cluster = retry_until_success("reading the properties of the cluster", || {
        cluster_info::read_cluster_info(client)
    })
    .await;
    tracing::info!(
        namespace = cluster.namespace,
        platform = cluster.platform.name(),
        "started as {}",
        options.identity
    );
    let namespace = || crds::create_namespace(client, &cluster.namespace);
    retry_until_success("creating the namespace", namespace).await;
    if cluster.external {
        tracing::warn!("{}", cluster_info::EXTERNAL_CONTROL_PLANE);
        return pending().await;
    }
    let lease = Lease::acquire(client, &cluster.namespace, &options.identity).await;
    (cluster, Arc::new(lease))
}

async fn run_controllers(context: Arc<Context>) -> Result<(), OperatorError> {
    let ours = context.cluster.crd_owner == CrdOwner::Lifeboat;
    if !ours {
        if !context.options.automated_backup {
            return pending().await;
        }
        let why = match &context.cluster.api_problems.backup {
            Some(problem) => problem.clone(),
            None => format!(
                "OpenShift's feature gate {} is on, so OpenShift's own operator handles each Backup",
                cluster_info::FEATURE_GATE
            ),
        };
        tracing::warn!(
            "{why}: this operator creates no Backup, and its backup servers run with default settings"
        );
    }
    let apply = || context.write(crds::apply_crds(&context.client, &context.cluster));
    retry_until_success("creating the CRDs", apply).await;
    let chosen = context.options.controllers.clone();
    let evaluates = chosen.has(options::FRESHNESS);
    context.state.update(|state| state.evaluates = evaluates);
    // Aborted with the lease, like the controllers.
    let mut watches = JoinSet::new();
    let cache = Cache::start(
        &context.client,
        &context.cluster.namespace,
        ours,
        &context.state,
        &mut watches,
    );
    let mut tasks = JoinSet::new();
    tasks.spawn(api_problems::run(context.clone(), cache.clone()));
    if ours && chosen.has(options::DEFAULT_BACKUP) {
        tasks.spawn(default_backup::run(context.clone(), cache.clone()));
    }
    if chosen.has(options::PERIODIC_BACKUP) {
        tasks.spawn(periodic_backup::run(context.clone(), cache.clone()));
    }
    let requests = ours && context.cluster.api_problems.etcd_backup.is_none();
    if requests && chosen.has(options::ETCD_BACKUP) {
        tasks.spawn(etcd_backup::run(context.clone(), cache.clone()));
    }
    if requests && chosen.has(options::BACKUP_REMOVAL) {
        tasks.spawn(backup_removal::run(context.clone(), cache.clone()));
    }
    if ours && chosen.has(options::VOLUMES) {
        tasks.spawn(volumes::run(context.clone(), cache.clone()));
    }
    if evaluates {
        tasks.spawn(freshness::run(context.clone(), cache));
    }
    if tasks.is_empty() {
        return pending().await;
    }
    // No controller ends in normal operation.
    let _ = tasks.join_next().await;
    Ok(())
}
