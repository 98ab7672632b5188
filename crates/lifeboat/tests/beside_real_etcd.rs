//! `verify` beside real servers of each version and etcd's own tools.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use rstest::rstest;
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};
use test_support::etcd_binaries::{Binaries, VERSIONS, Version, find, require, require_usual};
use test_support::etcd_client::Change;
use test_support::etcd_server::{Options, Server};

fn lifeboat(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_etcd-lifeboat"));
    for variable in ["ENDPOINTS", "CACERT", "CERT", "KEY", "USER", "PASSWORD"] {
        command.env_remove(format!("ETCDCTL_{variable}"));
    }
    command.args(args).output().unwrap()
}

/// What `verify --output json` says, and how it exits.
fn verify(file: &Path, flags: &[&str]) -> (Value, i32) {
    let file = file.to_str().unwrap();
    let output = lifeboat(&[&["verify", "--output", "json"], flags, &[file]].concat());
    let json = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!(
            "{error}: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )
    });
    (json, output.status.code().unwrap())
}

fn check<'r>(report: &'r Value, name: &str) -> &'r Value {
    let checks = report["checks"].as_array().unwrap();
    checks.iter().find(|check| check["name"] == name).unwrap()
}

/// Verifies, expects everything to be fine, and compares each number with `snapshot status`.
fn assert_same_as_etcds_own_tool(file: &Path, flags: &[&str], binaries: &Binaries) -> Value {
    let (report, code) = verify(file, flags);
    assert_eq!(code, 0, "{report:#}");
    assert_eq!(report["ok"], true);
    let output = binaries.snapshot_status(file);
    let status: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    let hash = format!("{:08x}", status["hash"].as_u64().unwrap());
    assert_eq!(report["hash"], hash.as_str());
    assert_eq!(report["revision"], status["revision"]);
    assert_eq!(report["size_bytes"], status["totalSize"]);
    // Before 3.6 the tool counted the elements of all buckets.
    if binaries.version >= Version(3, 6) {
        assert_eq!(report["total_keys"], status["totalKey"]);
    }
    let version = status["version"].as_str().unwrap_or_default();
    assert_eq!(
        report["storage_version"].as_str().unwrap_or_default(),
        version
    );
    report
}

/// Everything that a server can have in its file.
fn fill(server: &Server) {
    let client = server.client();
    for number in 0..300u32 {
        let key = format!("/registry/configmaps/default/map-{}", number % 40);
        client.put(key.as_bytes(), format!("value {number}").as_bytes());
    }
    client.delete(b"/registry/configmaps/default/map-1", b"");
    client.delete(
        b"/registry/configmaps/default/map-2",
        b"/registry/configmaps/default/map-3",
    );
    client.put(b"/registry/configmaps/default/map-1", b"again");
    client.transact((0..50u32).map(|number| {
        let key = format!("/registry/pods/default/pod-{number}");
        Change::Put(key.into_bytes(), vec![b'x'; 2000], 0)
    }));
    client.transact([
        Change::DeleteRange(
            b"/registry/pods/default/pod-1".to_vec(),
            b"/registry/pods/default/pod-2".to_vec(),
        ),
        Change::Put(b"/registry/pods/default/qod".to_vec(), b"q".to_vec(), 0),
    ]);
    // Larger than a page, than what is read at once, and close to what etcd takes.
    for (name, bytes) in [("page", 5_000), ("window", 100_000), ("largest", 1_400_000)] {
        client.put(format!("/big/{name}").as_bytes(), &vec![b'b'; bytes]);
    }
    client.put(
        &vec![b'k'; 70_000],
        b"a key longer than what is read at once",
    );
    for lease in [0x1234, 0x7777] {
        client.grant_lease(lease, 3600);
        let key = format!("/registry/events/default/{lease:x}");
        client.transact([Change::Put(key.into_bytes(), b"event".to_vec(), lease)]);
    }
    client.revoke_lease(0x7777);
}

#[rstest]
fn numbers_and_hash_equal_etcds_own_tool_and_hash_kv_equals_the_members(
    #[values(Version(3, 4), Version(3, 5), Version(3, 6), Version(3, 7))] version: Version,
) {
    let Some(binaries) = require(version) else {
        return;
    };
    let mut server = Server::start(&binaries);
    let against = ["--against", &server.endpoint.clone()];

    let empty = server.snapshot("empty.db", &[]);
    let report = assert_same_as_etcds_own_tool(&empty, &[], &binaries);
    assert_eq!(report["total_keys"], 0);
    assert_eq!(report["current_revision"], 1);
    assert_same_as_etcds_own_tool(&empty, &against, &binaries);

    fill(&server);
    let client = server.client();
    let filled = server.snapshot("filled.db", &[]);
    let report = assert_same_as_etcds_own_tool(&filled, &against, &binaries);
    assert_eq!(check(&report, "member")["ok"], true);
    let keys = server.etcdctl_ok(&["get", "", "--prefix", "--keys-only"]);
    let keys = keys.lines().filter(|line| !line.is_empty()).count();
    assert_eq!(report["total_keys"], keys);

    // The server goes on, and compacts: an older file still has the same hash at its revision.
    let revision = report["current_revision"].as_i64().unwrap();
    client.put(b"later", b"1");
    client.put(b"/registry/configmaps/default/map-5", b"later");
    assert_same_as_etcds_own_tool(&filled, &against, &binaries);
    for compact_revision in [revision / 3, revision / 2, revision - 5] {
        client.compact(compact_revision);
        let report = assert_same_as_etcds_own_tool(&filled, &against, &binaries);
        let detail = check(&report, "member")["detail"].as_str().unwrap();
        let compacted = format!("compacted to {compact_revision},");
        assert!(detail.contains(&compacted), "{detail}");
    }
    let compacted = server.snapshot("compacted.db", &[]);
    let report = assert_same_as_etcds_own_tool(&compacted, &against, &binaries);
    assert_eq!(report["compact_revision"], revision - 5);

    // Compacted beyond the file's revision: no longer comparable, and so not proven.
    let newest = client.put(b"newest", b"1");
    client.compact(newest);
    let (report, code) = verify(&filled, &against);
    assert_eq!((code, &report["ok"]), (1, &Value::Bool(false)));
    let member = check(&report, "member");
    assert_eq!(member["ok"], Value::Null);
    assert!(member["detail"].as_str().unwrap().contains("compacted"));

    let (member_id, _) = client.member_id_and_revision();
    client.raise_no_space(member_id);
    client.defragment();
    let alarmed = server.snapshot("alarmed.db", &[]);
    let report = assert_same_as_etcds_own_tool(&alarmed, &[], &binaries);
    let warnings = check(&report, "content")["warnings"].to_string();
    assert!(warnings.contains("NOSPACE"), "{warnings}");

    // The file of a stopped member has no trailer; whoever says a level expects that.
    server.stop();
    let report = assert_same_as_etcds_own_tool(&server.db(), &["--level", "content"], &binaries);
    assert_eq!(check(&report, "trailer")["ok"], Value::Null);
    let (report, code) = verify(&server.db(), &[]);
    assert_eq!(code, 1);
    assert_eq!(check(&report, "trailer")["ok"], false);
}

#[rstest]
fn a_member_that_wants_certificates_and_a_user_is_compared_with(
    #[values(Version(3, 4), Version(3, 5), Version(3, 6), Version(3, 7))] version: Version,
) {
    let Some(binaries) = require(version) else {
        return;
    };
    let server = Server::start_with(
        &binaries,
        &Options {
            tls: true,
            ..Options::default()
        },
    );
    let pki = server.pki.as_ref().unwrap();
    server.etcdctl_ok(&["put", "key", "value"]);
    server.etcdctl_ok(&["del", "key"]);
    server.etcdctl_ok(&["role", "add", "readers"]);
    server.etcdctl_ok(&["user", "add", "root:secret"]);
    server.etcdctl_ok(&["user", "add", "reader:reads"]);
    server.etcdctl(&["role", "add", "root"]);
    server.etcdctl_ok(&["user", "grant-role", "root", "root"]);
    server.etcdctl_ok(&["user", "grant-role", "reader", "readers"]);
    server.etcdctl_ok(&["auth", "enable"]);
    let file = server.snapshot("auth.db", &["--user", "root:secret"]);

    let paths = [&pki.ca, &pki.client_cert, &pki.client_key].map(|path| path.to_str().unwrap());
    let tls = [
        "--against",
        &server.endpoint,
        "--cacert",
        paths[0],
        "--cert",
        paths[1],
        "--key",
        paths[2],
    ];
    let as_root = [&tls[..], &["--user", "root:secret"]].concat();
    let report = assert_same_as_etcds_own_tool(&file, &as_root, &binaries);
    assert_eq!(check(&report, "member")["ok"], true);

    for (flags, told) in [
        (tls.to_vec(), "user"),
        (
            [&tls[..], &["--user", "root:wrong"]].concat(),
            "invalid user ID or password",
        ),
        (
            [&tls[..], &["--user", "reader:reads"]].concat(),
            "permission denied",
        ),
        (
            tls[..4].to_vec(),
            "the member may require a client certificate",
        ),
        (
            vec!["--against", &server.endpoint, "--cacert", "/no/such/ca"],
            "/no/such/ca",
        ),
    ] {
        let (report, code) = verify(&file, &flags);
        let member = check(&report, "member");
        assert_eq!((code, &member["ok"]), (1, &Value::Null), "{report:#}");
        let detail = member["detail"].as_str().unwrap();
        assert!(detail.contains(told), "expected {told:?} in {detail:?}");
    }

    // etcdctl's variables do what the flags do.
    let output = Command::new(env!("CARGO_BIN_EXE_etcd-lifeboat"))
        .args(["verify", "--level", "member"])
        .arg(&file)
        .env("ETCDCTL_ENDPOINTS", &server.endpoint)
        .env("ETCDCTL_CACERT", paths[0])
        .env("ETCDCTL_CERT", paths[1])
        .env("ETCDCTL_KEY", paths[2])
        .env("ETCDCTL_USER", "root")
        .env("ETCDCTL_PASSWORD", "secret")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}");
}

#[test]
fn a_file_of_another_cluster_does_not_pass_for_the_members() {
    let Some(binaries) = require_usual() else {
        return;
    };
    let (ours, theirs) = (Server::start(&binaries), Server::start(&binaries));
    ours.client().put(b"a", b"1");
    theirs.client().put(b"a", b"2");
    let file = ours.snapshot("ours.db", &[]);
    let (report, code) = verify(&file, &["--against", &theirs.endpoint]);
    assert_eq!(code, 1);
    assert_eq!(check(&report, "member")["ok"], false, "{report:#}");

    // Nor does one from the future of a member that lags.
    ours.client().put(b"a", b"3");
    let file = ours.snapshot("newer.db", &[]);
    let (report, code) = verify(&file, &["--against", &theirs.endpoint]);
    assert_eq!((code, &check(&report, "member")["ok"]), (1, &Value::Null));
}

#[test]
fn nobody_at_the_endpoint_is_told_within_seconds() {
    let Some(binaries) = require_usual() else {
        return;
    };
    let mut server = Server::start(&binaries);
    let file = server.snapshot("file.db", &[]);
    server.stop();
    let (report, code) = verify(&file, &["--against", &server.endpoint]);
    assert_eq!(code, 1);
    let detail = check(&report, "member")["detail"].as_str().unwrap();
    assert!(
        detail.contains("cannot connect to") && detail.contains("refused"),
        "{detail}"
    );
}

#[test]
fn every_flipped_byte_of_a_real_snapshot_is_noticed() {
    let Some(binaries) = require(Version(3, 5)) else {
        return;
    };
    let server = Server::start(&binaries);
    fill(&server);
    let file = server.snapshot("file.db", &[]);
    let whole = std::fs::read(&file).unwrap();
    let damaged = server.dir().join("damaged.db");
    for step in 0..60 {
        let at = step * (whole.len() - 1) / 59;
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        std::fs::write(&damaged, bytes).unwrap();
        let (report, code) = verify(&damaged, &[]);
        assert_eq!((code, &report["ok"]), (1, &Value::Bool(false)), "byte {at}");
    }
    std::fs::write(&damaged, &whole).unwrap();
    assert_eq!(verify(&damaged, &[]).1, 0);
}

#[test]
fn the_db_of_a_running_member_that_changes_meanwhile_is_never_called_whole_by_mistake() {
    let Some(binaries) = require_usual() else {
        return;
    };
    let server = Server::start(&binaries);
    let endpoint = server.endpoint.clone();
    let writes = std::thread::spawn(move || {
        let client = test_support::etcd_client::Client::connect(&endpoint);
        for number in 0..2000u64 {
            client.put(&(number % 500).to_be_bytes(), &[7; 3000]);
        }
    });
    let mut told = 0;
    while !writes.is_finished() {
        let (report, code) = verify(&server.db(), &["--level", "content"]);
        let errors = check(&report, "trailer")["errors"].to_string();
        let tells = errors.contains("the file changed while it was read");
        // Either nobody wrote in that moment, or it is said that somebody did.
        assert_eq!(code == 1, tells, "{report:#}");
        told += usize::from(tells);
    }
    writes.join().unwrap();
    assert!(
        told > 0,
        "nobody wrote while a file was read: the test showed nothing"
    );
}

#[test]
fn the_cursor_finds_what_the_walk_finds_in_real_files() {
    for version in VERSIONS {
        let Some(binaries) = find(version) else {
            continue;
        };
        let server = Server::start(&binaries);
        fill(&server);
        let file = server.snapshot("file.db", &[]);
        // HashKV goes by the cursor, the record count by the walk; both are right or one is wrong.
        let (report, code) = verify(&file, &["--against", &server.endpoint]);
        assert_eq!(code, 0, "{report:#}");
    }
}
