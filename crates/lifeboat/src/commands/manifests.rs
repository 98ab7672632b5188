//! `etcd-lifeboat manifests`.

use crate::cli::exit_code;
use crate::cli::output;
use operator::manifests::{Install, all};

/// Print all that is to be applied to a cluster, for `kubectl apply -f -`
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  etcd-lifeboat manifests --image registry.example/etcd-lifeboat:0.1.0
  etcd-lifeboat manifests --image registry.example/etcd-lifeboat:0.1.0 --openshift --monitoring")]
pub(crate) struct Args {
    /// Image of the operator, and of all that it makes
    #[arg(long, value_name = "IMAGE")]
    image: String,
    /// For OpenShift: in openshift-etcd, with security context constraints
    #[arg(long)]
    openshift: bool,
    /// With a ServiceMonitor and alerts, where the Prometheus operator has its kinds
    #[arg(long)]
    monitoring: bool,
}

/// Prints them.
pub(crate) fn run(args: Args) -> anyhow::Result<u8> {
    let install = Install {
        image: args.image,
        namespace: Install::usual_namespace(args.openshift).into(),
        openshift: args.openshift,
        monitoring: args.monitoring,
    };
    for object in all(&install) {
        output::print("---\n");
        output::print(&serde_saphyr::to_string(&object)?);
    }
    Ok(exit_code::DONE)
}
