//! What a person may give to `verify` by mistake, and what somebody may have made on purpose.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use rstest::rstest;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use test_support::bolt_file::{Options, meta, with_trailer, write};
use test_support::etcd_content::Store;

/// Runs `verify` with 32 MiB for its data, stacks included, and gives its exit code and all it printed.
///
/// The address space would be no bound: the code of an unoptimized program takes most of it.
fn verify(path: &Path, flags: &[&str]) -> (i32, String) {
    const DATA_BYTES: u64 = 32 << 20;
    let mut child = Command::new("prlimit")
        .arg(format!("--data={DATA_BYTES}"))
        .arg(env!("CARGO_BIN_EXE_etcd-lifeboat"))
        .arg("verify")
        .args(flags)
        .arg(path)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("run prlimit (Debian package util-linux)");
    let deadline = Instant::now() + Duration::from_secs(60);
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("verify {} does not end", path.display());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output().unwrap();
    let told = [output.stdout, output.stderr].concat();
    let told = String::from_utf8_lossy(&told).into_owned();
    let code = output.status.code();
    (
        code.unwrap_or_else(|| panic!("{}: {told}", output.status)),
        told,
    )
}

fn store() -> Store {
    let mut store = Store::default();
    for number in 0..200u32 {
        store.put(format!("key-{}", number % 50).as_bytes(), &[b'v'; 300]);
    }
    store
}

fn snapshot() -> Vec<u8> {
    with_trailer(write(&store().database(), &Options::default()))
}

#[test]
fn what_is_no_file_is_told_at_once() {
    let dir = TempDir::new().unwrap();
    let pipe = dir.path().join("pipe");
    assert!(
        Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    let socket = dir.path().join("socket");
    let _socket = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    for (path, told) in [
        (dir.path(), "contains no snapshot_*.db"),
        (&pipe, "is a named pipe, expected a file"),
        (&socket, "socket"),
        (Path::new("/dev/zero"), "is a device, expected a file"),
        (Path::new("/dev/null"), "is a device, expected a file"),
        (Path::new("/no/such/file"), "No such file"),
    ] {
        let (code, text) = verify(path, &[]);
        assert_eq!(code, 1, "{text}");
        assert!(text.starts_with("error: ") && text.contains(told), "{text}");
        assert!(text.contains(path.to_str().unwrap()), "{text}");
    }
}

#[test]
fn files_that_are_nothing_of_etcds_are_told() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("file");
    for (bytes, told) in [
        (Vec::new(), "the file is empty"),
        (b"hello".to_vec(), "no valid meta page"),
        (
            vec![0; 8192],
            "no valid meta page: page 0: magic is 00000000",
        ),
        (vec![b'x'; 100_000], "no valid meta page"),
        (snapshot()[..10_000].to_vec(), "the file is truncated"),
    ] {
        std::fs::write(&file, bytes).unwrap();
        let (code, text) = verify(&file, &[]);
        assert_eq!(code, 1, "{text}");
        assert!(text.contains("NOT OK") && text.contains(told), "{text}");
    }
}

#[test]
fn a_backup_directory_is_verified_by_the_snapshot_in_it() {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("snapshot_2026-01-02_030405.db"), snapshot()).unwrap();
    std::fs::write(dir.path().join("static_kuberesources.tar.gz"), "").unwrap();
    let (code, text) = verify(dir.path(), &[]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("snapshot_2026-01-02_030405.db: ok"), "{text}");
    std::fs::write(dir.path().join("snapshot_2026-01-02_030406.db"), snapshot()).unwrap();
    let (code, text) = verify(dir.path(), &[]);
    assert_eq!(code, 1);
    assert!(text.contains("several snapshots: give one of them: snapshot_2026-01-02_030405.db, "));
}

#[test]
fn damage_is_told_with_its_page_and_bucket() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("snapshot.db");
    let mut bytes = snapshot();
    // The id of page 2, the first leaf page of bucket "key".
    bytes[2 * 4096] = 77;
    std::fs::write(&file, &bytes).unwrap();
    let (code, text) = verify(&file, &[]);
    assert_eq!(code, 1);
    let told =
        "error: structure: page 2, offset 8192, bucket \"key\": the page header says it is page 77";
    assert!(text.contains(told), "{text}");
    let (_, json) = verify(&file, &["--output", "json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["ok"], false);
    assert_eq!(json["hash"], serde_json::Value::Null);
    assert_eq!(json["checks"][0]["name"], "trailer");
    assert_eq!(json["checks"][0]["ok"], false);
    assert_eq!(json["checks"][1]["ok"], false);
    assert_eq!(json["checks"][2]["ok"], serde_json::Value::Null);
}

#[test]
fn a_wrong_trailer_alone_is_damage() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("snapshot.db");
    let mut bytes = snapshot();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    let (code, text) = verify(&file, &[]);
    assert_eq!(code, 1);
    assert!(text.contains("SHA-256 is"), "{text}");
    // All else is told all the same.
    assert!(
        text.contains("200 records up to revision 201, 50 keys"),
        "{text}"
    );
    bytes.push(0);
    std::fs::write(&file, &bytes).unwrap();
    let (code, text) = verify(&file, &["--level", "trailer"]);
    assert_eq!(code, 1);
    assert!(
        text.contains("33 bytes after the last full sector"),
        "{text}"
    );
}

#[test]
fn a_file_that_claims_terabytes_takes_neither_memory_nor_time() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("db");
    let options = Options::default();
    for pages in [1 << 26, 1 << 31] {
        let mut bytes = meta(&options, 0, 10, 3, u64::MAX, pages);
        bytes.resize(4096, 0);
        std::fs::write(&file, bytes).unwrap();
        let sparse = std::fs::File::options().write(true).open(&file).unwrap();
        sparse.set_len(pages * 4096).unwrap();
        let (code, text) = verify(&file, &["--level", "content"]);
        assert_eq!(code, 1, "{text}");
    }
}

/// The budget holds with more keys than the table in memory, which spill to a scratch file.
#[rstest]
#[case::content(&["--level", "content"])]
#[case::structure(&["--level", "structure"])]
fn four_hundred_thousand_keys_fit_in_the_memory_budget(#[case] flags: &[&str]) {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("db");
    let mut store = Store::default();
    for number in 0..400_000u32 {
        store.put(&number.to_le_bytes(), b"v");
    }
    for number in (0..400_000u32).step_by(4) {
        store.delete(&number.to_le_bytes());
    }
    std::fs::write(&file, write(&store.database(), &Options::default())).unwrap();
    let (code, text) = verify(&file, &[flags, &["--output", "json"]].concat());
    assert_eq!(code, 0, "{text}");
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["total_keys"], 300_000);
}

#[test]
fn a_full_temporary_directory_is_told_and_is_no_damage() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("db");
    let mut store = Store::default();
    for number in 0..150_000u32 {
        store.put(&number.to_le_bytes(), b"v");
    }
    std::fs::write(&file, write(&store.database(), &Options::default())).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_etcd-lifeboat"))
        .args(["verify", "--level", "content", "--output", "json"])
        .arg(&file)
        .env("TMPDIR", "/no/such/dir")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let structure = &json["checks"][1];
    assert_eq!(structure["ok"], serde_json::Value::Null);
    let detail = structure["detail"].as_str().unwrap();
    assert!(
        detail.contains("/no/such/dir") && detail.contains("TMPDIR"),
        "{detail}"
    );
}

#[test]
fn values_larger_than_the_memory_budget_are_read_piece_by_piece() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("db");
    let mut store = Store::default();
    store.put(b"large", &vec![b'x'; 100 << 20]);
    store.put(&vec![b'k'; 70 << 20], b"a key that no server would take");
    std::fs::write(&file, write(&store.database(), &Options::default())).unwrap();
    let (code, text) = verify(&file, &["--level", "content"]);
    assert_eq!(code, 0, "{text}");
    assert!(
        text.contains("2 records up to revision 3, 2 keys"),
        "{text}"
    );
}
