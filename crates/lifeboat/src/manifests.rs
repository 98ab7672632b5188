//! `etcd-lifeboat manifests`.

use crate::EXIT_DONE;
use crate::output;
use operator::manifests::{Install, all};
use serde_json::Value;

/// Print all that is to be applied to a cluster, for `kubectl apply -f -`
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  etcd-lifeboat manifests --image registry.example/etcd-lifeboat:0.1.0
  etcd-lifeboat manifests --image registry.example/etcd-lifeboat:0.1.0 --openshift --monitoring")]
pub(crate) struct Args {
    /// Image of the operator, and of all that it makes
    #[arg(
        long,
        value_name = "IMAGE",
        required_unless_present = "helm_template",
        default_value = ""
    )]
    image: String,
    /// For OpenShift: in openshift-etcd, with security context constraints
    #[arg(long)]
    openshift: bool,
    /// Print the template of the Helm chart instead
    #[arg(long, hide = true, exclusive = true)]
    helm_template: bool,
    /// With a ServiceMonitor and alerts, where the Prometheus operator has its kinds
    #[arg(long)]
    monitoring: bool,
}

/// Prints them.
pub(crate) fn run(args: Args) -> anyhow::Result<u8> {
    if args.helm_template {
        output::print(&helm_template()?);
        return Ok(EXIT_DONE);
    }
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
    Ok(EXIT_DONE)
}

/// The same objects, as a template: what differs by what is asked for is in a condition.
fn helm_template() -> anyhow::Result<String> {
    const IMAGE: &str = "IMAGE-OF-THE-CHART";
    const NAMESPACE: &str = "namespace-of-the-chart";
    let objects = |openshift, monitoring| {
        all(&Install {
            image: IMAGE.into(),
            namespace: NAMESPACE.into(),
            openshift,
            monitoring,
        })
    };
    let (plain, openshift, monitored) = (
        objects(false, false),
        objects(true, false),
        objects(false, true),
    );
    let mut text = String::from("# Written by `cargo xtask generate`.\n");
    let mut add = |objects: &[Value], condition: Option<&str>| {
        for object in objects {
            // What is a template of Prometheus' is none of Helm's.
            let yaml = serde_saphyr::to_string(object)?
                .replace("{{ $labels.node }}", "{{ `{{ $labels.node }}` }}")
                .replace("{{ $labels.backup }}", "{{ `{{ $labels.backup }}` }}")
                .replace(IMAGE, "{{ .Values.image }}")
                .replace(
                    NAMESPACE,
                    "{{ if .Values.openshift }}openshift-etcd{{ else }}etcd-lifeboat{{ end }}",
                );
            text += &match condition {
                Some(condition) => {
                    format!("{{{{- if {condition} }}}}\n---\n{yaml}{{{{- end }}}}\n")
                }
                None => format!("---\n{yaml}"),
            };
        }
        anyhow::Ok(())
    };
    let only_in = |one: &[Value], other: &[Value]| -> Vec<Value> {
        let mut one = one.to_vec();
        one.retain(|object| !other.contains(object));
        one
    };
    let mut both = plain.clone();
    both.retain(|object| openshift.contains(object));
    add(&only_in(&plain, &openshift), Some("not .Values.openshift"))?;
    add(&both, None)?;
    add(&only_in(&openshift, &plain), Some(".Values.openshift"))?;
    add(&only_in(&monitored, &plain), Some(".Values.monitoring"))?;
    Ok(text)
}
