//! `etcd-lifeboat sidecar`.

use crate::cli::exit_code;
use crate::cli::output;
use anyhow::Context;
use backup_store::local_file::read_small;
use operator::install::sidecar::{kubeadm_patch, with_sidecar};
use serde_json::Value;
use std::path::PathBuf;

/// Manifests are a few KiB.
const MAX_BYTES: u64 = 1 << 20;

/// Print etcd's static pod with a backup server in it
///
/// The backup server is a container beside etcd. It makes no backups until Backup/default exists, and follows each change of it without a
/// restart of etcd. The image must already be on the node. First run `sidecar-credential` on the node.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  etcd-lifeboat sidecar --image registry.example/etcd-lifeboat:0.1.0 \\
      --manifest /etc/kubernetes/manifests/etcd.yaml
  etcd-lifeboat sidecar --image registry.example/etcd-lifeboat:0.1.0 --kubeadm-patch")]
pub(crate) struct Args {
    /// Image of the backup server; it is never pulled
    #[arg(long, value_name = "IMAGE")]
    image: String,
    /// Manifest of etcd's static pod
    #[arg(long, value_name = "FILE", required_unless_present = "kubeadm_patch")]
    manifest: Option<PathBuf>,
    /// Print a patch instead, for a file named etcd+json.yaml in the directory that `kubeadm --patches` reads; kubeadm then adds
    /// the container at each upgrade
    #[arg(long, conflicts_with = "manifest")]
    kubeadm_patch: bool,
}

pub(crate) fn run(args: Args) -> anyhow::Result<u8> {
    if args.image.is_empty() || args.image.contains(char::is_whitespace) {
        output::error(&format!(
            "--image {:?} is not an image: use a name such as registry.example/etcd-lifeboat:0.1.0",
            args.image
        ));
        return Ok(exit_code::USAGE);
    }
    let printed = match args.manifest {
        None => kubeadm_patch(&args.image),
        Some(path) => {
            let bytes = read_small(&path, MAX_BYTES)
                .with_context(|| format!("cannot read {}", path.display()))?;
            let text = String::from_utf8(bytes)
                .with_context(|| format!("{} is not UTF-8 text", path.display()))?;
            let manifest: Value = serde_saphyr::from_str(&text)
                .with_context(|| format!("{} is not YAML", path.display()))?;
            with_sidecar(manifest, &args.image).with_context(|| path.display().to_string())?
        }
    };
    output::print(&serde_saphyr::to_string(&printed)?);
    Ok(exit_code::DONE)
}
