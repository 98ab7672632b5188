//! `cargo xtask cluster stability`: whether the pods of a cluster run for a long time without a restart while backups are made.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const LOOK_EACH: Duration = Duration::from_secs(30);

#[derive(clap::Args)]
pub(crate) struct Args {
    /// How long the pods are watched
    #[arg(long, default_value = "45")]
    minutes: u64,
}

/// Counts restarts of our pods and of the control plane. Fails if one of ours was started again, or is not ready at the end.
pub(crate) fn run(args: &Args, kubectl: impl Fn(&[&str]) -> Result<String>) -> Result<()> {
    let start = Instant::now();
    let before = containers(&kubectl)?;
    ensure!(
        before
            .keys()
            .any(|(namespace, _)| namespace != "kube-system"),
        "no pod of etcd-lifeboat runs: install it first"
    );
    let mut known = before.clone();
    while start.elapsed() < Duration::from_secs(args.minutes * 60) {
        std::thread::sleep(LOOK_EACH.min(Duration::from_secs(args.minutes * 60)));
        let now = containers(&kubectl)?;
        for (container, state) in &now {
            if known.get(container) != Some(state) {
                println!(
                    "{:>5} s  {}/{}: {} restarts, {}",
                    start.elapsed().as_secs(),
                    container.0,
                    container.1,
                    state.restarts,
                    if state.ready { "ready" } else { "not ready" }
                );
            }
        }
        known = now;
    }
    println!(
        "| namespace | pod and container | restarts in {} minutes | ready |",
        args.minutes
    );
    println!("|---|---|---|---|");
    let mut failed = Vec::new();
    for ((namespace, name), state) in &known {
        let key = (namespace.clone(), name.clone());
        let at_first = before.get(&key).map_or(0, |state| state.restarts);
        let restarts = state.restarts - at_first;
        println!("| {namespace} | {name} | {restarts} | {} |", state.ready);
        if namespace != "kube-system" && (restarts > 0 || !state.ready) {
            failed.push(name.clone());
        }
    }
    print!("{}", kubectl(&["get", "backups", "-o", "wide"])?);
    ensure!(
        failed.is_empty(),
        "started again or not ready: {}",
        failed.join(", ")
    );
    Ok(())
}

#[derive(Clone, PartialEq, Eq)]
struct State {
    restarts: i32,
    ready: bool,
}

/// What kubectl prints, which is no PodList but a list of anything.
fn pods(printed: &str) -> Result<Vec<Pod>> {
    let mut list: Value = serde_json::from_str(printed).context("the pods")?;
    let items = list.get_mut("items").map(Value::take);
    serde_json::from_value(items.unwrap_or_default()).context("the pods")
}

/// The containers of our namespace and of the control plane, by namespace and name.
fn containers(
    kubectl: &impl Fn(&[&str]) -> Result<String>,
) -> Result<BTreeMap<(String, String), State>> {
    let mut found = BTreeMap::new();
    for (namespace, labels) in [("etcd-lifeboat", ""), ("kube-system", "tier=control-plane")] {
        let printed = kubectl(&["get", "pods", "-n", namespace, "-l", labels, "-o", "json"])?;
        for pod in pods(&printed)? {
            let name = pod.name_any();
            let statuses = pod.status.and_then(|status| status.container_statuses);
            for container in statuses.into_iter().flatten() {
                let state = State {
                    restarts: container.restart_count,
                    ready: container.ready,
                };
                let key = (namespace.to_string(), format!("{name} {}", container.name));
                found.insert(key, state);
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pods_that_kubectl_prints_are_found() {
        let printed = r#"{"apiVersion": "v1", "kind": "List", "items": [{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}}]}"#;
        assert_eq!(pods(printed).unwrap()[0].name_any(), "a");
        assert!(pods("{}").is_err());
    }
}
