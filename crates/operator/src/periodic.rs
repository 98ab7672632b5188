//! `Backup/default` becomes a DaemonSet of backup servers, one on each control-plane node.

use crate::shape::Shape;
use crate::{Context, FIELD_MANAGER, Options};
use backup_plan::api::{Backup, DEFAULT_BACKUP, ValidBackup, validate};
use backup_plan::cron::Schedule;
use backup_plan::retention::Policy;
use futures::StreamExt;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use k8s_openapi::api::apps::v1::DaemonSet;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// The DaemonSet's name, as upstream named it.
pub const DAEMON_SET: &str = "backup-server-daemon-set";
/// The container's.
pub const CONTAINER: &str = "etcd-backup-server";
/// The label of its pods.
pub const APP: &str = "etcd-auto-backup";
const REPOSITORY: &str = "/var/lib/etcd-auto-backup";
const CONDITION: &str = "PeriodicBackupControllerDegraded";
const TRY_AGAIN: Duration = Duration::from_secs(10);
/// Any of these is on nodes that have a member of etcd.
const ROLES: [&str; 3] = [
    "node-role.kubernetes.io/control-plane",
    "node-role.kubernetes.io/master",
    "node-role.kubernetes.io/etcd",
];

/// Acts on whatever changes.
pub(crate) async fn run(context: Arc<Context>) {
    let backups: Api<Backup> = Api::all(context.client.clone());
    let sets: Api<DaemonSet> = Api::namespaced(context.client.clone(), &context.shape.namespace);
    Controller::new(backups, watcher::Config::default())
        .owns(
            sets,
            watcher::Config::default().labels(&format!("app={APP}")),
        )
        .run(reconcile, retry, context)
        .for_each(|result| async move {
            if let Err(error) = result {
                tracing::debug!("periodic backup: {error}");
            }
        })
        .await;
}

/// Where every `Backup` is upstream's: the servers with their defaults, and nothing else.
pub(crate) async fn run_defaults(context: Arc<Context>) {
    let sets: Api<DaemonSet> = Api::namespaced(context.client.clone(), &context.shape.namespace);
    let named = watcher::Config::default().fields(&format!("metadata.name={DAEMON_SET}"));
    let mut events = watcher(sets, named).default_backoff().boxed();
    while let Some(event) = events.next().await {
        let news = matches!(
            event,
            Ok(watcher::Event::InitDone | watcher::Event::Apply(_) | watcher::Event::Delete(_))
        );
        if !news || !context.lease.is_held() {
            continue;
        }
        // What is applied again as it is changes nothing, and wakes nobody.
        while let Err(error) = apply_set(&context, &ValidBackup::of_servers(), None).await {
            tracing::warn!("backup servers: {error}");
            tokio::time::sleep(TRY_AGAIN).await;
        }
    }
}

fn retry(backup: Arc<Backup>, error: &kube::Error, _: Arc<Context>) -> Action {
    tracing::warn!("Backup/{}: {error}", backup.name_any());
    Action::requeue(TRY_AGAIN)
}

async fn reconcile(backup: Arc<Backup>, context: Arc<Context>) -> Result<Action, kube::Error> {
    if backup.metadata.deletion_timestamp.is_some() || !context.lease.is_held() {
        return Ok(Action::requeue(TRY_AGAIN));
    }
    let name = backup.name_any();
    let judged = validate(&name, &backup.spec);
    let told = match &judged {
        Ok(valid) if name == DEFAULT_BACKUP => {
            apply(&context, &backup, valid).await?;
            Told::well(valid)
        }
        Ok(_) => Told::degraded(
            "NotSupported",
            "this version keeps Backup/default only: use that name, or run `etcd-lifeboat cluster-backup`".into(),
        ),
        Err(error) => Told::degraded("Invalid", error.to_string()),
    };
    tell(&context, &backup, &told).await?;
    // What is wrong waits for its next change; what is right tells its next due time when that has come.
    Ok(match told.again {
        Some(delay) => Action::requeue(delay),
        None => Action::await_change(),
    })
}

async fn apply(context: &Context, backup: &Backup, valid: &ValidBackup) -> Result<(), kube::Error> {
    let owner = backup.controller_owner_ref(&());
    apply_set(context, valid, Some(&json!(owner))).await
}

async fn apply_set(
    context: &Context,
    valid: &ValidBackup,
    owner: Option<&Value>,
) -> Result<(), kube::Error> {
    let set = daemon_set(&context.shape, &context.options, valid, owner);
    let sets: Api<DaemonSet> = Api::namespaced(context.client.clone(), &context.shape.namespace);
    let params = PatchParams::apply(FIELD_MANAGER).force();
    sets.patch(DAEMON_SET, &params, &Patch::Apply(set))
        .await
        .map(|_| ())
}

/// The flags of a backup server.
fn flags(valid: &ValidBackup, options: &Options) -> Vec<String> {
    let mut flags = vec![
        "backup-server".to_string(),
        format!("--schedule={}", valid.schedule),
        format!("--timezone={}", valid.time_zone),
    ];
    flags.extend(match valid.policy {
        Policy::Number(number) => vec![
            "--type=RetentionNumber".to_string(),
            format!("--max-number-of-backups={number}"),
        ],
        Policy::SizeBytes(bytes) => vec![
            "--type=RetentionSize".to_string(),
            format!("--max-size-of-backups-gb={}", bytes >> 30),
        ],
        Policy::None => vec!["--type=None".to_string()],
    });
    flags.extend(options.server_flags.iter().cloned());
    flags
}

/// The DaemonSet, as it is applied.
#[must_use]
pub fn daemon_set(
    shape: &Shape,
    options: &Options,
    valid: &ValidBackup,
    owner: Option<&Value>,
) -> Value {
    let directories = shape.platform.node_directories();
    let volume = |path: &str| format!("node{}", path.replace('/', "-"));
    let mut volumes: Vec<_> = directories
        .iter()
        .map(|path| json!({"name": volume(path), "hostPath": {"path": path, "type": "Directory"}}))
        .collect();
    volumes.push(
        json!({"name": "backups", "hostPath": {"path": REPOSITORY, "type": "DirectoryOrCreate"}}),
    );
    let mut mounts: Vec<_> = directories
        .iter()
        .map(|path| json!({"name": volume(path), "mountPath": path, "readOnly": true}))
        .collect();
    mounts.push(json!({"name": "backups", "mountPath": REPOSITORY}));
    let terms: Vec<_> = ROLES
        .iter()
        .map(|role| json!({"matchExpressions": [{"key": role, "operator": "Exists"}]}))
        .collect();
    json!({
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {
            "name": DAEMON_SET,
            "namespace": shape.namespace,
            "labels": {"app": APP},
            "ownerReferences": owner.into_iter().collect::<Vec<_>>(),
        },
        "spec": {
            "selector": {"matchLabels": {"app": APP}},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}},
            "template": {
                "metadata": {"labels": {"app": APP}},
                "spec": {
                    // A broken pod network must not stop backups, nor must anything that a node is tainted with.
                    "hostNetwork": true,
                    "tolerations": [{"operator": "Exists"}],
                    "priorityClassName": "system-node-critical",
                    "automountServiceAccountToken": false,
                    "securityContext": {"runAsUser": 0, "seccompProfile": {"type": "RuntimeDefault"}},
                    "affinity": {"nodeAffinity": {
                        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms},
                    }},
                    "containers": [{
                        "name": CONTAINER,
                        "image": options.image,
                        "args": flags(valid, options),
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
                },
            },
        },
    })
}

/// What is told of a `Backup`.
struct Told {
    degraded: bool,
    reason: &'static str,
    message: String,
    next_run: Option<Timestamp>,
    /// When there is something new to tell.
    again: Option<Duration>,
}

impl Told {
    fn degraded(reason: &'static str, message: String) -> Self {
        Told {
            degraded: true,
            reason,
            message,
            next_run: None,
            again: None,
        }
    }

    fn well(valid: &ValidBackup) -> Self {
        let now = Timestamp::now();
        let zone = TimeZone::get(&valid.time_zone).unwrap_or(TimeZone::UTC);
        let schedule = Schedule::parse(&valid.schedule).ok();
        let next_run = schedule.and_then(|schedule| schedule.next_after(now, &zone));
        // To the second, and not before it.
        let again = next_run.and_then(|next| Duration::try_from(next.duration_since(now)).ok());
        Told {
            degraded: false,
            reason: "AsExpected",
            message: format!("DaemonSet {DAEMON_SET} has what this Backup says"),
            next_run,
            again: again.map(|delay| delay + Duration::from_secs(1)),
        }
    }
}

async fn tell(context: &Context, backup: &Backup, told: &Told) -> Result<(), kube::Error> {
    let status = if told.degraded { "True" } else { "False" };
    let old = backup.status.clone().unwrap_or_default();
    let before = old
        .conditions
        .iter()
        .find(|condition| condition.type_ == CONDITION);
    let next_run = told.next_run.map(|next| next.to_string());
    let same = before.is_some_and(|before| {
        before.status == status
            && before.reason == told.reason
            && before.message == told.message
            && before.observed_generation == backup.metadata.generation
    });
    // A status that says the same again would only wake everybody.
    if same && old.next_run == next_run {
        return Ok(());
    }
    let since = before.filter(|before| before.status == status).map_or_else(
        || json!(Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()),
        |before| json!(before.last_transition_time),
    );
    let was_degraded = before.is_some_and(|before| before.status == "True");
    let object = backup.object_ref(&());
    if told.degraded && !same {
        context
            .events
            .warning(&object, told.reason, &told.message)
            .await;
    } else if was_degraded && !told.degraded {
        context
            .events
            .normal(&object, told.reason, &told.message)
            .await;
    }
    let patch = json!({
        "apiVersion": Backup::api_version(&()),
        "kind": Backup::kind(&()),
        "status": {
            "conditions": [{
                "type": CONDITION,
                "status": status,
                "reason": told.reason,
                "message": told.message,
                "lastTransitionTime": since,
                "observedGeneration": backup.metadata.generation,
            }],
            "nextRun": next_run,
        },
    });
    let backups: Api<Backup> = Api::all(context.client.clone());
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let patch = Patch::Apply(patch);
    let patched = backups
        .patch_status(&backup.name_any(), &params, &patch)
        .await;
    match patched {
        // It is gone meanwhile.
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other.map(|_| ()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
            server_flags: Vec::new(),
        }
    }

    fn set(platform: Platform, policy: Policy) -> Value {
        let shape = Shape {
            platform,
            namespace: "ns".into(),
            kinds: crate::shape::KindsOf::Us,
            external: false,
        };
        daemon_set(
            &shape,
            &options(),
            &valid(policy),
            Some(&json!({"name": "default"})),
        )
    }

    #[test]
    fn servers_get_what_the_backup_says() {
        let args = |policy| {
            set(Platform::Kubernetes, policy)["spec"]["template"]["spec"]["containers"][0]["args"]
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
    fn pods_have_one_capability_and_see_no_more_of_the_node_than_they_need() {
        for (platform, directories) in [
            (Platform::OpenShift, &["/etc/kubernetes"][..]),
            (Platform::Rke2, &["/etc/rancher", "/var/lib/rancher"]),
        ] {
            let set = set(platform, Policy::Number(3));
            let pod = &set["spec"]["template"]["spec"];
            let container = &pod["containers"][0];
            let security = &container["securityContext"];
            assert_eq!(
                security["capabilities"],
                json!({"drop": ["ALL"], "add": ["DAC_READ_SEARCH"]})
            );
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
                assert!(path == REPOSITORY || directories.contains(&path), "{path}");
            }
            assert_eq!(mounts.len(), directories.len() + 1);
        }
    }
}
