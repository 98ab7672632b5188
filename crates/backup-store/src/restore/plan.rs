//! What a restore will do, found out without a change.

use super::error::RestoreError;
use super::evidence::target;
use super::facts::read_facts;
use super::order::{Identity, Order};
use super::source::Source;
use super::unfinished;
use crate::repository::Space;
use backup_plan::restore::etcd_version::EtcdVersion;
use backup_plan::restore::revision::{Bump, Target};
use etcd_file::membership::{Member, cluster_id};
use etcd_file::new_cluster::Facts;
use etcd_file::snapshot_file::sha256;
use jiff::Timestamp;
use std::net::ToSocketAddrs;
use std::ops::ControlFlow;
use std::path::Path;

/// Beside the database: the log, raft's snapshot, the record of the restore, and directories.
const OTHER_BYTES: u64 = 4 << 20;

/// What will be done.
pub struct Plan {
    pub(super) source: Source,
    /// What was ordered, with absolute paths.
    pub order: Order,
    /// What the database says about itself.
    pub facts: Facts,
    /// The members, in the order of their ids.
    pub members: Vec<Member>,
    /// The id of the member itself.
    pub member_id: u64,
    /// The id of the cluster.
    pub cluster_id: u64,
    /// The token from which the ids follow.
    pub token: String,
    /// The revision at which the cluster begins. `None` if it stays as it is.
    pub target: Option<Target>,
    /// The version of etcd for which the data directory is made.
    pub etcd_version: EtcdVersion,
    /// Bytes that the data directory can need.
    pub needed_bytes: u64,
    /// Bytes that are free where it is made.
    pub free_bytes: u64,
}

impl Plan {
    /// The snapshot.
    #[must_use]
    pub fn source(&self) -> &Source {
        &self.source
    }
}

/// Finds out what a restore will do. Reads the snapshot only as far as that needs, and does not prove it.
///
/// # Errors
/// Why it can't be restored.
pub fn plan(order: &Order, advertised: &[String], now: Timestamp) -> Result<Plan, RestoreError> {
    let order = order.resolved()?;
    order
        .cluster
        .check(&order.name, advertised, &same_addresses)?;
    if let (Identity::Restore { is_given: true, .. }, Bump::Auto) = (&order.identity, order.bump) {
        return Err(RestoreError::AutoWithId);
    }
    let source = Source::open(&order.source)?;
    if source.trailer.is_none() && !order.skip_hash_check {
        return Err(RestoreError::NoTrailer { path: source.path });
    }
    unfinished::check(&order.data_dir, order.wal_dir.as_deref())?;
    let facts = read_facts(&source.data(), &source.path)?;
    let data_version = EtcdVersion::of_data(
        facts.storage_version.as_deref(),
        facts.cluster_version.as_deref(),
    )?;
    let etcd_version = data_version.for_data(order.etcd_version)?;
    if !facts.corrupt.is_empty() && !order.allow_corrupt_alarm {
        return Err(RestoreError::CorruptAlarm {
            path: source.path,
            members: facts.corrupt.iter().map(|id| format!("{id:x}")).collect(),
        });
    }
    let target = target(order.bump, &facts, &order.witnesses, now)?;
    let token = token(
        &order,
        &source,
        target.as_ref().map(|target| target.revision),
    )?;
    let mut members: Vec<_> = order
        .cluster
        .members()
        .iter()
        .map(|(name, urls)| Member::new(name, urls.clone(), &token))
        .collect();
    members.sort_by_key(|member| member.id);
    let own = members.iter().find(|member| member.name == order.name);
    let needed_bytes = source.data_bytes.saturating_add(OTHER_BYTES);
    let free_bytes = free_bytes(&order.data_dir)?;
    if free_bytes < needed_bytes {
        return Err(RestoreError::InsufficientSpace {
            path: order.data_dir.clone(),
            free_bytes,
            needed_bytes,
        });
    }
    Ok(Plan {
        member_id: own.map_or(0, |own| own.id),
        cluster_id: cluster_id(&members),
        members,
        source,
        facts,
        token,
        target,
        etcd_version,
        order,
        needed_bytes,
        free_bytes,
    })
}

fn token(order: &Order, source: &Source, revision: Option<i64>) -> Result<String, RestoreError> {
    let id = match &order.identity {
        Identity::Token(token) => return Ok(token.clone()),
        Identity::Restore { id, .. } => id,
    };
    // Without a comparison, the SHA-256 at the end may be that of other data.
    let sha256 = match source.trailer.filter(|_| !order.skip_hash_check) {
        Some(trailer) => trailer,
        None => sha256(&source.file, source.data_bytes, &mut |_| {
            ControlFlow::Continue(())
        })
        .map_err(|failure| RestoreError::failed(&source.path, failure))?,
    };
    Ok(id.token(&sha256, revision))
}

/// Free bytes of the filesystem on which a directory is, or will be.
pub(super) fn free_bytes(dir: &Path) -> Result<u64, RestoreError> {
    let existing = dir
        .ancestors()
        .find(|path| path.is_dir())
        .unwrap_or(Path::new("."));
    let space = Space::at(existing).map_err(|error| {
        RestoreError::io("read the free space of", existing)(std::io::Error::other(error))
    })?;
    Ok(space.free_bytes)
}

/// Whether URLs lead to the same addresses, as etcd compares them.
fn same_addresses(one: &[String], other: &[String]) -> bool {
    let resolved = |urls: &[String]| {
        let mut all = Vec::new();
        for url in urls {
            let (scheme, rest) = url.split_once("://")?;
            let mut addresses: Vec<_> = rest.to_socket_addrs().ok()?.collect();
            addresses.sort();
            all.push((scheme.to_string(), addresses.first().copied()?));
        }
        all.sort();
        Some(all)
    };
    match (resolved(one), resolved(other)) {
        (Some(one), Some(other)) => one == other,
        _ => false,
    }
}
