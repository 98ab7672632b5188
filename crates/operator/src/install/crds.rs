//! Creates the namespace and the CRDs that the operator needs.

use crate::cluster::cluster_info::{ClusterInfo, CrdOwner, Platform};
use crate::names::{FIELD_MANAGER, MANAGED_BY, US, is_managed_by_us as is_ours};
use cluster_api::resources::{self, NodeBackup};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Client, Resource, ResourceExt};

/// Creates the namespace if it does not exist.
pub(crate) async fn create_namespace(client: &Client, name: &str) -> Result<(), kube::Error> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let namespace = Namespace {
        metadata: ObjectMeta {
            name: Some(name.into()),
            ..ObjectMeta::default()
        },
        ..Namespace::default()
    };
    ignore_conflict(namespaces.create(&PostParams::default(), &namespace).await)
}

/// Creates missing CRDs, and updates CRDs that this operator created before. Never changes CRDs of another owner. On OpenShift,
/// `Backup` and `EtcdBackup` belong to OpenShift.
pub(crate) async fn apply_crds(client: &Client, cluster: &ClusterInfo) -> Result<(), kube::Error> {
    let all: Api<CustomResourceDefinition> = Api::all(client.clone());
    for definition in own_crds() {
        let own = definition.spec.names.kind == NodeBackup::kind(&());
        if !own && cluster.crd_owner == CrdOwner::Upstream {
            continue;
        }
        let params = PostParams {
            field_manager: Some(FIELD_MANAGER.into()),
            ..PostParams::default()
        };
        match all.create(&params, &definition).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            created => {
                created?;
                continue;
            }
        }
        let name = definition.name_any();
        if own || (cluster.platform != Platform::OpenShift && is_managed_by_us(&all, &name).await?)
        {
            let params = PatchParams::apply(FIELD_MANAGER).force();
            all.patch(&name, &params, &Patch::Apply(&definition))
                .await?;
        }
    }
    Ok(())
}

fn own_crds() -> [CustomResourceDefinition; 3] {
    resources::crds().map(|mut definition| {
        let labels = definition.metadata.labels.get_or_insert_default();
        labels.insert(MANAGED_BY.into(), US.into());
        definition
    })
}

async fn is_managed_by_us(
    all: &Api<CustomResourceDefinition>,
    name: &str,
) -> Result<bool, kube::Error> {
    let found = all.get_opt(name).await?;
    Ok(found.is_some_and(|found| is_ours(found.labels())))
}

/// Ignores the error that the object already exists.
fn ignore_conflict<T>(created: Result<T, kube::Error>) -> Result<(), kube::Error> {
    match created {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        Err(error) => Err(error),
    }
}
