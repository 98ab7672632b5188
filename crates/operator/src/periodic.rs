//! Creates the objects for a `Backup`: for `Backup/default` a DaemonSet of backup servers, one on each control-plane node, and for
//! any other a CronJob that creates `EtcdBackup`s.

use crate::conditions::{Saying, before};
use crate::layout::{LABEL, NodeLayout};
use crate::lenient::{self, Lenient};
use crate::names::{
    CRON_APP, CRON_JOB_CHARS, DAEMON_SET, JOB_CONTAINER, LABEL_CHARS, NAME_LABEL, REQUEST_ACCOUNT,
    SERVER_APP, SERVER_CONTAINER, shortened,
};
use crate::pods::{self, Target, with};
use crate::shape::Shape;
use crate::watch_again::{Complaint, WatchAgain};
use crate::{Context, FIELD_MANAGER, Options, gone_is_well, plain};
use backup_plan::cron::Schedule;
use backup_plan::retention::Policy;
use cluster_api::resources::{Backup, DEFAULT_BACKUP};
use cluster_api::validation::{ValidBackup, validate};
use futures::StreamExt;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::batch::v1::CronJob;
use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use kube::core::PartialObjectMeta;
use kube::runtime::controller::{self, Action, Controller};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Name of the controller in logs and metrics.
pub(crate) const NAME: &str = "periodic-backup";
const CONDITION: &str = "PeriodicBackupControllerDegraded";
const TRY_AGAIN: Duration = Duration::from_secs(10);
/// Minimum time between two reconciliations.
const PACE: Duration = Duration::from_millis(300);
/// History limits of a CronJob, the same as upstream's.
const SUCCESSFUL_KEPT: i32 = 5;
const FAILED_KEPT: i32 = 10;
/// Time limit of a request, so that one that cannot start does not block the next ones.
const REQUEST_LASTS_S: i64 = 3600;

/// Acts on each change.
pub(crate) async fn run(context: Arc<Context>) {
    let client = &context.client;
    let namespace = &context.shape.namespace;
    let sets: Api<Lenient<DaemonSet>> = Api::namespaced(client.clone(), namespace);
    let cron_jobs: Api<Lenient<CronJob>> = Api::namespaced(client.clone(), namespace);
    let claims: Api<Lenient<PersistentVolumeClaim>> = Api::namespaced(client.clone(), namespace);
    let nodes: Api<Lenient<PartialObjectMeta<Node>>> = Api::all(client.clone());
    let app = |app: &str| watcher::Config::default().labels(&format!("app={app}"));
    let controller = Controller::new(
        Api::<Lenient<Backup>>::all(client.clone()),
        watcher::Config::default(),
    );
    let store = controller.store();
    let complaint = Complaint::default();
    controller
        // All its watches have this one together.
        .trigger_backoff(WatchAgain::default())
        .owns(sets, app(SERVER_APP))
        .owns(cron_jobs, app(CRON_APP))
        // Nodes that get or lose a layout of their own.
        .watches(nodes, watcher::Config::default().labels(LABEL), |_| {
            [ObjectRef::<Lenient<Backup>>::new(DEFAULT_BACKUP)]
        })
        .watches(claims, watcher::Config::default(), move |claim| {
            let backups = store.state();
            let name = claim.name_any();
            backups
                .into_iter()
                .filter(|backup| {
                    let backup = backup.object.as_ref();
                    backup.is_ok_and(|backup| backup.spec.etcd.pvc_name == name)
                })
                .map(|backup| ObjectRef::from_obj(&*backup))
                .collect::<Vec<_>>()
        })
        .run(reconcile, retry, context)
        .for_each(|result| {
            match result {
                Ok(_) => complaint.is_over(),
                Err(controller::Error::QueueError(error)) => complaint.hear(&error),
                // A reconciliation that failed has told of itself.
                Err(_) => {}
            }
            std::future::ready(())
        })
        .await;
}

/// If upstream handles each `Backup`, only applies the backup servers with default settings.
pub(crate) async fn run_defaults(context: Arc<Context>) {
    let sets: Api<Lenient<DaemonSet>> =
        Api::namespaced(context.client.clone(), &context.shape.namespace);
    let named = watcher::Config::default().fields(&format!("metadata.name={DAEMON_SET}"));
    let mut events = watcher(sets, named).backoff(WatchAgain::default()).boxed();
    while let Some(event) = events.next().await {
        let news = matches!(
            event,
            Ok(watcher::Event::InitDone | watcher::Event::Apply(_) | watcher::Event::Delete(_))
        );
        if !news {
            continue;
        }
        // What is applied again as it is changes nothing, and wakes nobody.
        let valid = ValidBackup::of_servers();
        while let Err(error) = servers(&context, &valid, None).await {
            tracing::warn!(
                "cannot apply the DaemonSets of the backup servers: {}",
                plain(&error)
            );
            tokio::time::sleep(TRY_AGAIN).await;
        }
    }
}

fn retry(backup: Arc<Lenient<Backup>>, error: &kube::Error, context: Arc<Context>) -> Action {
    tracing::warn!("Backup/{}: {}", backup.name_any(), plain(error));
    context.telling.error(NAME);
    Action::requeue(TRY_AGAIN)
}

async fn reconcile(
    backup: Arc<Lenient<Backup>>,
    context: Arc<Context>,
) -> Result<Action, kube::Error> {
    let name = backup.name_any();
    // The other watch tells of one that can't be read.
    let Ok(backup) = &backup.object else {
        return Ok(Action::await_change());
    };
    if backup.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let told = match validate(&name, &backup.spec) {
        Ok(valid) => make(&context, backup, &valid).await?,
        Err(error) => Told::degraded("Invalid", error.to_string()),
    };
    tell(&context, backup, &told).await?;
    let reconciled = !told.saying.holds;
    context
        .telling
        .change(|telling| telling.backups.entry(name).or_default().reconciled = reconciled);
    // What happens meanwhile is one thing to look at; other Backups do not wait.
    tokio::time::sleep(PACE).await;
    // What is wrong waits for its next change; what is right tells its next due time when that has come.
    Ok(match told.again {
        Some(delay) => Action::requeue(delay),
        None => Action::await_change(),
    })
}

/// Creates the objects for a `Backup`, and returns the result.
async fn make(
    context: &Context,
    backup: &Backup,
    valid: &ValidBackup,
) -> Result<Told, kube::Error> {
    let owner = json!(backup.controller_owner_ref(&()));
    let made = if backup.name_any() == DEFAULT_BACKUP {
        servers(context, valid, Some(&owner))
            .await
            .map(|()| format!("DaemonSet {DAEMON_SET} matches this Backup"))
    } else {
        if let Some(claim) = &valid.pvc_name
            && !claim_exists(context, claim).await?
        {
            return Ok(Told::degraded(
                "PVCNotFound",
                claim_missing(context, "spec.etcd.pvcName", claim),
            ));
        }
        let cron_job = cron_job(
            &context.shape,
            &context.options,
            &backup.name_any(),
            valid,
            &owner,
        );
        apply::<CronJob>(context, &cron_job).await.map(|()| {
            format!(
                "CronJob {} matches this Backup",
                cron_job_name(&backup.name_any())
            )
        })
    };
    match made {
        Ok(message) => Ok(Told::well(valid, message)),
        // It will say the same next time.
        Err(kube::Error::Api(status)) if matches!(status.code, 400 | 422) => {
            Ok(Told::degraded("Refused", status.message))
        }
        Err(error) => Err(error),
    }
}

/// Applies the DaemonSets of backup servers: one for the cluster's layout, and one for each layout in a node label. Deletes
/// DaemonSets of layouts that no node has any more.
async fn servers(
    context: &Context,
    valid: &ValidBackup,
    owner: Option<&Value>,
) -> Result<(), kube::Error> {
    let nodes: Api<Lenient<PartialObjectMeta<Node>>> = Api::all(context.client.clone());
    let (nodes, _) = lenient::list(&nodes, &ListParams::default().labels(LABEL)).await?;
    let labelled: BTreeSet<_> = nodes.iter().filter_map(NodeLayout::of_node).collect();
    let sets: Api<Lenient<DaemonSet>> =
        Api::namespaced(context.client.clone(), &context.shape.namespace);
    let set = |layout| {
        daemon_set(
            &context.shape,
            context.layout(),
            layout,
            &context.options,
            valid,
            owner,
        )
    };
    apply::<DaemonSet>(context, &set(None)).await?;
    let ours = ListParams::default().labels(&format!("app={SERVER_APP}"));
    let there = sets.list(&ours).await?;
    let there: Vec<_> = there.iter().map(ResourceExt::name_any).collect();
    for layout in NodeLayout::ALL {
        let name = daemon_set_name(Some(layout));
        if labelled.contains(&layout) {
            apply::<DaemonSet>(context, &set(Some(layout))).await?;
        } else if there.contains(&name) {
            let params = DeleteParams::background();
            gone_is_well(context.write(sets.delete(&name, &params)).await)?;
        }
    }
    Ok(())
}

fn daemon_set_name(layout: Option<NodeLayout>) -> String {
    match layout {
        None => DAEMON_SET.into(),
        Some(layout) => format!("{DAEMON_SET}-{layout}"),
    }
}

/// Asks the API server whether a PersistentVolumeClaim exists.
pub(crate) async fn claim_exists(context: &Context, name: &str) -> Result<bool, kube::Error> {
    let namespace = &context.shape.namespace;
    let claims: Api<Lenient<PersistentVolumeClaim>> =
        Api::namespaced(context.client.clone(), namespace);
    Ok(claims.get_opt(name).await?.is_some())
}

/// The message for a missing PersistentVolumeClaim.
pub(crate) fn claim_missing(context: &Context, field: &str, name: &str) -> String {
    format!(
        "{field}: PersistentVolumeClaim {name:?} does not exist in namespace {}; create it there, or remove pvcName to store backups on the disks of the nodes",
        context.shape.namespace
    )
}

async fn apply<K>(context: &Context, object: &Value) -> Result<(), kube::Error>
where
    K: Resource<Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned,
    K::DynamicType: Default,
{
    let name = object.pointer("/metadata/name").and_then(Value::as_str);
    let name = name.unwrap_or_default();
    let api: Api<K> = Api::namespaced(context.client.clone(), &context.shape.namespace);
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let patch = Patch::Apply(object);
    context.write(api.patch(name, &params, &patch)).await?;
    Ok(())
}

/// The flags for a retention policy.
pub(crate) fn retention_flags(policy: Policy) -> Vec<String> {
    match policy {
        Policy::Number(number) => vec![
            "--type=RetentionNumber".to_string(),
            format!("--max-number-of-backups={number}"),
        ],
        Policy::SizeBytes(bytes) => vec![
            "--type=RetentionSize".to_string(),
            format!("--max-size-of-backups-gb={}", bytes >> 30),
        ],
        Policy::None => vec!["--type=None".to_string()],
    }
}

/// The DaemonSet to apply, for nodes with a layout label or for all other nodes.
#[must_use]
pub fn daemon_set(
    shape: &Shape,
    of_cluster: NodeLayout,
    by_label: Option<NodeLayout>,
    options: &Options,
    valid: &ValidBackup,
    owner: Option<&Value>,
) -> Value {
    let mut args = vec![
        "backup-server".to_string(),
        format!("--schedule={}", valid.schedule),
        format!("--timezone={}", valid.time_zone),
    ];
    args.extend(retention_flags(valid.policy));
    args.extend(options.server_flags.iter().cloned());
    let pod = pods::taking_backups(
        by_label.unwrap_or(of_cluster),
        &options.image,
        SERVER_CONTAINER,
        &args,
        Target::Node,
    );
    // It tells of itself by its NodeBackup.
    let pod = with(
        pod,
        json!({
            "automountServiceAccountToken": true,
            "affinity": pods::with_layout(by_label),
        }),
    );
    // The selector of a DaemonSet can't be changed: that of the first has no layout.
    let mut labels = json!({"app": SERVER_APP});
    let mut selector = labels.clone();
    if let Some(layout) = by_label {
        labels = with(labels, json!({LABEL: layout.name()}));
        selector = labels.clone();
    }
    json!({
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {
            "name": daemon_set_name(by_label),
            "namespace": shape.namespace,
            "labels": labels,
            "ownerReferences": owner.into_iter().collect::<Vec<_>>(),
        },
        "spec": {
            "selector": {"matchLabels": selector},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}},
            "template": {
                "metadata": {"labels": labels},
                "spec": pod,
            },
        },
    })
}

/// Name of the CronJob of a `Backup`.
fn cron_job_name(backup: &str) -> String {
    shortened(backup, CRON_JOB_CHARS)
}

/// The CronJob to apply. Its pods only create `EtcdBackup`s and mount nothing of the node.
#[must_use]
pub fn cron_job(
    shape: &Shape,
    options: &Options,
    name: &str,
    valid: &ValidBackup,
    owner: &Value,
) -> Value {
    let labels = json!({"app": CRON_APP, NAME_LABEL: shortened(name, LABEL_CHARS)});
    let label_of = |label: &str| json!({"fieldRef": {"fieldPath": format!("metadata.labels['batch.kubernetes.io/{label}']")}});
    let mut args = vec!["request-backup".to_string(), format!("--backup={name}")];
    args.extend(
        valid
            .pvc_name
            .iter()
            .map(|claim| format!("--pvc-name={claim}")),
    );
    json!({
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {
            "name": cron_job_name(name),
            "namespace": shape.namespace,
            "labels": labels,
            "ownerReferences": [owner],
        },
        "spec": {
            "schedule": valid.schedule,
            "timeZone": valid.time_zone,
            "concurrencyPolicy": "Forbid",
            "successfulJobsHistoryLimit": SUCCESSFUL_KEPT,
            "failedJobsHistoryLimit": FAILED_KEPT,
            "jobTemplate": {
                "metadata": {"labels": labels},
                "spec": {
                    "backoffLimit": 2,
                    "activeDeadlineSeconds": REQUEST_LASTS_S,
                    "template": {
                        "metadata": {"labels": labels},
                        "spec": {
                            "restartPolicy": "Never",
                            "hostNetwork": true,
                            "tolerations": [{"operator": "Exists"}],
                            "serviceAccountName": REQUEST_ACCOUNT,
                            "securityContext": {
                                "runAsNonRoot": true,
                                "runAsUser": 65534,
                                "seccompProfile": {"type": "RuntimeDefault"},
                            },
                            "affinity": pods::on_control_plane(),
                            "containers": [{
                                "name": JOB_CONTAINER,
                                "image": options.image,
                                "args": args,
                                // As upstream's request-backup is told.
                                "env": [
                                    {"name": "MY_JOB_NAME", "valueFrom": label_of("job-name")},
                                    {"name": "MY_JOB_UID", "valueFrom": label_of("controller-uid")},
                                    {"name": "MY_POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                                ],
                                "terminationMessagePolicy": "FallbackToLogsOnError",
                                "resources": {"requests": {"cpu": "5m", "memory": "16Mi"}},
                                "securityContext": {
                                    "readOnlyRootFilesystem": true,
                                    "allowPrivilegeEscalation": false,
                                    "capabilities": {"drop": ["ALL"]},
                                },
                            }],
                        },
                    },
                },
            },
        },
    })
}

/// The status to write for a `Backup`.
struct Told {
    saying: Saying,
    next_run: Option<Timestamp>,
    /// When to reconcile again.
    again: Option<Duration>,
}

impl Told {
    fn degraded(reason: &'static str, message: String) -> Self {
        Told {
            saying: Saying {
                type_: CONDITION,
                holds: true,
                reason,
                message,
            },
            next_run: None,
            again: None,
        }
    }

    fn well(valid: &ValidBackup, message: String) -> Self {
        let now = Timestamp::now();
        let zone = TimeZone::get(&valid.time_zone).unwrap_or(TimeZone::UTC);
        let schedule = Schedule::parse(&valid.schedule).ok();
        let next_run = schedule.and_then(|schedule| schedule.next_after(now, &zone));
        // To the second, and not before it.
        let again = next_run.and_then(|next| Duration::try_from(next.duration_since(now)).ok());
        Told {
            saying: Saying {
                type_: CONDITION,
                holds: false,
                reason: "AsExpected",
                message,
            },
            next_run,
            again: again.map(|delay| delay + Duration::from_secs(1)),
        }
    }
}

async fn tell(context: &Context, backup: &Backup, told: &Told) -> Result<(), kube::Error> {
    let generation = backup.metadata.generation;
    let old = backup.status.clone().unwrap_or_default();
    let before = before(&old.conditions, CONDITION);
    let next_run = told.next_run.map(|next| next.to_string());
    let is_old = told.saying.is_old(before, generation);
    if is_old && old.next_run == next_run {
        return Ok(());
    }
    if !is_old {
        context
            .announce(&backup.object_ref(&()), before, &told.saying)
            .await;
    }
    let condition = told.saying.after(before, generation, Timestamp::now());
    let more = json!({"nextRun": next_run});
    context
        .tell_backup(&backup.name_any(), FIELD_MANAGER, &condition, more)
        .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::REPOSITORY;
    use crate::shape::Platform;

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
            controllers: crate::Controllers::all(),
            layout: None,
            server_flags: Vec::new(),
            backup_flags: Vec::new(),
        }
    }

    fn set(layout: NodeLayout, policy: Policy) -> Value {
        let shape = Shape {
            platform: Platform::Kubernetes,
            namespace: "ns".into(),
            kinds: crate::shape::KindsOf::Us,
            external: false,
        };
        daemon_set(
            &shape,
            layout,
            None,
            &options(),
            &valid(policy),
            Some(&json!({"name": "default"})),
        )
    }

    #[test]
    fn servers_get_what_the_backup_says() {
        let args = |policy| {
            set(NodeLayout::StaticPod, policy)["spec"]["template"]["spec"]["containers"][0]["args"]
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
            (NodeLayout::StaticPod, &["/etc/kubernetes"][..]),
            (NodeLayout::Rancher, &["/etc/rancher", "/var/lib/rancher"]),
            (
                NodeLayout::MicroShift,
                &["/etc/microshift", "/var/lib/microshift"],
            ),
            (
                NodeLayout::Kubespray,
                &["/etc/kubernetes", "/etc/etcd.env", "/etc/ssl/etcd"],
            ),
        ] {
            let set = set(layout, Policy::Number(3));
            let pod = &set["spec"]["template"]["spec"];
            // etcd, which is of the node's own class, must outlive it.
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
                assert!(path == REPOSITORY || paths.contains(&path), "{path}");
            }
            assert_eq!(mounts.len(), paths.len() + 1);
        }
    }
}
