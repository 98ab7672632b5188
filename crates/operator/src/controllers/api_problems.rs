//! Reports CRDs of another owner that lack what this operator writes: once as an event and in the log, and as a condition of
//! `Backup/default` while it exists.

use crate::api_error::api_error_message;
use crate::cluster::cache::Cache;
use crate::context::Context;
use crate::status::conditions::{ConditionUpdate, find_condition};
use cluster_api::conditions::{ConditionType, StatusReason};
use cluster_api::resources::{Backup, DEFAULT_BACKUP, EtcdBackup};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::CustomResourceExt;
use kube::runtime::reflector::ObjectRef;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

/// The field manager of this condition.
const MANAGER: &str = "etcd-lifeboat-operator-api";
const CONDITION: ConditionType = ConditionType::ApiNotSupported;
const TRY_AGAIN: Duration = Duration::from_secs(10);

/// Reports once, and again for each `Backup/default`. A changed CRD ends the operator, so the problems stay the same here.
pub(crate) async fn run(context: Arc<Context>, cache: Arc<Cache>) {
    let problems = &context.cluster.api_problems;
    context
        .state
        .update(|state| state.api_problems = problems.iter().count());
    for (problem, crd) in [
        (&problems.backup, Backup::crd_name()),
        (&problems.etcd_backup, EtcdBackup::crd_name()),
    ] {
        if let Some(problem) = problem {
            let note = message(problem);
            tracing::warn!("{note}");
            let reason = StatusReason::ApiNotSupported;
            context.events.warning(&reference(crd), reason, &note).await;
        }
    }
    cache.configuration_ready().await;
    let mut changes = cache.changes();
    loop {
        let wait = match write_condition(&context, &cache).await {
            Ok(()) => Duration::MAX,
            Err(error) => {
                tracing::warn!(
                    "cannot write the condition {} of Backup/{DEFAULT_BACKUP}: {}",
                    CONDITION.name(),
                    api_error_message(&error)
                );
                TRY_AGAIN
            }
        };
        if matches!(
            tokio::time::timeout(wait, changes.changed()).await,
            Ok(Err(_))
        ) {
            return;
        }
    }
}

fn message(problem: &str) -> String {
    format!(
        "{problem}: requests by EtcdBackup and each Backup other than {DEFAULT_BACKUP} have no effect; the backup servers on the nodes go on, and `kubectl lifeboat backup` starts its own Jobs"
    )
}

fn reference(crd: &str) -> ObjectReference {
    ObjectReference {
        api_version: Some("apiextensions.k8s.io/v1".into()),
        kind: Some("CustomResourceDefinition".into()),
        name: Some(crd.into()),
        ..ObjectReference::default()
    }
}

async fn write_condition(context: &Context, cache: &Cache) -> Result<(), kube::Error> {
    let Some(backup) = cache.backups.get(&ObjectRef::<Backup>::new(DEFAULT_BACKUP)) else {
        return Ok(());
    };
    let status = backup.status.clone().unwrap_or_default();
    let before = find_condition(&status.conditions, CONDITION.name());
    let problem = context.cluster.api_problems.etcd_backup.as_ref();
    // Where all is well, the condition exists only if it was different before.
    if problem.is_none() && before.is_none() {
        return Ok(());
    }
    let update = ConditionUpdate {
        type_: CONDITION,
        is_true: problem.is_some(),
        reason: match problem {
            Some(_) => StatusReason::ApiNotSupported,
            None => StatusReason::AsExpected,
        },
        message: problem.map_or_else(
            || "the CRDs have all fields".into(),
            |problem| message(problem),
        ),
    };
    let generation = backup.metadata.generation;
    if update.is_unchanged(before, generation) {
        return Ok(());
    }
    let condition = update.to_condition(before, generation, Timestamp::now());
    context
        .patch_backup_status(DEFAULT_BACKUP, MANAGER, &condition, json!({}))
        .await
}
