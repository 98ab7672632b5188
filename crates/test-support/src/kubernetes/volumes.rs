//! The volumes of a pod, as files and directories of the machine.

use super::node_context::Context;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{
    ConfigMap, DownwardAPIVolumeFile, HostPathVolumeSource, PersistentVolume,
    PersistentVolumeClaim, Pod, ProjectedVolumeSource, Secret, ServiceAccount, Volume,
};
use kube::api::{Api, PostParams};
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The path of each volume of a pod. An error says what is missing, as the kubelet's event does.
pub(super) async fn prepare(
    context: &Context,
    pod: &Pod,
    dir: &Path,
) -> Result<BTreeMap<String, PathBuf>, String> {
    let mut found = BTreeMap::new();
    let volumes = pod
        .spec
        .iter()
        .flat_map(|spec| spec.volumes.iter().flatten());
    for volume in volumes {
        let own = dir.join(&volume.name);
        let path = one(context, pod, volume, own).await.map_err(|problem| {
            format!(
                "MountVolume.SetUp failed for volume {:?}: {problem}",
                volume.name
            )
        })?;
        found.insert(volume.name.clone(), path);
    }
    Ok(found)
}

async fn one(
    context: &Context,
    pod: &Pod,
    volume: &Volume,
    own: PathBuf,
) -> Result<PathBuf, String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    if let Some(host) = &volume.host_path {
        return host_path(context, host);
    }
    if let Some(claim) = &volume.persistent_volume_claim {
        return claimed(context, namespace, &claim.claim_name).await;
    }
    std::fs::create_dir_all(&own).map_err(|error| error.to_string())?;
    if volume.empty_dir.is_some() {
        return Ok(own);
    }
    let files = if let Some(source) = &volume.config_map {
        config_map(context, namespace, &source.name).await?
    } else if let Some(source) = &volume.secret {
        let name = source.secret_name.clone().unwrap_or_default();
        secret(context, namespace, &name).await?
    } else if let Some(source) = &volume.downward_api {
        downward(pod, source.items.as_deref().unwrap_or_default())
    } else if let Some(source) = &volume.projected {
        projected(context, pod, source).await?
    } else {
        return Err("a kind of volume that this kubelet does not know".into());
    };
    for (name, bytes) in files {
        let path = own.join(name);
        write(&path, &bytes).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(own)
}

fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    std::fs::create_dir_all(path.parent().unwrap_or(path))?;
    std::fs::write(path, bytes)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644))
}

/// A path of the node, below its root.
fn host_path(context: &Context, host: &HostPathVolumeSource) -> Result<PathBuf, String> {
    let path = context.root.join(host.path.trim_start_matches('/'));
    let failed = |error: std::io::Error| format!("{}: {error}", host.path);
    let is_not = |what: &str| {
        Err(format!(
            "hostPath type check failed: {} is not a {what}",
            host.path
        ))
    };
    match host.type_.as_deref().unwrap_or_default() {
        "DirectoryOrCreate" => std::fs::create_dir_all(&path).map_err(failed)?,
        "FileOrCreate" if !path.exists() => {
            std::fs::create_dir_all(path.parent().unwrap_or(&path)).map_err(failed)?;
            std::fs::write(&path, "").map_err(failed)?;
        }
        "Directory" if !path.is_dir() => return is_not("directory"),
        "File" if !path.is_file() => return is_not("file"),
        // A container runtime creates a directory if nothing exists at the path.
        "" if !path.exists() => std::fs::create_dir_all(&path).map_err(failed)?,
        _ => {}
    }
    Ok(path)
}

/// The volume to which a PVC is bound, if it is a path of the node.
async fn claimed(context: &Context, namespace: &str, name: &str) -> Result<PathBuf, String> {
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(context.client.clone(), namespace);
    let claim = claims.get(name).await.map_err(|error| error.to_string())?;
    let volume = claim.spec.and_then(|spec| spec.volume_name);
    let volume = volume.ok_or_else(|| format!("claim {name} is not bound yet"))?;
    let volumes: Api<PersistentVolume> = Api::all(context.client.clone());
    let volume = volumes
        .get(&volume)
        .await
        .map_err(|error| error.to_string())?;
    let host = volume.spec.and_then(|spec| spec.host_path);
    let mut host = host.ok_or("a volume that is no path of the node")?;
    host.type_ = Some("DirectoryOrCreate".into());
    host_path(context, &host)
}

type Files = BTreeMap<String, Vec<u8>>;

async fn config_map(context: &Context, namespace: &str, name: &str) -> Result<Files, String> {
    let maps: Api<ConfigMap> = Api::namespaced(context.client.clone(), namespace);
    let map = maps.get(name).await.map_err(|error| error.to_string())?;
    let text = map.data.unwrap_or_default();
    Ok(text
        .into_iter()
        .map(|(name, text)| (name, text.into_bytes()))
        .collect())
}

async fn secret(context: &Context, namespace: &str, name: &str) -> Result<Files, String> {
    let secrets: Api<Secret> = Api::namespaced(context.client.clone(), namespace);
    let secret = secrets.get(name).await.map_err(|error| error.to_string())?;
    let data = secret.data.unwrap_or_default();
    Ok(data
        .into_iter()
        .map(|(name, bytes)| (name, bytes.0))
        .collect())
}

fn downward(pod: &Pod, items: &[DownwardAPIVolumeFile]) -> Files {
    let fields = items.iter().filter_map(|item| {
        let field = item.field_ref.as_ref()?;
        let value = field_of(pod, &field.field_path)?;
        Some((item.path.clone(), value.into_bytes()))
    });
    fields.collect()
}

/// A field of a pod, as the downward API names it.
pub(super) fn field_of(pod: &Pod, path: &str) -> Option<String> {
    let metadata = &pod.metadata;
    let keyed = |map: &Option<BTreeMap<String, String>>, prefix: &str| {
        let key = path.strip_prefix(prefix)?.strip_suffix("']")?;
        map.as_ref()?.get(key).cloned()
    };
    match path {
        "metadata.name" => metadata.name.clone(),
        "metadata.namespace" => metadata.namespace.clone(),
        "metadata.uid" => metadata.uid.clone(),
        "spec.nodeName" => pod.spec.as_ref()?.node_name.clone(),
        "spec.serviceAccountName" => pod.spec.as_ref()?.service_account_name.clone(),
        "status.hostIP" | "status.podIP" => Some("127.0.0.1".into()),
        _ => keyed(&metadata.labels, "metadata.labels['")
            .or_else(|| keyed(&metadata.annotations, "metadata.annotations['")),
    }
}

async fn projected(
    context: &Context,
    pod: &Pod,
    source: &ProjectedVolumeSource,
) -> Result<Files, String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let mut files = Files::new();
    let pick = |all: Files, items: Option<&Vec<k8s_openapi::api::core::v1::KeyToPath>>| match items
    {
        None => all,
        Some(items) => items
            .iter()
            .filter_map(|item| Some((item.path.clone(), all.get(&item.key)?.clone())))
            .collect(),
    };
    for source in source.sources.iter().flatten() {
        if let Some(token) = &source.service_account_token {
            let token_text = token_of(
                context,
                pod,
                token.audience.as_deref(),
                token.expiration_seconds,
            )
            .await?;
            files.insert(token.path.clone(), token_text.into_bytes());
        }
        if let Some(map) = &source.config_map {
            let all = config_map(context, namespace, &map.name).await?;
            files.extend(pick(all, map.items.as_ref()));
        }
        if let Some(named) = &source.secret {
            let all = secret(context, namespace, &named.name).await?;
            files.extend(pick(all, named.items.as_ref()));
        }
        if let Some(fields) = &source.downward_api {
            files.extend(downward(pod, fields.items.as_deref().unwrap_or_default()));
        }
    }
    Ok(files)
}

/// A token of the pod's service account, bound to the pod.
async fn token_of(
    context: &Context,
    pod: &Pod,
    audience: Option<&str>,
    expiration_s: Option<i64>,
) -> Result<String, String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let account = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.service_account_name.clone());
    let accounts: Api<ServiceAccount> = Api::namespaced(context.client.clone(), namespace);
    let request = TokenRequest {
        spec: TokenRequestSpec {
            audiences: audience.map(String::from).into_iter().collect(),
            expiration_seconds: expiration_s,
            bound_object_ref: Some(BoundObjectReference {
                kind: Some("Pod".into()),
                api_version: Some("v1".into()),
                name: pod.metadata.name.clone(),
                uid: pod.metadata.uid.clone(),
            }),
        },
        ..TokenRequest::default()
    };
    let account = account.unwrap_or_else(|| "default".into());
    let answer = accounts
        .create_token_request(&account, &PostParams::default(), &request)
        .await
        .map_err(|error| error.to_string())?;
    let status = answer.status.ok_or("a token request without an answer")?;
    Ok(status.token)
}
