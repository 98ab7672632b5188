//! `etcd-lifeboat manifests`.

use crate::EXIT_DONE;
use crate::output;
use operator::manifests::{Install, all};

/// Print all that is to be applied to a cluster, for `kubectl apply -f -`
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  etcd-lifeboat manifests --image registry.example/etcd-lifeboat:0.1.0
  etcd-lifeboat manifests --image registry.example/etcd-lifeboat:0.1.0 --namespace openshift-etcd")]
pub(crate) struct Args {
    /// Image of the operator, and of all that it makes
    #[arg(long, value_name = "IMAGE")]
    image: String,
    /// Where it is installed; on OpenShift that is openshift-etcd
    #[arg(long, value_name = "NAME", default_value = "etcd-lifeboat")]
    namespace: String,
}

/// Prints them.
pub(crate) fn run(args: Args) -> anyhow::Result<u8> {
    let install = Install {
        image: args.image,
        namespace: args.namespace,
    };
    for object in all(&install) {
        output::print("---\n");
        // JSON is YAML, too; this one is for people to read.
        output::print(&serde_saphyr::to_string(&object)?);
    }
    Ok(EXIT_DONE)
}
