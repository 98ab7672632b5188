//! The directories of a member: the old one is moved aside within the data directory, which is often a mount point, and a new one is put
//! in its place.

use super::error::NodeError;
use crate::durable_file;
use crate::restore::RECORD;
use backup_plan::restore::journal::OWN_PREFIX;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const MEMBER: &str = "member";

/// The directories of the member of a node.
#[derive(Debug, Clone)]
pub struct MemberDirs {
    data_dir: PathBuf,
    wal_dir: Option<PathBuf>,
    own: String,
}

impl MemberDirs {
    /// `own` is the name of the directory for what is moved and made, in the data directory, and in that of the log.
    #[must_use]
    pub fn new(data_dir: &Path, wal_dir: Option<&Path>, own: &str) -> Self {
        MemberDirs {
            data_dir: data_dir.into(),
            wal_dir: wal_dir.map(Path::to_path_buf),
            own: own.into(),
        }
    }

    /// The data directory of the old member, once it is aside.
    #[must_use]
    pub fn old_data_dir(&self) -> PathBuf {
        self.data_dir.join(&self.own).join("old")
    }

    /// The directory of the log of the old member, if it is not in its data directory.
    #[must_use]
    pub fn old_wal_dir(&self) -> Option<PathBuf> {
        Some(self.wal_dir.as_ref()?.join(&self.own).join("old"))
    }

    /// Where the new member is made.
    #[must_use]
    pub fn new_data_dir(&self) -> PathBuf {
        self.data_dir.join(&self.own).join("new")
    }

    /// Where the log of the new member is made, if it is not in its data directory.
    #[must_use]
    pub fn new_wal_dir(&self) -> Option<PathBuf> {
        Some(self.wal_dir.as_ref()?.join(&self.own).join("new"))
    }

    /// Whether the new member is complete, and not in its place.
    #[must_use]
    pub fn is_built(&self) -> bool {
        exists(&self.new_data_dir().join(MEMBER))
    }

    /// Where a copy of the old member is for a replay of its log.
    #[must_use]
    pub fn replay_dir(&self) -> PathBuf {
        self.data_dir.join(&self.own).join("replay")
    }

    /// Where the program of the node's own etcd is kept.
    #[must_use]
    pub fn etcd_program(&self) -> PathBuf {
        self.data_dir.join(&self.own).join("etcd")
    }

    /// Whether there is an old member aside.
    #[must_use]
    pub fn has_old(&self) -> bool {
        exists(&self.old_data_dir().join(MEMBER))
    }

    /// Whether a member is in its place.
    #[must_use]
    pub fn has_member(&self) -> bool {
        exists(&self.data_dir.join(MEMBER))
    }

    /// Gives the new member to the owner of the data directory, who is the user of etcd.
    ///
    /// # Errors
    /// The error of the operating system.
    pub fn give_new_to_owner(&self) -> Result<(), NodeError> {
        let pairs = [
            (Some(self.data_dir.clone()), Some(self.new_data_dir())),
            (self.wal_dir.clone(), self.new_wal_dir()),
        ];
        for (like, dir) in pairs {
            let (Some(like), Some(dir)) = (like, dir) else {
                continue;
            };
            let owner = std::fs::metadata(&like).map_err(NodeError::io("read", &like))?;
            let own = std::fs::metadata(&dir).map_err(NodeError::io("read", &dir))?;
            if (owner.uid(), owner.gid()) != (own.uid(), own.gid()) {
                durable_file::give_to(&dir, owner.uid(), owner.gid())
                    .map_err(NodeError::io("change the owner of", &dir))?;
            }
        }
        Ok(())
    }

    /// Moves the member aside, if there is one. Does nothing if it is aside.
    ///
    /// # Errors
    /// There is one in both places, or the operating system failed.
    pub fn move_aside(&self) -> Result<(), NodeError> {
        let (member, aside) = (self.data_dir.join(MEMBER), self.old_data_dir().join(MEMBER));
        if exists(&member) && exists(&aside) {
            return Err(NodeError::Both {
                one: member,
                other: aside,
            });
        }
        if let (Some(wal_dir), Some(old)) = (&self.wal_dir, self.old_wal_dir()) {
            self.move_log(wal_dir, &old)?;
        }
        if exists(&member) {
            create_dir(&self.old_data_dir())?;
            rename(&member, &aside)?;
        }
        Ok(())
    }

    /// Puts the new member in its place. Does nothing if it is there.
    ///
    /// # Errors
    /// There is another one, there is no new one, or the operating system failed.
    pub fn place(&self) -> Result<(), NodeError> {
        let new = self.new_data_dir().join(MEMBER);
        let member = self.data_dir.join(MEMBER);
        match (exists(&new), exists(&member)) {
            (true, true) => {
                return Err(NodeError::Both {
                    one: new,
                    other: member,
                });
            }
            (false, true) if is_from_a_restore(&member) => {}
            (false, _) => return Err(NodeError::Gone { path: new }),
            (true, false) => rename(&new, &member)?,
        }
        // Last: a new log beside an old member would be taken for its own.
        match (self.new_wal_dir(), &self.wal_dir) {
            (Some(new), Some(wal_dir)) => self.move_log(&new, wal_dir),
            _ => Ok(()),
        }
    }

    /// Moves a member that an unfinished join left in its place out of the way. The old one stays aside.
    ///
    /// # Errors
    /// The operating system failed.
    pub fn abandon(&self) -> Result<(), NodeError> {
        let member = self.data_dir.join(MEMBER);
        if !exists(&member) {
            return Ok(());
        }
        let abandoned = self.data_dir.join(&self.own).join("abandoned");
        remove(&abandoned)?;
        if let Some(wal_dir) = &self.wal_dir {
            let place = wal_dir.join(&self.own).join("abandoned");
            remove(&place)?;
            self.move_log(wal_dir, &place)?;
        }
        create_dir(&abandoned)?;
        rename(&member, &abandoned.join(MEMBER))
    }

    /// Removes the new member. `may_be_placed` says that the old one is aside, so that what is in the place of the member can be the new
    /// one.
    ///
    /// # Errors
    /// The operating system failed.
    pub fn discard_new(&self, may_be_placed: bool) -> Result<(), NodeError> {
        let (made, member) = (self.new_data_dir(), self.data_dir.join(MEMBER));
        let new = made.join(MEMBER);
        let is_placed = may_be_placed && is_from_a_restore(&member) && !exists(&new);
        if is_placed && exists(&made) {
            if let (Some(wal_dir), Some(new_wal)) = (&self.wal_dir, self.new_wal_dir()) {
                self.move_log(wal_dir, &new_wal)?;
            }
            rename(&member, &new)?;
        }
        for made in [self.new_wal_dir(), Some(made)].into_iter().flatten() {
            remove(&made)?;
        }
        self.discard_replay()
    }

    /// Removes what a replay of the log has left.
    ///
    /// # Errors
    /// The operating system failed.
    pub fn discard_replay(&self) -> Result<(), NodeError> {
        remove(&self.replay_dir())
    }

    /// Moves the old member back to its place, and removes the new one. See [`MemberDirs::discard_new`].
    ///
    /// # Errors
    /// There is another member in its place, or the operating system failed.
    pub fn undo(&self, may_be_placed: bool) -> Result<(), NodeError> {
        self.discard_new(may_be_placed)?;
        let member = self.data_dir.join(MEMBER);
        let old = self.old_data_dir().join(MEMBER);
        if let (Some(wal_dir), Some(old_wal)) = (&self.wal_dir, self.old_wal_dir()) {
            self.move_log(&old_wal, wal_dir)?;
        }
        if exists(&old) {
            rename(&old, &member)?;
        }
        for own in [Some(&self.data_dir), self.wal_dir.as_ref()]
            .into_iter()
            .flatten()
        {
            let own = own.join(&self.own);
            // Nothing that anybody needs is in it any more.
            remove(&own)?;
        }
        Ok(())
    }

    /// Moves the files of a log. Directories of others, such as `lost+found`, stay.
    fn move_log(&self, from: &Path, to: &Path) -> Result<(), NodeError> {
        let entries = match std::fs::read_dir(from) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(NodeError::io("list", from))?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(NodeError::io("list", from))?;
            let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
            if is_file && !entry.file_name().to_string_lossy().starts_with(OWN_PREFIX) {
                names.push(entry.file_name());
            }
        }
        names.sort();
        if !names.is_empty() {
            create_dir(to)?;
        }
        for name in names {
            rename(&from.join(&name), &to.join(&name))?;
        }
        Ok(())
    }
}

/// Whether a restore left its record in this member.
fn is_from_a_restore(member: &Path) -> bool {
    exists(&member.join(RECORD))
}

fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// Removes what is there, if there is anything.
fn remove(path: &Path) -> Result<(), NodeError> {
    match exists(path) {
        true => durable_file::remove_dir(path).map_err(NodeError::io("remove", path)),
        false => Ok(()),
    }
}

fn create_dir(path: &Path) -> Result<(), NodeError> {
    durable_file::create_dir_all(path).map_err(NodeError::io("create", path))
}

fn rename(from: &Path, to: &Path) -> Result<(), NodeError> {
    if exists(to) {
        return Err(NodeError::Both {
            one: from.into(),
            other: to.into(),
        });
    }
    durable_file::move_to(from, to).map_err(NodeError::io("move", from))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn write(path: &Path, text: &str) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn files(dir: &Path) -> BTreeMap<PathBuf, String> {
        let mut found = BTreeMap::new();
        let mut waiting = vec![dir.to_path_buf()];
        while let Some(dir) = waiting.pop() {
            for entry in std::fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                match path.is_dir() {
                    true => waiting.push(path),
                    false => {
                        found.insert(path.clone(), std::fs::read_to_string(path).unwrap());
                    }
                }
            }
        }
        found
    }

    /// A data directory and that of a log, each with things of others.
    fn node(dir: &Path) -> (MemberDirs, [PathBuf; 2]) {
        let (data, wal) = (dir.join("etcd"), dir.join("wal"));
        write(&data.join("member/snap/db"), "old");
        write(&data.join("revision.json"), "of others");
        write(&wal.join("0-0.wal"), "old log");
        write(&wal.join("lost+found/x"), "of others");
        let dirs = MemberDirs::new(&data, Some(&wal), "lifeboat-1");
        write(&dirs.new_data_dir().join("member/snap/db"), "new");
        write(
            &dirs.new_data_dir().join("member").join(RECORD),
            "of the restore",
        );
        write(&dirs.new_wal_dir().unwrap().join("0-0.wal"), "new log");
        (dirs, [data, wal])
    }

    #[test]
    fn the_new_member_takes_the_place_of_the_old_one_and_what_others_have_stays() {
        let dir = tempfile::TempDir::new().unwrap();
        let (dirs, [data, wal]) = node(dir.path());
        assert!(dirs.is_built());
        for _ in 0..2 {
            dirs.move_aside().unwrap();
        }
        for _ in 0..2 {
            dirs.place().unwrap();
        }
        let found = files(dir.path());
        assert_eq!(found[&data.join("member/snap/db")], "new");
        assert_eq!(found[&wal.join("0-0.wal")], "new log");
        assert_eq!(found[&dirs.old_data_dir().join("member/snap/db")], "old");
        assert_eq!(
            found[&dirs.old_wal_dir().unwrap().join("0-0.wal")],
            "old log"
        );
        assert_eq!(found[&wal.join("lost+found/x")], "of others");
        assert_eq!(found.len(), 7);
    }

    #[test]
    fn everything_is_moved_back_after_each_step() {
        for steps in 0..4 {
            let dir = tempfile::TempDir::new().unwrap();
            let (dirs, [data, wal]) = node(dir.path());
            if steps == 0 {
                // Killed while it was built. The old one has the record of an earlier restore.
                let new = dirs.new_data_dir();
                std::fs::rename(new.join("member"), new.join("member.new")).unwrap();
                write(&data.join("member").join(RECORD), "earlier");
            }
            if steps > 1 {
                dirs.move_aside().unwrap();
            }
            if steps > 2 {
                dirs.place().unwrap();
            }
            for _ in 0..2 {
                dirs.undo(steps > 1).unwrap();
                let mut found = files(dir.path());
                assert_eq!(found[&data.join("member/snap/db")], "old", "{steps}");
                assert_eq!(found[&wal.join("0-0.wal")], "old log", "{steps}");
                found.remove(&data.join("member").join(RECORD));
                assert_eq!(found.len(), 4, "{steps}: {found:?}");
            }
        }
    }

    #[test]
    fn a_member_that_appeared_meanwhile_is_not_moved_over() {
        let dir = tempfile::TempDir::new().unwrap();
        let (dirs, [data, _]) = node(dir.path());
        dirs.move_aside().unwrap();
        write(&data.join("member/snap/db"), "started by somebody");
        for result in [dirs.move_aside(), dirs.place()] {
            let error = result.unwrap_err().to_string();
            assert!(error.contains("both exist"), "{error}");
        }
    }
}
