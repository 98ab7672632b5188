//! An etcd that systemd runs: kubespray's (kubernetes-sigs/kubespray: `roles/etcd/templates/etcd.env.j2`,
//! `etcd-host.service.j2`), Debian's package `etcd-server`, Fedora's, and what people write themselves.
//!
//! The unit contains the environment and the flags of etcd. If there is no unit, the known environment files of these
//! installations are read. As in etcd itself, a configuration file replaces all other settings, and a flag overrides the
//! environment.

use super::api_server::ApiServer;
use super::found::{Found, Member, PLAIN_ENDPOINT, Platform, PlatformError, read};
use super::kubeadm;
use super::node_files::NodeFiles;
use super::other_etcd::OtherEtcd;
use super::settings::Settings;
use super::systemd_unit::{Unit, words};

const KUBESPRAY: &str = "/etc/etcd.env";
const KUBESPRAY_EVENTS: &str = "/etc/etcd-events.env";
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

/// An etcd that systemd runs.
struct Service {
    /// The files that say how it runs.
    found_in: Vec<String>,
    settings: Settings,
    variables: Vec<(String, String)>,
}

impl Service {
    /// Reads a unit; without one, the first of these environment files that exists, or of these configuration files.
    fn read(
        files: &dyn NodeFiles,
        name: &str,
        environment_files: &[&str],
        config_files: &[&str],
    ) -> Result<Option<Service>, PlatformError> {
        let mut unit = Unit::read(files, name)?;
        if unit.paths.is_empty() {
            unit.environment_files = environment_files
                .iter()
                .filter(|path| files.exists(path))
                .take(1)
                .map(ToString::to_string)
                .collect();
            unit.command = "$DAEMON_ARGS".into();
        }
        let variables = unit.variables(files)?;
        let mut found_in = unit.paths;
        let flags = Settings::from_words(&words(&unit.command, &variables));
        let environment = Settings::from_environment(&variables);
        let mut settings = flags.or(environment);
        let mut config_file = settings.get("config-file").cloned();
        if found_in.is_empty() {
            let mut config_files = config_files.iter();
            config_file = config_files
                .find(|path| files.exists(path))
                .map(ToString::to_string);
        }
        if let Some(path) = config_file {
            let incomplete = PlatformError::incomplete(&path);
            let text =
                read(files, &path)?.ok_or_else(|| incomplete("the file does not exist".into()))?;
            settings = Settings::from_config_file(&text).map_err(incomplete)?;
            found_in.push(path);
        }
        Ok((!found_in.is_empty()).then_some(Service {
            found_in,
            settings,
            variables,
        }))
    }

    fn get(&self, name: &str) -> Option<String> {
        self.settings.get(name).cloned()
    }

    fn variable(&self, name: &str) -> Option<String> {
        let set = self.variables.iter().rev().find(|(key, _)| key == name)?;
        Some(set.1.clone()).filter(|value| !value.is_empty())
    }

    fn endpoint(&self) -> String {
        let endpoint = self.settings.endpoint();
        endpoint.unwrap_or_else(|| PLAIN_ENDPOINT.into())
    }

    fn ca(&self) -> Option<String> {
        self.variable("ETCDCTL_CACERT")
            .or_else(|| self.get("trusted-ca-file"))
    }

    /// Certificates of clients with their keys, the best first.
    fn clients(&self) -> Vec<(String, String)> {
        let pair = |cert: Option<String>, key: Option<String>| cert.zip(key);
        let of_etcdctl = pair(self.variable("ETCDCTL_CERT"), self.variable("ETCDCTL_KEY"));
        // etcd requires a client certificate if it has a certificate authority for them. Its own certificate works as one.
        let own = pair(self.get("cert-file"), self.get("key-file"))
            .filter(|_| self.get("trusted-ca-file").is_some());
        of_etcdctl
            .into_iter()
            .chain(pair(
                self.get("client-cert-file"),
                self.get("client-key-file"),
            ))
            .chain(own)
            .collect()
    }
}

pub(super) fn find(files: &dyn NodeFiles) -> Result<Option<Found>, PlatformError> {
    let environment_files = [KUBESPRAY, DEBIAN, FEDORA];
    let Some(service) = Service::read(files, "etcd", &environment_files, &CONFIG_FILES)? else {
        return Ok(None);
    };
    let found_in = service.found_in.clone();
    let ca = service.ca();
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
        let named = CERTIFICATES.iter().filter_map(|name| service.get(name));
        for path in named.chain(ca.clone()) {
            if !resources.contains(&path) {
                resources.push(path);
            }
        }
    }
    let debian = found_in.iter().any(|path| path == DEBIAN);
    let default_data_dir =
        || (debian && files.exists(DEBIAN_DATA_DIR)).then(|| DEBIAN_DATA_DIR.into());
    let mut api_server = match kubespray {
        true => ApiServer::in_pod(files, kubeadm::API_SERVER_MANIFEST),
        false => ApiServer::default(),
    };
    if kubespray {
        // Its own service says more than the flags of the API server.
        api_server.etcds.splice(0..0, events(files)?);
        resources.push(KUBESPRAY_EVENTS.into());
    }
    let member = Member {
        platform: if kubespray {
            Platform::Kubespray
        } else {
            Platform::Systemd
        },
        endpoint: service.endpoint(),
        clients: service.clients(),
        ca,
        data_dir: service.get("data-dir").or_else(default_data_dir),
        api_server,
        resources,
        found_in,
        files,
    };
    member.complete().map(Some)
}

/// kubespray's second etcd, for events (`roles/etcd/templates/etcd-events.env.j2`, `etcd-events-host.service.j2`).
fn events(files: &dyn NodeFiles) -> Result<Option<OtherEtcd>, PlatformError> {
    let Some(service) = Service::read(files, "etcd-events", &[KUBESPRAY_EVENTS], &[])? else {
        return Ok(None);
    };
    let exist = |(cert, key): &(String, String)| files.exists(cert) && files.exists(key);
    let (cert, key) = service.clients().into_iter().find(exist).unzip();
    Ok(Some(OtherEtcd {
        name: "events".into(),
        endpoints: vec![service.endpoint()],
        cacert: service.ca(),
        cert,
        key,
        found_in: service.found_in.last().cloned().unwrap_or_default(),
    }))
}
