//! A real etcd on loopback, for the time of a test.

use crate::etcd_binaries::Binaries;
use crate::etcd_client::Client;
use crate::pki::{CertificateAuthority, Pki};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Where a server keeps its data: below its own folder as a node has it below its root.
const DATA_DIR: &str = "var/lib/etcd";

/// A running server; dropping it ends it and removes its data.
pub struct Server {
    /// Its programs.
    pub binaries: Binaries,
    /// Where clients find it.
    pub endpoint: String,
    /// Its certificates, if it speaks TLS.
    pub pki: Option<Pki>,
    name: String,
    dir: TempDir,
    child: Child,
}

/// Where a member is to be.
struct Place {
    endpoint: String,
    peer: String,
    name: String,
    pki: Option<Pki>,
    dir: TempDir,
}

impl Place {
    fn start(self, binaries: &Binaries, flags: &[String]) -> Server {
        let log = std::fs::File::create(self.dir.path().join("log")).unwrap();
        // Ends the server also if the test is killed.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL"])
            .arg(&binaries.etcd)
            .arg("--data-dir")
            .arg(self.dir.path().join(DATA_DIR))
            .args(["--name", &self.name])
            .args(["--listen-client-urls", &self.endpoint])
            .args(["--advertise-client-urls", &self.endpoint])
            .args(["--listen-peer-urls", &self.peer])
            .args(["--initial-advertise-peer-urls", &self.peer])
            .args(flags);
        if let Some(pki) = &self.pki {
            command
                .arg("--client-cert-auth")
                .arg("--trusted-ca-file")
                .arg(&pki.ca)
                .arg("--cert-file")
                .arg(&pki.server_cert)
                .arg("--key-file")
                .arg(&pki.server_key);
        }
        // Only here, as etcd wants it: the folder is its own.
        std::fs::create_dir_all(self.dir.path().join("var/lib")).unwrap();
        let child = command
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .stdin(Stdio::null())
            .spawn()
            .expect("start setpriv (Debian package util-linux) with etcd");
        Server {
            binaries: binaries.clone(),
            endpoint: self.endpoint,
            pki: self.pki,
            name: self.name,
            dir: self.dir,
            child,
        }
    }
}

/// How a server is started.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// With TLS, and only for clients with a certificate.
    pub tls: bool,
    /// More flags.
    pub flags: Vec<String>,
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a free port")
        .port()
}

impl Server {
    /// Starts a server with an empty data dir.
    pub fn start(binaries: &Binaries) -> Server {
        Server::start_with(binaries, &Options::default())
    }

    /// Starts a server in a way of the caller's.
    pub fn start_with(binaries: &Binaries, options: &Options) -> Server {
        Server::start_cluster(binaries, options, 1).remove(0)
    }

    /// Starts the members of one cluster, with one certificate authority if they speak TLS.
    pub fn start_cluster(binaries: &Binaries, options: &Options, members: usize) -> Vec<Server> {
        const TRIES: usize = 5;
        // Somebody else may have taken a port meanwhile: then take others.
        (0..TRIES)
            .find_map(|_| Server::try_start(binaries, options, members))
            .expect("start etcd")
    }

    fn try_start(binaries: &Binaries, options: &Options, members: usize) -> Option<Vec<Server>> {
        let dirs: Vec<_> = (0..members)
            .map(|_| {
                let mut builder = tempfile::Builder::new();
                builder.prefix("lifeboat-etcd-").tempdir().unwrap()
            })
            .collect();
        let ca = options.tls.then(CertificateAuthority::new);
        let scheme = if options.tls { "https" } else { "http" };
        let members: Vec<_> = dirs
            .into_iter()
            .map(|dir| Place {
                endpoint: format!("{scheme}://127.0.0.1:{}", free_port()),
                peer: format!("http://127.0.0.1:{}", free_port()),
                // The name is how the server is recognised as ours.
                name: dir
                    .path()
                    .file_name()
                    .unwrap()
                    .to_string_lossy()
                    .into_owned(),
                pki: ca.as_ref().map(|ca| Pki::by(ca, dir.path())),
                dir,
            })
            .collect();
        let cluster: Vec<_> = members
            .iter()
            .map(|member| format!("{}={}", member.name, member.peer))
            .collect();
        let mut flags = options.flags.clone();
        flags.push(format!("--initial-cluster={}", cluster.join(",")));
        let mut servers: Vec<_> = members
            .into_iter()
            .map(|place| place.start(binaries, &flags))
            .collect();
        servers
            .iter_mut()
            .all(Server::wait_until_ready)
            .then_some(servers)
    }

    fn wait_until_ready(&mut self) -> bool {
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            let members = self.etcdctl(&["member", "list"]);
            if members.status.success() {
                return String::from_utf8_lossy(&members.stdout).contains(&self.name);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!(
            "etcd did not become ready: {}",
            std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
        );
    }

    /// Runs etcdctl against the server.
    pub fn etcdctl(&self, args: &[&str]) -> std::process::Output {
        let mut command = Command::new(&self.binaries.etcdctl);
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

    /// Saves a snapshot as users do today.
    pub fn snapshot(&self, name: &str, more_flags: &[&str]) -> PathBuf {
        let path = self.dir.path().join(name);
        let args = [more_flags, &["snapshot", "save", path.to_str().unwrap()]].concat();
        self.etcdctl_ok(&args);
        path
    }

    /// A client for writes.
    pub fn client(&self) -> Client {
        Client::connect_with(&self.endpoint, self.pki.as_ref())
    }

    /// A folder that goes with the server.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The database file of the server.
    pub fn db(&self) -> PathBuf {
        self.dir.path().join(DATA_DIR).join("member/snap/db")
    }

    /// The server's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Joins a cluster as a learner, which has no vote.
    pub fn start_learner(of: &Server) -> Server {
        let dir = tempfile::Builder::new()
            .prefix("lifeboat-etcd-")
            .tempdir()
            .unwrap();
        let place = Place {
            endpoint: format!("http://127.0.0.1:{}", free_port()),
            peer: format!("http://127.0.0.1:{}", free_port()),
            name: dir
                .path()
                .file_name()
                .unwrap()
                .to_string_lossy()
                .into_owned(),
            pki: None,
            dir,
        };
        let add = [
            "member",
            "add",
            &place.name,
            "--learner",
            "--peer-urls",
            &place.peer,
        ];
        let told = of.etcdctl_ok(&add);
        let cluster = told
            .lines()
            .find_map(|line| line.strip_prefix("ETCD_INITIAL_CLUSTER=\""))
            .and_then(|line| line.strip_suffix('"'))
            .expect("etcdctl says the new cluster");
        let flags = [
            format!("--initial-cluster={cluster}"),
            "--initial-cluster-state=existing".into(),
        ];
        let learner = place.start(&of.binaries, &flags);
        // A learner answers no list of members: that it serves its status is all there is to see.
        let deadline = Instant::now() + Duration::from_secs(20);
        while !learner.etcdctl(&["endpoint", "status"]).status.success() {
            assert!(Instant::now() < deadline, "the learner did not start");
            std::thread::sleep(Duration::from_millis(50));
        }
        learner
    }

    /// Ends the server in order and keeps its data until the value is dropped.
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
