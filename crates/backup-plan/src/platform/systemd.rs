//! An etcd that systemd runs: kubespray's (kubernetes-sigs/kubespray: `roles/etcd/templates/etcd.env.j2`,
//! `etcd-host.service.j2`), Debian's package `etcd-server`, Fedora's, and what people write themselves.
//!
//! The unit contains the environment and the flags of etcd. If there is no unit, the known environment files of these
//! installations are read. As in etcd itself, a configuration file replaces all other settings, and a flag overrides the
//! environment.

use super::api_server::ApiServer;
use super::environment_file;
use super::found::{Found, Member, PLAIN_ENDPOINT, Platform, PlatformError, read};
use super::kubeadm;
use super::node_files::NodeFiles;
use super::settings::Settings;

const UNIT: &str = "etcd.service";
const UNIT_DIRS: [&str; 5] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];
const KUBESPRAY: &str = "/etc/etcd.env";
const DEBIAN: &str = "/etc/default/etcd";
const FEDORA: &str = "/etc/etcd/etcd.conf";
const CONFIG_FILES: [&str; 2] = ["/etc/etcd/etcd.conf.yml", "/etc/etcd/etcd.conf.yaml"];
const DEBIAN_DATA_DIR: &str = "/var/lib/etcd/default";

/// The settings that name the certificates and keys of clients and peers.
const CERTIFICATES: [&str; 8] = [
    "trusted-ca-file",
    "cert-file",
    "key-file",
    "client-cert-file",
    "client-key-file",
    "peer-trusted-ca-file",
    "peer-cert-file",
    "peer-key-file",
];

/// The settings of a systemd unit.
#[derive(Default)]
struct Service {
    /// The files it was read from.
    paths: Vec<String>,
    environment: Vec<(String, String)>,
    environment_files: Vec<String>,
    command: String,
}

pub(super) fn find(files: &dyn NodeFiles) -> Result<Option<Found>, PlatformError> {
    let service = service(files)?;
    let mut found_in = service.paths;
    let mut variables = service.environment;
    for path in service.environment_files {
        if let Some(text) = read(files, &path)? {
            variables.extend(environment_file::parse(&text));
            found_in.push(path);
        }
    }
    let words = words(&service.command, &variables);
    let flags = Settings::from_words(&words);
    let environment = Settings::from_environment(&variables);
    let mut settings = flags.or(environment);
    let mut config_file = settings.get("config-file").cloned();
    if found_in.is_empty() {
        config_file = CONFIG_FILES
            .into_iter()
            .find(|path| files.exists(path))
            .map(String::from);
    }
    if let Some(path) = config_file {
        let incomplete = PlatformError::incomplete(&path);
        let text =
            read(files, &path)?.ok_or_else(|| incomplete("the file does not exist".into()))?;
        settings = Settings::from_config_file(&text).map_err(incomplete)?;
        found_in.push(path);
    }
    if found_in.is_empty() {
        return Ok(None);
    }

    let variable = |name: &str| {
        let set = variables.iter().rev().find(|(key, _)| key == name)?;
        Some(set.1.clone()).filter(|value| !value.is_empty())
    };
    let get = |name: &str| settings.get(name).cloned();
    let pair = |cert: Option<String>, key: Option<String>| cert.zip(key);
    let of_etcdctl = pair(variable("ETCDCTL_CERT"), variable("ETCDCTL_KEY"));
    let ca = variable("ETCDCTL_CACERT").or_else(|| get("trusted-ca-file"));
    // etcd requires a client certificate if it has a certificate authority for them. Its own certificate works as one.
    let own = pair(get("cert-file"), get("key-file")).filter(|_| get("trusted-ca-file").is_some());
    let clients = of_etcdctl
        .into_iter()
        .chain(pair(get("client-cert-file"), get("client-key-file")))
        .chain(own)
        .collect();
    let mut resources: Vec<String> = found_in
        .iter()
        .filter(|path| path.starts_with("/etc/"))
        .cloned()
        .collect();
    let kubespray = found_in.iter().any(|path| path == KUBESPRAY);
    if kubespray {
        resources.extend(["/etc/ssl/etcd".to_string(), "/etc/kubernetes".into()]);
        resources.extend(kubeadm::KUBELET.map(String::from));
    } else {
        let named = CERTIFICATES.iter().filter_map(|name| get(name));
        for path in named.chain(ca.clone()) {
            if !resources.contains(&path) {
                resources.push(path);
            }
        }
    }
    let debian = found_in.iter().any(|path| path == DEBIAN);
    let default_data_dir =
        || (debian && files.exists(DEBIAN_DATA_DIR)).then(|| DEBIAN_DATA_DIR.into());
    let member = Member {
        platform: if kubespray {
            Platform::Kubespray
        } else {
            Platform::Systemd
        },
        endpoint: settings.endpoint().unwrap_or_else(|| PLAIN_ENDPOINT.into()),
        ca,
        clients,
        data_dir: get("data-dir").or_else(default_data_dir),
        api_server: match kubespray {
            true => ApiServer::in_pod(files, kubeadm::API_SERVER_MANIFEST),
            false => ApiServer::default(),
        },
        resources,
        found_in,
        files,
    };
    member.complete().map(Some)
}

/// Reads the unit with its drop-ins. Without a unit, uses the known environment files.
fn service(files: &dyn NodeFiles) -> Result<Service, PlatformError> {
    let mut service = Service::default();
    for dir in UNIT_DIRS {
        let path = format!("{dir}/{UNIT}");
        if let Some(text) = read(files, &path)? {
            service.add(&text);
            service.paths.push(path);
            break;
        }
    }
    if service.paths.is_empty() {
        service.environment_files = [KUBESPRAY, DEBIAN, FEDORA]
            .into_iter()
            .filter(|path| files.exists(path))
            .take(1)
            .map(String::from)
            .collect();
        service.command = "$DAEMON_ARGS".into();
        return Ok(service);
    }
    // systemd uses the first of several drop-ins with the same name. In reverse order this is the last one.
    let mut drop_ins = std::collections::BTreeMap::new();
    for dir in UNIT_DIRS.iter().rev() {
        let dir = format!("{dir}/{UNIT}.d");
        for name in files.names(&dir) {
            if name.ends_with(".conf") {
                let path = format!("{dir}/{name}");
                drop_ins.insert(name, path);
            }
        }
    }
    for path in drop_ins.into_values() {
        if let Some(text) = read(files, &path)? {
            service.add(&text);
            service.paths.push(path);
        }
    }
    Ok(service)
}

impl Service {
    /// Adds the settings of a file. They override earlier settings.
    fn add(&mut self, text: &str) {
        let text = text.replace("\\\n", " ");
        let mut in_service = false;
        for line in text.lines().map(str::trim) {
            if line.starts_with('[') {
                in_service = line == "[Service]";
            }
            let Some((key, value)) = line.split_once('=').filter(|_| in_service) else {
                continue;
            };
            let value = value.trim();
            match key.trim() {
                "Environment" if value.is_empty() => self.environment.clear(),
                "Environment" => {
                    let assignments = quoted_words(value).into_iter();
                    self.environment.extend(assignments.filter_map(|word| {
                        let (name, value) = word.split_once('=')?;
                        Some((name.to_string(), value.to_string()))
                    }));
                }
                "EnvironmentFile" if value.is_empty() => self.environment_files.clear(),
                "EnvironmentFile" => {
                    // The name of the unit, and its instance, which etcd.service does not have.
                    let path = value.trim_start_matches('-');
                    let path = path.replace("%p", "etcd").replace("%N", "etcd");
                    self.environment_files.push(path.replace("%i", ""));
                }
                // The last of several commands is used: a service that keeps running has only one.
                "ExecStart" => self.command = value.into(),
                _ => {}
            }
        }
    }
}

/// Splits at white space outside of quotes, as systemd splits the assignments of `Environment=`.
fn quoted_words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (_, '\\') => word.get_or_insert_default().extend(chars.next()),
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

fn unquoted(word: &str) -> String {
    word.replace(['"', '\'', '\\'], "")
}

/// Splits a command line into words and replaces the variables of its environment, also if a shell starts etcd.
/// Variables in the values of variables are not replaced.
fn words(command: &str, variables: &[(String, String)]) -> Vec<String> {
    /// A command line is not longer. If the environment makes it longer, it is ignored.
    const MAX_BYTES: usize = 1 << 17;
    let value_of = |name: &str| {
        let set = variables.iter().rev().find(|(key, _)| key == name);
        set.map_or("", |(_, value)| value.as_str())
    };
    let mut expanded = String::new();
    for word in unquoted(command).split_whitespace() {
        expanded.push(' ');
        let mut rest = word;
        while let Some((before, after)) = rest.split_once('$') {
            expanded.push_str(before);
            let (name, after) = match after.strip_prefix('{') {
                Some(braced) => braced.split_once('}').unwrap_or((braced, "")),
                None => {
                    let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
                    after.split_at(end.unwrap_or(after.len()))
                }
            };
            expanded.push_str(value_of(name));
            rest = after;
            if expanded.len() > MAX_BYTES {
                return Vec::new();
            }
        }
        expanded.push_str(rest);
    }
    expanded.split_whitespace().map(String::from).collect()
}
