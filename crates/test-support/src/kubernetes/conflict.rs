//! Another client that writes to an object again and again.

use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const WRITES_EVERY: Duration = Duration::from_millis(20);
/// Placeholder in a patch for the number of the write.
const NUMBER: &str = "$N";

/// The object to write to. It must exist.
#[derive(Debug, Clone)]
pub struct Object<'o> {
    /// API group and version, such as `apps/v1`, or only the version, such as `v1`.
    pub api_version: &'o str,
    /// Kind of the object, such as `DaemonSet`.
    pub kind: &'o str,
    /// `None` for a cluster-scoped object.
    pub namespace: Option<&'o str>,
    /// Name of the object; a write to a missing object is not counted.
    pub name: &'o str,
}

/// Writes until it is dropped.
pub struct ConflictingWriter {
    task: tokio::task::JoinHandle<()>,
    writes: Arc<AtomicU64>,
}

impl ConflictingWriter {
    /// Starts to merge a patch into an object, fifty times a second; `$N` in it becomes another number each time.
    /// Must be called in a Tokio runtime.
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

    /// Number of writes that the API server accepted.
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
