//! `etcd-lifeboat sidecar-credential`.

use crate::cli::exit_code;
use crate::cli::flags::cluster::ClusterArgs;
use crate::cli::output;
use crate::cli::runtime::runtime;
use crate::server::credential::{Credential, State};
use anyhow::Context;
use backup_store::repository::{DEFAULT_ROOT, Repository};
use operator::names::default_namespace;
use std::path::PathBuf;
use std::time::Duration;

const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Create the credential of a backup server in etcd's static pod, on this node
///
/// A static pod has no service account. So this command asks the API server, with your rights, for a token of the service account
/// etcd-lifeboat-sidecar that is bound to this node, and writes it beside the backups. The backup server renews it each day. A node that
/// was off for 30 days needs a new one. You need permission to get Nodes, and to create serviceaccounts/token in the namespace of the
/// operator.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  etcd-lifeboat sidecar-credential --node-name node-1 --kubeconfig /etc/kubernetes/admin.conf")]
pub(crate) struct Args {
    /// Name of this node, as `kubectl get nodes` shows it
    #[arg(long, value_name = "NAME")]
    node_name: String,
    /// Directory of the backups
    #[arg(long, value_name = "DIR", default_value = DEFAULT_ROOT)]
    backup_path: PathBuf,
    #[command(flatten)]
    cluster: ClusterArgs,
}

pub(crate) fn run(args: Args) -> anyhow::Result<u8> {
    let runtime = runtime()?;
    let credential = runtime.block_on(async {
        let (config, client) = args.cluster.config_and_client().await?;
        let namespace = default_namespace(false);
        let creating = Credential::create(&config, &client, namespace, &args.node_name);
        tokio::time::timeout(ANSWER_WITHIN, creating)
            .await
            .context("the API server does not answer")?
            .map_err(anyhow::Error::msg)
    })?;
    Repository::create(&args.backup_path)?;
    let state = State::beside(&args.backup_path);
    let path = state.credential_path();
    state
        .store_credential(&credential)
        .with_context(|| format!("cannot write {}", path.display()))?;
    output::print(&format!(
        "{}: a token for node {}, valid until {}; the backup server renews it\n",
        path.display(),
        args.node_name,
        credential.expires_at()
    ));
    Ok(exit_code::DONE)
}
