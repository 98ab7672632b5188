//! k3s with its own etcd, and RKE2, which runs etcd as a static pod with the same configuration file
//! (k3s-io/k3s: `pkg/etcd/etcd.go`, `pkg/daemons/executor/executor.go`, `pkg/daemons/control/deps/deps.go`,
//! `pkg/configfilearg`, `install.sh`; rancher/rke2: `pkg/executor/staticpod/staticpod.go`, `bundle/lib/systemd/system`).
//!
//! etcd's configuration names the server's certificate. The client's certificate is in the same directory. A snapshot can
//! only be used with the cluster's token, so the archive contains the token.

use super::api_server::ApiServer;
use super::found::{Found, Member, Platform, PlatformError, read};
use super::node_files::not_yaml;
use super::node_files::{NodeFiles, parent};
use super::settings::{Settings, flags};
use super::systemd_unit::{Unit, words};
use serde::Deserialize;

struct Distribution {
    platform: Platform,
    name: &'static str,
    /// The service of a server, without `.service`.
    unit: &'static str,
    /// The beginning of its variables.
    variables: &'static str,
    /// Paths below the data directory, in addition to those of both distributions.
    resources: &'static [&'static str],
}

const RKE2: Distribution = Distribution {
    platform: Platform::Rke2,
    name: "rke2",
    unit: "rke2-server",
    variables: "RKE2",
    resources: &["agent/pod-manifests"],
};

const K3S: Distribution = Distribution {
    platform: Platform::K3s,
    name: "k3s",
    unit: "k3s",
    variables: "K3S",
    resources: &[],
};

/// Paths below `server` in the data directory, for both distributions.
const SERVER_RESOURCES: [&str; 8] = [
    "token",
    "node-token",
    "agent-token",
    "tls",
    "cred",
    "manifests",
    "db/etcd/config",
    "db/etcd/name",
];

pub(super) fn find_rke2(files: &dyn NodeFiles) -> Result<Option<Found>, PlatformError> {
    find(files, &RKE2)
}

pub(super) fn find_k3s(files: &dyn NodeFiles) -> Result<Option<Found>, PlatformError> {
    find(files, &K3S)
}

fn find(
    files: &dyn NodeFiles,
    distribution: &Distribution,
) -> Result<Option<Found>, PlatformError> {
    let name = distribution.name;
    let configured = configured(files, distribution)?;
    let data_dir = configured
        .data_dir
        .unwrap_or_else(|| format!("/var/lib/rancher/{name}"));
    let mut found_in = configured.found_in;
    let db = format!("{data_dir}/server/db");
    if !files.exists(&db) {
        return Ok(None);
    }
    let config = format!("{db}/etcd/config");
    let Some(text) = read(files, &config)? else {
        let sqlite = format!("{db}/state.db");
        return Err(PlatformError::NoEtcd(if files.exists(&sqlite) {
            format!("{name} stores its data in SQLite ({sqlite})")
        } else {
            format!("{name} stores its data elsewhere ({config} does not exist)")
        }));
    };
    found_in.push(config.clone());
    let incomplete = PlatformError::incomplete(&config);
    let settings = Settings::from_config_file(&text).map_err(&incomplete)?;
    let get = |name: &str| settings.get(name).cloned();
    let ca = get("trusted-ca-file");
    let client = ca.as_deref().map(|ca| {
        let tls = parent(ca);
        (format!("{tls}/client.crt"), format!("{tls}/client.key"))
    });
    let own_dir = format!("/etc/rancher/{name}");
    // RKE2 writes these flags into the manifest of the static pod, k3s runs the API server itself.
    let mut api_server = match distribution.platform {
        Platform::Rke2 => ApiServer::in_pod(
            files,
            &format!("{data_dir}/agent/pod-manifests/kube-apiserver.yaml"),
        ),
        _ => {
            let flags = &configured.api_server_flags;
            ApiServer::with_flags(&own_dir, flags, &|path| path.into(), files)
        }
    };
    let own = || format!("{data_dir}/server/cred/encryption-config.json");
    api_server.encryption.get_or_insert_with(own);
    let below_server = SERVER_RESOURCES.map(|path| format!("{data_dir}/server/{path}"));
    let below = distribution
        .resources
        .iter()
        .map(|path| format!("{data_dir}/{path}"));
    let is_own = |path: &String| path.starts_with(&format!("{own_dir}/"));
    let more: Vec<_> = configured
        .files
        .into_iter()
        .filter(|path| !is_own(path))
        .collect();
    let etc = [own_dir.clone(), "/etc/rancher/node".into()];
    let member = Member {
        platform: distribution.platform,
        found_in,
        endpoint: settings
            .endpoint()
            .ok_or_else(|| incomplete("listen-client-urls is missing".into()))?,
        ca,
        clients: client
            .into_iter()
            .chain(get("cert-file").zip(get("key-file")))
            .collect(),
        data_dir: get("data-dir"),
        resources: etc
            .into_iter()
            .chain(below_server)
            .chain(below)
            .chain(more)
            .collect(),
        api_server,
        files,
    };
    member.complete().map(Some)
}

/// The part of the distribution's configuration that is used. Its keys are the names of the flags.
#[derive(Deserialize)]
struct Config {
    #[serde(rename = "data-dir")]
    data_dir: Option<String>,
    #[serde(default, rename = "kube-apiserver-arg")]
    api_server_flags: Option<Flags>,
    /// With a plus, values are added to those of other files.
    #[serde(default, rename = "kube-apiserver-arg+")]
    more_api_server_flags: Option<Flags>,
}

/// Flags of the API server. What is neither a flag nor a list of flags must not keep etcd from being found.
#[derive(Deserialize)]
#[serde(untagged)]
enum Flags {
    One(String),
    More(Vec<Flags>),
    Other(serde::de::IgnoredAny),
}

impl Flags {
    /// As words of a command line.
    fn words(self) -> Vec<String> {
        match self {
            Flags::One(flag) => vec![format!("--{flag}")],
            Flags::More(flags) => flags.into_iter().flat_map(Flags::words).collect(),
            Flags::Other(_) => Vec::new(),
        }
    }
}

/// What the distribution's configuration says.
#[derive(Default)]
struct Configured {
    data_dir: Option<String>,
    /// The file that sets the data directory, if any.
    found_in: Vec<String>,
    api_server_flags: Vec<String>,
    /// The files in `/etc` that say how it starts, if they exist.
    files: Vec<String>,
}

/// What the service is started with.
struct Started {
    /// The unit, its drop-ins and its environment files.
    paths: Vec<String>,
    flags: Vec<(String, String)>,
    variables: Vec<(String, String)>,
}

impl Started {
    fn read(files: &dyn NodeFiles, distribution: &Distribution) -> Result<Self, PlatformError> {
        let mut unit = Unit::read(files, distribution.unit)?;
        let variables = unit.variables(files)?;
        Ok(Started {
            flags: flags(&words(&unit.command, &variables)),
            paths: unit.paths,
            variables,
        })
    }

    /// The last value of a flag, by one of its names.
    fn flag(&self, names: [&str; 2]) -> Option<&str> {
        let mut flags = self.flags.iter().rev();
        let (_, value) = flags.find(|(flag, _)| names.contains(&flag.as_str()))?;
        Some(value.as_str()).filter(|value| !value.is_empty())
    }

    fn variable(&self, name: &str) -> Option<&str> {
        let mut variables = self.variables.iter().rev();
        let (_, value) = variables.find(|(variable, _)| variable == name)?;
        Some(value.as_str()).filter(|value| !value.is_empty())
    }
}

/// Reads the distribution's configuration. A flag overrides the configuration file, and that overrides a variable.
fn configured(
    files: &dyn NodeFiles,
    distribution: &Distribution,
) -> Result<Configured, PlatformError> {
    let started = Started::read(files, distribution)?;
    let variable = |name: &str| {
        let name = format!("{}_{name}", distribution.variables);
        started.variable(&name).map(String::from)
    };
    let config_file = started.flag(["config", "c"]).map(String::from);
    let config_file = config_file
        .or_else(|| variable("CONFIG_FILE"))
        .unwrap_or_else(|| format!("/etc/rancher/{}/config.yaml", distribution.name));
    let mut found = config_files(files, &config_file)?;
    let in_unit = || started.paths.clone();
    if let Some(data_dir) = started.flag(["data-dir", "d"]) {
        found.data_dir = Some(data_dir.into());
        found.found_in = in_unit();
    } else if found.data_dir.is_none() {
        found.data_dir = variable("DATA_DIR");
        if found.data_dir.is_some() {
            found.found_in = in_unit();
        }
    }
    let of_api_server = started
        .flags
        .iter()
        .filter(|(flag, _)| flag == "kube-apiserver-arg");
    found
        .api_server_flags
        .extend(of_api_server.map(|(_, flag)| format!("--{flag}")));
    found.data_dir = found
        .data_dir
        .map(|dir| dir.trim_end_matches('/').to_string());
    let parts = format!("{config_file}.d");
    found.files = started.paths;
    found.files.extend([config_file, parts]);
    found.files.retain(|path| path.starts_with("/etc/"));
    Ok(found)
}

/// Reads a configuration file and the files in the directory beside it.
fn config_files(files: &dyn NodeFiles, config_file: &str) -> Result<Configured, PlatformError> {
    let mut paths = vec![config_file.to_string()];
    // They are read in the order of their names, and the last one wins.
    let parts = format!("{config_file}.d");
    let is_yaml = |name: &&String| name.ends_with(".yaml") || name.ends_with(".yml");
    paths.extend(
        files
            .names(&parts)
            .iter()
            .filter(is_yaml)
            .map(|name| format!("{parts}/{name}")),
    );
    let mut found = Configured::default();
    for path in paths {
        let text = read(files, &path)?.unwrap_or_default();
        if text.trim().is_empty() {
            continue;
        }
        let config: Option<Config> = serde_saphyr::from_str(&text)
            .map_err(|error| PlatformError::incomplete(&path)(not_yaml(&error)))?;
        let Some(config) = config else {
            continue;
        };
        if let Some(data_dir) = config.data_dir {
            found.data_dir = Some(data_dir);
            found.found_in = vec![path];
        }
        let flags = config.api_server_flags.into_iter();
        let flags = flags.chain(config.more_api_server_flags);
        found.api_server_flags.extend(flags.flat_map(Flags::words));
    }
    Ok(found)
}
