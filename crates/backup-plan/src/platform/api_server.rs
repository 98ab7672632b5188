//! The files that the API server of a node reads, from its flags: a restore on a new machine needs them, too.

use super::node_files::{NodeFiles, not_yaml, or_default, parent, plain};
use super::other_etcd::{OtherEtcd, overrides, servers_of};
use super::settings::{Settings, flags};
use super::static_pod::StaticPod;
use serde::Deserialize;

const CONTAINER: &str = "kube-apiserver";
const ENCRYPTION: &str = "encryption-provider-config";
const ADMISSION: &str = "admission-control-config-file";
/// Flags with a value that begins with a slash, and that is not a file which the API server reads.
const OTHER_FLAGS: [&str; 6] = [
    "audit-log-path",
    "authorization-always-allow-paths",
    "cert-dir",
    "etcd-prefix",
    "log-dir",
    "log-file",
];
/// Directories that packages of the operating system fill.
const OF_THE_SYSTEM: [&str; 5] = [
    "/etc/ssl/certs",
    "/etc/pki",
    "/etc/ca-certificates",
    "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates",
];

/// A file that a flag of the API server refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ReferredFile {
    /// On the node.
    pub(super) path: String,
    /// The flag, without dashes.
    pub(super) flag: String,
}

impl ReferredFile {
    /// Whether the operating system brings it, so that a new machine has it.
    pub(super) fn is_of_the_system(&self) -> bool {
        OF_THE_SYSTEM.iter().any(|dir| {
            let rest = self.path.strip_prefix(dir);
            rest.is_some_and(|rest| rest.starts_with('/'))
        })
    }
}

/// What is known of the API server of a node.
#[derive(Debug, Default)]
pub(super) struct ApiServer {
    /// The files that its flags refer to.
    pub(super) files: Vec<ReferredFile>,
    /// The file that says how it encrypts.
    pub(super) encryption: Option<String>,
    /// Where it stores some resources, if not where it stores all others.
    pub(super) etcds: Vec<OtherEtcd>,
    /// What could not be found out.
    pub(super) problems: Vec<String>,
}

impl ApiServer {
    /// Reads the manifest of its static pod, if there is one.
    pub(super) fn in_pod(files: &dyn NodeFiles, manifest: &str) -> Self {
        let text = match files.read(manifest) {
            Ok(Some(text)) => text,
            Ok(None) => return ApiServer::default(),
            Err(error) => return ApiServer::unknown(manifest, &error.to_string()),
        };
        match StaticPod::read(&text, CONTAINER) {
            Ok(pod) => Self::with_flags(manifest, &pod.words(), &|path| pod.on_node(path), files),
            Err(problem) => ApiServer::unknown(manifest, &problem),
        }
    }

    fn unknown(manifest: &str, problem: &str) -> Self {
        ApiServer {
            problems: vec![format!(
                "the files that kube-apiserver reads are unknown: {manifest}: {problem}"
            )],
            ..ApiServer::default()
        }
    }

    /// From its flags, as words of a command line in a file.
    pub(super) fn with_flags(
        found_in: &str,
        words: &[String],
        on_node: &dyn Fn(&str) -> String,
        files: &dyn NodeFiles,
    ) -> Self {
        let mut server = ApiServer::default();
        let mut admission = None;
        for (flag, value) in flags(words) {
            if OTHER_FLAGS.contains(&flag.as_str()) {
                continue;
            }
            // A certificate, its key, and names after a colon.
            let paths = value.split(':').next().unwrap_or_default().split(',');
            for path in paths.filter(|path| path.starts_with('/')) {
                let inside = plain(path);
                let path = on_node(&inside);
                if flag == ENCRYPTION {
                    server.encryption = Some(path.clone());
                }
                // The last one counts.
                if flag == ADMISSION {
                    admission = Some(inside);
                }
                let flag = flag.clone();
                let file = ReferredFile { path, flag };
                if !server.files.contains(&file) {
                    server.files.push(file);
                }
            }
        }
        if let Some(path) = admission {
            server.add_plugins(&path, on_node, files);
        }
        server.add_etcds(found_in, &Settings::from_words(words), on_node);
        server
    }

    /// Where it stores some resources, by its flags.
    fn add_etcds(&mut self, found_in: &str, flags: &Settings, on_node: &dyn Fn(&str) -> String) {
        let value = |name: &str| flags.get(name).map_or("", String::as_str);
        let main = servers_of(value("etcd-servers"), ',');
        let (etcds, problems) = overrides(value("etcd-servers-overrides"), &main);
        let file = |name: &str| flags.get(name).map(|path| on_node(&plain(path)));
        self.etcds = etcds
            .into_iter()
            .map(|(name, endpoints)| OtherEtcd {
                name,
                endpoints,
                cacert: file("etcd-cafile"),
                cert: file("etcd-certfile"),
                key: file("etcd-keyfile"),
                found_in: found_in.into(),
            })
            .collect();
        self.problems.extend(problems);
    }

    /// The files that the configuration of admission plugins refers to. Its own path is that in the pod.
    fn add_plugins(
        &mut self,
        config: &str,
        on_node: &dyn Fn(&str) -> String,
        files: &dyn NodeFiles,
    ) {
        #[derive(Deserialize)]
        struct Admission {
            #[serde(default, deserialize_with = "or_default")]
            plugins: Vec<Plugin>,
        }
        #[derive(Deserialize)]
        struct Plugin {
            path: Option<String>,
        }
        let text = match files.read(&on_node(config)) {
            Ok(Some(text)) => text,
            // That it is missing is reported with its flag.
            Ok(None) => return,
            Err(error) => return self.problems.push(format!("{config}: {error}")),
        };
        let admission: Admission = match serde_saphyr::from_str(&text) {
            Ok(admission) => admission,
            Err(error) => {
                let problem = format!("{config}: {}", not_yaml(&error));
                return self.problems.push(problem);
            }
        };
        for path in admission
            .plugins
            .into_iter()
            .filter_map(|plugin| plugin.path.filter(|path| !path.is_empty()))
        {
            let path = match path.starts_with('/') {
                true => plain(&path),
                false => plain(&format!("{}/{path}", parent(config))),
            };
            let path = on_node(&path);
            let flag = ADMISSION.to_string();
            self.files.push(ReferredFile { path, flag });
        }
    }
}
