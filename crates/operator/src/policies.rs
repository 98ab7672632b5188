//! What our own service accounts and a cluster's tenants can't do, by admission policies: rights that RBAC can't give any narrower.

use crate::layout::NodeLayout;
use crate::names::{AGENT_ACCOUNT, OPERATOR_ACCOUNT, REPOSITORY, REQUEST_ACCOUNT};
use cluster_api::resources::BACKUP_ANNOTATION;
use serde_json::{Value, json};

const API_VERSION: &str = "admissionregistration.k8s.io/v1";

/// All of them.
pub(crate) fn all(home: &str, image: &str) -> Vec<Value> {
    let mut all = Vec::new();
    all.extend(own_node_only(home));
    all.extend(asked_by_a_backup(home));
    all.extend(own_pods_only(home, image));
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

/// A backup server's token names the node it was given to: it may write that one's `NodeBackup`, and no other.
fn own_node_only(home: &str) -> [Value; 2] {
    let node = "request.userInfo.extra['authentication.kubernetes.io/node-name']";
    let expression = format!(
        "has(request.userInfo.extra) && 'authentication.kubernetes.io/node-name' in request.userInfo.extra && {node}[0] == object.metadata.name"
    );
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
            "matchConditions": [{"name": "backup-servers", "expression": user(home, AGENT_ACCOUNT)}],
            "validations": [validation(
                &expression,
                "a backup server writes the NodeBackup of its own node only",
            )],
        }),
    )
}

/// Which `Backup` an `EtcdBackup` is for decides which backups are kept. Only what a `Backup` runs says so: anybody else who can
/// create an `EtcdBackup` would have older backups removed by it. Owners can be forged, accounts can't.
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
                &format!("the annotation {BACKUP_ANNOTATION} is set by what a Backup runs: leave it out"),
            )],
        }),
    )
}

/// Whoever has the operator's token could make pods with the whole node. So what it makes is what it makes: these images, commands
/// and directories of the node, and nothing privileged.
fn own_pods_only(home: &str, image: &str) -> [Value; 2] {
    let pod = "object.kind == 'CronJob' ? object.spec.jobTemplate.spec.template.spec : object.spec.template.spec";
    let mut paths: Vec<_> = NodeLayout::ALL
        .iter()
        .flat_map(|layout| layout.mounts())
        .map(|mount| mount.path)
        .collect();
    paths.push(REPOSITORY);
    paths.sort_unstable();
    paths.dedup();
    let paths = json!(paths);
    let repository = repository_of(image);
    let only = "variables.pod.containers[0]";
    let security = format!("{only}.securityContext");
    let checks = [
        validation(
            "variables.pod.containers.size() == 1 && !has(variables.pod.initContainers) && !has(variables.pod.ephemeralContainers)",
            "a pod of etcd-lifeboat has one container",
        ),
        // Any version: while the operator is upgraded both are there.
        validation(
            &format!(
                "{only}.image == '{repository}' || (({only}.image.startsWith('{repository}:') || {only}.image.startsWith('{repository}@')) && !{only}.image.substring(size('{repository}')).contains('/'))"
            ),
            &format!(
                "a pod of etcd-lifeboat has an image of {repository}: apply the manifests with the image that you want"
            ),
        ),
        validation(
            &format!(
                "!has({only}.command) && has({only}.args) && {only}.args[0] in ['backup-server', 'cluster-backup', 'request-backup'] && !has({only}.lifecycle) && !has({only}.livenessProbe) && !has({only}.readinessProbe) && !has({only}.startupProbe)"
            ),
            "a pod of etcd-lifeboat runs one of its own commands",
        ),
        validation(
            &format!(
                "{only}.args.all(arg, !['--host-root', '--config-dir', '--endpoints', '--cacert', '--cert', '--key', '--user', '--kubeconfig', '--context', '--data-dir'].exists(flag, arg.startsWith(flag)))"
            ),
            "a pod of etcd-lifeboat finds etcd by the files of its node, and the cluster by its account",
        ),
        validation(
            &format!(
                "!has({only}.envFrom) && (!has({only}.env) || {only}.env.all(variable, variable.name in ['NODE_NAME', 'MY_JOB_NAME', 'MY_JOB_UID', 'MY_POD_NAME'] && has(variable.valueFrom) && has(variable.valueFrom.fieldRef)))"
            ),
            "a pod of etcd-lifeboat has the variables that say who it is, and no others",
        ),
        validation(
            &format!(
                "{only}.args[0] != 'request-backup' || !has(variables.pod.volumes) || variables.pod.volumes.size() == 0"
            ),
            "a pod that asks for a backup sees nothing of its node",
        ),
        validation(
            &format!(
                "has(variables.pod.securityContext) && has(variables.pod.securityContext.seccompProfile) && variables.pod.securityContext.seccompProfile.type == 'RuntimeDefault' && !has({security}.seccompProfile) && !(has(variables.pod.shareProcessNamespace) && variables.pod.shareProcessNamespace)"
            ),
            "a pod of etcd-lifeboat has the runtime's seccomp profile",
        ),
        validation(
            "!(has(variables.pod.hostPID) && variables.pod.hostPID) && !(has(variables.pod.hostIPC) && variables.pod.hostIPC)",
            "a pod of etcd-lifeboat does not see the processes of its node",
        ),
        validation(
            &format!(
                "has({security}) && !(has({security}.privileged) && {security}.privileged) && has({security}.allowPrivilegeEscalation) && !{security}.allowPrivilegeEscalation && has({security}.readOnlyRootFilesystem) && {security}.readOnlyRootFilesystem && has({security}.capabilities) && {security}.capabilities.drop == ['ALL'] && (!has({security}.capabilities.add) || {security}.capabilities.add.all(name, name == 'DAC_READ_SEARCH'))"
            ),
            "a pod of etcd-lifeboat has no capability but DAC_READ_SEARCH",
        ),
        validation(
            &format!(
                "!has(variables.pod.volumes) || variables.pod.volumes.all(volume, has(volume.persistentVolumeClaim) || (has(volume.hostPath) && volume.hostPath.path in {paths}))"
            ),
            "a pod of etcd-lifeboat sees the directories of its node that have to do with etcd, and no others",
        ),
        validation(
            &format!(
                "!has({only}.volumeMounts) || {only}.volumeMounts.all(mount, (has(mount.readOnly) && mount.readOnly) || variables.pod.volumes.exists(volume, volume.name == mount.name && (has(volume.persistentVolumeClaim) || (has(volume.hostPath) && volume.hostPath.path == '{REPOSITORY}'))))"
            ),
            "a pod of etcd-lifeboat writes to the backups only",
        ),
        validation(
            &format!(
                "!has(variables.pod.serviceAccountName) || variables.pod.serviceAccountName in ['{AGENT_ACCOUNT}', '{REQUEST_ACCOUNT}']"
            ),
            "a pod of etcd-lifeboat has an account of its own",
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
                    "resources": ["daemonsets"],
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
            "validations": checks,
        }),
    )
}

/// An image without its version: what is behind the last colon, unless that is a registry's port, or behind an at sign.
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
