//! Once per cluster: what a cluster's users wrote becomes backup servers on its nodes, and they are told how it is.
//!
//! A controller is a pipeline: look (the only reads) → judge → build (pure) → apply → tell. Writes are server-side
//! apply, and only while the lease is held.
//!
//! - [`default_backup`]: `Backup/default` from day one, unless somebody has deleted it.
//! - [`periodic`]: `Backup/default` becomes a DaemonSet.
//! - [`shape`]: what kind of cluster it is.
//! - [`lease`]: one operator at a time.

pub mod default_backup;
mod events;
mod install;
pub mod lease;
pub mod periodic;
pub mod shape;

use events::Events;
use kube::Client;
use lease::Lease;
use shape::{KindsOf, Shape};
use std::sync::Arc;

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
    /// More flags for the backup servers; for tests.
    pub server_flags: Vec<String>,
}

/// Why an operator ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OperatorError {
    /// The API server refused something without which nothing goes.
    #[error("{what}: {source}")]
    Api {
        /// What was tried.
        what: &'static str,
        /// What the API server says.
        source: Box<kube::Error>,
    },
    /// Another replica holds the lease now: whoever is left must not write.
    #[error("the lease was lost: {0}")]
    LeaseLost(String),
    /// The cluster is another one than what was started for.
    #[error("a feature gate of the cluster has changed: to be started anew")]
    ShapeChanged,
}

impl OperatorError {
    fn api(what: &'static str) -> impl FnOnce(kube::Error) -> Self {
        move |source| OperatorError::Api {
            what,
            source: Box::new(source),
        }
    }
}

/// What all controllers share.
pub(crate) struct Context {
    client: Client,
    options: Options,
    shape: Shape,
    lease: Arc<Lease>,
    events: Events,
}

/// Runs until the lease is lost; the caller ends the process then, and a new one waits for its turn.
///
/// # Errors
/// Why it ended.
pub async fn run(client: Client, options: Options) -> Result<(), OperatorError> {
    let shape = shape::look(&client)
        .await
        .map_err(OperatorError::api("look at the cluster"))?;
    tracing::info!(
        namespace = shape.namespace,
        platform = shape.platform.name(),
        "started as {}",
        options.identity
    );
    install::namespace(&client, &shape.namespace)
        .await
        .map_err(OperatorError::api("make the namespace"))?;
    if shape.external {
        tracing::warn!(
            "the control plane is not on this cluster's nodes: there is no etcd here to back up, and nothing is made"
        );
        return std::future::pending().await;
    }
    let lease = Arc::new(Lease::acquire(&client, &shape.namespace, &options.identity).await);
    tracing::info!("holds the lease");
    let events = Events::new(&client, &options.identity);
    let context = Arc::new(Context {
        client,
        options,
        shape,
        lease: lease.clone(),
        events,
    });
    let controllers = async {
        match context.shape.kinds {
            KindsOf::Us => {
                tokio::select! {
                    () = default_backup::run(context.clone()) => {}
                    () = periodic::run(context.clone()) => {}
                }
            }
            KindsOf::Upstream if !context.options.automated_backup => {
                std::future::pending::<()>().await;
            }
            KindsOf::Upstream => {
                tracing::warn!(
                    "OpenShift's own feature gate {} is on, so its operator acts on each Backup: none is made here, and backup servers run with their defaults",
                    shape::GATE
                );
                periodic::run_defaults(context.clone()).await;
            }
        }
    };
    tokio::select! {
        lost = lease.keep() => Err(OperatorError::LeaseLost(lost)),
        () = shape::changed(&context.client, &context.shape) => Err(OperatorError::ShapeChanged),
        () = controllers => Ok(()),
    }
}
