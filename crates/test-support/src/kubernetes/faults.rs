//! Breaks parts of a cluster, and repairs them.

use super::cluster::{APISERVER, Cluster};

/// What can be done to a part of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Kills the part, as in a crash.
    Stop,
    /// Starts a part that was stopped.
    Start,
    /// Kills the part and starts it again.
    Restart,
    /// Suspends the process with SIGSTOP. It still exists.
    Freeze,
    /// Continues a suspended process.
    Thaw,
    /// Cuts the connection to the API server. For an etcd member, cuts the API server's connection to the member.
    Cut,
    /// Repairs a connection that was cut, or frees the space of a disk that was filled.
    Heal,
    /// Fills a disk until no byte is free. Only for nodes with kubelets.
    Fill,
    /// Makes a disk read-only, as the kernel does after an error of the disk. Only for nodes with kubelets.
    MakeReadOnly,
}

impl Cluster {
    /// The state of each part, and the connections that are cut.
    pub fn status(&mut self) -> Vec<(String, String)> {
        let mut all = Vec::new();
        for (name, part) in &mut self.parts {
            let state = match (part.is_running(), part.pid()) {
                (true, Some(pid)) => process_state(pid),
                _ => "stopped".into(),
            };
            all.push(((*name).to_string(), state));
        }
        for (name, member) in &mut self.members {
            let state = if member.is_running() {
                process_state(member.pid())
            } else {
                "stopped".into()
            };
            all.push((format!("etcd/{name}"), state));
        }
        for (name, link) in &self.links {
            if !link.is_open() {
                all.push((name.clone(), "cut off".into()));
            }
        }
        all
    }

    /// Breaks or repairs a part: `kube-apiserver`, `kube-controller-manager`, `kube-scheduler`, `etcd/NODE`,
    /// `node/NODE`, and to cut off also `kubelet/NODE`, `pods/NODE` and `outside`.
    ///
    /// # Errors
    /// If there is no such target, or if a node is to be frozen.
    pub fn fault(&mut self, fault: Fault, target: &str) -> Result<(), String> {
        if matches!(fault, Fault::Fill | Fault::MakeReadOnly) {
            return Err("only nodes with kubelets have disks of their own".into());
        }
        if matches!(fault, Fault::Cut | Fault::Heal) {
            let link = self.links.get(target).ok_or_else(|| {
                let known: Vec<_> = self.links.keys().cloned().collect();
                format!(
                    "{target:?} can't be cut off, there are {}",
                    known.join(", ")
                )
            })?;
            match fault {
                Fault::Cut => link.cut(),
                _ => link.heal(),
            }
            return Ok(());
        }
        if let Some(part) = self.parts.get_mut(target) {
            match fault {
                Fault::Stop => part.stop(),
                Fault::Freeze => part.signal("-STOP"),
                Fault::Thaw => part.signal("-CONT"),
                _ => part.start_again(),
            }
            return Ok(());
        }
        match target.split_once('/') {
            Some(("etcd", name)) if self.members.contains_key(name) => {
                self.fault_of_member(fault, name)
            }
            Some(("node", name)) if self.members.contains_key(name) => {
                self.fault_of_node(fault, name)
            }
            _ => {
                let parts: Vec<_> = self.parts.keys().copied().collect();
                let nodes: Vec<_> = self.members.keys().cloned().collect();
                Err(format!(
                    "no {target:?}, there are {} and etcd/ and node/ of {}",
                    parts.join(", "),
                    nodes.join(", ")
                ))
            }
        }
    }

    fn fault_of_member(&mut self, fault: Fault, name: &str) -> Result<(), String> {
        let member = self.members.get_mut(name).ok_or("no such member")?;
        match fault {
            Fault::Stop => member.crash(),
            Fault::Freeze => member.signal("-STOP"),
            Fault::Thaw => member.signal("-CONT"),
            _ => {
                if member.is_running() {
                    member.crash();
                }
                let binaries = member.binaries.clone();
                member.start_again(&binaries);
            }
        }
        Ok(())
    }

    /// A node with everything on it: its containers, its kubelet, its member of etcd.
    fn fault_of_node(&mut self, fault: Fault, name: &str) -> Result<(), String> {
        if matches!(fault, Fault::Freeze | Fault::Thaw) {
            return Err("a node is stopped and started, and not frozen".into());
        }
        if fault != Fault::Start {
            if let Some(mut kubelet) = self.kubelets.remove(name) {
                kubelet.crash();
            }
            self.fault_of_member(Fault::Stop, name)?;
        }
        if fault != Fault::Stop && !self.kubelets.contains_key(name) {
            self.fault_of_member(Fault::Start, name)?;
            let context = self.contexts.get(name).ok_or("no such node")?.clone();
            self.start_kubelet(context);
        }
        Ok(())
    }

    /// Makes the API server refuse every watch that continues from an earlier version: history is
    /// compacted, and the API server restarts with an empty cache.
    ///
    /// # Errors
    /// If the cluster has no etcd member.
    pub fn expire_watches(&mut self) -> Result<(), String> {
        let member = self.members.values().next().ok_or("no member")?;
        let client = member.client();
        let (_, revision) = client.member_id_and_revision();
        client.compact(revision);
        self.fault(Fault::Restart, APISERVER)?;
        self.wait_for_the_api_server();
        Ok(())
    }
}

/// Whether a process runs or is frozen.
fn process_state(pid: u32) -> String {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit(") ")
        .next()
        .and_then(|rest| rest.chars().next());
    match state {
        Some('T') => format!("frozen, process {pid}"),
        _ => format!("runs, process {pid}"),
    }
}
