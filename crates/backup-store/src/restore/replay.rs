//! The data of a member that lost its quorum: its database, and the entries of its log that are not in it.
//!
//! Only etcd itself knows what each entry does. So the node's own etcd replays them, in a copy of the data directory, and in a network of
//! its own, where nothing reaches it. Its result is only a source: it still has the ids of the old cluster.
//!
//! etcd takes entries only as far as its log says that a quorum had them. The log of a member can end behind what the cluster has confirmed
//! to clients, because a member hears of that later. So the copy says that all entries are agreed. Some of the last ones may never have been
//! confirmed to a client. This cannot be known.

use super::error::RestoreError;
use super::facts::read_facts;
use super::lock::{DB_FILE, SNAP_DIR};
use super::log_files::{LogFiles, WAL_DIR};
use crate::durable_file;
use crate::local_file::LocalFile;
use etcd_file::keyspace::changes_data;
use etcd_file::raft::{WalRecord, WalWriter, read_wal, removes};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// How long etcd has to replay a log. It has at most some 10,000 entries to apply.
const REPLAYS_WITHIN: Duration = Duration::from_secs(600);
const ENDS_WITHIN: Duration = Duration::from_secs(120);
/// What etcd logs when it has applied everything: one of these, by version.
const IS_READY: [&str; 2] = [
    "ready to serve client requests",
    "serving client traffic insecurely",
];
/// How much of etcd's log is shown if it fails.
const SHOWN_LINES: usize = 5;

/// A member that does not run, and what replays its log.
#[derive(Debug, Clone)]
pub struct Survivor {
    /// Its data directory.
    pub data_dir: PathBuf,
    /// The directory of its log, if it is not in the data directory.
    pub wal_dir: Option<PathBuf>,
    /// The program of its own version of etcd.
    pub etcd: PathBuf,
    /// Its quota, as the flag of etcd has it: entries beyond it were refused.
    pub quota_backend_bytes: Option<String>,
}

/// What a member has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survived {
    /// The database with everything in it.
    pub db: PathBuf,
    /// Entries of the log that were not in the database.
    pub replayed_entries: u64,
    /// Those of them that no quorum is known to have had.
    pub maybe_unconfirmed_entries: u64,
}

/// What a log says about its end.
#[derive(Debug, Default)]
struct Tail {
    member_id: u64,
    term: u64,
    vote: u64,
    commit: u64,
    last: u64,
    /// The last entry that the database reflects.
    reflected: u64,
    /// The entries after that one which change data.
    changes: Vec<u64>,
    /// The first entry after the known ones that removes the member itself.
    own_removal: Option<u64>,
}

impl Survivor {
    /// Collects everything that the member has, in a database. `scratch` is a directory that does not exist, on the same filesystem;
    /// it is only made if entries must be replayed.
    ///
    /// # Errors
    /// The member is damaged, or etcd does not replay its log.
    pub fn collect(&self, scratch: &Path) -> Result<Survived, RestoreError> {
        let db = self.data_dir.join(DB_FILE);
        let index = consistent_index(&db)?;
        let wal_dir = match &self.wal_dir {
            Some(dir) => dir.clone(),
            None => self.data_dir.join(WAL_DIR),
        };
        let log = LogFiles::open(&wal_dir)?;
        let mut tail = Tail {
            reflected: index,
            ..Tail::default()
        };
        let end = read_wal(&log.segments(), &mut |record| tail.take(record));
        let end = end.map_err(|error| RestoreError::damaged(&wal_dir, error))?;
        let last = tail.usable();
        let Some(last_change) = tail.last_change(last) else {
            return Ok(Survived {
                db,
                replayed_entries: 0,
                maybe_unconfirmed_entries: 0,
            });
        };
        let wal = scratch.join(WAL_DIR);
        copy_files(&self.data_dir.join(SNAP_DIR), &scratch.join(SNAP_DIR))?;
        let newest = copy_files(&wal_dir, &wal)?;
        let newest = newest.ok_or_else(|| RestoreError::NoLog {
            path: wal_dir.clone(),
        })?;
        let state = WalWriter::state_after(end.crc, tail.term, tail.vote, last);
        append_at(&newest, end.offset_bytes, &state)?;
        self.replay(scratch)?;
        let db = scratch.join(DB_FILE);
        let reached = consistent_index(&db)?;
        if reached < last_change {
            return Err(RestoreError::NotReplayed {
                problem: format!(
                    "etcd applied the entries up to {reached}, expected {last_change}"
                ),
            });
        }
        Ok(Survived {
            db,
            replayed_entries: last - index,
            maybe_unconfirmed_entries: last - index.max(tail.commit.min(last)),
        })
    }

    fn replay(&self, data_dir: &Path) -> Result<(), RestoreError> {
        let failed = |problem: String| RestoreError::NotReplayed { problem };
        // Without any network but its own, in which not even loopback is up.
        let mut command = Command::new("unshare");
        command.arg("--net").arg(&self.etcd);
        for flag in [
            "--name=replay",
            "--force-new-cluster",
            "--listen-client-urls=http://0.0.0.0:2379",
            "--advertise-client-urls=http://127.0.0.1:2379",
            "--listen-peer-urls=http://0.0.0.0:2380",
            "--logger=zap",
            "--log-outputs=stderr",
        ] {
            command.arg(flag);
        }
        command.arg(format!("--data-dir={}", data_dir.display()));
        if let Some(bytes) = &self.quota_backend_bytes {
            command.arg(format!("--quota-backend-bytes={bytes}"));
        }
        let child = command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let mut child =
            Running(child.map_err(|error| failed(format!("cannot start unshare: {error}")))?);
        let Some(log) = child.0.stderr.take() else {
            return Err(failed("etcd has no log".into()));
        };
        let (sender, lines) = channel();
        // It reads to the end, so that etcd never waits for a full pipe.
        std::thread::spawn(move || {
            for line in BufReader::new(log).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let deadline = Instant::now() + REPLAYS_WITHIN;
        let mut shown: Vec<String> = Vec::new();
        loop {
            match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) if IS_READY.iter().any(|text| line.contains(text)) => break,
                Ok(line) => {
                    shown.push(line);
                    if shown.len() > SHOWN_LINES {
                        shown.remove(0);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    let seconds = REPLAYS_WITHIN.as_secs();
                    return Err(failed(format!(
                        "etcd did not replay the log within {seconds} s"
                    )));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(failed(format!("etcd ended: {}", shown.join("; "))));
                }
            }
        }
        child
            .stop()
            .map_err(|error| failed(format!("etcd does not end: {error}")))
    }
}

/// etcd, which ends with this value.
struct Running(Child);

impl Running {
    /// etcd writes everything to its database before it ends.
    fn stop(&mut self) -> std::io::Result<()> {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        let deadline = Instant::now() + ENDS_WITHIN;
        while Instant::now() < deadline {
            if self.0.try_wait()?.is_some() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err(std::io::ErrorKind::TimedOut.into())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Tail {
    fn take(&mut self, record: WalRecord<'_>) -> Result<(), String> {
        match record {
            WalRecord::Metadata { member_id, .. } => self.member_id = member_id,
            WalRecord::State { term, vote, commit } => {
                (self.term, self.vote, self.commit) = (term, vote, commit);
            }
            WalRecord::Snapshot { index, term, .. } => {
                self.last = self.last.max(index);
                self.term = self.term.max(term);
            }
            WalRecord::Entry(entry) => {
                if entry.index > self.last + 1 && self.last > 0 {
                    return Err(format!(
                        "entry {} follows entry {}: some are missing",
                        entry.index, self.last
                    ));
                }
                // A leader replaced this one and all after it.
                if self
                    .own_removal
                    .is_some_and(|removal| entry.index <= removal)
                {
                    self.own_removal = None;
                }
                if removes(&entry, self.member_id) {
                    self.own_removal.get_or_insert(entry.index);
                }
                let kept = self.changes.partition_point(|change| *change < entry.index);
                self.changes.truncate(kept);
                if entry.index > self.reflected && changes_data(&entry) {
                    self.changes.push(entry.index);
                }
                self.last = entry.index;
                self.term = self.term.max(entry.term);
            }
        }
        Ok(())
    }

    /// The last entry up to this one that changes data and is not in the database. `None` if the database has all.
    fn last_change(&self, usable: u64) -> Option<u64> {
        let mut changes = self.changes.iter().rev();
        changes.find(|change| **change <= usable).copied()
    }

    /// The last entry that can be taken: never past the removal of the member itself.
    fn usable(&self) -> u64 {
        match self.own_removal.filter(|removal| *removal > self.commit) {
            Some(removal) => removal - 1,
            None => self.last,
        }
    }
}

fn consistent_index(db: &Path) -> Result<u64, RestoreError> {
    let file = LocalFile::open(db)?;
    Ok(read_facts(&file, db)?.consistent_index.unwrap_or_default())
}

/// Clones or copies the files of a directory, and gives the last one by name.
fn copy_files(from: &Path, to: &Path) -> Result<Option<PathBuf>, RestoreError> {
    durable_file::create_dir_all(to).map_err(RestoreError::io("create", to))?;
    let mut newest = None;
    let mut names = Vec::new();
    for entry in std::fs::read_dir(from).map_err(RestoreError::io("list", from))? {
        let entry = entry.map_err(RestoreError::io("list", from))?;
        if entry.file_type().is_ok_and(|kind| kind.is_file()) {
            names.push(entry.file_name());
        }
    }
    names.sort();
    for name in names {
        let (source, copy) = (from.join(&name), to.join(&name));
        let is_segment = name.to_string_lossy().ends_with(".wal");
        let source_file = LocalFile::open(&source)?;
        let file = durable_file::create(&copy).map_err(RestoreError::io("create", &copy))?;
        let cloned = durable_file::clone_from(&file, &source_file);
        if !cloned.map_err(RestoreError::io("clone", &source))? {
            durable_file::copy_range(&file, &source_file, 0, source_file.size_bytes())
                .map_err(RestoreError::io("copy", &source))?;
        }
        if is_segment {
            newest = Some(copy);
        }
    }
    Ok(newest)
}

/// Ends a file with these bytes. What was there after the last whole record is gone.
fn append_at(path: &Path, offset: u64, bytes: &[u8]) -> Result<(), RestoreError> {
    let file = std::fs::OpenOptions::new().write(true).open(path);
    file.and_then(|file| {
        durable_file::set_len(&file, offset)?;
        durable_file::write_at(&file, bytes, offset)?;
        durable_file::sync(&file)
    })
    .map_err(RestoreError::io("write", path))
}
