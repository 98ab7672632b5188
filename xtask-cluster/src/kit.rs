//! What nodes with real kubelets run: built from Go modules, and a few Debian packages that are unpacked and not installed.

use crate::kubernetes;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::Command;
use test_support::etcd_binaries::Binaries;
use test_support::kubernetes::binaries::{Version, find};
use test_support::real_nodes::kit::{PAUSE, REVISION, nodes_dir, scripts};
use test_support::real_nodes::{ImageContent, Kit, with_libraries, write_image};
use xtask::command::{output, root, run as run_command};

/// Beside those of the control plane.
const NODE_PROGRAMS: [&str; 3] = ["kubelet", "kubeadm", "kube-proxy"];
const IN_CONTAINERS: [&str; 4] = [
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kube-proxy",
];
/// nft, which kube-proxy calls, with its libraries; and the library of runc.
const PACKAGES: [&str; 7] = [
    "nftables",
    "libnftables1",
    "libnftnl11",
    "libjansson4",
    "libedit2",
    "libxtables12",
    "libseccomp-dev",
];

/// Builds the kit for these versions, unless it is there.
pub(crate) fn provide(kubernetes: Version, etcd: &Binaries) -> Result<Kit> {
    kubernetes::provide(kubernetes)?;
    let binaries = find(kubernetes).context("the programs of the control plane are missing")?;
    let version = kubernetes::full_version(kubernetes)?;
    let kit = Kit::of(&version, &etcd_version(etcd)?);
    let place = kit.dir.clone();
    if !place.exists() {
        let node_programs = node_programs(kubernetes, &kit.kubernetes)?;
        let runtime = runtime()?;
        let staging = staging("kit")?;
        fill(
            staging.path(),
            &kit,
            &node_programs,
            &runtime,
            binaries.dir(),
            etcd,
        )?;
        publish(staging, &place)?;
    }
    // Scripts are those of this source.
    for (name, text) in scripts() {
        write_program(&place.join(name), &text)?;
    }
    Ok(kit)
}

fn etcd_version(etcd: &Binaries) -> Result<String> {
    let printed = output(Command::new(&etcd.etcd).arg("--version"))?;
    let line = printed.lines().next().unwrap_or_default();
    let version = line.strip_prefix("etcd Version: ");
    Ok(version
        .context("etcd does not print its version")?
        .trim()
        .to_string()
        + "-0")
}

/// The kubelet, kubeadm and kube-proxy.
fn node_programs(version: Version, full: &str) -> Result<PathBuf> {
    let place = nodes_dir().join(format!("kubernetes-{version}"));
    if place.exists() {
        return Ok(place);
    }
    let staging = staging("kubernetes")?;
    let flags = kubernetes::link_flags(version, full);
    let module = format!("kubernetes/{version}");
    go_build(&module, &flags, staging.path(), |go| {
        go.env("CGO_ENABLED", "0")
            .args(NODE_PROGRAMS.map(|name| format!("k8s.io/kubernetes/cmd/{name}")))
    })?;
    publish(staging, &place)?;
    Ok(place)
}

/// containerd, runc, network plugins, the pause program, nft and its libraries.
fn runtime() -> Result<PathBuf> {
    let place = nodes_dir().join(format!("runtime{REVISION}"));
    if place.exists() {
        return Ok(place);
    }
    let staging = staging("runtime")?;
    let to = |name: &str| -> Result<PathBuf> {
        let path = staging.path().join(name);
        std::fs::create_dir_all(&path)?;
        Ok(path)
    };
    let packages = to("packages")?;
    run_command(
        Command::new("apt-get")
            .current_dir(&packages)
            .args(["-qq", "-o", "APT::Sandbox::User=root", "download"])
            .args(PACKAGES),
    )
    .context("get packages of Debian")?;
    for entry in std::fs::read_dir(&packages)? {
        let path = entry?.path();
        run_command(Command::new("dpkg").arg("-x").arg(path).arg(to("debian")?))?;
    }
    let bin = to("bin")?;
    go_build("nodes/containerd", "-s -w", &bin, |go| {
        go.env("CGO_ENABLED", "0")
            .arg("-tags=no_btrfs,no_devmapper,no_zfs")
            .args(
                ["containerd", "containerd-shim-runc-v2", "ctr"]
                    .map(|name| format!("github.com/containerd/containerd/v2/cmd/{name}")),
            )
    })?;
    go_build("nodes/cni", "-s -w", &to("cni")?, |go| {
        go.env("CGO_ENABLED", "0").args(
            [
                "main/bridge",
                "main/loopback",
                "ipam/host-local",
                "meta/portmap",
            ]
            .map(|name| format!("github.com/containernetworking/plugins/plugins/{name}")),
        )
    })?;
    let libraries = library_dir(&to("debian")?)?;
    let include = staging.path().join("debian/usr/include");
    go_build("nodes/runc", "-s -w -extldflags -static", &bin, |go| {
        go.env("CGO_ENABLED", "1")
            .env("CGO_CFLAGS", format!("-I{}", include.display()))
            .env("CGO_LDFLAGS", format!("-L{}", libraries.display()))
            .env("PKG_CONFIG_PATH", libraries.join("pkgconfig"))
            .arg("-tags=seccomp,netgo,osusergo")
            .arg("github.com/opencontainers/runc")
    })?;
    go_build("nodes/pause", "-s -w", &bin, |go| {
        go.env("CGO_ENABLED", "0").arg(".")
    })?;
    publish(staging, &place)?;
    Ok(place)
}

/// Where the libraries of unpacked packages are.
fn library_dir(unpacked: &Path) -> Result<PathBuf> {
    let lib = unpacked.join("usr/lib");
    let mut below = std::fs::read_dir(&lib)?.flatten().map(|entry| entry.path());
    below
        .find(|path| path.join("libseccomp.a").exists())
        .with_context(|| format!("{} has no libseccomp.a", lib.display()))
}

fn fill(
    kit: &Path,
    versions: &Kit,
    node_programs: &Path,
    runtime: &Path,
    control_plane: &Path,
    etcd: &Binaries,
) -> Result<()> {
    for dir in ["bin", "cni", "images", "scripts"] {
        std::fs::create_dir_all(kit.join(dir))?;
    }
    let link_all = |from: &Path, to: &str| -> Result<()> {
        for entry in std::fs::read_dir(from)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default();
            std::fs::hard_link(&path, kit.join(to).join(name))?;
        }
        Ok(())
    };
    link_all(&runtime.join("bin"), "bin")?;
    link_all(&runtime.join("cni"), "cni")?;
    let etcdutl = etcd.etcdutl.iter();
    let more = [
        node_programs.join("kubelet"),
        node_programs.join("kubeadm"),
        control_plane.join("kubectl"),
        etcd.etcdctl.clone(),
    ];
    for path in more.iter().chain(etcdutl.clone()) {
        let name = path.file_name().unwrap_or_default();
        std::fs::copy(path, kit.join("bin").join(name))
            .with_context(|| path.display().to_string())?;
    }
    let image = |name: &str, tag: &str, entrypoint: Option<&str>, files: Vec<(PathBuf, String)>| {
        let out = kit.join(format!("images/{name}-{tag}.tar"));
        let name = format!("registry.k8s.io/{name}:{tag}");
        let content = ImageContent {
            entrypoint,
            files,
            ..ImageContent::default()
        };
        write_image(&out, &name, &content).with_context(|| name.clone())
    };
    for name in IN_CONTAINERS {
        let from = if NODE_PROGRAMS.contains(&name) {
            node_programs
        } else {
            control_plane
        };
        let mut files = vec![(from.join(name), format!("usr/local/bin/{name}"))];
        if name == "kube-proxy" {
            let debian = runtime.join("debian");
            let libraries = library_dir(&debian)?;
            let nft = debian.join("usr/sbin/nft");
            files.extend(with_libraries(&nft, "usr/sbin/nft", Some(&libraries))?);
        }
        image(name, &versions.kubernetes, None, files)?;
    }
    let mut programs = vec![&etcd.etcd, &etcd.etcdctl];
    programs.extend(etcdutl);
    let programs: Vec<_> = programs
        .into_iter()
        .map(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            (path.clone(), format!("usr/local/bin/{name}"))
        })
        .collect();
    image("etcd", &versions.etcd_tag, None, programs)?;
    let pause = || vec![(runtime.join("bin/pause"), "pause".to_string())];
    image("pause", PAUSE, Some("/pause"), pause())?;
    // kubeadm looks for the one of its own version.
    let wanted = output(Command::new(node_programs.join("kubeadm")).args([
        "config",
        "images",
        "list",
        "--kubernetes-version",
        &versions.kubernetes,
    ]))?;
    let mut tags = wanted.lines().filter_map(|line| line.split_once("/pause:"));
    match tags.next() {
        Some((_, tag)) if tag != PAUSE => image("pause", tag, Some("/pause"), pause()),
        _ => Ok(()),
    }
}

fn go_build(
    module: &str,
    link_flags: &str,
    to: &Path,
    what: impl FnOnce(&mut Command) -> &mut Command,
) -> Result<()> {
    let mut go = Command::new("go");
    go.current_dir(root().join("xtask").join(module))
        .args(["build", "-mod=readonly", "-trimpath"])
        .arg(format!("-ldflags={link_flags}"))
        .arg("-o")
        .arg(format!("{}/", to.display()));
    run_command(what(&mut go)).context("build with Go 1.26 or newer")
}

fn staging(name: &str) -> Result<tempfile::TempDir> {
    let dir = nodes_dir();
    std::fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    Ok(tempfile::Builder::new()
        .prefix(&format!(".{name}-"))
        .tempdir_in(&dir)?)
}

/// What is in the cache appears by one rename, and so is whole.
fn publish(staging: tempfile::TempDir, place: &Path) -> Result<()> {
    std::fs::rename(staging.keep(), place).with_context(|| place.display().to_string())
}

fn write_program(path: &Path, text: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    if std::fs::read(path).is_ok_and(|known| known == text.as_bytes()) {
        return Ok(());
    }
    std::fs::write(path, text).with_context(|| path.display().to_string())?;
    Ok(std::fs::set_permissions(
        path,
        std::fs::Permissions::from_mode(0o755),
    )?)
}
