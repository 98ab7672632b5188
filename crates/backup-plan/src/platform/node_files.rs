//! Reads the files of a node.

use serde::{Deserialize, Deserializer};
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

    /// The path of the regular file that a path leads to, without links, `.` and `..`; none if there is no regular file.
    fn real_file(&self, path: &str) -> Option<String>;

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

/// A missing value, or none as Kubernetes accepts it: a key with nothing after it.
pub(crate) fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// The directory that a path is in.
pub(super) fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// A path without empty parts, `.` and `..`, if no part of it is a link.
pub(super) fn plain(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}
