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
use operator::names::REPOSITORY;
use std::time::Duration;
use tokio::io::AsyncReadExt;

/// A backup on a node, as people write it: `NODE/NAME`, or `NODE/etcd-events/NAME` for another etcd of the node.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BackupOnNode {
    pub(crate) node: String,
    /// The directory of another etcd, such as `etcd-events`.
    pub(crate) etcd: Option<String>,
    /// `None` for the newest.
    pub(crate) name: Option<String>,
}

impl BackupOnNode {
    /// Returns `None` if this cannot be a backup on a node.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let is_name = |name: &&str| !name.is_empty() && !name.starts_with('.');
        let parts: Vec<_> = text.split('/').collect();
        if !parts.iter().all(is_name) {
            return None;
        }
        let (node, etcd, name) = match parts.as_slice() {
            [node] => (node, None, None),
            [node, etcd] if etcd.starts_with("etcd-") => (node, Some(etcd), None),
            [node, name] => (node, None, Some(name)),
            [node, etcd, name] if etcd.starts_with("etcd-") => (node, Some(etcd), Some(name)),
            _ => return None,
        };
        let own = |text: &&str| (*text).to_string();
        Some(BackupOnNode {
            node: own(node),
            etcd: etcd.map(own),
            name: name.map(own),
        })
    }

    /// The directory in the pod of the node's backup server.
    pub(crate) fn directory(&self) -> String {
        match &self.etcd {
            Some(etcd) => format!("{REPOSITORY}/{etcd}"),
            None => REPOSITORY.into(),
        }
    }
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
    directory: &str,
    command: &[&str],
) -> anyhow::Result<AttachedProcess> {
    let path = format!("--backup-path={directory}");
    let mut whole = vec!["/etcd-lifeboat"];
    whole.extend(command);
    whole.insert(2, &path);
    let pods: Api<k8s_openapi::api::core::v1::Pod> =
        Api::namespaced(client.clone(), &pod.namespace);
    let params = AttachParams::default()
        .container(pod.container)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_on_a_node_is_read_as_it_is_listed() {
        let parsed = |text: &str| {
            let backup = BackupOnNode::parse(text)?;
            let or_dash = |part: &Option<String>| part.clone().unwrap_or_else(|| "-".into());
            Some(format!(
                "{} {} {} {}",
                backup.node,
                or_dash(&backup.etcd),
                or_dash(&backup.name),
                backup.directory()
            ))
        };
        for (text, expected) in [
            ("a", "a - - /var/lib/etcd-auto-backup"),
            ("a/b", "a - b /var/lib/etcd-auto-backup"),
            (
                "a/etcd-events",
                "a etcd-events - /var/lib/etcd-auto-backup/etcd-events",
            ),
            (
                "a/etcd-events/b",
                "a etcd-events b /var/lib/etcd-auto-backup/etcd-events",
            ),
        ] {
            assert_eq!(parsed(text).as_deref(), Some(expected), "{text}");
        }
        for text in [
            "",
            "/",
            "a/",
            "/b",
            "a/../b",
            "a/b/c",
            "a/.lock",
            "a/etcd-x/../..",
        ] {
            assert_eq!(parsed(text), None, "{text}");
        }
    }
}
