//! What `diff` shows: the keys that a restore changes, beside what real etcd servers have.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod node;

use node::{lifeboat, text, told};
use rstest::rstest;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;
use test_support::bolt_file::{self, write};
use test_support::etcd_binaries::{Version, require, require_usual};
use test_support::etcd_client::{Change, Client, Compared, Comparison, Transaction};
use test_support::etcd_content::Store;
use test_support::etcd_server::{Options, Server};

fn diff(from: &Path, to: &Path) -> Value {
    let output = lifeboat(&["diff", "--output", "json", text(from), text(to)]);
    assert!(output.status.success(), "{}", told(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn refused(args: &[&str]) -> String {
    let output = lifeboat(&[&["diff"], args].concat());
    assert_eq!(output.status.code(), Some(1), "{}", told(&output));
    told(&output)
}

/// Each change, with its key.
fn changes(json: &Value) -> Vec<String> {
    let changes = json["changes"].as_array().unwrap().iter();
    let line = |change: &Value| {
        let text = |field: &str| change[field].as_str().unwrap_or("-").to_string();
        format!("{} {}", text("change"), text("key"))
    };
    changes.map(line).collect()
}

/// A copy of the data directory of a server.
fn copied(server: &Server, dir: &TempDir) -> PathBuf {
    let data_dir = server.db().ancestors().nth(3).unwrap().to_path_buf();
    let copy = dir.path().join("etcd");
    let copying = Command::new("cp")
        .arg("-a")
        .args([&data_dir, &copy])
        .status();
    assert!(copying.unwrap().success());
    copy
}

/// A database without keys.
fn empty_database(dir: &TempDir) -> PathBuf {
    let empty = dir.path().join("empty.db");
    let database = Store::default().database();
    std::fs::write(&empty, write(&database, &bolt_file::Options::default())).unwrap();
    empty
}

/// A server that writes its database only when it stops, so that everything is in its log alone.
fn server_that_writes_only_its_log(version: Version) -> Option<Server> {
    let flags = [
        "--backend-batch-interval=1h",
        "--backend-batch-limit=1000000",
    ];
    let options = Options {
        flags: flags.map(String::from).to_vec(),
        ..Options::default()
    };
    Some(Server::start_with(&require(version)?, &options))
}

#[test]
fn keys_that_vanish_return_or_differ_are_shown_with_their_objects() {
    let Some(binaries) = require_usual() else {
        return;
    };
    let server = Server::start(&binaries);
    let client = server.client();
    let pod = |kind: &str| [b"k8s\0\x0a\x09\x0a\x02v1\x12\x03", kind.as_bytes()].concat();
    client.put(b"/registry/pods/default/stays", &pod("Pod"));
    client.put(b"/registry/pods/default/returns", &pod("Pod"));
    client.put(b"/registry/secrets/default/s", b"k8s:enc:aescbc:v1:k:1");
    client.put(
        b"/registry/events/default/e",
        b"k8s\0\x0a\x0b\x0a\x02v1\x12\x05Event",
    );
    client.put(
        b"/registry/example.com/widgets/ns/w",
        br#"{"apiVersion":"example.com/v1","kind":"Widget","spec":1}"#,
    );
    client.put(b"plain", b"1");
    client.put(b"\xff\x1b[2J", b"1");
    let then = server.snapshot("then.db", &[]);
    client.delete(b"/registry/pods/default/returns", b"");
    client.delete(b"/registry/events/default/e", b"");
    client.delete(b"\xff\x1b[2J", b"");
    client.put(b"/registry/secrets/default/s", b"k8s:enc:aescbc:v1:k:2");
    client.put(
        b"/registry/example.com/widgets/ns/w",
        br#"{"apiVersion":"example.com/v1","kind":"Widget","spec":2}"#,
    );
    // Written again with the same value: a restore changes nothing.
    client.put(b"plain", b"1");
    client.put(b"/registry/pods/default/vanishes", &pod("Pod"));
    client.put(b"/registry/pods/default/vanishes", b"");
    client.put(b"/registry/pods/default/vanishes", &pod("Pod"));
    let now = server.snapshot("now.db", &[]);
    let json = diff(&now, &then);
    assert_eq!(
        changes(&json),
        [
            "returns /registry/events/default/e",
            "differs /registry/example.com/widgets/ns/w",
            "returns /registry/pods/default/returns",
            "vanishes /registry/pods/default/vanishes",
            "differs /registry/secrets/default/s",
            "returns \u{fffd}\u{1b}[2J",
        ]
    );
    let totals = serde_json::json!({"vanish": 1, "return": 3, "differ": 2});
    assert_eq!(json["totals"], totals);
    assert_eq!(json["unchanged"], 2);
    let widget = &json["changes"][1];
    let wanted = ["Widget", "example.com/widgets", "ns", "w"];
    for (field, wanted) in ["kind", "resource", "namespace", "name"].iter().zip(wanted) {
        assert_eq!(widget[field], wanted);
    }
    assert_eq!(widget["from"]["mod_revision"], 13);
    assert_eq!(widget["to"]["mod_revision"], 6);
    let secret = &json["changes"][4];
    assert_eq!(
        (&secret["kind"], &secret["resource"]),
        (&Value::Null, &"secrets".into())
    );
    assert_eq!(json["changes"][5]["key_hex"], "ff1b5b324a");
    assert_eq!(
        json["from"]["revision"],
        json["changes"][3]["from"]["mod_revision"]
    );
    // The other way round.
    let json = diff(&then, &now);
    assert_eq!(json["totals"]["vanish"], 3);
    assert_eq!(json["totals"]["return"], 1);

    let output = lifeboat(&["diff", text(&now), text(&then)]);
    let told = told(&output);
    for line in [
        "Widget           ns         0       0       1",
        "(not an object)             0       1       0",
        "all                         1       3       2",
        "vanishes  Pod default/vanishes",
        "returns   Pod default/returns",
        "differs   secrets default/s",
    ] {
        assert!(told.contains(line), "{line}: {told}");
    }
    assert!(
        !told.contains("Event default/e") && !told.contains('\u{1b}'),
        "{told}"
    );
}

/// A source of numbers that is the same in each run.
struct Numbers {
    state: u64,
    /// Whether the transaction may delete. Otherwise it may keep values: etcd crashes if one does both with a key.
    deletes: bool,
    /// Whether it may contain transactions.
    nests: bool,
}

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        let state = self.state.wrapping_mul(6_364_136_223_846_793_005);
        self.state = state.wrapping_add(1);
        (self.state >> 33) % limit
    }

    fn key(&mut self) -> Vec<u8> {
        format!("key-{:02}", self.below(24)).into_bytes()
    }

    fn range(&mut self) -> (Vec<u8>, Vec<u8>) {
        let key = self.key();
        let end = match self.below(8) {
            0 => b"\0".to_vec(),
            1..4 => self.key(),
            _ => Vec::new(),
        };
        (key, end)
    }

    fn lease(&mut self) -> i64 {
        self.below(5) as i64
    }

    fn value(&mut self) -> Vec<u8> {
        let len = [0, 1, 3, 2000, 70_000][self.below(5) as usize];
        vec![b'a' + self.below(4) as u8; len]
    }

    fn comparison(&mut self, revision: i64) -> Comparison {
        let (key, range_end) = self.range();
        let near = |numbers: &mut Self| revision - numbers.below(30) as i64;
        Comparison {
            key,
            range_end,
            with: match self.below(5) {
                0 => Compared::Version(self.below(4) as i64),
                1 => Compared::CreateRevision(near(self)),
                2 => Compared::ModRevision(near(self)),
                3 => Compared::Value(self.value()),
                _ => Compared::Lease(self.lease()),
            },
            result: self.below(4) as i32,
        }
    }

    fn change(&mut self, revision: i64, depth: u64) -> Change {
        match self.below(9 - depth) {
            0..3 => Change::Put(self.key(), self.value(), self.lease()),
            3 if !self.deletes => Change::PutKeepingLease(self.key(), self.value()),
            4 if !self.deletes => Change::PutKeepingValue(self.key(), self.lease()),
            3..7 if self.deletes => {
                let (key, end) = self.range();
                Change::DeleteRange(key, end)
            }
            3..7 => Change::Put(self.key(), self.value(), 0),
            _ if self.nests => Change::Transaction(self.transaction(revision, depth + 1)),
            _ => Change::Put(self.key(), self.value(), 0),
        }
    }

    fn transaction(&mut self, revision: i64, depth: u64) -> Transaction {
        Transaction {
            comparisons: (0..self.below(3))
                .map(|_| self.comparison(revision))
                .collect(),
            success: (0..self.below(4))
                .map(|_| self.change(revision, depth))
                .collect(),
            failure: (0..self.below(4))
                .map(|_| self.change(revision, depth))
                .collect(),
        }
    }
}

/// What clients do: also requests that are refused before or after they are in the log. From 3.5 on, etcd writes its database when a
/// lease or an alarm is removed.
fn busy_clients(server: &Server, client: &Client, seed: u64, writes_after_removals: bool) {
    let mut numbers = Numbers {
        state: seed,
        deletes: false,
        nests: true,
    };
    let mut accepted = 0;
    for _ in 0..20 {
        client.put(&numbers.key(), &numbers.value());
    }
    for lease in 1..4 {
        client.grant_lease(lease, 3600);
    }
    for step in 0..500 {
        match step {
            // It also writes the database.
            40 => client.compact(client.member_id_and_revision().1 / 2),
            60 => client.revoke_lease(1),
            70 => client.grant_lease(1, 3600),
            200 | 300 if !writes_after_removals => client.revoke_lease(step / 100),
            // Also for another member.
            350 if !writes_after_removals => {
                client.raise_no_space(client.member_id_and_revision().0);
                client.raise_no_space(7);
            }
            // A lease that lasts too long is in the log, and is not granted.
            250 => assert!(!client.try_grant_lease(4, 9_000_000_001)),
            400 if !writes_after_removals => drop(server.etcdctl_ok(&["alarm", "disarm"])),
            470 => client.raise_no_space(client.member_id_and_revision().0),
            _ => {}
        }
        let (_, revision) = client.member_id_and_revision();
        numbers.deletes = numbers.below(2) == 0;
        // Versions of etcd differ in what they do with these while there is no space.
        numbers.nests = !(350..400).contains(&step) && step < 470;
        let transaction = numbers.transaction(revision, 0);
        accepted += u32::from(client.try_transact(transaction));
    }
    assert!(
        accepted > 100,
        "{accepted} of 500 transactions were accepted"
    );
}

#[rstest]
fn the_log_of_a_member_that_crashed_is_read_as_etcd_reads_it(
    #[values(Version(3, 4), Version(3, 5), Version(3, 6), Version(3, 7))] version: Version,
    #[values(1, 2, 3)] seed: u64,
) {
    let Some(mut server) = server_that_writes_only_its_log(version) else {
        return;
    };
    busy_clients(&server, &server.client(), seed, version >= Version(3, 5));
    server.crash();
    let dir = TempDir::new().unwrap();
    let crashed = copied(&server, &dir);
    server.start_again(&require(version).unwrap());
    let after = server.snapshot("after.db", &[]);
    let (_, revision) = server.client().member_id_and_revision();

    let json = diff(&crashed, &after);
    let log = &json["from"]["log"];
    assert!(log["entries"].as_u64().unwrap() > 200, "{log}");
    assert_eq!(log["left_out_entries"], 0, "{log}");
    assert_eq!(changes(&json), [""; 0], "{log}");
    assert_eq!(json["from"]["revision"], revision);
    assert!(json["unchanged"].as_u64().unwrap() > 0, "{json}");
    // Without the log, much is missing.
    let json = diff(&crashed.join("member/snap/db"), &after);
    assert_ne!(changes(&json), [""; 0]);
}

#[test]
fn a_member_that_crashed_while_it_took_over_the_database_of_the_leader_is_read_as_etcd_reads_it() {
    let Some(binaries) = require_usual() else {
        return;
    };
    let options = Options {
        flags: vec!["--snapshot-count=20".into()],
        ..Options::default()
    };
    let mut server = Server::start_with(&binaries, &options);
    let client = server.client();
    client.put(b"before", b"1");
    std::thread::sleep(std::time::Duration::from_millis(300));
    let dir = TempDir::new().unwrap();
    let old = dir.path().join("old");
    server.signal("-STOP");
    std::fs::copy(server.db(), &old).unwrap();
    server.signal("-CONT");
    for number in 0..100u32 {
        client.put(
            format!("key-{}", number % 7).as_bytes(),
            &number.to_le_bytes(),
        );
    }
    client.delete(b"before", b"");
    server.stop();
    // The state at which such a crash leaves the directory: the leader's database is there, under the index of its snapshot.
    let snap = server.db().parent().unwrap().to_path_buf();
    let newest = std::fs::read_dir(&snap)
        .unwrap()
        .filter_map(|entry| {
            entry
                .unwrap()
                .file_name()
                .into_string()
                .unwrap()
                .strip_suffix(".snap")
                .map(String::from)
        })
        .max()
        .unwrap();
    let index = newest.split_once('-').unwrap().1;
    let received = snap.join(format!("{index}.snap.db"));
    std::fs::rename(server.db(), &received).unwrap();
    std::fs::copy(&old, server.db()).unwrap();
    let crashed = copied(&server, &dir);
    server.start_again(&binaries);
    let after = server.snapshot("after.db", &[]);
    let (_, revision) = server.client().member_id_and_revision();
    let json = diff(&crashed, &after);
    assert_eq!(changes(&json), [""; 0]);
    assert_eq!(json["from"]["revision"], revision);
    assert_ne!(changes(&diff(&old, &after)), [""; 0]);
    // Without that database, nobody knows.
    std::fs::remove_file(
        crashed
            .join("member/snap")
            .join(received.file_name().unwrap()),
    )
    .unwrap();
    let message = refused(&[text(&crashed), text(&after)]);
    assert!(
        message.contains("from the leader that is missing"),
        "{message}"
    );
    assert!(
        message.contains("to compare without the log, give"),
        "{message}"
    );
}

#[test]
fn a_log_that_changes_more_keys_than_fit_in_memory_is_left_out_from_there_and_said() {
    let Some(mut server) = server_that_writes_only_its_log(Version(3, 6)) else {
        return;
    };
    let client = server.client();
    let put = |number: u32| Change::Put(format!("{number:0>150}").into_bytes(), b"1".to_vec(), 0);
    // The same keys again and again need no more memory.
    client.transact_many((0..600).map(|_| (0..64).map(put).collect()));
    client.transact_many((0..500u32).map(|batch| (0..64).map(|at| put(batch * 64 + at)).collect()));
    server.crash();
    let dir = TempDir::new().unwrap();
    let crashed = copied(&server, &dir);
    let empty = empty_database(&dir);
    let output = Command::new("prlimit")
        .arg(format!("--data={}", 32 << 20))
        .arg(env!("CARGO_BIN_EXE_etcd-lifeboat"))
        .args(["diff", "--output", "json"])
        .args([&crashed, &empty])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", told(&output));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let log = &json["from"]["log"];
    assert!(log["entries"].as_u64().unwrap() > 600, "{log}");
    assert!(log["left_out_entries"].as_u64().unwrap() > 0, "{log}");
    let vanish = json["totals"]["vanish"].as_u64().unwrap();
    assert!((10_000..32_000).contains(&vanish), "{vanish}");
}

#[test]
fn what_a_log_does_under_authentication_is_left_out_and_said() {
    let Some(mut server) = server_that_writes_only_its_log(Version(3, 6)) else {
        return;
    };
    let client = server.client();
    client.put(b"before", b"1");
    client.enable_auth("secret");
    let user = ["--user", "root:secret"];
    server.etcdctl_ok(&[&user[..], &["put", "after", "1"]].concat());
    server.crash();
    let dir = TempDir::new().unwrap();
    let crashed = copied(&server, &dir);
    let empty = empty_database(&dir);
    let json = diff(&crashed, &empty);
    assert_eq!(changes(&json), ["vanishes before"]);
    let log = &json["from"]["log"];
    assert!(log["left_out_entries"].as_u64().unwrap() > 0, "{log}");
    let reason = log["left_out_because"].as_str().unwrap();
    assert!(reason.contains("authentication"), "{reason}");
    let output = told(&lifeboat(&["diff", text(&crashed), text(&empty)]));
    assert!(output.contains("NOT included"), "{output}");
}

#[test]
fn a_running_member_a_missing_log_and_a_damaged_one_are_refused() {
    let Some(mut server) = server_that_writes_only_its_log(Version(3, 6)) else {
        return;
    };
    server.client().put(b"a", b"1");
    let data_dir = server.db().ancestors().nth(3).unwrap().to_path_buf();
    let snapshot = server.snapshot("s.db", &[]);
    let message = refused(&[text(&data_dir), text(&snapshot)]);
    assert!(message.contains("stop this etcd first"), "{message}");
    server.crash();
    let dir = TempDir::new().unwrap();
    let crashed = copied(&server, &dir);
    assert_eq!(changes(&diff(&crashed, &snapshot)), [""; 0]);

    let log = crashed.join("member/wal");
    let moved = dir.path().join("wal");
    std::fs::rename(&log, &moved).unwrap();
    let message = refused(&[text(&crashed), text(&snapshot)]);
    assert!(message.contains(text(&log)), "{message}");
    let args = [
        "diff",
        "--wal-dir",
        text(&moved),
        text(&crashed),
        text(&snapshot),
    ];
    assert!(lifeboat(&args).status.success());
    std::fs::create_dir(&log).unwrap();
    for entry in std::fs::read_dir(&moved).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[150] ^= 1;
        std::fs::write(log.join(path.file_name().unwrap()), bytes).unwrap();
    }
    let message = refused(&[text(&crashed), text(&snapshot)]);
    assert!(message.contains("at offset"), "{message}");
    assert!(
        message.contains("to compare without the log, give"),
        "{message}"
    );
    for entry in std::fs::read_dir(&log).unwrap() {
        std::fs::remove_file(entry.unwrap().path()).unwrap();
    }
    let message = refused(&[text(&crashed), text(&snapshot)]);
    assert!(message.contains("has no log of etcd"), "{message}");
    // The log of another member.
    let Some(mut other) = server_that_writes_only_its_log(Version(3, 6)) else {
        return;
    };
    for number in 0..50u32 {
        other.client().put(b"foreign", &number.to_le_bytes());
    }
    other.crash();
    let foreign = other.db().ancestors().nth(2).unwrap().join("wal");
    let message = refused(&["--wal-dir", text(&foreign), text(&crashed), text(&snapshot)]);
    assert!(message.contains("is not a member"), "{message}");
    let message = refused(&[
        "--wal-dir",
        text(&foreign),
        text(&snapshot),
        text(&snapshot),
    ]);
    assert!(message.contains("neither of the two is one"), "{message}");
    let message = refused(&[text(&crashed.join("member")), text(&snapshot)]);
    assert!(
        message.contains(&format!("give {}", text(&crashed))),
        "{message}"
    );
}

#[test]
fn four_hundred_thousand_keys_are_compared_in_32_mib() {
    let dir = TempDir::new().unwrap();
    let [now, then] = ["now", "then"].map(|name| dir.path().join(name));
    let mut store = Store::default();
    let key = |number: u32| format!("/registry/pods/some-namespace/{:08}", number.reverse_bits());
    for number in 0..400_000u32 {
        store.put(key(number).as_bytes(), b"v");
    }
    let file = |store: &Store| write(&store.database(), &bolt_file::Options::default());
    std::fs::write(&then, file(&store)).unwrap();
    for number in (0..400_000u32).step_by(4) {
        store.delete(key(number).as_bytes());
        store.put(key(number + 1).as_bytes(), b"w");
    }
    std::fs::write(&now, file(&store)).unwrap();
    let output = Command::new("prlimit")
        .arg(format!("--data={}", 32 << 20))
        .arg(env!("CARGO_BIN_EXE_etcd-lifeboat"))
        .args(["diff", "--output", "json"])
        .args([&now, &then])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", told(&output));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let totals = serde_json::json!({"vanish": 0, "return": 100_000, "differ": 100_000});
    assert_eq!(json["totals"], totals);
    assert_eq!(json["unchanged"], 200_000);
    let keys = json["changes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|change| change["key"].as_str());
    assert!(keys.is_sorted());
}

#[test]
fn a_key_longer_than_any_client_writes_is_named() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("db");
    let mut store = Store::default();
    store.put(&vec![b'k'; 70_000], b"v");
    std::fs::write(
        &file,
        write(&store.database(), &bolt_file::Options::default()),
    )
    .unwrap();
    let message = refused(&[text(&file), text(&file)]);
    assert!(
        message.contains("revision 2/0 has a key of 70000 bytes"),
        "{message}"
    );
}
