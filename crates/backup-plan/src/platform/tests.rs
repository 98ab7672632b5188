//! What the trees of `test-support` do not contain: wrong files, and incomplete nodes.

use super::*;
use std::collections::BTreeMap;
use std::io;

struct Tree(BTreeMap<String, String>);

impl Tree {
    fn of(files: &[(&str, &str)]) -> Tree {
        let own = |(path, text): &(&str, &str)| (path.to_string(), text.to_string());
        Tree(files.iter().map(own).collect())
    }
}

impl NodeFiles for Tree {
    fn read(&self, path: &str) -> io::Result<Option<String>> {
        Ok(self.0.get(path).cloned())
    }

    fn exists(&self, path: &str) -> bool {
        let below = format!("{path}/");
        self.0
            .keys()
            .any(|name| name == path || name.starts_with(&below))
    }

    fn real_file(&self, path: &str) -> Option<String> {
        let path = super::node_files::plain(path);
        self.0.contains_key(&path).then_some(path)
    }

    fn names(&self, path: &str) -> Vec<String> {
        let below = format!("{path}/");
        let mut names: Vec<_> = self
            .0
            .keys()
            .filter_map(|name| name.strip_prefix(&below)?.split('/').next())
            .map(String::from)
            .collect();
        names.dedup();
        names
    }
}

fn error_of(files: &[(&str, &str)]) -> String {
    find(&Tree::of(files)).unwrap_err().to_string()
}

#[test]
fn without_anything_etcd_is_where_it_is_by_default() {
    let found = find(&Tree::of(&[])).unwrap();
    assert_eq!(found.platform, Platform::Plain);
    assert_eq!(found.endpoint, "http://127.0.0.1:2379");
    assert_eq!(found.resources, [""; 0]);
}

#[test]
fn debians_package_as_it_is_installed_is_found_with_its_data() {
    let found = find(&Tree::of(&[
        ("/etc/default/etcd", "## etcd(1) daemon options\n"),
        ("/var/lib/etcd/default/member/snap/db", ""),
    ]))
    .unwrap();
    assert_eq!(found.platform, Platform::Systemd);
    assert_eq!(found.endpoint, "http://127.0.0.1:2379");
    assert_eq!(found.data_dir.as_deref(), Some("/var/lib/etcd/default"));
    assert_eq!(found.resources, ["/etc/default/etcd"]);
}

#[test]
fn a_configuration_file_stands_alone_as_in_etcd_itself() {
    let unit = "[Service]\nEnvironment=ETCD_LISTEN_CLIENT_URLS=http://127.0.0.1:1\n\
                ExecStart=/usr/bin/etcd --config-file /etc/etcd/etcd.conf.yml\n";
    let config = "data-dir: /data\nlisten-client-urls: http://127.0.0.1:9\n";
    let unit_path = "/etc/systemd/system/etcd.service";
    let config_path = "/etc/etcd/etcd.conf.yml";
    let found = find(&Tree::of(&[(unit_path, unit), (config_path, config)])).unwrap();
    assert_eq!(found.endpoint, "http://127.0.0.1:9");
    assert_eq!(found.data_dir.as_deref(), Some("/data"));
    assert_eq!(found.found_in, [unit_path, config_path]);
    assert!(
        error_of(&[(unit_path, unit)])
            .starts_with(&format!("{config_path}: the file does not exist"))
    );
    // Also if there is no unit.
    let found = find(&Tree::of(&[(config_path, config)])).unwrap();
    assert_eq!(found.endpoint, "http://127.0.0.1:9");
}

#[test]
fn a_unit_that_starts_etcd_by_a_shell_is_read() {
    let unit = "[Service]\nEnvironmentFile=-/etc/etcd/etcd.conf\nUser=etcd\n\
        ExecStart=/bin/bash -c \"GOMAXPROCS=$(nproc) /usr/bin/etcd --name=\\\"${ETCD_NAME}\\\" \
        --data-dir=\\\"${ETCD_DATA_DIR}\\\" --listen-client-urls=\\\"${ETCD_LISTEN_CLIENT_URLS}\\\"\"\n";
    let config = "#[Member]\nETCD_DATA_DIR=\"/var/lib/etcd/default.etcd\"\n\
        ETCD_LISTEN_CLIENT_URLS=\"http://localhost:2379\"\nETCD_NAME=\"default\"\n#ETCD_CERT_FILE=\"\"\n";
    let found = find(&Tree::of(&[
        ("/usr/lib/systemd/system/etcd.service", unit),
        ("/etc/etcd/etcd.conf", config),
    ]))
    .unwrap();
    assert_eq!(found.endpoint, "http://localhost:2379");
    assert_eq!(
        found.data_dir.as_deref(),
        Some("/var/lib/etcd/default.etcd")
    );
    assert_eq!(found.resources, ["/etc/etcd/etcd.conf"]);
}

#[test]
fn a_quoted_variable_of_a_unit_can_have_spaces() {
    let unit = "[Service]\nEnvironment=\"DAEMON_ARGS=--data-dir=/data --listen-client-urls=http://127.0.0.1:9\" \
        'ETCD_NAME=a b' X=1\nExecStart=/usr/bin/etcd $DAEMON_ARGS\n";
    let found = find(&Tree::of(&[("/etc/systemd/system/etcd.service", unit)])).unwrap();
    assert_eq!(found.endpoint, "http://127.0.0.1:9");
    assert_eq!(found.data_dir.as_deref(), Some("/data"));
}

#[test]
fn variables_that_blow_up_a_command_line_are_no_command_line() {
    let value = "x".repeat(1 << 16);
    let unit = format!(
        "[Service]\nEnvironment=A={value}\nExecStart=etcd {}\n",
        "${A}".repeat(1 << 16)
    );
    let found = find(&Tree::of(&[("/etc/systemd/system/etcd.service", &unit)])).unwrap();
    assert_eq!(found.endpoint, "http://127.0.0.1:2379");
}

#[test]
fn a_node_without_etcd_says_what_it_has_instead() {
    let k3s = "/var/lib/rancher/k3s/server/db/state.db";
    assert_eq!(
        error_of(&[(k3s, "")]),
        format!("this node has no etcd to back up: k3s stores its data in SQLite ({k3s})")
    );
    let other = error_of(&[("/var/lib/rancher/k3s/server/db/snapshots/x", "")]);
    assert!(other.contains("stores its data elsewhere"), "{other}");
    let microshift = error_of(&[("/etc/microshift/config.yaml.default", "")]);
    assert!(microshift.contains("was never started"), "{microshift}");
}

#[test]
fn a_manifest_that_is_none_is_told() {
    let kubeadm = "/etc/kubernetes/manifests/etcd.yaml";
    let openshift = "/etc/kubernetes/manifests/etcd-pod.yaml";
    let rke2 = "/var/lib/rancher/rke2/server/db/etcd/config";
    for (path, text, expected) in [
        (kubeadm, "", "not the expected YAML"),
        (kubeadm, "{", "not the expected YAML"),
        (kubeadm, "spec: {containers: 7}", "not the expected YAML"),
        (
            kubeadm,
            "spec: {containers: [{name: other}]}",
            "no container named etcd",
        ),
        (
            kubeadm,
            "spec: {containers: [{name: etcd, command: [etcd]}]}",
            "--listen-client-urls",
        ),
        (
            openshift,
            "spec: {containers: [{name: etcd-metrics}]}",
            "no container named etcd",
        ),
        (
            openshift,
            r#"{"spec":{"containers":[{"name":"etcd","command":["sh","-c","etcd --listen-client-urls=https://0.0.0.0:2379"]}]}}"#,
            "the container etcd has no variable ETCDCTL_CACERT",
        ),
        (rke2, "7", "not the expected YAML"),
        (rke2, "data-dir: /x\n", "listen-client-urls is missing"),
        (
            rke2,
            "listen-client-urls: https://127.0.0.1:2379\n",
            "--trusted-ca-file of etcd is missing",
        ),
    ] {
        let error = error_of(&[(path, text)]);
        assert!(
            error.starts_with(path) && error.contains(expected),
            "{text}: {error}"
        );
    }
    let config = error_of(&[
        ("/etc/rancher/k3s/config.yaml", "data-dir: [1"),
        (
            "/var/lib/rancher/k3s/server/db/etcd/config",
            "listen-client-urls: http://127.0.0.1:1\n",
        ),
    ]);
    assert!(
        config.starts_with("/etc/rancher/k3s/config.yaml: line")
            && config.contains("not the expected YAML"),
        "{config}"
    );
}

const ETCD: (&str, &str) = (
    "/etc/kubernetes/manifests/etcd.yaml",
    "spec: {containers: [{name: etcd, args: , env: , volumeMounts: , command: [etcd, --listen-client-urls=http://127.0.0.1:2379]}], volumes: }",
);

fn of_api_server(manifest: &str, more: &[(&str, &str)]) -> Found {
    let api_server = ("/etc/kubernetes/manifests/kube-apiserver.yaml", manifest);
    let kubelet = ("/var/lib/kubelet/config.yaml", "");
    find(&Tree::of(&[&[ETCD, api_server, kubelet], more].concat())).unwrap()
}

#[test]
fn odd_paths_of_the_api_server_cost_only_themselves() {
    let manifest = "
spec:
  containers:
  - name: kube-apiserver
    env:
    command: [kube-apiserver]
    args:
    - --audit-policy-file=/srv/x/../audit//./policy.yaml
    - --audit-policy-file=/srv/audit/policy.yaml
    - --authorization-config=/etc/kubernetes/../authz.yaml
    - --client-ca-file=/
    - --oidc-ca-file=/srv/audit
    - --authentication-config=/../../../etc/hostname
    - --admission-control-config-file=/etc/adm/config.yaml
    - --tls-cert-file=relative.crt
    volumeMounts:
    - {name: adm, mountPath: /etc/adm/}
    - {name: part, mountPath: /part/key, subPath: key-1}
    - {name: other}
  volumes:
  - {name: adm, hostPath: {path: /host/adm/}}
";
    let found = of_api_server(
        &manifest.replace("    - {name: other}\n", ""),
        &[
            ("/srv/audit/policy.yaml", ""),
            ("/etc/authz.yaml", ""),
            (
                "/host/adm/config.yaml",
                "plugins: [{name: A, path: sub/../b.yaml}, {name: B, path: ''}, {name: C}]",
            ),
            ("/host/adm/b.yaml", ""),
        ],
    );
    assert_eq!(
        found.resources,
        [
            "/etc/kubernetes",
            "/var/lib/kubelet/config.yaml",
            "/srv/audit/policy.yaml",
            "/etc/authz.yaml",
            "/host/adm/config.yaml",
            "/host/adm/b.yaml"
        ]
    );
    let named: Vec<_> = found
        .not_archived
        .iter()
        .filter_map(|line| line.split(':').next())
        .collect();
    assert_eq!(named, ["/", "/srv/audit", "/etc/hostname"]);
    assert_eq!(found.missing, [""; 0]);
}

#[test]
fn a_part_of_a_volume_is_found_on_the_node() {
    let manifest = "spec: {containers: [{name: kube-apiserver, command: [a, --service-account-key-file=/part/key], volumeMounts: [{name: part, mountPath: /part/key, subPath: key-1}]}], volumes: [{name: part, hostPath: {path: /host/part}}]}";
    let found = of_api_server(manifest, &[("/host/part/key-1", "")]);
    assert!(
        found.resources.contains(&"/host/part/key-1".into()),
        "{found:?}"
    );
}

#[test]
fn flags_of_k3s_that_are_none_do_not_keep_etcd_from_being_found() {
    for flags in [
        "[audit-policy-file=/a.yaml, null, 7]",
        "null",
        "{a: 1}",
        "7",
    ] {
        let config = format!("kube-apiserver-arg: {flags}\n");
        let found = find(&Tree::of(&[
            ("/etc/rancher/k3s/config.yaml", &config),
            (
                "/var/lib/rancher/k3s/server/db/etcd/config",
                "listen-client-urls: http://127.0.0.1:2379",
            ),
            ("/a.yaml", ""),
        ]))
        .unwrap();
        assert_eq!(found.platform, Platform::K3s, "{flags}");
        let archived = found.resources.contains(&"/a.yaml".into());
        assert_eq!(archived, flags.starts_with("[audit"), "{flags}");
    }
}
