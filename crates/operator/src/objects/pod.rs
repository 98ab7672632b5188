//! The common parts of all pods that the operator creates: nodes, permissions and mounts.

use crate::cluster::node_layout::{LABEL, NodeLayout};
use crate::names::{AGENT_ACCOUNT, REPOSITORY};
use crate::options::Options;
use k8s_openapi::api::core::v1::{
    Affinity, Capabilities, Container, EnvVar, EnvVarSource, HostPathVolumeSource, NodeAffinity,
    NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, ObjectFieldSelector,
    PersistentVolumeClaimVolumeSource, PodSecurityContext, PodSpec, ResourceRequirements,
    SELinuxOptions, SeccompProfile, SecurityContext, Toleration, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::BTreeMap;

/// Role labels. A node with an etcd member has at least one of them.
pub(crate) const ROLES: [&str; 4] = [
    "node-role.kubernetes.io/control-plane",
    "node-role.kubernetes.io/master",
    "node-role.kubernetes.io/etcd",
    // OpenShift: a member of etcd without the other parts of the control plane.
    "node-role.kubernetes.io/arbiter",
];
/// Where a Job's pod mounts its PersistentVolumeClaim.
pub(crate) const PVC_MOUNT: &str = "/backups";
/// A run needs 23 MiB for a database of 1 GiB, and 32 bytes more for each further 64 KiB. The limit is low so that the kernel does not
/// kill etcd if memory runs out.
const MEMORY_LIMIT: &str = "128Mi";

/// Where a pod stores its backups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BackupTarget<'t> {
    /// The node's own disk.
    Node,
    /// A PersistentVolumeClaim.
    Pvc(&'t str),
}

impl BackupTarget<'_> {
    /// The path in the pod.
    pub(crate) fn path(self) -> &'static str {
        match self {
            BackupTarget::Node => REPOSITORY,
            BackupTarget::Pvc(_) => PVC_MOUNT,
        }
    }

    fn volume(self) -> Volume {
        let mut volume = Volume {
            name: "backups".into(),
            ..Volume::default()
        };
        match self {
            BackupTarget::Node => {
                volume.host_path = Some(host_path(REPOSITORY, "DirectoryOrCreate"));
            }
            BackupTarget::Pvc(name) => {
                volume.persistent_volume_claim = Some(PersistentVolumeClaimVolumeSource {
                    claim_name: name.into(),
                    ..PersistentVolumeClaimVolumeSource::default()
                });
            }
        }
        volume
    }
}

/// A directory of the node as a volume.
pub(crate) fn host_path_volume(name: &str, path: &str, type_: &str) -> Volume {
    Volume {
        name: name.into(),
        host_path: Some(host_path(path, type_)),
        ..Volume::default()
    }
}

fn host_path(path: &str, type_: &str) -> HostPathVolumeSource {
    HostPathVolumeSource {
        path: path.into(),
        type_: Some(type_.into()),
    }
}

/// Node affinity for all control-plane nodes.
pub(crate) fn control_plane_affinity() -> Affinity {
    role_affinity(&[])
}

/// Node affinity for control-plane nodes with this layout label, or without a layout label.
pub(crate) fn layout_affinity(layout: Option<NodeLayout>) -> Affinity {
    role_affinity(&[match layout {
        None => requirement(LABEL, "DoesNotExist", None),
        Some(layout) => requirement(LABEL, "In", Some(layout.name())),
    }])
}

fn role_affinity(more: &[NodeSelectorRequirement]) -> Affinity {
    let terms = ROLES.iter().map(|role| {
        let mut expressions = vec![requirement(role, "Exists", None)];
        expressions.extend(more.iter().cloned());
        NodeSelectorTerm {
            match_expressions: Some(expressions),
            match_fields: None,
        }
    });
    required_node_affinity(terms.collect())
}

/// The security context of a pod that reads files of the node. With SELinux, only this type can.
pub(crate) fn reads_files_of_the_node() -> PodSecurityContext {
    PodSecurityContext {
        run_as_user: Some(0),
        seccomp_profile: Some(runtime_seccomp()),
        se_linux_options: Some(SELinuxOptions {
            type_: Some("spc_t".into()),
            ..SELinuxOptions::default()
        }),
        ..PodSecurityContext::default()
    }
}

/// Node affinity for this node.
pub(crate) fn node_affinity(name: &str) -> Affinity {
    required_node_affinity(vec![NodeSelectorTerm {
        match_expressions: None,
        match_fields: Some(vec![requirement("metadata.name", "In", Some(name))]),
    }])
}

/// Node affinity for every node but this one.
pub(crate) fn not_on_node(name: &str) -> Affinity {
    required_node_affinity(vec![NodeSelectorTerm {
        match_expressions: None,
        match_fields: Some(vec![requirement("metadata.name", "NotIn", Some(name))]),
    }])
}

fn requirement(key: &str, operator: &str, value: Option<&str>) -> NodeSelectorRequirement {
    NodeSelectorRequirement {
        key: key.into(),
        operator: operator.into(),
        values: value.map(|value| vec![value.into()]),
    }
}

fn required_node_affinity(terms: Vec<NodeSelectorTerm>) -> Affinity {
    Affinity {
        node_affinity: Some(NodeAffinity {
            required_during_scheduling_ignored_during_execution: Some(NodeSelector {
                node_selector_terms: terms,
            }),
            ..NodeAffinity::default()
        }),
        ..Affinity::default()
    }
}

/// An environment variable with the value of a field of the pod.
pub(crate) fn field_variable(name: &str, field_path: &str) -> EnvVar {
    EnvVar {
        name: name.into(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                field_path: field_path.into(),
                ..ObjectFieldSelector::default()
            }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    }
}

pub(crate) fn quantities(all: &[(&str, &str)]) -> BTreeMap<String, Quantity> {
    all.iter()
        .map(|(name, quantity)| ((*name).into(), Quantity((*quantity).into())))
        .collect()
}

/// A security context without privileges, except for these capabilities.
pub(crate) fn restricted(capabilities: &[&str]) -> SecurityContext {
    let added: Vec<String> = capabilities.iter().map(|name| (*name).into()).collect();
    SecurityContext {
        read_only_root_filesystem: Some(true),
        allow_privilege_escalation: Some(false),
        capabilities: Some(Capabilities {
            drop: Some(vec!["ALL".into()]),
            add: Some(added).filter(|added| !added.is_empty()),
        }),
        ..SecurityContext::default()
    }
}

pub(crate) fn runtime_seccomp() -> SeccompProfile {
    SeccompProfile {
        type_: "RuntimeDefault".into(),
        ..SeccompProfile::default()
    }
}

/// Tolerates every taint, because taints must not stop backups.
pub(crate) fn every_taint() -> Vec<Toleration> {
    vec![Toleration {
        operator: Some("Exists".into()),
        ..Toleration::default()
    }]
}

/// The effects and keys of taints that a pod with a volume tolerates: all that a control-plane node has, also one that is not ready. But not
/// the taint of a node that is out of service: there the pod must be removed, so that its volume can be attached to another node.
pub(crate) fn taints_of_a_node_in_service() -> Vec<Toleration> {
    let exists = |key: Option<&str>, effect: &str| Toleration {
        key: key.map(Into::into),
        operator: Some("Exists".into()),
        effect: Some(effect.into()),
        ..Toleration::default()
    };
    let mut all = vec![exists(None, "NoSchedule"), exists(None, "PreferNoSchedule")];
    let keys = [
        "node-role.kubernetes.io/control-plane",
        "node-role.kubernetes.io/etcd",
        "node-role.kubernetes.io/master",
        "CriticalAddonsOnly",
        "node.kubernetes.io/not-ready",
        "node.kubernetes.io/unreachable",
    ];
    all.extend(keys.map(|key| exists(Some(key), "NoExecute")));
    all
}

/// A pod that makes backups of its node's member, with one container.
pub(crate) fn backup_pod(
    layout: NodeLayout,
    options: &Options,
    container: &str,
    args: Vec<String>,
    target: BackupTarget<'_>,
) -> PodSpec {
    let volume_name = |path: &str| format!("node{}", path.replace(['/', '.'], "-"));
    let node_mounts = layout.mounts();
    let mut volumes: Vec<_> = node_mounts
        .iter()
        .map(|mount| Volume {
            name: volume_name(mount.path),
            host_path: Some(host_path(mount.path, mount.kind)),
            ..Volume::default()
        })
        .collect();
    volumes.extend(
        options
            .node_directories
            .iter()
            .zip(0..)
            .map(|(path, number)| {
                Volume {
                    name: directory_name(number),
                    // On a node without it, it is reported as missing from the archive.
                    host_path: Some(host_path(path, "")),
                    ..Volume::default()
                }
            }),
    );
    volumes.push(target.volume());
    let mut mounts: Vec<_> = node_mounts
        .iter()
        .map(|mount| VolumeMount {
            name: volume_name(mount.path),
            mount_path: mount.path.into(),
            read_only: Some(true),
            mount_propagation: mount.has_mounts.then(|| "HostToContainer".into()),
            ..VolumeMount::default()
        })
        .collect();
    mounts.extend(
        options
            .node_directories
            .iter()
            .zip(0..)
            .map(|(path, number)| VolumeMount {
                name: directory_name(number),
                mount_path: path.clone(),
                read_only: Some(true),
                ..VolumeMount::default()
            }),
    );
    mounts.push(VolumeMount {
        name: "backups".into(),
        mount_path: target.path().into(),
        ..VolumeMount::default()
    });
    let capabilities: &[&str] = if layout.needs_read_capability() {
        &["DAC_READ_SEARCH"]
    } else {
        &[]
    };
    PodSpec {
        // A broken pod network must not stop backups.
        host_network: Some(true),
        tolerations: Some(every_taint()),
        // With this class, disk pressure does not evict the pod. With the class of the node's own pods, the kernel would protect this pod
        // as much as etcd if memory runs out, but etcd must survive longer.
        priority_class_name: Some("system-cluster-critical".into()),
        service_account_name: Some(AGENT_ACCOUNT.into()),
        automount_service_account_token: Some(false),
        security_context: Some(reads_files_of_the_node()),
        affinity: Some(control_plane_affinity()),
        containers: vec![Container {
            name: container.into(),
            image: Some(options.image.clone()),
            args: Some(args),
            env: Some(vec![field_variable("NODE_NAME", "spec.nodeName")]),
            termination_message_policy: Some("FallbackToLogsOnError".into()),
            resources: Some(ResourceRequirements {
                requests: Some(quantities(&[("cpu", "10m"), ("memory", "32Mi")])),
                limits: Some(quantities(&[("memory", MEMORY_LIMIT)])),
                ..ResourceRequirements::default()
            }),
            security_context: Some(restricted(capabilities)),
            volume_mounts: Some(mounts),
            ..Container::default()
        }],
        volumes: Some(volumes),
        ..PodSpec::default()
    }
}

/// The name of the volume of an additional directory.
fn directory_name(number: usize) -> String {
    format!("directory-{number}")
}
