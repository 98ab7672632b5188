//! Runs a controller after each change of the cluster.

use crate::api_error::api_error_message;
use crate::cluster::cache::Cache;
use crate::context::Context;
use futures::future::BoxFuture;
use std::time::Duration;

/// Changes within this time are handled together.
const SETTLE: Duration = Duration::from_millis(500);
const TRY_AGAIN: Duration = Duration::from_secs(5);

/// Acts on each change until the watches end.
pub(crate) async fn run<'a>(
    context: &'a Context,
    cache: &'a Cache,
    name: &'static str,
    act: impl Fn() -> BoxFuture<'a, Result<(), kube::Error>>,
) {
    cache.ready().await;
    let mut changes = cache.changes();
    loop {
        tokio::time::sleep(SETTLE).await;
        changes.mark_unchanged();
        if let Err(error) = act().await {
            tracing::warn!("controller {name}: {}", api_error_message(&error));
            context.state.count_error(name);
            tokio::time::sleep(TRY_AGAIN).await;
        } else if changes.changed().await.is_err() {
            return;
        }
    }
}
