//! What the operator needs in a cluster before it can work.

use backup_plan::api::{self, NodeBackup};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, ObjectMeta, PostParams};
use kube::{Client, Resource};

/// Makes a namespace if there is none.
pub(crate) async fn namespace(client: &Client, name: &str) -> Result<(), kube::Error> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let namespace = Namespace {
        metadata: ObjectMeta {
            name: Some(name.into()),
            ..ObjectMeta::default()
        },
        ..Namespace::default()
    };
    made(namespaces.create(&PostParams::default(), &namespace).await)
}

/// Makes the kinds that are absent; one that another owner made is never changed. Where `Backup` and `EtcdBackup`
/// are upstream's, only our own.
pub(crate) async fn definitions(client: &Client, ours: bool) -> Result<(), kube::Error> {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    for definition in &api::definitions() {
        if ours || definition.spec.names.kind == NodeBackup::kind(&()) {
            made(definitions.create(&PostParams::default(), definition).await)?;
        }
    }
    Ok(())
}

/// That it is there already is as good.
fn made<T>(created: Result<T, kube::Error>) -> Result<(), kube::Error> {
    match created {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        Err(error) => Err(error),
    }
}
