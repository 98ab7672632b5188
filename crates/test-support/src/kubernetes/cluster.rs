//! A cluster that tests start, inspect, break and repair. It ends when the value is dropped.

use super::binaries::{Binaries, STREAMS, tool};
use super::container::Spawner;
use super::image::Images;
use super::kubelet::Kubelet;
use super::link::Link;
use super::node;
use super::node_context::Context;
use super::openshift::{self, Flavour};
use super::part::Part;
use super::pki::{ClusterPki, Identity, SERVICE_RANGE};
use crate::etcd_binaries::Binaries as EtcdBinaries;
use crate::etcd_server::{Options as EtcdOptions, Server};
use crate::node_trees::Kind;
use crate::reserved_port::ReservedPort;
use crate::scratch_dir::ScratchDir;
use k8s_openapi::api::core::v1::{Node, ServiceAccount};
use kube::api::{Api, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use std::collections::BTreeMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

const READY_WITHIN: Duration = Duration::from_secs(60);
pub(super) const APISERVER: &str = "kube-apiserver";
const CONTROLLER_MANAGER: &str = "kube-controller-manager";
const SCHEDULER: &str = "kube-scheduler";

/// What a cluster is made of.
#[derive(Debug, Clone)]
pub struct Options {
    /// Control-plane nodes, each with a member of etcd.
    pub nodes: usize,
    /// Kubernetes' own programs.
    pub kubernetes: Binaries,
    /// Programs of etcd, the same version on each node.
    pub etcd: EtcdBinaries,
    /// Whether it looks like OpenShift.
    pub openshift: Option<Flavour>,
    /// The images that its nodes have.
    pub images: Images,
}

/// A node of a cluster.
#[derive(Debug, Clone)]
pub struct NodePlace {
    /// Name of the Node object, such as `node-1`.
    pub name: String,
    /// The folder that stands for the root directory of the node.
    pub root: PathBuf,
    /// URL for clients of the node's etcd member.
    pub etcd_endpoint: String,
}

/// A running cluster; dropping it ends everything and removes its files.
pub struct Cluster {
    // In the order in which they are dropped, so that no part writes to one that has already ended.
    pub(super) kubelets: BTreeMap<String, Kubelet>,
    pub(super) parts: BTreeMap<&'static str, Part>,
    pub(super) members: BTreeMap<String, Server>,
    pub(super) links: BTreeMap<String, Link>,
    pub(super) contexts: BTreeMap<String, Arc<Context>>,
    // Reserved also while the servers that use them are down.
    ports: Vec<ReservedPort>,
    kubeconfig: PathBuf,
    kubectl: PathBuf,
    pki: ClusterPki,
    client: kube::Client,
    images: Arc<Mutex<Images>>,
    started_in: Duration,
    version: String,
    runtime: Runtime,
    dir: ScratchDir,
}

impl Cluster {
    /// Starts a cluster, and waits until it is ready.
    ///
    /// # Panics
    /// If it does not become ready.
    #[must_use]
    pub fn start(options: &Options) -> Cluster {
        let start = Instant::now();
        let dir = ScratchDir::create("lifeboat-cluster-");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let etcd_options = EtcdOptions {
            tls: true,
            ..EtcdOptions::default()
        };
        let servers = Server::start_cluster(&options.etcd, &etcd_options, options.nodes);
        let members: BTreeMap<_, _> = (1..)
            .zip(servers)
            .map(|(number, server)| (format!("node-{number}"), server))
            .collect();
        let pki = ClusterPki::create(&dir.path().join("pki"));
        let reserved = ReservedPort::new();
        let api_port = reserved.number();
        let mut links = BTreeMap::new();
        let etcd_urls: Vec<_> = members
            .iter()
            .map(|(name, server)| {
                let link = runtime.block_on(Link::to(port_of(&server.endpoint)));
                let url = format!("https://127.0.0.1:{}", link.port());
                links.insert(format!("etcd/{name}"), link);
                url
            })
            .collect();
        for name in [CONTROLLER_MANAGER, SCHEDULER, "outside"] {
            links.insert(name.into(), runtime.block_on(Link::to(api_port)));
        }
        for name in members.keys() {
            for user in ["kubelet", "pods"] {
                let link = runtime.block_on(Link::to(api_port));
                links.insert(format!("{user}/{name}"), link);
            }
        }
        let parts = start_parts(options, &dir, &pki, api_port, &etcd_urls, &links, &members);
        // The connection of the tests themselves is never cut.
        let kubeconfig = pki.kubeconfig(&Identity::admin(), api_port);
        let client = runtime.block_on(client_of(&kubeconfig));
        let mut cluster = Cluster {
            kubelets: BTreeMap::new(),
            contexts: BTreeMap::new(),
            ports: vec![reserved],
            images: Arc::new(Mutex::new(options.images.clone())),
            kubectl: options.kubernetes.program("kubectl"),
            parts,
            members,
            links,
            kubeconfig,
            pki,
            client,
            started_in: Duration::ZERO,
            version: format!("v{}.0", options.kubernetes.version),
            runtime,
            dir,
        };
        cluster.wait_for_the_api_server();
        for part in cluster
            .parts
            .values_mut()
            .filter(|part| part.pid().is_none())
        {
            part.start_again();
        }
        let names: Vec<_> = cluster.members.keys().cloned().collect();
        for name in &names {
            cluster.add_node(name);
        }
        if let Some(flavour) = options.openshift {
            let made = openshift::make(&cluster.client, flavour);
            cluster
                .runtime
                .block_on(made)
                .expect("OpenShift's kinds and objects");
        }
        cluster.wait_until_ready();
        cluster.started_in = start.elapsed();
        cluster
    }

    pub(super) fn wait_for_the_api_server(&mut self) {
        let deadline = Instant::now() + READY_WITHIN;
        // Ready also means that the built-in roles exist. The other programs cannot start without them.
        while !self.kubectl(&["get", "--raw", "/readyz"]).status.success() {
            let alive = self.parts.get_mut(APISERVER).is_some_and(Part::is_running);
            assert!(
                alive && Instant::now() < deadline,
                "the API server did not start: {}",
                self.log_end(APISERVER)
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The last 20 lines of a part's log.
    #[must_use]
    pub fn log_end(&self, part: &str) -> String {
        const LINES: usize = 20;
        let log = self.parts.get(part).map(|part| part.log().to_path_buf());
        let text = log
            .and_then(|log| std::fs::read_to_string(log).ok())
            .unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(LINES)..].join("\n")
    }

    fn add_node(&mut self, name: &str) {
        let server = &self.members[name];
        Kind::Kubeadm.lay_out(server.dir(), &server.endpoint, server.pki.as_ref().unwrap());
        self.runtime
            .block_on(node::register(&self.client, name))
            .expect("a Node object");
        let link = &self.links[&format!("kubelet/{name}")];
        let kubeconfig = self.pki.kubeconfig(&Identity::node(name), link.port());
        let client = self.runtime.block_on(client_of(&kubeconfig));
        let reserved = ReservedPort::new();
        let streams_port = reserved.number();
        self.ports.push(reserved);
        let context = Arc::new(Context {
            node: name.into(),
            version: self.version.clone(),
            root: server.dir().into(),
            pods: self.dir.path().join("pods").join(name),
            client,
            images: self.images.clone(),
            spawner: Spawner::start(),
            api_port: self.links[&format!("pods/{name}")].port(),
            streams_port,
        });
        self.contexts.insert(name.into(), context.clone());
        self.start_kubelet(context);
    }

    pub(super) fn start_kubelet(&mut self, context: Arc<Context>) {
        let [cert, key] = self.pki.serving(&context.node);
        let args = [
            ("listen", format!("127.0.0.1:{}", context.streams_port)),
            ("pods", context.pods.display().to_string()),
            ("ca", self.pki.path("ca.crt").display().to_string()),
            ("cert", cert.display().to_string()),
            ("key", key.display().to_string()),
        ];
        let log = self
            .dir
            .path()
            .join(format!("{}.streams.log", context.node));
        let streams = Part::new(tool(STREAMS), flags(&args), log);
        let _inside = self.runtime.enter();
        self.kubelets
            .insert(context.node.clone(), Kubelet::start(context, streams));
    }

    fn wait_until_ready(&mut self) {
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), "default");
            let account = self.runtime.block_on(accounts.get("default")).is_ok();
            if account && self.ready_nodes() == self.members.len() {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "the cluster did not become ready: {}",
                self.log_end(CONTROLLER_MANAGER)
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    #[must_use]
    pub fn ready_nodes(&self) -> usize {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let Ok(nodes) = self.runtime.block_on(nodes.list(&ListParams::default())) else {
            return 0;
        };
        let ready = |node: &&Node| {
            let conditions = node
                .status
                .iter()
                .flat_map(|status| status.conditions.iter().flatten());
            conditions
                .filter(|condition| condition.type_ == "Ready")
                .any(|condition| condition.status == "True")
        };
        nodes.iter().filter(ready).count()
    }

    /// How long it took until it was ready.
    #[must_use]
    pub fn started_in(&self) -> Duration {
        self.started_in
    }

    /// The folder with the certificates, logs and pods of the cluster.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A kubeconfig with all rights, whose connection is never cut.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// A kubeconfig with all rights for a program outside of the cluster. Its connection can be cut as `outside`.
    #[must_use]
    pub fn outside_kubeconfig(&self) -> PathBuf {
        let mut identity = Identity::admin();
        identity.file = "outside".into();
        self.pki.kubeconfig(&identity, self.links["outside"].port())
    }

    /// Like [`Cluster::outside_kubeconfig`], but with the token of a service account.
    #[must_use]
    pub fn account_kubeconfig(&self, namespace: &str, account: &str) -> PathBuf {
        let token = self.kubectl_ok(&["-n", namespace, "create", "token", account]);
        let port = self.links["outside"].port();
        self.pki.token_kubeconfig(account, token.trim(), port)
    }

    /// Like [`Cluster::outside_kubeconfig`], but with a token.
    #[must_use]
    pub fn kubeconfig_with_token(&self, token: &str) -> PathBuf {
        let port = self.links["outside"].port();
        self.pki.token_kubeconfig("with-token", token, port)
    }

    /// Runs kubectl with a token instead of all rights.
    #[must_use]
    pub fn kubectl_with_token(&self, token: &str, args: &[&str]) -> Output {
        let kubeconfig = self.kubeconfig_with_token(token);
        let mut kubectl = Command::new(&self.kubectl);
        kubectl.arg("--kubeconfig").arg(kubeconfig).args(args);
        kubectl.output().unwrap()
    }

    /// A client with all rights.
    #[must_use]
    pub fn client(&self) -> kube::Client {
        self.client.clone()
    }

    /// Runs a future on the runtime of the cluster.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }

    /// Runs kubectl with all rights.
    #[must_use]
    pub fn kubectl(&self, args: &[&str]) -> Output {
        Command::new(&self.kubectl)
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .args(args)
            .output()
            .expect("run kubectl")
    }

    /// Runs kubectl and fails the test if that fails.
    #[must_use]
    pub fn kubectl_ok(&self, args: &[&str]) -> String {
        let output = self.kubectl(args);
        assert!(
            output.status.success(),
            "kubectl {args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    pub fn apply(&self, manifest: &str) {
        let path = self.dir.path().join("manifest.yaml");
        std::fs::write(&path, manifest).unwrap();
        let _ = self.kubectl_ok(&["apply", "-f", path.to_str().unwrap()]);
    }

    /// All nodes, in the order of their names.
    #[must_use]
    pub fn nodes(&self) -> Vec<NodePlace> {
        let place = |(name, server): (&String, &Server)| NodePlace {
            name: name.clone(),
            root: server.dir().into(),
            etcd_endpoint: server.endpoint.clone(),
        };
        self.members.iter().map(place).collect()
    }

    /// The member of etcd that is on a node.
    #[must_use]
    pub fn member(&self, node: &str) -> &Server {
        &self.members[node]
    }

    /// The requests of a service account to the API server so far, as audit events.
    #[must_use]
    pub fn asked_by(&self, namespace: &str, account: &str) -> Vec<serde_json::Value> {
        let user = format!("system:serviceaccount:{namespace}:{account}");
        let log = std::fs::read_to_string(audit_log(self.dir.path())).unwrap_or_default();
        log.lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
            .filter(|event| event["user"]["username"] == *user)
            .collect()
    }

    /// Adds an image to those that its nodes have.
    pub fn add_image(&self, name: &str, image: super::image::Image) {
        let mut images = self.images.lock().unwrap();
        *images = std::mem::take(&mut *images).with(name, image);
    }

    /// What a container has printed since its last start, or `None` if the container does not exist any more.
    #[must_use]
    pub fn logs(&self, namespace: &str, pod: &str, container: &str) -> Option<String> {
        let pods: Api<k8s_openapi::api::core::v1::Pod> =
            Api::namespaced(self.client.clone(), namespace);
        let pod = self.runtime.block_on(pods.get(pod)).ok()?;
        let node = pod.spec?.node_name?;
        let dir = self
            .contexts
            .get(&node)?
            .pods
            .join(pod.metadata.uid?)
            .join(container);
        let logs = std::fs::read_dir(dir).ok()?.flatten();
        let newest = logs
            .filter_map(|entry| {
                let path = entry.path();
                let number = path.file_stem()?.to_str()?.parse::<u32>().ok()?;
                (path.extension()? == "log").then_some((number, path))
            })
            .max()?;
        std::fs::read_to_string(newest.1).ok()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for kubelet in self.kubelets.values_mut() {
            kubelet.crash();
        }
        // Wait until the containers have ended and do not use their directories any more.
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn port_of(url: &str) -> u16 {
    url.rsplit(':').next().unwrap().parse().unwrap()
}

/// A client with the identity of a kubeconfig.
pub async fn client_of(kubeconfig: &Path) -> kube::Client {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).unwrap();
    let options = KubeConfigOptions::default();
    let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &options)
        .await
        .unwrap();
    config.connect_timeout = Some(Duration::from_secs(2));
    kube::Client::try_from(config).unwrap()
}

fn audit_log(dir: &Path) -> PathBuf {
    dir.join("audit.log")
}

/// What pods ask for is written down, and nothing else.
fn audit_policy(dir: &Path) -> String {
    let path = dir.join("audit-policy.yaml");
    let policy = "apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: None, userGroups: ['system:serviceaccounts:kube-system']}
- {level: Metadata, userGroups: ['system:serviceaccounts']}
- {level: None}
";
    std::fs::write(&path, policy).unwrap();
    path.display().to_string()
}

fn flags(flags: &[(&str, String)]) -> Vec<String> {
    flags
        .iter()
        .map(|(flag, value)| format!("--{flag}={value}"))
        .collect()
}

/// The programs of the control plane; the API server is started, the others follow when it is ready.
fn start_parts(
    options: &Options,
    dir: &ScratchDir,
    pki: &ClusterPki,
    api_port: u16,
    etcd_urls: &[String],
    links: &BTreeMap<String, Link>,
    members: &BTreeMap<String, Server>,
) -> BTreeMap<&'static str, Part> {
    let file = |name: &str| pki.path(name).display().to_string();
    let etcd_pki = members
        .values()
        .find_map(|server| server.pki.as_ref())
        .unwrap();
    let plugins = if options.openshift.is_some() {
        "NodeRestriction,OwnerReferencesPermissionEnforcement"
    } else {
        "NodeRestriction"
    };
    let apiserver = [
        ("etcd-servers", etcd_urls.join(",")),
        ("etcd-cafile", etcd_pki.ca.display().to_string()),
        ("etcd-certfile", etcd_pki.client_cert.display().to_string()),
        ("etcd-keyfile", etcd_pki.client_key.display().to_string()),
        ("bind-address", "127.0.0.1".into()),
        ("secure-port", api_port.to_string()),
        ("tls-cert-file", file("apiserver.crt")),
        ("tls-private-key-file", file("apiserver.key")),
        ("client-ca-file", file("ca.crt")),
        (
            "service-account-issuer",
            "https://kubernetes.default.svc".into(),
        ),
        ("service-account-key-file", file("service-accounts.crt")),
        (
            "service-account-signing-key-file",
            file("service-accounts.key"),
        ),
        (
            "kubelet-client-certificate",
            file("apiserver-kubelet-client.crt"),
        ),
        ("kubelet-client-key", file("apiserver-kubelet-client.key")),
        ("kubelet-certificate-authority", file("ca.crt")),
        ("kubelet-preferred-address-types", "InternalIP".into()),
        ("authorization-mode", "Node,RBAC".into()),
        ("service-cluster-ip-range", SERVICE_RANGE.into()),
        // No program uses the address of the service: pods get the port in their environment.
        ("endpoint-reconciler-type", "none".into()),
        ("allow-privileged", "true".into()),
        ("enable-admission-plugins", plugins.into()),
        ("profiling", "false".into()),
        ("audit-policy-file", audit_policy(dir.path())),
        (
            "audit-log-path",
            audit_log(dir.path()).display().to_string(),
        ),
    ];
    let client = |identity: &Identity, link: &str| {
        pki.kubeconfig(identity, links[link].port())
            .display()
            .to_string()
    };
    let manager_config = client(&Identity::controller_manager(), CONTROLLER_MANAGER);
    let manager = [
        ("kubeconfig", manager_config.clone()),
        ("authentication-kubeconfig", manager_config.clone()),
        ("authorization-kubeconfig", manager_config),
        // Nobody asks it anything, and a port could be taken before it has it.
        ("secure-port", "0".into()),
        ("root-ca-file", file("ca.crt")),
        (
            "service-account-private-key-file",
            file("service-accounts.key"),
        ),
        ("use-service-account-credentials", "true".into()),
        ("cluster-signing-cert-file", file("ca.crt")),
        ("cluster-signing-key-file", file("ca.key")),
        ("leader-elect", "false".into()),
        ("profiling", "false".into()),
        // A node without a heartbeat for this time is not ready. The default is 50 s.
        ("node-monitor-grace-period", "20s".into()),
    ];
    let scheduler_config = client(&Identity::scheduler(), SCHEDULER);
    let scheduler = [
        ("kubeconfig", scheduler_config.clone()),
        ("authentication-kubeconfig", scheduler_config.clone()),
        ("authorization-kubeconfig", scheduler_config),
        // Nobody asks it anything, and a port could be taken before it has it.
        ("secure-port", "0".into()),
        ("leader-elect", "false".into()),
        ("profiling", "false".into()),
    ];
    let part = |name: &'static str, flags: &[(&str, String)]| {
        let log = dir.path().join(format!("{name}.log"));
        let program = options.kubernetes.program(name);
        (name, Part::new(program, self::flags(flags), log))
    };
    let mut parts = BTreeMap::from([
        part(APISERVER, &apiserver),
        part(CONTROLLER_MANAGER, &manager),
        part(SCHEDULER, &scheduler),
    ]);
    if let Some(apiserver) = parts.get_mut(APISERVER) {
        apiserver.start_again();
    }
    parts
}
