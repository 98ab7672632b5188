//! Node objects that are kept ready.

use super::node_context::Context;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

/// Twice as often as a real kubelet, so that tests see a node fail sooner.
const LEASE_EVERY: Duration = Duration::from_secs(5);
const LEASE_NAMESPACE: &str = "kube-node-lease";
const LEASE_S: i32 = 40;

/// Creates the Node object with the labels of a control-plane node, as an installer does.
pub(super) async fn register(admin: &kube::Client, name: &str) -> Result<(), kube::Error> {
    let nodes: Api<Node> = Api::all(admin.clone());
    let node = json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {
                "kubernetes.io/hostname": name,
                "kubernetes.io/os": "linux",
                "node-role.kubernetes.io/control-plane": "",
            },
        },
    });
    let node = serde_json::from_value(node).map_err(kube::Error::SerdeError)?;
    nodes
        .create(&PostParams::default(), &node)
        .await
        .map(|_| ())
}

/// Reports at intervals that the node is ready.
pub(super) async fn keep_ready(context: Arc<Context>) {
    loop {
        let beat = async {
            // The controller manager sets a node without heartbeats to not ready.
            if !is_ready(&context).await? {
                report_ready(&context).await?;
            }
            renew(&context).await
        };
        let wait = match beat.await {
            Ok(()) => LEASE_EVERY,
            Err(_) => Duration::from_secs(1),
        };
        tokio::time::sleep(wait).await;
    }
}

async fn is_ready(context: &Context) -> Result<bool, kube::Error> {
    let nodes: Api<Node> = Api::all(context.client.clone());
    let status = nodes.get(&context.node).await?.status.unwrap_or_default();
    let mut conditions = status.conditions.iter().flatten();
    Ok(conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True"))
}

async fn report_ready(context: &Context) -> Result<(), kube::Error> {
    let now = jiff::Timestamp::now()
        .strftime("%Y-%m-%dT%H:%M:%SZ")
        .to_string();
    let condition = |kind: &str, status: &str, reason: &str| {
        json!({
            "type": kind,
            "status": status,
            "reason": reason,
            "message": "a kubelet whose containers are processes",
            "lastHeartbeatTime": now,
            "lastTransitionTime": now,
        })
    };
    let resources =
        json!({"cpu": "2", "memory": "4Gi", "pods": "110", "ephemeral-storage": "10Gi"});
    let status = json!({"status": {
        "daemonEndpoints": {"kubeletEndpoint": {"Port": context.streams_port}},
        "capacity": resources,
        "allocatable": resources,
        "addresses": [
            {"type": "InternalIP", "address": "127.0.0.1"},
            {"type": "Hostname", "address": context.node},
        ],
        "nodeInfo": {
            "kubeletVersion": context.version,
            "kubeProxyVersion": "",
            "containerRuntimeVersion": "process://1",
            "machineID": context.node,
            "systemUUID": context.node,
            "bootID": context.node,
            "kernelVersion": "",
            "osImage": "this machine",
            "operatingSystem": "linux",
            "architecture": std::env::consts::ARCH.replace("x86_64", "amd64").replace("aarch64", "arm64"),
        },
        "conditions": [
            condition("MemoryPressure", "False", "KubeletHasSufficientMemory"),
            condition("DiskPressure", "False", "KubeletHasNoDiskPressure"),
            condition("PIDPressure", "False", "KubeletHasSufficientPID"),
            condition("Ready", "True", "KubeletReady"),
        ],
    }});
    let nodes: Api<Node> = Api::all(context.client.clone());
    let params = PatchParams::default();
    let patch = Patch::Strategic(status);
    let patched = nodes.patch_status(&context.node, &params, &patch);
    patched.await.map(|_| ())
}

async fn renew(context: &Context) -> Result<(), kube::Error> {
    let leases: Api<Lease> = Api::namespaced(context.client.clone(), LEASE_NAMESPACE);
    let now = jiff::Timestamp::now()
        .strftime("%Y-%m-%dT%H:%M:%S.%6fZ")
        .to_string();
    let spec = json!({
        "holderIdentity": context.node,
        "leaseDurationSeconds": LEASE_S,
        "renewTime": now,
    });
    let patch = json!({"spec": spec});
    let renewed = leases
        .patch(&context.node, &PatchParams::default(), &Patch::Merge(patch))
        .await;
    match renewed {
        Err(kube::Error::Api(status)) if status.code == 404 => {
            let lease = json!({
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {"name": context.node, "namespace": LEASE_NAMESPACE},
                "spec": spec,
            });
            let lease = serde_json::from_value(lease).map_err(kube::Error::SerdeError)?;
            leases
                .create(&PostParams::default(), &lease)
                .await
                .map(|_| ())
        }
        other => other.map(|_| ()),
    }
}
