//! The files of control-plane nodes, laid out below a folder as each platform lays them out on a node. Each
//! platform has the source of its layout in a comment. The manifests and configurations are short: they have only what shows
//! where etcd is, and what could mislead.

use crate::node_texts::{
    ADMISSION, CONFIGURED_API_SERVER, ENCRYPTION, K3S_UNIT, KUBEADM_API_SERVER, RKE2_API_SERVER,
    RKE2_ETCD,
};
use crate::pki::Pki;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// What runs etcd on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One of three nodes of OpenShift, of version 4.20 or newer.
    OpenShift,
    /// A single node of OpenShift 4.12.
    OpenShiftSingleNode,
    /// MicroShift, which keeps etcd's data in `/var/lib/microshift/etcd`.
    MicroShift,
    /// kubeadm as it is called directly.
    Kubeadm,
    /// kubeadm as kubespray calls it.
    KubesprayKubeadm,
    /// k3s with its own etcd.
    K3s,
    /// RKE2 with its data elsewhere.
    Rke2,
    /// kubespray with etcd as a service of the node.
    Kubespray,
    /// Debian's package, with TLS set up.
    Debian,
    /// A systemd unit that an administrator wrote.
    OwnUnit,
}

impl Kind {
    /// Where etcd keeps its data, below the node's root.
    #[must_use]
    pub fn data_dir(self) -> &'static str {
        match self {
            Kind::OpenShift
            | Kind::OpenShiftSingleNode
            | Kind::Kubeadm
            | Kind::KubesprayKubeadm
            | Kind::Kubespray => "/var/lib/etcd",
            Kind::MicroShift => "/var/lib/microshift/etcd",
            Kind::K3s => "/var/lib/rancher/k3s/server/db/etcd",
            Kind::Rke2 => "/data/rke2/server/db/etcd",
            Kind::Debian => "/var/lib/etcd/default",
            Kind::OwnUnit => "/srv/etcd",
        }
    }

    /// Writes a node's files below `root`, for a member at `endpoint`.
    pub fn lay_out(self, root: &Path, endpoint: &str, pki: &Pki) {
        let node = Node {
            root: root.to_path_buf(),
            port: endpoint.rsplit(':').next().unwrap().parse().unwrap(),
            pki,
        };
        match self {
            Kind::OpenShift => node.openshift(&["master-0", "master-1", "master-2"], true),
            Kind::OpenShiftSingleNode => node.openshift(&["master-0"], false),
            Kind::MicroShift => node.microshift(),
            Kind::Kubeadm => node.kubeadm("pki"),
            Kind::KubesprayKubeadm => {
                node.kubeadm("ssl");
                node.configured_api_server();
            }
            Kind::K3s => node.k3s(),
            Kind::Rke2 => node.rke2(),
            Kind::Kubespray => node.kubespray(),
            Kind::Debian => node.debian(),
            Kind::OwnUnit => node.own_unit(),
        }
    }
}

struct Node<'p> {
    root: PathBuf,
    port: u16,
    pki: &'p Pki,
}

impl Node<'_> {
    fn path(&self, path: &str) -> PathBuf {
        let path = self.root.join(path.trim_start_matches('/'));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    fn file(&self, path: &str, mode: u32, text: impl AsRef<[u8]>) {
        let path = self.path(path);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    /// Files that nobody reads, with their own paths in them.
    fn files(&self, paths: &[&str]) {
        for path in paths {
            self.file(path, 0o600, format!("this is {path}\n"));
        }
    }

    fn copy(&self, from: &Path, path: &str) {
        self.file(path, 0o600, std::fs::read(from).unwrap());
    }

    fn pair(&self, (cert, key): (&PathBuf, &PathBuf), cert_path: &str, key_path: &str) {
        self.copy(cert, cert_path);
        self.copy(key, key_path);
    }

    fn client(&self) -> (&PathBuf, &PathBuf) {
        (&self.pki.client_cert, &self.pki.client_key)
    }

    fn server(&self) -> (&PathBuf, &PathBuf) {
        (&self.pki.server_cert, &self.pki.server_key)
    }

    /// kubernetes/kubernetes: `cmd/kubeadm/app/phases/etcd/local.go`, `cmd/kubeadm/app/constants`; with `ssl`
    /// for `pki` in kubespray's `roles/kubernetes/control-plane`.
    fn kubeadm(&self, pki: &str) {
        let port = self.port;
        let dir = format!("/etc/kubernetes/{pki}");
        self.copy(&self.pki.ca, &format!("{dir}/etcd/ca.crt"));
        let at = |name: &str| (format!("{dir}/{name}.crt"), format!("{dir}/{name}.key"));
        for (pair, name) in [
            (self.server(), "etcd/server"),
            (self.client(), "etcd/healthcheck-client"),
            (self.client(), "apiserver-etcd-client"),
        ] {
            let (cert, key) = at(name);
            self.pair(pair, &cert, &key);
        }
        let [cert, key] = ["crt", "key"].map(|kind| format!("{dir}/ca.{kind}"));
        self.files(&["/etc/kubernetes/admin.conf", &cert, &key]);
        self.kubelet();
        self.encryption("/etc/kubernetes/encryption.yaml");
        self.file(
            "/etc/kubernetes/manifests/kube-apiserver.yaml",
            0o600,
            KUBEADM_API_SERVER,
        );
        self.file(
            "/etc/kubernetes/manifests/etcd.yaml",
            0o600,
            format!(
                "apiVersion: v1
kind: Pod
metadata:
  annotations:
    kubeadm.kubernetes.io/etcd.advertise-client-urls: https://10.0.0.5:{port}
  labels:
    component: etcd
    tier: control-plane
  name: etcd
  namespace: kube-system
spec:
  containers:
  - command:
    - etcd
    - --advertise-client-urls=https://10.0.0.5:{port}
    - --cert-file={dir}/etcd/server.crt
    - --client-cert-auth=true
    - --data-dir=/var/lib/etcd
    - --key-file={dir}/etcd/server.key
    - --listen-client-urls=https://127.0.0.1:{port},https://10.0.0.5:{port}
    - --listen-metrics-urls=http://127.0.0.1:2381
    - --trusted-ca-file={dir}/etcd/ca.crt
    image: registry.k8s.io/etcd:3.6.4-0
    name: etcd
    volumeMounts:
    - mountPath: /var/lib/etcd
      name: etcd-data
    - mountPath: {dir}/etcd
      name: etcd-certs
  hostNetwork: true
  priorityClassName: system-node-critical
  volumes:
  - hostPath:
      path: {dir}/etcd
      type: DirectoryOrCreate
    name: etcd-certs
  - hostPath:
      path: /var/lib/etcd
      type: DirectoryOrCreate
    name: etcd-data
status: {{}}
"
            ),
        );
    }

    /// openshift/cluster-etcd-operator: `bindata/etcd/pod.gotpl.yaml` (before 4.20 `pod.yaml`),
    /// `pkg/etcdenvvar/etcd_env.go`. The installer writes the manifest as JSON in one line.
    fn openshift(&self, masters: &[&str], new: bool) {
        let port = self.port;
        let resources = "/etc/kubernetes/static-pod-resources";
        let in_container = "/etc/kubernetes/static-pod-certs";
        let bundle = if new {
            "configmaps/etcd-all-bundles/server-ca-bundle.crt"
        } else {
            "configmaps/etcd-serving-ca/ca-bundle.crt"
        };
        let more_urls = if new {
            ""
        } else {
            ",unixs://${NODE_master_0_IP}:0"
        };
        for dir in ["etcd-certs", "etcd-pod-7"] {
            self.copy(&self.pki.ca, &format!("{resources}/{dir}/{bundle}"));
            // Each master has the certificates of all masters. Only its own certificate works.
            for master in masters {
                let peer = format!("{resources}/{dir}/secrets/etcd-all-certs/etcd-peer-{master}");
                let (cert, key) = (format!("{peer}.crt"), format!("{peer}.key"));
                if *master == "master-0" {
                    self.pair(self.client(), &cert, &key);
                } else {
                    self.files(&[&cert, &key]);
                }
            }
        }
        let mut environment = vec![
            (
                "ETCDCTL_CACERT".to_string(),
                format!("{in_container}/{bundle}"),
            ),
            (
                "ETCDCTL_CERT".into(),
                format!("{in_container}/secrets/etcd-all-certs/etcd-peer-master-0.crt"),
            ),
            (
                "ETCDCTL_ENDPOINTS".into(),
                "https://10.0.0.5:2379,https://10.0.0.6:2379".into(),
            ),
            (
                "ETCDCTL_KEY".into(),
                format!("{in_container}/secrets/etcd-all-certs/etcd-peer-master-0.key"),
            ),
            ("ETCD_DATA_DIR".into(), "/var/lib/etcd".into()),
        ];
        for (number, master) in (5..).zip(masters) {
            let variable = master.replace('-', "_");
            environment.push((format!("NODE_{variable}_IP"), format!("10.0.0.{number}")));
        }
        let environment: Vec<_> = environment
            .iter()
            .map(|(name, value)| format!(r#"{{"name":"{name}","value":"{value}"}}"#))
            .collect();
        let environment = environment.join(",");
        let mounts = format!(
            r#"[{{"name":"static-pod-dir","mountPath":"/etc/kubernetes/manifests"}},{{"name":"resource-dir","mountPath":"{resources}"}},{{"name":"cert-dir","mountPath":"{in_container}"}},{{"name":"data-dir","mountPath":"/var/lib/etcd/"}}]"#
        );
        // The script starts other programs with flags of the same names, and its words are escaped for the shell.
        let script = format!(
            r#"#!/bin/sh\nset -e\nETCD_INITIAL_CLUSTER=$(discover-etcd-initial-cluster \\\n  --endpoints=${{ALL_ETCD_ENDPOINTS}} \\\n  --data-dir=/nowhere)\necho \"a\" \u0026\u0026 exec nice -n -19 etcd \\\n  --cert-file={in_container}/secrets/etcd-all-certs/etcd-serving-master-0.crt \\\n  --advertise-client-urls=https://${{NODE_master_0_IP}}:{port} \\\n  --listen-client-urls=https://0.0.0.0:{port}{more_urls} \\\n  --listen-peer-urls=https://0.0.0.0:2380 ||  mv a b\n"#
        );
        let manifest = format!(
            r#"{{"kind":"Pod","apiVersion":"v1","metadata":{{"name":"etcd","namespace":"openshift-etcd","labels":{{"app":"etcd","revision":"7"}}}},"spec":{{"volumes":[{{"name":"static-pod-dir","hostPath":{{"path":"/etc/kubernetes/manifests"}}}},{{"name":"resource-dir","hostPath":{{"path":"{resources}/etcd-pod-7"}}}},{{"name":"cert-dir","hostPath":{{"path":"{resources}/etcd-certs"}}}},{{"name":"data-dir","hostPath":{{"path":"/var/lib/etcd","type":""}}}},{{"name":"tmp-dir","emptyDir":{{}}}}],"containers":[{{"name":"etcdctl","command":["/bin/bash","-c","sleep infinity"],"env":[{environment}],"resources":{{}},"volumeMounts":{mounts}}},{{"name":"etcd","command":["/bin/sh","-c","{script}"],"env":[{environment}],"resources":{{}},"volumeMounts":{mounts},"securityContext":{{"privileged":true}}}},{{"name":"etcd-metrics","command":["/bin/sh","-c","exec etcd grpc-proxy start --listen-addr=127.0.0.1:9977"],"resources":{{}}}}],"hostNetwork":true}},"status":{{}}}}
"#
        );
        self.file("/etc/kubernetes/manifests/etcd-pod.yaml", 0o600, &manifest);
        self.file(
            &format!("{resources}/etcd-pod-7/etcd-pod.yaml"),
            0o600,
            &manifest,
        );
        for (component, revision) in [
            ("kube-apiserver", 12),
            ("kube-controller-manager", 8),
            ("kube-scheduler", 9),
        ] {
            let dir = format!("{resources}/{component}-pod-{revision}");
            let manifest = format!(
                r#"{{"kind":"Pod","spec":{{"volumes":[{{"name":"resource-dir","hostPath":{{"path":"{dir}"}}}}]}}}}"#
            );
            self.file(
                &format!("/etc/kubernetes/manifests/{component}-pod.yaml"),
                0o600,
                &manifest,
            );
            self.file(&format!("{dir}/{component}-pod.yaml"), 0o600, &manifest);
            self.encryption(&format!(
                "{dir}/secrets/encryption-config/encryption-config"
            ));
            self.files(&[
                &format!("{resources}/{component}-pod-6/{component}-pod.yaml"),
                // A newer revision that is being installed and does not run yet.
                &format!("{resources}/{component}-pod-13/{component}-pod.yaml"),
                &format!("{resources}/{component}-certs/secrets/cert/tls.key"),
            ]);
        }
        self.files(&[
            &format!("{resources}/etcd-pod-6/etcd-pod.yaml"),
            "/etc/kubernetes/kubelet.conf",
        ]);
    }

    /// kubernetes/kubernetes: `cmd/kubeadm/app/phases/kubelet`; and files of pods, which nobody archives.
    fn kubelet(&self) {
        self.files(&[
            "/var/lib/kubelet/config.yaml",
            "/var/lib/kubelet/kubeadm-flags.env",
            "/var/lib/kubelet/pki/kubelet-client-2026-11-22-03-15-00.pem",
            "/var/lib/kubelet/pods/uid/volumes/kubernetes.io~secret/token/token",
        ]);
        let current = self.path("/var/lib/kubelet/pki/kubelet-client-current.pem");
        let _ = std::fs::remove_file(&current);
        let newest = "/var/lib/kubelet/pki/kubelet-client-2026-11-22-03-15-00.pem";
        std::os::unix::fs::symlink(newest, current).unwrap();
    }

    /// An API server with files elsewhere on the node.
    fn configured_api_server(&self) {
        self.file(
            "/etc/kubernetes/manifests/kube-apiserver.yaml",
            0o600,
            CONFIGURED_API_SERVER,
        );
        self.files(&[
            "/etc/ssl/certs/ca-certificates.crt",
            "/srv/admission/webhook.yaml",
            "/srv/audit/policy.yaml",
            "/srv/tls/a.crt",
            "/srv/tls/a.key",
        ]);
        self.file("/srv/admission/config.yaml", 0o600, ADMISSION);
    }

    fn encryption(&self, path: &str) {
        self.file(path, 0o600, ENCRYPTION);
    }

    /// openshift/microshift: `pkg/config/files.go`, `pkg/util/cryptomaterial/certinfo.go`,
    /// `packaging/rpm/microshift.spec`.
    fn microshift(&self) {
        let signer = "/var/lib/microshift/certs/etcd-signer";
        self.copy(&self.pki.ca, &format!("{signer}/ca.crt"));
        let client = format!("{signer}/apiserver-etcd-client/client");
        self.pair(
            self.client(),
            &format!("{client}.crt"),
            &format!("{client}.key"),
        );
        let peer = format!("{signer}/etcd-serving/peer");
        self.pair(
            self.server(),
            &format!("{peer}.crt"),
            &format!("{peer}.key"),
        );
        self.files(&[
            "/etc/microshift/config.yaml.default",
            "/etc/microshift/config.d/10-ours.yaml",
            "/var/lib/microshift/resources/kubeadmin/kubeconfig",
            "/var/lib/microshift/kubelet-plugins/state",
            "/var/lib/microshift/version",
            "/var/lib/microshift/.nodename",
        ]);
    }

    /// k3s-io/k3s: `pkg/etcd/etcd.go`, `pkg/daemons/executor/executor.go`; its documentation, "Backup and
    /// Restore".
    fn k3s(&self) {
        self.rancher("k3s", "/var/lib/rancher/k3s");
        self.file(
            "/etc/rancher/k3s/config.yaml",
            0o600,
            "cluster-init: true\nkube-apiserver-arg: audit-policy-file=/var/lib/rancher/k3s/server/audit.yaml\n",
        );
        self.file("/etc/systemd/system/k3s.service", 0o644, K3S_UNIT);
        self.files(&[
            "/var/lib/rancher/k3s/server/audit.yaml",
            "/etc/systemd/system/k3s.service.env",
        ]);
    }

    /// rancher/rke2: `pkg/executor/staticpod/staticpod.go`, `pkg/podtemplate/spec.go`.
    fn rke2(&self) {
        self.rancher("rke2", "/data/rke2");
        self.file(
            "/etc/rancher/rke2/config.yaml",
            0o600,
            "profile: cis\ndata-dir: /elsewhere\n",
        );
        self.file(
            "/etc/rancher/rke2/config.yaml.d/50-disk.yaml",
            0o600,
            "data-dir: /data/rke2/\n",
        );
        self.file("/data/rke2/agent/pod-manifests/etcd.yaml", 0o600, RKE2_ETCD);
        self.file(
            "/data/rke2/agent/pod-manifests/kube-apiserver.yaml",
            0o600,
            RKE2_API_SERVER,
        );
        self.files(&["/srv/audit.yaml", "/etc/ssl/certs/company.pem"]);
        self.file("/etc/rancher/rke2/rke2-pss.yaml", 0o600, "plugins: []\n");
    }

    fn rancher(&self, name: &str, data_dir: &str) {
        let port = self.port;
        let tls = format!("{data_dir}/server/tls/etcd");
        self.copy(&self.pki.ca, &format!("{tls}/server-ca.crt"));
        self.pair(
            self.client(),
            &format!("{tls}/client.crt"),
            &format!("{tls}/client.key"),
        );
        let server = format!("{tls}/server-client");
        self.pair(
            self.server(),
            &format!("{server}.crt"),
            &format!("{server}.key"),
        );
        self.file(
            &format!("{data_dir}/server/db/etcd/config"),
            0o600,
            format!(
                "advertise-client-urls: https://10.0.0.5:{port}
client-transport-security:
  cert-file: {tls}/server-client.crt
  client-cert-auth: true
  key-file: {tls}/server-client.key
  trusted-ca-file: {tls}/server-ca.crt
data-dir: {data_dir}/server/db/etcd
election-timeout: 5000
experimental-initial-corrupt-check: true
listen-client-http-urls: https://127.0.0.1:2382
listen-client-urls: https://10.0.0.5:{port},https://127.0.0.1:{port}
listen-metrics-urls: http://127.0.0.1:2381
log-outputs:
- stderr
name: node-1-933c287a
peer-transport-security:
  cert-file: {tls}/peer-server-client.crt
  client-cert-auth: true
  key-file: {tls}/peer-server-client.key
  trusted-ca-file: {tls}/peer-ca.crt
snapshot-count: 10000
socket-options:
  reuse-address: true
"
            ),
        );
        let below = [
            "db/etcd/name",
            "token",
            "tls/server-ca.key",
            "manifests/coredns.yaml",
        ];
        for path in below {
            self.files(&[&format!("{data_dir}/server/{path}")]);
        }
        std::os::unix::fs::symlink("token", self.path(&format!("{data_dir}/server/node-token")))
            .unwrap();
        self.encryption(&format!("{data_dir}/server/cred/encryption-config.json"));
        self.files(&[
            "/etc/rancher/node/password",
            &format!("/etc/rancher/{name}/{name}.yaml"),
        ]);
    }

    /// kubernetes-sigs/kubespray: `roles/etcd/templates/etcd.env.j2`, `etcd-host.service.j2`,
    /// `make-ssl-etcd.sh.j2`.
    fn kubespray(&self) {
        let port = self.port;
        let ssl = "/etc/ssl/etcd/ssl";
        self.copy(&self.pki.ca, &format!("{ssl}/ca.pem"));
        for (pair, name) in [
            (self.client(), "admin-node1"),
            (self.server(), "member-node1"),
        ] {
            self.pair(
                pair,
                &format!("{ssl}/{name}.pem"),
                &format!("{ssl}/{name}-key.pem"),
            );
        }
        self.files(&[
            &format!("{ssl}/admin-node2.pem"),
            &format!("{ssl}/admin-node2-key.pem"),
            "/etc/kubernetes/ssl/secrets_encryption.yaml",
            "/usr/local/bin/etcd",
        ]);
        std::os::unix::fs::symlink(
            "admin-node1.pem",
            self.path(&format!("{ssl}/node-node2.pem")),
        )
        .unwrap();
        // The certificates belong to another user.
        for path in [ssl.to_string(), format!("{ssl}/member-node1-key.pem")] {
            let path = self.path(&path);
            let _ = std::os::unix::fs::chown(path, Some(997), Some(0));
        }
        let dir = self.path(ssl);
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700)).unwrap();
        self.file(
            "/etc/systemd/system/etcd.service",
            0o644,
            "[Unit]
Description=etcd
[Service]
Type=notify
User=root
EnvironmentFile=/etc/etcd.env
ExecStart=/usr/local/bin/etcd
NotifyAccess=all
Restart=always
[Install]
WantedBy=multi-user.target
",
        );
        self.file(
            "/etc/etcd.env",
            0o640,
            format!(
                "# Environment file for etcd
ETCD_DATA_DIR=/var/lib/etcd
ETCD_ADVERTISE_CLIENT_URLS=https://10.0.0.5:{port}
ETCD_LISTEN_CLIENT_URLS=https://10.0.0.5:{port},https://127.0.0.1:{port}
ETCD_NAME=etcd1

# TLS settings
ETCD_TRUSTED_CA_FILE={ssl}/ca.pem
ETCD_CERT_FILE={ssl}/member-node1.pem
ETCD_KEY_FILE={ssl}/member-node1-key.pem
ETCD_CLIENT_CERT_AUTH=true
ETCD_PEER_CLIENT_CERT_AUTH=True

# CLI settings
ETCDCTL_ENDPOINTS=https://127.0.0.1:{port}
ETCDCTL_CACERT={ssl}/ca.pem
ETCDCTL_KEY={ssl}/admin-node1-key.pem
ETCDCTL_CERT={ssl}/admin-node1.pem
"
            ),
        );
    }

    /// Debian's package `etcd-server`: `etcd.service`, and its `/etc/default/etcd`, which has only comments at
    /// first.
    fn debian(&self) {
        let port = self.port;
        self.copy(&self.pki.ca, "/etc/etcd/tls/ca.crt");
        self.pair(
            self.server(),
            "/etc/etcd/tls/server.crt",
            "/etc/etcd/tls/server.key",
        );
        self.file(
            "/usr/lib/systemd/system/etcd.service",
            0o644,
            "[Service]
Environment=DAEMON_ARGS=
Environment=ETCD_NAME=%H
Environment=ETCD_DATA_DIR=/var/lib/etcd/default
EnvironmentFile=-/etc/default/%p
Type=notify
User=etcd
ExecStart=/usr/bin/etcd $DAEMON_ARGS
",
        );
        self.file(
            "/etc/default/etcd",
            0o644,
            format!(
                "## etcd(1) daemon options
## Use environment to override, for example: ETCD_NAME=default
ETCD_LISTEN_CLIENT_URLS=\"https://10.0.0.5:{port},\\
https://127.0.0.1:{port}\"
ETCD_ADVERTISE_CLIENT_URLS='https://10.0.0.5:{port}'
ETCD_CERT_FILE = /etc/etcd/tls/server.crt
ETCD_KEY_FILE = /etc/etcd/tls/server.key   
DAEMON_ARGS=\"--trusted-ca-file /etc/etcd/tls/ca.crt --logger=zap\"
"
            ),
        );
    }

    /// As in etcd's own documents: flags in the unit, and here in a drop-in.
    fn own_unit(&self) {
        let port = self.port;
        self.copy(&self.pki.ca, "/opt/etcd/ca.crt");
        self.pair(
            self.client(),
            "/opt/etcd/client.crt",
            "/opt/etcd/client.key",
        );
        self.pair(
            self.server(),
            "/opt/etcd/server.crt",
            "/opt/etcd/server.key",
        );
        self.file(
            "/etc/systemd/system/etcd.service",
            0o644,
            "[Service]\nExecStart=/usr/bin/etcd --data-dir /nowhere\nEnvironment=\"TLS=/opt/etcd\"\n",
        );
        self.file(
            "/etc/systemd/system/etcd.service.d/10-ours.conf",
            0o644,
            format!(
                "[Service]
# A command is taken back before there is another one.
ExecStart=
ExecStart=/opt/etcd/bin/etcd --name=node-1 --data-dir /srv/etcd \\
  --listen-client-urls https://10.0.0.5:{port},https://127.0.0.1:{port} \\
  --advertise-client-urls https://10.0.0.5:{port} --client-cert-auth \\
  --trusted-ca-file=${{TLS}}/ca.crt --cert-file=${{TLS}}/server.crt --key-file=${{TLS}}/server.key \\
  --client-cert-file=${{TLS}}/client.crt --client-key-file=\"${{TLS}}/client.key\"
"
            ),
        );
    }
}
