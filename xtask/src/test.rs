//! `cargo xtask test`.

use crate::image;
use anyhow::{Context, Result, bail};
use std::process::Command;
use std::time::Instant;
use test_support::etcd_binaries::{USUAL_VERSION, VERSIONS, Version};
use test_support::requirement::SKIPS_FILE;
use xtask::command::{cargo, root, run as run_command, target_dir};
use xtask::etcd;

/// Integration tests that need nothing but a program, or one etcd for some seconds.
const QUICK: [&str; 8] = [
    "backup_server",
    "beside_real_etcd",
    "cluster_backup",
    "damaged_backups",
    "repository",
    "help",
    "hostile_files",
    "platforms",
];

#[derive(clap::Args)]
pub(crate) struct Args {
    /// A first look in less than two minutes, when everything is built: unit tests, and the quick tests beside one etcd
    #[arg(long, conflicts_with_all = ["all", "require_all"])]
    quick: bool,
    /// Fail if a test cannot run on this machine (also with CI=true)
    #[arg(long)]
    require_all: bool,
    /// Also beside the oldest Kubernetes; each older version takes some ten minutes more to build
    #[arg(long)]
    all: bool,
}

/// Runs the tests, and names at the end the tests that this machine cannot run.
pub(crate) fn run(args: &Args) -> Result<()> {
    let start = Instant::now();
    let runner = Runner::find();
    println!("tests are run by {}", runner.name());
    let skips = tempfile::NamedTempFile::new().context("create the list of skipped tests")?;
    let run_tests = |mut tests: Command| run_command(tests.env(SKIPS_FILE, skips.path()));
    if args.quick {
        etcd::provide_one()?;
        run_tests(runner.tests(&["--workspace", "--lib", "--bins"]))?;
        let mut quick = vec!["-p", "lifeboat", "-p", "xtask", "--test", "house"];
        quick.extend(QUICK.iter().flat_map(|test| ["--test", test]));
        run_tests(runner.tests(&quick))?;
        println!(
            "\nthe quick tests passed, in {} s",
            start.elapsed().as_secs()
        );
        return report_skipped(&skipped(&skips)?, false);
    }
    let require_all = args.require_all || std::env::var("CI").is_ok_and(|ci| ci == "true");
    run_command(cargo().args(["fmt", "--all", "--check"]))?;
    // Its last step takes minutes of one processor. The other one has work meanwhile.
    let image = std::thread::spawn(image::for_this_machine);
    let clippy = ["clippy", "--workspace", "--all-targets", "--quiet"];
    run_command(cargo().args(clippy).args(["--", "-D", "warnings"]))?;
    let on_a_node = [
        "clippy",
        "-p",
        "lifeboat",
        "--no-default-features",
        "--quiet",
    ];
    run_command(cargo().args(on_a_node).args(["--", "-D", "warnings"]))?;
    let mut doc = cargo();
    doc.args(["doc", "--workspace", "--no-deps", "--quiet"]);
    run_command(doc.env("RUSTDOCFLAGS", "-D warnings"))?;
    deny()?;
    oldest_rust()?;
    let mut missing = etcd::provide();
    let mut kubernetes = cargo();
    kubernetes.args(["run", "--quiet", "-p", "xtask-cluster", "--", "kubernetes"]);
    if args.all {
        kubernetes.arg("--all");
    }
    if let Err(error) = run_command(&mut kubernetes) {
        missing.push(format!("Kubernetes cannot be built: {error:#}"));
    }
    run_command(cargo().args(["test", "--workspace", "--no-run", "--quiet"]))?;
    match image.join() {
        Ok(Ok(())) => {}
        Ok(Err(error)) => missing.push(format!("the image cannot be built: {error:#}")),
        Err(_) => bail!("the thread that builds the image has panicked"),
    }
    // The tests write what the API server was asked. Only this run counts.
    let _ = std::fs::remove_dir_all(target_dir().join("tmp/asked"));
    run_tests(runner.tests(&["--workspace"]))?;
    run_tests(runner.ignored("rights", None))?;
    if args.all {
        let older = "the_older_kubernetes_runs_as_well";
        run_tests(runner.ignored("kubernetes_cluster", Some(older)))?;
    }
    // The main job once more beside each other version.
    for version in VERSIONS
        .into_iter()
        .filter(|version| *version != Version(3, 6))
    {
        println!("beside etcd {version}:");
        let mut tests = runner.tests(&[
            "-p",
            "lifeboat",
            "--test",
            "backup_server",
            "--test",
            "cluster_backup",
            "--test",
            "killed_at_each_step",
        ]);
        tests.env(USUAL_VERSION, version.to_string());
        run_tests(tests)?;
    }
    println!(
        "\nall tests that can run here passed, in {} s",
        start.elapsed().as_secs()
    );
    missing.extend(skipped(&skips)?);
    report_skipped(&missing, require_all)
}

fn skipped(skips: &tempfile::NamedTempFile) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(skips.path())?;
    let mut skipped: Vec<_> = text.lines().map(str::to_owned).collect();
    skipped.sort();
    Ok(skipped)
}

fn report_skipped(skipped: &[String], require_all: bool) -> Result<()> {
    if skipped.is_empty() {
        println!("skipped: none");
        return Ok(());
    }
    println!("skipped: {}", skipped.len());
    for line in skipped {
        println!("  {line}");
    }
    if require_all {
        bail!(
            "{} tests were skipped, and all were required",
            skipped.len()
        );
    }
    Ok(())
}

/// Licences, sources and duplicate versions of the dependencies, if the tool is installed.
fn deny() -> Result<()> {
    if !has("deny") {
        println!("dependencies are not checked: cargo-deny is not installed");
        return Ok(());
    }
    let checks = [
        "deny",
        "check",
        "--hide-inclusion-graph",
        "bans",
        "licenses",
        "sources",
    ];
    run_command(cargo().args(checks))
}

/// The oldest Rust that Cargo.toml promises, if rustup can have it.
fn oldest_rust() -> Result<()> {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml"))?;
    let version = manifest
        .lines()
        .find_map(|line| line.strip_prefix("rust-version = \"")?.strip_suffix('"'))
        .context("Cargo.toml has a rust-version")?;
    let toolchain = ["toolchain", "install", version, "--profile", "minimal"];
    let installed = Command::new("rustup").args(toolchain).output();
    if !installed.is_ok_and(|output| output.status.success()) {
        println!("Rust {version} is not checked: rustup cannot install it");
        return Ok(());
    }
    let mut check = Command::new("rustup");
    check
        .args(["run", version, "cargo", "check", "--quiet", "--locked"])
        .args(["-p", "lifeboat", "--target-dir"])
        .arg(target_dir().join("oldest-rust"))
        .current_dir(root())
        // Those of the cargo that runs this.
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("CARGO");
    run_command(&mut check)
}

fn has(subcommand: &str) -> bool {
    let version = cargo().args([subcommand, "--version"]).output();
    version.is_ok_and(|output| output.status.success())
}

/// What runs the tests: `cargo nextest` runs tests of all files side by side, and says which are slow.
enum Runner {
    Nextest,
    Cargo,
}

impl Runner {
    fn find() -> Self {
        if has("nextest") {
            Runner::Nextest
        } else {
            Runner::Cargo
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Runner::Nextest => "cargo nextest",
            Runner::Cargo => "cargo test; with cargo-nextest installed it is faster",
        }
    }

    fn tests(&self, which: &[&str]) -> Command {
        let mut tests = cargo();
        match self {
            Runner::Nextest => tests.args(["nextest", "run"]),
            Runner::Cargo => tests.args(["test", "--quiet"]),
        };
        // A failed test hides none of the others.
        tests.arg("--no-fail-fast").args(which);
        tests
    }

    /// Tests of a file of `lifeboat` that run only when they are named.
    fn ignored(&self, file: &str, name: Option<&str>) -> Command {
        let mut tests = self.tests(&["-p", "lifeboat", "--test", file]);
        match self {
            Runner::Nextest => tests.args(["--run-ignored", "only"]).args(name),
            Runner::Cargo => tests.args(["--", "--ignored"]).args(name),
        };
        tests
    }
}
