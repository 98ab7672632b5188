//! Everything about a database file in one pass: its structure, its content, its numbers.

use crate::bolt::{self, Bolt, Meta, OpenError};
use crate::finding::{Finding, Findings};
use crate::mvcc::{Content, Summary};
use crate::{Failure, Progress, ReadAhead, ReadAt, ScratchSource};

/// Where a file comes from. This decides how strictly its two meta pages are checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The data of a snapshot with a trailer: the server wrote both meta pages for the snapshot, so both must be valid.
    Snapshot,
    /// A member's own file, or a copy of it: after a crash one meta page may be partly written.
    Database,
}

const MAX_TXID: u64 = 1 << 62;

/// The result of a check.
#[derive(Debug, Clone)]
pub struct Checked {
    /// The valid meta with the higher transaction id. `None` if the file has no valid meta, or is truncated.
    pub meta: Option<Meta>,
    /// High-water mark × page size, in bytes. `None` like `meta`.
    pub logical_bytes: Option<u64>,
    /// Number of pages that the trees use, including overflow pages.
    pub tree_pages: u64,
    /// Problems of the pages.
    pub structure: Findings,
    /// Problems of the content. Not reliable if the structure has errors.
    pub content: Findings,
    /// The numbers of the content. `None` if the structure has errors.
    pub summary: Option<Summary>,
}

/// Checks structure and content of a database, or of a snapshot without its trailer.
///
/// Uses at most about 16 MiB of memory for any file; more data goes to `scratch`.
///
/// # Errors
/// Why the check could not be completed. Damage is not an error but a finding.
pub fn check(
    file: &dyn ReadAt,
    origin: Origin,
    scratch: &dyn ScratchSource,
    progress: Progress<'_>,
) -> Result<Checked, Failure> {
    let mut checked = Checked {
        meta: None,
        logical_bytes: None,
        tree_pages: 0,
        structure: Findings::default(),
        content: Findings::default(),
        summary: None,
    };
    let file = ReadAhead::of(file).map_err(Failure::read(0))?;
    let bolt = match Bolt::open(&file) {
        Ok(bolt) => bolt,
        Err(OpenError::Failed(failure)) => return Err(failure),
        Err(error) => {
            checked.structure.push(Finding::error(error));
            return Ok(checked);
        }
    };
    checked.meta = Some(bolt.meta);
    checked.logical_bytes = Some(bolt.logical_bytes());
    judge_metas(&bolt, origin, &mut checked.structure);

    let mut content = Content::new(scratch);
    let report = bolt::check(&bolt, &mut content, &mut checked.structure, progress)?;
    checked.tree_pages = report.tree_pages;
    let (summary, findings) = content.finish(&bolt)?;
    checked.content = findings;
    checked.summary = (checked.structure.errors() == 0).then_some(summary);
    Ok(checked)
}

fn judge_metas(bolt: &Bolt<'_>, origin: Origin, findings: &mut Findings) {
    for (page, meta) in (0..).zip(bolt.metas) {
        let Err(problem) = meta else { continue };
        let offset_bytes = bolt.offset_of(page);
        let finding = Finding::error(format!(
            "this meta page is not valid: {problem}; the tree of the other meta page, of transaction {}, was checked",
            bolt.meta.txid
        ))
        .on_page(page, offset_bytes);
        findings.push(match origin {
            Origin::Snapshot => finding,
            Origin::Database => finding.as_warning(),
        });
    }
    // After the largest possible id comes 0, and then bbolt frees pages that are in use.
    if bolt.meta.txid > MAX_TXID {
        findings.push(Finding::error(format!(
            "the transaction id {} is too high for a real database",
            bolt.meta.txid
        )));
    }
    let extra_bytes = bolt.size_bytes.saturating_sub(bolt.logical_bytes());
    if origin == Origin::Snapshot && extra_bytes > 0 {
        let finding = Finding::error(format!(
            "{extra_bytes} bytes after the high-water mark {}; etcd ignores them",
            bolt.meta.high_water_mark
        ));
        findings.push(finding.as_warning().at_offset(bolt.logical_bytes()));
    }
}
