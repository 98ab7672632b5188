//! Snapshots with one thing wrong each, restored and started by every version of etcd: whatever one of them dies of is refused
//! here, and what all of them take and lose nothing by is not.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use tempfile::TempDir;
use test_support::bolt_file::{Node, Options, Tree, with_trailer, write};
use test_support::etcd_binaries::{Binaries, VERSIONS, require};
use test_support::etcd_content::{Store, revision, set, tombstone};
use test_support::etcd_start::{Started, start};

const LEASE: i64 = 0x0b04_a20e_53c4_e106;

/// A cluster with authentication, a lease and an alarm, of a version that all others read.
fn good() -> Tree {
    let mut records = Store::default();
    records.put(b"a", b"1");
    records.put_with_lease(b"b", b"2", LEASE);
    records.delete(b"a");
    let mut tree = records.database();
    set(&mut tree, "auth", "authEnabled", [1]);
    set(
        &mut tree,
        "authUsers",
        "root",
        *b"\x0a\x04root\x12\x01x\x1a\x04root",
    );
    set(
        &mut tree,
        "authUsers",
        "u1",
        *b"\x0a\x02u1\x12\x01x\x1a\x02r1\x22\x00",
    );
    set(&mut tree, "authRoles", "root", *b"\x0a\x04root");
    set(
        &mut tree,
        "authRoles",
        "r1",
        *b"\x0a\x02r1\x12\x08\x08\x02\x12\x01a\x1a\x01b",
    );
    set(&mut tree, "lease", LEASE.to_be_bytes(), lease(&[]));
    tree
}

/// The lease's value, with something behind it.
fn lease(more: &[u8]) -> Vec<u8> {
    let fields = b"\x08\x86\xc2\x93\x9e\xe5\xc1\xa8\x82\x0b\x10\x90\x1c";
    [&fields[..], more].concat()
}

/// What is expected of `verify`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    /// Some version dies of it.
    Refused,
    /// All versions start, and something is lost: refused as well.
    Harmful,
    /// All versions start, and nothing is lost.
    Taken,
}
use Verdict::{Harmful, Refused, Taken};

struct Case {
    name: String,
    verdict: Verdict,
    file: Vec<u8>,
}

fn case(name: &str, verdict: Verdict, change: impl Fn(&mut Tree)) -> Case {
    let mut tree = good();
    change(&mut tree);
    Case {
        name: name.into(),
        verdict,
        file: with_trailer(write(&tree, &Options::default())),
    }
}

fn nested(tree: &mut Tree, bucket: &[u8], key: &[u8]) {
    let Some(Node::Bucket(bucket)) = tree.get_mut(bucket) else {
        panic!("no such bucket");
    };
    bucket.insert(key.into(), Node::Bucket(Tree::new()));
}

fn cases() -> Vec<Case> {
    let key = LEASE.to_be_bytes();
    let mut all = vec![
        case("as it is", Taken, |_| {}),
        case(
            "a record twice, as a put and as a deletion",
            Refused,
            |tree| {
                let put = b"\x0a\x01n\x10\x09\x18\x09\x20\x01\x2a\x01v";
                set(tree, "key", revision(9, 0), *put);
                set(tree, "key", tombstone(9, 0), *b"\x0a\x01n");
            },
        ),
        case("a record's field 2^29", Refused, |tree| {
            let put = b"\x0a\x01n\x10\x09\x18\x09\x20\x01\x2a\x01v\x80\x80\x80\x80\x10\x01";
            set(tree, "key", revision(9, 0), *put);
        }),
        case("a record's unknown field", Taken, |tree| {
            let put = b"\x0a\x01n\x10\x09\x18\x09\x20\x01\x2a\x01v\x38\x01";
            set(tree, "key", revision(9, 0), *put);
        }),
    ];
    for (name, verdict, bytes) in [
        ("cut number", Refused, &b"\x08\x80"[..]),
        ("known field of another type", Refused, b"\x0a\x01a"),
    ] {
        all.push(case(&format!("lease: {name}"), verdict, |tree| {
            set(tree, "lease", key, bytes);
        }));
    }
    for (name, verdict, more) in [
        ("length beyond the end", Refused, &b"\x22\x05a"[..]),
        ("end of a group", Refused, b"\x24"),
        ("start of a group", Refused, b"\x23"),
        ("field 0", Refused, b"\x00\x00"),
        ("type 6", Refused, b"\x26"),
        ("type 7", Refused, b"\x27"),
        ("field 2^29", Refused, b"\x80\x80\x80\x80\x10\x01"),
        ("tag only", Refused, b"\x10"),
        ("cut fixed64", Refused, b"\x21\x00\x00"),
        (
            "number over 64 bits",
            Refused,
            b"\x20\x80\x80\x80\x80\x80\x80\x80\x80\x80\x02",
        ),
        ("unknown field", Taken, b"\x20\x07"),
        ("longer number than need be", Taken, b"\x20\x81\x00"),
        (
            "endless",
            Harmful,
            b"\x10\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
        ),
    ] {
        all.push(case(&format!("lease: {name}"), verdict, |tree| {
            set(tree, "lease", key, lease(more));
        }));
    }
    for (name, verdict, value) in [
        ("authRevision", Refused, &b""[..]),
        ("authRevision", Refused, b"\0"),
        ("authRevision", Refused, b"\0\0\0\0\0\0\x05"),
        ("authEnabled", Harmful, b""),
        ("authEnabled", Harmful, b"\x02"),
        ("authEnabled", Taken, b"\0"),
    ] {
        all.push(case(&format!("{name} {value:?}"), verdict, |tree| {
            set(tree, "auth", name, value);
        }));
    }
    for (name, verdict, value) in [
        ("cut", Refused, &b"\x0a"[..]),
        ("options cut", Refused, b"\x0a\x02u1\x22\x01\x08"),
        ("role cut", Refused, b"\x0a\x02u1\x12\x01x\x1a\x05a"),
        ("name as a number", Refused, b"\x08\x01"),
        ("options as a number", Refused, b"\x0a\x02u1\x20\x01"),
        ("field 0", Refused, b"\x0a\x02u1\x00\x00"),
        (
            "role that is not there",
            Taken,
            b"\x0a\x02u1\x12\x01x\x1a\x02no\x22\x00",
        ),
        ("without password", Taken, b"\x0a\x02u1\x22\x02\x08\x01"),
    ] {
        all.push(case(&format!("user: {name}"), verdict, |tree| {
            set(tree, "authUsers", "u1", value);
        }));
    }
    for (name, verdict, value) in [
        ("cut", Refused, &b"\x0a"[..]),
        ("permission cut", Refused, b"\x0a\x02r1\x12\x02\x08\x80"),
        ("permission as a number", Refused, b"\x0a\x02r1\x10\x01"),
        (
            "type of a permission as bytes",
            Refused,
            b"\x0a\x02r1\x12\x03\x0a\x01a",
        ),
        ("empty permission", Taken, b"\x0a\x02r1\x12\x00"),
    ] {
        all.push(case(&format!("role: {name}"), verdict, |tree| {
            set(tree, "authRoles", "r1", value);
        }));
    }
    for (name, verdict, alarm) in [
        ("cut", Refused, &b"\x08\x80"[..]),
        ("text", Refused, b"NOSPACE"),
        ("field 0", Refused, b"\x00\x00"),
        ("end of a group", Refused, b"\x0c"),
        ("member as bytes", Refused, b"\x0a\x00"),
        ("of a member that is not there", Taken, b"\x08\x07\x10\x01"),
    ] {
        all.push(case(&format!("alarm: {name}"), verdict, |tree| {
            set(tree, "alarm", alarm, b"");
        }));
    }
    for id in ["zz", "12345678901234567", "0x1"] {
        all.push(case(&format!("removed member {id}"), Refused, |tree| {
            set(tree, "members_removed", id, *b"removed");
        }));
    }
    for (version, verdict) in [
        ("3.5", Refused),
        ("", Refused),
        ("v3.5.0", Refused),
        ("4.0.0", Refused),
        ("3.4.0", Taken),
    ] {
        all.push(case(
            &format!("cluster version {version:?}"),
            verdict,
            |tree| {
                set(tree, "cluster", "clusterVersion", version);
            },
        ));
    }
    for (state, verdict) in [
        ("no JSON", Refused),
        ("{\"target-version\":5,\"enabled\":false}", Refused),
        ("{\"target-version\":\"x\",\"enabled\":true}", Refused),
        ("{\"target-version\":\"x\",\"enabled\":false}", Taken),
        ("null", Taken),
    ] {
        all.push(case(&format!("downgrade {state}"), verdict, |tree| {
            set(tree, "cluster", "downgrade", state);
        }));
    }
    for version in ["4.0.0", "3.4.0"] {
        all.push(case(
            &format!("storage version {version}"),
            Refused,
            |tree| {
                set(tree, "meta", "storageVersion", version);
            },
        ));
    }
    for (bucket, name) in [("auth", "authRevision"), ("cluster", "clusterVersion")] {
        all.push(case(&format!("bucket {name}"), Refused, |tree| {
            nested(tree, bucket.as_bytes(), name.as_bytes());
        }));
    }
    let options = Options {
        txid: u64::MAX,
        ..Options::default()
    };
    all.push(Case {
        name: "the last transaction there is".into(),
        verdict: Refused,
        file: with_trailer(write(&good(), &options)),
    });
    all
}

fn verify(file: &Path) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_etcd-lifeboat"));
    let output = command.arg("verify").arg(file).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.success(), text)
}

#[test]
fn whatever_a_version_of_etcd_does_not_start_from_is_refused_and_nothing_else() {
    let all: Option<Vec<Binaries>> = VERSIONS.into_iter().map(require).collect();
    let Some(all) = all else { return };
    let dir = TempDir::new().unwrap();
    let cases = cases();
    assert!(cases.len() >= 60, "{}", cases.len());
    let files: Vec<PathBuf> = (0..cases.len())
        .map(|number| dir.path().join(format!("{number}.db")))
        .collect();
    for (case, file) in cases.iter().zip(&files) {
        std::fs::write(file, &case.file).unwrap();
    }
    let next = AtomicUsize::new(0);
    let wrong = Mutex::new(Vec::new());
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some((case, file)) = cases.get(number).zip(files.get(number)) else {
                return;
            };
            let (ok, told) = verify(file);
            let died: Vec<_> = all
                .iter()
                .filter_map(|binaries| match start(binaries, file) {
                    Started::Serves => None,
                    Started::Died(problem) => Some(format!("{}: {problem}", binaries.version)),
                })
                .collect();
            let as_expected = match case.verdict {
                Refused => !ok && !died.is_empty(),
                Harmful => !ok && died.is_empty(),
                Taken => ok && died.is_empty(),
            };
            if !as_expected {
                let (name, verdict) = (&case.name, case.verdict);
                let problem = format!("{name}: expected {verdict:?}\n{died:#?}\n{told}");
                wrong.lock().unwrap().push(problem);
            }
        }
    };
    // They wait for each other's disks and ports, and not for a processor.
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(work);
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
