//! `cargo xtask cluster measure`: what backups cost a node with a kubelet, and what etcd and the API server notice of them.
//!
//! Rounds without backups and with them take turns, under the same load, so that what else the machine does falls on both.

use anyhow::{Context, Result, bail, ensure};
use cluster_api::resources::Backup;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, Patch, PatchParams};
use operator::names::REPOSITORY;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use test_support::etcd_client::Client;
use test_support::kubernetes::cluster::client_of;
use test_support::pki::Pki;
use test_support::real_nodes::RealNode;
use xtask::command::output;

const NEVER: &str = "@yearly";
const PROBE_EVERY: Duration = Duration::from_millis(100);
/// A probe that takes longer has failed.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
const VALUE_BYTES: usize = 16 << 10;
const CONTAINERS: [&str; 2] = ["etcd-backup-server", "operator"];

#[derive(clap::Args)]
pub(crate) struct Args {
    /// How long backups are watched, and as long again without them
    #[arg(long, default_value = "30")]
    minutes: u64,
    /// Number of rounds that the minutes are divided into
    #[arg(long, default_value = "5")]
    rounds: u32,
    /// Size of the database; with the load it grows, and etcd stops at 2 GiB
    #[arg(long, default_value = "640", value_name = "MIB")]
    size_mib: u64,
    /// Share of the values that are written again per minute
    #[arg(long, default_value = "5", value_name = "PERCENT")]
    churn: u64,
    /// The schedule while backups are measured
    #[arg(long, default_value = "@every 30s", value_name = "CRON")]
    schedule: String,
    /// The first process of the node, for the process in its network
    #[arg(long, hide = true)]
    pub(crate) node_process: Option<u32>,
}

impl Args {
    pub(crate) fn to_args(&self, node_process: &str) -> Vec<String> {
        vec![
            format!("--minutes={}", self.minutes),
            format!("--rounds={}", self.rounds),
            format!("--size-mib={}", self.size_mib),
            format!("--churn={}", self.churn),
            format!("--schedule={}", self.schedule),
            format!("--node-process={node_process}"),
        ]
    }
}

/// Latencies of probes in ms, and how many failed.
#[derive(Default)]
struct Probes {
    latencies_ms: Vec<f64>,
    failed: u64,
}

impl Probes {
    fn add(&mut self, latency: Option<Duration>) {
        match latency.filter(|latency| *latency < PROBE_TIMEOUT) {
            Some(latency) => self.latencies_ms.push(latency.as_secs_f64() * 1000.0),
            None => self.failed += 1,
        }
    }

    fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.latencies_ms.clone();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().saturating_sub(1);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let index = (last as f64 * share).round() as usize;
        sorted.get(index).copied().unwrap_or(f64::NAN)
    }
}

/// What is probed: a write to etcd, and a read that the API server makes from etcd.
#[derive(Default)]
struct Measured {
    put: Probes,
    get: Probes,
    /// Those of the writes that were made while a backup was being made.
    put_in_a_run: Probes,
}

/// Runs in the network of the node.
pub(crate) fn run(args: &Args, node_process: u32, kubeconfig: &Path) -> Result<()> {
    let pki = pki_of(&PathBuf::from(format!("/proc/{node_process}/root")));
    let connect = || Client::connect_with("https://127.0.0.1:2379", Some(&pki));
    let runtime = tokio::runtime::Runtime::new()?;
    let api = runtime.block_on(client_of(kubeconfig));
    let set_schedule = |schedule: &str| -> Result<()> {
        let patch = Patch::Merge(json!({"spec": {"etcd": {"schedule": schedule}}}));
        let backups: Api<Backup> = Api::all(api.clone());
        let params = PatchParams::default();
        let edited = runtime.block_on(backups.patch("default", &params, &patch));
        edited
            .map(drop)
            .context("edit Backup/default: is etcd-lifeboat installed?")
    };
    set_schedule(NEVER)?;
    let values = args.size_mib * (1 << 20) / VALUE_BYTES as u64;
    println!("filling etcd with {values} values of {VALUE_BYTES} bytes");
    let client = connect();
    let mut random = Random(1);
    for number in 0..values {
        client.put(&key(number), &random.bytes(VALUE_BYTES));
    }
    let churn_every = Duration::from_secs(60) / u32::try_from((values * args.churn / 100).max(1))?;
    let stop = Arc::new(AtomicBool::new(false));
    let load = {
        let (stop, client) = (stop.clone(), connect());
        std::thread::spawn(move || {
            let mut next = Instant::now();
            while !stop.load(Ordering::Relaxed) {
                client.put(&key(random.next() % values), &random.bytes(VALUE_BYTES));
                next += churn_every;
                std::thread::sleep(next.saturating_duration_since(Instant::now()));
            }
        })
    };
    let round = Duration::from_secs(args.minutes * 60) / args.rounds;
    let (mut without, mut with) = (Measured::default(), Measured::default());
    let mut cost = vec![Cost::default(); CONTAINERS.len()];
    let repository = PathBuf::from(format!("/proc/{node_process}/root{REPOSITORY}"));
    ensure!(
        repository.is_dir(),
        "the node has no backups in {REPOSITORY}: wait for the first one"
    );
    let probe = |measured: &mut Measured| {
        probe(measured, round, &client, &runtime, &api, &repository);
    };
    for number in 1..=args.rounds {
        set_schedule(NEVER)?;
        std::thread::sleep(Duration::from_secs(5));
        probe(&mut without);
        set_schedule(&args.schedule)?;
        std::thread::sleep(Duration::from_secs(5));
        let before: Vec<_> = CONTAINERS
            .iter()
            .map(|name| usage(node_process, name))
            .collect();
        probe(&mut with);
        for ((name, before), cost) in CONTAINERS.iter().zip(before).zip(&mut cost) {
            cost.add(before?, usage(node_process, name)?);
        }
        println!(
            "round {number} of {}: put p99 {:.1} ms without, {:.1} ms with backups so far",
            args.rounds,
            without.put.quantile(0.99),
            with.put.quantile(0.99)
        );
    }
    stop.store(true, Ordering::Relaxed);
    ensure!(load.join().is_ok(), "the load ended early");
    set_schedule("*/5 * * * *")?;
    println!(
        "\n{} MiB, {} % churn per minute, the schedule {}, {} minutes each, a probe every {PROBE_EVERY:?}",
        args.size_mib, args.churn, args.schedule, args.minutes
    );
    println!(
        "| probe | backups | number | failed | p50 ms | p99 ms | max ms |\n|---|---|---|---|---|---|---|"
    );
    let row = |name: &str, backups: &str, probes: &Probes| {
        println!(
            "| {name} | {backups} | {} | {} | {:.2} | {:.2} | {:.1} |",
            probes.latencies_ms.len(),
            probes.failed,
            probes.quantile(0.5),
            probes.quantile(0.99),
            probes.quantile(1.0)
        );
    };
    row("put to etcd", "no", &without.put);
    row("put to etcd", "yes", &with.put);
    row("put to etcd", "being made", &with.put_in_a_run);
    row("GET by the API server", "no", &without.get);
    row("GET by the API server", "yes", &with.get);
    let ratio = |with: &Probes, without: &Probes| with.quantile(0.99) / without.quantile(0.99);
    println!(
        "p99 with backups ÷ without: put × {:.2}, GET × {:.2}",
        ratio(&with.put, &without.put),
        ratio(&with.get, &without.get)
    );
    println!(
        "\n| container | resident memory at its peak, MiB | with its page cache, MiB | CPU, s per minute |\n|---|---|---|---|"
    );
    for (name, cost) in CONTAINERS.iter().zip(&cost) {
        println!(
            "| {name} | {:.1} | {:.1} | {:.2} |",
            cost.rss_peak_mib,
            cost.peak_mib,
            cost.cpu_s / (args.minutes as f64)
        );
    }
    Ok(())
}

fn probe(
    measured: &mut Measured,
    duration: Duration,
    etcd: &Client,
    runtime: &tokio::runtime::Runtime,
    api: &kube::Client,
    repository: &Path,
) {
    let start = Instant::now();
    let mut next = start;
    while start.elapsed() < duration {
        let at = Instant::now();
        let revision = etcd.try_put(b"/measure", &[7; 512]);
        let latency = revision.map(|_| at.elapsed());
        measured.put.add(latency);
        if is_backup_being_made(repository) {
            measured.put_in_a_run.add(latency);
        }
        let at = Instant::now();
        let namespaces: Api<Namespace> = Api::all(api.clone());
        let got = runtime.block_on(namespaces.get("kube-system"));
        measured.get.add(got.is_ok().then(|| at.elapsed()));
        next += PROBE_EVERY;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}

fn is_backup_being_made(repository: &Path) -> bool {
    let mut entries = std::fs::read_dir(repository)
        .into_iter()
        .flatten()
        .flatten();
    entries.any(|entry| entry.file_name().to_string_lossy().contains(".partial-"))
}

fn pki_of(node: &Path) -> Pki {
    let file = |name: &str| node.join("etc/kubernetes/pki/etcd").join(name);
    Pki {
        ca: file("ca.crt"),
        server_cert: file("server.crt"),
        server_key: file("server.key"),
        client_cert: file("healthcheck-client.crt"),
        client_key: file("healthcheck-client.key"),
    }
}

fn key(number: u64) -> Vec<u8> {
    format!("/registry/measure/{number:08}").into_bytes()
}

/// Marsaglia's xorshift: values that cannot be compressed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bytes(&mut self, number: usize) -> Vec<u8> {
        (0..number / 8)
            .flat_map(|_| self.next().to_le_bytes())
            .collect()
    }
}

/// What the cgroup of a container and its process say.
#[derive(Clone, Copy)]
struct Usage {
    cpu_s: f64,
    rss_peak_mib: f64,
    /// With the page cache that the container caused.
    peak_mib: f64,
}

/// Prints the nanoseconds of CPU, the peak of its resident memory in KiB, and the peak of its cgroup's memory in bytes.
const USAGE: &str = r#"
for id in $(ctr -n k8s.io containers ls -q "labels.\"io.kubernetes.container.name\"==$1"); do
    pid=$(ctr -n k8s.io tasks ls | awk -v id="$id" '$1 == id && $3 == "RUNNING" { print $2 }')
    [ -n "$pid" ] || continue
    path() { sed -n "s/^[0-9]*:$1://p" /proc/$pid/cgroup; }
    if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
        group=/sys/fs/cgroup$(path "")
        cpu=$(awk '/^usage_usec/ { print $2 * 1000 }' $group/cpu.stat)
        peak=$(cat $group/memory.peak)
    else
        cpu=$(cat /sys/fs/cgroup/cpuacct$(path cpuacct)/cpuacct.usage)
        peak=$(cat /sys/fs/cgroup/memory$(path memory)/memory.max_usage_in_bytes)
    fi
    echo $cpu $(awk '/^VmHWM/ { print $2 }' /proc/$pid/status) $peak
done"#;

/// The sum over all containers of the name on the node.
fn usage(node_process: u32, container: &str) -> Result<Usage> {
    let words = ["bash", "-c", USAGE, "usage", container];
    let printed = output(&mut RealNode::command_at(&node_process.to_string(), &words))?;
    let mut usage = Usage {
        cpu_s: 0.0,
        rss_peak_mib: 0.0,
        peak_mib: 0.0,
    };
    for line in printed.lines() {
        let numbers: Vec<f64> = line
            .split_whitespace()
            .map(str::parse)
            .collect::<Result<_, _>>()?;
        let [cpu_ns, rss_kib, peak] = numbers.as_slice() else {
            bail!("expected three numbers, found {line:?}");
        };
        usage.cpu_s += cpu_ns / 1e9;
        usage.rss_peak_mib += rss_kib / 1024.0;
        usage.peak_mib += peak / f64::from(1 << 20);
    }
    ensure!(
        usage.peak_mib > 0.0,
        "no container {container} runs on the node"
    );
    Ok(usage)
}

/// What containers used while backups were made.
#[derive(Clone, Copy, Default)]
struct Cost {
    cpu_s: f64,
    rss_peak_mib: f64,
    peak_mib: f64,
}

impl Cost {
    fn add(&mut self, before: Usage, after: Usage) {
        self.cpu_s += after.cpu_s - before.cpu_s;
        self.rss_peak_mib = self.rss_peak_mib.max(after.rss_peak_mib);
        self.peak_mib = self.peak_mib.max(after.peak_mib);
    }
}
