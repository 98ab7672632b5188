//! `cargo xtask generate`: files that come from the program's own types.

use crate::command::{cargo, root};
use anyhow::{Context, Result, ensure};

/// The template of the Helm chart; a test compares it.
const HELM_TEMPLATE: &str = "deploy/helm/etcd-lifeboat/templates/all.yaml";

/// Writes them.
pub(crate) fn run() -> Result<()> {
    let output = cargo()
        .args(["run", "--quiet", "-p", "lifeboat", "--"])
        .args(["manifests", "--helm-template"])
        .output()
        .context("run etcd-lifeboat")?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    std::fs::write(root().join(HELM_TEMPLATE), output.stdout)
        .with_context(|| format!("write {HELM_TEMPLATE}"))?;
    println!("{HELM_TEMPLATE}");
    Ok(())
}
