//! Which Kubernetes cluster, and the way to it.

use anyhow::Context;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

/// Which cluster.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Cluster")]
pub(crate) struct ClusterArgs {
    /// Context of the kubeconfig [default: the current one, or in a pod its own cluster]
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
}

impl ClusterArgs {
    /// The way to it.
    pub(crate) async fn client(&self) -> anyhow::Result<Client> {
        let Some(context) = &self.context else {
            return Client::try_default()
                .await
                .context("finding the cluster: run it in a pod, or set KUBECONFIG");
        };
        let options = KubeConfigOptions {
            context: Some(context.clone()),
            ..KubeConfigOptions::default()
        };
        let kubeconfig = Kubeconfig::read().context("reading the kubeconfig")?;
        let config = Config::from_custom_kubeconfig(kubeconfig, &options)
            .await
            .with_context(|| format!("finding context {context:?} in the kubeconfig"))?;
        Ok(Client::try_from(config)?)
    }
}
