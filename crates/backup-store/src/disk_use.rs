//! The disk space that removing backups frees.
//!
//! Files can share space: copies that are reflinks, and clones of the member's own database. A file's number of blocks counts
//! shared space fully. So the physical ranges of all files of a repository are compared (FIEMAP), and only what no other file
//! holds counts as freed. FIEMAP marks a range as shared, but does not say with whom: a marked range that only one file of the
//! repository holds is shared with a file elsewhere.

use crate::repository::{Entry, Repository};
use fiemap::FiemapExtentFlags;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::path::Path;

/// The parts of the disk that the entries of a repository use.
#[derive(Debug, Default)]
pub(crate) struct DiskUse {
    ranges: Vec<Range>,
    /// Space of files whose ranges the filesystem does not report, by name of the entry.
    without_ranges: BTreeMap<String, u64>,
}

#[derive(Debug)]
struct Range {
    entry: String,
    start: u64,
    end: u64,
    is_shared: bool,
}

impl DiskUse {
    /// Reads the ranges of all files.
    ///
    /// `progress` is called for each entry, so that a slow disk is not taken for one that hangs.
    pub(crate) fn of(repository: &Repository, entries: &[Entry], progress: &dyn Fn()) -> DiskUse {
        let mut disk_use = DiskUse::default();
        for entry in entries {
            progress();
            let dir = repository.root().join(&entry.name);
            if disk_use.add(&entry.name, &dir).is_err() {
                disk_use.ranges.retain(|range| range.entry != entry.name);
                disk_use
                    .without_ranges
                    .insert(entry.name.clone(), entry.disk_bytes);
            }
        }
        disk_use
    }

    fn add(&mut self, entry: &str, dir: &Path) -> io::Result<()> {
        for file in std::fs::read_dir(dir)? {
            let path = file?.path();
            if !path.symlink_metadata()?.is_file() {
                continue;
            }
            for extent in fiemap::Fiemap::new(File::open(&path)?) {
                let extent = extent?;
                // Such data has no place of its own: it is stored in metadata, or not written yet.
                let without_place = FiemapExtentFlags::UNKNOWN
                    | FiemapExtentFlags::DATA_INLINE
                    | FiemapExtentFlags::DELALLOC;
                if extent.fe_flags.intersects(without_place) {
                    continue;
                }
                self.ranges.push(Range {
                    entry: entry.into(),
                    start: extent.fe_physical,
                    end: extent.fe_physical.saturating_add(extent.fe_length),
                    is_shared: extent.fe_flags.contains(FiemapExtentFlags::SHARED),
                });
            }
        }
        Ok(())
    }

    /// Bytes that become free when all these entries are removed.
    pub(crate) fn freed_by(&self, removed: &BTreeSet<&str>) -> u64 {
        // The number of holders changes at each offset where a range starts or ends.
        let mut changes: BTreeMap<u64, Holders> = BTreeMap::new();
        for range in &self.ranges {
            let is_removed = removed.contains(range.entry.as_str());
            changes
                .entry(range.start)
                .or_default()
                .add(range, is_removed, 1);
            changes
                .entry(range.end)
                .or_default()
                .add(range, is_removed, -1);
        }
        let sizes = self.without_ranges.iter();
        let mut freed_bytes: u64 = sizes
            .filter(|(entry, _)| removed.contains(entry.as_str()))
            .map(|(_, bytes)| bytes)
            .sum();
        let mut holders = Holders::default();
        let mut since = 0;
        for (offset, change) in changes {
            if holders.all_removed() {
                freed_bytes = freed_bytes.saturating_add(offset - since);
            }
            holders.removed += change.removed;
            holders.kept += change.kept;
            holders.shared += change.shared;
            since = offset;
        }
        freed_bytes
    }
}

#[derive(Debug, Default)]
struct Holders {
    removed: i64,
    kept: i64,
    shared: i64,
}

impl Holders {
    fn add(&mut self, range: &Range, is_removed: bool, count: i64) {
        if is_removed {
            self.removed += count;
        } else {
            self.kept += count;
        }
        self.shared += if range.is_shared { count } else { 0 };
    }

    fn all_removed(&self) -> bool {
        let shared_elsewhere = self.removed == 1 && self.shared > 0;
        self.removed > 0 && self.kept == 0 && !shared_elsewhere
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn freed(ranges: &[(&str, u64, u64, bool)], removed: &[&str]) -> u64 {
        let ranges = ranges.iter().map(|(entry, start, end, is_shared)| Range {
            entry: (*entry).into(),
            start: *start,
            end: *end,
            is_shared: *is_shared,
        });
        let disk_use = DiskUse {
            ranges: ranges.collect(),
            without_ranges: BTreeMap::from([("t".into(), 7)]),
        };
        disk_use.freed_by(&removed.iter().copied().collect())
    }

    #[test]
    fn only_space_that_no_other_file_holds_is_freed() {
        let ranges = [("a", 0, 100, false), ("b", 200, 260, false)];
        assert_eq!(freed(&ranges, &["a"]), 100);
        assert_eq!(freed(&ranges, &["a", "b"]), 160);
        assert_eq!(freed(&ranges, &["t"]), 7);
        // Both hold 50 to 100.
        let ranges = [
            ("a", 0, 50, false),
            ("a", 50, 100, true),
            ("b", 50, 100, true),
        ];
        assert_eq!(freed(&ranges, &["a"]), 50);
        assert_eq!(freed(&ranges, &["b"]), 0);
        assert_eq!(freed(&ranges, &["a", "b"]), 100);
        // The other holder is not in the repository.
        assert_eq!(freed(&[("a", 0, 50, true)], &["a"]), 0);
    }
}
