//! Data that all controllers share, and the only way to write.

use crate::api_error::ignore_not_found;
use crate::cluster::cluster_info::ClusterInfo;
use crate::cluster::lease::Lease;
use crate::cluster::node_layout::NodeLayout;
use crate::names::FIELD_MANAGER;
use crate::options::Options;
use crate::status::conditions::ConditionUpdate;
use crate::status::events::Events;
use crate::status::state::SharedState;
use cluster_api::resources::Backup;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, Resource, ResourceExt};
use serde::Serialize;
use serde_json::{Value, json};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Data that all controllers share.
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) options: Options,
    pub(crate) cluster: ClusterInfo,
    lease: Arc<Lease>,
    pub(crate) events: Events,
    pub(crate) state: Arc<SharedState>,
    /// Whether the CRD of `Backup` is upstream's, which has no conditions. Each attempt to write them would only wake all watchers.
    conditions_unsupported: AtomicBool,
}

impl Context {
    pub(crate) fn new(
        client: Client,
        options: Options,
        cluster: ClusterInfo,
        lease: Arc<Lease>,
        state: Arc<SharedState>,
    ) -> Self {
        let events = Events::new(&client, FIELD_MANAGER, &options.identity, "Reconcile");
        Context {
            client,
            options,
            cluster,
            lease,
            events,
            state,
            conditions_unsupported: AtomicBool::new(false),
        }
    }

    /// The layout of nodes without a layout label.
    pub(crate) fn layout(&self) -> NodeLayout {
        let layout = self.options.layout;
        layout.unwrap_or_else(|| NodeLayout::default_for(self.cluster.platform))
    }

    /// Sends a write request if this replica holds the lease. All writes use this function.
    pub(crate) async fn write<T>(
        &self,
        request: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, kube::Error> {
        if !self.lease.is_held() {
            return Err(kube::Error::Service(
                "this replica does not hold the lease".into(),
            ));
        }
        abort_for_test();
        request.await
    }

    /// Applies an object in the operator's namespace.
    pub(crate) async fn apply<K>(&self, object: &K) -> Result<(), kube::Error>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + Serialize
            + serde::de::DeserializeOwned,
        K::DynamicType: Default,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), &self.cluster.namespace);
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let patch = Patch::Apply(object);
        let name = object.name_any();
        self.write(api.patch(&name, &params, &patch)).await?;
        Ok(())
    }

    /// Writes a condition and other status fields of a `Backup`, as one of its field managers.
    pub(crate) async fn patch_backup_status(
        &self,
        name: &str,
        manager: &str,
        condition: &Condition,
        more: Value,
    ) -> Result<(), kube::Error> {
        if self.conditions_unsupported.load(Ordering::Relaxed) {
            return Ok(());
        }
        let mut status = more;
        if let Value::Object(fields) = &mut status {
            fields.insert("conditions".into(), json!([condition]));
        }
        let backups: Api<Backup> = Api::all(self.client.clone());
        let params = PatchParams::apply(manager).force();
        let patch = Patch::Apply(json!({
            "apiVersion": Backup::api_version(&()),
            "kind": Backup::kind(&()),
            "status": status,
        }));
        let written = self
            .write(backups.patch_status(name, &params, &patch))
            .await;
        if let Ok(written) = &written {
            let status = written.status.iter();
            let mut conditions = status.flat_map(|status| &status.conditions);
            if !conditions.any(|kept| kept.type_ == condition.type_) {
                self.conditions_unsupported.store(true, Ordering::Relaxed);
            }
        }
        ignore_not_found(written)
    }

    /// Publishes an event when a condition becomes true, and when it becomes false again.
    pub(crate) async fn publish_condition_event(
        &self,
        object: &ObjectReference,
        before: Option<&Condition>,
        update: &ConditionUpdate,
    ) {
        let was = before.is_some_and(|before| before.status == "True");
        let ConditionUpdate {
            reason, message, ..
        } = update;
        if update.is_true {
            tracing::warn!(object = object.name, reason = reason.name(), "{message}");
            self.events.warning(object, *reason, message).await;
        } else if was {
            tracing::info!(object = object.name, reason = reason.name(), "{message}");
            self.events.normal(object, *reason, message).await;
        }
    }
}

/// For tests: a debug build aborts before its n-th write.
#[cfg(debug_assertions)]
fn abort_for_test() {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    static KILLED_AT: LazyLock<Option<u64>> = LazyLock::new(|| {
        let write = std::env::var("LIFEBOAT_TEST_KILLED_AT_WRITE").ok()?;
        write.parse().ok()
    });
    static WRITES: AtomicU64 = AtomicU64::new(0);
    if *KILLED_AT == Some(WRITES.fetch_add(1, Ordering::Relaxed) + 1) {
        std::process::abort();
    }
}

#[cfg(not(debug_assertions))]
fn abort_for_test() {}
