//! The DaemonSet of backup servers.

use super::pod::{BackupTarget, backup_pod, layout_affinity};
use super::retention_flags::retention_flags;
use crate::cluster::cluster_info::ClusterInfo;
use crate::cluster::node_layout::{LABEL, NodeLayout};
use crate::names::{DAEMON_SET, SERVER_APP, SERVER_CONTAINER};
use crate::options::Options;
use cluster_api::validation::ValidBackup;
use k8s_openapi::api::apps::v1::{
    DaemonSet, DaemonSetSpec, DaemonSetUpdateStrategy, RollingUpdateDaemonSet,
};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::collections::BTreeMap;

/// Name of the DaemonSet for nodes with this layout label, or for all other nodes.
pub(crate) fn daemon_set_name(layout: Option<NodeLayout>) -> String {
    match layout {
        None => DAEMON_SET.into(),
        Some(layout) => format!("{DAEMON_SET}-{layout}"),
    }
}

/// The DaemonSet to apply, for nodes with a layout label or for all other nodes, which have the layout of the cluster.
pub(crate) fn daemon_set(
    cluster: &ClusterInfo,
    of_cluster: NodeLayout,
    by_label: Option<NodeLayout>,
    options: &Options,
    valid: &ValidBackup,
    owner: Option<&OwnerReference>,
) -> DaemonSet {
    let mut args = vec![
        "backup-server".to_string(),
        format!("--schedule={}", valid.schedule),
        format!("--timezone={}", valid.time_zone),
    ];
    args.extend(retention_flags(valid.policy));
    args.extend(options.server_flags.iter().cloned());
    let mut pod = backup_pod(
        by_label.unwrap_or(of_cluster),
        options,
        SERVER_CONTAINER,
        args,
        BackupTarget::Node,
    );
    // The backup server writes its NodeBackup with this token.
    pod.automount_service_account_token = Some(true);
    pod.affinity = Some(layout_affinity(by_label));
    // The selector of a DaemonSet cannot be changed. So the DaemonSet without a layout label keeps its selector without a layout.
    let mut labels = BTreeMap::from([("app".to_string(), SERVER_APP.to_string())]);
    if let Some(layout) = by_label {
        labels.insert(LABEL.into(), layout.name().into());
    }
    DaemonSet {
        metadata: ObjectMeta {
            name: Some(daemon_set_name(by_label)),
            namespace: Some(cluster.namespace.clone()),
            labels: Some(labels.clone()),
            owner_references: Some(owner.into_iter().cloned().collect()),
            ..ObjectMeta::default()
        },
        spec: Some(DaemonSetSpec {
            selector: LabelSelector {
                match_labels: Some(labels.clone()),
                ..LabelSelector::default()
            },
            update_strategy: Some(DaemonSetUpdateStrategy {
                type_: Some("RollingUpdate".into()),
                rolling_update: Some(RollingUpdateDaemonSet {
                    max_unavailable: Some(IntOrString::Int(1)),
                    ..RollingUpdateDaemonSet::default()
                }),
            }),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: Some(labels),
                    ..ObjectMeta::default()
                }),
                spec: Some(pod),
            },
            ..DaemonSetSpec::default()
        }),
        ..DaemonSet::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::cluster_info::Platform;
    use crate::names::REPOSITORY;
    use backup_plan::retention::Policy;
    use serde_json::{Value, json};

    fn valid(policy: Policy) -> ValidBackup {
        ValidBackup {
            schedule: "0 */6 * * *".into(),
            time_zone: "Europe/Berlin".into(),
            policy,
            pvc_name: None,
        }
    }

    fn options() -> Options {
        Options {
            image: "image:1".into(),
            automated_backup: true,
            identity: "a".into(),
            controllers: crate::options::Controllers::all(),
            layout: None,
            node_directories: vec!["/etc/audit".into()],
            storage: cluster_api::placement::Storage::Auto,
            volume_flags: Vec::new(),
            server_flags: Vec::new(),
            backup_flags: Vec::new(),
        }
    }

    fn built(layout: NodeLayout, policy: Policy) -> Value {
        let info = ClusterInfo {
            platform: Platform::Kubernetes,
            namespace: "ns".into(),
            crd_owner: crate::cluster::cluster_info::CrdOwner::Lifeboat,
            external: false,
            api_problems: crate::cluster::api_schema::ApiProblems::default(),
        };
        let set = daemon_set(&info, layout, None, &options(), &valid(policy), None);
        serde_json::to_value(set).unwrap()
    }

    #[test]
    fn servers_get_what_the_backup_says() {
        let args = |policy| {
            built(NodeLayout::StaticPod, policy)["spec"]["template"]["spec"]["containers"][0]["args"]
                .clone()
        };
        assert_eq!(
            args(Policy::Number(7)),
            json!([
                "backup-server",
                "--schedule=0 */6 * * *",
                "--timezone=Europe/Berlin",
                "--type=RetentionNumber",
                "--max-number-of-backups=7",
            ])
        );
        assert_eq!(
            args(Policy::SizeBytes(4 << 30))[4],
            "--max-size-of-backups-gb=4"
        );
    }

    #[test]
    fn pods_see_no_more_of_the_node_than_they_need_and_have_a_capability_only_where_files_are_others()
     {
        for (layout, paths) in [
            (NodeLayout::OpenShift, &["/etc/kubernetes"][..]),
            (
                NodeLayout::StaticPod,
                &["/etc/kubernetes", "/var/lib/kubelet"],
            ),
            (NodeLayout::Rancher, &["/etc/rancher", "/var/lib/rancher"]),
            (
                NodeLayout::MicroShift,
                &["/etc/microshift", "/var/lib/microshift"],
            ),
            (
                NodeLayout::Kubespray,
                &[
                    "/etc/kubernetes",
                    "/var/lib/kubelet",
                    "/etc/etcd.env",
                    "/etc/ssl/etcd",
                ],
            ),
        ] {
            let set = built(layout, Policy::Number(3));
            let pod = &set["spec"]["template"]["spec"];
            // Not the class of etcd's own pod, because etcd must survive longer.
            assert_eq!(pod["priorityClassName"], "system-cluster-critical");
            let container = &pod["containers"][0];
            assert_eq!(container["resources"]["limits"]["memory"], "128Mi");
            let security = &container["securityContext"];
            let added = match layout {
                NodeLayout::Kubespray => json!(["DAC_READ_SEARCH"]),
                _ => Value::Null,
            };
            assert_eq!(security["capabilities"]["drop"], json!(["ALL"]));
            assert_eq!(security["capabilities"]["add"], added);
            assert_eq!(security["readOnlyRootFilesystem"], true);
            assert_eq!(security["privileged"], Value::Null);
            let mounts = container["volumeMounts"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            for mount in &mounts {
                let path = mount["mountPath"].as_str().unwrap_or_default();
                let writable = mount["readOnly"] != true;
                assert_eq!(writable, path == REPOSITORY, "{path}");
                // A mount of a pod must not stay in use here when the kubelet removes it.
                let follows = mount["mountPropagation"] == "HostToContainer";
                assert_eq!(follows, path == "/var/lib/kubelet");
                let is_own = [REPOSITORY, "/etc/audit"].contains(&path);
                assert!(is_own || paths.contains(&path), "{path}");
            }
            assert_eq!(mounts.len(), paths.len() + 2);
        }
    }
}
