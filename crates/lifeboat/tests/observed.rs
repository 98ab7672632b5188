//! What a server tells those who watch it: its own answers, a real Prometheus that asks it, the alerts and
//! the dashboard that ship with it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod node;

use node::{Agent, backup_once, command, http_get, names, text, told, wait_until};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;
use test_support::etcd_binaries::require_usual;
use test_support::etcd_server::Server;

fn deploy(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../deploy")
        .join(path)
}

/// The value of a metric in the text that a server answers.
fn value(metrics: &str, name: &str) -> Option<f64> {
    metrics
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
        .map(|value| value.parse().unwrap())
}

fn needs(program: &str) -> bool {
    let there = Command::new(program).arg("--version").output().is_ok();
    if !there {
        test_support::requirement::skip(&format!("no {program}: install Debian's prometheus"));
    }
    there
}

#[test]
fn metrics_say_what_was_made_and_what_is_kept() {
    let Some(binaries) = require_usual() else {
        return;
    };
    let server = Server::start(&binaries);
    server.client().put(b"key", b"value");
    let dir = TempDir::new().unwrap();
    let repository = dir.path().join("backups");
    assert!(backup_once(&server, &repository, &[]).status.success());
    let mut agent = Agent::start(&server, &repository, &["--schedule", "@every 1s"]);
    let metrics = wait_until("three backups in the metrics", || {
        let (status, metrics) = agent.get("/metrics");
        assert_eq!(status, 200);
        let kept = metrics
            .lines()
            .any(|line| line.contains("backups{origin=\"default\"") && line.ends_with(" 3"));
        kept.then_some(metrics)
    });
    assert!(metrics.contains("etcd_lifeboat_backups{origin=\"on-demand\",cluster_id="));
    assert_eq!(agent.get("/readyz"), (200, "ok\n".into()));
    assert_eq!(agent.get("/healthz"), (200, "ok\n".into()));
    assert_eq!(agent.get("/").0, 404);
    agent.terminate();

    // What was told is what is on the disk, as far as it does not change from run to run.
    let newest = names(&repository, "backup").remove(0);
    let record = std::fs::read(repository.join(newest).join("backup.json")).unwrap();
    let record: Value = serde_json::from_slice(&record).unwrap();
    let snapshot = &record["snapshot"];
    for (name, expected) in [
        ("etcd_lifeboat_enabled", 1.0),
        (
            "etcd_lifeboat_snapshot_revision",
            snapshot["revision"].as_f64().unwrap(),
        ),
        (
            "etcd_lifeboat_snapshot_keys",
            snapshot["total_keys"].as_f64().unwrap(),
        ),
        ("etcd_lifeboat_snapshot_linearized", 1.0),
        ("etcd_lifeboat_cluster_changed", 0.0),
        ("etcd_lifeboat_consecutive_failures", 0.0),
        ("etcd_lifeboat_disk_reserve_bytes", 1_048_576.0),
        ("etcd_lifeboat_failures_total{reason=\"damaged\"}", 0.0),
        ("etcd_lifeboat_failures_total{reason=\"node\"}", 0.0),
    ] {
        assert_eq!(value(&metrics, name), Some(expected), "{name}: {metrics}");
    }
    assert!(value(&metrics, "etcd_lifeboat_runs_total{outcome=\"success\"}").unwrap() >= 3.0);
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs_f64();
    for name in [
        "last_attempt",
        "last_success",
        "last_verified",
        "stale_at",
        "next_due",
    ] {
        let name = format!("etcd_lifeboat_{name}_timestamp_seconds");
        let time = value(&metrics, &name).unwrap();
        assert!((now - time).abs() < 60.0, "{name} is {time}, now is {now}");
    }
    for step in ["ask", "stream", "verify"] {
        let name = format!("etcd_lifeboat_last_run_step_seconds{{step=\"{step}\"}}");
        assert!(value(&metrics, &name).is_some(), "{name}: {metrics}");
    }
    assert!(metrics.contains("etcd_lifeboat_source_info{source=\"stream\",reason=\""));
    assert!(metrics.ends_with("# EOF\n"));
}

#[test]
fn without_a_proven_backup_a_server_is_not_ready_and_says_why() {
    let Some(binaries) = require_usual() else {
        return;
    };
    let mut server = Server::start(&binaries);
    server.stop();
    let dir = TempDir::new().unwrap();
    let mut agent = Agent::start(
        &server,
        &dir.path().join("backups"),
        &["--schedule", "@every 2s"],
    );
    agent.wait_for("failures=1");
    let (status, reason) = agent.get("/readyz");
    assert_eq!(status, 503);
    assert!(
        reason.starts_with("there is no proven backup: cannot connect to "),
        "{reason}"
    );
    assert_eq!(agent.get("/healthz").0, 200);
    let (_, metrics) = agent.get("/metrics");
    let never = "etcd_lifeboat_last_verified_timestamp_seconds";
    assert_eq!(value(&metrics, never), Some(0.0));
    let failed = "etcd_lifeboat_failures_total{reason=\"member\"}";
    assert!(value(&metrics, failed).unwrap() >= 1.0, "{metrics}");
    assert_eq!(agent.terminate(), Some(0));
}

#[test]
fn after_a_restart_the_newest_proven_backup_is_known_at_once() {
    let Some(binaries) = require_usual() else {
        return;
    };
    let server = Server::start(&binaries);
    let dir = TempDir::new().unwrap();
    let repository = dir.path().join("backups");
    let mut agent = Agent::start(&server, &repository, &["--schedule", "@hourly"]);
    agent.wait_for("backup made");
    agent.terminate();
    let again = TempDir::new().unwrap();
    let flags = ["--schedule", "@hourly"];
    let mut agent = Agent::start_logging_in(&server, &repository, again.path(), &flags);
    let made = wait_until("the newest backup", || {
        let (_, metrics) = agent.get("/metrics");
        value(&metrics, "etcd_lifeboat_last_success_timestamp_seconds")
    });
    assert!(made > 1.7e9);
    let (_, metrics) = agent.get("/metrics");
    let runs = "etcd_lifeboat_runs_total{outcome=\"success\"}";
    assert_eq!(value(&metrics, runs), Some(0.0));
    agent.terminate();
}

#[test]
fn another_cluster_shows_until_its_predecessors_backups_are_removed() {
    let Some(binaries) = require_usual() else {
        return;
    };
    let old = Server::start(&binaries);
    let new = node::another_cluster(&binaries);
    let dir = TempDir::new().unwrap();
    let repository = dir.path().join("backups");
    assert!(backup_once(&old, &repository, &[]).status.success());
    let before = names(&repository, "backup").remove(0);
    let mut agent = Agent::start(&new, &repository, &["--schedule", "@every 1s"]);
    let changed = |expected: f64| {
        wait_until("the change of the cluster", || {
            let (_, metrics) = agent.get("/metrics");
            (value(&metrics, "etcd_lifeboat_cluster_changed")? == expected).then_some(())
        });
    };
    changed(1.0);
    std::fs::remove_dir_all(repository.join(before)).unwrap();
    changed(0.0);
    agent.terminate();
}

#[test]
fn a_port_that_somebody_else_has_is_told_and_backups_go_on() {
    let Some(binaries) = require_usual() else {
        return;
    };
    let server = Server::start(&binaries);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let dir = TempDir::new().unwrap();
    let repository = dir.path().join("backups");
    let log_path = dir.path().join("agent.log");
    let child = command(&[
        "backup-server",
        "--min-free",
        "1",
        "--listen",
        &address,
        "--endpoints",
        &server.endpoint,
        "--backup-path",
        text(&repository),
    ])
    .stderr(std::fs::File::create(&log_path).unwrap())
    .spawn()
    .unwrap();
    let mut agent = Agent {
        child,
        log: log_path,
    };
    let log = agent.wait_for("backup made");
    assert!(
        log.contains("cannot listen on") && log.contains("--listen"),
        "{log}"
    );
    assert_eq!(agent.terminate(), Some(0));
}

#[test]
fn connections_that_say_nothing_do_not_use_up_the_files_that_backups_need() {
    let Some(binaries) = require_usual() else {
        return;
    };
    let server = Server::start(&binaries);
    let dir = TempDir::new().unwrap();
    let repository = dir.path().join("backups");
    let few_files = |command: &mut Command| {
        let program = command.get_program().to_owned();
        let args: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
        let mut limited = Command::new("prlimit");
        limited.arg("--nofile=64").arg(program).args(args);
        *command = limited;
    };
    let flags = ["--schedule", "@every 1s"];
    let mut agent = Agent::start_as(few_files, &server, &repository, dir.path(), &flags);
    let log = agent.wait_for("metrics on http://");
    let address = log.split("metrics on http://").nth(1).unwrap();
    let address = address.split('/').next().unwrap();
    let silent: Vec<_> = (0..100)
        .map(|_| std::net::TcpStream::connect(address).unwrap())
        .collect();
    let before = agent.log().matches("backup made").count();
    wait_until("two more backups", || {
        (agent.log().matches("backup made").count() >= before + 2).then_some(())
    });
    assert!(
        !agent.log().contains("Too many open files"),
        "{}",
        agent.log()
    );
    drop(silent);
    agent.terminate();
}

/// A real Prometheus; dropping it ends it.
struct Prometheus {
    child: Child,
    address: String,
}

impl Prometheus {
    fn start(dir: &Path, target: &str) -> Prometheus {
        let rules = deploy("prometheus/alerts.yaml").canonicalize().unwrap();
        let config = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: ['{}']
scrape_configs: [{{job_name: etcd-lifeboat, static_configs: [{{targets: ['{target}']}}]}}]
",
            rules.display()
        );
        std::fs::write(dir.join("prometheus.yml"), config).unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .unwrap();
        let address = port.to_string();
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "prometheus"])
            .arg(format!(
                "--config.file={}",
                dir.join("prometheus.yml").display()
            ))
            .arg(format!(
                "--storage.tsdb.path={}",
                dir.join("data").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(dir.join("prometheus.log")).unwrap())
            .spawn()
            .unwrap();
        let prometheus = Prometheus { child, address };
        wait_until("Prometheus", || {
            std::net::TcpStream::connect(&prometheus.address).ok()?;
            (http_get(&prometheus.address, "/-/ready").0 == 200).then_some(())
        });
        prometheus
    }

    /// The value of an expression, where there is one.
    fn query(&self, expression: &str) -> Option<f64> {
        let expression = expression.replace('=', "%3D").replace('"', "%22");
        let path = format!("/api/v1/query?query={expression}");
        let (status, body) = http_get(&self.address, &path);
        assert_eq!(status, 200, "{body}");
        let body = body.trim_start_matches(|digit: char| digit != '{');
        let body = &body[..=body.rfind('}').unwrap()];
        let answer: Value = serde_json::from_str(body).unwrap();
        let value = answer["data"]["result"][0]["value"][1].as_str()?;
        Some(value.parse().unwrap())
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_real_prometheus_reads_a_real_server_and_its_alerts_follow() {
    let Some(binaries) = require_usual() else {
        return;
    };
    if !needs("prometheus") {
        return;
    }
    let mut server = Server::start(&binaries);
    let dir = TempDir::new().unwrap();
    let repository = dir.path().join("backups");
    let mut agent = Agent::start(&server, &repository, &["--schedule", "@every 1s"]);
    agent.wait_for("backup made");
    let log = agent.wait_for("metrics on http://");
    let target = log.split("metrics on http://").nth(1).unwrap();
    let prometheus = Prometheus::start(dir.path(), target.split('/').next().unwrap());
    let age = wait_until("a backup's age", || {
        prometheus.query("time()-etcd_lifeboat_last_verified_timestamp_seconds")
    });
    assert!((0.0..60.0).contains(&age), "{age}");
    assert_eq!(prometheus.query("up"), Some(1.0));
    let runs = "etcd_lifeboat_runs_total{outcome=\"success\"}";
    assert!(prometheus.query(runs).unwrap() >= 1.0);
    let pending = |alert: &str| {
        prometheus.query(&format!(
            "ALERTS{{alertname=\"{alert}\",alertstate=\"pending\"}}"
        ))
    };
    assert_eq!(pending("EtcdLifeboatBackupStale"), None);
    assert_eq!(pending("EtcdLifeboatBackupFailing"), None);
    // Without etcd, two alerts begin to count their time.
    server.stop();
    wait_until("that the backup is stale", || {
        pending("EtcdLifeboatBackupStale")
    });
    wait_until("that backups fail", || pending("EtcdLifeboatBackupFailing"));
    // Without the agent, a third one.
    agent.terminate();
    wait_until("that the agent is silent", || pending("EtcdLifeboatDown"));
}

#[test]
fn the_alerts_that_ship_fire_when_they_should_and_not_before() {
    if !needs("promtool") {
        return;
    }
    let output = Command::new("promtool")
        .args(["test", "rules", "alerts.test.yaml"])
        .current_dir(deploy("prometheus"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", told(&output));
}

/// The expressions of the dashboard's panels.
fn dashboard_expressions() -> Vec<String> {
    let text = std::fs::read_to_string(deploy("grafana/dashboard.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels
        .iter()
        .filter_map(|panel| panel["targets"].as_array())
        .flatten();
    targets
        .map(|target| target["expr"].as_str().unwrap().to_string())
        .collect()
}

#[test]
fn the_dashboard_and_the_alerts_use_metrics_that_there_are() {
    let Some(binaries) = require_usual() else {
        return;
    };
    let server = Server::start(&binaries);
    let dir = TempDir::new().unwrap();
    let mut agent = Agent::start(
        &server,
        &dir.path().join("backups"),
        &["--schedule", "@every 1s"],
    );
    agent.wait_for("backup made");
    let metrics = wait_until("metrics of a backup", || {
        let (_, metrics) = agent.get("/metrics");
        metrics.contains("snapshot_revision").then_some(metrics)
    });
    agent.terminate();
    // Some have values only on a node with several etcds; of these there is the type.
    let known: BTreeSet<_> = metrics
        .lines()
        .filter_map(|line| match line.strip_prefix("# TYPE ") {
            Some(family) => family.strip_suffix(" gauge"),
            None if line.starts_with('#') => None,
            None => line.split(['{', ' ']).next(),
        })
        .collect();
    let alerts = std::fs::read_to_string(deploy("prometheus/alerts.yaml")).unwrap();
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/metrics.md");
    let docs = std::fs::read_to_string(docs).unwrap();
    let mut used = BTreeSet::new();
    for text in dashboard_expressions().iter().chain([&alerts, &docs]) {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        // The operator's are looked at where it runs.
        let words = words.filter(|word| !word.starts_with("etcd_lifeboat_operator_"));
        used.extend(words.filter(|word| word.starts_with("etcd_lifeboat_")));
        let unknown: Vec<_> = used.difference(&known).collect();
        assert!(unknown.is_empty(), "{unknown:?} in {text}");
    }
    let unexplained: Vec<_> = known.iter().filter(|name| !docs.contains(**name)).collect();
    assert!(unexplained.is_empty(), "{unexplained:?} not in the docs");
}

#[test]
fn prometheus_understands_each_panel_of_the_dashboard() {
    if !needs("promtool") {
        return;
    }
    let dir = TempDir::new().unwrap();
    let rules: Vec<_> = dashboard_expressions()
        .iter()
        .enumerate()
        .map(|(number, expression)| {
            let expression = expression.replace("$instance", ".*");
            serde_json::json!({"record": format!("panel:{number}"), "expr": expression})
        })
        .collect();
    assert!(rules.len() > 5);
    let file = serde_json::json!({"groups": [{"name": "panels", "rules": rules}]});
    let path = dir.path().join("panels.yaml");
    std::fs::write(&path, file.to_string()).unwrap();
    let output = Command::new("promtool")
        .args(["check", "rules", text(&path)])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", told(&output));
}
