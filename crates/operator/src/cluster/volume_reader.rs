//! A pod that reads the volume of a lost node.

use crate::api_error::api_error_message;
use crate::cluster::lenient::{self, Lenient};
use crate::cluster::pod_problems::pod_problem;
use crate::cluster::server_pods::ServerPod;
use crate::names::{
    DAEMON_SET, NODE_ANNOTATION, SERVER_APP, VOLUME, VOLUME_APP, VOLUME_CONTAINER, VOLUME_MOUNT,
};
use crate::objects::pod::{not_on_node, restricted, runtime_seccomp, taints_of_a_node_in_service};
use crate::objects::volume_set::volume_claim_name;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{
    Container, Node, PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod,
    PodSecurityContext, PodSpec, Volume, VolumeMount,
};
use kube::api::{Api, DeleteParams, ListParams, ObjectMeta, PostParams};
use kube::{Client, ResourceExt};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
/// A volume may have to be detached from the lost node first.
const RUNS_WITHIN: Duration = Duration::from_secs(180);
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// The longest export. Then the pod ends, also if whoever has started it has not deleted it.
const ENDS_AFTER_S: i64 = 3 * 3600;

/// The name of the PersistentVolumeClaim of a node, if it exists. The name alone is not enough: a node has a name with dots, and a person
/// may write it as in the name of the PersistentVolumeClaim.
///
/// # Errors
/// The error of the API server.
pub async fn volume_of(
    client: &Client,
    namespace: &str,
    node: &str,
) -> Result<Option<String>, kube::Error> {
    let name = volume_claim_name(node);
    let claims: Api<Lenient<PersistentVolumeClaim>> = Api::namespaced(client.clone(), namespace);
    let claim = lenient::get(&claims, &name).await?;
    let is_of_node = |claim: &PersistentVolumeClaim| {
        let of = claim.annotations().get(NODE_ANNOTATION);
        of.is_some_and(|of| of == node)
    };
    Ok(claim.filter(is_of_node).map(|_| name))
}

/// Why a node may still use its volume. `None` if it cannot.
///
/// # Errors
/// The error of the API server.
pub async fn not_fenced(client: &Client, node: &str) -> Result<Option<String>, kube::Error> {
    let nodes: Api<Lenient<Node>> = Api::all(client.clone());
    let Some(found) = lenient::get(&nodes, node).await? else {
        return Ok(None);
    };
    let status = found.status.unwrap_or_default();
    let mut conditions = status.conditions.iter().flatten();
    if conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True") {
        return Ok(Some(format!(
            "Node {node} is still in the cluster, and Ready"
        )));
    }
    let taints = found.spec.and_then(|spec| spec.taints).unwrap_or_default();
    if taints.iter().any(|taint| taint.key == OUT_OF_SERVICE) {
        return Ok(None);
    }
    Ok(Some(format!("Node {node} is still in the cluster")))
}

/// Creates the pod, on another node than the lost one.
///
/// # Errors
/// Why it cannot be created.
pub async fn create(
    client: &Client,
    namespace: &str,
    pvc: &str,
    lost: &str,
) -> Result<ServerPod, String> {
    let failed = |error: kube::Error| api_error_message(&error);
    let sets: Api<Lenient<DaemonSet>> = Api::namespaced(client.clone(), namespace);
    let of_servers = ListParams::default().labels(&format!("app={SERVER_APP}"));
    let (sets, _) = lenient::list(&sets, &of_servers).await.map_err(failed)?;
    let set = sets
        .iter()
        .find(|set| set.name_any().starts_with(DAEMON_SET));
    let image = set.and_then(|set| {
        let pod = set.spec.as_ref()?.template.spec.as_ref()?;
        pod.containers.first()?.image.clone()
    });
    let image = image.ok_or_else(|| {
        format!("DaemonSet {DAEMON_SET} does not exist in namespace {namespace}, so the image of the pod is unknown")
    })?;
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let created = pods
        .create(&PostParams::default(), &pod(&image, pvc, lost))
        .await;
    Ok(ServerPod {
        namespace: namespace.into(),
        name: created.map_err(failed)?.name_any(),
        container: VOLUME_CONTAINER,
    })
}

/// Waits until the pod runs.
///
/// # Errors
/// Why it does not run.
pub async fn wait_until_it_runs(client: &Client, pod: &ServerPod) -> Result<(), String> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace);
    let name = &pod.name;
    let deadline = Instant::now() + RUNS_WITHIN;
    loop {
        let found = pods.get_opt(name).await;
        let found = found.map_err(|error| api_error_message(&error))?;
        let found = found.ok_or_else(|| format!("pod {name} was deleted"))?;
        let phase = found
            .status
            .as_ref()
            .and_then(|status| status.phase.clone());
        if phase.as_deref() == Some("Running") {
            return Ok(());
        }
        if Instant::now() > deadline || phase.as_deref() == Some("Failed") {
            let problem = pod_problem(&found).unwrap_or_else(|| "it does not start".into());
            return Err(format!(
                "pod {name} cannot read the volume: {problem}. A local volume can be read only on its own node"
            ));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Deletes the pod. If that fails, it ends after some hours.
pub async fn delete(client: &Client, pod: &ServerPod) {
    let pods: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace);
    let _ = pods.delete(&pod.name, &DeleteParams::default()).await;
}

/// It only waits: commands run in it.
fn pod(image: &str, pvc: &str, lost: &str) -> Pod {
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{VOLUME_APP}-reader-")),
            labels: Some(BTreeMap::from([(
                "app".into(),
                format!("{VOLUME_APP}-reader"),
            )])),
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec {
            restart_policy: Some("Never".into()),
            active_deadline_seconds: Some(ENDS_AFTER_S),
            tolerations: Some(taints_of_a_node_in_service()),
            affinity: Some(not_on_node(lost)),
            automount_service_account_token: Some(false),
            security_context: Some(PodSecurityContext {
                run_as_user: Some(0),
                seccomp_profile: Some(runtime_seccomp()),
                ..PodSecurityContext::default()
            }),
            containers: vec![Container {
                name: VOLUME_CONTAINER.into(),
                image: Some(image.into()),
                args: Some(vec![
                    "backup-server".into(),
                    "--enabled=false".into(),
                    format!("--backup-path={VOLUME_MOUNT}"),
                ]),
                security_context: Some(restricted(&[])),
                volume_mounts: Some(vec![VolumeMount {
                    name: VOLUME.into(),
                    mount_path: VOLUME_MOUNT.into(),
                    read_only: Some(true),
                    ..VolumeMount::default()
                }]),
                ..Container::default()
            }],
            volumes: Some(vec![Volume {
                name: VOLUME.into(),
                persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                    claim_name: pvc.into(),
                    ..PersistentVolumeClaimVolumeSource::default()
                }),
                ..Volume::default()
            }]),
            ..PodSpec::default()
        }),
        ..Pod::default()
    }
}
