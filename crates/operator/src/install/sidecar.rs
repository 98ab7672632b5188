//! A backup server as a container of etcd's own static pod. It is the last container, has no probe, and is never pulled: nothing of it can
//! hold up etcd's start.

use crate::names::{REPOSITORY, SERVER_CONTAINER};
use crate::objects::pod::{field_variable, quantities, restricted, runtime_seccomp};
use cluster_api::resources::DEFAULT_BACKUP;
use k8s_openapi::api::core::v1::{
    Container, HostPathVolumeSource, ResourceRequirements, SELinuxOptions, Volume, VolumeMount,
};
use serde_json::{Value, json};

/// The container of etcd in its static pod.
const ETCD: &str = "etcd";
const MEMORY_LIMIT: &str = "128Mi";

/// Why a manifest cannot get the container.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotSupported(String);

struct Directory {
    volume: &'static str,
    path: &'static str,
    kind: &'static str,
    is_writable: bool,
    has_mounts: bool,
}

const DIRECTORIES: [Directory; 3] = [
    Directory {
        volume: "etcd-lifeboat-backups",
        path: REPOSITORY,
        kind: "DirectoryOrCreate",
        is_writable: true,
        has_mounts: false,
    },
    Directory {
        volume: "etcd-lifeboat-config",
        path: "/etc/kubernetes",
        kind: "Directory",
        is_writable: false,
        has_mounts: false,
    },
    Directory {
        volume: "etcd-lifeboat-kubelet",
        path: "/var/lib/kubelet",
        kind: "",
        is_writable: false,
        has_mounts: true,
    },
];

/// The container, and the volumes that it needs.
fn parts(image: &str) -> (Container, Vec<Volume>) {
    let volumes = DIRECTORIES.iter().map(|directory| Volume {
        name: directory.volume.into(),
        host_path: Some(HostPathVolumeSource {
            path: directory.path.into(),
            type_: Some(directory.kind.into()),
        }),
        ..Volume::default()
    });
    let mounts = DIRECTORIES.iter().map(|directory| VolumeMount {
        name: directory.volume.into(),
        mount_path: directory.path.into(),
        read_only: (!directory.is_writable).then_some(true),
        mount_propagation: directory.has_mounts.then(|| "HostToContainer".into()),
        ..VolumeMount::default()
    });
    let mut security = restricted(&[]);
    security.run_as_user = Some(0);
    security.seccomp_profile = Some(runtime_seccomp());
    security.se_linux_options = Some(SELinuxOptions {
        type_: Some("spc_t".into()),
        ..SELinuxOptions::default()
    });
    let container = Container {
        name: SERVER_CONTAINER.into(),
        image: Some(image.into()),
        // The kubelet starts the containers of a pod one after another, and a pull can take long.
        image_pull_policy: Some("Never".into()),
        args: Some(vec![
            "backup-server".into(),
            format!("--follow-backup={DEFAULT_BACKUP}"),
        ]),
        env: Some(vec![field_variable("NODE_NAME", "spec.nodeName")]),
        resources: Some(ResourceRequirements {
            requests: Some(quantities(&[("cpu", "10m"), ("memory", "32Mi")])),
            limits: Some(quantities(&[("memory", MEMORY_LIMIT)])),
            ..ResourceRequirements::default()
        }),
        security_context: Some(security),
        termination_message_policy: Some("FallbackToLogsOnError".into()),
        volume_mounts: Some(mounts.collect()),
        ..Container::default()
    };
    (container, volumes.collect())
}

/// A JSON patch for etcd's manifest, as `kubeadm --patches` takes it.
///
/// A strategic merge patch would put the container before etcd, and the kubelet starts containers in their order.
#[must_use]
pub fn kubeadm_patch(image: &str) -> Value {
    let (container, volumes) = parts(image);
    let mut patch = vec![json!({"op": "add", "path": "/spec/containers/-", "value": container})];
    patch.extend(
        volumes
            .iter()
            .map(|volume| json!({"op": "add", "path": "/spec/volumes/-", "value": volume})),
    );
    Value::Array(patch)
}

/// The manifest of etcd's static pod with the container. If it has one already, that one is replaced.
///
/// # Errors
/// The manifest is not one of etcd's static pod, or its owner would undo the change.
pub fn with_sidecar(mut manifest: Value, image: &str) -> Result<Value, NotSupported> {
    let refused = |why: &str| Err(NotSupported(why.into()));
    let text = |path: &str| manifest.pointer(path).and_then(Value::as_str);
    if text("/kind") != Some("Pod") {
        return refused(
            "this is not the manifest of a Pod: give the manifest of etcd, such as /etc/kubernetes/manifests/etcd.yaml",
        );
    }
    if text("/metadata/namespace") == Some("openshift-etcd") {
        return refused(
            "this is a manifest of OpenShift, whose own operator writes it again: use the DaemonSet, which the operator of etcd-lifeboat creates",
        );
    }
    let host_network = manifest.pointer("/spec/hostNetwork");
    if host_network != Some(&Value::Bool(true)) {
        return refused(
            "the pod does not use the network of the node (spec.hostNetwork), so the API server and etcd's loopback address are out of reach",
        );
    }
    let Some(containers) = manifest
        .pointer_mut("/spec/containers")
        .and_then(Value::as_array_mut)
    else {
        return refused("the pod has no containers");
    };
    let is_named =
        |container: &Value, name: &str| container.get("name").is_some_and(|found| found == name);
    if !containers.iter().any(|container| is_named(container, ETCD)) {
        return refused("the pod has no container named etcd");
    }
    let (container, volumes) = parts(image);
    containers.retain(|container| !is_named(container, SERVER_CONTAINER));
    containers.push(json!(container));
    let Some(spec) = manifest.pointer_mut("/spec").and_then(Value::as_object_mut) else {
        return refused("the pod has no spec");
    };
    let kept = spec.entry("volumes").or_insert_with(|| json!([]));
    if kept.is_null() {
        *kept = json!([]);
    }
    let Some(kept) = kept.as_array_mut() else {
        return refused("spec.volumes is not a list");
    };
    kept.retain(|volume| {
        let mut own = DIRECTORIES.iter();
        !own.any(|directory| is_named(volume, directory.volume))
    });
    kept.extend(volumes.iter().map(|volume| json!(volume)));
    Ok(manifest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn etcd() -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "etcd", "namespace": "kube-system"},
            "spec": {
                "hostNetwork": true,
                "containers": [{"name": "etcd", "image": "etcd:1"}],
                "volumes": [{"name": "etcd-data", "hostPath": {"path": "/var/lib/etcd"}}],
            },
        })
    }

    #[test]
    fn the_container_is_last_and_a_second_time_changes_nothing() {
        let once = with_sidecar(etcd(), "lifeboat:1").unwrap();
        let containers = once["spec"]["containers"].as_array().unwrap();
        assert_eq!(containers.len(), 2);
        assert_eq!(containers[0], etcd()["spec"]["containers"][0]);
        let own = &containers[1];
        assert_eq!(own["imagePullPolicy"], "Never");
        for probe in [
            "livenessProbe",
            "readinessProbe",
            "startupProbe",
            "lifecycle",
        ] {
            assert!(own.get(probe).is_none(), "{probe}");
        }
        assert_eq!(once["spec"]["volumes"].as_array().unwrap().len(), 4);
        assert_eq!(with_sidecar(once.clone(), "lifeboat:1").unwrap(), once);
        let newer = with_sidecar(once, "lifeboat:2").unwrap();
        assert_eq!(newer["spec"]["containers"][1]["image"], "lifeboat:2");
        assert_eq!(newer["spec"]["containers"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn what_is_not_the_static_pod_of_etcd_is_refused_with_the_reason() {
        let changed = |pointer: &str, value: Value| {
            let mut manifest = etcd();
            *manifest.pointer_mut(pointer).unwrap() = value;
            with_sidecar(manifest, "a").unwrap_err().to_string()
        };
        for (pointer, value, expected) in [
            ("/kind", json!("Deployment"), "not the manifest of a Pod"),
            (
                "/metadata/namespace",
                json!("openshift-etcd"),
                "use the DaemonSet",
            ),
            ("/spec/hostNetwork", json!(false), "spec.hostNetwork"),
            ("/spec/containers", json!(7), "no containers"),
            (
                "/spec/containers/0/name",
                json!("db"),
                "no container named etcd",
            ),
            ("/spec/volumes", json!("x"), "not a list"),
        ] {
            let problem = changed(pointer, value);
            assert!(problem.contains(expected), "{problem}");
        }
        assert!(with_sidecar(json!([]), "a").is_err());
    }
}
