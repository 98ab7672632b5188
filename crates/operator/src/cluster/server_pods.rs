//! Finds the pods of backup servers, to run a command in one. A tenant can give a pod the same labels and could then receive the data.
//! So a pod must be in the operator's namespace and must belong to a DaemonSet of the operator.

use crate::api_error::api_error_message;
use crate::cluster::lenient::{self, Lenient};
use crate::names::default_namespace;
use crate::names::{DAEMON_SET, SERVER_APP};
use cluster_api::resources::NodeBackup;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};

/// A pod of a backup server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerPod {
    /// Namespace of the operator, in which the pod was found.
    pub namespace: String,
    /// Name of the pod. It changes when the DaemonSet replaces the pod.
    pub name: String,
}

/// Finds the running backup server of a node. Returns `None` if no backup server runs there.
///
/// # Errors
/// The error of the API server.
pub async fn on_node(client: &Client, node: &str) -> Result<Option<ServerPod>, String> {
    let of_servers = ListParams::default().labels(&format!("app={SERVER_APP}"));
    for openshift in [false, true] {
        let namespace = default_namespace(openshift);
        let failed = |what: &'static str| {
            move |error: kube::Error| {
                format!(
                    "cannot list {what} in namespace {namespace}: {}",
                    api_error_message(&error)
                )
            }
        };
        let sets: Api<Lenient<DaemonSet>> = Api::namespaced(client.clone(), namespace);
        let (sets, _) = lenient::list(&sets, &of_servers)
            .await
            .map_err(failed("the DaemonSets of backup servers"))?;
        let owners: Vec<_> = sets
            .iter()
            .filter(|set| set.name_any().starts_with(DAEMON_SET))
            .filter_map(ResourceExt::uid)
            .collect();
        if owners.is_empty() {
            continue;
        }
        let pods: Api<Lenient<Pod>> = Api::namespaced(client.clone(), namespace);
        let (pods, _) = lenient::list(&pods, &of_servers)
            .await
            .map_err(failed("the pods of backup servers"))?;
        if let Some(pod) = pods.iter().find(|pod| serves(pod, node, &owners)) {
            return Ok(Some(ServerPod {
                namespace: namespace.into(),
                name: pod.name_any(),
            }));
        }
    }
    Ok(None)
}

/// Whether a pod runs on this node for one of these DaemonSets.
fn serves(pod: &Pod, node: &str, owners: &[String]) -> bool {
    let pod_node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    let ours = pod.owner_references().iter().any(|owner| {
        owner.controller == Some(true) && owner.kind == "DaemonSet" && owners.contains(&owner.uid)
    });
    ours && pod_node == Some(node)
        && phase == Some("Running")
        && pod.metadata.deletion_timestamp.is_none()
}

/// Reads the `NodeBackup` of a node. Returns `None` if it does not exist or cannot be parsed.
///
/// # Errors
/// The error of the API server.
pub async fn node_backup(client: &Client, node: &str) -> Result<Option<NodeBackup>, String> {
    let all: Api<Lenient<NodeBackup>> = Api::all(client.clone());
    match lenient::get(&all, node).await {
        // Without its CRD there is no NodeBackup.
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        found => found.map_err(|error| {
            format!(
                "cannot read NodeBackup/{node}: {}",
                api_error_message(&error)
            )
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_that_only_looks_like_a_backup_server_is_none() {
        let pod = |owner: serde_json::Value| -> Pod {
            serde_json::from_value(json!({
                "metadata": {"name": "p", "labels": {"app": SERVER_APP}, "ownerReferences": [owner]},
                "spec": {"nodeName": "a", "containers": []},
                "status": {"phase": "Running"},
            }))
            .unwrap()
        };
        let owner = |kind: &str, uid: &str, controller: bool| json!({"apiVersion": "apps/v1", "kind": kind, "name": "x", "uid": uid, "controller": controller});
        let ours = ["1".to_string()];
        assert!(serves(&pod(owner("DaemonSet", "1", true)), "a", &ours));
        for (other, node) in [
            (owner("DaemonSet", "2", true), "a"),
            (owner("ReplicaSet", "1", true), "a"),
            (owner("DaemonSet", "1", false), "a"),
            (owner("DaemonSet", "1", true), "b"),
        ] {
            assert!(!serves(&pod(other), node, &ours));
        }
    }
}
