//! `kubectl lifeboat gather`: what support needs to see, without secrets.

use crate::cli::exit_code;
use crate::cli::flags::cluster::ClusterArgs;
use crate::cli::output;
use crate::cli::runtime::runtime;
use anyhow::Context;
use backup_store::durable_file;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DynamicObject, ListParams, LogParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, ResourceExt};
use operator::api_error_message;
use operator::cluster::node_layout;
use operator::names::{
    CRON_APP, ETCD_POD_LABELS, ETCD_POD_NAMESPACE, JOB_APP, OPERATOR_APP, SERVER_APP,
    SERVER_CONTAINER, VOLUME_APP, default_namespace,
};
use operator::status::overview;
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Of the end of each log.
const LOG_LINES: i64 = 5000;
const LOG_BYTES: i64 = 4 << 20;

/// Collect what is needed to find out what is wrong: custom resources, pods, events and logs
///
/// The command writes text files into a new directory. It reads no Secrets and no ConfigMaps of others, and no files of the nodes. What it
/// cannot read is listed in problems.txt.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  kubectl lifeboat gather
  kubectl lifeboat gather --to /tmp

Exit codes: 0 all was collected, 1 a part is missing, 2 wrong usage.")]
pub(crate) struct Args {
    /// Directory in which to create the directory with the files
    #[arg(long, value_name = "DIR", default_value = ".")]
    to: PathBuf,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Objects that are collected: group, version and name of the resource.
struct Collected {
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    /// Only those in the namespace of the operator.
    in_namespace: bool,
}

const fn cluster_wide(group: &'static str, version: &'static str, kind: &'static str) -> Collected {
    Collected {
        group,
        version,
        kind,
        in_namespace: false,
    }
}

const fn in_namespace(group: &'static str, version: &'static str, kind: &'static str) -> Collected {
    Collected {
        group,
        version,
        kind,
        in_namespace: true,
    }
}

const OBJECTS: [Collected; 17] = [
    cluster_wide("config.openshift.io", "v1alpha1", "Backup"),
    cluster_wide("operator.openshift.io", "v1alpha1", "EtcdBackup"),
    cluster_wide("lifeboat.etcd.io", "v1alpha1", "NodeBackup"),
    cluster_wide("storage.k8s.io", "v1", "StorageClass"),
    cluster_wide("", "v1", "Node"),
    in_namespace("apps", "v1", "Deployment"),
    in_namespace("apps", "v1", "DaemonSet"),
    in_namespace("apps", "v1", "StatefulSet"),
    in_namespace("batch", "v1", "CronJob"),
    in_namespace("batch", "v1", "Job"),
    in_namespace("", "v1", "Pod"),
    in_namespace("", "v1", "PersistentVolumeClaim"),
    in_namespace("", "v1", "ServiceAccount"),
    in_namespace("coordination.k8s.io", "v1", "Lease"),
    in_namespace("events.k8s.io", "v1", "Event"),
    in_namespace("policy", "v1", "PodDisruptionBudget"),
    in_namespace("networking.k8s.io", "v1", "NetworkPolicy"),
];

/// CRDs, of which only the beginning is of interest.
const CRDS: [&str; 3] = [
    "backups.config.openshift.io",
    "etcdbackups.operator.openshift.io",
    "nodebackups.lifeboat.etcd.io",
];

pub(crate) fn run(args: Args) -> anyhow::Result<u8> {
    output::require_directory(&args.to)?;
    let now = Timestamp::now();
    let place = args
        .to
        .join(format!("etcd-lifeboat-{}", now.strftime("%Y-%m-%d_%H%M%S")));
    let runtime = runtime()?;
    let client = runtime.block_on(args.cluster.client())?;
    durable_file::create_dir(&place)
        .with_context(|| format!("cannot create the directory {}", place.display()))?;
    let mut gathered = Gathered {
        place,
        problems: Vec::new(),
        files: 0,
    };
    runtime.block_on(gather(&client, &mut gathered, now))?;
    let Gathered {
        place,
        problems,
        files,
    } = gathered;
    output::print(&format!("{}: {files} files\n", place.display()));
    if problems.is_empty() {
        return Ok(exit_code::DONE);
    }
    let text: String = problems.iter().map(|line| format!("{line}\n")).collect();
    write(&place.join("problems.txt"), &text)?;
    for problem in &problems {
        output::error(problem);
    }
    Ok(exit_code::FAILED)
}

struct Gathered {
    place: PathBuf,
    problems: Vec<String>,
    files: usize,
}

impl Gathered {
    fn write(&mut self, name: &str, text: &str) -> anyhow::Result<()> {
        write(&self.place.join(name), text)?;
        self.files += 1;
        Ok(())
    }
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    durable_file::write(path, text.as_bytes())
        .with_context(|| format!("cannot write {}", path.display()))
}

async fn gather(client: &Client, gathered: &mut Gathered, now: Timestamp) -> anyhow::Result<()> {
    let mut about = format!("etcd-lifeboat {}, {now:.0}\n", env!("CARGO_PKG_VERSION"));
    match client.apiserver_version().await {
        Ok(version) => writeln!(about, "Kubernetes {}", version.git_version)?,
        Err(error) => gathered.problems.push(format!(
            "the version of Kubernetes: {}",
            api_error_message(&error)
        )),
    }
    gathered.write("version.txt", &about)?;
    match tokio::time::timeout(ANSWER_WITHIN, overview::read_overview(client, now)).await {
        Ok(Ok(overview)) => gathered.write("status.json", &output::json(&overview)?)?,
        Ok(Err(error)) => gathered
            .problems
            .push(format!("the status: {}", api_error_message(&error))),
        Err(_) => gathered
            .problems
            .push("the status: the API server does not answer".into()),
    }
    for objects in &OBJECTS {
        for namespace in namespaces(objects) {
            let (name, listed) = list(client, objects, namespace).await;
            match listed {
                Ok(list) if list.is_empty() => {}
                Ok(list) => gathered.write(&format!("{name}.yaml"), &yaml(&list)?)?,
                Err(problem) => gathered.problems.push(format!("{name}: {problem}")),
            }
        }
    }
    crds(client, gathered).await?;
    let own = format!("app in ({})", APPS.join(","));
    for openshift in [false, true] {
        logs(client, default_namespace(openshift), &own, None, gathered).await?;
    }
    let beside_etcd = Some(SERVER_CONTAINER);
    logs(
        client,
        ETCD_POD_NAMESPACE,
        ETCD_POD_LABELS,
        beside_etcd,
        gathered,
    )
    .await
}

/// Where objects are: in the cluster, or in one of the namespaces that the operator can have.
fn namespaces(objects: &Collected) -> Vec<Option<&'static str>> {
    if !objects.in_namespace {
        return vec![None];
    }
    let mut all = vec![
        Some(default_namespace(false)),
        Some(default_namespace(true)),
    ];
    if objects.kind == "Event" {
        // Those about cluster-scoped objects.
        all.push(Some("default"));
    }
    all
}

async fn list(
    client: &Client,
    objects: &Collected,
    namespace: Option<&str>,
) -> (String, Result<Vec<Value>, String>) {
    let kind = GroupVersionKind::gvk(objects.group, objects.version, objects.kind);
    let resource = ApiResource::from_gvk(&kind);
    let all: Api<DynamicObject> = match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    let name = match namespace {
        Some(namespace) => format!("{}-{namespace}", resource.plural),
        None => resource.plural.clone(),
    };
    let params = ListParams::default();
    let listing = all.list(&params);
    let listed = match tokio::time::timeout(ANSWER_WITHIN, listing).await {
        Err(_) => Err("the API server does not answer".into()),
        // Without its CRD there is none.
        Ok(Err(kube::Error::Api(status))) if status.code == 404 => Ok(Vec::new()),
        Ok(Err(error)) => Err(api_error_message(&error)),
        Ok(Ok(list)) => Ok(list
            .items
            .into_iter()
            .filter(|object| is_ours(objects.kind, object))
            .map(|object| shown(&resource, objects.kind, object))
            .collect()),
    };
    (name, listed)
}

/// On OpenShift, and in the namespace `default`, there are objects of others.
fn is_ours(kind: &str, object: &DynamicObject) -> bool {
    let text = |path: &str| object.data.pointer(path).and_then(Value::as_str);
    match kind {
        "Event" => {
            let about = text("/regarding/name").unwrap_or_default();
            let kind = text("/regarding/kind").unwrap_or_default();
            let own = [
                "Backup",
                "EtcdBackup",
                "NodeBackup",
                "CustomResourceDefinition",
            ];
            own.contains(&kind) || NAMES.iter().any(|name| about.contains(name))
        }
        "Backup" | "EtcdBackup" | "NodeBackup" | "StorageClass" | "Node" => true,
        _ => NAMES.iter().any(|name| object.name_any().contains(name)) || has_label(object),
    }
}

/// Parts of the names of what the operator creates.
const NAMES: [&str; 3] = ["etcd-lifeboat", "backup-server", "etcd-backup"];

/// Label `app` of our pods, and of what creates them.
const APPS: [&str; 5] = [SERVER_APP, OPERATOR_APP, JOB_APP, CRON_APP, VOLUME_APP];

fn has_label(object: &DynamicObject) -> bool {
    let app = object.labels().get("app");
    app.is_some_and(|app| APPS.contains(&app.as_str()))
}

/// An object without what nobody needs, and without what could be a secret.
fn shown(resource: &ApiResource, kind: &str, mut object: DynamicObject) -> Value {
    object.metadata.managed_fields = None;
    let annotations = object.annotations_mut();
    // A copy of the whole object, as somebody has applied it.
    annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    if kind == "Node" {
        let kept = [
            "node-role.kubernetes.io/",
            "kubernetes.io/hostname",
            node_layout::LABEL,
        ];
        annotations.clear();
        object
            .labels_mut()
            .retain(|key, _| kept.iter().any(|kept| key.starts_with(kept)));
        object.data = json!({
            "spec": {"taints": object.data.pointer("/spec/taints"), "unschedulable": object.data.pointer("/spec/unschedulable")},
            "status": {
                "conditions": object.data.pointer("/status/conditions"),
                "nodeInfo": object.data.pointer("/status/nodeInfo"),
            },
        });
    }
    if kind == "StorageClass" {
        // Its parameters can have passwords.
        without_parameters(&mut object);
    }
    without_values(&mut object.data);
    let mut value = json!(object);
    if let Some(fields) = value.as_object_mut() {
        fields.insert("apiVersion".into(), json!(resource.api_version));
        fields.insert("kind".into(), json!(resource.kind));
    }
    value
}

fn without_parameters(object: &mut DynamicObject) {
    let is_default = |key: &str| key.ends_with("is-default-class");
    object.annotations_mut().retain(|key, _| is_default(key));
    if let Some(fields) = object.data.as_object_mut() {
        let kept = [
            "provisioner",
            "reclaimPolicy",
            "volumeBindingMode",
            "allowVolumeExpansion",
        ];
        fields.retain(|key, _| kept.contains(&key.as_str()));
    }
}

/// Removes the values of environment variables: somebody may have added a password to a pod.
fn without_values(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (key, field) in fields.iter_mut() {
                if key == "env"
                    && let Some(variables) = field.as_array_mut()
                {
                    for variable in variables.iter_mut().filter_map(Value::as_object_mut) {
                        if let Some(value) = variable.get_mut("value") {
                            *value = json!("(left out)");
                        }
                    }
                }
                without_values(field);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(without_values),
        _ => {}
    }
}

fn yaml(objects: &[Value]) -> anyhow::Result<String> {
    let mut text = String::new();
    for object in objects {
        text.push_str("---\n");
        text.push_str(&serde_saphyr::to_string(object)?);
    }
    Ok(text)
}

async fn crds(client: &Client, gathered: &mut Gathered) -> anyhow::Result<()> {
    let kind = GroupVersionKind::gvk("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
    let resource = ApiResource::from_gvk(&kind);
    let all: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    let mut found = Vec::new();
    for name in CRDS {
        match all.get_opt(name).await {
            Ok(None) => {}
            Ok(Some(object)) => found.push(shown(&resource, "CustomResourceDefinition", object)),
            Err(error) => gathered
                .problems
                .push(format!("CRD {name}: {}", api_error_message(&error))),
        }
    }
    if found.is_empty() {
        return Ok(());
    }
    gathered.write("customresourcedefinitions.yaml", &yaml(&found)?)
}

/// The ends of the logs of the pods with these labels, and of what ran before in their containers. If `container` is `None`, each of the
/// pods has only one.
async fn logs(
    client: &Client,
    namespace: &str,
    labels: &str,
    container: Option<&str>,
    gathered: &mut Gathered,
) -> anyhow::Result<()> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let params = ListParams::default().labels(labels);
    let mut unlisted = |problem: String| {
        gathered.problems.push(format!(
            "the logs of pods in namespace {namespace}: {problem}"
        ));
        Ok(())
    };
    let listed = match tokio::time::timeout(ANSWER_WITHIN, pods.list(&params)).await {
        Ok(Ok(listed)) => listed,
        Ok(Err(error)) => return unlisted(api_error_message(&error)),
        Err(_) => return unlisted("the API server does not answer".into()),
    };
    for pod in listed {
        let name = pod.name_any();
        let status = pod.status.unwrap_or_default();
        let mut statuses = status
            .container_statuses
            .iter()
            .flatten()
            .filter(|status| container.is_none_or(|container| status.name == container))
            .peekable();
        if container.is_some() && statuses.peek().is_none() {
            continue;
        }
        let restarted = statuses.any(|container| container.restart_count > 0);
        for previous in [false, true] {
            if previous && !restarted {
                continue;
            }
            let params = LogParams {
                container: container.map(str::to_string),
                previous,
                tail_lines: Some(LOG_LINES),
                limit_bytes: Some(LOG_BYTES),
                timestamps: true,
                ..LogParams::default()
            };
            let suffix = if previous { ".previous" } else { "" };
            match tokio::time::timeout(ANSWER_WITHIN, pods.logs(&name, &params)).await {
                Ok(Ok(log)) => gathered.write(&format!("log-{name}{suffix}.txt"), &log)?,
                Ok(Err(error)) => gathered.problems.push(format!(
                    "the log of pod {name}: {}",
                    api_error_message(&error)
                )),
                Err(_) => gathered
                    .problems
                    .push(format!("the log of pod {name}: the node does not answer")),
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_variables_are_left_out_wherever_they_are() {
        let mut pod = json!({"spec": {"containers": [{"env": [
            {"name": "PASSWORD", "value": "secret"},
            {"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        ]}], "template": {"spec": {"initContainers": [{"env": [{"name": "A", "value": "secret"}]}]}}}});
        without_values(&mut pod);
        let text = pod.to_string();
        assert!(!text.contains("secret"), "{text}");
        assert!(
            text.contains("PASSWORD") && text.contains("spec.nodeName"),
            "{text}"
        );
    }
}
