//! PersistentVolumeClaims that a `Backup` or an `EtcdBackup` names.

use super::lenient::Lenient;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::Client;
use kube::api::Api;

/// Asks the API server whether a PersistentVolumeClaim exists.
pub(crate) async fn pvc_exists(
    client: &Client,
    namespace: &str,
    name: &str,
) -> Result<bool, kube::Error> {
    let all: Api<Lenient<PersistentVolumeClaim>> = Api::namespaced(client.clone(), namespace);
    Ok(all.get_opt(name).await?.is_some())
}

/// The message for a missing PersistentVolumeClaim.
pub(crate) fn pvc_missing_message(namespace: &str, field: &str, name: &str) -> String {
    format!(
        "{field}: PersistentVolumeClaim {name:?} does not exist in namespace {namespace}; create it there, or remove pvcName to store backups on the disks of the nodes"
    )
}
