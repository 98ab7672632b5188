//! What all pods that the operator makes have in common: where they run, and what they may.

use crate::names::{AGENT_ACCOUNT, REPOSITORY};
use crate::shape::Platform;
use serde_json::{Value, json};

/// Any of these is on nodes that have a member of etcd.
pub(crate) const ROLES: [&str; 3] = [
    "node-role.kubernetes.io/control-plane",
    "node-role.kubernetes.io/master",
    "node-role.kubernetes.io/etcd",
];
/// Where a claim's volume is in a Job's pod.
pub(crate) const CLAIM_MOUNT: &str = "/backups";

/// Where backups of a pod go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target<'t> {
    /// The node's own disk.
    Node,
    /// A claim's volume.
    Claim(&'t str),
}

impl Target<'_> {
    /// Where that is for the program.
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

/// An object with more fields.
pub(crate) fn with(mut object: Value, more: Value) -> Value {
    if let (Value::Object(fields), Value::Object(more)) = (&mut object, more) {
        fields.extend(more);
    }
    object
}

/// On which nodes.
pub(crate) fn on_control_plane() -> Value {
    let terms: Vec<_> = ROLES
        .iter()
        .map(|role| json!({"matchExpressions": [{"key": role, "operator": "Exists"}]}))
        .collect();
    required(&json!(terms))
}

/// On this node.
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

/// A pod that takes backups of its node's member: one container, called so, with these arguments.
pub(crate) fn taking_backups(
    platform: Platform,
    image: &str,
    container: &str,
    args: &[String],
    target: Target<'_>,
) -> Value {
    let volume = |path: &str| format!("node{}", path.replace('/', "-"));
    let directories = platform.node_directories();
    let mut volumes: Vec<_> = directories
        .iter()
        .map(|path| json!({"name": volume(path), "hostPath": {"path": path, "type": "Directory"}}))
        .collect();
    volumes.push(with(target.volume(), json!({"name": "backups"})));
    let mut mounts: Vec<_> = directories
        .iter()
        .map(|path| json!({"name": volume(path), "mountPath": path, "readOnly": true}))
        .collect();
    mounts.push(json!({"name": "backups", "mountPath": target.path()}));
    json!({
        // A broken pod network must not stop backups, nor must anything that a node is tainted with.
        "hostNetwork": true,
        "tolerations": [{"operator": "Exists"}],
        "priorityClassName": "system-node-critical",
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
            "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}},
            "securityContext": {
                "readOnlyRootFilesystem": true,
                "allowPrivilegeEscalation": false,
                "capabilities": {"drop": ["ALL"], "add": ["DAC_READ_SEARCH"]},
            },
            "volumeMounts": mounts,
        }],
        "volumes": volumes,
    })
}
