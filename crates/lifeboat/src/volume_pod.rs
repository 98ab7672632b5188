//! A pod that has the volume of a node: that of the node itself, or, if the node is lost, one that is created to read it.

use anyhow::{Context, anyhow, bail};
use kube::Client;
use operator::api_error_message;
use operator::cluster::cluster_info::read_namespace;
use operator::cluster::server_pods::{self, ServerPod};
use operator::cluster::volume_reader;
use std::time::Duration;

const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// A pod that has the volume of a node.
pub(crate) struct VolumePod {
    client: Client,
    pod: ServerPod,
    /// Whether it was created here, and must be deleted.
    is_own: bool,
}

impl VolumePod {
    /// Finds it, or creates one if the node is lost.
    pub(crate) async fn of(
        client: &Client,
        node: &str,
        report: &(dyn Fn(&str) + Sync),
    ) -> anyhow::Result<VolumePod> {
        let failed = |error: kube::Error| anyhow!("{}", api_error_message(&error));
        let looking = async {
            let namespace = read_namespace(client).await?;
            let pod = server_pods::of_volume(client, namespace, node).await?;
            Ok((namespace, pod))
        };
        let (namespace, found) = tokio::time::timeout(ANSWER_WITHIN, looking)
            .await
            .context("the API server does not answer")?
            .map_err(failed)?;
        if let Some(pod) = found {
            return Ok(VolumePod {
                client: client.clone(),
                pod,
                is_own: false,
            });
        }
        let Some(pvc) = volume_reader::volume_of(client, namespace, node)
            .await
            .map_err(failed)?
        else {
            bail!("node {node} has no volume: leave out --from-volume to read its disk")
        };
        if let Some(why) = volume_reader::not_fenced(client, node)
            .await
            .map_err(failed)?
        {
            bail!(
                "the pod of the volume of {node} does not run, and {why}: make sure that the node is off, then delete its Node or give it the taint node.kubernetes.io/out-of-service, and try again. Two nodes that write to one volume destroy it"
            );
        }
        report(&format!(
            "node {node} is lost: creating a pod that reads its volume {pvc}"
        ));
        let pod = volume_reader::create(client, namespace, &pvc, node)
            .await
            .map_err(anyhow::Error::msg)?;
        Ok(VolumePod {
            client: client.clone(),
            pod,
            is_own: true,
        })
    }

    pub(crate) fn pod(&self) -> &ServerPod {
        &self.pod
    }

    /// Waits until it runs.
    pub(crate) async fn wait_until_it_runs(&self) -> anyhow::Result<()> {
        let waited = volume_reader::wait_until_it_runs(&self.client, &self.pod).await;
        waited.map_err(anyhow::Error::msg)
    }

    /// Deletes the pod, if it was created here.
    pub(crate) async fn end(self) {
        if self.is_own {
            volume_reader::delete(&self.client, &self.pod).await;
        }
    }
}
