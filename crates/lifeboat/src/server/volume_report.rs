//! Writes what is on the volume of a node to its `NodeBackup`, beside what the backup server of the node writes there.

use cluster_api::resources::{NodeBackup, VolumeStatus};
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, Resource};
use operator::api_error_message;
use operator::names::VOLUME_MANAGER;
use serde_json::json;
use std::time::{Duration, Instant};
use tokio::sync::watch;

const ANSWER_WITHIN: Duration = Duration::from_secs(15);
const TRY_AGAIN: Duration = Duration::from_secs(10);
/// How often an unchanged status is written again, as a sign of life.
const SIGN_OF_LIFE: Duration = Duration::from_secs(120);

/// Writes each change until the process ends.
pub(crate) async fn tell(client: Client, node: String, mut report: watch::Receiver<VolumeStatus>) {
    let all: Api<NodeBackup> = Api::all(client);
    let mut written: Option<(VolumeStatus, Instant)> = None;
    while report.changed().await.is_ok() {
        let status = report.borrow_and_update().clone();
        let is_old = written.as_ref().is_some_and(|(before, at)| {
            let same = VolumeStatus {
                checked_at: before.checked_at.clone(),
                ..status.clone()
            };
            same == *before && at.elapsed() < SIGN_OF_LIFE
        });
        if is_old {
            continue;
        }
        let patch = Patch::Apply(json!({
            "apiVersion": NodeBackup::api_version(&()),
            "kind": NodeBackup::kind(&()),
            "metadata": {"name": node},
            "status": {"volume": status},
        }));
        let params = PatchParams::apply(VOLUME_MANAGER).force();
        let writing = all.patch_status(&node, &params, &patch);
        let problem = match tokio::time::timeout(ANSWER_WITHIN, writing).await {
            Ok(Ok(_)) => {
                written = Some((status, Instant::now()));
                continue;
            }
            // The backup server of the node creates it.
            Ok(Err(kube::Error::Api(refused))) if refused.code == 404 => continue,
            Ok(Err(error)) => api_error_message(&error),
            Err(_) => "the API server does not answer".into(),
        };
        tracing::warn!("cannot write NodeBackup/{node}: {problem}; copies continue");
        tokio::time::sleep(TRY_AGAIN).await;
    }
}
