//! Where real Kubernetes programs are on this machine.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Environment variable: a folder with control-plane programs. Other projects use the same variable.
pub const ASSETS: &str = "KUBEBUILDER_ASSETS";

/// The programs of a control plane, by their names.
pub const PROGRAMS: [&str; 4] = [
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubectl",
];

/// A minor version of Kubernetes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32);

/// The versions that can be built here, the newest first.
pub const VERSIONS: [Version; 3] = [Version(1, 37), Version(1, 36), Version(1, 35)];

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// The programs of one version.
#[derive(Debug, Clone)]
pub struct Binaries {
    /// Minor version, as the programs show it.
    pub version: Version,
    dir: PathBuf,
}

impl Binaries {
    /// Path of one of [`PROGRAMS`].
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The folder with all of [`PROGRAMS`].
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

/// The cache folder for Kubernetes programs that were built for tests.
#[must_use]
pub fn cache_dir() -> PathBuf {
    let etcd = crate::etcd_binaries::cache_dir();
    etcd.with_file_name("kubernetes")
}

/// Path of a tool that is built for the tests: [`HELM`], [`STREAMS`] or [`PROVISIONER`]. The file may be missing.
#[must_use]
pub fn tool(name: &str) -> PathBuf {
    cache_dir().join("tools").join(name)
}

/// The program that serves logs and commands for a kubelet.
pub const STREAMS: &str = "kubelet-streams";
/// The package manager.
pub const HELM: &str = "helm";
/// A provisioner of volumes on the disks of nodes.
pub const PROVISIONER: &str = "local-path-provisioner";

/// Path of a tool. If it is missing, skips the test and returns `None`.
#[must_use]
pub fn require_tool(name: &str) -> Option<PathBuf> {
    let place = tool(name);
    if place.is_file() {
        return Some(place);
    }
    crate::requirement::skip(&format!("{name} is not here: run `cargo xtask kubernetes`"));
    None
}

/// Finds the programs of a version: in the folder that the environment names, in `PATH`, in the cache.
#[must_use]
pub fn find(version: Version) -> Option<Binaries> {
    let named = std::env::var_os(ASSETS).map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    named
        .into_iter()
        .chain(std::env::split_paths(&path))
        .chain([cache_dir().join(version.to_string())])
        .find_map(|dir| in_dir(&dir, version))
}

/// The programs of a version in one folder, if all of them are there.
#[must_use]
pub fn in_dir(dir: &Path, version: Version) -> Option<Binaries> {
    let all = PROGRAMS.iter().all(|name| dir.join(name).is_file());
    all.then_some(())?;
    let server = dir.join("kube-apiserver");
    let output = Command::new(server).arg("--version").output().ok()?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    printed
        .starts_with(&format!("Kubernetes v{version}."))
        .then(|| Binaries {
            version,
            dir: dir.into(),
        })
}

/// The newest version on this machine. If there is none, skips the test and returns `None`.
#[must_use]
pub fn require() -> Option<Binaries> {
    let found = VERSIONS.into_iter().find_map(find);
    if found.is_none() {
        crate::requirement::skip(&format!(
            "Kubernetes is not here: run `cargo xtask kubernetes`, or name a folder with {} in {ASSETS}",
            PROGRAMS.join(", ")
        ));
    }
    found
}
