//! `cargo xtask bench`: beside the tools that users have today, as ratios in one run.

mod cost;
mod filled;
mod programs;
mod restore;

use anyhow::{Context, Result};
use cost::{Cost, measure, print_medians};
use filled::{filled_server, make_snapshot};
use programs::Programs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use test_support::etcd_server::Server;
use xtask::command::{run as run_command, target_dir};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Make a proven backup of a member under write load, beside `etcdctl snapshot save` and
    /// `etcdutl snapshot status`
    Backup {
        /// Size of the database
        #[arg(long, default_value = "1024", value_name = "MIB")]
        size_mib: u64,
        /// Distinct keys
        #[arg(long, default_value = "100000")]
        keys: u64,
        /// Runs of each, of which the median counts
        #[arg(long, default_value = "5")]
        runs: usize,
    },
    /// Restore a snapshot and a backup, beside `etcdutl snapshot restore`, on this filesystem and on XFS with reflinks
    Restore {
        /// Size of the database
        #[arg(long, default_value = "1024", value_name = "MIB")]
        size_mib: u64,
        /// Distinct keys
        #[arg(long, default_value = "100000")]
        keys: u64,
        /// Runs of each, of which the median counts
        #[arg(long, default_value = "5")]
        runs: usize,
    },
    /// Verify a snapshot, beside `etcdutl snapshot status`
    Verify {
        /// Size of the database
        #[arg(long, default_value = "1024", value_name = "MIB")]
        size_mib: u64,
        /// Distinct keys
        #[arg(long, default_value = "100000")]
        keys: u64,
        /// Runs of each tool, of which the median counts
        #[arg(long, default_value = "5")]
        runs: usize,
        /// The snapshot, which is made if it is not there and then kept
        #[arg(long)]
        file: Option<PathBuf>,
    },
}

/// So long the load is looked at alone.
const IDLE_S: u64 = 15;

pub(crate) fn run(args: &Args) -> Result<()> {
    match &args.what {
        What::Backup {
            size_mib,
            keys,
            runs,
        } => backup(*size_mib, *keys, *runs),
        What::Restore {
            size_mib,
            keys,
            runs,
        } => restore::run(*size_mib, *keys, *runs),
        What::Verify {
            size_mib,
            keys,
            runs,
            file,
        } => verify(*size_mib, *keys, *runs, file.as_deref()),
    }
}

fn verify(size_mib: u64, keys: u64, runs: usize, file: Option<&Path>) -> Result<()> {
    let Programs {
        binaries,
        etcdutl,
        lifeboat,
    } = programs::provide()?;
    let scratch = tempfile::tempdir_in(target_dir())?;
    let snapshot = file.map_or_else(|| scratch.path().join("snapshot.db"), Path::to_path_buf);
    if !snapshot.exists() {
        make_snapshot(&binaries, size_mib, keys, &snapshot)?;
    }
    // The same without its trailer, for the checks that etcdutl makes: it does not look at that.
    let database = scratch.path().join("db");
    std::fs::copy(&snapshot, &database)?;
    let data_bytes = std::fs::metadata(&snapshot)?.len().saturating_sub(32);
    std::fs::File::options()
        .write(true)
        .open(&database)?
        .set_len(data_bytes)?;
    let size = std::fs::metadata(&snapshot)?.len();
    println!("snapshot of {} MiB, {runs} runs each, in turns", size >> 20);

    let mut costs: Vec<(&str, Vec<Cost>)> = Vec::new();
    let programs: [(&str, &Path, &[&str], &Path); 4] = [
        (
            "etcdutl snapshot status",
            &etcdutl,
            &["snapshot", "status", "-w", "json"],
            &snapshot,
        ),
        (
            "the same checks",
            &lifeboat,
            &["verify", "--level", "content"],
            &database,
        ),
        (
            "the SHA-256",
            &lifeboat,
            &["verify", "--level", "trailer"],
            &snapshot,
        ),
        ("verify: all of it", &lifeboat, &["verify"], &snapshot),
    ];
    for _ in 0..runs {
        for (name, program, words, path) in programs {
            let cost = measure(Command::new(program).args(words).arg(path))?;
            match costs.iter_mut().find(|(known, _)| *known == name) {
                Some((_, all)) => all.push(cost),
                None => costs.push((name, vec![cost])),
            }
        }
    }
    print_medians(costs);
    Ok(())
}

/// A proven backup by today's tools and by ours, in turns, while a client writes.
fn backup(size_mib: u64, keys: u64, runs: usize) -> Result<()> {
    let Programs {
        binaries,
        etcdutl,
        lifeboat,
    } = programs::provide()?;
    let server = filled_server(&binaries, size_mib, keys);
    let scratch = tempfile::tempdir_in(target_dir())?;
    let repository = scratch.path().join("backups");
    let saved = scratch.path().join("saved.db");

    let load = Load::start(&server);
    let idle = ServerCpu::of(&server)?;
    load.latencies();
    std::thread::sleep(Duration::from_secs(IDLE_S));
    let load_cpu = idle.used()? / IDLE_S as f64;
    let idle_puts = load.latencies();
    println!(
        "under a load of {} puts/s that takes {load_cpu:.2} CPU of the server",
        Load::PUTS_PER_S
    );

    let ours = || {
        let mut command = Command::new(&lifeboat);
        command
            .args([
                "cluster-backup",
                "--min-free",
                "1",
                "--endpoints",
                &server.endpoint,
            ])
            .arg("--backup-dir")
            .arg(&repository);
        command
    };
    // The first one of a day is compared with the member, too, which today's tools do not do.
    measure(&mut ours())?;
    let mut theirs_costs = Vec::new();
    let mut ours_costs = Vec::new();
    let (mut theirs_puts, mut ours_puts) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        load.latencies();
        let cpu = ServerCpu::of(&server)?;
        let mut save = Command::new(&binaries.etcdctl);
        save.args(["--endpoints", &server.endpoint, "snapshot", "save"])
            .arg(&saved);
        let save = measure(&mut save)?;
        theirs_puts.extend(load.latencies());
        let mut status = Command::new(&etcdutl);
        status
            .args(["snapshot", "status", "-w", "json"])
            .arg(&saved);
        let status = measure(&mut status)?;
        let wall_s = save.wall_s + status.wall_s;
        theirs_costs.push(Cost {
            wall_s,
            cpu_s: save.cpu_s + status.cpu_s + cpu.used()? - load_cpu * wall_s,
            peak_mib: save.peak_mib.max(status.peak_mib),
            written_mib: save.written_mib + status.written_mib,
        });
        // What the other one has left to write is not ours.
        run_command(&mut Command::new("sync"))?;
        load.latencies();
        let cpu = ServerCpu::of(&server)?;
        let cost = measure(&mut ours())?;
        ours_puts.extend(load.latencies());
        ours_costs.push(Cost {
            cpu_s: cost.cpu_s + cpu.used()? - load_cpu * cost.wall_s,
            ..cost
        });
    }
    drop(load);
    println!("{runs} runs each, in turns; CPU of client and server, less that of the load");
    print_medians(vec![
        ("etcdctl save + etcdutl status", theirs_costs),
        ("cluster-backup", ours_costs),
    ]);
    println!("how long a put takes meanwhile, on the disk that the backups are on");
    println!("| | puts | p50 | p99 | p99.9 | worst |\n|---|---|---|---|---|---|");
    for (name, mut puts) in [
        ("without a backup", idle_puts),
        ("etcdctl save", theirs_puts),
        ("cluster-backup", ours_puts),
    ] {
        puts.sort_unstable();
        let at = |part: f64| {
            let index = (puts.len().saturating_sub(1)) as f64 * part;
            puts.get(index as usize).map_or(0.0, Duration::as_secs_f64) * 1000.0
        };
        println!(
            "| {name} | {} | {:.1} ms | {:.1} ms | {:.1} ms | {:.1} ms |",
            puts.len(),
            at(0.5),
            at(0.99),
            at(0.999),
            at(1.0)
        );
    }
    Ok(())
}

/// What a server has used of the CPU since then.
struct ServerCpu {
    pid: u32,
    ticks: f64,
}

impl ServerCpu {
    fn of(server: &Server) -> Result<Self> {
        let pid = server.pid();
        Ok(ServerCpu {
            pid,
            ticks: Self::ticks(pid)?,
        })
    }

    /// Seconds since then.
    fn used(&self) -> Result<f64> {
        const TICKS_PER_S: f64 = 100.0;
        Ok((Self::ticks(self.pid)? - self.ticks) / TICKS_PER_S)
    }

    /// User and system time, fields 14 and 15 of `/proc/PID/stat`.
    fn ticks(pid: u32) -> Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let (_, fields) = stat.rsplit_once(") ").context("a stat line")?;
        let field = |index: usize| -> Result<f64> {
            let field = fields.split(' ').nth(index).context("a stat field")?;
            Ok(field.parse()?)
        };
        Ok(field(11)? + field(12)?)
    }
}

/// A client that writes all the time.
struct Load {
    stop: Arc<AtomicBool>,
    took: Arc<Mutex<Vec<Duration>>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Load {
    const PUTS_PER_S: u64 = 200;

    fn start(server: &Server) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let took = Arc::new(Mutex::new(Vec::new()));
        let (stopped, client, taking) = (stop.clone(), server.client(), took.clone());
        let thread = std::thread::spawn(move || {
            let mut number = 0u64;
            while !stopped.load(Ordering::Relaxed) {
                let start = Instant::now();
                client.put(format!("/load/{}", number % 1000).as_bytes(), &[7; 500]);
                if let Ok(mut taking) = taking.lock() {
                    taking.push(start.elapsed());
                }
                number += 1;
                std::thread::sleep(Duration::from_millis(1000 / Self::PUTS_PER_S));
            }
        });
        Load {
            stop,
            took,
            thread: Some(thread),
        }
    }

    /// How long each put took since this was last asked.
    fn latencies(&self) -> Vec<Duration> {
        let taken = self.took.lock().map(|mut took| std::mem::take(&mut *took));
        taken.unwrap_or_default()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
