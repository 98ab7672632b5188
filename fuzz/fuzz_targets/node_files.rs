//! Any text as any of the files by which a node's etcd is found: manifests, configurations, units,
//! environment files.
#![no_main]

use backup_plan::platform::{NodeFiles, find};
use libfuzzer_sys::fuzz_target;
use std::io;

/// The first of them that a node has, and those that belong to it.
const PATHS: [&str; 8] = [
    "/etc/kubernetes/manifests/etcd-pod.yaml",
    "/etc/kubernetes/manifests/etcd.yaml",
    "/var/lib/rancher/rke2/server/db/etcd/config",
    "/etc/rancher/k3s/config.yaml",
    "/etc/systemd/system/etcd.service",
    "/etc/etcd.env",
    "/etc/default/etcd",
    "/etc/etcd/etcd.conf.yml",
];

struct Node<'t> {
    path: &'t str,
    text: &'t str,
    certificates: bool,
}

impl NodeFiles for Node<'_> {
    fn read(&self, path: &str) -> io::Result<Option<String>> {
        // What it names has the same text.
        let named = self.text.contains(path) && !PATHS.contains(&path);
        Ok((path == self.path || named).then(|| self.text.into()))
    }

    fn exists(&self, path: &str) -> bool {
        self.path.starts_with(path) || (self.certificates && !PATHS.contains(&path))
    }

    fn names(&self, path: &str) -> Vec<String> {
        let rest = self.path.strip_prefix(path);
        let rest = rest.and_then(|rest| rest.strip_prefix('/'));
        rest.and_then(|rest| rest.split('/').next())
            .map(String::from)
            .into_iter()
            .collect()
    }
}

// The first character says which file it is, and whether there are certificates.
fuzz_target!(|data: &str| {
    let Some(first) = data.chars().next() else {
        return;
    };
    let which = first as usize;
    let node = Node {
        path: PATHS[which % PATHS.len()],
        text: &data[first.len_utf8()..],
        certificates: which / PATHS.len() % 2 == 0,
    };
    match find(&node) {
        Ok(found) => assert!(found.endpoint.starts_with("http")),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
