//! Where real etcd programs are on this machine.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Environment variable: a folder with etcd programs, or with one such folder per version.
pub const ETCD_DIR: &str = "ETCD_LIFEBOAT_TEST_ETCD_DIR";

/// A minor version of etcd.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32);

/// The versions that the tests run with.
pub const VERSIONS: [Version; 4] = [Version(3, 4), Version(3, 5), Version(3, 6), Version(3, 7)];

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// The programs of one version.
#[derive(Debug, Clone)]
pub struct Binaries {
    /// Minor version, as `etcd --version` shows it.
    pub version: Version,
    /// The server.
    pub etcd: PathBuf,
    /// The client.
    pub etcdctl: PathBuf,
    /// The offline tool; 3.4 has none.
    pub etcdutl: Option<PathBuf>,
}

/// The cache folder for fetched or built etcd programs. It has a folder per version.
pub fn cache_dir() -> PathBuf {
    let base = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache")))
        .unwrap_or_else(std::env::temp_dir);
    base.join("etcd-lifeboat").join("etcd")
}

/// Where etcd's own reader of logs is, if it was built.
pub fn dump_logs() -> PathBuf {
    cache_dir().join("etcd-dump-logs")
}

/// etcd's own reader of logs. If it is missing, skips the test and returns `None`.
pub fn require_dump_logs() -> Option<PathBuf> {
    let found = Some(dump_logs()).filter(|program| program.is_file());
    if found.is_none() {
        crate::requirement::skip("etcd-dump-logs is not here: run `cargo xtask etcd`");
    }
    found
}

/// Finds the programs of a version: in the folder that the environment names, in `PATH`, in the cache.
pub fn find(version: Version) -> Option<Binaries> {
    let named = std::env::var_os(ETCD_DIR)
        .map(PathBuf::from)
        .into_iter()
        .flat_map(|dir| {
            let below: Vec<_> = std::fs::read_dir(&dir)
                .into_iter()
                .flatten()
                .flatten()
                .map(|entry| entry.path())
                .collect();
            std::iter::once(dir).chain(below)
        });
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path: Vec<_> = std::env::split_paths(&path).collect();
    let cached = cache_dir().join(version.to_string());
    named
        .chain(in_path)
        .chain([cached])
        .find_map(|dir| in_dir(&dir, version))
}

/// The programs of a version in one folder.
pub fn in_dir(dir: &Path, version: Version) -> Option<Binaries> {
    let program = |name: &str| Some(dir.join(name)).filter(|path| path.is_file());
    let etcd = program("etcd")?;
    let output = Command::new(&etcd).arg("--version").output().ok()?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let wanted = format!("etcd Version: {version}.");
    printed.starts_with(&wanted).then_some(())?;
    Some(Binaries {
        version,
        etcd,
        etcdctl: program("etcdctl")?,
        etcdutl: program("etcdutl"),
    })
}

/// Environment variable: the version for tests that do not name one. The default is 3.6.
pub const USUAL_VERSION: &str = "LIFEBOAT_TEST_ETCD_VERSION";

/// The programs of the version that most tests use. If they are missing, skips the test and returns `None`.
pub fn require_usual() -> Option<Binaries> {
    let named = std::env::var(USUAL_VERSION).ok();
    let version = named.map_or(Version(3, 6), |named| {
        let known = VERSIONS
            .into_iter()
            .find(|version| version.to_string() == named);
        known
            .unwrap_or_else(|| panic!("{USUAL_VERSION} is {named:?}, expected one of {VERSIONS:?}"))
    });
    require(version)
}

/// The programs of a version. If they are missing, skips the test and returns `None`.
pub fn require(version: Version) -> Option<Binaries> {
    let found = find(version);
    if found.is_none() {
        crate::requirement::skip(&format!(
            "etcd {version} is not here: run `cargo xtask etcd`, or name a folder with it in {ETCD_DIR}"
        ));
    }
    found
}

impl Binaries {
    /// What `snapshot status` says of a file, as JSON: etcdutl's, or etcdctl's where there is no etcdutl.
    pub fn snapshot_status(&self, file: &Path) -> std::process::Output {
        let mut command = Command::new(self.etcdutl.as_ref().unwrap_or(&self.etcdctl));
        command
            .args(["snapshot", "status", "-w", "json"])
            .arg(file)
            .env("ETCDCTL_API", "3");
        command.output().expect("run snapshot status")
    }
}
