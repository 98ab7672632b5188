//! What the nodes see as `/opt/kit`: programs, images, scripts.

use crate::etcd_binaries::{self, cache_dir};
use crate::kubernetes::binaries;
use std::path::PathBuf;

/// The version of the pause image that containerd is told to use.
pub const PAUSE: &str = "3.10.2";

/// Grows when something else is built into kits, so that those of before are not used.
pub const REVISION: u32 = 2;

/// The version of etcd in nodes for tests.
pub const ETCD_OF_NODES: etcd_binaries::Version = etcd_binaries::Version(3, 6);

/// A kit that was built, and what kubeadm must know of it.
#[derive(Debug, Clone)]
pub struct Kit {
    /// Where it is.
    pub dir: PathBuf,
    /// The version of Kubernetes, such as `v1.37.2`.
    pub kubernetes: String,
    /// The tag of etcd's image, such as `3.6.16-0`.
    pub etcd_tag: String,
}

impl Kit {
    /// The kit for these versions, whether it was built or not.
    #[must_use]
    pub fn of(kubernetes: &str, etcd_tag: &str) -> Kit {
        Kit {
            dir: nodes_dir().join(format!("kit{REVISION}-{kubernetes}-{etcd_tag}")),
            kubernetes: kubernetes.into(),
            etcd_tag: etcd_tag.into(),
        }
    }

    /// The kit for tests. If this machine cannot run it, skips the test, naming what is missing, and returns `None`.
    #[must_use]
    pub fn require() -> Option<Kit> {
        if let Some(missing) = super::missing(super::Filesystem::default()) {
            crate::requirement::skip(&format!("nodes with kubelets cannot run here: {missing}"));
            return None;
        }
        let mut versions = binaries::VERSIONS.into_iter();
        let kit = versions.find_map(|version| Kit::find(version, ETCD_OF_NODES));
        if kit.is_none() {
            crate::requirement::skip(
                "what nodes with kubelets run is not here: run `cargo xtask kubernetes`",
            );
        }
        kit
    }

    /// A kit for these minor versions, if one was built.
    #[must_use]
    pub fn find(kubernetes: binaries::Version, etcd: etcd_binaries::Version) -> Option<Kit> {
        let built = std::fs::read_dir(nodes_dir()).ok()?.flatten();
        built.into_iter().find_map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            let (version, tag) = name
                .strip_prefix(&format!("kit{REVISION}-"))?
                .split_once('-')?;
            let wanted = version.starts_with(&format!("v{kubernetes}."))
                && tag.starts_with(&format!("{etcd}."));
            wanted.then(|| Kit::of(version, tag))
        })
    }
}

/// Where everything for nodes is built.
#[must_use]
pub fn nodes_dir() -> PathBuf {
    cache_dir().with_file_name("nodes")
}

/// The scripts of a kit, by their names.
#[must_use]
pub fn scripts() -> [(&'static str, String); 4] {
    [
        ("scripts/enter.sh", include_str!("enter.sh").into()),
        ("scripts/first.sh", include_str!("first.sh").into()),
        (
            "scripts/containerd.toml",
            include_str!("containerd.toml").replace("PAUSE", PAUSE),
        ),
        ("bin/systemctl", include_str!("systemctl.sh").into()),
    ]
}
