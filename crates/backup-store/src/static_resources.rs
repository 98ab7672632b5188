//! The archive of a node's control-plane files: manifests, certificates, keys, encryption configuration.
//! A snapshot alone does not bring a cluster back.

use flate2::Compression;
use flate2::write::GzEncoder;
use std::fs::{File, Metadata};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// What came of an archive.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Archived {
    /// Files, directories and links in it.
    pub entries: u64,
    /// What could not be taken, and why.
    pub warnings: Vec<String>,
}

/// Writes a gzipped tar of `dirs`, which are below `root`, with paths relative to it, owners, modes, and
/// links as links, in the order of their names.
///
/// A file that goes away meanwhile is left out, and told.
///
/// # Errors
/// Why the archive can't be written, or a directory can't be read.
pub fn archive(root: &Path, dirs: &[PathBuf], out: impl Write) -> io::Result<Archived> {
    let mut archived = Archived::default();
    let mut tar = tar::Builder::new(GzEncoder::new(out, Compression::default()));
    tar.mode(tar::HeaderMode::Complete);
    tar.follow_symlinks(false);
    // What is still to be added, the next one last.
    let mut waiting: Vec<PathBuf> = dirs.iter().rev().cloned().collect();
    while let Some(path) = waiting.pop() {
        let Some(metadata) = there(&path, std::fs::symlink_metadata(&path), &mut archived)? else {
            continue;
        };
        let name = path.strip_prefix(root).unwrap_or(&path).to_path_buf();
        if metadata.is_dir() {
            tar.append_dir(&name, &path)?;
            let mut below: Vec<_> = std::fs::read_dir(&path)?
                .map(|entry| entry.map(|entry| entry.path()))
                .collect::<io::Result<_>>()?;
            below.sort_by(|left, right| right.cmp(left));
            waiting.extend(below);
        } else if metadata.is_symlink() {
            let Some(target) = there(&path, std::fs::read_link(&path), &mut archived)? else {
                continue;
            };
            let mut header = header_of(&metadata);
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            tar.append_link(&mut header, &name, target)?;
        } else if metadata.is_file() {
            let Some(file) = there(&path, File::open(&path), &mut archived)? else {
                continue;
            };
            let mut header = header_of(&metadata);
            header.set_size(metadata.len());
            // A file that grows or shrinks meanwhile keeps the length that the header says.
            let padded = file
                .take(metadata.len())
                .chain(io::repeat(0))
                .take(metadata.len());
            tar.append_data(&mut header, &name, padded)?;
        } else {
            continue;
        }
        archived.entries += 1;
    }
    tar.into_inner()?.finish()?.flush()?;
    Ok(archived)
}

fn header_of(metadata: &Metadata) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_metadata_in_mode(metadata, tar::HeaderMode::Complete);
    header
}

/// The result, or nothing where a file is gone.
fn there<T>(path: &Path, result: io::Result<T>, archived: &mut Archived) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let path = path.display();
            archived
                .warnings
                .push(format!("{path} went away while it was archived"));
            Ok(None)
        }
        Err(error) => Err(io::Error::new(
            error.kind(),
            format!("{}: {error}", path.display()),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_went_away_is_left_out_and_told_and_the_order_is_that_of_the_names() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b", "a", "c/e", "c/d"] {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, name).unwrap();
        }
        let names = ["gone", "c", "a", "b"].map(|name| dir.path().join(name));
        let mut bytes = Vec::new();
        let archived = archive(dir.path(), &names, &mut bytes).unwrap();
        assert_eq!(archived.warnings.len(), 1);
        assert!(archived.warnings[0].contains("gone went away"));
        let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(bytes.as_slice()));
        let found: Vec<_> = tar
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect();
        assert_eq!(found, ["c", "c/d", "c/e", "a", "b"]);
        assert_eq!(archived.entries, 5);
        let mut again = Vec::new();
        archive(dir.path(), &names, &mut again).unwrap();
        assert_eq!(bytes, again);
    }
}
