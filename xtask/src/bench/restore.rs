//! A restore, beside etcdutl's.

use super::cost::{Cost, measure, print_medians};
use super::filled::filled_server;
use super::programs::{self, Programs};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;
use test_support::etcd_server::Prepared;
use xtask::command::{run as run_command, target_dir};

/// A filesystem in a file, as long as this is there.
struct Mounted {
    dir: PathBuf,
}

impl Mounted {
    /// XFS with reflinks. `None` without the right to mount.
    fn xfs(scratch: &Path, bytes: u64) -> Result<Option<Mounted>> {
        let image = scratch.join("xfs.img");
        std::fs::File::create(&image)?.set_len(bytes)?;
        run_command(
            Command::new("mkfs.xfs")
                .args(["-q", "-m", "reflink=1"])
                .arg(&image),
        )?;
        let dir = scratch.join("xfs");
        std::fs::create_dir(&dir)?;
        let mounted = Command::new("mount")
            .args(["-o", "loop"])
            .arg(&image)
            .arg(&dir)
            .status()?;
        Ok(mounted.success().then_some(Mounted { dir }))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.dir).status();
    }
}

pub(super) fn run(size_mib: u64, keys: u64, runs: usize) -> Result<()> {
    let Programs {
        binaries,
        etcdutl,
        lifeboat,
    } = programs::provide()?;
    let scratch = tempfile::tempdir_in(target_dir())?;
    let server = filled_server(&binaries, size_mib, keys);
    let backups = scratch.path().join("backups");
    run_command(
        Command::new(&lifeboat)
            .args([
                "cluster-backup",
                "--min-free",
                "1",
                "--endpoints",
                &server.endpoint,
            ])
            .arg("--backup-dir")
            .arg(&backups),
    )?;
    drop(server);
    let xfs = Mounted::xfs(scratch.path(), (size_mib << 20) * 5)?;
    if xfs.is_none() {
        println!("XFS with reflinks is left out: mounting needs root");
    }
    let mut places = vec![("this filesystem", scratch.path().join("here"))];
    places.extend(xfs.iter().map(|xfs| ("XFS with reflinks", xfs.dir.clone())));
    for (name, place) in places {
        std::fs::create_dir_all(&place)?;
        run_command(Command::new("cp").arg("-r").arg(&backups).arg(&place))?;
        let backup = the_only(&place.join("backups"))?;
        println!("\n{name}: {size_mib} MiB, {runs} runs each, in turns");
        compare(&etcdutl, &lifeboat, &place, &backup, runs)?;
        if place != scratch.path().join("here") {
            continue;
        }
        let member = Prepared::new(&binaries);
        let start = Instant::now();
        run_command(
            restore(&lifeboat, &backup, &member.data_dir())
                .args(member.flags())
                .args(["--output", "json"]),
        )?;
        for member in Prepared::start(vec![member]) {
            member.etcdctl_ok(&["get", "a"]);
        }
        println!(
            "from the start of restore to a linearizable read: {:.2} s",
            start.elapsed().as_secs_f64()
        );
    }
    Ok(())
}

fn restore(lifeboat: &Path, source: &Path, data_dir: &Path) -> Command {
    let mut command = Command::new(lifeboat);
    command
        .arg("restore")
        .arg(source)
        .arg("--data-dir")
        .arg(data_dir)
        .args(["--bump-revision", "1000000000", "--mark-compacted"]);
    command
}

fn compare(
    etcdutl: &Path,
    lifeboat: &Path,
    place: &Path,
    backup: &Path,
    runs: usize,
) -> Result<()> {
    let name = backup.file_name().context("a name")?.to_string_lossy();
    let snapshot = backup.join(format!("snapshot_{name}.db"));
    let data_dir = place.join("data");
    let mut theirs = Command::new(etcdutl);
    theirs
        .args(["snapshot", "restore"])
        .arg(&snapshot)
        .arg("--data-dir")
        .arg(&data_dir)
        .args(["--bump-revision", "1000000000", "--mark-compacted"]);
    let mut programs = [
        ("etcdutl snapshot restore", theirs),
        (
            "restore: an own backup",
            restore(lifeboat, backup, &data_dir),
        ),
        (
            "restore: any snapshot",
            restore(lifeboat, &snapshot, &data_dir),
        ),
    ];
    let mut costs: Vec<(&str, Vec<Cost>)> = Vec::new();
    for _ in 0..runs {
        for (name, program) in &mut programs {
            let cost = measure(program)?;
            std::fs::remove_dir_all(&data_dir)?;
            match costs.iter_mut().find(|(known, _)| known == name) {
                Some((_, all)) => all.push(cost),
                None => costs.push((name, vec![cost])),
            }
        }
    }
    print_medians(costs);
    Ok(())
}

/// The only backup of a repository.
fn the_only(repository: &Path) -> Result<PathBuf> {
    let entries = std::fs::read_dir(repository)?.flatten();
    let names = entries.map(|entry| entry.path());
    names
        .filter(|path| path.join("backup.json").exists())
        .last()
        .context("a backup")
}
