//! `cargo xtask soak`: backup servers for a long time, on a cluster that is disturbed all the while, or one that
//! is killed over and over. What was made is checked by what was written to etcd, not by what the servers say.

use crate::dist;
use anyhow::{Context, Result, bail, ensure};
use jiff::Timestamp;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use test_support::etcd_binaries::{Binaries, VERSIONS, find};
use test_support::etcd_client::Client;
use test_support::etcd_server::{Options, Server};
use xtask::etcd;

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Three servers at @every 1s, while members restart, compact and defragment
    Runs {
        /// Backups to be made, of all three servers together
        #[arg(long, default_value = "2000")]
        runs: u64,
    },
    /// One server that is killed at any moment
    Kills {
        /// How often
        #[arg(long, default_value = "1000")]
        kills: u64,
    },
}

/// Runs one of them, and prints what came of it.
pub(crate) fn run(args: &Args) -> Result<()> {
    let missing = etcd::provide();
    let binaries = VERSIONS.into_iter().rev().find_map(find);
    let binaries = binaries.with_context(|| missing.join("\n"))?;
    let lifeboat = dist::build_here()?.path;
    match args.what {
        What::Runs { runs } => soak_runs(&binaries, &lifeboat, runs),
        What::Kills { kills } => soak_kills(&binaries, &lifeboat, kills),
    }
}

/// Numbers that look random, the same ones each time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        // Knuth's constants for 64 bits; the upper bits are the good ones.
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// What the cluster acknowledged, and when.
type Acknowledged = Arc<Mutex<Vec<(Timestamp, i64)>>>;

/// Writes all the time, and notes what was acknowledged.
struct Writer {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
    acknowledged: Acknowledged,
}

impl Writer {
    fn start(endpoint: &str) -> Writer {
        let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Acknowledged::default());
        let (stopped, notes) = (stop.clone(), acknowledged.clone());
        let client = Client::connect(endpoint);
        let thread = std::thread::spawn(move || {
            for number in 0u64.. {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let key = format!("/registry/leases/{}", number % 5000);
                let value = number.to_le_bytes().repeat(100);
                match client.try_put(key.as_bytes(), &value) {
                    Some(revision) => {
                        if let Ok(mut notes) = notes.lock() {
                            notes.push((Timestamp::now(), revision));
                        }
                        std::thread::sleep(Duration::from_millis(10));
                    }
                    // Its member is down just now.
                    None => std::thread::sleep(Duration::from_millis(200)),
                }
            }
        });
        Writer {
            stop,
            thread: Some(thread),
            acknowledged,
        }
    }

    /// The newest revision that was acknowledged before a time.
    fn revision_before(&self, time: Timestamp) -> i64 {
        let Ok(notes) = self.acknowledged.lock() else {
            return 0;
        };
        let count = notes.partition_point(|(at, _)| *at < time);
        count
            .checked_sub(1)
            .and_then(|last| notes.get(last))
            .map_or(0, |(_, revision)| *revision)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A server of ours; dropping it kills it.
struct Agent(Child);

impl Agent {
    fn start(lifeboat: &Path, endpoint: &str, repository: &Path, log: &Path) -> Result<Agent> {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(log)?;
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(lifeboat)
            .args([
                "backup-server",
                "--schedule",
                "@every 1s",
                "--min-free",
                "1",
            ])
            .args([
                "--listen",
                "127.0.0.1:0",
                "--endpoints",
                endpoint,
                "--backup-path",
            ])
            .arg(repository)
            .env_remove("ETCDCTL_ENDPOINTS")
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("start setpriv (Debian package util-linux)")?;
        Ok(Agent(child))
    }

    /// Memory that it holds now, in KiB.
    fn resident_kib(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).ok()?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.split_whitespace().next()?.parse().ok()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Backups that are listed in a repository, oldest first.
fn backups(repository: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(repository)
        .into_iter()
        .flatten()
        .flatten();
    let mut names: Vec<_> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| !name.starts_with('.'))
        .collect();
    names.sort();
    names
}

/// Whether a backup is whole; nothing if retention has removed it meanwhile.
fn is_whole(lifeboat: &Path, backup: &Path) -> Result<Option<()>> {
    let output = Command::new(lifeboat).arg("verify").arg(backup).output()?;
    if !backup.exists() {
        return Ok(None);
    }
    ensure!(
        output.status.success(),
        "{}: {}{}",
        backup.display(),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(Some(()))
}

fn disk_kib(path: &Path) -> u64 {
    let output = Command::new("du").arg("-sk").arg(path).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    text.ok()
        .and_then(|text| text.split_whitespace().next()?.parse().ok())
        .unwrap_or_default()
}

/// The largest of the first and of the last quarter.
fn quarters(values: &[u64]) -> (u64, u64) {
    let quarter = (values.len() / 4).max(1);
    let largest = |part: Option<&[u64]>| part.and_then(|part| part.iter().max()).copied();
    (
        largest(values.get(..quarter)).unwrap_or_default(),
        largest(
            values
                .len()
                .checked_sub(quarter)
                .and_then(|from| values.get(from..)),
        )
        .unwrap_or_default(),
    )
}

struct Node {
    agent: Agent,
    repository: PathBuf,
    log: PathBuf,
    seen: BTreeSet<String>,
    memory_kib: Vec<u64>,
    disk_kib: Vec<u64>,
}

fn soak_runs(binaries: &Binaries, lifeboat: &Path, runs: u64) -> Result<()> {
    let start = Instant::now();
    let mut servers = Server::start_cluster(binaries, &Options::default(), 3);
    let dir = TempDir::new()?;
    let writer = Writer::start(&servers.first().context("a member")?.endpoint);
    let mut nodes = Vec::new();
    for (number, server) in servers.iter().enumerate() {
        let repository = dir.path().join(format!("node-{number}"));
        let log = dir.path().join(format!("node-{number}.log"));
        nodes.push(Node {
            agent: Agent::start(lifeboat, &server.endpoint, &repository, &log)?,
            repository,
            log,
            seen: BTreeSet::new(),
            memory_kib: Vec::new(),
            disk_kib: Vec::new(),
        });
    }
    let mut dice = Dice(1);
    let mut disturbances: BTreeMap<&str, u64> = BTreeMap::new();
    let (mut checked, mut proven) = (0u64, 0u64);
    let mut next_disturbance = Instant::now() + Duration::from_secs(5);
    let mut next_sample = Instant::now();
    while checked < runs {
        for node in &mut nodes {
            let names = backups(&node.repository);
            ensure!(names.len() <= 5, "retention keeps too much: {names:?}");
            ensure!(
                node.seen.len() < 3 || names.len() >= 3,
                "a backup was lost: {names:?}"
            );
            for name in names {
                if !node.seen.insert(name.clone()) {
                    continue;
                }
                let backup = node.repository.join(&name);
                if !holds_what_was_acknowledged(&backup, &writer)? {
                    continue;
                }
                checked += 1;
                if checked.is_multiple_of(10) && is_whole(lifeboat, &backup)?.is_some() {
                    proven += 1;
                }
            }
        }
        if Instant::now() >= next_sample {
            next_sample = Instant::now() + Duration::from_secs(5);
            for node in &mut nodes {
                node.memory_kib.extend(node.agent.resident_kib());
                node.disk_kib.push(disk_kib(&node.repository));
            }
            eprint!(
                "\r{checked} of {runs} backups, {} s ",
                start.elapsed().as_secs()
            );
        }
        if Instant::now() >= next_disturbance {
            next_disturbance = Instant::now() + Duration::from_millis(2000 + dice.below(4000));
            let index = dice.below(servers.len() as u64) as usize;
            let server = servers.get_mut(index).context("a member")?;
            let what = disturb(server, binaries, &mut dice);
            *disturbances.entry(what).or_default() += 1;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    eprintln!();
    let seconds = start.elapsed().as_secs();
    println!(
        "{checked} backups in {seconds} s; each holds all that was acknowledged before its run; {proven} of them verified anew"
    );
    println!("disturbances: {disturbances:?}");
    for (number, node) in nodes.iter().enumerate() {
        let log = std::fs::read_to_string(&node.log)?;
        let (memory_first, memory_last) = quarters(&node.memory_kib);
        let (disk_first, disk_last) = quarters(&node.disk_kib);
        println!(
            "node-{number}: {} made, {} failed and told ({:?}), memory at most {memory_first} KiB in the first quarter and {memory_last} KiB in the last, disk {disk_first} KiB and {disk_last} KiB",
            log.matches("backup made").count(),
            log.matches("backup failed").count(),
            reasons(&log),
        );
        ensure!(
            memory_last < memory_first + memory_first / 2,
            "memory grows"
        );
        // The database itself grows until each key is there.
        ensure!(disk_last < disk_first * 3 + (64 << 10), "disk grows");
    }
    let mut left = 0;
    for node in nodes {
        drop(node.agent);
        for name in backups(&node.repository) {
            left += u64::from(is_whole(lifeboat, &node.repository.join(name))?.is_some());
        }
    }
    println!("{left} backups are there at the end, all whole");
    Ok(())
}

/// Whether the record is still there; an error if its backup misses what was acknowledged before.
fn holds_what_was_acknowledged(backup: &Path, writer: &Writer) -> Result<bool> {
    // It may have been removed since it was listed.
    let Ok(json) = std::fs::read(backup.join("backup.json")) else {
        return Ok(false);
    };
    let record: Value = serde_json::from_slice(&json)?;
    let field = |pointer: &str| record.pointer(pointer).cloned().unwrap_or_default();
    let started: Timestamp = field("/started_at").as_str().unwrap_or_default().parse()?;
    let revision = field("/snapshot/revision").as_i64().unwrap_or_default();
    let needed = writer.revision_before(started);
    if field("/linearized") == Value::Bool(true) && revision < needed {
        bail!(
            "{}: revision {revision}, but {needed} was acknowledged before",
            backup.display()
        );
    }
    Ok(true)
}

fn disturb(server: &mut Server, binaries: &Binaries, dice: &mut Dice) -> &'static str {
    match dice.below(4) {
        0 => {
            server.stop();
            server.start_again(binaries);
            "restarts"
        }
        1 => {
            server.crash();
            server.start_again(binaries);
            "crashes"
        }
        2 => {
            let client = server.client();
            let (_, revision) = client.member_id_and_revision();
            client.compact((revision - 100).max(1));
            "compactions"
        }
        _ => {
            server.client().defragment();
            "defragmentations"
        }
    }
}

/// Why runs failed, with how often.
fn reasons(log: &str) -> BTreeMap<String, u64> {
    let mut reasons = BTreeMap::new();
    for line in log.lines().filter(|line| line.contains("backup failed")) {
        let reason = line
            .split("reason=")
            .nth(1)
            .and_then(|rest| rest.split(' ').next());
        *reasons
            .entry(reason.unwrap_or("?").trim_matches('"').to_string())
            .or_default() += 1;
    }
    reasons
}

fn soak_kills(binaries: &Binaries, lifeboat: &Path, kills: u64) -> Result<()> {
    let start = Instant::now();
    let server = Server::start(binaries);
    let dir = TempDir::new()?;
    let repository = dir.path().join("backups");
    let log = dir.path().join("log");
    let client = server.client();
    for number in 0..30u32 {
        client.put(&number.to_be_bytes(), &vec![7; 1 << 20]);
    }
    let writer = Writer::start(&server.endpoint);
    let mut dice = Dice(2);
    let mut seen = BTreeSet::new();
    let (mut in_mid_run, mut while_removing, mut made) = (0u64, 0u64, 0u64);
    for kill in 0..kills {
        let before = backups(&repository);
        let agent = Agent::start(lifeboat, &server.endpoint, &repository, &log)?;
        std::thread::sleep(Duration::from_millis(dice.below(1500)));
        drop(agent);
        let hidden: Vec<_> = std::fs::read_dir(&repository)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        in_mid_run += u64::from(hidden.iter().any(|name| name.starts_with(".partial-")));
        while_removing += u64::from(hidden.iter().any(|name| name.starts_with(".removing-")));
        let now = backups(&repository);
        // What is gone was replaced: three are kept.
        let new = now.iter().filter(|name| !before.contains(name)).count();
        let gone = before.iter().filter(|name| !now.contains(name)).count();
        ensure!(
            gone <= new && now.len() >= before.len().min(3),
            "{kill}: {before:?} became {now:?}"
        );
        for name in &now {
            let backup = repository.join(name);
            is_whole(lifeboat, &backup)?;
            if seen.insert(name.clone()) {
                made += 1;
                holds_what_was_acknowledged(&backup, &writer)?;
            }
        }
        eprint!("\r{} of {kills} kills ", kill + 1);
    }
    eprintln!();
    println!(
        "{kills} kills in {} s: {in_mid_run} in a run, {while_removing} in a removal; {made} backups made, each whole after each kill, and none lost",
        start.elapsed().as_secs()
    );
    let _agent = Agent::start(lifeboat, &server.endpoint, &repository, &log)?;
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let left = std::fs::read_dir(&repository)?
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| name.starts_with(".removing-"))
            .count();
        if left == 0 && backups(&repository).len() == 3 {
            break;
        }
        ensure!(Instant::now() < deadline, "what was left is not swept");
        std::thread::sleep(Duration::from_millis(50));
    }
    println!("the next run swept what was left, and three are kept");
    Ok(())
}
