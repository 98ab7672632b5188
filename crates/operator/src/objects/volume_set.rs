//! The StatefulSet of a node: one pod, which copies the node's backups to a volume of its own.
//!
//! One StatefulSet for all nodes would remove the pod with the highest number when a node leaves, and not the pod of that node.

use super::pod::{
    host_path_volume, node_affinity, quantities, reads_files_of_the_node, restricted,
    taints_of_a_node_in_service,
};
use super::retention_flags::retention_flags;
use crate::names::{
    AGENT_ACCOUNT, LABEL_CHARS, NODE_ANNOTATION, REPOSITORY, VOLUME, VOLUME_APP, VOLUME_CONTAINER,
    VOLUME_MOUNT, shortened, without_dots,
};
use crate::options::Options;
use backup_plan::retention::Policy;
use k8s_openapi::api::apps::v1::{
    StatefulSet, StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetSpec,
};
use k8s_openapi::api::core::v1::{
    Container, PersistentVolumeClaim, PersistentVolumeClaimSpec, PodSpec, PodTemplateSpec,
    ResourceRequirements, VolumeMount, VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use std::collections::BTreeMap;

/// A name of a pod can have a few characters more than this.
const NAME_CHARS: usize = 50;

/// The volumes of all nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VolumeClass {
    pub(crate) class: String,
    pub(crate) size: String,
    /// Whether one pod alone can use a volume. Only CSI drivers know this mode.
    pub(crate) for_one_pod: bool,
}

/// The name of a node's StatefulSet.
pub(crate) fn volume_set_name(node: &str) -> String {
    without_dots(VOLUME_APP, node, NAME_CHARS)
}

/// The name of the PersistentVolumeClaim that a StatefulSet makes for its only pod.
pub(crate) fn volume_claim_name(node: &str) -> String {
    format!("{VOLUME}-{}-0", volume_set_name(node))
}

/// The StatefulSet to apply.
pub(crate) fn volume_set(
    options: &Options,
    namespace: &str,
    node: &str,
    volume: &VolumeClass,
    policy: Policy,
    owner: Option<&OwnerReference>,
) -> StatefulSet {
    let labels = BTreeMap::from([
        ("app".to_string(), VOLUME_APP.to_string()),
        ("node".into(), shortened(node, LABEL_CHARS)),
    ]);
    let annotations = BTreeMap::from([(NODE_ANNOTATION.to_string(), node.to_string())]);
    let retained = StatefulSetPersistentVolumeClaimRetentionPolicy {
        when_deleted: Some("Retain".into()),
        when_scaled: Some("Retain".into()),
    };
    StatefulSet {
        metadata: ObjectMeta {
            name: Some(volume_set_name(node)),
            namespace: Some(namespace.into()),
            labels: Some(labels.clone()),
            annotations: Some(annotations.clone()),
            owner_references: Some(owner.into_iter().cloned().collect()),
            ..ObjectMeta::default()
        },
        spec: Some(StatefulSetSpec {
            replicas: Some(1),
            service_name: Some(VOLUME_APP.into()),
            selector: LabelSelector {
                match_labels: Some(labels.clone()),
                ..LabelSelector::default()
            },
            persistent_volume_claim_retention_policy: Some(retained),
            volume_claim_templates: Some(vec![claim(volume, &labels, &annotations)]),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: Some(labels),
                    ..ObjectMeta::default()
                }),
                spec: Some(pod(options, node, policy)),
            },
            ..StatefulSetSpec::default()
        }),
        ..StatefulSet::default()
    }
}

fn claim(
    volume: &VolumeClass,
    labels: &BTreeMap<String, String>,
    annotations: &BTreeMap<String, String>,
) -> PersistentVolumeClaim {
    let mode = match volume.for_one_pod {
        true => "ReadWriteOncePod",
        false => "ReadWriteOnce",
    };
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(VOLUME.into()),
            labels: Some(labels.clone()),
            annotations: Some(annotations.clone()),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec![mode.into()]),
            storage_class_name: Some(volume.class.clone()),
            resources: Some(VolumeResourceRequirements {
                requests: Some(quantities(&[("storage", &volume.size)])),
                ..VolumeResourceRequirements::default()
            }),
            ..PersistentVolumeClaimSpec::default()
        }),
        ..PersistentVolumeClaim::default()
    }
}

fn pod(options: &Options, node: &str, policy: Policy) -> PodSpec {
    let mut args = vec![
        "volume-server".to_string(),
        format!("--node-name={node}"),
        format!("--volume-path={VOLUME_MOUNT}"),
    ];
    args.extend(retention_flags(policy));
    args.extend(options.volume_flags.iter().cloned());
    let mount = |name: &str, path: &str, read_only: bool| VolumeMount {
        name: name.into(),
        mount_path: path.into(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    };
    PodSpec {
        host_network: Some(true),
        tolerations: Some(taints_of_a_node_in_service()),
        priority_class_name: Some("system-cluster-critical".into()),
        service_account_name: Some(AGENT_ACCOUNT.into()),
        // What it reports goes into the NodeBackup of its node.
        automount_service_account_token: Some(true),
        security_context: Some(reads_files_of_the_node()),
        affinity: Some(node_affinity(node)),
        containers: vec![Container {
            name: VOLUME_CONTAINER.into(),
            image: Some(options.image.clone()),
            args: Some(args),
            termination_message_policy: Some("FallbackToLogsOnError".into()),
            resources: Some(ResourceRequirements {
                requests: Some(quantities(&[("cpu", "10m"), ("memory", "32Mi")])),
                limits: Some(quantities(&[("memory", "128Mi")])),
                ..ResourceRequirements::default()
            }),
            security_context: Some(restricted(&[])),
            volume_mounts: Some(vec![
                mount("backups", REPOSITORY, true),
                mount(VOLUME, VOLUME_MOUNT, false),
            ]),
            ..Container::default()
        }],
        volumes: Some(vec![host_path_volume(
            "backups",
            REPOSITORY,
            "DirectoryOrCreate",
        )]),
        ..PodSpec::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_nodes_become_names_of_objects_that_stay_apart() {
        assert_eq!(volume_set_name("node-1"), "etcd-backup-volume-node-1");
        assert_eq!(
            volume_claim_name("node-1"),
            "volume-etcd-backup-volume-node-1-0"
        );
        let long = format!("{}.example.com", "a".repeat(60));
        let other = format!("{}.example.org", "a".repeat(60));
        assert_ne!(volume_set_name(&long), volume_set_name(&other));
        assert!(volume_set_name(&long).len() <= NAME_CHARS);
        assert!(!volume_set_name("a.b").contains('.'));
        assert_ne!(volume_set_name("a.b"), volume_set_name("a-b"));
    }
}
