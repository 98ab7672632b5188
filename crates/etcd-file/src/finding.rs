//! What a check found, and where.

use std::fmt;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Unusual, but etcd reads the file and loses nothing. It is reported, but the file is not refused.
    Warning,
    /// The file is damaged: it must not be used as a backup.
    Error,
}

/// A problem in a file, with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Whether the file is damaged, or only unusual.
    pub severity: Severity,
    /// The page of the problem. `None` if it does not belong to one page.
    pub page: Option<u64>,
    /// Offset in the file, in bytes. `None` if the problem has no place.
    pub offset_bytes: Option<u64>,
    /// The name of the bucket, shortened and made printable. `None` if the problem does not belong to one bucket.
    pub bucket: Option<String>,
    /// What was expected and what was found.
    pub problem: String,
}

impl Finding {
    /// An error that belongs to the whole file.
    pub fn error(problem: impl fmt::Display) -> Self {
        Finding {
            severity: Severity::Error,
            page: None,
            offset_bytes: None,
            bucket: None,
            problem: problem.to_string(),
        }
    }

    /// The same finding as a warning.
    #[must_use]
    pub fn as_warning(mut self) -> Self {
        self.severity = Severity::Warning;
        self
    }

    /// The same finding with its page and the page's offset.
    #[must_use]
    pub fn on_page(mut self, page: u64, offset_bytes: u64) -> Self {
        self.page = Some(page);
        self.offset_bytes = Some(offset_bytes);
        self
    }

    /// The same finding with its offset in the file.
    #[must_use]
    pub fn at_offset(mut self, offset_bytes: u64) -> Self {
        self.offset_bytes = Some(offset_bytes);
        self
    }

    /// The same finding with its bucket's name, shortened and made printable.
    #[must_use]
    pub fn in_bucket(mut self, name: &[u8]) -> Self {
        self.bucket = Some(printable(name));
        self
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        if let Some(page) = self.page {
            write!(f, "page {page}")?;
            separator = ", ";
        }
        if let Some(offset_bytes) = self.offset_bytes {
            write!(f, "{separator}offset {offset_bytes}")?;
            separator = ", ";
        }
        if let Some(bucket) = &self.bucket {
            write!(f, "{separator}bucket \"{bucket}\"")?;
            separator = ", ";
        }
        if !separator.is_empty() {
            f.write_str(": ")?;
        }
        f.write_str(&self.problem)
    }
}

/// A name from a file as text that can be shown: escaped, and not longer than a line.
#[must_use]
pub fn printable(name: &[u8]) -> String {
    const SHOWN_BYTES: usize = 48;
    let shown = name.get(..SHOWN_BYTES).unwrap_or(name);
    let mut text = shown.escape_ascii().to_string();
    if name.len() > SHOWN_BYTES {
        text.push('…');
    }
    text
}

/// Findings in the order in which they are found. All are counted, but only the first ones are kept.
#[derive(Debug, Clone, Default)]
pub struct Findings {
    kept: Vec<Finding>,
    errors: u64,
    warnings: u64,
}

impl Findings {
    /// How many findings of each severity are kept, so that a badly damaged file does not fill the memory.
    pub const KEPT: usize = 50;

    /// Counts a finding, and keeps it if it is among the first of its severity.
    pub fn push(&mut self, finding: Finding) {
        let count = match finding.severity {
            Severity::Error => &mut self.errors,
            Severity::Warning => &mut self.warnings,
        };
        *count += 1;
        if *count <= Self::KEPT as u64 {
            self.kept.push(finding);
        }
    }

    /// How many errors there were.
    #[must_use]
    pub fn errors(&self) -> u64 {
        self.errors
    }

    /// How many warnings there were.
    #[must_use]
    pub fn warnings(&self) -> u64 {
        self.warnings
    }

    /// The kept findings of one severity, in the order they were found.
    pub fn of(&self, severity: Severity) -> impl Iterator<Item = &Finding> {
        self.kept
            .iter()
            .filter(move |finding| finding.severity == severity)
    }
}
