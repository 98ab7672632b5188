//! The operator: creates the objects that make backups in a cluster, and reports the state of the backups.
//!
//! A controller is a pipeline: read → decide → build (pure) → apply → report. All writes use server-side apply, and only the
//! replica that holds the lease writes.
//!
//! - [`default_backup`]: creates `Backup/default`, unless a user deleted it.
//! - [`periodic`]: creates a DaemonSet for `Backup/default`, and a CronJob for each other `Backup`.
//! - [`backup`]: creates Jobs for an `EtcdBackup`, one request at a time.
//! - [`removal`]: deletes an `EtcdBackup` whose Job was deleted.
//! - [`request`]: creates an `EtcdBackup` and waits for its result.
//! - [`freshness`]: evaluates whether the backups of the nodes are up to date.
//! - [`manifests`]: the manifests to install the operator.
//! - [`overview`]: the overview for `status`.
//! - [`servers`]: finds the pods of backup servers.
//! - [`shape`]: detects the properties of the cluster.
//! - [`layout`]: the node directories that a pod mounts.
//! - [`lease`]: the Lease that selects the active operator.

pub mod backup;
mod conditions;
pub mod default_backup;
pub mod events;
pub mod freshness;
mod install;
pub mod layout;
pub mod lease;
mod lenient;
pub mod manifests;
pub mod names;
pub mod overview;
pub mod periodic;
mod pods;
mod policies;
pub mod removal;
pub mod request;
mod seen;
pub mod servers;
pub mod shape;
pub mod telling;
mod watch_again;

use cluster_api::resources::Backup;
use conditions::Saying;
use events::Events;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, Resource};
use layout::NodeLayout;
use lease::Lease;
use seen::Seen;
use serde_json::{Value, json};
use shape::{KindsOf, Shape};
use std::collections::BTreeSet;
use std::future::{Future, pending};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use telling::Shared;
use tokio::task::JoinSet;

/// The field manager of the operator's writes.
pub const FIELD_MANAGER: &str = "etcd-lifeboat-operator";

/// Options of the operator.
#[derive(Debug, Clone)]
pub struct Options {
    /// The image of the pods that the operator creates.
    pub image: String,
    /// Whether the feature gate `AutomatedEtcdBackup` is on.
    pub automated_backup: bool,
    /// The name of this replica in the Lease.
    pub identity: String,
    /// The controllers to run.
    pub controllers: Controllers,
    /// The node layout; if `None`, the platform of the cluster decides.
    pub layout: Option<NodeLayout>,
    /// Additional flags for the backup servers, for tests.
    pub server_flags: Vec<String>,
    /// Additional flags for the Jobs that make a backup, for tests.
    pub backup_flags: Vec<String>,
}

/// The controllers to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Controllers(BTreeSet<&'static str>);

impl Controllers {
    /// The names of all controllers.
    pub const NAMES: [&'static str; 5] = [
        default_backup::NAME,
        periodic::NAME,
        backup::NAME,
        removal::NAME,
        freshness::NAME,
    ];

    /// All controllers.
    #[must_use]
    pub fn all() -> Self {
        Controllers(Self::NAMES.into_iter().collect())
    }

    /// Parses a list as the Kubernetes controller manager does: `*` means all, `-NAME` turns one off.
    ///
    /// # Errors
    /// If a name is unknown.
    pub fn parse(list: &str) -> Result<Self, String> {
        let mut chosen = BTreeSet::new();
        let mut without = BTreeSet::new();
        for word in list
            .split(',')
            .map(str::trim)
            .filter(|word| !word.is_empty())
        {
            let (name, set) = match word.strip_prefix('-') {
                Some(name) => (name, &mut without),
                None => (word, &mut chosen),
            };
            match Self::NAMES.into_iter().find(|known| *known == name) {
                Some(known) => drop(set.insert(known)),
                None if word == "*" => set.extend(Self::NAMES),
                None => {
                    return Err(format!(
                        "unknown controller {word:?}: expected * for all, or names of {}; a - before a name turns that controller off",
                        Self::NAMES.join(", ")
                    ));
                }
            }
        }
        Ok(Controllers(&chosen - &without))
    }

    fn has(&self, name: &str) -> bool {
        self.0.contains(name)
    }
}

/// The reason why the operator ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OperatorError {
    /// Another replica can hold the lease now, so this one must not write.
    #[error("the lease was lost: {0}")]
    LeaseLost(String),
    /// The properties of the cluster have changed since the start.
    #[error("a feature gate of the cluster has changed: the operator must start again")]
    ShapeChanged,
}

/// Data that all controllers share.
pub(crate) struct Context {
    client: Client,
    options: Options,
    shape: Shape,
    lease: Arc<Lease>,
    events: Events,
    telling: Arc<Shared>,
    /// Whether the CRD of `Backup` is upstream's, which has no conditions. Each try to write them would only wake all watchers.
    conditions_are_dropped: AtomicBool,
}

impl Context {
    /// The layout of nodes without a layout label.
    fn layout(&self) -> NodeLayout {
        let layout = self.options.layout;
        layout.unwrap_or_else(|| NodeLayout::of(self.shape.platform))
    }

    /// Sends a write request if this replica holds the lease. All writes use this function.
    async fn write<T>(
        &self,
        request: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, kube::Error> {
        if !self.lease.is_held() {
            return Err(kube::Error::Service(
                "this replica does not hold the lease".into(),
            ));
        }
        killed_here();
        request.await
    }

    /// Writes a condition and other status fields of a `Backup`, as one of its field managers.
    async fn tell_backup(
        &self,
        name: &str,
        manager: &str,
        condition: &Condition,
        more: Value,
    ) -> Result<(), kube::Error> {
        if self.conditions_are_dropped.load(Ordering::Relaxed) {
            return Ok(());
        }
        let status = pods::with(more, json!({"conditions": [condition]}));
        let backups: Api<Backup> = Api::all(self.client.clone());
        let params = PatchParams::apply(manager).force();
        let patch = Patch::Apply(json!({
            "apiVersion": Backup::api_version(&()),
            "kind": Backup::kind(&()),
            "status": status,
        }));
        gone_is_well(
            self.write(backups.patch_status(name, &params, &patch))
                .await,
        )
    }

    /// Publishes an event when a condition becomes true, and when it becomes false again.
    async fn announce(
        &self,
        object: &ObjectReference,
        before: Option<&Condition>,
        saying: &Saying,
    ) {
        let was = before.is_some_and(|before| before.status == "True");
        let Saying {
            reason, message, ..
        } = saying;
        if saying.holds {
            tracing::warn!(object = object.name, reason, "{message}");
            self.events.warning(object, reason, message).await;
        } else if was {
            tracing::info!(object = object.name, reason, "{message}");
            self.events.normal(object, reason, message).await;
        }
    }
}

/// The error message of the API server. The text of the library repeats it three times.
#[must_use]
pub fn plain(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// Ignores the error that an object does not exist.
fn gone_is_well<T>(written: Result<T, kube::Error>) -> Result<(), kube::Error> {
    match written {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other.map(|_| ()),
    }
}

/// For tests: a debug build aborts before its n-th write.
#[cfg(debug_assertions)]
fn killed_here() {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    static KILLED_AT: LazyLock<Option<u64>> = LazyLock::new(|| {
        let write = std::env::var("LIFEBOAT_TEST_KILLED_AT_WRITE").ok()?;
        write.parse().ok()
    });
    static WRITES: AtomicU64 = AtomicU64::new(0);
    if *KILLED_AT == Some(WRITES.fetch_add(1, Ordering::Relaxed) + 1) {
        std::process::abort();
    }
}

#[cfg(not(debug_assertions))]
fn killed_here() {}

/// Delay before the first retry of a request. Each further delay is twice as long.
const FIRST_AGAIN: Duration = Duration::from_secs(1);
const LONGEST_AGAIN: Duration = Duration::from_secs(15);
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Retries a necessary request until it succeeds. If the process ended instead while the API server is down, the kubelet would delay
/// its next start by minutes.
async fn persistently<T, F>(what: &str, attempt: impl Fn() -> F) -> T
where
    F: Future<Output = Result<T, kube::Error>>,
{
    let mut again = FIRST_AGAIN;
    let mut said = String::new();
    loop {
        let problem = match tokio::time::timeout(ANSWER_WITHIN, attempt()).await {
            Ok(Ok(done)) => return done,
            Ok(Err(error)) => plain(&error),
            Err(_) => "the API server does not answer".into(),
        };
        if problem != said {
            tracing::warn!("{what} failed: {problem}; trying again until it succeeds");
            said = problem;
        }
        tokio::time::sleep(again).await;
        again = (again * 2).min(LONGEST_AGAIN);
    }
}

/// Runs until the lease is lost. Then the caller must end the process.
///
/// # Errors
/// The reason why the operator ended.
pub async fn run(
    client: Client,
    options: Options,
    telling: Arc<Shared>,
) -> Result<(), OperatorError> {
    let shape = persistently("reading the properties of the cluster", || {
        shape::look(&client)
    })
    .await;
    tracing::info!(
        namespace = shape.namespace,
        platform = shape.platform.name(),
        "started as {}",
        options.identity
    );
    let namespace = || install::namespace(&client, &shape.namespace);
    persistently("creating the namespace", namespace).await;
    if shape.external {
        tracing::warn!("{}", shape::ELSEWHERE);
        return pending().await;
    }
    let lease = Arc::new(Lease::acquire(&client, &shape.namespace, &options.identity).await);
    tracing::info!("this replica holds the lease and is active");
    telling.change(|telling| telling.leader = true);
    let events = Events::new(&client, FIELD_MANAGER, &options.identity, "Reconcile");
    let context = Arc::new(Context {
        client,
        options,
        shape,
        lease: lease.clone(),
        events,
        telling,
        conditions_are_dropped: AtomicBool::new(false),
    });
    tokio::select! {
        lost = lease.keep() => Err(OperatorError::LeaseLost(lost)),
        () = shape::changed(&context.client, &context.shape) => Err(OperatorError::ShapeChanged),
        ended = control(context.clone()) => ended,
    }
}

async fn control(context: Arc<Context>) -> Result<(), OperatorError> {
    let ours = context.shape.kinds == KindsOf::Us;
    if !ours && !context.options.automated_backup {
        return pending().await;
    }
    let define = || context.write(install::definitions(&context.client, &context.shape));
    persistently("creating the CRDs", define).await;
    let judges = context.options.controllers.has(freshness::NAME);
    context.telling.change(|telling| telling.judges = judges);
    // Aborted with the lease.
    let mut tasks = JoinSet::new();
    let chosen = context.options.controllers.clone();
    if ours {
        if chosen.has(default_backup::NAME) {
            tasks.spawn(default_backup::run(context.clone()));
        }
        if chosen.has(periodic::NAME) {
            tasks.spawn(periodic::run(context.clone()));
        }
    } else {
        tracing::warn!(
            "OpenShift's feature gate {} is on, so OpenShift's own operator handles each Backup: this operator creates no Backup, and its backup servers run with default settings",
            shape::GATE
        );
        if chosen.has(periodic::NAME) {
            tasks.spawn(periodic::run_defaults(context.clone()));
        }
    }
    let mut watches = JoinSet::new();
    let seen = Seen::start(
        &context.client,
        &context.shape.namespace,
        ours,
        &context.telling,
        &mut watches,
    )
    .await;
    if ours && chosen.has(backup::NAME) {
        tasks.spawn(backup::run(context.clone(), seen.clone()));
    }
    if ours && chosen.has(removal::NAME) {
        tasks.spawn(removal::run(context.clone(), seen.clone()));
    }
    if chosen.has(freshness::NAME) {
        tasks.spawn(freshness::run(context.clone(), seen));
    }
    if tasks.is_empty() {
        return pending().await;
    }
    // None ends by itself.
    let _ = tasks.join_next().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controllers_are_chosen_as_kubernetes_own_are() {
        let chosen = |list| Controllers::parse(list).map(|chosen| chosen.0);
        assert_eq!(chosen("*"), Ok(Controllers::all().0));
        assert_eq!(chosen("*,-freshness").map(|chosen| chosen.len()), Ok(4));
        assert_eq!(
            chosen("backup, backup-removal").map(|chosen| chosen.len()),
            Ok(2)
        );
        let told = chosen("freshnes").err().unwrap_or_default();
        assert!(
            told.contains("expected * for all, or names of default-backup"),
            "{told}"
        );
    }
}
