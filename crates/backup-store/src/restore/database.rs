//! Changing the database that was put in its place.

use super::error::RestoreError;
use super::facts::read_facts;
use super::source::Source;
use crate::durable_file;
use crate::local_file::LocalFile;
use etcd_file::Part;
use etcd_file::bolt::{Bolt, Rewrite, Rewritten};
use etcd_file::new_cluster::{Changes, Facts, change};
use std::fs::File;
use std::path::Path;

/// The pages that must differ in a copy of a source. What was decided must be about the data that is there: `facts`.
///
/// # Errors
/// The data can't be changed, or is not what it was.
pub(super) fn changed(
    source: &Source,
    copied: &LocalFile,
    facts: &Facts,
    changes: &Changes,
) -> Result<Rewritten, RestoreError> {
    let data = Part::first(copied, source.data_bytes);
    if read_facts(&data, &source.path)? != *facts {
        return Err(RestoreError::Changed {
            path: source.path.clone(),
        });
    }
    let damaged = |error: &dyn ToString| RestoreError::damaged(&source.path, error.to_string());
    let bolt = Bolt::open(&data).map_err(|error| damaged(&error))?;
    let mut rewrite = Rewrite::of(&bolt).map_err(|error| damaged(&error))?;
    change(&mut rewrite, changes).map_err(|error| damaged(&error))?;
    rewrite.finish().map_err(|error| damaged(&error))
}

/// Writes them: first the pages, then the metas that lead to them.
pub(super) fn write(file: &File, path: &Path, rewritten: &Rewritten) -> Result<(), RestoreError> {
    durable_file::set_len(file, rewritten.old_bytes)
        .and_then(|()| durable_file::write_at(file, &rewritten.pages, rewritten.old_bytes))
        .and_then(|()| durable_file::sync(file))
        .and_then(|()| durable_file::write_at(file, &rewritten.metas, 0))
        .and_then(|()| durable_file::sync(file))
        .map_err(RestoreError::io("write", path))
}
