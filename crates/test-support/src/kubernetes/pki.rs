//! The certificates of a control plane, and the kubeconfigs of those who use it.

use crate::pki::{CertificateAuthority, Subject};
use std::path::{Path, PathBuf};

pub(super) const SERVICE_RANGE: &str = "10.96.0.0/16";
/// The address of the service `kubernetes`: the first one of the range.
const SERVICE_ADDRESS: &str = "10.96.0.1";

/// A user of the API server.
pub(super) struct Identity {
    /// Name of the kubeconfig file, without its extension.
    pub(super) file: String,
    name: String,
    group: Option<&'static str>,
}

impl Identity {
    pub(super) fn admin() -> Self {
        Identity {
            file: "admin".into(),
            name: "kubernetes-admin".into(),
            group: Some("system:masters"),
        }
    }

    pub(super) fn controller_manager() -> Self {
        Identity {
            file: "controller-manager".into(),
            name: "system:kube-controller-manager".into(),
            group: None,
        }
    }

    pub(super) fn scheduler() -> Self {
        Identity {
            file: "scheduler".into(),
            name: "system:kube-scheduler".into(),
            group: None,
        }
    }

    pub(super) fn node(name: &str) -> Self {
        Identity {
            file: format!("kubelet-{name}"),
            name: format!("system:node:{name}"),
            group: Some("system:nodes"),
        }
    }
}

/// A cluster's certificates, in a folder.
pub(super) struct ClusterPki {
    dir: PathBuf,
    authority: CertificateAuthority,
}

impl ClusterPki {
    /// Makes what the servers need.
    pub(super) fn create(dir: &Path) -> Self {
        std::fs::create_dir_all(dir).unwrap();
        let pki = ClusterPki {
            dir: dir.into(),
            authority: CertificateAuthority::new(),
        };
        pki.write("ca.crt", &pki.authority.pem());
        pki.write("ca.key", &pki.authority.key_pem());
        let server = Subject {
            name: "kube-apiserver",
            organization: None,
            hosts: &[
                "127.0.0.1",
                SERVICE_ADDRESS,
                "localhost",
                "kubernetes",
                "kubernetes.default",
                "kubernetes.default.svc",
                "kubernetes.default.svc.cluster.local",
            ],
        };
        let (cert, key) = pki.authority.issue(server);
        pki.write("apiserver.crt", &cert);
        pki.write("apiserver.key", &key);
        let (cert, key) = pki.authority.issue(Subject {
            name: "kube-apiserver-kubelet-client",
            organization: None,
            hosts: &[],
        });
        pki.write("apiserver-kubelet-client.crt", &cert);
        pki.write("apiserver-kubelet-client.key", &key);
        // Any key signs tokens, and its certificate says how to check them.
        let (cert, key) = pki.authority.issue(Subject {
            name: "service-accounts",
            organization: None,
            hosts: &[],
        });
        pki.write("service-accounts.crt", &cert);
        pki.write("service-accounts.key", &key);
        pki
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Writes a kubeconfig for an identity that reaches the API server on this port.
    pub(super) fn kubeconfig(&self, identity: &Identity, port: u16) -> PathBuf {
        let (cert, key) = self.authority.issue(Subject {
            name: &identity.name,
            organization: identity.group,
            hosts: &[],
        });
        let file = &identity.file;
        self.write(&format!("{file}.crt"), &cert);
        self.write(&format!("{file}.key"), &key);
        let [ca, cert, key] = ["ca.crt", &format!("{file}.crt"), &format!("{file}.key")]
            .map(|name| self.path(name).display().to_string());
        let user = format!("client-certificate: '{cert}', client-key: '{key}'");
        self.write_kubeconfig(file, port, &ca, &user)
    }

    /// Creates the serving certificate of a kubelet. Returns the paths of the certificate and of its key.
    pub(super) fn serving(&self, node: &str) -> [PathBuf; 2] {
        let (cert, key) = self.authority.issue(Subject {
            name: &format!("system:node:{node}"),
            organization: Some("system:nodes"),
            hosts: &["127.0.0.1"],
        });
        [(".crt", cert), (".key", key)].map(|(end, text)| {
            let name = format!("serving-{node}{end}");
            self.write(&name, &text);
            self.path(&name)
        })
    }

    /// Writes a kubeconfig with a token.
    pub(super) fn token_kubeconfig(&self, file: &str, token: &str, port: u16) -> PathBuf {
        let ca = self.path("ca.crt").display().to_string();
        self.write_kubeconfig(file, port, &ca, &format!("token: '{token}'"))
    }

    fn write_kubeconfig(&self, file: &str, port: u16, ca: &str, user: &str) -> PathBuf {
        let config = format!(
            "apiVersion: v1
kind: Config
clusters: [{{name: test, cluster: {{server: 'https://127.0.0.1:{port}', certificate-authority: '{ca}'}}}}]
users: [{{name: user, user: {{{user}}}}}]
contexts: [{{name: test, context: {{cluster: test, user: user}}}}]
current-context: test
"
        );
        self.write(&format!("{file}.kubeconfig"), &config);
        self.path(&format!("{file}.kubeconfig"))
    }
}
