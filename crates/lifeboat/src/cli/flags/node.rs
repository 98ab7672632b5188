//! This node's etcd: what flags say of it, and else what the node's files say.

use crate::cli::flags::connection::ConnectionArgs;
use backup_plan::platform::{self, Found, NodeFiles, Platform};
use backup_store::backup::Order;
use backup_store::local_file::read_small;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use std::io;
use std::net::{IpAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// Which node, and what of it.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Node")]
pub(crate) struct NodeArgs {
    /// The node's own member; of several the one on this node is taken [default: as the node's files say]
    #[arg(long, value_name = "ENDPOINT[,…]", env = "ETCDCTL_ENDPOINTS")]
    endpoints: Option<String>,
    #[command(flatten)]
    connection: ConnectionArgs,
    /// Where the node's root directory is mounted
    #[arg(long, value_name = "DIR", default_value = "/")]
    host_root: PathBuf,
    /// Directory of control-plane files that go into each backup [default: as the node's files say]
    #[arg(long, value_name = "DIR")]
    config_dir: Option<PathBuf>,
    /// Name of the node in the records [default: the host's name]
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    node_name: Option<String>,
    /// Where the snapshot comes from: auto takes what costs etcd least, which is the member's stream so far
    #[arg(long, value_enum, default_value = "auto")]
    source: Source,
    /// MiB a second that reading a snapshot back may take; the member's stream is never slowed down
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..))]
    max_bandwidth: Option<u64>,
    /// MiB of the disk to keep free [default: 15 % of it, 10 GiB at most]
    #[arg(long, value_name = "MIB")]
    min_free: Option<u64>,
}

/// Where a snapshot comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Source {
    /// What costs etcd least.
    Auto,
    /// The member's own stream.
    Stream,
}

impl Source {
    /// For the record.
    fn reason(self) -> &'static str {
        match self {
            Source::Auto => "auto: the member's stream is the one way there is",
            Source::Stream => "asked for",
        }
    }
}

/// Manifests and configurations are a few KiB.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// The files below a root directory.
struct Below<'r>(&'r Path);

impl Below<'_> {
    fn path(&self, path: &str) -> PathBuf {
        self.0.join(path.trim_start_matches('/'))
    }

    /// Where a path leads: links are the node's own, so an absolute one is below the root, too. The path as it
    /// is, where nothing is there.
    fn target(&self, path: &str) -> PathBuf {
        let plain = self.path(path);
        if self.0 == Path::new("/") {
            return plain;
        }
        let resolved = || {
            let root = std::fs::File::open(self.0).ok()?;
            let flags = OFlags::PATH | OFlags::CLOEXEC;
            let at = rustix::fs::openat2(&root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT);
            let at = at.ok()?;
            std::fs::read_link(format!("/proc/self/fd/{}", at.as_raw_fd())).ok()
        };
        resolved().unwrap_or(plain)
    }
}

impl Below<'_> {
    /// Where a path below the root leads.
    fn followed(&self, path: &Path) -> PathBuf {
        if self.0 == Path::new("/") {
            return std::fs::canonicalize(path).unwrap_or_else(|_| path.into());
        }
        let own = path.strip_prefix(self.0).unwrap_or(path);
        self.target(&own.to_string_lossy())
    }
}

impl NodeFiles for Below<'_> {
    fn read(&self, path: &str) -> io::Result<Option<String>> {
        match read_small(&self.target(path), MAX_FILE_BYTES) {
            Ok(bytes) => String::from_utf8(bytes)
                .map(Some)
                .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "is no text")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn exists(&self, path: &str) -> bool {
        self.target(path).exists()
    }

    fn names(&self, path: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.target(path)).into_iter().flatten();
        let mut names: Vec<_> = entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort();
        names
    }
}

impl NodeArgs {
    /// What is wrong with the flags by themselves, whatever the node is like.
    pub(crate) fn check(&self) -> Result<(), String> {
        let endpoint = self.endpoints.clone().unwrap_or_default();
        self.connection.to_connection(endpoint).map(|_| ())
    }

    /// Where the node's etcd is.
    pub(crate) fn find(&self) -> Result<Found, String> {
        match &self.endpoints {
            Some(endpoints) => Ok(Found {
                platform: Platform::Plain,
                found_in: vec!["--endpoints".into()],
                endpoint: own_endpoint(endpoints)?,
                cacert: None,
                cert: None,
                key: None,
                data_dir: None,
                resources: Vec::new(),
                archive_root: "/".into(),
                missing: Vec::new(),
            }),
            None => platform::find(&Below(&self.host_root)).map_err(|error| error.to_string()),
        }
    }

    /// Whether neither a flag nor a file says where etcd is, so that the usual place is tried.
    pub(crate) fn guesses(&self) -> bool {
        self.find().is_ok_and(|found| found.found_in.is_empty())
    }

    /// What a run is to do.
    pub(crate) fn order(&self, origin: &str, trigger: &str) -> Result<Order, String> {
        let found = self.find()?;
        let below = Below(&self.host_root);
        let mut connection = self.connection.to_connection(found.endpoint.clone())?;
        let place = |path: Option<String>| path.map(|path| below.target(&path));
        connection.ca_file = connection.ca_file.or(place(found.cacert));
        if connection.cert_file.is_none() {
            connection.cert_file = place(found.cert);
            connection.key_file = place(found.key);
        }
        let (root, mut paths) = match &self.config_dir {
            Some(dir) => (self.host_root.clone(), vec![dir.clone()]),
            None => (
                below.path(&found.archive_root),
                found
                    .resources
                    .iter()
                    .map(|path| below.path(path))
                    .collect(),
            ),
        };
        // Where one of them is a link, what it leads to belongs into the archive as well.
        let linked: Vec<_> = paths
            .iter()
            .filter(|path| path.is_symlink())
            .map(|path| below.followed(path))
            .filter(|path| path.starts_with(&root) && !paths.contains(path))
            .collect();
        paths.extend(linked);
        Ok(Order {
            connection,
            origin: origin.into(),
            trigger: trigger.into(),
            node: self.node_name(),
            platform: found.platform.name().into(),
            resources: (!paths.is_empty()).then_some((root, paths)),
            warnings: found.missing,
            source_reason: self.source.reason().into(),
            max_bytes_per_s: self.max_bandwidth.map(|mib| mib.saturating_mul(1 << 20)),
            reserve_bytes: self.reserve_bytes(),
        })
    }

    /// Bytes of the disk to keep free, where that was said.
    pub(crate) fn reserve_bytes(&self) -> Option<u64> {
        self.min_free.map(|mib| mib.saturating_mul(1 << 20))
    }

    /// As the cluster knows it, where there is one.
    pub(crate) fn node_name(&self) -> String {
        self.node_name.clone().unwrap_or_else(|| {
            let name = rustix::system::uname();
            name.nodename().to_string_lossy().into_owned()
        })
    }
}

/// Of several endpoints the one on this node: a backup is of the node's own member.
fn own_endpoint(endpoints: &str) -> Result<String, String> {
    let all: Vec<_> = endpoints
        .split(',')
        .map(str::trim)
        .filter(|endpoint| !endpoint.is_empty())
        .collect();
    match all.as_slice() {
        [] => Err("--endpoints is empty: name the member of this node".into()),
        [only] => Ok((*only).to_string()),
        several => several
            .iter()
            .find(|endpoint| is_here(endpoint))
            .map(|endpoint| (*endpoint).to_string())
            .ok_or_else(|| {
                format!(
                    "none of --endpoints {endpoints} is on this node: name its own member alone"
                )
            }),
    }
}

/// Whether an endpoint's address is one of this node's: those are the ones that can be bound.
fn is_here(endpoint: &str) -> bool {
    let address = endpoint
        .split_once("://")
        .map_or(endpoint, |(_, rest)| rest);
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    match host.parse::<IpAddr>() {
        Ok(address) => UdpSocket::bind((address, 0)).is_ok(),
        Err(_) => host == "localhost",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_endpoints_the_one_on_this_node_is_taken() {
        let three = "https://203.0.113.1:2379,https://127.0.0.1:2379,https://203.0.113.3:2379";
        assert_eq!(own_endpoint(three).unwrap(), "https://127.0.0.1:2379");
        assert_eq!(own_endpoint("203.0.113.1:1").unwrap(), "203.0.113.1:1");
        assert_eq!(
            own_endpoint("203.0.113.1:1,[::1]:2").ok().as_deref(),
            is_here("[::1]:2").then_some("[::1]:2")
        );
        let error = own_endpoint("203.0.113.1:1,203.0.113.2:1").unwrap_err();
        assert!(error.contains("name its own member alone"), "{error}");
        assert!(own_endpoint(" , ").is_err());
    }
}
