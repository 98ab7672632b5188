//! The common parts of all pods that the operator creates: nodes, permissions and mounts.

use crate::layout::{LABEL, NodeLayout};
use crate::names::{AGENT_ACCOUNT, REPOSITORY};
use serde_json::{Value, json};

/// Role labels. A node with an etcd member has at least one of them.
pub(crate) const ROLES: [&str; 3] = [
    "node-role.kubernetes.io/control-plane",
    "node-role.kubernetes.io/master",
    "node-role.kubernetes.io/etcd",
];
/// Where a Job's pod mounts its PersistentVolumeClaim.
pub(crate) const CLAIM_MOUNT: &str = "/backups";

/// Where a pod stores its backups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target<'t> {
    /// The node's own disk.
    Node,
    /// A PersistentVolumeClaim.
    Claim(&'t str),
}

impl Target<'_> {
    /// The path in the pod.
    pub(crate) fn path(self) -> &'static str {
        match self {
            Target::Node => REPOSITORY,
            Target::Claim(_) => CLAIM_MOUNT,
        }
    }

    fn volume(self) -> Value {
        match self {
            Target::Node => json!({"hostPath": {"path": REPOSITORY, "type": "DirectoryOrCreate"}}),
            Target::Claim(name) => json!({"persistentVolumeClaim": {"claimName": name}}),
        }
    }
}

/// Adds fields to an object.
pub(crate) fn with(mut object: Value, more: Value) -> Value {
    if let (Value::Object(fields), Value::Object(more)) = (&mut object, more) {
        fields.extend(more);
    }
    object
}

/// Node affinity for all control-plane nodes.
pub(crate) fn on_control_plane() -> Value {
    with_role(&[])
}

/// Node affinity for control-plane nodes with this layout label, or without a layout label.
pub(crate) fn with_layout(layout: Option<NodeLayout>) -> Value {
    with_role(&[match layout {
        None => json!({"key": LABEL, "operator": "DoesNotExist"}),
        Some(layout) => json!({"key": LABEL, "operator": "In", "values": [layout.name()]}),
    }])
}

fn with_role(more: &[Value]) -> Value {
    let terms: Vec<_> = ROLES
        .iter()
        .map(|role| {
            let mut expressions = vec![json!({"key": role, "operator": "Exists"})];
            expressions.extend(more.iter().cloned());
            json!({"matchExpressions": expressions})
        })
        .collect();
    required(&json!(terms))
}

/// Node affinity for this node.
pub(crate) fn on_node(name: &str) -> Value {
    required(&json!([
        {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]}
    ]))
}

fn required(terms: &Value) -> Value {
    json!({"nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms},
    }})
}

/// A run needs 23 MiB for a database of 1 GiB, and 32 bytes more for each further 64 KiB. The limit is low so that the kernel does not
/// kill etcd if memory runs out.
const MEMORY_LIMIT: &str = "128Mi";

/// A pod that makes backups of its node's member, with one container.
pub(crate) fn taking_backups(
    layout: NodeLayout,
    image: &str,
    container: &str,
    args: &[String],
    target: Target<'_>,
) -> Value {
    let volume = |path: &str| format!("node{}", path.replace(['/', '.'], "-"));
    let seen = layout.mounts();
    let mut volumes: Vec<_> = seen
        .iter()
        .map(|mount| {
            json!({"name": volume(mount.path), "hostPath": {"path": mount.path, "type": mount.kind}})
        })
        .collect();
    volumes.push(with(target.volume(), json!({"name": "backups"})));
    let mut mounts: Vec<_> = seen
        .iter()
        .map(|mount| json!({"name": volume(mount.path), "mountPath": mount.path, "readOnly": true}))
        .collect();
    mounts.push(json!({"name": "backups", "mountPath": target.path()}));
    let capabilities = if layout.has_files_of_others() {
        json!({"drop": ["ALL"], "add": ["DAC_READ_SEARCH"]})
    } else {
        json!({"drop": ["ALL"]})
    };
    json!({
        // A broken pod network must not stop backups, nor must anything that a node is tainted with.
        "hostNetwork": true,
        "tolerations": [{"operator": "Exists"}],
        // Spared from eviction. The class of a node's own pods would make the kernel spare it as well as etcd, which must outlive it.
        "priorityClassName": "system-cluster-critical",
        "serviceAccountName": AGENT_ACCOUNT,
        "automountServiceAccountToken": false,
        // With SELinux the node's files belong to the node, and only this type reads them.
        "securityContext": {
            "runAsUser": 0,
            "seccompProfile": {"type": "RuntimeDefault"},
            "seLinuxOptions": {"type": "spc_t"},
        },
        "affinity": on_control_plane(),
        "containers": [{
            "name": container,
            "image": image,
            "args": args,
            "env": [{"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "resources": {
                "requests": {"cpu": "10m", "memory": "32Mi"},
                "limits": {"memory": MEMORY_LIMIT},
            },
            "securityContext": {
                "readOnlyRootFilesystem": true,
                "allowPrivilegeEscalation": false,
                "capabilities": capabilities,
            },
            "volumeMounts": mounts,
        }],
        "volumes": volumes,
    })
}
