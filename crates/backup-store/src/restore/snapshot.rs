//! A snapshot that begins at a higher revision, for restores of other tools.

use super::database::{changed, write};
use super::error::RestoreError;
use super::evidence::target;
use super::facts::read_facts;
use super::order::Witnesses;
use super::place::place;
use super::plan::free_bytes;
use super::proof::{Proof, prove};
use super::source::Source;
use crate::durable_file;
use crate::local_file::LocalFile;
use crate::progress::Monitor;
use crate::repository::Repository;
use backup_plan::restore::revision::{Bump, Target};
use etcd_file::new_cluster::Changes;
use etcd_file::snapshot_file::sha256;
use jiff::Timestamp;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// What was made.
#[derive(Debug, Clone, Serialize)]
pub struct RaisedSnapshot {
    /// The file.
    pub snapshot: PathBuf,
    /// The revision at which a cluster begins that is restored from it.
    pub revision: i64,
    /// How the data of the source was proven.
    pub proof: Proof,
    /// Its size, in bytes.
    pub size_bytes: u64,
}

/// Writes a whole snapshot with the same data, which begins at a higher revision. Any tool restores it, without flags, and clients
/// that watch then read everything again. If `out` is a directory, the name of the file has that revision.
///
/// # Errors
/// Why there is none.
pub fn raise_snapshot(
    source: &Source,
    out: &Path,
    bump: Bump,
    witnesses: &Witnesses,
    skip_hash_check: bool,
    now: Timestamp,
    monitor: &dyn Monitor,
) -> Result<(RaisedSnapshot, Option<Target>), RestoreError> {
    if source.trailer.is_none() && !skip_hash_check {
        return Err(RestoreError::NoTrailer {
            path: source.path.clone(),
        });
    }
    let dir = match out.parent() {
        _ if out.is_dir() => out,
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let entries = Repository::open(dir).and_then(|repository| repository.entries());
    if entries.is_ok_and(|entries| entries.iter().any(|entry| entry.backup().is_some())) {
        return Err(RestoreError::InRepository { path: dir.into() });
    }
    let (free_bytes, needed_bytes) = (free_bytes(dir)?, source.file.size_bytes());
    if free_bytes < needed_bytes {
        return Err(RestoreError::InsufficientSpace {
            path: dir.into(),
            free_bytes,
            needed_bytes,
        });
    }
    let facts = read_facts(&source.data(), &source.path)?;
    let target = target(bump, &facts, witnesses, now)?;
    let revision = target
        .as_ref()
        .map_or(facts.current_revision, |target| target.revision);
    let out = match out.is_dir() {
        true => out.join(format!("snapshot-from-revision-{revision}.db")),
        false => out.into(),
    };
    if out.symlink_metadata().is_ok() {
        return Err(RestoreError::FileExists { path: out });
    }
    let mut name = out.as_os_str().to_owned();
    name.push(".partial");
    let partial = Path::new(&name);
    // One that a killed process has left.
    let _ = durable_file::remove_file(partial);
    let made = || {
        let placed = place(source, partial, monitor)?;
        let copied = placed.read(source, partial)?;
        let file = &placed.file;
        let proof = prove(source, &copied, skip_hash_check, dir, monitor)?;
        let changes = Changes {
            members: None,
            revision: target.as_ref().map(|target| target.revision),
        };
        let rewritten = changed(source, &copied.file, &facts, &changes)?;
        write(file, partial, &rewritten)?;
        let failed = || RestoreError::io("write", partial);
        let written = LocalFile::open(partial)?;
        monitor.step("trailer", rewritten.new_bytes);
        let digest = sha256(&written, rewritten.new_bytes, &mut |bytes| {
            monitor.advance(bytes)
        })
        .map_err(|failure| RestoreError::failed(partial, failure))?;
        durable_file::write_at(file, &digest, rewritten.new_bytes).map_err(failed())?;
        durable_file::sync(file).map_err(failed())?;
        durable_file::rename(partial, &out)
            .and_then(|()| durable_file::sync_dir(dir))
            .map_err(RestoreError::io("publish", &out))?;
        Ok(RaisedSnapshot {
            snapshot: out.clone(),
            revision,
            proof,
            size_bytes: rewritten.new_bytes + digest.len() as u64,
        })
    };
    match made() {
        Ok(made) => Ok((made, target)),
        Err(error) => {
            let _ = durable_file::remove_file(partial);
            Err(error)
        }
    }
}
