//! k3s with its own etcd, and RKE2, which runs etcd as a static pod with the same configuration file
//! (k3s-io/k3s: `pkg/etcd/etcd.go`, `pkg/daemons/executor/executor.go`, `pkg/daemons/control/deps/deps.go`;
//! rancher/rke2: `pkg/executor/staticpod/staticpod.go`).
//!
//! etcd's configuration names the server's certificate. The client's certificate is in the same directory. A snapshot can
//! only be used with the cluster's token, so the archive contains the token.

use super::api_server::ApiServer;
use super::found::{Found, Member, Platform, PlatformError, read};
use super::node_files::not_yaml;
use super::node_files::{NodeFiles, parent};
use super::settings::Settings;
use serde::Deserialize;

struct Distribution {
    platform: Platform,
    name: &'static str,
    /// Paths below the data directory, in addition to those of both distributions.
    resources: &'static [&'static str],
    /// Other paths on the node.
    more: &'static [&'static str],
}

const RKE2: Distribution = Distribution {
    platform: Platform::Rke2,
    name: "rke2",
    resources: &["agent/pod-manifests"],
    more: &["/etc/default/rke2-server", "/etc/sysconfig/rke2-server"],
};

const K3S: Distribution = Distribution {
    platform: Platform::K3s,
    name: "k3s",
    resources: &[],
    more: &[
        "/etc/systemd/system/k3s.service",
        "/etc/systemd/system/k3s.service.env",
    ],
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
    let configured = configured(files, name)?;
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
    // RKE2 writes these flags into the manifest of the static pod, k3s runs the API server itself.
    let mut api_server = match distribution.platform {
        Platform::Rke2 => ApiServer::in_pod(
            files,
            &format!("{data_dir}/agent/pod-manifests/kube-apiserver.yaml"),
        ),
        _ => ApiServer::with_flags(&configured.api_server_flags, &|path| path.into(), files),
    };
    let own = || format!("{data_dir}/server/cred/encryption-config.json");
    api_server.encryption.get_or_insert_with(own);
    let etc = [format!("/etc/rancher/{name}"), "/etc/rancher/node".into()];
    let below_server = SERVER_RESOURCES.map(|path| format!("{data_dir}/server/{path}"));
    let below = distribution
        .resources
        .iter()
        .map(|path| format!("{data_dir}/{path}"));
    let more = distribution.more.iter().map(ToString::to_string);
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
}

/// Reads the distribution's configuration.
fn configured(files: &dyn NodeFiles, name: &str) -> Result<Configured, PlatformError> {
    let dir = format!("/etc/rancher/{name}");
    let mut paths = vec![format!("{dir}/config.yaml")];
    // They are read in the order of their names, and the last one wins.
    let parts = format!("{dir}/config.yaml.d");
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
            found.data_dir = Some(data_dir.trim_end_matches('/').to_string());
            found.found_in = vec![path];
        }
        let flags = config.api_server_flags.into_iter();
        let flags = flags.chain(config.more_api_server_flags);
        found.api_server_flags.extend(flags.flat_map(Flags::words));
    }
    Ok(found)
}
