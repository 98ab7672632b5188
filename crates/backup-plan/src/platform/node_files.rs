//! Reads the files of a node.

use std::io;

/// The files of a node.
pub trait NodeFiles {
    /// The text of a file; none if the file does not exist.
    ///
    /// # Errors
    /// An existing file cannot be read.
    fn read(&self, path: &str) -> io::Result<Option<String>>;

    /// Whether there is a file or a directory.
    fn exists(&self, path: &str) -> bool;

    /// The sorted names in a directory; none if it does not exist.
    fn names(&self, path: &str) -> Vec<String>;
}

/// Says where a file is not valid, without its content: such files contain tokens, and this text goes to logs, events and
/// metrics.
pub(super) fn not_yaml(error: &serde_saphyr::Error) -> String {
    match error.location() {
        Some(location) => format!("line {} is not the expected YAML", location.line()),
        None => "the file is not the expected YAML".into(),
    }
}

/// The directory that a path is in.
pub(super) fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}
