//! `cargo xtask dist`: programs that run on any Linux of their architecture, since they need no library.

use anyhow::{Context, Result, bail};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use xtask::command::{cargo, output, root, run as run_command, target_dir};

/// An architecture that is built for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Target {
    /// As OCI images and Debian name it.
    pub(crate) architecture: &'static str,
    triple: &'static str,
    /// A compiler that links for it, and the Debian package that has it.
    linker: &'static str,
    package: &'static str,
    /// What runs its programs on other machines, from Debian's qemu-user-static.
    emulator: &'static str,
}

/// All of them; the first is every developer's.
pub(crate) const TARGETS: [Target; 2] = [
    Target {
        architecture: "amd64",
        triple: "x86_64-unknown-linux-musl",
        linker: "x86_64-linux-gnu-gcc",
        package: "gcc-x86-64-linux-gnu",
        emulator: "qemu-x86_64-static",
    },
    Target {
        architecture: "arm64",
        triple: "aarch64-unknown-linux-musl",
        linker: "aarch64-linux-gnu-gcc",
        package: "gcc-aarch64-linux-gnu",
        emulator: "qemu-aarch64-static",
    },
];

/// A program that was built.
pub(crate) struct Built {
    pub(crate) target: Target,
    pub(crate) path: PathBuf,
}

/// Builds for all targets, and says what came of it.
pub(crate) fn run() -> Result<()> {
    let built = build()?;
    let mut sums = String::new();
    for program in &built {
        let bytes = std::fs::read(&program.path)?;
        let name = program
            .path
            .file_name()
            .context("a name")?
            .to_string_lossy();
        let digest: String = Sha256::digest(&bytes)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let mib = bytes.len() as f64 / f64::from(1 << 20);
        let runs = runs(program)
            .unwrap_or_else(|| format!("not run here: no {}", program.target.emulator));
        println!("{}  {mib:.1} MiB, static; {runs}", program.path.display());
        sums += &format!("{digest}  {name}\n");
        let bom = program.path.with_extension("cdx.json");
        std::fs::write(&bom, bill_of_materials(program.target, &digest)?)?;
        println!("{}  what it is built from, in CycloneDX", bom.display());
    }
    std::fs::write(dist_dir().join("SHA256SUMS"), &sums)?;
    print!("{sums}");
    Ok(())
}

/// The crates in a program, as CycloneDX 1.5 (`bom-1.5.schema.json`): those that cargo links for this target.
fn bill_of_materials(target: Target, sha256: &str) -> Result<String> {
    let tree = output(cargo().args([
        "tree",
        "--locked",
        "-p",
        "lifeboat",
        "--target",
        target.triple,
        "--edges",
        "normal",
        "--prefix",
        "none",
        "--format",
        "{p}|{l}",
    ]))?;
    // Each line: a name, its version, for those of this workspace a path, and the license.
    let lines: BTreeSet<_> = tree.lines().map(|line| line.replace(" (*)", "")).collect();
    let mut components = Vec::new();
    for line in &lines {
        let (package, license) = line
            .split_once('|')
            .context("cargo tree prints a license")?;
        let mut words = package.split(' ');
        let (name, version) = (words.next(), words.next());
        let (name, version) = name.zip(version).with_context(|| line.clone())?;
        let version = version.trim_start_matches('v');
        let is_ours = words.next().is_some_and(|word| word.starts_with('('));
        let mut component = json!({
            "type": "library",
            "name": name,
            "version": version,
            "licenses": [{"expression": license}],
        });
        if !is_ours {
            component
                .as_object_mut()
                .context("an object")?
                .insert("purl".into(), json!(format!("pkg:cargo/{name}@{version}")));
        }
        components.push(component);
    }
    let bom = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {
            "type": "application",
            "name": "etcd-lifeboat",
            "version": env!("CARGO_PKG_VERSION"),
            "licenses": [{"expression": "Apache-2.0"}],
            "hashes": [{"alg": "SHA-256", "content": sha256}],
        }},
        "components": components,
    });
    Ok(serde_json::to_string_pretty(&bom)? + "\n")
}

/// Where what is built goes.
pub(crate) fn dist_dir() -> PathBuf {
    target_dir().join("dist")
}

/// Builds for all targets.
pub(crate) fn build() -> Result<Vec<Built>> {
    build_for(&TARGETS)
}

/// Builds for this machine: what is shipped, not what a developer runs.
pub(crate) fn build_here() -> Result<Built> {
    let here = TARGETS
        .into_iter()
        .find(|target| target.triple.starts_with(std::env::consts::ARCH))
        .context("no static program for this machine")?;
    let mut built = build_for(&[here])?;
    built.pop().context("one program for one target")
}

/// One call of cargo for all of them: the last step of each takes minutes of one processor.
fn build_for(targets: &[Target]) -> Result<Vec<Built>> {
    std::fs::create_dir_all(dist_dir())?;
    let mut build = cargo();
    build.args(["build", "--profile", "dist", "--locked", "-p", "lifeboat"]);
    for target in targets {
        let Target {
            architecture,
            triple,
            linker,
            package,
            ..
        } = target;
        if Command::new(linker).arg("--version").output().is_err() {
            bail!("no {linker} to link for {architecture}: install Debian's {package}");
        }
        let installed = output(Command::new("rustup").args(["target", "list", "--installed"]));
        if installed.is_ok_and(|targets| !targets.lines().any(|line| line == *triple)) {
            run_command(Command::new("rustup").args(["target", "add", triple]))?;
        }
        let upper = triple.to_uppercase().replace('-', "_");
        build
            .args(["--target", triple])
            .env(format!("CARGO_TARGET_{upper}_LINKER"), linker)
            .env(format!("CC_{}", triple.replace('-', "_")), linker);
    }
    run_command(build.env("RUSTFLAGS", rust_flags()).env(
        "CFLAGS",
        format!("-ffile-prefix-map={}=/cargo", cargo_home().display()),
    ))?;
    let take = |target: &Target| {
        let name = format!("etcd-lifeboat-linux-{}", target.architecture);
        let path = dist_dir().join(name);
        let from = target_dir().join(target.triple).join("dist/etcd-lifeboat");
        std::fs::copy(&from, &path).with_context(|| from.display().to_string())?;
        check_static(&path)?;
        let target = *target;
        Ok(Built { target, path })
    };
    targets.iter().map(take).collect()
}

/// The same program comes out wherever it is built: no path of the machine is in it.
fn rust_flags() -> String {
    format!(
        "-C target-feature=+crt-static --remap-path-prefix={}=/cargo --remap-path-prefix={}=/etcd-lifeboat",
        cargo_home().display(),
        root().display()
    )
}

fn cargo_home() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cargo");
    std::env::var_os("CARGO_HOME").map_or_else(home, PathBuf::from)
}

/// What the program says of itself, where it can be run.
fn runs(program: &Built) -> Option<String> {
    let version = |command: &mut Command| output(command.arg("--version")).ok();
    let here = version(&mut Command::new(&program.path));
    let emulated = || version(Command::new(program.target.emulator).arg(&program.path));
    let said = here.or_else(emulated)?;
    Some(format!("says {}", said.trim()))
}

/// A static program asks for no loader and no library.
fn check_static(path: &Path) -> Result<()> {
    let listing = output(
        Command::new("readelf")
            .args(["--wide", "-l", "-d"])
            .arg(path),
    )?;
    for needed in ["INTERP", "(NEEDED)"] {
        if listing.contains(needed) {
            bail!("{} is not static: it has {needed}", path.display());
        }
    }
    Ok(())
}
