//! Finds the pods of backup servers, to run a command in one. A tenant can give a pod the same labels and could then receive the data.
//! So a pod must be in the operator's namespace and must belong to a DaemonSet of the operator.

use crate::api_error::api_error_message;
use crate::cluster::cluster_info::read_namespace;
use crate::cluster::lenient::{self, Lenient};
use crate::names::{
    DAEMON_SET, ETCD_POD_LABELS, ETCD_POD_NAMESPACE, SERVER_APP, SERVER_CONTAINER, VOLUME_CONTAINER,
};
use crate::objects::volume_set::volume_set_name;
use cluster_api::resources::NodeBackup;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};

/// A pod of a backup server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerPod {
    /// Namespace of the operator, in which the pod was found.
    pub namespace: String,
    /// Name of the pod. It changes when the DaemonSet replaces the pod.
    pub name: String,
    /// Its container in which commands run.
    pub container: &'static str,
}

/// Finds the running backup server of a node. Returns `None` if no backup server runs there.
///
/// # Errors
/// The error of the API server.
pub async fn on_node(client: &Client, node: &str) -> Result<Option<ServerPod>, String> {
    let of_servers = ListParams::default().labels(&format!("app={SERVER_APP}"));
    let namespace = read_namespace(client).await.map_err(|error| {
        format!(
            "cannot find the namespace of the operator: {}",
            api_error_message(&error)
        )
    })?;
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
    let pods: Api<Lenient<Pod>> = Api::namespaced(client.clone(), namespace);
    let (pods, _) = lenient::list(&pods, &of_servers)
        .await
        .map_err(failed("the pods of backup servers"))?;
    if let Some(pod) = pods.iter().find(|pod| serves(pod, node, &owners)) {
        return Ok(Some(ServerPod {
            namespace: namespace.into(),
            name: pod.name_any(),
            container: SERVER_CONTAINER,
        }));
    }
    beside_etcd(client, node).await
}

/// Finds the backup server in the static pod of etcd on a node. Users who are not allowed to list these pods find none.
async fn beside_etcd(client: &Client, node: &str) -> Result<Option<ServerPod>, String> {
    let pods: Api<Lenient<Pod>> = Api::namespaced(client.clone(), ETCD_POD_NAMESPACE);
    let of_etcd = ListParams::default().labels(ETCD_POD_LABELS);
    let pods = match lenient::list(&pods, &of_etcd).await {
        Ok((pods, _)) => pods,
        Err(kube::Error::Api(status)) if status.code == 403 => Vec::new(),
        Err(error) => {
            let problem = api_error_message(&error);
            return Err(format!(
                "cannot list the pods of etcd in namespace {ETCD_POD_NAMESPACE}: {problem}"
            ));
        }
    };
    let found = pods.iter().find(|pod| is_beside_etcd(pod, node));
    Ok(found.map(|pod| ServerPod {
        namespace: ETCD_POD_NAMESPACE.into(),
        name: pod.name_any(),
        container: SERVER_CONTAINER,
    }))
}

/// Whether a pod is the static pod of a node, with a backup server in it. Only a kubelet can create a pod with this annotation and owner.
fn is_beside_etcd(pod: &Pod, node: &str) -> bool {
    let spec = pod.spec.clone().unwrap_or_default();
    let is_of_node = |owner: &OwnerReference| owner.kind == "Node" && owner.name == node;
    spec.node_name.as_deref() == Some(node)
        && pod
            .annotations()
            .contains_key("kubernetes.io/config.mirror")
        && pod.owner_references().iter().any(is_of_node)
        && spec
            .containers
            .iter()
            .any(|container| container.name == SERVER_CONTAINER)
}

/// Finds the pod of a node's volume, if it runs.
///
/// # Errors
/// The error of the API server.
pub async fn of_volume(
    client: &Client,
    namespace: &str,
    node: &str,
) -> Result<Option<ServerPod>, kube::Error> {
    let name = format!("{}-0", volume_set_name(node));
    let pods: Api<Lenient<Pod>> = Api::namespaced(client.clone(), namespace);
    let pod = lenient::get(&pods, &name).await?;
    let runs = pod.is_some_and(|pod| {
        let status = pod.status.clone().unwrap_or_default();
        // On a node that is lost, its phase stays as it was.
        let is_ready = status
            .conditions
            .iter()
            .flatten()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True");
        let of_set =
            |owner: &OwnerReference| owner.controller == Some(true) && owner.kind == "StatefulSet";
        is_ready
            && pod.metadata.deletion_timestamp.is_none()
            && pod.owner_references().iter().any(of_set)
    });
    Ok(runs.then(|| ServerPod {
        namespace: namespace.into(),
        name,
        container: VOLUME_CONTAINER,
    }))
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
    fn only_the_static_pod_of_the_node_itself_is_beside_its_etcd() {
        let pod = |annotation: &str, owner: &str, node: &str, container: &str| -> Pod {
            serde_json::from_value(json!({
                "metadata": {
                    "name": "etcd-a",
                    "annotations": {annotation: "1"},
                    "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": owner, "uid": "1"}],
                },
                "spec": {"nodeName": node, "containers": [{"name": "etcd"}, {"name": container}]},
            }))
            .unwrap()
        };
        let mirror = "kubernetes.io/config.mirror";
        assert!(is_beside_etcd(
            &pod(mirror, "a", "a", SERVER_CONTAINER),
            "a"
        ));
        for other in [
            pod("x", "a", "a", SERVER_CONTAINER),
            pod(mirror, "b", "a", SERVER_CONTAINER),
            pod(mirror, "a", "b", SERVER_CONTAINER),
            pod(mirror, "a", "a", "x"),
        ] {
            assert!(!is_beside_etcd(&other, "a"));
        }
    }

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
