//! Admission policies that restrict our service accounts and the cluster's tenants, where RBAC is not precise enough.

use crate::cluster::node_layout::NodeLayout;
use crate::names::{
    AGENT_ACCOUNT, OPERATOR_ACCOUNT, REPOSITORY, REQUEST_ACCOUNT, SIDECAR_ACCOUNT, VOLUME,
};
use cluster_api::resources::BACKUP_ANNOTATION;
use serde_json::{Value, json};

const API_VERSION: &str = "admissionregistration.k8s.io/v1";

/// All policies and their bindings.
pub(crate) fn all(home: &str, image: &str, node_directories: &[String]) -> Vec<Value> {
    let mut all = Vec::new();
    all.extend(own_node_only(home));
    all.extend(own_token_only(home));
    all.extend(asked_by_a_backup(home));
    all.extend(own_pods_only(home, image, node_directories));
    all
}

fn user(home: &str, account: &str) -> String {
    format!("request.userInfo.username == 'system:serviceaccount:{home}:{account}'")
}

fn validation(expression: &str, message: &str) -> Value {
    json!({"expression": expression, "message": message})
}

fn policy(name: &str, spec: Value) -> [Value; 2] {
    [
        json!({
            "apiVersion": API_VERSION,
            "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": name},
            "spec": spec,
        }),
        json!({
            "apiVersion": API_VERSION,
            "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": name},
            "spec": {"policyName": name, "validationActions": ["Deny"]},
        }),
    ]
}

/// A backup server can write only the `NodeBackup` of the node that its token names.
fn own_node_only(home: &str) -> [Value; 2] {
    let expression = of_own_node("object.metadata.name");
    policy(
        "etcd-lifeboat-own-node-only",
        json!({
            "failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": [{
                "apiGroups": ["lifeboat.etcd.io"],
                "apiVersions": ["*"],
                "operations": ["CREATE", "UPDATE"],
                "resources": ["nodebackups", "nodebackups/status"],
            }]},
            "matchConditions": [{
                "name": "backup-servers",
                "expression": format!("{} || {}", user(home, AGENT_ACCOUNT), user(home, SIDECAR_ACCOUNT)),
            }],
            "validations": [validation(
                &expression,
                "a backup server can write only the NodeBackup of its own node",
            )],
        }),
    )
}

/// A backup server in a static pod can renew its token only for the node that its token names. A token without a node would be valid on
/// every machine.
fn own_token_only(home: &str) -> [Value; 2] {
    let node = of_own_node("object.spec.boundObjectRef.name");
    policy(
        "etcd-lifeboat-own-token-only",
        json!({
            "failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": [{
                "apiGroups": [""],
                "apiVersions": ["*"],
                "operations": ["CREATE"],
                "resources": ["serviceaccounts/token"],
            }]},
            "matchConditions": [{"name": "sidecars", "expression": user(home, SIDECAR_ACCOUNT)}],
            "validations": [validation(
                &format!(
                    "has(object.spec.boundObjectRef) && object.spec.boundObjectRef.kind == 'Node' && {node}"
                ),
                "a backup server in a static pod can renew only the token of its own node",
            )],
        }),
    )
}

/// Whether the token of the request is bound to this node.
fn of_own_node(name: &str) -> String {
    let node = "request.userInfo.extra['authentication.kubernetes.io/node-name']";
    format!(
        "has(request.userInfo.extra) && 'authentication.kubernetes.io/node-name' in request.userInfo.extra && {node}[0] == {name}"
    )
}

/// The `Backup` that an `EtcdBackup` names decides which older backups are removed. So only the service account of the CronJobs can
/// set this annotation. Owner references can be forged, accounts cannot.
fn asked_by_a_backup(home: &str) -> [Value; 2] {
    let annotation = |object: &str| {
        format!(
            "has({object}.metadata.annotations) && '{BACKUP_ANNOTATION}' in {object}.metadata.annotations ? {object}.metadata.annotations['{BACKUP_ANNOTATION}'] : ''"
        )
    };
    let before = format!("oldObject == null ? '' : ({})", annotation("oldObject"));
    policy(
        "etcd-lifeboat-asked-by-a-backup",
        json!({
            "failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": [{
                "apiGroups": ["operator.openshift.io"],
                "apiVersions": ["*"],
                "operations": ["CREATE", "UPDATE"],
                "resources": ["etcdbackups"],
            }]},
            "matchConditions": [{
                "name": "everybody-else",
                "expression": format!("!({})", user(home, REQUEST_ACCOUNT)),
            }],
            "variables": [
                {"name": "before", "expression": before},
                {"name": "now", "expression": annotation("object")},
            ],
            "validations": [validation(
                "variables.now == variables.before",
                &format!("only the CronJob of a Backup can set the annotation {BACKUP_ANNOTATION}: remove the annotation"),
            )],
        }),
    )
}

/// With the operator's token, an attacker could create pods that control the node. So the operator can create only pods with these
/// images, commands and node directories, and no privileged pods.
fn own_pods_only(home: &str, image: &str, node_directories: &[String]) -> [Value; 2] {
    let pod = "object.kind == 'CronJob' ? object.spec.jobTemplate.spec.template.spec : object.spec.template.spec";
    let mut paths: Vec<_> = NodeLayout::ALL
        .iter()
        .flat_map(|layout| layout.mounts())
        .map(|mount| mount.path)
        .collect();
    paths.push(REPOSITORY);
    paths.sort_unstable();
    paths.dedup();
    let more = node_directories.iter().map(String::as_str);
    let paths = json!(more.chain(paths).collect::<Vec<_>>());
    let repository = repository_of(image);
    let only = "variables.pod.containers[0]";
    let security = format!("{only}.securityContext");
    let rules = [
        validation(
            "variables.pod.containers.size() == 1 && !has(variables.pod.initContainers) && !has(variables.pod.ephemeralContainers)",
            "a pod of etcd-lifeboat must have exactly one container",
        ),
        // Any version, because both versions run during an upgrade of the operator.
        validation(
            &format!(
                "{only}.image == '{repository}' || (({only}.image.startsWith('{repository}:') || {only}.image.startsWith('{repository}@')) && !{only}.image.substring(size('{repository}')).contains('/'))"
            ),
            &format!(
                "a pod of etcd-lifeboat must use an image of {repository}: to use another image, apply the manifests with that image"
            ),
        ),
        validation(
            &format!(
                "!has({only}.command) && has({only}.args) && {only}.args[0] in ['backup-server', 'cluster-backup', 'request-backup', 'volume-server'] && !has({only}.lifecycle) && !has({only}.livenessProbe) && !has({only}.readinessProbe) && !has({only}.startupProbe)"
            ),
            "a pod of etcd-lifeboat must run backup-server, cluster-backup, request-backup or volume-server, without lifecycle hooks and probes",
        ),
        validation(
            &format!(
                "{only}.args.all(arg, !['--host-root', '--config-dir', '--endpoints', '--cacert', '--cert', '--key', '--user', '--kubeconfig', '--context', '--data-dir'].exists(flag, arg.startsWith(flag)))"
            ),
            "a pod of etcd-lifeboat must not have flags that set the location of etcd or of the cluster",
        ),
        validation(
            &format!(
                "!has({only}.envFrom) && (!has({only}.env) || {only}.env.all(variable, variable.name in ['NODE_NAME', 'MY_JOB_NAME', 'MY_JOB_UID', 'MY_POD_NAME'] && has(variable.valueFrom) && has(variable.valueFrom.fieldRef)))"
            ),
            "a pod of etcd-lifeboat must have no environment variables except NODE_NAME, MY_JOB_NAME, MY_JOB_UID and MY_POD_NAME, each with a fieldRef",
        ),
        validation(
            &format!(
                "{only}.args[0] != 'request-backup' || !has(variables.pod.volumes) || variables.pod.volumes.size() == 0"
            ),
            "a pod of etcd-lifeboat that runs request-backup must not have volumes",
        ),
        validation(
            &format!(
                "has(variables.pod.securityContext) && has(variables.pod.securityContext.seccompProfile) && variables.pod.securityContext.seccompProfile.type == 'RuntimeDefault' && !has({security}.seccompProfile) && !(has(variables.pod.shareProcessNamespace) && variables.pod.shareProcessNamespace)"
            ),
            "a pod of etcd-lifeboat must have the seccomp profile RuntimeDefault and no shared process namespace",
        ),
        validation(
            "!(has(variables.pod.hostPID) && variables.pod.hostPID) && !(has(variables.pod.hostIPC) && variables.pod.hostIPC)",
            "a pod of etcd-lifeboat must not use hostPID or hostIPC",
        ),
        validation(
            &format!(
                "has({security}) && !(has({security}.privileged) && {security}.privileged) && has({security}.allowPrivilegeEscalation) && !{security}.allowPrivilegeEscalation && has({security}.readOnlyRootFilesystem) && {security}.readOnlyRootFilesystem && has({security}.capabilities) && {security}.capabilities.drop == ['ALL'] && (!has({security}.capabilities.add) || {security}.capabilities.add.all(name, name == 'DAC_READ_SEARCH'))"
            ),
            "a pod of etcd-lifeboat must be unprivileged, must have a read-only root filesystem, and can add only the capability DAC_READ_SEARCH",
        ),
        validation(
            &format!(
                "!has(variables.pod.volumes) || variables.pod.volumes.all(volume, has(volume.persistentVolumeClaim) || (has(volume.hostPath) && volume.hostPath.path in {paths}))"
            ),
            "a pod of etcd-lifeboat can mount only PersistentVolumeClaims and the directories of etcd on its node",
        ),
        validation(
            &format!(
                "!has({only}.volumeMounts) || {only}.volumeMounts.all(mount, (has(mount.readOnly) && mount.readOnly) || (object.kind == 'StatefulSet' && mount.name == '{VOLUME}' && (!has(variables.pod.volumes) || !variables.pod.volumes.exists(volume, volume.name == '{VOLUME}'))) || variables.pod.volumes.exists(volume, volume.name == mount.name && (has(volume.persistentVolumeClaim) || (has(volume.hostPath) && volume.hostPath.path == '{REPOSITORY}'))))"
            ),
            "a pod of etcd-lifeboat must mount all volumes read-only, except the directory of the backups",
        ),
        validation(
            &format!(
                "!has(variables.pod.serviceAccountName) || variables.pod.serviceAccountName in ['{AGENT_ACCOUNT}', '{REQUEST_ACCOUNT}']"
            ),
            &format!(
                "a pod of etcd-lifeboat must use the service account {AGENT_ACCOUNT} or {REQUEST_ACCOUNT}"
            ),
        ),
    ];
    policy(
        "etcd-lifeboat-own-pods-only",
        json!({
            "failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": [
                {
                    "apiGroups": ["apps"],
                    "apiVersions": ["*"],
                    "operations": ["CREATE", "UPDATE"],
                    "resources": ["daemonsets", "statefulsets"],
                },
                {
                    "apiGroups": ["batch"],
                    "apiVersions": ["*"],
                    "operations": ["CREATE", "UPDATE"],
                    "resources": ["cronjobs", "jobs"],
                },
            ]},
            "matchConditions": [{"name": "the-operator", "expression": user(home, OPERATOR_ACCOUNT)}],
            "variables": [{"name": "pod", "expression": pod}],
            "validations": rules,
        }),
    )
}

/// An image without its tag and digest.
fn repository_of(image: &str) -> &str {
    let image = image.split_once('@').map_or(image, |(name, _)| name);
    match image.rsplit_once(':') {
        Some((name, version)) if !version.contains('/') => name,
        _ => image,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_is_an_image_without_its_version() {
        for (image, repository) in [
            (
                "registry.example/etcd-lifeboat:0.1.0",
                "registry.example/etcd-lifeboat",
            ),
            ("registry.example:5000/a/b", "registry.example:5000/a/b"),
            ("registry.example:5000/a/b:1", "registry.example:5000/a/b"),
            ("a/b@sha256:00", "a/b"),
            ("a/b:1@sha256:00", "a/b"),
            ("b", "b"),
        ] {
            assert_eq!(repository_of(image), repository);
        }
    }
}
