//! Images made of files of this machine, as `docker save` writes them.

use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What an image has: programs, and where they are in it.
#[derive(Debug, Default)]
pub struct ImageContent<'c> {
    /// What a container without a command runs.
    pub entrypoint: Option<&'c str>,
    /// Environment variables, as `NAME=VALUE`.
    pub environment: &'c [&'c str],
    /// Files of this machine, and their paths in the image.
    pub files: Vec<(PathBuf, String)>,
}

/// Writes an image with one layer.
///
/// # Errors
/// A file can't be read, or the image can't be written.
pub fn write_image(out: &Path, name: &str, content: &ImageContent<'_>) -> io::Result<()> {
    let layer_path = out.with_extension("layer");
    let mut layer = tar::Builder::new(File::create(&layer_path)?);
    let mut dirs = BTreeSet::new();
    for dir in ["dev", "etc", "proc", "run", "sys", "tmp", "var"] {
        add_dir(&mut layer, dir, &mut dirs)?;
    }
    for (source, path) in &content.files {
        let path = path.trim_start_matches('/');
        let above: Vec<_> = path.match_indices('/').map(|(at, _)| at).collect();
        for dir in above.iter().filter_map(|at| path.get(..*at)) {
            add_dir(&mut layer, dir, &mut dirs)?;
        }
        let mut header = header(0o755);
        header.set_size(source.metadata()?.len());
        layer.append_data(&mut header, path, File::open(source)?)?;
    }
    drop(layer.into_inner()?);
    let layer_id = sha256_of(&layer_path)?;
    let quoted = |text: &str| format!("\"{text}\"");
    let path = "PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let environment = std::iter::once(path).chain(content.environment.iter().copied());
    let environment: Vec<_> = environment.map(quoted).collect();
    let config = format!(
        r#"{{"architecture":"{}","os":"linux","config":{{"Entrypoint":[{}],"Env":[{}]}},"rootfs":{{"type":"layers","diff_ids":["sha256:{layer_id}"]}}}}"#,
        match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        },
        content.entrypoint.map(quoted).unwrap_or_default(),
        environment.join(","),
    );
    let config_name = format!("{}.json", hex(&Sha256::digest(config.as_bytes())));
    let layer_name = format!("{layer_id}/layer.tar");
    let manifest = format!(
        r#"[{{"Config":"{config_name}","RepoTags":["{name}"],"Layers":["{layer_name}"]}}]"#
    );
    let mut image = tar::Builder::new(File::create(out)?);
    for (name, text) in [(config_name.as_str(), config), ("manifest.json", manifest)] {
        let mut header = header(0o644);
        header.set_size(text.len() as u64);
        image.append_data(&mut header, name, text.as_bytes())?;
    }
    let mut header = header(0o644);
    header.set_size(layer_path.metadata()?.len());
    image.append_data(&mut header, layer_name, File::open(&layer_path)?)?;
    drop(image.into_inner()?);
    std::fs::remove_file(layer_path)
}

/// A program with all libraries that it is linked with, and where they are in an image.
///
/// # Errors
/// `ldd` cannot be run, or does not name libraries that exist.
pub fn with_libraries(
    program: &Path,
    place: &str,
    library_dir: Option<&Path>,
) -> io::Result<Vec<(PathBuf, String)>> {
    let mut ldd = Command::new("ldd");
    ldd.arg(program);
    if let Some(dir) = library_dir {
        ldd.env("LD_LIBRARY_PATH", dir);
    }
    let printed = ldd.output()?.stdout;
    let printed = String::from_utf8_lossy(&printed);
    let mut files = vec![(program.to_path_buf(), place.to_string())];
    for line in printed.lines().map(str::trim) {
        let found = line.split_once(" => ").map_or(line, |(_, path)| path);
        let path = found.split(' ').next().unwrap_or_default();
        if !path.starts_with('/') {
            continue;
        }
        let path = Path::new(path);
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let place = match name.starts_with("ld-") {
            true => format!("lib64/{name}"),
            false => format!("usr/lib/{name}"),
        };
        files.push((path.canonicalize()?, place));
    }
    match files.len() {
        ..=2 => Err(io::Error::other(format!(
            "ldd does not name the libraries of {}: {printed}",
            program.display()
        ))),
        _ => Ok(files),
    }
}

fn header(mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_mode(mode);
    header.set_mtime(0);
    header
}

fn add_dir(
    layer: &mut tar::Builder<File>,
    dir: &str,
    known: &mut BTreeSet<String>,
) -> io::Result<()> {
    if !known.insert(dir.into()) {
        return Ok(());
    }
    let mut header = header(if dir == "tmp" { 0o1777 } else { 0o755 });
    header.set_entry_type(tar::EntryType::Directory);
    header.set_size(0);
    layer.append_data(&mut header, dir, io::empty())
}

fn sha256_of(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buf = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut buf)?;
        if read == 0 {
            return Ok(hex(&hasher.finalize()));
        }
        hasher.update(buf.get(..read).unwrap_or_default());
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
