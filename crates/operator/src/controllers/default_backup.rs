//! Creates `Backup/default` once and does not change it afterwards. A user who deletes it opts out, which a ConfigMap remembers.
//! Deleting the CRD is not an opt-out.

use crate::api_error::api_error_message;
use crate::cluster::cache::Cache;
use crate::cluster::lenient::Lenient;
use crate::cluster::watch_backoff::WatchBackoff;
use crate::context::Context;
use crate::install::crds;
use crate::names::FIELD_MANAGER;
use crate::options::DEFAULT_BACKUP as NAME;
use cluster_api::conditions::StatusReason;
use cluster_api::resources::{
    Backup, BackupSpec, DEFAULT_BACKUP, DEFAULT_BACKUP_NUMBER, DEFAULT_SCHEDULE, DEFAULT_TIME_ZONE,
    EtcdBackupPolicy, RetentionNumber, RetentionPolicy, RetentionType,
};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, ObjectReference};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{CustomResourceExt, Resource};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const CONFIG_MAP: &str = "etcd-lifeboat-default-backup";
const KIND_UID: &str = "kindUid";
const OPTED_OUT: &str = "optedOut";
const TRY_AGAIN: Duration = Duration::from_secs(5);

/// The stored state: that `Backup/default` was created, and whether a user deleted it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredState {
    /// The uid of the CRD at that time.
    pub crd_uid: String,
    /// Whether a user deleted `Backup/default`.
    pub opted_out: bool,
}

/// The state of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClusterState {
    /// The uid of the CRD, or `None` if it does not exist or is being deleted.
    pub crd_uid: Option<String>,
    /// Whether `Backup/default` exists.
    pub exists: bool,
    /// The stored state, if any.
    pub memory: Option<StoredState>,
}

/// The next action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Do nothing until something changes.
    Nothing,
    CreateCrd,
    /// Create `Backup/default`.
    Create,
    /// Store this state.
    Store(StoredState),
}

#[must_use]
pub(crate) fn decide(gate: bool, seen: &ClusterState) -> Decision {
    let Some(crd_uid) = &seen.crd_uid else {
        return Decision::CreateCrd;
    };
    if !gate {
        return Decision::Nothing;
    }
    let remember = |opted_out| {
        let memory = StoredState {
            crd_uid: crd_uid.clone(),
            opted_out,
        };
        if seen.memory.as_ref() == Some(&memory) {
            Decision::Nothing
        } else {
            Decision::Store(memory)
        }
    };
    match &seen.memory {
        // A user who creates it again opts in again.
        _ if seen.exists => remember(false),
        None => Decision::Create,
        Some(memory) if memory.opted_out => Decision::Nothing,
        Some(memory) if memory.crd_uid == *crd_uid => remember(true),
        // The CRD was deleted, and with it an object that no user wanted to lose.
        Some(_) => Decision::Create,
    }
}

/// Acts when `Backup/default` or its CRD was created or deleted.
pub(crate) async fn run(context: Arc<Context>, cache: Arc<Cache>) {
    let named = watcher::Config::default().fields(&format!("metadata.name={}", Backup::crd_name()));
    let crds: Api<CustomResourceDefinition> = Api::all(context.client.clone());
    let mut crd_events = watcher(crds, named)
        .backoff(WatchBackoff::default())
        .map(|event| event.map(needs_action))
        .boxed();
    let mut changes = cache.changes();
    let uid = || {
        let default = cache.backups.get(&ObjectRef::new(DEFAULT_BACKUP));
        default.and_then(|backup| backup.metadata.uid.clone())
    };
    loop {
        let known = uid();
        while let Err(error) = reconcile(&context).await {
            tracing::warn!("controller {NAME}: {}", api_error_message(&error));
            context.state.count_error(NAME);
            tokio::time::sleep(TRY_AGAIN).await;
        }
        while uid() == known {
            tokio::select! {
                event = crd_events.next() => match event {
                    None => return,
                    Some(Ok(false)) => {}
                    Some(Ok(true)) => break,
                    // This also happens when the CRD was deleted.
                    Some(Err(error)) => {
                        tracing::debug!("watch failed: {error}");
                        break;
                    }
                },
                changed = changes.changed() => if changed.is_err() {
                    return;
                },
            }
        }
    }
}

/// Whether an event needs action. The objects of a list need it only when the list is complete.
fn needs_action<K>(event: watcher::Event<K>) -> bool {
    !matches!(event, watcher::Event::Init | watcher::Event::InitApply(_))
}

async fn reconcile(context: &Context) -> Result<(), kube::Error> {
    loop {
        let seen = read_state(context).await?;
        let opted_out = seen.memory.as_ref().is_some_and(|memory| memory.opted_out) && !seen.exists;
        context.state.update(|state| state.opted_out = opted_out);
        let decision = decide(context.options.automated_backup, &seen);
        match decision {
            Decision::Nothing => return Ok(()),
            Decision::CreateCrd => {
                context
                    .write(crds::apply_crds(&context.client, &context.cluster))
                    .await?;
                // If the old CRD is still being deleted, that must end first.
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            Decision::Create => {
                if let Some(made) = create(context).await? {
                    let note = format!(
                        "created Backup/{DEFAULT_BACKUP}: every control-plane node makes backups from now on"
                    );
                    tracing::info!("{note}");
                    let object = made.object_ref(&());
                    context
                        .events
                        .normal(&object, StatusReason::DefaultBackupCreated, &note)
                        .await;
                }
            }
            Decision::Store(memory) => {
                if memory.opted_out {
                    let note = format!(
                        "Backup/{DEFAULT_BACKUP} was deleted: automated backups are off; to turn them on, create Backup/{DEFAULT_BACKUP} again"
                    );
                    tracing::warn!("{note}");
                    context
                        .events
                        .warning(
                            &crd_reference(&seen),
                            StatusReason::DefaultBackupOptedOut,
                            &note,
                        )
                        .await;
                }
                store_state(context, &memory).await?;
            }
        }
    }
}

/// A reference to the CRD, for an event after `Backup/default` was deleted.
fn crd_reference(seen: &ClusterState) -> ObjectReference {
    ObjectReference {
        api_version: Some("apiextensions.k8s.io/v1".into()),
        kind: Some("CustomResourceDefinition".into()),
        name: Some(Backup::crd_name().into()),
        uid: seen.crd_uid.clone(),
        ..ObjectReference::default()
    }
}

async fn read_state(context: &Context) -> Result<ClusterState, kube::Error> {
    let definitions: Api<CustomResourceDefinition> = Api::all(context.client.clone());
    let definition = definitions.get_opt(Backup::crd_name()).await?;
    let crd_uid = definition
        .filter(|definition| definition.metadata.deletion_timestamp.is_none())
        .and_then(|definition| definition.metadata.uid);
    let backups: Api<Lenient<Backup>> = Api::all(context.client.clone());
    let maps: Api<ConfigMap> = Api::namespaced(context.client.clone(), &context.cluster.namespace);
    let memory = maps.get_opt(CONFIG_MAP).await?.and_then(|map| {
        let data = map.data?;
        Some(StoredState {
            crd_uid: data.get(KIND_UID)?.clone(),
            opted_out: data.get(OPTED_OUT).is_some_and(|value| value == "true"),
        })
    });
    Ok(ClusterState {
        // Without the CRD there is no Backup, and the API server refuses the request.
        exists: crd_uid.is_some() && backups.get_opt(DEFAULT_BACKUP).await?.is_some(),
        crd_uid,
        memory,
    })
}

/// Creates `Backup/default`, and returns it if this call created it.
async fn create(context: &Context) -> Result<Option<Backup>, kube::Error> {
    let spec = BackupSpec {
        etcd: EtcdBackupPolicy {
            schedule: DEFAULT_SCHEDULE.into(),
            time_zone: DEFAULT_TIME_ZONE.into(),
            retention_policy: Some(RetentionPolicy {
                retention_type: RetentionType::RetentionNumber,
                retention_number: Some(RetentionNumber {
                    max_number_of_backups: Some(DEFAULT_BACKUP_NUMBER),
                }),
                retention_size: None,
            }),
            pvc_name: String::new(),
        },
    };
    let backups: Api<Backup> = Api::all(context.client.clone());
    let backup = Backup::new(DEFAULT_BACKUP, spec);
    let params = PostParams::default();
    match context.write(backups.create(&params, &backup)).await {
        Ok(made) => Ok(Some(made)),
        // The API server serves a CRD a moment after it was created.
        Err(kube::Error::Api(status)) if status.code == 404 => {
            tokio::time::sleep(Duration::from_millis(200)).await;
            Ok(None)
        }
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(None),
        Err(error) => Err(error),
    }
}

async fn store_state(context: &Context, memory: &StoredState) -> Result<(), kube::Error> {
    let maps: Api<ConfigMap> = Api::namespaced(context.client.clone(), &context.cluster.namespace);
    let data = BTreeMap::from([
        (KIND_UID, memory.crd_uid.clone()),
        (OPTED_OUT, memory.opted_out.to_string()),
    ]);
    let map = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": CONFIG_MAP},
        "data": data,
    });
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let patch = Patch::Apply(map);
    context
        .write(maps.patch(CONFIG_MAP, &params, &patch))
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(kind: Option<&str>, exists: bool, memory: Option<(&str, bool)>) -> ClusterState {
        ClusterState {
            crd_uid: kind.map(String::from),
            exists,
            memory: memory.map(|(crd_uid, opted_out)| StoredState {
                crd_uid: crd_uid.into(),
                opted_out,
            }),
        }
    }

    fn remember(crd_uid: &str, opted_out: bool) -> Decision {
        Decision::Store(StoredState {
            crd_uid: crd_uid.into(),
            opted_out,
        })
    }

    #[test]
    fn day_one_makes_it_once_and_whoever_deletes_it_has_opted_out() {
        for (seen, decision) in [
            (seen(None, false, None), Decision::CreateCrd),
            (seen(Some("a"), false, None), Decision::Create),
            (seen(Some("a"), true, None), remember("a", false)),
            (seen(Some("a"), true, Some(("a", false))), Decision::Nothing),
            // It was deleted, and stays deleted.
            (
                seen(Some("a"), false, Some(("a", false))),
                remember("a", true),
            ),
            (seen(Some("a"), false, Some(("a", true))), Decision::Nothing),
            // A user created it again.
            (
                seen(Some("a"), true, Some(("a", true))),
                remember("a", false),
            ),
        ] {
            assert_eq!(decide(true, &seen), decision, "{seen:?}");
        }
    }

    #[test]
    fn deleting_the_kind_is_not_opting_out() {
        assert_eq!(
            decide(true, &seen(None, false, Some(("a", false)))),
            Decision::CreateCrd
        );
        assert_eq!(
            decide(true, &seen(Some("b"), false, Some(("a", false)))),
            Decision::Create
        );
        // A user who opted out before stays opted out.
        assert_eq!(
            decide(true, &seen(Some("b"), false, Some(("a", true)))),
            Decision::Nothing
        );
    }

    #[test]
    fn with_the_gate_off_nothing_is_made_and_nothing_is_taken_for_an_opt_out() {
        for memory in [None, Some(("a", false)), Some(("a", true))] {
            assert_eq!(
                decide(false, &seen(Some("a"), false, memory)),
                Decision::Nothing
            );
        }
    }
}
