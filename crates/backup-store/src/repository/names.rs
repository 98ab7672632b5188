//! The names in a repository. `docs/repository.md` describes them.

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// The file of the record.
pub(crate) const RECORD_FILE: &str = "backup.json";
/// An empty file in the directory of a backup. It marks the backup as held.
pub(crate) const HOLD_FILE: &str = "hold";
pub(crate) const PARTIAL: &str = ".partial-";
pub(crate) const REMOVING: &str = ".removing-";
pub(crate) const LOCK_FILE: &str = ".lock";
/// The file that the server of a repository has locked.
pub(crate) const SEAT_FILE: &str = ".server";
/// The beginning of the name of a directory with the backups of another etcd of the node.
pub(crate) const OTHER_ETCD: &str = "etcd-";
const NAME_FORMAT: &str = "%Y-%m-%d_%H%M%S";

/// The name of a backup that was started at this time.
pub(crate) fn name_of(time: Timestamp) -> String {
    time.to_zoned(TimeZone::UTC)
        .strftime(NAME_FORMAT)
        .to_string()
}

/// The time in the name of a backup; `None` if this is not such a name.
pub(crate) fn time_of_name(name: &str) -> Option<Timestamp> {
    let time = jiff::civil::DateTime::strptime(NAME_FORMAT, name).ok()?;
    Some(time.to_zoned(TimeZone::UTC).ok()?.timestamp())
}

/// The file of a backup's snapshot.
pub(crate) fn snapshot_file(name: &str) -> String {
    format!("snapshot_{name}.db")
}

const ARCHIVE: &str = "static_kuberesources_";

/// The file of a backup's archive.
pub(crate) fn archive_file(name: &str) -> String {
    format!("{ARCHIVE}{name}.tar.gz")
}

/// Whether a file of a backup is its archive.
pub(crate) fn is_archive_file(name: &str) -> bool {
    name.starts_with(ARCHIVE)
}
