//! A real etcd on loopback, for the time of a test.

use crate::etcd_binaries::Binaries;
use crate::etcd_client::Client;
use crate::pki::{CertificateAuthority, Pki};
use crate::private_network::PrivateNetwork;
use crate::reserved_port::ReservedPort;
use crate::scratch_dir::ScratchDir;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The default data directory of a server. It is below the server's own folder, as it is below the root directory on a node.
const DATA_DIR: &str = "/var/lib/etcd";

/// A running server; dropping it ends it and removes its data.
pub struct Server {
    /// Programs of the running version. `start_again` can change the version.
    pub binaries: Binaries,
    /// URL for clients. It stays the same when the server is started again.
    pub endpoint: String,
    /// Certificates of the server and of its clients, or `None` without TLS.
    pub pki: Option<Pki>,
    place: Place,
    child: Child,
}

/// Where a member is, and how it is started there.
struct Place {
    endpoint: String,
    peer: String,
    name: String,
    dir: ScratchDir,
    data_dir: &'static str,
    network: Option<Arc<PrivateNetwork>>,
    flags: Vec<String>,
    // Reserved also while the server is down.
    _ports: Option<[ReservedPort; 2]>,
}

impl Place {
    fn new(options: &Options) -> Self {
        let dir = ScratchDir::create("lifeboat-etcd-");
        let scheme = if options.tls { "https" } else { "http" };
        // In a separate network, etcd's usual ports are free.
        let reserved = match options.network {
            Some(_) => None,
            None => Some([(); 2].map(|()| ReservedPort::new())),
        };
        let ports = match &reserved {
            Some(ports) => ports.each_ref().map(ReservedPort::number),
            None => [2379, 2380],
        };
        Place {
            endpoint: format!("{scheme}://127.0.0.1:{}", ports[0]),
            peer: format!("http://127.0.0.1:{}", ports[1]),
            // The name is how the server is recognised as ours.
            name: dir
                .path()
                .file_name()
                .unwrap()
                .to_string_lossy()
                .into_owned(),
            data_dir: options.data_dir.unwrap_or(DATA_DIR),
            network: options.network.clone(),
            flags: options.flags.clone(),
            _ports: reserved,
            dir,
        }
    }

    fn data_dir(&self) -> PathBuf {
        self.dir.path().join(self.data_dir.trim_start_matches('/'))
    }

    /// A command, in the member's network.
    fn command(&self, program: &Path) -> Command {
        match &self.network {
            Some(network) => network.command(program),
            None => Command::new(program),
        }
    }

    fn spawn(&self, binaries: &Binaries, pki: Option<&Pki>) -> Child {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.dir.path().join("log"))
            .unwrap();
        // Ends the server also if the test is killed.
        let mut command = self.command(Path::new("setpriv"));
        command
            .args(["--pdeathsig", "KILL"])
            .arg(&binaries.etcd)
            .arg("--data-dir")
            .arg(self.data_dir())
            .args(["--name", &self.name])
            .args(["--listen-client-urls", &self.endpoint])
            .args(["--advertise-client-urls", &self.endpoint])
            .args(["--listen-peer-urls", &self.peer])
            .args(["--initial-advertise-peer-urls", &self.peer])
            .args(&self.flags);
        if let Some(pki) = pki {
            command
                .arg("--client-cert-auth")
                .arg("--trusted-ca-file")
                .arg(&pki.ca)
                .arg("--cert-file")
                .arg(&pki.server_cert)
                .arg("--key-file")
                .arg(&pki.server_key);
        }
        // Only the parent directory: etcd creates its data directory.
        std::fs::create_dir_all(self.data_dir().parent().unwrap()).unwrap();
        command
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .stdin(Stdio::null())
            .spawn()
            .expect("start setpriv (Debian package util-linux) with etcd")
    }

    fn start(self, binaries: &Binaries, pki: Option<Pki>) -> Server {
        Server {
            child: self.spawn(binaries, pki.as_ref()),
            binaries: binaries.clone(),
            endpoint: self.endpoint.clone(),
            pki,
            place: self,
        }
    }
}

/// How a server is started.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// With TLS, and only for clients with a certificate.
    pub tls: bool,
    /// Additional flags of etcd.
    pub flags: Vec<String>,
    /// Where its data is below its own folder, if not in `/var/lib/etcd`.
    pub data_dir: Option<&'static str>,
    /// The network of the server, in which it listens on etcd's usual ports. If `None`, it listens on free ports of loopback.
    pub network: Option<Arc<PrivateNetwork>>,
}

/// A member that has not started yet, so that a test can make its data directory.
pub struct Prepared {
    place: Place,
    binaries: Binaries,
}

impl Prepared {
    pub fn new(binaries: &Binaries) -> Prepared {
        Prepared {
            place: Place::new(&Options::default()),
            binaries: binaries.clone(),
        }
    }

    pub fn name(&self) -> &str {
        &self.place.name
    }

    pub fn peer_url(&self) -> &str {
        &self.place.peer
    }

    /// The flags of a restore for a cluster of this member alone.
    pub fn flags(&self) -> [String; 3] {
        let (name, url) = (self.name(), self.peer_url());
        [
            format!("--name={name}"),
            format!("--initial-cluster={name}={url}"),
            format!("--initial-advertise-peer-urls={url}"),
        ]
    }

    /// Does not exist yet. The directory above it exists.
    pub fn data_dir(&self) -> PathBuf {
        let dir = self.place.data_dir();
        std::fs::create_dir_all(dir.parent().unwrap()).unwrap();
        dir
    }

    /// Adds a flag of etcd.
    pub fn flag(&mut self, flag: &str) {
        self.place.flags.push(flag.into());
    }

    /// Starts the members of one cluster.
    pub fn start(members: Vec<Prepared>) -> Vec<Server> {
        let mut servers: Vec<_> = members
            .into_iter()
            .map(|member| member.place.start(&member.binaries, None))
            .collect();
        for server in &mut servers {
            server.wait_until_ready();
        }
        servers
    }

    /// Starts the member alone, and does not wait for it.
    pub fn start_without_waiting(self) -> Server {
        self.place.start(&self.binaries, None)
    }
}

impl Server {
    /// Starts a server with an empty data dir.
    pub fn start(binaries: &Binaries) -> Server {
        Server::start_with(binaries, &Options::default())
    }

    /// Starts a server with these options.
    pub fn start_with(binaries: &Binaries, options: &Options) -> Server {
        Server::start_cluster(binaries, options, 1).remove(0)
    }

    /// Starts the members of one cluster, with one certificate authority if they speak TLS.
    pub fn start_cluster(binaries: &Binaries, options: &Options, members: usize) -> Vec<Server> {
        let mut places: Vec<_> = (0..members).map(|_| Place::new(options)).collect();
        let ca = options.tls.then(CertificateAuthority::new);
        let cluster: Vec<_> = places
            .iter()
            .map(|member| format!("{}={}", member.name, member.peer))
            .collect();
        for place in &mut places {
            place
                .flags
                .push(format!("--initial-cluster={}", cluster.join(",")));
        }
        let mut servers: Vec<_> = places
            .into_iter()
            .map(|place| {
                let pki = ca.as_ref().map(|ca| Pki::by(ca, place.dir.path()));
                place.start(binaries, pki)
            })
            .collect();
        for server in &mut servers {
            server.wait_until_ready();
        }
        servers
    }

    fn wait_until_ready(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline && self.is_running() {
            let members = self.etcdctl(&["member", "list"]);
            if members.status.success() {
                let members = String::from_utf8_lossy(&members.stdout);
                assert!(members.contains(&self.place.name), "not ours: {members}");
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!(
            "etcd did not become ready: {}",
            std::fs::read_to_string(self.place.dir.path().join("log")).unwrap_or_default()
        );
    }

    /// Runs etcdctl against the server.
    pub fn etcdctl(&self, args: &[&str]) -> std::process::Output {
        let mut command = self.place.command(&self.binaries.etcdctl);
        command
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &self.endpoint])
            .args(["--dial-timeout", "2s"]);
        if let Some(pki) = &self.pki {
            command
                .arg("--cacert")
                .arg(&pki.ca)
                .arg("--cert")
                .arg(&pki.client_cert)
                .arg("--key")
                .arg(&pki.client_key);
        }
        command.args(args).output().expect("run etcdctl")
    }

    /// Runs etcdctl and fails the test if that fails.
    pub fn etcdctl_ok(&self, args: &[&str]) -> String {
        let output = self.etcdctl(args);
        assert!(
            output.status.success(),
            "etcdctl {args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Saves a snapshot with etcdctl.
    pub fn snapshot(&self, name: &str, more_flags: &[&str]) -> PathBuf {
        let path = self.place.dir.path().join(name);
        let args = [more_flags, &["snapshot", "save", path.to_str().unwrap()]].concat();
        self.etcdctl_ok(&args);
        path
    }

    /// A client for writes.
    pub fn client(&self) -> Client {
        Client::connect_with(&self.endpoint, self.pki.as_ref())
    }

    /// The folder of the server, which is removed with it.
    pub fn dir(&self) -> &Path {
        self.place.dir.path()
    }

    /// The database file of the server.
    pub fn db(&self) -> PathBuf {
        self.place.data_dir().join("member/snap/db")
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal, with the name as `kill` expects it, such as `-STOP`.
    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args([name, &pid]).status();
        assert!(sent.unwrap().success(), "{name} was not sent");
        // A process stops some time after the signal was sent.
        let is_stopped = || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.rsplit_once(')')
                .is_none_or(|(_, state)| state.trim_start().starts_with('T'))
        };
        let deadline = Instant::now() + Duration::from_secs(10);
        while name == "-STOP" && !is_stopped() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Whether the process exists. A frozen server counts as running.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_none())
    }

    /// Joins a cluster as a learner, which has no vote.
    pub fn start_learner(of: &Server) -> Server {
        let mut place = Place::new(&Options {
            tls: of.pki.is_some(),
            ..Options::default()
        });
        let add = [
            "member",
            "add",
            &place.name,
            "--learner",
            "--peer-urls",
            &place.peer,
        ];
        let printed = of.etcdctl_ok(&add);
        let cluster = printed
            .lines()
            .find_map(|line| line.strip_prefix("ETCD_INITIAL_CLUSTER=\""))
            .and_then(|line| line.strip_suffix('"'))
            .expect("etcdctl says the new cluster");
        place.flags = vec![
            format!("--initial-cluster={cluster}"),
            "--initial-cluster-state=existing".into(),
        ];
        let learner = place.start(&of.binaries, of.pki.clone());
        // A learner does not answer requests for the member list. So its status shows that it has started.
        let deadline = Instant::now() + Duration::from_secs(20);
        while !learner.etcdctl(&["endpoint", "status"]).status.success() {
            assert!(Instant::now() < deadline, "the learner did not start");
            std::thread::sleep(Duration::from_millis(50));
        }
        learner
    }

    /// Gives a learner its vote, as soon as it has caught up.
    pub fn promote(&self, learner: &Server) {
        let (id, _) = learner.client().member_id_and_revision();
        let deadline = Instant::now() + Duration::from_secs(20);
        while !self
            .etcdctl(&["member", "promote", &format!("{id:x}")])
            .status
            .success()
        {
            assert!(Instant::now() < deadline, "the learner was not promoted");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Starts a stopped server again, with any version.
    pub fn start_again(&mut self, binaries: &Binaries) {
        self.binaries = binaries.clone();
        self.child = self.place.spawn(binaries, self.pki.as_ref());
        self.wait_until_ready();
    }

    /// Ends the server as a crash does.
    pub fn crash(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Stops the server with SIGTERM and keeps its data until the value is dropped.
    pub fn stop(&mut self) {
        let pid = self.child.id().to_string();
        let killed = Command::new("kill").arg(&pid).status();
        let deadline = Instant::now() + Duration::from_secs(10);
        while killed.is_ok() && Instant::now() < deadline {
            if self.child.try_wait().unwrap().is_some() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("etcd did not stop");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
