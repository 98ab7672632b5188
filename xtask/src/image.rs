//! `cargo xtask image`: an OCI image from scratch that holds the program and nothing else, for all
//! architectures, the same bytes each time. (The formats are those of the OCI image specification 1.1.)

use crate::dist::{self, Built};
use anyhow::{Context, Result, ensure};
use flate2::write::GzEncoder;
use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use test_support::requirement::SHIPPED_IMAGE;
use xtask::command::{output, root, run as run_command, target_dir};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// All times: nothing of an image depends on when it was made.
const CREATED: &str = "1970-01-01T00:00:00Z";

/// Makes it.
pub(crate) fn run() -> Result<()> {
    let programs = dist::build()?;
    let path = dist::dist_dir().join("etcd-lifeboat.oci.tar");
    make(&programs, &path)?;
    let bytes = std::fs::read(&path)?;
    println!(
        "{}  {:.1} MiB\n{}",
        path.display(),
        bytes.len() as f64 / f64::from(1 << 20),
        digest(&bytes)
    );
    check(&path, &programs)
}

/// Makes it for this machine's architecture only, for tests, where tests look for it.
pub(crate) fn for_this_machine() -> Result<()> {
    let program = dist::build_here()?;
    let dir = target_dir().join("tmp");
    std::fs::create_dir_all(&dir)?;
    make(&[program], &dir.join(SHIPPED_IMAGE))
}

fn make(programs: &[Built], path: &Path) -> Result<()> {
    let mut image = Image::default();
    let mut manifests = Vec::new();
    for built in programs {
        let program = std::fs::read(&built.path)?;
        manifests.push(image.add(built.target.architecture, &program)?);
    }
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests});
    let index = image.blob(INDEX, index.to_string().into_bytes());
    image.write(path, index)
}

/// Whether tools of others find in the image what was put into it.
fn check(image: &Path, programs: &[Built]) -> Result<()> {
    for tool in ["skopeo", "umoci"] {
        if Command::new(tool).arg("--version").output().is_err() {
            let missing = format!("not checked: no {tool}, install Debian's {tool}");
            ensure!(!std::env::var("CI").is_ok_and(|ci| ci == "true"), missing);
            println!("{missing}");
            return Ok(());
        }
    }
    let dir = tempfile::tempdir()?;
    for program in programs {
        let architecture = program.target.architecture;
        // skopeo takes the image of the architecture, and compares every digest on the way.
        let layout = dir.path().join(format!("{architecture}-layout"));
        let copy = format!("oci:{}:latest", layout.display());
        run_command(
            Command::new("skopeo")
                .args(["copy", "--quiet", "--override-arch", architecture])
                .arg(format!("oci-archive:{}", image.display()))
                .arg(&copy),
        )?;
        let shown = output(Command::new("skopeo").args(["inspect", "--config", &copy]))?;
        let shown: Value = serde_json::from_str(&shown)?;
        ensure!(
            shown.pointer("/architecture") == Some(&json!(architecture))
                && shown.pointer("/config/Entrypoint/0") == Some(&json!("/etcd-lifeboat")),
            "{shown}"
        );
        let bundle = dir.path().join(format!("{architecture}-bundle"));
        run_command(
            Command::new("umoci")
                .args(["unpack", "--rootless", "--image"])
                .arg(format!("{}:latest", layout.display()))
                .arg(&bundle),
        )?;
        let unpacked = bundle.join("rootfs/etcd-lifeboat");
        ensure!(
            std::fs::read(&unpacked)? == std::fs::read(&program.path)?,
            "{architecture}: another program came out than went in"
        );
        let mode =
            std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&unpacked)?.permissions());
        ensure!(
            mode & 0o777 == 0o755,
            "{architecture}: its mode is {mode:o}"
        );
    }
    println!("skopeo and umoci find in it what was put into it");
    Ok(())
}

/// The blobs of an image, by digest.
#[derive(Default)]
struct Image(std::collections::BTreeMap<String, Vec<u8>>);

impl Image {
    /// Adds bytes, and gives their descriptor.
    fn blob(&mut self, media_type: &str, bytes: Vec<u8>) -> Value {
        let digest = digest(&bytes);
        let size = bytes.len();
        self.0.insert(digest.clone(), bytes);
        json!({"mediaType": media_type, "digest": digest, "size": size})
    }

    /// Adds the image of an architecture, and gives its descriptor.
    fn add(&mut self, architecture: &str, program: &[u8]) -> Result<Value> {
        let layer = layer(program)?;
        let diff_id = digest(&layer);
        let mut packed: GzEncoder<Vec<u8>> = GzBuilder::new()
            .mtime(0)
            .write(Vec::new(), Compression::best());
        packed.write_all(&layer)?;
        let layer = self.blob(LAYER, packed.finish()?);
        let version = env!("CARGO_PKG_VERSION");
        let revision = output(
            Command::new("git")
                .args(["rev-parse", "HEAD"])
                .current_dir(root()),
        )?;
        let revision = revision.trim();
        let labels = json!({
            "org.opencontainers.image.title": "etcd-lifeboat",
            "org.opencontainers.image.description": "Proven backups of etcd",
            "org.opencontainers.image.version": version,
            "org.opencontainers.image.licenses": "Apache-2.0",
            // The commit of the sources.
            "org.opencontainers.image.revision": revision,
        });
        let config = json!({
            "created": CREATED,
            "architecture": architecture,
            "os": "linux",
            "config": {
                "User": "0:0",
                "Entrypoint": ["/etcd-lifeboat"],
                "WorkingDir": "/",
                "Labels": labels,
            },
            "rootfs": {"type": "layers", "diff_ids": [diff_id]},
            "history": [{"created": CREATED, "created_by": "cargo xtask image"}],
        });
        let config = self.blob(CONFIG, config.to_string().into_bytes());
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config,
            "layers": [layer],
            "annotations": labels,
        });
        let mut descriptor = self.blob(MANIFEST, manifest.to_string().into_bytes());
        if let Some(fields) = descriptor.as_object_mut() {
            let platform = json!({"architecture": architecture, "os": "linux"});
            fields.insert("platform".into(), platform);
        }
        Ok(descriptor)
    }

    /// Writes an archive of the image's layout.
    fn write(&self, path: &Path, mut index: Value) -> Result<()> {
        let version = env!("CARGO_PKG_VERSION");
        if let Some(fields) = index.as_object_mut() {
            let name = json!({"org.opencontainers.image.ref.name": version});
            fields.insert("annotations".into(), name);
        }
        let top = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [index]});
        let file = std::fs::File::create(path).with_context(|| path.display().to_string())?;
        let mut tar = tar::Builder::new(file);
        let layout = br#"{"imageLayoutVersion":"1.0.0"}"#;
        add_file(&mut tar, "oci-layout", 0o644, layout)?;
        add_file(&mut tar, "index.json", 0o644, top.to_string().as_bytes())?;
        add_dir(&mut tar, "blobs/", 0o755)?;
        add_dir(&mut tar, "blobs/sha256/", 0o755)?;
        for (digest, bytes) in &self.0 {
            let name = PathBuf::from("blobs").join(digest.replace(':', "/"));
            add_file(&mut tar, &name.to_string_lossy(), 0o644, bytes)?;
        }
        tar.finish()?;
        Ok(())
    }
}

/// What is in the image: the program, and a place for scratch files where nobody names another.
fn layer(program: &[u8]) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    add_file(&mut tar, "etcd-lifeboat", 0o755, program)?;
    add_dir(&mut tar, "var/", 0o755)?;
    add_dir(&mut tar, "var/tmp/", 0o1777)?;
    Ok(tar.into_inner()?)
}

fn header(mode: u32, kind: tar::EntryType, size: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header
}

fn add_file(tar: &mut tar::Builder<impl Write>, name: &str, mode: u32, bytes: &[u8]) -> Result<()> {
    let mut header = header(mode, tar::EntryType::Regular, bytes.len() as u64);
    Ok(tar.append_data(&mut header, name, bytes)?)
}

fn add_dir(tar: &mut tar::Builder<impl Write>, name: &str, mode: u32) -> Result<()> {
    let mut header = header(mode, tar::EntryType::Directory, 0);
    Ok(tar.append_data(&mut header, name, &[][..])?)
}

fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("sha256:{hex}")
}
