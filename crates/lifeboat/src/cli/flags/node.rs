//! Finds this node's etcd from flags or from the node's files.

use crate::cli::flags::connection::ConnectionArgs;
use backup_plan::platform::{self, Found, NodeFiles};
use backup_plan::record::Trigger;
use backup_store::local_file::read_small;
use backup_store::member::Connection;
use backup_store::run::Order;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use std::io;
use std::net::{IpAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// What to back up on a node.
pub(crate) struct Orders {
    /// The etcd with all objects of Kubernetes.
    pub(crate) main: Order,
    /// Other etcds, each with a part of the objects.
    pub(crate) others: Vec<Order>,
}

/// Flags that describe the node and its etcd.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Node")]
pub(crate) struct NodeArgs {
    /// Endpoint of this node's etcd member; of several endpoints, the one on this node is used [default: read from the node's files]
    #[arg(long, value_name = "ENDPOINT[,…]", env = "ETCDCTL_ENDPOINTS")]
    endpoints: Option<String>,
    #[command(flatten)]
    connection: ConnectionArgs,
    /// Where the node's root directory is mounted
    #[arg(long, value_name = "DIR", default_value = "/")]
    host_root: PathBuf,
    /// Directory of the control-plane files to archive in each backup [default: found from the node's files]
    #[arg(long, value_name = "DIR")]
    config_dir: Option<PathBuf>,
    /// Name of the node, for the record of each backup [default: the host name]
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    node_name: Option<String>,
    /// Source of the snapshot: auto uses the source with the lowest load on etcd, currently always the member's stream
    #[arg(long, value_enum, default_value = "auto")]
    source: Source,
    /// Limit for reading the snapshot back from the disk, in MiB per second; the member's stream has no limit
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..))]
    max_bandwidth: Option<u64>,
    /// Free space to leave on the disk, in MiB [default: 15 % of the disk, at most 10 GiB]
    #[arg(long, value_name = "MIB")]
    min_free: Option<u64>,
}

/// Source of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Source {
    /// The source with the lowest load on etcd.
    Auto,
    /// The snapshot stream of the member.
    Stream,
}

impl Source {
    /// The reason that the record of a backup contains.
    fn reason(self) -> &'static str {
        match self {
            Source::Auto => "auto: the member's stream is the only source",
            Source::Stream => "set by --source",
        }
    }
}

/// Manifests and configurations are a few KiB.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// The node's root directory, mounted at this path.
pub(crate) struct HostRoot<'r>(pub(crate) &'r Path);

impl HostRoot<'_> {
    fn path(&self, path: &str) -> PathBuf {
        self.0.join(path.trim_start_matches('/'))
    }

    /// Resolves a path of the node. Absolute symbolic links are relative to the node's root directory. Returns the path
    /// unchanged if it does not exist.
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

impl HostRoot<'_> {
    /// Resolves symbolic links in a path that is already below the root directory.
    fn followed(&self, path: &Path) -> PathBuf {
        if self.0 == Path::new("/") {
            return std::fs::canonicalize(path).unwrap_or_else(|_| path.into());
        }
        let own = path.strip_prefix(self.0).unwrap_or(path);
        self.target(&own.to_string_lossy())
    }
}

impl NodeFiles for HostRoot<'_> {
    fn read(&self, path: &str) -> io::Result<Option<String>> {
        match read_small(&self.target(path), MAX_FILE_BYTES) {
            Ok(bytes) => String::from_utf8(bytes).map(Some).map_err(|_| {
                io::Error::new(io::ErrorKind::InvalidData, "the file is not UTF-8 text")
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn exists(&self, path: &str) -> bool {
        self.target(path).exists()
    }

    fn real_file(&self, path: &str) -> Option<String> {
        let target = self.target(path).canonicalize().ok()?;
        let root = self.0.canonicalize().ok()?;
        let below = target.strip_prefix(&root).ok()?.to_str()?;
        target.is_file().then(|| format!("/{below}"))
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
    /// Checks the flags without reading the node's files.
    pub(crate) fn check(&self) -> Result<(), String> {
        let endpoint = self.endpoints.clone().unwrap_or_default();
        self.connection.to_connection(endpoint).map(|_| ())
    }

    pub(crate) fn find(&self) -> Result<Found, String> {
        match &self.endpoints {
            Some(endpoints) => Ok(Found::at(
                own_endpoint(endpoints)?,
                vec!["--endpoints".into()],
            )),
            None => platform::find(&HostRoot(&self.host_root)).map_err(|error| error.to_string()),
        }
    }

    /// Whether neither a flag nor a file names an endpoint, so that the default endpoint is used.
    pub(crate) fn guesses(&self) -> bool {
        self.find().is_ok_and(|found| found.found_in.is_empty())
    }

    /// What to back up on this node.
    pub(crate) fn orders(&self, origin: &str, trigger: Trigger) -> Result<Orders, String> {
        let found = self.find()?;
        let host_root = HostRoot(&self.host_root);
        let mut connection = self.connection.to_connection(found.endpoint.clone())?;
        let place = |path: Option<String>| path.map(|path| host_root.target(&path));
        connection.ca_file = connection.ca_file.or(place(found.cacert));
        if connection.cert_file.is_none() {
            connection.cert_file = place(found.cert);
            connection.key_file = place(found.key);
        }
        let mut main = Order {
            connection,
            origin: origin.into(),
            trigger,
            node: self.node_name(),
            platform: found.platform.name().into(),
            etcd: None,
            not_backed_up: Vec::new(),
            resources: None,
            warnings: Vec::new(),
            archive_missing: Vec::new(),
            encryption: Vec::new(),
            source_reason: self.source.reason().into(),
            max_bytes_per_s: self.max_bandwidth.map(|mib| mib.saturating_mul(1 << 20)),
            reserve_bytes: self.reserve_bytes(),
        };
        let mut others = Vec::new();
        let mut not_backed_up = Vec::new();
        for etcd in found.others {
            // One that is elsewhere is backed up where its members are.
            let Some(endpoint) = etcd.endpoints.iter().find(|endpoint| is_here(endpoint)) else {
                not_backed_up.push(format!(
                    "etcd {} has no member on this node, so it is not backed up here; {} says that it is at {}",
                    etcd.name,
                    etcd.found_in,
                    etcd.endpoints.join(", ")
                ));
                continue;
            };
            let connection = Connection {
                ca_file: place(etcd.cacert),
                cert_file: place(etcd.cert),
                key_file: place(etcd.key),
                ..self.connection.to_connection(endpoint.clone())?
            };
            others.push(Order {
                connection,
                etcd: Some(etcd.name),
                ..main.clone()
            });
        }
        main.not_backed_up = not_backed_up;
        main.resources = self.resources(&host_root, &found.archive_root, &found.resources);
        main.warnings = found.missing;
        main.archive_missing = match self.config_dir {
            // Somebody chose what is archived.
            Some(_) => Vec::new(),
            None => found.not_archived,
        };
        main.encryption = found.encryption;
        Ok(Orders { main, others })
    }

    /// The files to archive: a root directory, and paths below it.
    fn resources(
        &self,
        host_root: &HostRoot<'_>,
        archive_root: &str,
        found: &[String],
    ) -> Option<(PathBuf, Vec<PathBuf>)> {
        let (root, mut paths) = match &self.config_dir {
            Some(dir) => (self.host_root.clone(), vec![dir.clone()]),
            None => (
                host_root.path(archive_root),
                found.iter().map(|path| host_root.path(path)).collect(),
            ),
        };
        // If a path is a symbolic link, its target belongs into the archive, too.
        let linked: Vec<_> = paths
            .iter()
            .filter(|path| path.is_symlink())
            .map(|path| host_root.followed(path))
            .filter(|path| path.starts_with(&root) && !paths.contains(path))
            .collect();
        paths.extend(linked);
        (!paths.is_empty()).then_some((root, paths))
    }

    /// Bytes of the disk to keep free, if set.
    pub(crate) fn reserve_bytes(&self) -> Option<u64> {
        self.min_free.map(|mib| mib.saturating_mul(1 << 20))
    }

    /// The name of the node in the cluster, or the host name.
    pub(crate) fn node_name(&self) -> String {
        self.node_name.clone().unwrap_or_else(|| {
            let name = rustix::system::uname();
            name.nodename().to_string_lossy().into_owned()
        })
    }
}

/// Selects the endpoint that is on this node, because a backup is always of the node's own member.
fn own_endpoint(endpoints: &str) -> Result<String, String> {
    let all: Vec<_> = endpoints
        .split(',')
        .map(str::trim)
        .filter(|endpoint| !endpoint.is_empty())
        .collect();
    match all.as_slice() {
        [] => Err("--endpoints is empty: give the endpoint of this node's member".into()),
        [only] => Ok((*only).to_string()),
        several => several
            .iter()
            .find(|endpoint| is_here(endpoint))
            .map(|endpoint| (*endpoint).to_string())
            .ok_or_else(|| {
                format!(
                    "none of --endpoints {endpoints} is on this node: give only the endpoint of this node's member"
                )
            }),
    }
}

/// Whether an endpoint's address belongs to this node.
pub(crate) fn is_here(endpoint: &str) -> bool {
    let address = endpoint
        .split_once("://")
        .map_or(endpoint, |(_, rest)| rest);
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    match host.parse::<IpAddr>() {
        Ok(address) => is_own_address(address),
        Err(_) => host == "localhost",
    }
}

/// Only own addresses can be bound, except where the kernel allows every address (`ip_nonlocal_bind`, for example beside keepalived).
/// Own addresses are then those of the kernel's routing table.
fn is_own_address(address: IpAddr) -> bool {
    let (family, table) = match address {
        IpAddr::V4(_) => ("ipv4", "/proc/net/fib_trie"),
        IpAddr::V6(_) => ("ipv6", "/proc/net/if_inet6"),
    };
    let any_is_bound = std::fs::read_to_string(format!("/proc/sys/net/{family}/ip_nonlocal_bind"))
        .is_ok_and(|value| value.trim() != "0");
    if any_is_bound && let Ok(table) = std::fs::read_to_string(table) {
        return is_in_table(address, &table);
    }
    UdpSocket::bind((address, 0)).is_ok()
}

fn is_in_table(address: IpAddr, table: &str) -> bool {
    match address {
        // An address and, in the next line, its type: `|-- 10.0.0.1` and `/32 host LOCAL`.
        IpAddr::V4(address) => {
            let own = format!("|-- {address}");
            let lines: Vec<_> = table.lines().map(str::trim).collect();
            address.is_loopback()
                || lines.windows(2).any(|two| {
                    matches!(two, [name, kind] if *name == own && kind.ends_with("host LOCAL"))
                })
        }
        // The address in 32 hex digits is the first word of a line.
        IpAddr::V6(address) => {
            let own = format!("{:032x}", u128::from(address));
            table
                .lines()
                .any(|line| line.split(' ').next() == Some(&own))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_addresses_are_known_where_every_address_can_be_bound() {
        let v4 = "Local:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 10.0.0.0\n        /24 link UNICAST\n     |-- 10.0.0.7\n        /32 host LOCAL\n     |-- 10.0.0.255\n        /32 link BROADCAST\n";
        for (address, own) in [
            ("10.0.0.7", true),
            ("127.0.0.1", true),
            ("10.0.0.8", false),
            ("10.0.0.0", false),
            ("10.0.0.255", false),
        ] {
            assert_eq!(is_in_table(address.parse().unwrap(), v4), own, "{address}");
        }
        let v6 = "fd000000000000000000000000000001 02 40 00 80     eth0\n";
        assert!(is_in_table("fd00::1".parse().unwrap(), v6));
        assert!(!is_in_table("fd00::2".parse().unwrap(), v6));
        // The kernel's own tables have the form that is read here.
        let table = std::fs::read_to_string("/proc/net/fib_trie").unwrap();
        assert!(table.contains("|-- 127.0.0.1") && table.contains("/32 host LOCAL"));
    }

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
        assert!(
            error.contains("give only the endpoint of this node's member"),
            "{error}"
        );
        assert!(own_endpoint(" , ").is_err());
    }
}
