//! `etcd-lifeboat operator`: once per cluster.

use crate::cli::exit_code;
use crate::cli::logging::{self, LogFormat};
use crate::cli::output;
use crate::cli::runtime::runtime;
use crate::http::listener;
use crate::server::operator_metrics::Told;
use anyhow::Context;
use operator::layout::NodeLayout;
use operator::shape::GATE;
use operator::telling::Shared;
use operator::{Controllers, Options};
use std::net::SocketAddr;
use std::sync::Arc;

/// Keep backups on every control-plane node of a Kubernetes cluster
///
/// Makes Backup/default on day one, and a DaemonSet of backup servers of it; any other Backup becomes a CronJob, and an
/// EtcdBackup is one backup now. Finds the cluster by the service account of its pod, or by KUBECONFIG. Several
/// replicas may run: one at a time works.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  etcd-lifeboat operator --image registry.example/etcd-lifeboat:0.1.0
  etcd-lifeboat operator --image registry.example/etcd-lifeboat:0.1.0 \\
      --feature-gates AutomatedEtcdBackup=false")]
pub(crate) struct Args {
    /// Image of the backup servers
    #[arg(long, value_name = "IMAGE")]
    image: String,
    /// Feature gates, by name; AutomatedEtcdBackup is on unless it is false here
    #[arg(long, value_name = "NAME=BOOL[,…]", default_value = "")]
    feature_gates: String,
    /// Controllers that run: * are all, -NAME is one less
    #[arg(
        long,
        value_name = "NAME[,…]",
        default_value = "*",
        allow_hyphen_values = true
    )]
    controllers: String,
    /// Where nodes have the files of etcd: static-pod, kubespray, rancher or microshift [default: by the cluster]. The
    /// label lifeboat.etcd.io/node-layout on a node says it for that one
    #[arg(long, value_name = "LAYOUT")]
    node_layout: Option<String>,
    /// Address of /metrics, /healthz and /readyz; port 0 lets the kernel choose
    #[arg(long, value_name = "ADDRESS", default_value = LISTEN)]
    listen: SocketAddr,
    /// More flags for Jobs that make a backup
    #[arg(long, value_name = "FLAG", hide = true, allow_hyphen_values = true)]
    backup_flag: Vec<String>,
    /// More flags for the backup servers
    #[arg(long, value_name = "FLAG", hide = true, allow_hyphen_values = true)]
    server_flag: Vec<String>,
    /// Who this is among its replicas [default: the host's name and the process]
    #[arg(long, value_name = "NAME", env = "POD_NAME")]
    identity: Option<String>,
    /// How log lines look
    #[arg(long, value_enum, default_value = "text")]
    log_format: LogFormat,
}

/// Beside that of backup servers: they may be on the same node.
const LISTEN: &str = "127.0.0.1:29380";

/// Runs until its lease is lost.
pub(crate) fn run(args: Args) -> anyhow::Result<u8> {
    let checked = gate(&args.feature_gates).and_then(|gate| {
        let chosen = Controllers::parse(&args.controllers)?;
        let layout = args
            .node_layout
            .as_deref()
            .map(NodeLayout::parse)
            .transpose()?;
        Ok((gate, chosen, layout))
    });
    let (automated_backup, controllers, layout) = match checked {
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
        server_flags: args.server_flag,
        backup_flags: args.backup_flag,
    };
    let runtime = runtime()?;
    let ended = runtime.block_on(async {
        let client = kube::Client::try_default()
            .await
            .context("finding the cluster: run it in a pod, or set KUBECONFIG")?;
        let telling = Arc::new(Shared::default());
        tokio::spawn(listener::serve(
            args.listen,
            Arc::new(Told(telling.clone())),
        ));
        operator::run(client, options, telling)
            .await
            .context("operator")
    });
    // Whatever the reason: what is left of it must not write, and a new one waits for its turn.
    match ended {
        Ok(()) => anyhow::bail!("a controller ended"),
        Err(error) => {
            output::error(&output::told(&error));
            Ok(exit_code::FAILED)
        }
    }
}

/// Whether the gate is on.
fn gate(gates: &str) -> Result<bool, String> {
    let mut on = true;
    for gate in gates
        .split(',')
        .map(str::trim)
        .filter(|gate| !gate.is_empty())
    {
        on = match gate.split_once('=') {
            Some((GATE, "true")) => true,
            Some((GATE, "false")) => false,
            _ => {
                return Err(format!(
                    "--feature-gates {gate:?}: expected {GATE}=true or {GATE}=false"
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
