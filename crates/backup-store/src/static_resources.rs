//! The archive of a node's control-plane files: manifests, certificates, keys, encryption configuration.
//! A snapshot alone is not enough to restore a cluster.

use crate::local_file::{LocalFile, read_small};
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use std::collections::BTreeMap;
use std::fs::Metadata;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// Manifests, certificates and keys are small. A larger file is there by mistake.
const MAX_FILE_BYTES: u64 = 8 << 20;
const MAX_TOTAL_BYTES: u64 = 128 << 20;
const MAX_ENTRIES: u64 = 100_000;
/// How many missing files are listed.
const NAMED: usize = 20;
/// A directory directly below an archived one that is left out: kubeadm keeps copies of etcd's data in it.
const LEFT_OUT: &str = "tmp";

/// The result of writing an archive.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Archived {
    /// Number of files, directories and links in the archive.
    pub entries: u64,
    /// Missing files that need no attention, such as a file that was removed in the meantime.
    pub warnings: Vec<String>,
    /// Missing files and why they are missing. The archive is complete if this is empty.
    pub lacks: Vec<String>,
    missing_files: usize,
    removed_files: usize,
    bytes: u64,
}

impl Archived {
    fn add_missing(&mut self, path: &Path, why: impl std::fmt::Display) {
        self.missing_files += 1;
        match self.missing_files {
            count if count <= NAMED => self.lacks.push(format!("{}: {why}", path.display())),
            count if count == NAMED + 1 => self.lacks.push("and more files".into()),
            _ => {}
        }
    }
}

/// Writes a gzipped tar of `dirs`, which are below `root`, sorted by name. Paths are relative to `root`; owners, modes and
/// links are kept. Files that cannot be read or are too large are left out and reported as missing.
///
/// `go_on` is called before each entry. If it returns an error, the archive ends there and stays readable.
///
/// # Errors
/// The archive cannot be written.
pub fn archive(
    root: &Path,
    dirs: &[PathBuf],
    out: impl Write,
    go_on: &mut dyn FnMut() -> Result<(), String>,
) -> io::Result<Archived> {
    let mut archived = Archived::default();
    let mut tar = tar::Builder::new(GzEncoder::new(out, Compression::default()));
    tar.mode(tar::HeaderMode::Complete);
    tar.follow_symlinks(false);
    // What is still to be added, the next one last.
    let mut waiting: Vec<PathBuf> = dirs.iter().rev().cloned().collect();
    while let Some(path) = waiting.pop() {
        let allowed = go_on().and_then(|()| {
            if archived.entries < MAX_ENTRIES {
                Ok(())
            } else {
                Err(format!("there are more than {MAX_ENTRIES} files"))
            }
        });
        if let Err(why) = allowed {
            archived.add_missing(
                &path,
                format!("{why}; this file and all files after it are missing"),
            );
            break;
        }
        let Some(metadata) = noted(&path, std::fs::symlink_metadata(&path), &mut archived) else {
            continue;
        };
        let name = path.strip_prefix(root).unwrap_or(&path).to_path_buf();
        if metadata.is_dir() {
            let below = std::fs::read_dir(&path).and_then(|entries| {
                entries
                    .map(|entry| entry.map(|entry| entry.path()))
                    .collect::<io::Result<Vec<_>>>()
            });
            let Some(mut below) = noted(&path, below, &mut archived) else {
                continue;
            };
            let is_given = dirs.contains(&path);
            below.retain(|path| !(is_given && path.ends_with(LEFT_OUT)));
            below.sort_by(|left, right| right.cmp(left));
            waiting.extend(below);
            let mut header = header_of(&metadata);
            header.set_entry_type(tar::EntryType::Directory);
            header.set_size(0);
            tar.append_data(&mut header, &name, io::empty())?;
        } else if metadata.is_symlink() {
            let Some(target) = noted(&path, std::fs::read_link(&path), &mut archived) else {
                continue;
            };
            let place = place_of(root, &path, &target);
            if !dirs.iter().any(|dir| place.starts_with(dir)) {
                let target = target.display();
                archived.add_missing(
                    &path,
                    format!("a link to {target}, which is not in the archive"),
                );
            }
            let mut header = header_of(&metadata);
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            tar.append_link(&mut header, &name, target)?;
        } else if metadata.is_file() {
            let left_bytes = MAX_TOTAL_BYTES.saturating_sub(archived.bytes);
            let content = read_small(&path, MAX_FILE_BYTES.min(left_bytes));
            let Some(content) = noted(&path, content, &mut archived) else {
                continue;
            };
            archived.bytes += content.len() as u64;
            let mut header = header_of(&metadata);
            header.set_size(content.len() as u64);
            tar.append_data(&mut header, &name, content.as_slice())?;
        } else {
            continue;
        }
        archived.entries += 1;
    }
    tar.into_inner()?.finish()?.flush()?;
    Ok(archived)
}

/// Reads some files of an archive, by their paths in it. Files that are not in it, or are larger than an archive has them, are left out.
///
/// # Errors
/// The archive cannot be read.
pub fn read_archive(archive: &Path, wanted: &[&str]) -> io::Result<BTreeMap<String, Vec<u8>>> {
    let file = LocalFile::open(archive).map_err(io::Error::other)?;
    let bytes = io::BufReader::new(file.into_file());
    // A small file can unpack to any size.
    let unpacked = GzDecoder::new(bytes).take(MAX_TOTAL_BYTES + MAX_ENTRIES * 1024);
    let mut found = BTreeMap::new();
    for entry in tar::Archive::new(unpacked).entries()? {
        let mut entry = entry?;
        let name = entry.path()?.to_string_lossy().into_owned();
        if wanted.contains(&name.as_str()) && entry.size() <= MAX_FILE_BYTES {
            let mut content = Vec::new();
            entry.read_to_end(&mut content)?;
            found.insert(name, content);
        }
    }
    Ok(found)
}

/// The target of a link, without following other links. An absolute target is below `root`, as on the node.
fn place_of(root: &Path, link: &Path, target: &Path) -> PathBuf {
    let mut place = match target.strip_prefix("/") {
        Ok(_) => root.to_path_buf(),
        Err(_) => link.parent().unwrap_or(root).to_path_buf(),
    };
    for part in target.components() {
        match part {
            Component::ParentDir => drop(place.pop()),
            Component::Normal(name) => place.push(name),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    place
}

fn header_of(metadata: &Metadata) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_metadata_in_mode(metadata, tar::HeaderMode::Complete);
    // The tar format has no times before 1970.
    header.set_mtime(metadata.mtime().try_into().unwrap_or_default());
    header
}

/// The value. If a file was removed or cannot be read, notes this in `archived` and returns `None`.
fn noted<T>(path: &Path, result: io::Result<T>, archived: &mut Archived) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            archived.removed_files += 1;
            match archived.removed_files {
                count if count <= NAMED => archived.warnings.push(format!(
                    "{} was removed while the archive was written",
                    path.display()
                )),
                // A few files may be replaced at any time. More than that means that a directory was removed.
                count if count == NAMED + 1 => {
                    archived.add_missing(
                        path,
                        "this and more files were removed while the archive was written",
                    );
                }
                _ => {}
            }
            None
        }
        Err(error) => {
            archived.add_missing(path, error);
            None
        }
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
        let archived = archive(dir.path(), &names, &mut bytes, &mut || Ok(())).unwrap();
        assert_eq!(archived.warnings.len(), 1);
        assert!(archived.warnings[0].contains("gone was removed"));
        let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(bytes.as_slice()));
        let found: Vec<_> = tar
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect();
        assert_eq!(found, ["c", "c/d", "c/e", "a", "b"]);
        let file = dir.path().join("archive");
        std::fs::write(&file, &bytes).unwrap();
        let read = read_archive(&file, &["c/d", "gone"]).unwrap();
        assert_eq!(
            read.into_iter().collect::<Vec<_>>(),
            [("c/d".into(), b"c/d".to_vec())]
        );
        std::fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
        assert!(read_archive(&file, &["b"]).is_err());
        assert_eq!(archived.entries, 5);
        let mut again = Vec::new();
        archive(dir.path(), &names, &mut again, &mut || Ok(())).unwrap();
        assert_eq!(bytes, again);
    }

    fn names_in(archive: &[u8]) -> Vec<String> {
        tar::Archive::new(flate2::read::GzDecoder::new(archive))
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect()
    }

    #[test]
    fn what_is_too_large_or_no_file_costs_nothing_but_itself_and_copies_of_data_are_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("kubernetes");
        for name in ["tmp/etcd/db", "pki/ca.key", "pki/tmp/kept", "z.yaml"] {
            let path = config.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, name).unwrap();
        }
        let large = std::fs::File::create(config.join("snapshot.db")).unwrap();
        large.set_len(MAX_FILE_BYTES + 1).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            config.join("pipe"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .unwrap();
        let mut bytes = Vec::new();
        let dirs = [config];
        let archived = archive(dir.path(), &dirs, &mut bytes, &mut || Ok(())).unwrap();
        let files: Vec<_> = names_in(&bytes)
            .into_iter()
            .filter(|name| dir.path().join(name).is_file())
            .collect();
        assert_eq!(
            files,
            [
                "kubernetes/pki/ca.key",
                "kubernetes/pki/tmp/kept",
                "kubernetes/z.yaml"
            ]
        );
        assert_eq!(archived.lacks.len(), 1, "{archived:?}");
        assert!(
            archived.lacks[0]
                .contains("snapshot.db: the file has 8388609 bytes, expected at most 8388608")
        );
    }

    #[test]
    fn an_archive_that_has_no_room_ends_readable_and_says_where() {
        let dir = tempfile::tempdir().unwrap();
        for number in 0..9 {
            std::fs::write(dir.path().join(format!("f{number}")), [7; 1000]).unwrap();
        }
        let mut left = 5;
        let mut go_on = || {
            left -= 1;
            if left > 0 {
                Ok(())
            } else {
                Err("not enough space".into())
            }
        };
        let mut bytes = Vec::new();
        let dirs = [dir.path().to_path_buf()];
        let archived =
            archive(dir.path().parent().unwrap(), &dirs, &mut bytes, &mut go_on).unwrap();
        assert_eq!(names_in(&bytes).len(), 4);
        assert_eq!(archived.lacks.len(), 1);
        assert!(
            archived.lacks[0].contains("f3: not enough space; this file and all files after it")
        );
    }
}
