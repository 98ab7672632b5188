//! Detects the properties of the cluster.

use crate::cluster::api_schema::{ApiProblems, read_api_problems};
use crate::cluster::lenient::{self, Lenient};
use crate::cluster::watch_backoff::WatchBackoff;
use crate::names::default_namespace;
use cluster_api::resources::{Backup, EtcdBackup};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DynamicObject, ListParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, CustomResourceExt};
use serde_json::Value;

/// Where OpenShift has its configuration. Our own CRDs are of another version.
const OPENSHIFT_CONFIG: &str = "config.openshift.io/v1";

/// The feature gate of automated backups, here and upstream.
pub const FEATURE_GATE: &str = "AutomatedEtcdBackup";

/// The message for `Backup/default` while the feature gate is off.
pub(crate) fn gate_off_message() -> String {
    format!(
        "the feature gate {FEATURE_GATE} is off, so no backup servers run, and the backups on the nodes stay as they are: turn the gate on with --feature-gates={FEATURE_GATE}=true, or delete this Backup"
    )
}

/// The message for clusters whose control plane is hosted elsewhere.
pub(crate) const EXTERNAL_CONTROL_PLANE: &str = "the control plane does not run on the nodes of this cluster: they have no etcd, so the operator makes no backups";

/// The distribution of Kubernetes. It decides where the nodes have their files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Platform {
    /// Detected by its `ClusterVersion`.
    OpenShift,
    /// Detected by the version of its kubelets.
    K3s,
    /// Detected by the version of its kubelets.
    Rke2,
    /// kubeadm, kubespray and others with files in `/etc/kubernetes`.
    Kubernetes,
}

impl Platform {
    /// Its name in logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Platform::OpenShift => "openshift",
            Platform::K3s => "k3s",
            Platform::Rke2 => "rke2",
            Platform::Kubernetes => "kubernetes",
        }
    }
}

/// The owner of the CRDs `Backup` and `EtcdBackup`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CrdOwner {
    /// This operator.
    Lifeboat,
    /// OpenShift's own operator, because its feature gate is on. It handles every `Backup`.
    Upstream,
}

/// The properties of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterInfo {
    /// The distribution of Kubernetes. It decides the default node layout.
    pub platform: Platform,
    /// The namespace of the operator's objects: `openshift-etcd` on OpenShift, otherwise `etcd-lifeboat`.
    pub namespace: String,
    /// If upstream owns the CRDs, this operator only runs backup servers, with default settings.
    pub crd_owner: CrdOwner,
    /// Whether the control plane, with etcd, does not run on the nodes of this cluster.
    pub external: bool,
    /// What is wrong with CRDs of another owner.
    pub api_problems: ApiProblems,
}

/// The namespace of the operator's objects in this cluster, as the operator decides it. A namespace of the other name may belong to
/// anyone, so what is there must not be trusted. A user who is not allowed to read the `ClusterVersion` is on OpenShift if it has a CRD.
///
/// # Errors
/// The error of the API server.
pub async fn read_namespace(client: &Client) -> Result<&'static str, kube::Error> {
    let served = match client.list_api_group_resources(OPENSHIFT_CONFIG).await {
        Ok(served) => served.resources,
        Err(kube::Error::Api(status)) if status.code == 404 => Vec::new(),
        Err(error) => return Err(error),
    };
    let has_crd = served
        .iter()
        .any(|resource| resource.name == "clusterversions");
    let openshift = has_crd
        && match is_openshift(client).await {
            Err(kube::Error::Api(status)) if status.code == 403 => true,
            read => read?,
        };
    Ok(default_namespace(openshift))
}

async fn is_openshift(client: &Client) -> Result<bool, kube::Error> {
    let found = get_config_object(client, "ClusterVersion", "version").await?;
    Ok(found.is_some())
}

/// Reads the properties of a cluster.
///
/// # Errors
/// The error of the API server.
pub async fn read_cluster_info(client: &Client) -> Result<ClusterInfo, kube::Error> {
    let openshift = is_openshift(client).await?;
    let (gates, infrastructure) = if openshift {
        (
            get_config_object(client, "FeatureGate", "cluster").await?,
            get_config_object(client, "Infrastructure", "cluster").await?,
        )
    } else {
        (None, None)
    };
    let nodes: Api<Lenient<Node>> = Api::all(client.clone());
    let (some, _) = lenient::list(&nodes, &ListParams::default().limit(10)).await?;
    let kubelet = some.first().and_then(|node| {
        let info = node.status.as_ref()?.node_info.as_ref()?;
        Some(info.kubelet_version.clone())
    });
    Ok(classify(&ClusterFacts {
        openshift,
        upstream_gate: gates.is_some_and(|gates| is_enabled(&gates.data, FEATURE_GATE)),
        external: infrastructure.is_some_and(|cluster| is_external(&cluster.data)),
        kubelet_version: kubelet.unwrap_or_default(),
        api_problems: read_api_problems(client).await?,
    }))
}

/// Returns when the properties of the cluster have changed.
pub(crate) async fn wait_for_change(client: &Client, was: &ClusterInfo) {
    let named = |name: &str| watcher::Config::default().fields(&format!("metadata.name={name}"));
    let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
    let watch = |name: &str| {
        watcher(crds.clone(), named(name))
            .backoff(WatchBackoff::default())
            .map(|event| event.is_ok())
            .boxed()
    };
    let mut events =
        futures::stream::select(watch(Backup::crd_name()), watch(EtcdBackup::crd_name())).boxed();
    if was.platform == Platform::OpenShift {
        let kind = GroupVersionKind::gvk("config.openshift.io", "v1", "FeatureGate");
        let resource = ApiResource::from_gvk(&kind);
        let gates: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
        let gates = watcher(gates, watcher::Config::default())
            .backoff(WatchBackoff::default())
            .map(|event| event.is_ok());
        events = futures::stream::select(events, gates).boxed();
    }
    while let Some(is_change) = events.next().await {
        if is_change && read_cluster_info(client).await.is_ok_and(|now| now != *was) {
            return;
        }
    }
}

/// The type of `OpenShift`'s infrastructure, and whether the control plane is one node. `None` on other platforms.
pub(crate) async fn infrastructure(client: &Client) -> Result<(Option<String>, bool), kube::Error> {
    let found = get_config_object(client, "Infrastructure", "cluster").await?;
    let Some(found) = found else {
        return Ok((None, false));
    };
    let text = |path: &str| found.data.pointer(path).and_then(Value::as_str);
    let kind = text("/status/platformStatus/type").unwrap_or_default();
    let is_single = text("/status/controlPlaneTopology") == Some("SingleReplica");
    Ok((Some(kind.into()), is_single))
}

/// The facts from which the properties are derived.
struct ClusterFacts {
    openshift: bool,
    upstream_gate: bool,
    external: bool,
    kubelet_version: String,
    api_problems: ApiProblems,
}

/// Whether a gate is on, by OpenShift's `FeatureGate`.
fn is_enabled(gates: &Value, name: &str) -> bool {
    let versions = gates
        .pointer("/status/featureGates")
        .and_then(Value::as_array);
    let enabled = versions
        .into_iter()
        .flatten()
        .filter_map(|version| version.get("enabled")?.as_array());
    enabled
        .flatten()
        .any(|gate| gate.get("name").and_then(Value::as_str) == Some(name))
}

/// Whether the control plane is hosted elsewhere, by OpenShift's `Infrastructure`.
fn is_external(infrastructure: &Value) -> bool {
    let topology = infrastructure.pointer("/status/controlPlaneTopology");
    topology.and_then(Value::as_str) == Some("External")
}

fn classify(facts: &ClusterFacts) -> ClusterInfo {
    let ClusterFacts {
        openshift,
        upstream_gate,
        external,
        kubelet_version,
        api_problems,
    } = facts;
    let platform = if *openshift {
        Platform::OpenShift
    } else if kubelet_version.contains("+k3s") {
        Platform::K3s
    } else if kubelet_version.contains("+rke2") {
        Platform::Rke2
    } else {
        Platform::Kubernetes
    };
    ClusterInfo {
        platform,
        namespace: default_namespace(*openshift).into(),
        // A CRD that has not our fields is of somebody else, who acts on its objects.
        crd_owner: if *upstream_gate || api_problems.backup.is_some() {
            CrdOwner::Upstream
        } else {
            CrdOwner::Lifeboat
        },
        external: *external,
        api_problems: api_problems.clone(),
    }
}

/// Reads an object of OpenShift's configuration, if it exists.
async fn get_config_object(
    client: &Client,
    kind: &str,
    name: &str,
) -> Result<Option<DynamicObject>, kube::Error> {
    let kind = GroupVersionKind::gvk("config.openshift.io", "v1", kind);
    let objects: Api<DynamicObject> = Api::all_with(client.clone(), &ApiResource::from_gvk(&kind));
    match objects.get_opt(name).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_cluster_is_told_by_its_own_signs() {
        for (openshift, kubelet, platform, namespace) in [
            (true, "v1.33.4", Platform::OpenShift, "openshift-etcd"),
            (false, "v1.35.4+k3s1", Platform::K3s, "etcd-lifeboat"),
            (false, "v1.35.4+rke2r1", Platform::Rke2, "etcd-lifeboat"),
            (false, "v1.37.2", Platform::Kubernetes, "etcd-lifeboat"),
        ] {
            let info = classify(&ClusterFacts {
                openshift,
                upstream_gate: false,
                external: false,
                kubelet_version: kubelet.into(),
                api_problems: ApiProblems::default(),
            });
            assert_eq!(
                (info.platform, info.namespace.as_str()),
                (platform, namespace)
            );
        }
    }

    #[test]
    fn openshifts_gate_and_topology_are_read_where_they_are() {
        let gates = |list: &str| json!({"status": {"featureGates": [{"version": "4.20.0", list: [{"name": FEATURE_GATE}]}]}});
        assert!(is_enabled(&gates("enabled"), FEATURE_GATE));
        assert!(!is_enabled(&gates("disabled"), FEATURE_GATE));
        assert!(!is_enabled(&json!({}), FEATURE_GATE));
        assert!(is_external(
            &json!({"status": {"controlPlaneTopology": "External"}})
        ));
        assert!(!is_external(
            &json!({"status": {"controlPlaneTopology": "SingleReplica"}})
        ));
    }
}
