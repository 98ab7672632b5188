//! What a database says about itself.

use super::error::RestoreError;
use etcd_file::ReadAt;
use etcd_file::bolt::{Bolt, Rewrite};
use etcd_file::new_cluster::{Facts, facts};
use std::path::Path;

/// Reads what a database says about itself.
pub(super) fn read_facts(data: &dyn ReadAt, path: &Path) -> Result<Facts, RestoreError> {
    let bolt = Bolt::open(data).map_err(|error| RestoreError::damaged(path, error))?;
    let rewrite = Rewrite::of(&bolt).map_err(|error| RestoreError::damaged(path, error))?;
    facts(&rewrite).map_err(RestoreError::facts(path))
}
