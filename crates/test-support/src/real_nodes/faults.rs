//! Breaks parts of nodes, and repairs them.

use super::cgroups;
use super::cluster::KubeadmCluster;
use super::node::RealNode;
use crate::kubernetes::faults::Fault;

/// Services of a node, which are no containers.
const SERVICES: [&str; 2] = ["kubelet", "containerd"];
const MANIFESTS: &str = "/etc/kubernetes/manifests";
/// Where the manifests of static pods are that were stopped.
const STOPPED: &str = "/etc/kubernetes/stopped";
/// What takes the space of a full disk.
const FILLER: &str = "/filler";

impl KubeadmCluster {
    /// Breaks or repairs a part: `node/NODE`, `disk/NODE`, `kubelet/NODE`, `containerd/NODE`, and `CONTAINER/NODE` by the name of the
    /// container, such as `etcd/node1`.
    ///
    /// # Errors
    /// There is no such part, it cannot be broken that way, or a program in the node fails.
    pub fn fault(&mut self, fault: Fault, target: &str) -> Result<(), String> {
        let (part, name) = target
            .split_once('/')
            .ok_or_else(|| format!("{target:?}: expected a part and a node, such as etcd/node1"))?;
        match part {
            "node" => self.fault_of_node(fault, name),
            "disk" => fault_of_disk(fault, self.node(name)?),
            service if SERVICES.contains(&service) => {
                fault_of_service(fault, service, self.node(name)?)
            }
            container => fault_of_container(fault, container, self.node(name)?),
        }
    }

    /// A node with everything on it.
    fn fault_of_node(&mut self, fault: Fault, name: &str) -> Result<(), String> {
        match fault {
            Fault::Stop => self.node_mut(name)?.power_off(),
            Fault::Start if self.node(name)?.is_on() => {
                return Err(format!("{name} is switched on already"));
            }
            Fault::Start | Fault::Restart => {
                self.node_mut(name)?.power_off();
                let found = self.nodes.iter_mut().find(|node| node.name() == name);
                let Some(node) = found else { return Ok(()) };
                node.start(&self.switch)?;
                node.wait_until_ready()?;
            }
            Fault::Freeze | Fault::Thaw => {
                cgroups::freeze(&self.node(name)?.cgroups(), fault == Fault::Freeze)?;
            }
            Fault::Cut | Fault::Heal => {
                let number = self.node(name)?.number();
                self.switch.set_connected(number, fault == Fault::Heal)?;
            }
            Fault::Fill | Fault::MakeReadOnly => {
                return Err(format!("{fault:?} is for disk/{name}"));
            }
        }
        Ok(())
    }
}

fn fault_of_disk(fault: Fault, node: &RealNode) -> Result<(), String> {
    match fault {
        Fault::Fill => {
            // The last blocks go one by one.
            let fill = "
                free=$(df --output=avail -B1 / | tail -1)
                fallocate -l \"$free\" $1 2> /dev/null || true
                dd if=/dev/zero of=$1 bs=1M oflag=append conv=notrunc status=none 2> /dev/null
                dd if=/dev/zero of=$1 bs=4k oflag=append conv=notrunc status=none 2> /dev/null
                sync $1";
            node.run_ok(&["bash", "-c", fill, "fill", FILLER]).map(drop)
        }
        Fault::Heal => node.run_ok(&["rm", "-f", FILLER]).map(drop),
        // As after an error of the disk. The node must be started again to repair it.
        Fault::MakeReadOnly => {
            let abort = "mount -o remount,abort / || xfs_io -x -c shutdown /";
            let _ = node.run(&["sh", "-c", abort]);
            match node.run(&["touch", "/etc/try"]).status.success() {
                true => Err(format!("the disk of {} can still be written", node.name())),
                false => Ok(()),
            }
        }
        _ => Err("a disk can be filled, healed (which frees the space) or made read-only".into()),
    }
}

fn fault_of_service(fault: Fault, service: &str, node: &RealNode) -> Result<(), String> {
    let signal = |signal: &str| {
        let kill = format!("kill {signal} $(cat /run/{service}.pid)");
        node.run_ok(&["sh", "-c", &kill]).map(drop)
    };
    match fault {
        Fault::Stop => {
            node.run_ok(&["touch", &format!("/run/{service}.stopped")])?;
            signal("-KILL")
        }
        Fault::Start => node.run_ok(&["systemctl", "start", service]).map(drop),
        Fault::Restart => signal("-KILL"),
        Fault::Freeze => signal("-STOP"),
        Fault::Thaw => signal("-CONT"),
        _ => Err(format!(
            "{service} can be stopped, started, restarted, frozen or thawed"
        )),
    }
}

/// A container, which the kubelet starts again when it ends. A static pod can also be stopped, by its manifest.
fn fault_of_container(fault: Fault, container: &str, node: &RealNode) -> Result<(), String> {
    let signal = |signal: &str| {
        let pids = node.processes_of(container)?;
        let words: Vec<_> = ["kill", signal]
            .into_iter()
            .chain(pids.iter().map(String::as_str))
            .collect();
        node.run_ok(&words).map(drop)
    };
    let manifest = format!("{container}.yaml");
    match fault {
        Fault::Stop => {
            node.run_ok(&["mkdir", "-p", STOPPED])?;
            let from = format!("{MANIFESTS}/{manifest}");
            let moved = node.run_ok(&["mv", &from, STOPPED]).map(drop);
            moved.map_err(|problem| format!("only a static pod can be stopped: {problem}"))
        }
        Fault::Start => {
            let from = format!("{STOPPED}/{manifest}");
            node.run_ok(&["mv", &from, MANIFESTS]).map(drop)
        }
        Fault::Restart => signal("-KILL"),
        Fault::Freeze => signal("-STOP"),
        Fault::Thaw => signal("-CONT"),
        _ => Err(format!(
            "{container} can be stopped, started, restarted, frozen or thawed"
        )),
    }
}

/// A container that runs on a node.
pub struct RunningContainer {
    /// As containerd names it, and the pod's status after `containerd://`.
    pub id: String,
    /// Its first process, in the node.
    pub pid: String,
}

impl RealNode {
    /// The containers with this name that run.
    ///
    /// # Errors
    /// No such container runs.
    pub fn containers_of(&self, name: &str) -> Result<Vec<RunningContainer>, String> {
        let filter = format!("labels.\"io.kubernetes.container.name\"=={name}");
        let ids = self.run_ok(&["ctr", "-n", "k8s.io", "containers", "ls", "-q", &filter])?;
        let tasks = self.run_ok(&["ctr", "-n", "k8s.io", "tasks", "ls"])?;
        let running = |line: &str| {
            let mut words = line.split_whitespace().map(String::from);
            let (id, pid, state) = (words.next()?, words.next()?, words.next()?);
            let wanted = state == "RUNNING" && ids.lines().any(|known| known == id);
            wanted.then_some(RunningContainer { id, pid })
        };
        let found: Vec<_> = tasks.lines().filter_map(running).collect();
        match found.is_empty() {
            true => Err(format!("{}: no container {name} runs", self.name())),
            false => Ok(found),
        }
    }

    /// The process ids, in the node, of the containers with this name.
    ///
    /// # Errors
    /// No such container runs.
    pub fn processes_of(&self, container: &str) -> Result<Vec<String>, String> {
        let found = self.containers_of(container)?;
        Ok(found.into_iter().map(|container| container.pid).collect())
    }
}
