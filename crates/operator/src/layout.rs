//! Where a node has the files of its etcd, and so what a pod that takes backups sees of it.

use crate::shape::Platform;
use kube::ResourceExt;
use kube::core::PartialObjectMeta;
use std::fmt;

/// On a node: its layout, where it is another one than that of the cluster.
pub const LABEL: &str = "lifeboat.etcd.io/node-layout";

/// A layout. A pod mounts what discovery reads of it, and never the whole `/etc` of a node; what is not there would keep a
/// pod from starting, so nodes of different layouts have pods of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NodeLayout {
    /// kubeadm, OpenShift, and whatever runs etcd as a static pod.
    StaticPod,
    /// kubespray, whose etcd is a service of the node.
    Kubespray,
    /// k3s and RKE2.
    Rancher,
    /// MicroShift.
    MicroShift,
}

/// Something of the node that a pod sees.
pub(crate) struct Mount {
    pub(crate) path: &'static str,
    /// As hostPath has it: what is something else keeps the pod from starting.
    pub(crate) kind: &'static str,
}

impl NodeLayout {
    /// All of them.
    pub const ALL: [NodeLayout; 4] = [
        NodeLayout::StaticPod,
        NodeLayout::Kubespray,
        NodeLayout::Rancher,
        NodeLayout::MicroShift,
    ];

    /// Its name, as a flag and a label have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            NodeLayout::StaticPod => "static-pod",
            NodeLayout::Kubespray => "kubespray",
            NodeLayout::Rancher => "rancher",
            NodeLayout::MicroShift => "microshift",
        }
    }

    /// The layout of that name.
    ///
    /// # Errors
    /// Where there is none.
    pub fn parse(name: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|layout| layout.name() == name)
            .ok_or_else(|| {
                let all = Self::ALL.map(NodeLayout::name).join(", ");
                format!("there is no node layout {name:?}: expected one of {all}")
            })
    }

    /// That of a cluster whose operator was told nothing else.
    #[must_use]
    pub fn of(platform: Platform) -> Self {
        match platform {
            Platform::OpenShift | Platform::Kubernetes => NodeLayout::StaticPod,
            Platform::K3s | Platform::Rke2 => NodeLayout::Rancher,
        }
    }

    /// What a node's label says; nothing without one, or with one that is no layout.
    pub(crate) fn of_node<K>(node: &PartialObjectMeta<K>) -> Option<Self>
    where
        PartialObjectMeta<K>: ResourceExt,
    {
        let name = node.labels().get(LABEL)?;
        Self::parse(name).ok()
    }

    /// What a pod sees of the node, for reading.
    pub(crate) fn mounts(self) -> &'static [Mount] {
        const fn directory(path: &'static str) -> Mount {
            Mount {
                path,
                kind: "Directory",
            }
        }
        const STATIC_POD: [Mount; 1] = [directory("/etc/kubernetes")];
        const KUBESPRAY: [Mount; 3] = [
            directory("/etc/kubernetes"),
            Mount {
                path: "/etc/etcd.env",
                kind: "File",
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
            NodeLayout::Kubespray => &KUBESPRAY,
            NodeLayout::Rancher => &RANCHER,
            NodeLayout::MicroShift => &MICROSHIFT,
        }
    }

    /// Whether some of these files are another user's, so that root without capabilities can't read them.
    pub(crate) fn has_files_of_others(self) -> bool {
        self == NodeLayout::Kubespray
    }
}

impl fmt::Display for NodeLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
