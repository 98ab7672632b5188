//! What kind of cluster it is, and what follows from that.

use k8s_openapi::api::core::v1::Node;
use kube::Client;
use kube::api::{Api, DynamicObject, ListParams};
use kube::core::{ApiResource, GroupVersionKind};

/// Who made the cluster, as far as it decides where the files of its nodes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Platform {
    /// By its `ClusterVersion`.
    OpenShift,
    /// By the version of its kubelets.
    K3s,
    /// By the version of its kubelets.
    Rke2,
    /// kubeadm, kubespray and whatever puts its files into `/etc/kubernetes`.
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

    /// The directories of a node in which a backup server finds etcd and what belongs into the archive.
    #[must_use]
    pub fn node_directories(self) -> &'static [&'static str] {
        match self {
            Platform::OpenShift | Platform::Kubernetes => &["/etc/kubernetes"],
            Platform::K3s | Platform::Rke2 => &["/etc/rancher", "/var/lib/rancher"],
        }
    }
}

/// A cluster as the operator sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// Who made it.
    pub platform: Platform,
    /// Where the operator's objects are.
    pub namespace: String,
}

/// Looks at a cluster.
///
/// # Errors
/// What the API server says.
pub async fn look(client: &Client) -> Result<Shape, kube::Error> {
    let openshift = has_cluster_version(client).await?;
    let nodes: Api<Node> = Api::all(client.clone());
    let one = nodes.list(&ListParams::default().limit(1)).await?;
    let kubelet = one.items.first().and_then(|node| {
        let info = node.status.as_ref()?.node_info.as_ref()?;
        Some(info.kubelet_version.clone())
    });
    Ok(judge(openshift, &kubelet.unwrap_or_default()))
}

fn judge(openshift: bool, kubelet_version: &str) -> Shape {
    let platform = if openshift {
        Platform::OpenShift
    } else if kubelet_version.contains("+k3s") {
        Platform::K3s
    } else if kubelet_version.contains("+rke2") {
        Platform::Rke2
    } else {
        Platform::Kubernetes
    };
    let namespace = if openshift {
        "openshift-etcd"
    } else {
        "etcd-lifeboat"
    };
    Shape {
        platform,
        namespace: namespace.into(),
    }
}

/// An API group alone says nothing: others bring it, too.
async fn has_cluster_version(client: &Client) -> Result<bool, kube::Error> {
    let kind = GroupVersionKind::gvk("config.openshift.io", "v1", "ClusterVersion");
    let versions: Api<DynamicObject> = Api::all_with(client.clone(), &ApiResource::from_gvk(&kind));
    match versions.get_opt("version").await {
        Ok(version) => Ok(version.is_some()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_is_told_by_its_own_signs() {
        for (openshift, kubelet, platform, namespace) in [
            (true, "v1.33.4", Platform::OpenShift, "openshift-etcd"),
            (false, "v1.35.4+k3s1", Platform::K3s, "etcd-lifeboat"),
            (false, "v1.35.4+rke2r1", Platform::Rke2, "etcd-lifeboat"),
            (false, "v1.37.2", Platform::Kubernetes, "etcd-lifeboat"),
        ] {
            let shape = judge(openshift, kubelet);
            assert_eq!(
                (shape.platform, shape.namespace.as_str()),
                (platform, namespace)
            );
        }
    }
}
