//! The content of a snapshot, as it is written into the record.

use backup_plan::record::SnapshotRecord;
use etcd_file::mvcc::Summary;

pub(crate) fn snapshot_record(
    summary: &Summary,
    data_bytes: u64,
    file_bytes: u64,
) -> SnapshotRecord {
    let mut record = SnapshotRecord {
        revision: summary.revision,
        compact_revision: summary.compact_revision,
        consistent_index: summary.consistent_index,
        total_keys: summary.live_keys,
        records: summary.records,
        hash: format!("{:08x}", summary.status_hash),
        size_bytes: data_bytes,
        file_bytes: None,
        storage_version: summary.storage_version.clone(),
    };
    // The usual length is not recorded.
    if record.file_bytes() != Some(file_bytes) {
        record.file_bytes = Some(file_bytes);
    }
    record
}
