//! The manifest of a static pod: what it runs, with which environment, and where on the node its paths are.

use super::node_files::not_yaml;
use super::settings::Settings;
use serde::Deserialize;

/// The parts of a Pod that are used.
#[derive(Deserialize)]
struct Pod {
    spec: PodSpec,
}

#[derive(Deserialize)]
struct PodSpec {
    #[serde(default)]
    containers: Vec<Container>,
    #[serde(default)]
    volumes: Vec<Volume>,
}

#[derive(Deserialize)]
struct Container {
    name: String,
    #[serde(default)]
    command: Vec<String>,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: Vec<Variable>,
    #[serde(default, rename = "volumeMounts")]
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
        let below = |mount: &&Mount| {
            path.strip_prefix(mount.path.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let mount = self
            .container
            .mounts
            .iter()
            .filter(below)
            .max_by_key(|mount| mount.path.len());
        let host = mount.and_then(|mount| {
            let volume = self
                .volumes
                .iter()
                .find(|volume| volume.name == mount.name)?;
            let rest = path.strip_prefix(mount.path.as_str())?;
            Some(format!("{}{rest}", volume.host.as_ref()?.path))
        });
        host.unwrap_or_else(|| path.to_string())
    }
}
