//! The network of the nodes: a bridge in a namespace of its own, which the machine itself is not on.

use crate::private_network::PrivateNetwork;
use std::path::Path;
use std::process::Command;

/// The most nodes that a cluster can have.
pub const MAX_NODES: usize = 7;

/// Addresses of nodes are in this network.
pub(super) const PREFIX: &str = "10.78.0";

/// The switch that connects the nodes.
#[derive(Debug)]
pub(super) struct Switch(PrivateNetwork);

impl Switch {
    pub(super) fn create() -> Result<Switch, String> {
        let bridge = "ip link add br0 type bridge && ip link set br0 up";
        let network = PrivateNetwork::create_with(bridge).map(Switch);
        network.ok_or_else(|| {
            "a network namespace with a bridge cannot be made here: that needs root, and iproute2".into()
        })
    }

    /// Connects the network namespace of a process, with this address, and routes to the pods of all other nodes that there may be.
    pub(super) fn connect(&self, pid: u32, number: usize) -> Result<(), String> {
        let port = format!("v{number}");
        let pid = pid.to_string();
        self.ip(&format!("link delete {port}")).ok();
        self.ip(&format!(
            "link add {port} type veth peer name eth0 netns {pid}"
        ))?;
        self.ip(&format!("link set {port} master br0 up"))?;
        let mut inside = vec![
            "link set lo up".to_string(),
            format!("address add {PREFIX}.{}/24 dev eth0", 10 + number),
            "link set eth0 up".into(),
            format!("route add default via {PREFIX}.254"),
        ];
        for other in (1..=MAX_NODES).filter(|other| *other != number) {
            inside.push(format!(
                "route add {} via {PREFIX}.{}",
                pod_subnet(other),
                10 + other
            ));
        }
        for words in inside {
            run(Command::new("nsenter")
                .arg(format!("--net=/proc/{pid}/ns/net"))
                .arg("ip")
                .args(words.split(' ')))?;
        }
        run(Command::new("nsenter")
            .arg(format!("--net=/proc/{pid}/ns/net"))
            .args(["sysctl", "-qw", "net.ipv4.ip_forward=1"]))
    }

    /// Cuts a node off from all others, or connects it again.
    pub(super) fn set_connected(&self, number: usize, connected: bool) -> Result<(), String> {
        let state = if connected { "up" } else { "down" };
        self.ip(&format!("link set v{number} {state}"))
    }

    fn ip(&self, words: &str) -> Result<(), String> {
        run(self.0.command(Path::new("ip")).args(words.split(' ')))
    }
}

/// The addresses of the pods of a node.
pub(super) fn pod_subnet(number: usize) -> String {
    format!("10.244.{number}.0/24")
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command
        .output()
        .map_err(|error| format!("{command:?}: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!(
            "{command:?}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )),
    }
}
