//! `cargo xtask cluster`: a real Kubernetes control plane on this machine, that stays until it is told to go.
//!
//! A process of its own holds each cluster, and everything in it ends with that process. It is spoken to by a
//! socket beside what it has written down of itself.

use crate::{kit, kubelets, kubernetes, measure, stability};
use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use test_support::etcd_binaries::{self, Binaries};
use test_support::kubernetes::binaries::{self, VERSIONS};
use test_support::kubernetes::cluster::{Cluster, Options};
use test_support::kubernetes::conflict::{ConflictingWriter, Object};
use test_support::kubernetes::faults::Fault;
use test_support::kubernetes::image::{Image, Images};
use test_support::kubernetes::openshift::Flavour;
use test_support::real_nodes::{self, Filesystem, RealNode, in_network_of};
use test_support::requirement::patience;
use xtask::command::output;
use xtask::etcd;

const UP_WITHIN: Duration = Duration::from_secs(120);
const KUBELETS_UP_WITHIN: Duration = Duration::from_secs(600);

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Which cluster; several can be there side by side
    #[arg(long, global = true, default_value = "default")]
    name: String,
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Start one
    Up(Make),
    /// End it, and remove everything of it
    Down,
    /// Say how each part of it is
    Status,
    /// Print what makes a shell's kubectl speak to it: eval "$(cargo xtask cluster env)"
    Env,
    /// Run a command in a node of a cluster with kubelets
    Node {
        /// Such as node2
        node: String,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<String>,
    },
    /// Run kubectl, with all rights
    Kubectl {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Run a program of this machine that reaches the API server: KUBECONFIG is set
    Exec {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<String>,
    },
    /// Break a part of it, or mend it
    Fault {
        /// What to do
        fault: FaultName,
        /// kube-apiserver, kube-controller-manager, kube-scheduler, etcd/NODE, node/NODE; to cut off also
        /// kubelet/NODE, pods/NODE, outside. With kubelets: node/NODE, disk/NODE, kubelet/NODE, containerd/NODE,
        /// CONTAINER/NODE
        part: String,
    },
    /// Add a control-plane node to a cluster with kubelets
    Join,
    /// Make all watches be told that what they know is too old
    ExpireWatches,
    /// Write to an object, over and over, beside whoever else does
    Conflict {
        /// apps/v1
        api_version: String,
        /// DaemonSet
        kind: String,
        object: String,
        #[arg(short, long)]
        namespace: Option<String>,
        /// What is merged into it; $N is another number each time
        #[arg(
            long,
            default_value = r#"{"metadata":{"annotations":{"lifeboat.test/conflict":"$N"}}}"#
        )]
        patch: String,
        #[arg(long, default_value = "30")]
        seconds: u64,
    },
    /// Measure what backups cost node1 of a cluster with kubelets, and what etcd and the API server notice of them
    Measure(measure::Args),
    /// Watch the pods of a cluster for 45 minutes, and count their restarts
    Stability(stability::Args),
    #[command(hide = true)]
    Hold(Make),
}

#[derive(clap::Args, Clone)]
pub(crate) struct Make {
    /// Control-plane nodes, each with a member of etcd
    #[arg(long, default_value = "3")]
    pub(crate) nodes: usize,
    /// Version of Kubernetes, such as 1.37
    #[arg(long)]
    kubernetes: Option<String>,
    /// Version of etcd, such as 3.6
    #[arg(long, default_value = "3.6")]
    etcd: String,
    /// A genuine kubeadm cluster: each node has a kubelet, a container runtime and static pods
    #[arg(long, conflicts_with = "openshift")]
    pub(crate) kubelets: bool,
    /// The disks of nodes with kubelets have XFS, whose files can share blocks, instead of ext4
    #[arg(long, requires = "kubelets")]
    pub(crate) reflinks: bool,
    /// Look like OpenShift
    #[arg(long)]
    openshift: bool,
    /// With upstream's own kinds for backups, and its feature gate on
    #[arg(long, requires = "openshift")]
    upstream_backups: bool,
    /// A static program as an image
    #[arg(long, value_name = "IMAGE=PROGRAM")]
    image: Vec<String>,
}

#[derive(Clone, Copy, clap::ValueEnum, Serialize, Deserialize)]
pub(crate) enum FaultName {
    Stop,
    Start,
    Restart,
    Freeze,
    Thaw,
    Cut,
    /// Also frees a disk that was filled
    Heal,
    Fill,
    MakeReadOnly,
}

impl FaultName {
    pub(crate) fn fault(self) -> Fault {
        match self {
            FaultName::Stop => Fault::Stop,
            FaultName::Start => Fault::Start,
            FaultName::Restart => Fault::Restart,
            FaultName::Freeze => Fault::Freeze,
            FaultName::Thaw => Fault::Thaw,
            FaultName::Cut => Fault::Cut,
            FaultName::Heal => Fault::Heal,
            FaultName::Fill => Fault::Fill,
            FaultName::MakeReadOnly => Fault::MakeReadOnly,
        }
    }
}

/// What the holder of a cluster is asked.
#[derive(Serialize, Deserialize)]
pub(crate) enum Request {
    Down,
    Status,
    Fault {
        fault: FaultName,
        part: String,
    },
    ExpireWatches,
    /// The process id of the first process of a node with a kubelet.
    Enter {
        node: String,
    },
    /// How programs of this machine reach the API server on nodes with kubelets: a process id, and a kubeconfig.
    WayToApiServer,
    /// One more node with a kubelet.
    Join,
}

/// What it answers: something to print, or what was wrong.
pub(crate) type Answer = Result<String, String>;

/// What the holder of a cluster writes down of it.
#[derive(Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) kubeconfig: PathBuf,
    pub(crate) kubectl: PathBuf,
    pub(crate) started_in_s: f64,
    pub(crate) nodes: Vec<(String, String, PathBuf)>,
    pub(crate) kubelets: bool,
}

/// Where that is.
pub(crate) struct Place {
    lock: PathBuf,
    pub(crate) socket: PathBuf,
    state: PathBuf,
    log: PathBuf,
}

impl Place {
    fn of(name: &str) -> Result<Place> {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
        ensure!(
            !name.is_empty() && name.chars().all(plain),
            "--name {name:?}: letters, digits and dashes only"
        );
        let dir = etcd_binaries::cache_dir().with_file_name("clusters");
        std::fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
        let file = |extension: &str| dir.join(format!("{name}.{extension}"));
        Ok(Place {
            lock: file("lock"),
            socket: file("sock"),
            state: file("json"),
            log: file("log"),
        })
    }

    fn state(&self) -> Result<State> {
        let text = std::fs::read(&self.state)
            .context("there is no such cluster: `cargo xtask cluster up`")?;
        Ok(serde_json::from_slice(&text)?)
    }

    /// Asks the holder, and prints its answer.
    fn ask(&self, request: &Request) -> Result<()> {
        print!("{}", self.answer(request)?);
        Ok(())
    }

    fn answer(&self, request: &Request) -> Result<String> {
        let mut stream = UnixStream::connect(&self.socket)
            .context("there is no such cluster: `cargo xtask cluster up`")?;
        writeln!(stream, "{}", serde_json::to_string(request)?)?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer)?;
        let answer: Answer = serde_json::from_str(&answer).context("the cluster ended")?;
        answer.map_err(anyhow::Error::msg)
    }
}

/// Does what is asked.
pub(crate) fn run(args: Args) -> Result<()> {
    let place = Place::of(&args.name)?;
    let cluster = args.name.clone();
    match args.what {
        What::Up(make) => up(&args.name, &place, &make),
        What::Hold(make) => hold(&place, &make),
        What::Down => {
            place.ask(&Request::Down)?;
            // It lets its lock go when everything of it is gone.
            File::create(&place.lock)?.lock()?;
            println!("cluster {} is gone", args.name);
            Ok(())
        }
        What::Status => place.ask(&Request::Status),
        What::Env => {
            let state = place.state()?;
            let programs = state.kubectl.parent().unwrap_or(&state.kubectl);
            println!("export KUBECONFIG='{}'", state.kubeconfig.display());
            println!("export PATH='{}':\"$PATH\"", programs.display());
            Ok(())
        }
        What::Node { node, command } => {
            let error = enter(&place, node, &command)?;
            Err(error).context("run nsenter (Debian package util-linux)")
        }
        What::Kubectl { args } => {
            let state = place.state()?;
            Err(exec(&place, &state.kubectl, &args)?).context("run kubectl")
        }
        What::Exec { command } => {
            let (program, args) = command.split_first().context("a command")?;
            Err(exec(&place, Path::new(program), args)?).with_context(|| program.clone())
        }
        What::Measure(args) => {
            let way = place.answer(&Request::WayToApiServer)?;
            let (pid, kubeconfig) = way.trim().split_once(' ').context("a process and a file")?;
            match args.node_process {
                Some(pid) => measure::run(&args, pid, Path::new(kubeconfig)),
                None => {
                    let again = std::env::current_exe()?;
                    let words = [
                        "cluster".into(),
                        "--name".into(),
                        cluster.clone(),
                        "measure".into(),
                    ];
                    let words = [&words[..], &args.to_args(pid)].concat();
                    Err(exec(&place, &again, &words)?).context("run it in the network of the node")
                }
            }
        }
        What::Stability(args) => stability::run(&args, |words| {
            let state = place.state()?;
            let mut command = match state.kubelets {
                false => {
                    let mut command = Command::new(&state.kubectl);
                    command.env("KUBECONFIG", &state.kubeconfig);
                    command
                }
                true => {
                    let way = place.answer(&Request::WayToApiServer)?;
                    let (pid, kubeconfig) =
                        way.trim().split_once(' ').context("a process and a file")?;
                    in_network_of(pid.parse()?, Path::new(kubeconfig), &state.kubectl)
                }
            };
            output(command.args(words))
        }),
        What::Join => place.ask(&Request::Join),
        What::Fault { fault, part } => place.ask(&Request::Fault { fault, part }),
        What::ExpireWatches => place.ask(&Request::ExpireWatches),
        What::Conflict {
            api_version,
            kind,
            object,
            namespace,
            patch,
            seconds,
        } => {
            let object = Object {
                api_version: &api_version,
                kind: &kind,
                namespace: namespace.as_deref(),
                name: &object,
            };
            let patch = serde_json::from_str(&patch).context("--patch is no JSON")?;
            conflict(&place, &object, &patch, Duration::from_secs(seconds))
        }
    }
}

fn up(name: &str, place: &Place, make: &Make) -> Result<()> {
    let lock = File::create(&place.lock)?;
    ensure!(
        lock.try_lock().is_ok(),
        "cluster {name} is up: `cargo xtask cluster down --name {name}` ends it"
    );
    drop(lock);
    let mut up_within = UP_WITHIN;
    if make.kubelets {
        if let Some(missing) = real_nodes::missing(make.filesystem()) {
            bail!("nodes with kubelets cannot run on this machine: {missing}");
        }
        kit::provide(kubernetes_version(make)?, &etcd_of(make)?)?;
        up_within = KUBELETS_UP_WITHIN;
    } else {
        options(make)?;
    }
    // What a holder that was killed has left.
    for path in [&place.state, &place.socket] {
        let _ = std::fs::remove_file(path);
    }
    let log = File::create(&place.log)?;
    let mut holder = Command::new("setsid")
        .arg(std::env::current_exe()?)
        .args(["cluster", "--name", name, "hold"])
        .args(make.to_args())
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("start setsid (Debian package util-linux)")?;
    let deadline = Instant::now() + patience(up_within);
    while !place.state.exists() {
        if let Some(status) = holder.try_wait()? {
            let log = std::fs::read_to_string(&place.log)?;
            bail!("it did not start ({status}):\n{log}");
        }
        ensure!(
            Instant::now() < deadline,
            "it did not start: {}",
            place.log.display()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    let state = place.state()?;
    println!("cluster {name} is ready after {:.1} s", state.started_in_s);
    println!("kubeconfig {}", state.kubeconfig.display());
    for (node, etcd, root) in state.nodes {
        println!("{node}  etcd {etcd}  root {}", root.display());
    }
    Ok(())
}

impl Make {
    fn to_args(&self) -> Vec<String> {
        let mut args = vec![
            format!("--nodes={}", self.nodes),
            format!("--etcd={}", self.etcd),
        ];
        args.extend(
            self.kubernetes
                .iter()
                .map(|version| format!("--kubernetes={version}")),
        );
        args.extend(self.kubelets.then(|| "--kubelets".into()));
        args.extend(self.reflinks.then(|| "--reflinks".into()));
        args.extend(self.openshift.then(|| "--openshift".into()));
        args.extend(self.upstream_backups.then(|| "--upstream-backups".into()));
        args.extend(self.image.iter().map(|image| format!("--image={image}")));
        args
    }
}

impl Make {
    /// What is on the disks of nodes with kubelets.
    pub(crate) fn filesystem(&self) -> Filesystem {
        match self.reflinks {
            true => Filesystem::XfsWithReflinks,
            false => Filesystem::Ext4,
        }
    }

    /// Names of images, and the program in each.
    pub(crate) fn images(&self) -> Result<Vec<(String, PathBuf)>> {
        let mut images = Vec::new();
        for image in &self.image {
            let (name, program) = image
                .split_once('=')
                .context("--image wants IMAGE=PROGRAM")?;
            let program = std::fs::canonicalize(program).with_context(|| program.to_string())?;
            images.push((name.to_string(), program));
        }
        Ok(images)
    }
}

/// Runs a command in a node instead of this program. Returns why it can't.
fn enter(place: &Place, node: String, command: &[String]) -> Result<std::io::Error> {
    let pid = place.answer(&Request::Enter { node })?;
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    Ok(RealNode::command_at(pid.trim(), &words).exec())
}

/// Runs a program of this machine, instead of this one, that reaches the API server. Returns why it can't.
fn exec(place: &Place, program: &Path, args: &[String]) -> Result<std::io::Error> {
    let state = place.state()?;
    if !state.kubelets {
        let mut command = Command::new(program);
        return Ok(command
            .args(args)
            .env("KUBECONFIG", state.kubeconfig)
            .exec());
    }
    let way = place.answer(&Request::WayToApiServer)?;
    let (pid, kubeconfig) = way.trim().split_once(' ').context("a process and a file")?;
    let mut command = in_network_of(pid.parse()?, Path::new(kubeconfig), program);
    Ok(command.args(args).exec())
}

pub(crate) fn kubernetes_version(make: &Make) -> Result<binaries::Version> {
    match &make.kubernetes {
        None => VERSIONS.into_iter().max().context("a version"),
        Some(named) => VERSIONS
            .into_iter()
            .find(|version| version.to_string() == *named)
            .with_context(|| format!("--kubernetes {named}: there are {VERSIONS:?}")),
    }
}

pub(crate) fn etcd_of(make: &Make) -> Result<Binaries> {
    let named = |version: &etcd_binaries::Version| version.to_string() == make.etcd;
    let version = etcd_binaries::VERSIONS.into_iter().find(named);
    let version = version.with_context(|| {
        format!(
            "--etcd {}: there are {:?}",
            make.etcd,
            etcd_binaries::VERSIONS
        )
    })?;
    let missing = etcd::provide();
    etcd_binaries::find(version).with_context(|| missing.join("\n"))
}

/// What is asked for, with everything that it needs at hand.
fn options(make: &Make) -> Result<Options> {
    let version = kubernetes_version(make)?;
    kubernetes::provide(version)?;
    if let Err(error) = kubernetes::provide_tools() {
        eprintln!("no kubectl logs and exec: {error:#}");
    }
    let mut images = Images::default();
    for (name, program) in make.images()? {
        images = images.with(&name, Image::of_program(&program));
    }
    ensure!(
        (1..=7).contains(&make.nodes),
        "--nodes {}: 1 to 7",
        make.nodes
    );
    Ok(Options {
        nodes: make.nodes,
        kubernetes: binaries::find(version).context("no Kubernetes")?,
        etcd: etcd_of(make)?,
        openshift: make.openshift.then_some(Flavour {
            upstream_backups: make.upstream_backups,
        }),
        images,
    })
}

/// Holds a cluster until it is told to let it go.
fn hold(place: &Place, make: &Make) -> Result<()> {
    let lock = File::create(&place.lock)?;
    lock.try_lock().context("another process holds it")?;
    if make.kubelets {
        return kubelets::hold(place, make);
    }
    let options = options(make)?;
    let cluster = Cluster::start(&options);
    let listener = UnixListener::bind(&place.socket)?;
    let nodes = cluster
        .nodes()
        .into_iter()
        .map(|node| (node.name, node.etcd_endpoint, node.root));
    let state = State {
        kubeconfig: cluster.kubeconfig().into(),
        kubectl: options.kubernetes.program("kubectl"),
        started_in_s: cluster.started_in().as_secs_f64(),
        nodes: nodes.collect(),
        kubelets: false,
    };
    serve(place, &listener, &state, cluster, answer)
}

/// Tells that a cluster is ready, and answers until it is told to let it go.
pub(crate) fn serve<C>(
    place: &Place,
    listener: &UnixListener,
    state: &State,
    mut cluster: C,
    answer: fn(&mut C, Request) -> Answer,
) -> Result<()> {
    let staging = place.state.with_extension("new");
    std::fs::write(&staging, serde_json::to_string(&state)?)?;
    std::fs::rename(&staging, &place.state)?;
    for stream in listener.incoming() {
        let mut stream = stream?;
        let mut request = String::new();
        BufReader::new(stream.try_clone()?).read_line(&mut request)?;
        let mut say = |answer: &Answer| {
            let answer = serde_json::to_string(answer).unwrap_or_default();
            // Who asked may have gone.
            let _ = writeln!(stream, "{answer}");
        };
        match serde_json::from_str(&request) {
            Err(error) => say(&Err(error.to_string())),
            Ok(Request::Down) => {
                drop(cluster);
                for path in [&place.state, &place.socket, &place.log] {
                    let _ = std::fs::remove_file(path);
                }
                say(&Ok(String::new()));
                break;
            }
            Ok(request) => say(&answer(&mut cluster, request)),
        }
    }
    Ok(())
}

fn answer(cluster: &mut Cluster, request: Request) -> Answer {
    match request {
        Request::Down => Ok(String::new()),
        Request::Status => {
            let parts = cluster.status().into_iter();
            let lines: String = parts
                .map(|(part, state)| format!("{part:<26} {state}\n"))
                .collect();
            Ok(format!("{lines}nodes ready: {}\n", cluster.ready_nodes()))
        }
        Request::Fault { fault, part } => {
            cluster.fault(fault.fault(), &part).map(|()| String::new())
        }
        Request::ExpireWatches => cluster.expire_watches().map(|()| String::new()),
        Request::Enter { .. } | Request::WayToApiServer | Request::Join => {
            Err("that is for clusters with kubelets: `cluster up --kubelets`".into())
        }
    }
}

fn conflict(place: &Place, object: &Object<'_>, patch: &Value, duration: Duration) -> Result<()> {
    let state = place.state()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let client = test_support::kubernetes::cluster::client_of(&state.kubeconfig).await;
        let writer = ConflictingWriter::start(client, object, patch);
        tokio::time::sleep(duration).await;
        println!("{} writes", writer.writes());
        Ok(())
    })
}
