//! What the nodes see as `/opt/kit`: programs, images, scripts.

use crate::etcd_binaries::cache_dir;
use std::path::PathBuf;

/// The version of the pause image that containerd is told to use.
pub const PAUSE: &str = "3.10.2";

/// Where the kit for a version of Kubernetes and of etcd is, once it was built.
#[must_use]
pub fn dir(kubernetes: &str, etcd: &str) -> PathBuf {
    nodes_dir().join(format!("kit-{kubernetes}-{etcd}"))
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
