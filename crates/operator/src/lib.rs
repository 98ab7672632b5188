//! Once per cluster: what a cluster's users wrote becomes backups on its nodes, and they are told how it is.
//!
//! A controller is a pipeline: look (the only reads) → judge → build (pure) → apply → tell. Writes are server-side
//! apply, and only while the lease is held.
//!
//! - [`default_backup`]: `Backup/default` from day one, unless somebody has deleted it.
//! - [`periodic`]: `Backup/default` becomes a DaemonSet, any other a CronJob.
//! - [`backup`]: an `EtcdBackup` becomes Jobs, one request at a time.
//! - [`removal`]: an `EtcdBackup` whose Job is gone goes, too.
//! - [`request`]: asks for a backup by an `EtcdBackup`.
//! - [`freshness`]: whether the nodes' backups are new enough.
//! - [`manifests`]: what is installed for it to run.
//! - [`overview`]: what a person wants to know of it all.
//! - [`servers`]: the pods of backup servers.
//! - [`shape`]: what kind of cluster it is.
//! - [`layout`]: what a pod sees of a node.
//! - [`lease`]: one operator at a time.

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

/// Who writes, as the API server records it.
pub const FIELD_MANAGER: &str = "etcd-lifeboat-operator";

/// What an operator is told.
#[derive(Debug, Clone)]
pub struct Options {
    /// The image of the pods it makes.
    pub image: String,
    /// Whether the feature gate `AutomatedEtcdBackup` is on.
    pub automated_backup: bool,
    /// Who it is among its replicas.
    pub identity: String,
    /// Which controllers run.
    pub controllers: Controllers,
    /// Where nodes have the files of etcd; by the cluster's platform if nothing was said.
    pub layout: Option<NodeLayout>,
    /// More flags for the backup servers; for tests.
    pub server_flags: Vec<String>,
    /// More flags for Jobs that make a backup; for tests.
    pub backup_flags: Vec<String>,
}

/// Which controllers run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Controllers(BTreeSet<&'static str>);

impl Controllers {
    /// What they are called.
    pub const NAMES: [&'static str; 5] = [
        default_backup::NAME,
        periodic::NAME,
        backup::NAME,
        removal::NAME,
        freshness::NAME,
    ];

    /// All of them.
    #[must_use]
    pub fn all() -> Self {
        Controllers(Self::NAMES.into_iter().collect())
    }

    /// Reads a list as Kubernetes' own controller manager does: `*` are all, `-NAME` is one less.
    ///
    /// # Errors
    /// What is no controller.
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
                        "no controller {word:?}: expected *, or some of {}, with - before those that are not to run",
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

/// Why an operator ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OperatorError {
    /// Another replica holds the lease now: whoever is left must not write.
    #[error("the lease was lost: {0}")]
    LeaseLost(String),
    /// The cluster is another one than what was started for.
    #[error("a feature gate of the cluster has changed: to be started anew")]
    ShapeChanged,
}

/// What all controllers share.
pub(crate) struct Context {
    client: Client,
    options: Options,
    shape: Shape,
    lease: Arc<Lease>,
    events: Events,
    telling: Arc<Shared>,
    /// With upstream's definition of `Backup` there is nowhere to put them, and trying wakes everybody each time.
    conditions_are_dropped: AtomicBool,
}

impl Context {
    /// The layout of nodes that say nothing else.
    fn layout(&self) -> NodeLayout {
        let layout = self.options.layout;
        layout.unwrap_or_else(|| NodeLayout::of(self.shape.platform))
    }

    /// Each write goes through here: without the lease there is none.
    async fn write<T>(
        &self,
        request: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, kube::Error> {
        if !self.lease.is_held() {
            return Err(kube::Error::Service("the lease is not held".into()));
        }
        killed_here();
        request.await
    }

    /// Writes a condition of a `Backup`, as one of those who write there, with what else is told of its status.
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

    /// Tells by an event what a condition says that is bad when it holds, and when it does not any more.
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

/// What the API server said, for a person: the library's own text has it three times.
#[must_use]
pub fn plain(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// What is gone meanwhile needs nothing any more.
fn gone_is_well<T>(written: Result<T, kube::Error>) -> Result<(), kube::Error> {
    match written {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other.map(|_| ()),
    }
}

/// Where a debug build may be told to end as if it were killed: before its n-th write.
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

/// The API server is asked again after this, then after twice as long each time.
const FIRST_AGAIN: Duration = Duration::from_secs(1);
const LONGEST_AGAIN: Duration = Duration::from_secs(15);
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Does something without which nothing goes, until it works. After a disaster the API server is away for a while: whoever ended its
/// process then would be held back for minutes by its kubelet.
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
            tracing::warn!("{what}: {problem}; tried again until it works");
            said = problem;
        }
        tokio::time::sleep(again).await;
        again = (again * 2).min(LONGEST_AGAIN);
    }
}

/// Runs until the lease is lost; the caller ends the process then, and a new one waits for its turn.
///
/// # Errors
/// Why it ended.
pub async fn run(
    client: Client,
    options: Options,
    telling: Arc<Shared>,
) -> Result<(), OperatorError> {
    let shape = persistently("looking at the cluster", || shape::look(&client)).await;
    tracing::info!(
        namespace = shape.namespace,
        platform = shape.platform.name(),
        "started as {}",
        options.identity
    );
    let namespace = || install::namespace(&client, &shape.namespace);
    persistently("making the namespace", namespace).await;
    if shape.external {
        tracing::warn!("{}", shape::ELSEWHERE);
        return pending().await;
    }
    let lease = Arc::new(Lease::acquire(&client, &shape.namespace, &options.identity).await);
    tracing::info!("holds the lease");
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

/// Runs the controllers.
async fn control(context: Arc<Context>) -> Result<(), OperatorError> {
    let ours = context.shape.kinds == KindsOf::Us;
    if !ours && !context.options.automated_backup {
        return pending().await;
    }
    let define = || context.write(install::definitions(&context.client, &context.shape));
    persistently("defining the custom resources", define).await;
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
            "OpenShift's own feature gate {} is on, so its operator acts on each Backup: none is made here, and backup servers run with their defaults",
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
            told.contains("expected *, or some of default-backup"),
            "{told}"
        );
    }
}
