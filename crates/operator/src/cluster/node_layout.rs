//! Where a node has the files of etcd, and which of its directories a pod mounts.

use crate::cluster::cluster_info::Platform;
use crate::names::REPOSITORY;
use kube::ResourceExt;
use kube::core::PartialObjectMeta;
use std::fmt;

/// Label of a node whose layout differs from the layout of the cluster.
pub const LABEL: &str = "lifeboat.etcd.io/node-layout";

/// Where a node has the files of etcd. A pod mounts only the files that it needs. It does not start if one is missing, so each
/// layout has its own pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NodeLayout {
    /// kubeadm, and others that run etcd as a static pod.
    StaticPod,
    /// OpenShift, whose own restore uses nothing outside `/etc/kubernetes`.
    OpenShift,
    /// kubespray, which runs etcd as a service of the node.
    Kubespray,
    /// k3s and RKE2, with files in `/etc/rancher` and `/var/lib/rancher`.
    Rancher,
    /// MicroShift, with files in `/etc/microshift` and `/var/lib/microshift`.
    MicroShift,
}

/// A directory or file of the node that a pod mounts.
pub(crate) struct Mount {
    pub(crate) path: &'static str,
    /// The type of the hostPath volume. The pod does not start if the path has another type. Empty if it need not exist.
    pub(crate) kind: &'static str,
    /// Whether others mount and unmount filesystems in it. They must not stay mounted here.
    pub(crate) has_mounts: bool,
}

impl NodeLayout {
    /// All layouts, in the order in which messages list them.
    pub const ALL: [NodeLayout; 5] = [
        NodeLayout::StaticPod,
        NodeLayout::OpenShift,
        NodeLayout::Kubespray,
        NodeLayout::Rancher,
        NodeLayout::MicroShift,
    ];

    /// Its name in flags and labels.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            NodeLayout::StaticPod => "static-pod",
            NodeLayout::OpenShift => "openshift",
            NodeLayout::Kubespray => "kubespray",
            NodeLayout::Rancher => "rancher",
            NodeLayout::MicroShift => "microshift",
        }
    }

    /// Parses the name of a layout, as it is in flags and labels.
    ///
    /// # Errors
    /// If the name is unknown.
    pub fn parse(name: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|layout| layout.name() == name)
            .ok_or_else(|| {
                let all = Self::ALL.map(NodeLayout::name).join(", ");
                format!("unknown node layout {name:?}: expected one of {all}")
            })
    }

    /// The default layout for a platform.
    #[must_use]
    pub fn default_for(platform: Platform) -> Self {
        match platform {
            Platform::OpenShift => NodeLayout::OpenShift,
            Platform::Kubernetes => NodeLayout::StaticPod,
            Platform::K3s | Platform::Rke2 => NodeLayout::Rancher,
        }
    }

    /// The layout from a node's label, if it has a valid one.
    pub(crate) fn from_label<K>(node: &PartialObjectMeta<K>) -> Option<Self>
    where
        PartialObjectMeta<K>: ResourceExt,
    {
        let name = node.labels().get(LABEL)?;
        Self::parse(name).ok()
    }

    /// The directories and files of the node that a pod mounts read-only.
    pub(crate) fn mounts(self) -> &'static [Mount] {
        const fn directory(path: &'static str) -> Mount {
            Mount {
                path,
                kind: "Directory",
                has_mounts: false,
            }
        }
        // Its files can't be mounted one by one: without them, a container runtime would create directories in their places.
        const KUBELET: Mount = Mount {
            path: "/var/lib/kubelet",
            kind: "",
            has_mounts: true,
        };
        const STATIC_POD: [Mount; 2] = [directory("/etc/kubernetes"), KUBELET];
        const OPENSHIFT: [Mount; 1] = [directory("/etc/kubernetes")];
        const KUBESPRAY: [Mount; 4] = [
            directory("/etc/kubernetes"),
            KUBELET,
            Mount {
                path: "/etc/etcd.env",
                kind: "File",
                has_mounts: false,
            },
            directory("/etc/ssl/etcd"),
        ];
        const RANCHER: [Mount; 2] = [directory("/etc/rancher"), directory("/var/lib/rancher")];
        const MICROSHIFT: [Mount; 2] = [
            directory("/etc/microshift"),
            directory("/var/lib/microshift"),
        ];
        match self {
            NodeLayout::StaticPod => &STATIC_POD,
            NodeLayout::OpenShift => &OPENSHIFT,
            NodeLayout::Kubespray => &KUBESPRAY,
            NodeLayout::Rancher => &RANCHER,
            NodeLayout::MicroShift => &MICROSHIFT,
        }
    }

    /// Whether some of these files belong to another user, so that root needs a capability to read them.
    pub(crate) fn needs_read_capability(self) -> bool {
        self == NodeLayout::Kubespray
    }
}

/// Checks a directory of the node that pods mount in addition, as people write it in flags.
///
/// # Errors
/// Why pods cannot mount it.
pub fn node_directory(path: &str) -> Result<String, String> {
    const MAX_BYTES: usize = 200;
    const NOT_FILES: [&str; 3] = ["/proc", "/sys", "/dev"];
    let refused = |why: &str| Err(format!("the directory {path:?} cannot be mounted: {why}"));
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    let Some(parts) = path.strip_prefix('/').filter(|_| path.len() <= MAX_BYTES) else {
        return refused("it must begin with / and have at most 200 characters");
    };
    if !path.chars().all(is_plain) {
        return refused("it can have letters, digits, dots, dashes and underscores");
    }
    if parts.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return refused("it must be a directory below /, without empty parts and without . and ..");
    }
    let is_in = |dir: &&str| path == *dir || path.starts_with(&format!("{dir}/"));
    if NOT_FILES.iter().chain(&[REPOSITORY]).any(is_in) {
        return refused("it has no files of the control plane");
    }
    Ok(path.into())
}

impl fmt::Display for NodeLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_directories_below_the_root_can_be_mounted() {
        assert_eq!(node_directory("/etc/audit"), Ok("/etc/audit".into()));
        for path in [
            "/",
            "",
            "etc",
            "/etc/",
            "/etc//a",
            "/etc/../",
            "/a/./b",
            "/proc",
            "/sys/fs",
            "/dev",
            "/var/lib/etcd-auto-backup",
            "/var/lib/etcd-auto-backup/x",
            "/a b",
            "/a\"]",
            &"/a".repeat(101),
        ] {
            assert!(node_directory(path).is_err(), "{path}");
        }
    }
}
