//! Changing the database that was put in its place.

use super::error::RestoreError;
use crate::durable_file;
use etcd_file::bolt::Rewritten;
use std::fs::File;
use std::path::Path;

/// Writes them: first the pages, then the metas that lead to them.
pub(super) fn write(file: &File, path: &Path, rewritten: &Rewritten) -> Result<(), RestoreError> {
    durable_file::set_len(file, rewritten.old_bytes)
        .and_then(|()| durable_file::write_at(file, &rewritten.pages, rewritten.old_bytes))
        .and_then(|()| durable_file::sync(file))
        .and_then(|()| durable_file::write_at(file, &rewritten.metas, 0))
        .and_then(|()| durable_file::sync(file))
        .map_err(RestoreError::io("write", path))
}
