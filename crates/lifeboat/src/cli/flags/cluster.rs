//! Connects to the Kubernetes cluster that the flags select.

use anyhow::{Context, anyhow};
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use std::path::PathBuf;

/// Flags that select the cluster.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Cluster")]
pub(crate) struct ClusterArgs {
    /// Path of the kubeconfig [default: KUBECONFIG, else ~/.kube/config, else the cluster of this pod]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig [default: the current one]
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
}

/// The error, without the file's content that the library shows: the file could be a private key.
fn without_content(error: &KubeconfigError) -> String {
    match error {
        KubeconfigError::ReadConfig(error, path) => format!("{}: {error}", path.display()),
        KubeconfigError::FindPath => "no kubeconfig was found".into(),
        _ => "the file is not a valid kubeconfig".into(),
    }
}

impl ClusterArgs {
    pub(crate) async fn client(&self) -> anyhow::Result<Client> {
        Ok(self.config_and_client().await?.1)
    }

    /// The client, and how it connects.
    pub(crate) async fn config_and_client(&self) -> anyhow::Result<(Config, Client)> {
        let config = self.config().await?;
        let client = Client::try_from(config.clone())?;
        Ok((config, client))
    }

    async fn config(&self) -> anyhow::Result<Config> {
        if self.kubeconfig.is_none() && self.context.is_none() {
            // Not with the library's own function: its error shows a part of a file that is not a valid kubeconfig.
            let config = match Kubeconfig::read() {
                Ok(kubeconfig) => {
                    let options = KubeConfigOptions::default();
                    Config::from_custom_kubeconfig(kubeconfig, &options)
                        .await
                        .context("cannot use the current context of the kubeconfig")?
                }
                Err(error) => Config::incluster().map_err(|_| {
                    anyhow!(
                        "cannot find the cluster: {}; run the command in a pod, or set KUBECONFIG",
                        without_content(&error)
                    )
                })?,
            };
            return Ok(config);
        }
        let kubeconfig = match &self.kubeconfig {
            Some(path) => Kubeconfig::read_from(path).map_err(|error| {
                anyhow!(
                    "cannot read the kubeconfig {}: {}",
                    path.display(),
                    without_content(&error)
                )
            })?,
            None => Kubeconfig::read().map_err(|error| {
                anyhow!("cannot read the kubeconfig: {}", without_content(&error))
            })?,
        };
        let options = KubeConfigOptions {
            context: self.context.clone(),
            ..KubeConfigOptions::default()
        };
        Config::from_custom_kubeconfig(kubeconfig, &options)
            .await
            .with_context(|| match &self.context {
                Some(context) => format!("cannot use context {context:?} of the kubeconfig"),
                None => "cannot use the current context of the kubeconfig".into(),
            })
    }
}
