//! `etcd-lifeboat manifests`.

use crate::cli::exit_code;
use crate::cli::output;
use operator::cluster::node_layout::node_directory;
use operator::install::manifests::{InstallOptions, all};

/// Print the manifests of the operator, for `kubectl apply -f -`
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  etcd-lifeboat manifests --image registry.example/etcd-lifeboat:0.1.0
  etcd-lifeboat manifests --image registry.example/etcd-lifeboat:0.1.0 --openshift --monitoring
  etcd-lifeboat manifests --image registry.example/etcd-lifeboat:0.1.0 --node-directory /srv/audit")]
pub(crate) struct Args {
    /// Image of the operator and of the pods that it creates
    #[arg(long, value_name = "IMAGE")]
    image: String,
    /// For OpenShift: use the namespace openshift-etcd, and add SecurityContextConstraints
    #[arg(long)]
    openshift: bool,
    /// Add a ServiceMonitor and alerts; the cluster needs the CRDs of the Prometheus operator
    #[arg(long)]
    monitoring: bool,
    /// Directory of the nodes with files that the API server reads, outside of those that pods see; repeat it for more
    #[arg(long, value_name = "DIR", value_parser = node_directory)]
    node_directory: Vec<String>,
}

pub(crate) fn run(args: Args) -> anyhow::Result<u8> {
    let install = InstallOptions {
        image: args.image,
        namespace: operator::names::default_namespace(args.openshift).into(),
        openshift: args.openshift,
        monitoring: args.monitoring,
        node_directories: args.node_directory,
    };
    for object in all(&install) {
        output::print("---\n");
        output::print(&serde_saphyr::to_string(&object)?);
    }
    Ok(exit_code::DONE)
}
