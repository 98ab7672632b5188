//! The manifests to install the operator: namespace, service accounts, roles, admission policies, Deployment and
//! monitoring.

use crate::install::policies;
use crate::names::{
    AGENT_ACCOUNT, OPERATOR_ACCOUNT, OPERATOR_APP as APP, REQUEST_ACCOUNT, SIDECAR_ACCOUNT,
};
use crate::objects::pod::control_plane_affinity;
use cluster_api::resources::DEFAULT_BACKUP;
use serde_json::{Value, json};

/// Options of the manifests.
#[derive(Debug, Clone)]
pub struct InstallOptions {
    /// The image of the operator and of the pods that it creates.
    pub image: String,
    /// The namespace of the operator. It is one of the objects, except on OpenShift, where it exists.
    pub namespace: String,
    /// Whether the cluster is OpenShift: adds SecurityContextConstraints and uses an existing namespace.
    pub openshift: bool,
    /// Whether to add objects for the Prometheus operator.
    pub monitoring: bool,
    /// Directories of the nodes that pods mount in addition.
    pub node_directories: Vec<String>,
}

const METRICS_PORT: u16 = 8080;

/// All objects, in the order in which to create them.
#[must_use]
pub fn all(install: &InstallOptions) -> Vec<Value> {
    let home = &install.namespace;
    let mut all = Vec::new();
    if !install.openshift {
        all.push(namespace(home));
    }
    // On OpenShift, etcd's static pod belongs to OpenShift's own operator.
    let sidecar = (!install.openshift).then_some(SIDECAR_ACCOUNT);
    let accounts = [OPERATOR_ACCOUNT, AGENT_ACCOUNT, REQUEST_ACCOUNT];
    for account in accounts.into_iter().chain(sidecar) {
        all.push(json!({
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": account, "namespace": home},
        }));
    }
    for (account, rules) in [
        (OPERATOR_ACCOUNT, operator_rules(install.openshift)),
        (AGENT_ACCOUNT, agent_rules()),
        (REQUEST_ACCOUNT, request_rules()),
    ] {
        all.extend(granted(home, None, account, &rules));
    }
    if let Some(account) = sidecar {
        all.extend(granted(home, None, account, &agent_rules()));
        let renew = named("", "serviceaccounts/token", &[account], &["create"]);
        all.extend(granted(home, Some(home), account, &json!([renew])));
    }
    all.extend(granted(
        home,
        Some(home),
        OPERATOR_ACCOUNT,
        &operator_rules_in_namespace(),
    ));
    // Events for cluster-scoped objects are in this namespace.
    for account in [OPERATOR_ACCOUNT, AGENT_ACCOUNT].into_iter().chain(sidecar) {
        let rules = json!([rule("events.k8s.io", &["events"], &["create", "patch"])]);
        all.extend(granted(home, Some("default"), account, &rules));
    }
    if install.openshift {
        all.extend(constraints(home));
    }
    all.extend(policies::all(
        home,
        &install.image,
        &install.node_directories,
    ));
    all.extend(deployment(install));
    if install.monitoring {
        all.extend(monitoring(home));
    }
    all
}

/// Pods that make backups mount directories of the node, which only the level `privileged` allows. The API server still
/// warns about each deviation from `restricted`.
fn namespace(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": name,
            "labels": {
                "pod-security.kubernetes.io/enforce": "privileged",
                "pod-security.kubernetes.io/warn": "restricted",
                "pod-security.kubernetes.io/audit": "restricted",
            },
        },
    })
}

/// The SecurityContextConstraints for the pods on OpenShift.
fn constraints(home: &str) -> Vec<Value> {
    let name = "etcd-lifeboat";
    let scc = json!({
        "apiVersion": "security.openshift.io/v1",
        "kind": "SecurityContextConstraints",
        "metadata": {"name": name},
        "allowHostDirVolumePlugin": true,
        "allowHostNetwork": true,
        "allowHostPorts": true,
        "allowHostIPC": false,
        "allowHostPID": false,
        "allowPrivilegedContainer": false,
        "allowPrivilegeEscalation": false,
        "allowedCapabilities": null,
        "requiredDropCapabilities": null,
        "readOnlyRootFilesystem": true,
        "runAsUser": {"type": "RunAsAny"},
        "fsGroup": {"type": "RunAsAny"},
        "supplementalGroups": {"type": "RunAsAny"},
        // With SELinux, only this type can read the files of the node.
        "seLinuxContext": {"type": "MustRunAs", "seLinuxOptions": {"type": "spc_t"}},
        "seccompProfiles": ["runtime/default"],
        "volumes": ["hostPath", "persistentVolumeClaim", "projected"],
        "users": [format!("system:serviceaccount:{home}:{AGENT_ACCOUNT}")],
    });
    // Pods of request-backup also use the host's network, and need no other privilege.
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": format!("{REQUEST_ACCOUNT}-hostnetwork"), "namespace": home},
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "ClusterRole",
            "name": "system:openshift:scc:hostnetwork-v2",
        },
        "subjects": [{"kind": "ServiceAccount", "name": REQUEST_ACCOUNT, "namespace": home}],
    });
    vec![scc, binding]
}

/// The Deployment of the operator. It has two replicas, so that the second takes over when a node fails.
fn deployment(install: &InstallOptions) -> Vec<Value> {
    let home = &install.namespace;
    let labels = json!({"app": APP});
    let port = json!({"name": "metrics", "containerPort": METRICS_PORT});
    let spread = json!([{
        "labelSelector": {"matchLabels": labels},
        "topologyKey": "kubernetes.io/hostname",
    }]);
    let preferred = json!([{"weight": 100, "podAffinityTerm": spread.pointer("/0")}]);
    let mut args = vec![
        "operator".to_string(),
        format!("--image={}", install.image),
        format!("--listen=0.0.0.0:{METRICS_PORT}"),
    ];
    let directories = install.node_directories.iter();
    args.extend(directories.map(|path| format!("--node-directory={path}")));
    let deployment = json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": APP, "namespace": home, "labels": labels},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "serviceAccountName": OPERATOR_ACCOUNT,
                    "priorityClassName": "system-cluster-critical",
                    "securityContext": {
                        "runAsNonRoot": true,
                        "runAsUser": 65534,
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    // On a cluster with one node, both replicas run on it.
                    "affinity": {
                        "nodeAffinity": control_plane_affinity().node_affinity,
                        "podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred},
                    },
                    "tolerations": [
                        {"key": "node-role.kubernetes.io/control-plane", "operator": "Exists"},
                        {"key": "node-role.kubernetes.io/master", "operator": "Exists"},
                        {"key": "node-role.kubernetes.io/etcd", "operator": "Exists"},
                    ],
                    "containers": [{
                        "name": "operator",
                        "image": install.image,
                        "args": args,
                        "env": [{"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
                        "ports": [port],
                        "livenessProbe": {"httpGet": {"path": "/healthz", "port": "metrics"}},
                        "readinessProbe": {"httpGet": {"path": "/readyz", "port": "metrics"}},
                        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}},
                        "terminationMessagePolicy": "FallbackToLogsOnError",
                        "securityContext": {
                            "readOnlyRootFilesystem": true,
                            "allowPrivilegeEscalation": false,
                            "capabilities": {"drop": ["ALL"]},
                        },
                    }],
                },
            },
        },
    });
    let budget = json!({
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": APP, "namespace": home},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": labels}},
    });
    // All other pods use the host's network, where a NetworkPolicy has no effect.
    let policy = json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": APP, "namespace": home},
        "spec": {
            "podSelector": {"matchLabels": labels},
            "policyTypes": ["Ingress"],
            "ingress": [{"ports": [{"protocol": "TCP", "port": METRICS_PORT}]}],
        },
    });
    vec![deployment, budget, policy]
}

/// The objects for the Prometheus operator: a ServiceMonitor and alerts.
fn monitoring(home: &str) -> Vec<Value> {
    let labels = json!({"app": APP});
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": APP, "namespace": home, "labels": labels},
        "spec": {
            "clusterIP": "None",
            "selector": labels,
            "ports": [{"name": "metrics", "port": METRICS_PORT, "targetPort": "metrics"}],
        },
    });
    let monitor = json!({
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "ServiceMonitor",
        "metadata": {"name": APP, "namespace": home},
        "spec": {
            "selector": {"matchLabels": labels},
            "endpoints": [{"port": "metrics", "interval": "30s"}],
        },
    });
    let rules = json!({
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": APP, "namespace": home},
        "spec": alerts(),
    });
    vec![service, monitor, rules]
}

/// The alerts on the operator's own metrics.
#[must_use]
pub fn alerts() -> Value {
    let alert = |name: &str, expr: &str, wait: &str, severity: &str, summary: &str, what: &str| {
        json!({
            "alert": name,
            "expr": expr,
            "for": wait,
            "labels": {"severity": severity},
            "annotations": {"summary": summary, "description": what},
        })
    };
    json!({"groups": [{"name": "etcd-lifeboat-operator", "rules": [
        alert(
            "EtcdLifeboatNodeStale",
            "etcd_lifeboat_operator_node_fresh == 0",
            "5m",
            "critical",
            "{{ $labels.node }} has no recent proven backup of etcd",
            "The condition Degraded of Backup/default gives the reason. To see it, run: kubectl describe backup default",
        ),
        alert(
            "EtcdLifeboatBackupDegraded",
            "etcd_lifeboat_operator_backup_fresh == 0 or etcd_lifeboat_operator_backup_reconciled == 0",
            "5m",
            "warning",
            "Backup {{ $labels.backup }} does not make backups as specified",
            "The conditions of the Backup give the reason. To see them, run: kubectl describe backup {{ $labels.backup }}",
        ),
        alert(
            "EtcdLifeboatNoNodesCovered",
            "sum(etcd_lifeboat_operator_node_applicable) == 0",
            "15m",
            "critical",
            "No control-plane node has an etcd member to back up",
            "Either no node has a role label control-plane, master or etcd, or no node with such a label has a voting etcd member.",
        ),
        alert(
            "EtcdLifeboatEvaluationStale",
            "absent(etcd_lifeboat_operator_last_evaluation_timestamp_seconds) or time() - max(etcd_lifeboat_operator_last_evaluation_timestamp_seconds) > 900",
            "5m",
            "warning",
            "The operator of etcd-lifeboat does not evaluate the backups of etcd",
            "The operator has not evaluated the backups of the nodes for 15 minutes. The log of the operator gives the reason.",
        ),
        alert(
            "EtcdLifeboatUnreadableObjects",
            "etcd_lifeboat_operator_unreadable_objects > 0",
            "5m",
            "warning",
            "The operator of etcd-lifeboat cannot read {{ $value }} objects of the cluster",
            "The operator ignores these objects and works with all others. The log of the operator names them and gives the reason.",
        ),
        alert(
            "EtcdLifeboatVolumeProblem",
            "etcd_lifeboat_operator_volume_copied == 0",
            "15m",
            "warning",
            "The backups of etcd on {{ $labels.node }} are not copied to its volume",
            "The backups on the disk of the node go on. The condition VolumesDegraded of Backup/default gives the reason. To see it, run: kubectl describe backup default",
        ),
        alert(
            "EtcdLifeboatApiNotSupported",
            "etcd_lifeboat_operator_unsupported_crds > 0",
            "5m",
            "warning",
            "{{ $value }} CRDs of another owner lack what etcd-lifeboat writes",
            "The backup servers on the nodes go on. Requests by EtcdBackup, and each Backup other than default, have no effect. The log of the operator names the CRDs and the fields.",
        ),
        alert(
            "EtcdLifeboatOptedOut",
            "etcd_lifeboat_operator_opted_out == 1",
            "15m",
            "info",
            "Backup/default was deleted: there are no automated backups of etcd",
            "To turn automated backups on again, create a Backup with the name default.",
        ),
        alert(
            "EtcdLifeboatOperatorDown",
            "absent(etcd_lifeboat_operator_leader == 1)",
            "15m",
            "warning",
            "The operator of etcd-lifeboat is down",
            "The nodes continue to make backups, but the backups are not evaluated, and changes to a Backup have no effect. Look at Deployment etcd-lifeboat-operator.",
        ),
    ]}]})
}

fn rule(group: &str, resources: &[&str], verbs: &[&str]) -> Value {
    json!({"apiGroups": [group], "resources": resources, "verbs": verbs})
}

fn named(group: &str, resource: &str, names: &[&str], verbs: &[&str]) -> Value {
    json!({
        "apiGroups": [group],
        "resources": [resource],
        "resourceNames": names,
        "verbs": verbs,
    })
}

/// Permissions of the operator in the whole cluster.
fn operator_rules(openshift: bool) -> Value {
    let watch = ["list", "watch"];
    let (backups, requests, own) = (
        "backups.config.openshift.io",
        "etcdbackups.operator.openshift.io",
        "nodebackups.lifeboat.etcd.io",
    );
    // The CRDs that the operator updates. On OpenShift, the first two belong to OpenShift.
    let updated: &[&str] = if openshift {
        &[own]
    } else {
        &[backups, requests, own]
    };
    json!([
        rule(
            "apiextensions.k8s.io",
            &["customresourcedefinitions"],
            &["create"]
        ),
        named(
            "apiextensions.k8s.io",
            "customresourcedefinitions",
            &[backups, requests],
            &["get", "list", "watch"]
        ),
        named(
            "apiextensions.k8s.io",
            "customresourcedefinitions",
            updated,
            &["patch"]
        ),
        rule(
            "config.openshift.io",
            &["backups"],
            &["get", "list", "watch", "create"]
        ),
        rule("config.openshift.io", &["backups/status"], &["patch"]),
        // Needed to name a Backup as the owner of the objects that are created for it.
        rule("config.openshift.io", &["backups/finalizers"], &["update"]),
        rule(
            "operator.openshift.io",
            &["etcdbackups"],
            &["list", "watch", "delete"]
        ),
        rule("operator.openshift.io", &["etcdbackups/status"], &["patch"]),
        rule(
            "operator.openshift.io",
            &["etcdbackups/finalizers"],
            &["update"]
        ),
        rule(
            "lifeboat.etcd.io",
            &["nodebackups"],
            &["list", "watch", "delete"]
        ),
        rule("", &["nodes"], &["get", watch[0], watch[1]]),
        rule("storage.k8s.io", &["storageclasses"], &["get", "list"]),
        rule("storage.k8s.io", &["csidrivers"], &["get"]),
        rule("", &["namespaces"], &["create"]),
        named(
            "config.openshift.io",
            "clusterversions",
            &["version"],
            &["get"]
        ),
        named(
            "config.openshift.io",
            "infrastructures",
            &["cluster"],
            &["get"]
        ),
        rule(
            "config.openshift.io",
            &["featuregates"],
            &["get", "list", "watch"]
        ),
    ])
}

/// Permissions of the operator in its namespace.
fn operator_rules_in_namespace() -> Value {
    json!([
        rule("coordination.k8s.io", &["leases"], &["create"]),
        named(
            "coordination.k8s.io",
            "leases",
            &["etcd-lifeboat-operator"],
            &["get", "update"]
        ),
        rule("", &["configmaps"], &["create"]),
        named(
            "",
            "configmaps",
            &["etcd-lifeboat-default-backup"],
            &["get", "patch"]
        ),
        // OpenShift's admission requires the permission to delete an object from an account that sets its owner.
        rule(
            "apps",
            &["daemonsets", "statefulsets"],
            &["list", "watch", "create", "patch", "delete"]
        ),
        rule(
            "batch",
            &["cronjobs"],
            &["list", "watch", "create", "patch", "delete"]
        ),
        rule(
            "batch",
            &["jobs"],
            &["get", "list", "watch", "create", "delete"]
        ),
        rule("", &["pods"], &["list", "watch"]),
        rule("", &["persistentvolumeclaims"], &["get", "list", "watch"]),
    ])
}

/// Permissions of a backup server: read `Backup/default`, and write `NodeBackup`s. An admission policy restricts this to its own node.
fn agent_rules() -> Value {
    json!([
        named(
            "config.openshift.io",
            "backups",
            &[DEFAULT_BACKUP],
            &["list", "watch"]
        ),
        rule("lifeboat.etcd.io", &["nodebackups"], &["create", "patch"]),
        rule("lifeboat.etcd.io", &["nodebackups/status"], &["patch"]),
    ])
}

/// Permissions of `request-backup`.
fn request_rules() -> Value {
    json!([rule(
        "operator.openshift.io",
        &["etcdbackups"],
        &["create", "list", "watch", "delete"]
    )])
}

/// A role and its binding, in a namespace or in the cluster.
fn granted(home: &str, namespace: Option<&str>, account: &str, rules: &Value) -> [Value; 2] {
    let (role, binding) = match namespace {
        Some(_) => ("Role", "RoleBinding"),
        None => ("ClusterRole", "ClusterRoleBinding"),
    };
    let metadata = match namespace {
        Some(namespace) => json!({"name": account, "namespace": namespace}),
        None => json!({"name": account}),
    };
    let api_version = "rbac.authorization.k8s.io/v1";
    [
        json!({"apiVersion": api_version, "kind": role, "metadata": metadata, "rules": rules}),
        json!({
            "apiVersion": api_version,
            "kind": binding,
            "metadata": metadata,
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": role, "name": account},
            "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": home}],
        }),
    ]
}
