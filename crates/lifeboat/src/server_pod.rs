//! Runs a command in the pod of a node's backup server, as `kubectl exec` does. So nothing on the node listens on the network, and
//! the cluster's RBAC decides who can run it.

use anyhow::{Context, anyhow};
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::Client;
use kube::api::{Api, AttachParams, AttachedProcess};
use operator::api_error_message;
use operator::cluster::server_pods::{self, ServerPod};
use operator::names::{REPOSITORY, SERVER_CONTAINER};
use std::time::Duration;
use tokio::io::AsyncReadExt;

/// Whether this can be the directory of a backup.
pub(crate) fn is_backup_name(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains('/')
}

pub(crate) const ANSWER_WITHIN: Duration = Duration::from_secs(30);
pub(crate) const CHUNK_BYTES: usize = 1 << 18;
const MAX_COMPLAINT_BYTES: u64 = 4096;
/// Buffer for messages, large enough not to block the data.
const STDERR_BYTES: usize = 1 << 16;

/// Finds the pod of the node's backup server.
pub(crate) async fn find(client: &Client, node: &str) -> anyhow::Result<ServerPod> {
    let looking = server_pods::on_node(client, node);
    let found = tokio::time::timeout(ANSWER_WITHIN, looking)
        .await
        .context("the API server does not answer")?
        .map_err(anyhow::Error::msg)?;
    found.ok_or_else(|| {
        anyhow!(
            "no backup server is running on node {node}; on the node, the backups are in {REPOSITORY}"
        )
    })
}

/// Starts a subcommand of `etcd-lifeboat` in the pod.
pub(crate) async fn start(
    client: &Client,
    pod: &ServerPod,
    command: &[&str],
) -> anyhow::Result<AttachedProcess> {
    let path = format!("--backup-path={REPOSITORY}");
    let mut whole = vec!["/etcd-lifeboat"];
    whole.extend(command);
    whole.insert(2, &path);
    let pods: Api<k8s_openapi::api::core::v1::Pod> =
        Api::namespaced(client.clone(), &pod.namespace);
    let params = AttachParams::default()
        .container(SERVER_CONTAINER)
        .stdin(false)
        .max_stdout_buf_size(CHUNK_BYTES)
        .max_stderr_buf_size(STDERR_BYTES);
    tokio::time::timeout(ANSWER_WITHIN, pods.exec(&pod.name, whole, &params))
        .await
        .context("the API server does not answer")?
        .map_err(|error| {
            let what = "cannot run a command in the pod of the backup server";
            anyhow!("{what}: {}", api_error_message(&error))
        })
}

/// The status of the command, or `None` if the connection was lost.
pub(crate) type Ending = Shared<BoxFuture<'static, Option<Status>>>;

/// Waits for the end of the command. If the connection is lost, the library's streams do not end; only this future does.
pub(crate) fn ending(process: &mut AttachedProcess) -> Ending {
    match process.take_status() {
        Some(status) => status.boxed().shared(),
        None => std::future::ready(None).boxed().shared(),
    }
}

/// The error message of the command, if it failed.
pub(crate) async fn complaint(
    process: &mut AttachedProcess,
    status: Option<Status>,
    within: Duration,
) -> Option<String> {
    let status = status?;
    if status.status.as_deref() == Some("Success") {
        return None;
    }
    let mut words = String::new();
    if let Some(errors) = process.stderr() {
        let mut errors = errors.take(MAX_COMPLAINT_BYTES);
        let reading = errors.read_to_string(&mut words);
        let _ = tokio::time::timeout(within, reading).await;
    }
    let words = words.trim();
    let words = words.strip_prefix("error: ").unwrap_or(words);
    Some(if words.is_empty() {
        status.message.unwrap_or_default()
    } else {
        words.into()
    })
}
