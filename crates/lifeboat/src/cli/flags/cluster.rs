//! Which Kubernetes cluster, and the way to it.

use anyhow::{Context, anyhow};
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
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

/// What is wrong with a kubeconfig, without the lines that the library shows of it: somebody may have named a key.
fn without_content(error: &KubeconfigError) -> String {
    match error {
        KubeconfigError::ReadConfig(error, path) => format!("{}: {error}", path.display()),
        KubeconfigError::FindPath => "there is none".into(),
        _ => "it is not a kubeconfig".into(),
    }
}

impl ClusterArgs {
    /// The way to it.
    pub(crate) async fn client(&self) -> anyhow::Result<Client> {
        if self.kubeconfig.is_none() && self.context.is_none() {
            // Not by the library's own way: it would show a part of a file that it can't read, whatever that is.
            let config = match Kubeconfig::read() {
                Ok(kubeconfig) => {
                    let options = KubeConfigOptions::default();
                    Config::from_custom_kubeconfig(kubeconfig, &options)
                        .await
                        .context("finding the current context in the kubeconfig")?
                }
                Err(error) => Config::incluster().map_err(|_| {
                    anyhow!(
                        "finding the cluster: run it in a pod, or set KUBECONFIG: {}",
                        without_content(&error)
                    )
                })?,
            };
            return Ok(Client::try_from(config)?);
        }
        let kubeconfig = match &self.kubeconfig {
            Some(path) => Kubeconfig::read_from(path).map_err(|error| {
                anyhow!(
                    "reading the kubeconfig {}: {}",
                    path.display(),
                    without_content(&error)
                )
            })?,
            None => Kubeconfig::read()
                .map_err(|error| anyhow!("reading the kubeconfig: {}", without_content(&error)))?,
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
