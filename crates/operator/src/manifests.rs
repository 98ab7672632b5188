//! What is installed once, so that the operator can run: its namespace, who it and its pods are to the API server,
//! what each of them may, and its Deployment.

use crate::names::{AGENT_ACCOUNT, OPERATOR_ACCOUNT, REQUEST_ACCOUNT};
use serde_json::{Value, json};

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Install {
    /// The image of the operator and of the pods it makes.
    pub image: String,
    /// `etcd-lifeboat`, and on OpenShift `openshift-etcd`.
    pub namespace: String,
}

/// All objects, in the order in which they are to be made.
#[must_use]
pub fn all(install: &Install) -> Vec<Value> {
    let namespace = &install.namespace;
    let mut all = vec![json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": namespace},
    })];
    for account in [OPERATOR_ACCOUNT, AGENT_ACCOUNT, REQUEST_ACCOUNT] {
        all.push(json!({
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": account, "namespace": namespace},
        }));
    }
    for (account, rules) in [
        (OPERATOR_ACCOUNT, operator_rules()),
        (AGENT_ACCOUNT, agent_rules()),
        (REQUEST_ACCOUNT, request_rules()),
    ] {
        all.extend(granted(namespace, None, account, &rules));
    }
    all.extend(granted(
        namespace,
        Some(namespace),
        OPERATOR_ACCOUNT,
        &operator_rules_in_namespace(),
    ));
    // Events of what belongs to the whole cluster are in this namespace.
    for account in [OPERATOR_ACCOUNT, AGENT_ACCOUNT] {
        let rules = json!([rule("events.k8s.io", &["events"], &["create", "patch"])]);
        all.extend(granted(namespace, Some("default"), account, &rules));
    }
    all
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

/// What the operator may in the whole cluster.
fn operator_rules() -> Value {
    let watch = ["list", "watch"];
    json!([
        rule(
            "apiextensions.k8s.io",
            &["customresourcedefinitions"],
            &["create"]
        ),
        named(
            "apiextensions.k8s.io",
            "customresourcedefinitions",
            &["backups.config.openshift.io"],
            &["get", "list", "watch"]
        ),
        rule(
            "config.openshift.io",
            &["backups"],
            &["get", "list", "watch", "create"]
        ),
        rule("config.openshift.io", &["backups/status"], &["patch"]),
        // To be named as the owner of what is made for it.
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

/// What the operator may where its own objects are.
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
        // Who may not delete what is owned may not name its owner, where OpenShift's admission looks at that.
        rule(
            "apps",
            &["daemonsets"],
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

/// What a backup server may: tell of itself. That it is of its own node is what an admission policy sees to.
fn agent_rules() -> Value {
    json!([
        rule("lifeboat.etcd.io", &["nodebackups"], &["create", "patch"]),
        rule("lifeboat.etcd.io", &["nodebackups/status"], &["patch"]),
    ])
}

/// What `request-backup` may.
fn request_rules() -> Value {
    json!([rule(
        "operator.openshift.io",
        &["etcdbackups"],
        &["create", "get", "list", "watch", "delete"]
    )])
}

/// A role and its binding, in a namespace or in the whole cluster.
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
