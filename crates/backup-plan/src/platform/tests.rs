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
fn the_data_directory_of_k3s_and_rke2_is_found_as_they_find_it_themselves() {
    // The distribution, its unit, its environment file, its configuration file, and where its data is then.
    let cases = [
        (
            "k3s",
            "[Service]\nExecStart=/usr/local/bin/k3s \\\n    server \\\n\t'--data-dir' \\\n\t'/of/flag/' \\\n",
            "K3S_DATA_DIR=/of/variable\n",
            "data-dir: /of/file\n",
            "/of/flag",
        ),
        (
            "k3s",
            "[Service]\nEnvironmentFile=-/etc/default/%N\nExecStart=/usr/local/bin/k3s server\n",
            "K3S_DATA_DIR=/of/variable\n",
            "data-dir: /of/file\n",
            "/of/file",
        ),
        (
            "k3s",
            "[Service]\nEnvironmentFile=-/etc/default/%N\nExecStart=/usr/local/bin/k3s server\n",
            "K3S_DATA_DIR=/of/variable\n",
            "",
            "/of/variable",
        ),
        (
            "rke2",
            "[Service]\nEnvironment=\"RKE2_DATA_DIR=/with a space\" X=1\nExecStart=/usr/local/bin/rke2 server\n",
            "",
            "",
            "/with a space",
        ),
        (
            "rke2",
            "[Service]\nExecStart=/usr/local/bin/rke2 server -d /short --config /etc/other.yaml\n",
            "",
            "data-dir: /not/read\n",
            "/short",
        ),
        (
            "rke2",
            "[Service]\nExecStart=/usr/local/bin/rke2 server\n",
            "RKE2_DATA_DIR=/the/unit/does/not/name/this/file\n",
            "",
            "/var/lib/rancher/rke2",
        ),
    ];
    for (name, unit, environment, config, data_dir) in cases {
        let service = if name == "k3s" { "k3s" } else { "rke2-server" };
        let etcd = format!(
            "data-dir: {data_dir}/server/db/etcd\nlisten-client-urls: http://127.0.0.1:9\n"
        );
        let found = find(&Tree::of(&[
            (
                &format!("/usr/local/lib/systemd/system/{service}.service"),
                unit,
            ),
            (&format!("/etc/default/{service}"), environment),
            (&format!("/etc/rancher/{name}/config.yaml"), config),
            (&format!("{data_dir}/server/db/etcd/config"), &etcd),
        ]))
        .unwrap();
        assert_eq!(found.platform.name(), name, "{unit}");
        let expected = format!("{data_dir}/server/db/etcd");
        assert_eq!(found.data_dir, Some(expected), "{unit}");
    }
}

#[test]
fn kops_and_its_second_etcd_are_found_by_the_flags_of_the_api_server() {
    let manifest = "apiVersion: v1\nkind: Pod\nspec:\n  containers:\n  - name: kube-apiserver\n    args:\n    - --log-file=/var/log/kube-apiserver.log\n    - --also-stdout\n    - /usr/local/bin/kube-apiserver\n    - --etcd-cafile=/srv/kubernetes/kube-apiserver/etcd-ca.crt\n    - --etcd-certfile=/srv/kubernetes/kube-apiserver/etcd-client.crt\n    - --etcd-keyfile=/srv/kubernetes/kube-apiserver/etcd-client.key\n    - --etcd-servers-overrides=/events#https://127.0.0.1:4002\n    - --etcd-servers=https://127.0.0.1:4001\n";
    let tls = |name: &str| format!("/srv/kubernetes/kube-apiserver/etcd-{name}");
    let found = find(&Tree::of(&[
        (
            "/etc/kubernetes/manifests/kube-apiserver.manifest",
            manifest,
        ),
        (&tls("ca.crt"), ""),
        (&tls("client.crt"), ""),
        (&tls("client.key"), ""),
    ]))
    .unwrap();
    assert_eq!(found.platform, Platform::Kops);
    assert_eq!(found.endpoint, "https://127.0.0.1:4001");
    assert_eq!(found.resources, ["/etc/kubernetes", "/srv/kubernetes"]);
    let [events] = found.others.as_slice() else {
        panic!("{:?}", found.others);
    };
    assert_eq!(events.name, "events");
    assert_eq!(events.endpoints, ["https://127.0.0.1:4002"]);
    assert_eq!(events.cert, Some(tls("client.crt")));
    assert!(
        error_of(&[(
            "/etc/kubernetes/manifests/kube-apiserver.manifest",
            &manifest.replace("etcd-servers=", "x=")
        )])
        .contains("the option --etcd-servers of kube-apiserver is missing")
    );
}

#[test]
fn kubesprays_second_etcd_is_found_by_its_own_service() {
    let environment = |port: u16| {
        format!(
            "ETCD_DATA_DIR=/var/lib/etcd-{port}\nETCD_LISTEN_CLIENT_URLS=https://10.0.0.5:{port},https://127.0.0.1:{port}\nETCD_TRUSTED_CA_FILE=/etc/ssl/etcd/ca.pem\nETCDCTL_CERT=/etc/ssl/etcd/admin.pem\nETCDCTL_KEY=/etc/ssl/etcd/admin-key.pem\n"
        )
    };
    let api_server = "spec:\n  containers:\n  - name: kube-apiserver\n    command: [kube-apiserver, '--etcd-servers=https://10.0.0.5:2379', '--etcd-servers-overrides=/events#https://10.0.0.5:2383;https://10.0.0.6:2383']\n";
    let (main, events) = (environment(2379), environment(2383));
    let mut files = vec![
        ("/etc/etcd.env", main.as_str()),
        ("/etc/etcd-events.env", events.as_str()),
        ("/etc/ssl/etcd/ca.pem", ""),
        ("/etc/ssl/etcd/admin.pem", ""),
        ("/etc/ssl/etcd/admin-key.pem", ""),
    ];
    // Also where no API server runs.
    for with_api_server in [false, true] {
        if with_api_server {
            files.push(("/etc/kubernetes/manifests/kube-apiserver.yaml", api_server));
        }
        let found = find(&Tree::of(&files)).unwrap();
        assert_eq!(found.endpoint, "https://127.0.0.1:2379");
        let [events] = found.others.as_slice() else {
            panic!("{:?}", found.others);
        };
        assert_eq!(events.endpoints, ["https://127.0.0.1:2383"]);
        assert_eq!(events.cert.as_deref(), Some("/etc/ssl/etcd/admin.pem"));
        assert!(
            found
                .resources
                .contains(&"/etc/etcd-events.env".to_string())
        );
    }
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
