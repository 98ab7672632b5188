//! The manifest of a static pod: what it runs, with which environment, and where on the node its paths are.

use super::node_files::{not_yaml, or_default};
use super::settings::Settings;
use serde::Deserialize;

/// The parts of a Pod that are used.
#[derive(Deserialize)]
struct Pod {
    spec: PodSpec,
}

#[derive(Deserialize)]
struct PodSpec {
    #[serde(default, deserialize_with = "or_default")]
    containers: Vec<Container>,
    #[serde(default, deserialize_with = "or_default")]
    volumes: Vec<Volume>,
}

#[derive(Deserialize)]
struct Container {
    name: String,
    image: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    command: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    args: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    env: Vec<Variable>,
    #[serde(default, rename = "volumeMounts", deserialize_with = "or_default")]
    mounts: Vec<Mount>,
}

#[derive(Deserialize)]
struct Variable {
    name: String,
    value: Option<String>,
}

#[derive(Deserialize)]
struct Mount {
    name: String,
    #[serde(rename = "mountPath")]
    path: String,
    /// The part of the volume that is mounted, if it is not all of it.
    #[serde(rename = "subPath")]
    part: Option<String>,
}

impl Mount {
    /// The rest of a path below it.
    fn rest<'p>(&self, path: &'p str) -> Option<&'p str> {
        let rest = path.strip_prefix(self.path.trim_end_matches('/'))?;
        (rest.is_empty() || rest.starts_with('/')).then_some(rest)
    }
}

#[derive(Deserialize)]
struct Volume {
    name: String,
    #[serde(rename = "hostPath")]
    host: Option<HostPath>,
}

#[derive(Deserialize)]
struct HostPath {
    path: String,
}

/// A container of a static pod.
pub(super) struct StaticPod {
    container: Container,
    volumes: Vec<Volume>,
}

impl StaticPod {
    /// Reads a manifest, and takes the container with this name.
    pub(super) fn read(manifest: &str, name: &str) -> Result<Self, String> {
        let pod: Pod = serde_saphyr::from_str(manifest).map_err(|error| not_yaml(&error))?;
        let container = pod
            .spec
            .containers
            .into_iter()
            .find(|container| container.name == name)
            .ok_or_else(|| format!("the pod has no container named {name}"))?;
        Ok(StaticPod {
            container,
            volumes: pod.spec.volumes,
        })
    }

    /// The container's command and arguments.
    pub(super) fn words(&self) -> Vec<String> {
        let words = self.container.command.iter().chain(&self.container.args);
        words.cloned().collect()
    }

    /// Its image.
    pub(super) fn image(&self) -> Option<&str> {
        self.container.image.as_deref()
    }

    /// The tag of its image, such as `v1.37.2`. `None` if the image has only a digest.
    pub(super) fn image_tag(&self) -> Option<&str> {
        let image = self.image()?;
        let name = image.split_once('@').map_or(image, |(name, _)| name);
        let (_, tag) = name.rsplit_once(':')?;
        // Behind a registry's port comes a path.
        (!tag.contains('/')).then_some(tag)
    }

    /// The flags that it is started with.
    pub(super) fn settings(&self) -> Settings {
        Settings::from_words(&self.words())
    }

    /// A variable of the container's environment. `None` if it is missing or empty.
    pub(super) fn variable(&self, name: &str) -> Option<&str> {
        let variable = self
            .container
            .env
            .iter()
            .find(|variable| variable.name == name)?;
        variable.value.as_deref().filter(|value| !value.is_empty())
    }

    /// Where a path of the container is on the node.
    pub(super) fn on_node(&self, path: &str) -> String {
        let mounts = self.container.mounts.iter();
        let mount = mounts
            .filter(|mount| mount.rest(path).is_some())
            .max_by_key(|mount| mount.path.trim_end_matches('/').len());
        let host = mount.and_then(|mount| {
            let volume = self
                .volumes
                .iter()
                .find(|volume| volume.name == mount.name)?;
            let host = volume.host.as_ref()?.path.trim_end_matches('/');
            let part = mount.part.as_deref().filter(|part| !part.is_empty());
            let part = part.map_or_else(String::new, |part| format!("/{part}"));
            Some(format!("{host}{part}{}", mount.rest(path)?))
        });
        host.unwrap_or_else(|| path.to_string())
    }
}
