//! `etcd-lifeboat operator`.

use crate::cli::exit_code;
use crate::cli::logging::{self, LogFormat};
use crate::cli::output;
use crate::cli::runtime::runtime;
use crate::cli::stop::Stop;
use crate::http::listener;
use crate::server::operator_metrics::OperatorMetrics;
use anyhow::Context;
use cluster_api::placement::Storage;
use operator::cluster::cluster_info::FEATURE_GATE;
use operator::cluster::node_layout::{NodeLayout, node_directory};
use operator::options::{Controllers, Options};
use operator::status::state::SharedState;
use std::net::SocketAddr;
use std::sync::Arc;

/// Back up etcd on every control-plane node of a Kubernetes cluster
///
/// The operator creates Backup/default at its first start, and a DaemonSet of backup servers for it. For each other Backup it
/// creates a CronJob, and for each EtcdBackup one or more Jobs. It connects to the cluster with the service account of its
/// pod, or with KUBECONFIG. Several replicas may run: one is active, and the others wait.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  etcd-lifeboat operator --image registry.example/etcd-lifeboat:0.1.0
  etcd-lifeboat operator --image registry.example/etcd-lifeboat:0.1.0 \\
      --feature-gates AutomatedEtcdBackup=false")]
pub(crate) struct Args {
    /// Image of the pods that the operator creates
    #[arg(long, value_name = "IMAGE")]
    image: String,
    /// Feature gates; AutomatedEtcdBackup is on by default
    #[arg(long, value_name = "NAME=BOOL[,…]", default_value = "")]
    feature_gates: String,
    /// Controllers to run: * means all, -NAME turns one off
    #[arg(
        long,
        value_name = "NAME[,…]",
        default_value = "*",
        allow_hyphen_values = true
    )]
    controllers: String,
    /// Where the nodes have the files of etcd: static-pod, openshift, kubespray, rancher or microshift [default: detected from the
    /// cluster]. The label lifeboat.etcd.io/node-layout on a node overrides this for that node
    #[arg(long, value_name = "LAYOUT")]
    node_layout: Option<String>,
    /// Directory of the nodes that the pods see in addition, for the archive; the manifests must allow it
    #[arg(long, value_name = "DIR", value_parser = node_directory)]
    node_directory: Vec<String>,
    /// Where the backups of Backup/default are stored, besides the disks of the nodes: auto, auto-pvc, hostPath or pvc. The annotation
    /// lifeboat.etcd.io/storage on Backup/default overrides this
    #[arg(long, value_name = "STORAGE", default_value = "auto")]
    storage: String,
    /// Address of /metrics, /healthz and /readyz; port 0 selects a free port
    #[arg(long, value_name = "ADDRESS", default_value = LISTEN)]
    listen: SocketAddr,
    /// More flags for Jobs that make a backup
    #[arg(long, value_name = "FLAG", hide = true, allow_hyphen_values = true)]
    backup_flag: Vec<String>,
    /// More flags for the pods that copy backups to volumes
    #[arg(long, value_name = "FLAG", hide = true, allow_hyphen_values = true)]
    volume_flag: Vec<String>,
    /// More flags for the backup servers
    #[arg(long, value_name = "FLAG", hide = true, allow_hyphen_values = true)]
    server_flag: Vec<String>,
    /// Name of this replica in the Lease [default: host name and process ID]
    #[arg(long, value_name = "NAME", env = "POD_NAME")]
    identity: Option<String>,
    /// Format of log lines
    #[arg(long, value_enum, default_value = "text")]
    log_format: LogFormat,
}

/// Not the port of the backup servers, because they may run on the same node.
const LISTEN: &str = "127.0.0.1:29380";

/// Runs until a signal to stop, or until its lease is lost.
pub(crate) fn run(args: Args) -> anyhow::Result<u8> {
    let checked = gate(&args.feature_gates).and_then(|gate| {
        let chosen = Controllers::parse(&args.controllers)?;
        let layout = args
            .node_layout
            .as_deref()
            .map(NodeLayout::parse)
            .transpose()?;
        let storage =
            Storage::parse(&args.storage).map_err(|problem| format!("--storage: {problem}"))?;
        Ok((gate, chosen, layout, storage))
    });
    let (automated_backup, controllers, layout, storage) = match checked {
        Ok(checked) => checked,
        Err(problem) => {
            output::error(&problem);
            return Ok(exit_code::USAGE);
        }
    };
    logging::start(args.log_format);
    let identity = args.identity.unwrap_or_else(|| {
        let name = rustix::system::uname();
        let host = name.nodename().to_string_lossy().into_owned();
        format!("{host}-{}", std::process::id())
    });
    let options = Options {
        image: args.image,
        automated_backup,
        identity,
        controllers,
        layout,
        node_directories: args.node_directory,
        storage,
        volume_flags: args.volume_flag,
        server_flags: args.server_flag,
        backup_flags: args.backup_flag,
    };
    let runtime = runtime()?;
    let ended = runtime.block_on(async {
        let stop = Stop::on_signals().context("cannot listen for signals")?;
        let client = kube::Client::try_default()
            .await
            .context("cannot find the cluster: run the operator in a pod, or set KUBECONFIG")?;
        let state = Arc::new(SharedState::default());
        tokio::spawn(listener::serve(
            args.listen,
            Arc::new(OperatorMetrics(state.clone())),
        ));
        operator::run::run(client, options, state, stop.wait())
            .await
            .context("the operator stops")?;
        anyhow::Ok(stop.wanted())
    });
    // The process ends for any reason, because its remaining tasks must not write. The next process waits for the lease.
    match ended {
        Ok(true) => Ok(exit_code::DONE),
        Ok(false) => anyhow::bail!("a controller stopped unexpectedly"),
        Err(error) => {
            output::error(&output::told(&error));
            Ok(exit_code::FAILED)
        }
    }
}

/// Whether the feature gate is on.
fn gate(gates: &str) -> Result<bool, String> {
    let mut on = true;
    for gate in gates
        .split(',')
        .map(str::trim)
        .filter(|gate| !gate.is_empty())
    {
        on = match gate.split_once('=') {
            Some((FEATURE_GATE, "true")) => true,
            Some((FEATURE_GATE, "false")) => false,
            _ => {
                return Err(format!(
                    "--feature-gates {gate:?}: expected {FEATURE_GATE}=true or {FEATURE_GATE}=false"
                ));
            }
        };
    }
    Ok(on)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gate_is_on_unless_somebody_says_otherwise() {
        assert_eq!(gate(""), Ok(true));
        assert_eq!(gate("AutomatedEtcdBackup=false"), Ok(false));
        assert_eq!(gate(" AutomatedEtcdBackup=true ,"), Ok(true));
        for wrong in [
            "AutomatedEtcdBackup",
            "Other=true",
            "AutomatedEtcdBackup=maybe",
        ] {
            assert!(
                gate(wrong)
                    .unwrap_err()
                    .contains("expected AutomatedEtcdBackup"),
                "{wrong}"
            );
        }
    }
}
