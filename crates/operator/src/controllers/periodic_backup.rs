//! Creates the objects for a `Backup`: for `Backup/default` a DaemonSet of backup servers, one on each control-plane node, and for
//! any other a CronJob that creates `EtcdBackup`s.

use crate::api_error::{api_error_message, ignore_not_found};
use crate::cluster::cache::Cache;
use crate::cluster::cluster_info::{CrdOwner, gate_off_message};
use crate::cluster::node_layout::NodeLayout;
use crate::cluster::pvc::{pvc_exists, pvc_missing_message};
use crate::context::Context;
use crate::names::{DAEMON_SET, FIELD_MANAGER};
use crate::objects::cron_job::{cron_job, cron_job_name};
use crate::objects::daemon_set::{daemon_set, daemon_set_name};
use crate::options::PERIODIC_BACKUP as NAME;
use crate::status::conditions::{ConditionUpdate, find_condition};
use backup_plan::cron::Schedule;
use cluster_api::conditions::{ConditionType, StatusReason};
use cluster_api::placement::{Placement, SERVERS, STORAGE, STORAGE_CLASS, Servers, VOLUME_SIZE};
use cluster_api::resources::{Backup, DEFAULT_BACKUP};
use cluster_api::validation::{ValidBackup, validate};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, DeleteParams, ObjectMeta};
use kube::{Resource, ResourceExt};
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

const CONDITION: ConditionType = ConditionType::PeriodicBackupControllerDegraded;
/// Changes within this time are handled together.
const SETTLE: Duration = Duration::from_millis(300);
const TRY_AGAIN: Duration = Duration::from_secs(10);

/// Acts when a change affects the applied objects, and when the next run in a status has passed.
pub(crate) async fn run(context: Arc<Context>, cache: Arc<Cache>) {
    cache.configuration_ready().await;
    let mut changes = cache.changes();
    let mut applied = None;
    let mut again_at: Option<Instant> = None;
    loop {
        tokio::time::sleep(SETTLE).await;
        changes.mark_unchanged();
        let inputs = inputs(&cache);
        if applied.as_ref() != Some(&inputs) || again_at.is_some_and(|at| at <= Instant::now()) {
            let again = reconcile_all(&context, &cache).await;
            again_at = again.map(|delay| Instant::now() + delay);
            applied = Some(inputs);
        }
        let changed = match again_at {
            Some(at) => tokio::time::timeout_at(at, changes.changed()).await,
            None => Ok(changes.changed().await),
        };
        if matches!(changed, Ok(Err(_))) {
            return;
        }
    }
}

/// Everything that decides which objects are applied. Other changes, such as those of a status, need no write.
fn inputs(cache: &Cache) -> BTreeSet<String> {
    let mut inputs = BTreeSet::new();
    let mut add = |kind: &str, metadata: &ObjectMeta| {
        inputs.insert(format!(
            "{kind} {:?} {:?} {:?} {:?} {:?} {:?}",
            metadata.name,
            metadata.uid,
            metadata.generation,
            metadata.deletion_timestamp,
            metadata.labels,
            metadata.owner_references,
        ));
    };
    for backup in cache.backups.state() {
        add("Backup", backup.meta());
    }
    for set in cache.daemon_sets.state() {
        add("DaemonSet", set.meta());
    }
    for cron_job in cache.cron_jobs.state() {
        add("CronJob", cron_job.meta());
    }
    for backup in cache.backups.state() {
        let placement = [SERVERS, STORAGE, STORAGE_CLASS, VOLUME_SIZE]
            .map(|key| backup.annotations().get(key).cloned());
        inputs.insert(format!("placement {:?} {placement:?}", backup.name_any()));
    }
    for pvc in cache.pvcs.state() {
        inputs.insert(format!("PVC {}", pvc.name_any()));
    }
    let layouts = layouts(cache).into_iter();
    inputs.extend(layouts.map(|layout| format!("layout {layout}")));
    inputs
}

/// The layouts in the labels of the nodes.
fn layouts(cache: &Cache) -> BTreeSet<NodeLayout> {
    let nodes = cache.nodes.state();
    nodes
        .iter()
        .filter_map(|node| NodeLayout::from_label(&**node))
        .collect()
}

/// Creates the objects for each `Backup`, and returns when to do so again. If one fails, the others are still handled.
async fn reconcile_all(context: &Context, cache: &Cache) -> Option<Duration> {
    // OpenShift's own operator handles each `Backup`: backup servers run with default settings.
    if context.cluster.crd_owner == CrdOwner::Upstream {
        let valid = ValidBackup::of_servers();
        let applied = apply_servers(context, cache, &valid, None).await;
        return applied.err().map(|error| {
            let problem = api_error_message(&error);
            tracing::warn!("cannot apply the DaemonSets of the backup servers: {problem}");
            context.state.count_error(NAME);
            TRY_AGAIN
        });
    }
    let mut again: Option<Duration> = None;
    for backup in cache.backups.state() {
        if backup.metadata.deletion_timestamp.is_some() {
            continue;
        }
        let delay = reconcile(context, cache, &backup)
            .await
            .unwrap_or_else(|error| {
                tracing::warn!(
                    "Backup/{}: {}",
                    backup.name_any(),
                    api_error_message(&error)
                );
                context.state.count_error(NAME);
                Some(TRY_AGAIN)
            });
        again = again.into_iter().chain(delay).min();
    }
    again
}

async fn reconcile(
    context: &Context,
    cache: &Cache,
    backup: &Backup,
) -> Result<Option<Duration>, kube::Error> {
    let name = backup.name_any();
    let update = match validate(&name, &backup.spec) {
        _ if name == DEFAULT_BACKUP && !context.options.automated_backup => {
            delete_servers(context, cache).await?;
            StatusUpdate::degraded(StatusReason::FeatureGateOff, gate_off_message())
        }
        Ok(valid) => apply_objects(context, cache, backup, &valid).await?,
        Err(error) => StatusUpdate::degraded(StatusReason::Invalid, error.to_string()),
    };
    write_status(context, backup, &update).await?;
    let reconciled = !update.condition.is_true;
    context
        .state
        .update(|state| state.backups.entry(name).or_default().reconciled = reconciled);
    Ok(update.again)
}

/// Creates the objects for a `Backup`, and returns the result.
async fn apply_objects(
    context: &Context,
    cache: &Cache,
    backup: &Backup,
    valid: &ValidBackup,
) -> Result<StatusUpdate, kube::Error> {
    let name = backup.name_any();
    let owner = backup.controller_owner_ref(&());
    let applied = if name == DEFAULT_BACKUP {
        let placement = match Placement::read(backup.annotations()) {
            Ok(placement) => placement,
            // The servers go on as they are, or as they are by default.
            Err(problem) => {
                apply_servers(context, cache, valid, owner.as_ref()).await?;
                return Ok(StatusUpdate::degraded(StatusReason::Invalid, problem));
            }
        };
        if placement.servers == Servers::Sidecar {
            delete_servers(context, cache).await?;
            let message = "the containers in the static pods of etcd make the backups";
            return Ok(StatusUpdate::ready(valid, message.into()));
        }
        apply_servers(context, cache, valid, owner.as_ref())
            .await
            .map(|()| format!("DaemonSet {DAEMON_SET} matches this Backup"))
    } else if let Some(problem) = &context.cluster.api_problems.etcd_backup {
        let message = format!("no EtcdBackup can be requested for this Backup: {problem}");
        return Ok(StatusUpdate::degraded(
            StatusReason::ApiNotSupported,
            message,
        ));
    } else {
        let namespace = &context.cluster.namespace;
        if let Some(pvc) = &valid.pvc_name
            && !pvc_exists(&context.client, namespace, pvc).await?
        {
            let message = pvc_missing_message(namespace, "spec.etcd.pvcName", pvc);
            return Ok(StatusUpdate::degraded(StatusReason::PVCNotFound, message));
        }
        let cron_job = cron_job(
            &context.cluster,
            &context.options,
            &name,
            valid,
            owner.as_ref(),
        );
        context
            .apply(&cron_job)
            .await
            .map(|()| format!("CronJob {} matches this Backup", cron_job_name(&name)))
    };
    match applied {
        Ok(message) => Ok(StatusUpdate::ready(valid, message)),
        // A retry would get the same answer.
        Err(kube::Error::Api(status)) if matches!(status.code, 400 | 422) => Ok(
            StatusUpdate::degraded(StatusReason::Refused, status.message),
        ),
        Err(error) => Err(error),
    }
}

/// Deletes all DaemonSets of backup servers.
async fn delete_servers(context: &Context, cache: &Cache) -> Result<(), kube::Error> {
    for set in cache.daemon_sets.state() {
        delete_daemon_set(context, &set.name_any()).await?;
    }
    Ok(())
}

async fn delete_daemon_set(context: &Context, name: &str) -> Result<(), kube::Error> {
    let namespace = &context.cluster.namespace;
    let sets: Api<DaemonSet> = Api::namespaced(context.client.clone(), namespace);
    let params = DeleteParams::background();
    ignore_not_found(context.write(sets.delete(name, &params)).await)
}

/// Applies the DaemonSets of backup servers: one for the cluster's layout, and one for each layout in a node label. Deletes
/// DaemonSets of layouts that no node has any more.
async fn apply_servers(
    context: &Context,
    cache: &Cache,
    valid: &ValidBackup,
    owner: Option<&OwnerReference>,
) -> Result<(), kube::Error> {
    let set = |layout| {
        daemon_set(
            &context.cluster,
            context.layout(),
            layout,
            &context.options,
            valid,
            owner,
        )
    };
    context.apply(&set(None)).await?;
    let labelled = layouts(cache);
    let existing: Vec<_> = cache.daemon_sets.state();
    for layout in NodeLayout::ALL {
        let name = daemon_set_name(Some(layout));
        if labelled.contains(&layout) {
            context.apply(&set(Some(layout))).await?;
        } else if existing.iter().any(|set| set.name_any() == name) {
            delete_daemon_set(context, &name).await?;
        }
    }
    Ok(())
}

/// The status to write for a `Backup`.
struct StatusUpdate {
    condition: ConditionUpdate,
    next_run: Option<Timestamp>,
    /// When to reconcile again.
    again: Option<Duration>,
}

impl StatusUpdate {
    fn degraded(reason: StatusReason, message: String) -> Self {
        StatusUpdate {
            condition: ConditionUpdate {
                type_: CONDITION,
                is_true: true,
                reason,
                message,
            },
            next_run: None,
            again: None,
        }
    }

    fn ready(valid: &ValidBackup, message: String) -> Self {
        let now = Timestamp::now();
        let zone = TimeZone::get(&valid.time_zone).unwrap_or(TimeZone::UTC);
        let schedule = Schedule::parse(&valid.schedule).ok();
        let next_run = schedule.and_then(|schedule| schedule.next_after(now, &zone));
        // One second is added below, so that the next run has passed by then.
        let again = next_run.and_then(|next| Duration::try_from(next.duration_since(now)).ok());
        StatusUpdate {
            condition: ConditionUpdate {
                type_: CONDITION,
                is_true: false,
                reason: StatusReason::AsExpected,
                message,
            },
            next_run,
            again: again.map(|delay| delay + Duration::from_secs(1)),
        }
    }
}

async fn write_status(
    context: &Context,
    backup: &Backup,
    update: &StatusUpdate,
) -> Result<(), kube::Error> {
    let generation = backup.metadata.generation;
    let old = backup.status.clone().unwrap_or_default();
    let before = find_condition(&old.conditions, CONDITION.name());
    let next_run = update.next_run.map(|next| next.to_string());
    let is_old = update.condition.is_unchanged(before, generation);
    if is_old && old.next_run == next_run {
        return Ok(());
    }
    if !is_old {
        context
            .publish_condition_event(&backup.object_ref(&()), before, &update.condition)
            .await;
    }
    let condition = update
        .condition
        .to_condition(before, generation, Timestamp::now());
    let more = json!({"nextRun": next_run});
    context
        .patch_backup_status(&backup.name_any(), FIELD_MANAGER, &condition, more)
        .await
}
