//! Which Kubernetes cluster, and the way to it.

use anyhow::Context;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use std::path::PathBuf;

/// Which cluster.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Cluster")]
pub(crate) struct ClusterArgs {
    /// The kubeconfig [default: those of KUBECONFIG, else ~/.kube/config, else in a pod its own cluster]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig [default: the current one]
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
}

impl ClusterArgs {
    /// The way to it.
    pub(crate) async fn client(&self) -> anyhow::Result<Client> {
        if self.kubeconfig.is_none() && self.context.is_none() {
            return Client::try_default()
                .await
                .context("finding the cluster: run it in a pod, or set KUBECONFIG");
        }
        let kubeconfig = match &self.kubeconfig {
            Some(path) => Kubeconfig::read_from(path)
                .with_context(|| format!("reading the kubeconfig {}", path.display()))?,
            None => Kubeconfig::read().context("reading the kubeconfig")?,
        };
        let options = KubeConfigOptions {
            context: self.context.clone(),
            ..KubeConfigOptions::default()
        };
        let config = Config::from_custom_kubeconfig(kubeconfig, &options)
            .await
            .with_context(|| match &self.context {
                Some(context) => format!("finding context {context:?} in the kubeconfig"),
                None => "finding the current context in the kubeconfig".into(),
            })?;
        Ok(Client::try_from(config)?)
    }
}
