//! Somebody else who writes to an object, over and over.

use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const WRITES_EVERY: Duration = Duration::from_millis(20);
/// In the values of a patch this is the number of the write.
const NUMBER: &str = "$N";

/// Which object.
#[derive(Debug, Clone)]
pub struct Object<'o> {
    /// `v1`, `apps/v1`.
    pub api_version: &'o str,
    /// `DaemonSet`.
    pub kind: &'o str,
    /// None for kinds without namespaces.
    pub namespace: Option<&'o str>,
    /// Its name.
    pub name: &'o str,
}

/// Writes until it is dropped.
pub struct ConflictingWriter {
    task: tokio::task::JoinHandle<()>,
    writes: Arc<AtomicU64>,
}

impl ConflictingWriter {
    /// Starts to merge a patch into an object, fifty times a second; `$N` in it becomes another number each time.
    /// To be called where a runtime is.
    #[must_use]
    pub fn start(client: kube::Client, object: &Object<'_>, patch: &Value) -> ConflictingWriter {
        let (group, version) = object
            .api_version
            .split_once('/')
            .unwrap_or(("", object.api_version));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, object.kind));
        let api: Api<DynamicObject> = match object.namespace {
            Some(namespace) => Api::namespaced_with(client, namespace, &resource),
            None => Api::all_with(client, &resource),
        };
        let writes = Arc::new(AtomicU64::new(0));
        let (name, patch, count) = (object.name.to_string(), patch.to_string(), writes.clone());
        let task = tokio::spawn(async move {
            let params = PatchParams {
                field_manager: Some("conflicting-writer".into()),
                ..PatchParams::default()
            };
            for number in 0u64.. {
                let patch: Value =
                    serde_json::from_str(&patch.replace(NUMBER, &number.to_string()))
                        .unwrap_or_default();
                if api
                    .patch(&name, &params, &Patch::Merge(patch))
                    .await
                    .is_ok()
                {
                    count.fetch_add(1, Ordering::Relaxed);
                }
                tokio::time::sleep(WRITES_EVERY).await;
            }
        });
        ConflictingWriter { task, writes }
    }

    /// Writes that the API server took.
    #[must_use]
    pub fn writes(&self) -> u64 {
        self.writes.load(Ordering::Relaxed)
    }
}

impl Drop for ConflictingWriter {
    fn drop(&mut self) {
        self.task.abort();
    }
}
