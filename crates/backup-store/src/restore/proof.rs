//! Whether a file has the data of a source, and whether that is a whole database.

use super::error::RestoreError;
use super::plan::Plan;
use super::source::Source;
use crate::blocks::{self, NotCompared};
use crate::progress::Monitor;
use crate::scratch_file;
use backup_plan::hex::hex;
use etcd_file::check::{Origin, check};
use etcd_file::finding::Severity;
use etcd_file::{Failure, Part, ReadAt, snapshot_file};
use serde::Serialize;
use std::ops::ControlFlow;
use std::path::Path;

/// How the data was proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Proof {
    /// By the hash of each block in the backup. Its pages and records were checked when it was made.
    Blocks,
    /// By the SHA-256 at its end, and a check of all pages and records.
    Sha256,
    /// By a check of all pages and records alone: there is no SHA-256, or it was not to be compared.
    Content,
}

impl Proof {
    /// For people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Proof::Blocks => "the hashes of all its blocks",
            Proof::Sha256 => "its SHA-256, and all its pages and records",
            Proof::Content => "all its pages and records, without a SHA-256",
        }
    }
}

/// Proves the source itself, for a plan. The restore proves what it has put in its place.
///
/// # Errors
/// The first problem.
pub fn prove_source(plan: &Plan, monitor: &dyn Monitor) -> Result<Proof, RestoreError> {
    let source = &plan.source;
    let skip = plan.order.skip_hash_check;
    prove(source, &source.file, skip, &std::env::temp_dir(), monitor)
}

/// Proves that `file`, which is at least as long, has the data of `source`, and that a member can start from it.
///
/// # Errors
/// The first problem.
pub(super) fn prove(
    source: &Source,
    file: &(dyn ReadAt + Sync),
    skip_hash_check: bool,
    scratch_dir: &Path,
    monitor: &dyn Monitor,
) -> Result<Proof, RestoreError> {
    if let Some(hashes) = source.hashes.as_deref().filter(|_| !skip_hash_check) {
        let hashes = blocks::Hashes::parse(hashes)
            .map_err(|problem| RestoreError::damaged(&source.path, problem))?;
        monitor.step("blocks", hashes.total_bytes());
        let found = blocks::first_difference(file, &hashes, &mut |bytes| monitor.advance(bytes))
            .map_err(|error| match error {
                NotCompared::Stopped => RestoreError::Stopped,
                NotCompared::Read {
                    offset_bytes,
                    error,
                } => RestoreError::failed(
                    &source.path,
                    Failure::Read {
                        offset_bytes,
                        source: error,
                    },
                ),
            })?;
        return match found {
            None => Ok(Proof::Blocks),
            Some(place) => Err(RestoreError::damaged(
                &source.path,
                format!(
                    "it differs from what was written at offsets {} to {}",
                    place.start, place.end
                ),
            )),
        };
    }
    let has_trailer = source.trailer.is_some();
    if has_trailer && !skip_hash_check {
        monitor.step("trailer", source.data_bytes);
        let digests =
            snapshot_file::digests(file, source.data_bytes, &mut |bytes| monitor.advance(bytes))
                .map_err(|failure| RestoreError::failed(&source.path, failure))?;
        if digests.stored != digests.computed {
            return Err(RestoreError::damaged(
                &source.path,
                format!(
                    "its SHA-256 is {}, expected {}",
                    hex(&digests.computed),
                    hex(&digests.stored)
                ),
            ));
        }
    }
    check_database(source, file, scratch_dir, monitor)?;
    match has_trailer && !skip_hash_check {
        true => Ok(Proof::Sha256),
        false => Ok(Proof::Content),
    }
}

fn check_database(
    source: &Source,
    file: &dyn ReadAt,
    scratch_dir: &Path,
    monitor: &dyn Monitor,
) -> Result<(), RestoreError> {
    let data = Part::first(file, source.data_bytes);
    let origin = match source.trailer {
        Some(_) => Origin::Snapshot,
        None => Origin::Database,
    };
    monitor.step("content", source.data_bytes);
    let scratch = || scratch_file::create_beside(scratch_dir);
    let checked = check(&data, origin, &scratch, &mut |bytes| -> ControlFlow<()> {
        monitor.advance(bytes)
    })
    .map_err(|failure| RestoreError::failed(&source.path, failure))?;
    let first = checked
        .structure
        .of(Severity::Error)
        .chain(checked.content.of(Severity::Error))
        .next();
    match first {
        Some(first) => Err(RestoreError::damaged(&source.path, first)),
        None => Ok(()),
    }
}
