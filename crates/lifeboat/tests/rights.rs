//! The rights that are installed are those that are used: by all tests of the operator together, which write down
//! what the API server was asked. `cargo xtask test` runs this one after them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod node;

use node::{lifeboat, told};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use test_support::requirement;

/// Granted, and not seen as a request of its own, each with the reason.
const NOT_ASKED: [(&str, &str); 14] = [
    // To apply what is not there yet is asked as a patch, and is looked at as this as well.
    ("etcd-lifeboat-agent", "create lifeboat.etcd.io/nodebackups"),
    ("etcd-lifeboat-operator", "create /configmaps"),
    ("etcd-lifeboat-operator", "create apps/daemonsets"),
    ("etcd-lifeboat-operator", "create apps/statefulsets"),
    ("etcd-lifeboat-operator", "create batch/cronjobs"),
    // OpenShift's OwnerReferencesPermissionEnforcement looks at these when an owner is named.
    (
        "etcd-lifeboat-operator",
        "update config.openshift.io/backups/finalizers",
    ),
    (
        "etcd-lifeboat-operator",
        "update operator.openshift.io/etcdbackups/finalizers",
    ),
    ("etcd-lifeboat-operator", "delete apps/daemonsets"),
    ("etcd-lifeboat-operator", "delete batch/cronjobs"),
    ("etcd-lifeboat-operator", "delete batch/jobs"),
    // A node has to be gone for a day.
    (
        "etcd-lifeboat-operator",
        "delete lifeboat.etcd.io/nodebackups",
    ),
    // An event that happens again is counted, within six minutes.
    ("etcd-lifeboat-operator", "patch events.k8s.io/events"),
    ("etcd-lifeboat-agent", "patch events.k8s.io/events"),
    // A request that was skipped is taken back.
    (
        "etcd-lifeboat-request",
        "delete operator.openshift.io/etcdbackups",
    ),
];

fn granted() -> BTreeSet<(String, String)> {
    let manifests = told(&lifeboat(&["manifests", "--image", "image", "--openshift"]));
    let mut granted = BTreeSet::new();
    for object in manifests.split("---\n").filter(|object| !object.is_empty()) {
        let role: Value = serde_saphyr::from_str(object).unwrap();
        if !role["kind"].as_str().unwrap().ends_with("Role") {
            continue;
        }
        let account = role["metadata"]["name"].as_str().unwrap();
        let words = |rule: &Value, field: &str| -> Vec<String> {
            let words = rule[field].as_array().unwrap();
            words
                .iter()
                .map(|word| word.as_str().unwrap().to_string())
                .collect()
        };
        for rule in role["rules"].as_array().unwrap() {
            for group in words(rule, "apiGroups") {
                for resource in words(rule, "resources") {
                    for verb in words(rule, "verbs") {
                        granted.insert((account.to_string(), format!("{verb} {group}/{resource}")));
                    }
                }
            }
        }
    }
    granted
}

#[test]
#[ignore = "looks at what all the others have written down"]
fn each_right_that_is_granted_is_used_and_none_is_missing() {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("asked");
    let files: Vec<_> = std::fs::read_dir(&dir)
        .into_iter()
        .flatten()
        .flatten()
        .collect();
    if files.is_empty() {
        requirement::skip("no test of the operator has run here");
        return;
    }
    let mut used = BTreeSet::new();
    for file in files {
        let text = std::fs::read_to_string(file.path()).unwrap();
        used.extend(text.lines().map(|line| {
            let (account, asked) = line.split_once(' ').unwrap();
            (account.to_string(), asked.to_string())
        }));
    }
    let granted = granted();
    let not_asked: BTreeSet<_> = NOT_ASKED
        .iter()
        .map(|(account, asked)| ((*account).to_string(), (*asked).to_string()))
        .collect();
    let unused: Vec<_> = granted
        .difference(&used)
        .filter(|right| !not_asked.contains(right))
        .collect();
    assert!(unused.is_empty(), "granted, and not used: {unused:#?}");
    let unknown: Vec<_> = not_asked.difference(&granted).collect();
    assert!(unknown.is_empty(), "excused, and not granted: {unknown:#?}");
}
