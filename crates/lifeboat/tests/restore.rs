//! What `restore` makes: data directories that real etcd servers start from, and that are those of `etcdutl`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod node;

use node::restoring::{hash_kv, refused, restored, revision, start_restored};
use node::{backup_once, fill, lifeboat, names, text, told};
use rstest::rstest;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use test_support::etcd_binaries::{Version, find, require, require_dump_logs, require_usual};
use test_support::etcd_client::Change;
use test_support::etcd_server::{Prepared, Server};

/// Everything that a database can have.
fn fill_with_everything(server: &Server) {
    fill(server, 1);
    let client = server.client();
    for number in 0..200u32 {
        client.put(format!("key-{}", number % 30).as_bytes(), b"value");
    }
    client.delete(b"key-1", b"key-2");
    client.put(b"big", &vec![b'x'; 1_400_000]);
    client.grant_lease(0x1234, 3600);
    client.transact([Change::Put(b"leased".to_vec(), b"1".to_vec(), 0x1234)]);
    server.etcdctl_ok(&["role", "add", "root"]);
    server.etcdctl_ok(&["user", "add", "root:secret"]);
    server.etcdctl_ok(&["user", "grant-role", "root", "root"]);
}

/// Adds a learner, and waits until it has the data of `server`.
fn gains_a_learner(server: &Server) {
    let learner = Server::start_learner(server);
    let wanted = revision(server);
    let deadline = Instant::now() + Duration::from_secs(20);
    while revision(&learner) < wanted {
        assert!(Instant::now() < deadline, "the learner does not catch up");
        std::thread::sleep(Duration::from_millis(50));
    }
    server.promote(&learner);
    assert_eq!(hash_kv(server, wanted), hash_kv(&learner, wanted));
}

#[rstest]
fn etcd_starts_from_what_is_restored_and_lives_on(
    #[values(Version(3, 4), Version(3, 5), Version(3, 6), Version(3, 7))] version: Version,
    #[values(false, true)] bump: bool,
) {
    let Some(binaries) = require(version) else {
        return;
    };
    let source = Server::start(&binaries);
    fill_with_everything(&source);
    let compacted = revision(&source) / 2;
    source.client().compact(compacted);
    let snapshot = source.snapshot("s.db", &[]);
    let before = revision(&source);
    let hash = hash_kv(&source, before);
    let flags: &[&str] = match bump {
        true => &["--bump-revision", "1000000", "--mark-compacted"],
        false => &[],
    };
    let (mut server, result) = start_restored(&binaries, text(&snapshot), flags);
    let client = server.client();
    let (member_id, now) = client.member_id_and_revision();
    assert_eq!(result["member_id"], format!("{member_id:x}"));
    assert_eq!(result["revision"], now);
    if bump {
        assert_eq!(now, before + 1_000_000);
        let old = before.to_string();
        let output = server.etcdctl(&["get", "big", "--rev", &old]);
        assert!(
            told(&output).contains("has been compacted"),
            "{}",
            told(&output)
        );
        // A watch that goes on where it was hears that it must read everything again.
        let output = server.etcdctl(&["watch", "big", "--rev", &old]);
        assert!(
            told(&output).contains("has been compacted"),
            "{}",
            told(&output)
        );
    } else {
        assert_eq!(now, before);
        assert_eq!(hash_kv(&server, before), hash);
    }
    let count = |server: &Server| {
        let keys = server.etcdctl_ok(&["get", "", "--prefix", "--keys-only"]);
        keys.lines().filter(|line| !line.is_empty()).count()
    };
    assert_eq!(count(&server), count(&source));
    assert!(server.etcdctl_ok(&["user", "list"]).contains("root"));
    assert!(server.etcdctl_ok(&["lease", "list"]).contains("1234"));

    assert_eq!(client.put(b"new", b"1"), now + 1);
    server.crash();
    server.start_again(&binaries);
    assert!(server.etcdctl_ok(&["get", "new"]).contains('1'));
    server.client().defragment();
    let again = server.snapshot("again.db", &[]);
    let output = lifeboat(&["verify", text(&again)]);
    assert!(output.status.success(), "{}", told(&output));
    let output = binaries.snapshot_status(&again);
    assert!(output.status.success(), "{}", told(&output));
    gains_a_learner(&server);
}

/// The buckets of a database, by bbolt's own reading of them in `etcdutl`'s result and in ours.
fn buckets(db: &Path) -> BTreeMap<String, BTreeMap<Vec<u8>, Vec<u8>>> {
    use etcd_file::bolt::{Bolt, Rewrite};
    let file = std::fs::read(db).unwrap();
    let bolt = Bolt::open(&file).unwrap();
    let rewrite = Rewrite::of(&bolt).unwrap();
    [
        "alarm",
        "auth",
        "authRoles",
        "authUsers",
        "cluster",
        "key",
        "lease",
        "members",
        "members_removed",
        "meta",
    ]
    .into_iter()
    .filter(|name| rewrite.has_bucket(name.as_bytes()))
    .map(|name| (name.into(), rewrite.read(name.as_bytes()).unwrap()))
    .collect()
}

/// The records of a log.
fn records(wal_dir: &Path) -> Vec<String> {
    use etcd_file::raft::{Segment, WalWriter, read_wal};
    let bytes = std::fs::read(wal_dir.join(WalWriter::FILE)).unwrap();
    let mut records = Vec::new();
    let segment = Segment {
        name: WalWriter::FILE.into(),
        bytes: &bytes,
    };
    let end = read_wal(&[segment], &mut |record| {
        // From 3.7 on, etcd leaves out the id of a change, which is 0.
        let record = format!("{record:?}").replace("data: [8, 0, ", "data: [");
        records.push(record);
        Ok(())
    });
    assert!(!end.unwrap().is_torn);
    records
}

#[rstest]
fn the_data_directory_is_that_of_etcdutl(
    #[values(Version(3, 5), Version(3, 6), Version(3, 7))] version: Version,
    #[values(1, 3)] members: usize,
    #[values(false, true)] bump: bool,
) {
    let Some(binaries) = require(version) else {
        return;
    };
    let source = Server::start(&binaries);
    fill_with_everything(&source);
    let snapshot = source.snapshot("s.db", &[]);
    let dir = TempDir::new().unwrap();
    let (ours, theirs) = (dir.path().join("ours"), dir.path().join("theirs"));
    let cluster: Vec<_> = (1..=members)
        .map(|number| format!("m{number}=https://10.0.0.{number}:2380"))
        .collect();
    let cluster = cluster.join(",");
    let mut flags = vec![
        "--name=m1",
        "--initial-cluster",
        &cluster,
        "--initial-cluster-token=a token",
        "--initial-advertise-peer-urls=https://10.0.0.1:2380",
    ];
    if bump {
        flags.extend(["--bump-revision=1000", "--mark-compacted"]);
    }
    let output = Command::new(binaries.etcdutl.as_ref().unwrap())
        .args(["snapshot", "restore"])
        .arg(&snapshot)
        .arg("--data-dir")
        .arg(&theirs)
        .args(&flags)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", told(&output));
    let result = restored(&[&[text(&snapshot), "--data-dir", text(&ours)], &flags[..]].concat());

    let (ours_db, theirs_db) = (ours.join("member/snap/db"), theirs.join("member/snap/db"));
    assert_eq!(buckets(&ours_db), buckets(&theirs_db));
    let hash = |db: &Path| {
        let output = lifeboat(&["verify", "--level=content", "--output=json", text(db)]);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["ok"], true, "{report:#}");
        report["hash"].clone()
    };
    assert_eq!(hash(&ours_db), hash(&theirs_db));
    assert_eq!(
        records(&ours.join("member/wal")),
        records(&theirs.join("member/wal"))
    );
    let member_id = result["member_id"].as_str().unwrap();
    let first = &records(&ours.join("member/wal"))[0];
    let number = u64::from_str_radix(member_id, 16).unwrap();
    assert!(first.contains(&format!("member_id: {number}")), "{first}");
    // The snapshot of raft has the same name, and what raft reads from it is the same.
    let snap = format!("member/snap/0000000000000001-{members:016x}.snap");
    let metadata = |dir: &Path| {
        let file = std::fs::read(dir.join(&snap)).unwrap();
        // Its last field, after the old store: the voters, the index and the term.
        file[file.len() - 2 - 4 - 2 - members * 10..].to_vec()
    };
    let (mine, their) = (metadata(&ours), metadata(&theirs));
    if version < Version(3, 7) {
        assert_eq!(mine, their);
    }
    // etcd's own tool reads the snapshot and the log, and then every record of the log.
    let Some(dump_logs) = require_dump_logs() else {
        return;
    };
    for (flags, wanted) in [
        (&[][..], "Start dumping log entries"),
        (&["-raw"], "EOF: All entries"),
    ] {
        let dump = |dir: &Path| {
            let output = Command::new(&dump_logs)
                .args(flags)
                .arg(dir)
                .output()
                .unwrap();
            assert!(output.status.success(), "{}", told(&output));
            let text = String::from_utf8(output.stdout).unwrap();
            assert!(text.contains(wanted), "{text}");
            assert_eq!(text.matches("HardState").count(), flags.len(), "{text}");
            // From 3.7 on, etcd leaves out the id of a change, which is 0.
            text.replace(r#"Data:"\010\000"#, r#"Data:""#)
        };
        let dumped = dump(&ours);
        assert_eq!(dumped, dump(&theirs));
        assert!(
            dumped.matches("10.0.0.").count() >= members * flags.len(),
            "{dumped}"
        );
    }
}

#[test]
fn three_members_from_one_snapshot_are_one_cluster_and_another_restore_is_not() {
    let Some(binaries) = require_usual() else {
        return;
    };
    let source = Server::start(&binaries);
    fill_with_everything(&source);
    let snapshot = source.snapshot("s.db", &[]);
    source.client().put(b"after", b"1");
    let later = source.snapshot("later.db", &[]);
    let members: Vec<_> = (0..3).map(|_| Prepared::new(&binaries)).collect();
    let cluster: Vec<_> = members
        .iter()
        .map(|member| format!("{}={}", member.name(), member.peer_url()))
        .collect();
    let cluster = cluster.join(",");
    let restore = |member: &Prepared, data_dir: &Path, snapshot: &Path, more: &[&str]| {
        let flags = [
            text(snapshot),
            "--data-dir",
            text(data_dir),
            "--name",
            member.name(),
            "--initial-cluster",
            &cluster,
            "--initial-advertise-peer-urls",
            member.peer_url(),
        ];
        restored(&[&flags[..], more].concat())
    };
    let first = restore(
        &members[0],
        &members[0].data_dir(),
        &snapshot,
        &["--bump-revision", "auto"],
    );
    let id = first["restore_id"].as_str().unwrap();
    let target = first["revision"].to_string();
    let again = ["--restore-id", id, "--bump-to-revision", &target];
    let mut ids = vec![first["cluster_id"].clone()];
    for member in &members[1..] {
        ids.push(restore(member, &member.data_dir(), &snapshot, &again)["cluster_id"].clone());
    }
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");

    // Another snapshot, another revision or another restore is another cluster.
    let dir = TempDir::new().unwrap();
    for (number, (snapshot, flags)) in [
        (&later, again.to_vec()),
        (&snapshot, vec!["--restore-id", id]),
        (&snapshot, vec!["--bump-to-revision", &target]),
    ]
    .into_iter()
    .enumerate()
    {
        let other = restore(
            &members[1],
            &dir.path().join(number.to_string()),
            snapshot,
            &flags,
        );
        assert_ne!(other["cluster_id"], ids[0], "{flags:?}");
    }
    // On another node `auto` could decide otherwise.
    let flags = [
        text(&snapshot),
        "--data-dir",
        "/none",
        "--restore-id",
        id,
        "--bump-revision=auto",
    ];
    assert!(refused(&flags).1.contains("--bump-to-revision"));

    let servers = Prepared::start(members);
    let now = servers[0].client().put(b"new", b"1");
    let deadline = Instant::now() + Duration::from_secs(20);
    while servers.iter().any(|server| revision(server) < now) {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(50));
    }
    let hashes: Vec<_> = servers.iter().map(|server| hash_kv(server, now)).collect();
    assert!(hashes.iter().all(|hash| *hash == hashes[0]), "{hashes:?}");
}

#[test]
fn a_restore_of_a_backup_is_proven_by_its_blocks_and_never_lets_revisions_fall() {
    let Some(binaries) = require_usual() else {
        return;
    };
    let dir = TempDir::new().unwrap();
    let repository = dir.path().join("backups");
    let at = ["--backup-path", text(&repository)];
    let mut server = Server::start(&binaries);
    fill(&server, 1);
    let old = {
        assert!(backup_once(&server, &repository, &[]).status.success());
        names(&repository, "backup").remove(0)
    };
    let mut highest = revision(&server);
    // Each round restores and goes on; the last one goes back to the oldest backup.
    for source in ["latest", "latest", &old] {
        let flags = [&at[..], &["--bump-revision", "auto"]].concat();
        let (restored, result) = start_restored(&binaries, source, &flags);
        assert_eq!(result["proof"], "blocks");
        let begun = result["revision"].as_i64().unwrap();
        assert!(begun > highest, "{begun} after {highest}");
        server = restored;
        highest = server.client().put(b"more", b"1");
        let output = backup_once(&server, &repository, &[]);
        assert!(output.status.success(), "{}", told(&output));
    }
    // The old data directory knows what no backup has: the tail of its log.
    for number in 0..50u32 {
        highest = server.client().put(&number.to_be_bytes(), b"1");
    }
    let old_dir = server.db();
    let old_dir = old_dir.ancestors().nth(3).unwrap().to_path_buf();
    let replaces = [
        "--replaces",
        text(&old_dir),
        "--bump-revision",
        "auto",
        "--plan",
    ];
    let flags = [&["latest", "--data-dir", "/none"], &at[..], &replaces].concat();
    assert!(refused(&flags).1.contains("etcd runs in"));
    server.crash();
    let plan = restored(&flags);
    assert!(plan["revision"].as_i64().unwrap() >= highest + 1_000_000_000);
    assert_eq!(plan["placed"], Value::Null);
    assert!(!Path::new("/none").exists());
}

#[rstest]
fn a_snapshot_that_was_raised_is_restored_by_etcdutl_without_flags(
    #[values(Version(3, 5), Version(3, 6), Version(3, 7))] version: Version,
) {
    let Some(binaries) = require(version) else {
        return;
    };
    let source = Server::start(&binaries);
    fill_with_everything(&source);
    let snapshot = source.snapshot("s.db", &[]);
    let before = revision(&source);
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("raised.db");
    let flags = [
        text(&snapshot),
        "--to-snapshot",
        text(&out),
        "--bump-revision=auto",
    ];
    let made = restored(&flags);
    assert!(refused(&flags).1.contains("exists"));
    let report = lifeboat(&["verify", "--output=json", text(&out)]);
    assert!(report.status.success(), "{}", told(&report));
    let member = Prepared::new(&binaries);
    let output = Command::new(binaries.etcdutl.as_ref().unwrap())
        .args(["snapshot", "restore"])
        .arg(&out)
        .arg("--data-dir")
        .arg(member.data_dir())
        .args(member.flags())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", told(&output));
    let server = Prepared::start(vec![member]).remove(0);
    assert_eq!(made["revision"], revision(&server));
    let output = server.etcdctl(&["get", "big", "--rev", &before.to_string()]);
    assert!(
        told(&output).contains("has been compacted"),
        "{}",
        told(&output)
    );
    assert!(server.etcdctl_ok(&["get", "leased"]).contains('1'));
}

#[test]
fn a_database_that_was_cloned_while_etcd_wrote_is_restored() {
    let Some(binaries) = require_usual() else {
        return;
    };
    let source = Server::start(&binaries);
    fill_with_everything(&source);
    let dir = TempDir::new().unwrap();
    let copy = dir.path().join("db");
    source.signal("-STOP");
    std::fs::copy(source.db(), &copy).unwrap();
    source.signal("-CONT");
    let (server, result) = start_restored(&binaries, text(&copy), &["--skip-hash-check"]);
    assert_eq!(result["proof"], "content");
    let now = revision(&server);
    assert_eq!(hash_kv(&server, now), hash_kv(&source, now));
}

#[test]
fn an_empty_cluster_and_a_log_elsewhere_are_restored() {
    let Some(binaries) = require_usual() else {
        return;
    };
    let source = Server::start(&binaries);
    let dir = TempDir::new().unwrap();
    // What a folder shows that others write to is not this restore's.
    let snapshot = dir.path().join("snapshots/s.db");
    std::fs::create_dir(dir.path().join("snapshots")).unwrap();
    std::fs::rename(source.snapshot("s.db", &[]), &snapshot).unwrap();
    let wal_dir = dir.path().join("log/wal");
    let mut member = Prepared::new(&binaries);
    member.flag(&format!("--wal-dir={}", wal_dir.display()));
    let data_dir = member.data_dir();
    let own = member.flags();
    let mut flags = vec![
        text(&snapshot),
        "--data-dir",
        text(&data_dir),
        "--wal-dir",
        text(&wal_dir),
        "--bump-revision=auto",
    ];
    flags.extend(own.iter().map(String::as_str));
    restored(&flags);
    let server = Prepared::start(vec![member]).remove(0);
    assert_eq!(revision(&server), 1_000_000_001);
    assert_eq!(server.client().put(b"a", b"1"), 1_000_000_002);
}

#[test]
fn a_newer_etcd_starts_from_older_data() {
    for (from, to) in [
        (Version(3, 4), Version(3, 5)),
        (Version(3, 5), Version(3, 6)),
        (Version(3, 6), Version(3, 7)),
    ] {
        let (Some(older), Some(newer)) = (find(from), find(to)) else {
            continue;
        };
        let source = Server::start(&older);
        fill(&source, 1);
        let snapshot = source.snapshot("s.db", &[]);
        let now = revision(&source);
        let version = to.to_string();
        let (server, _) = start_restored(&newer, text(&snapshot), &["--etcd-version", &version]);
        assert_eq!(hash_kv(&server, now), hash_kv(&source, now), "{from} {to}");
        server.client().put(b"new", b"1");
    }
}

#[test]
fn parts_of_a_database_that_no_page_is_in_are_not_copied() {
    let Some(binaries) = require_usual() else {
        return;
    };
    let server = Server::start(&binaries);
    let client = server.client();
    for number in 0..400u32 {
        client.put(format!("gone-{number:03}").as_bytes(), &vec![b'x'; 100_000]);
    }
    client.delete(b"gone-", b"gone.");
    client.put(b"last", b"1");
    client.compact(revision(&server));
    // The pages are free once the member has written its database twice.
    for number in 0..3u32 {
        client.put(b"last", &number.to_le_bytes());
        std::thread::sleep(Duration::from_millis(300));
    }
    let dir = TempDir::new().unwrap();
    let repository = dir.path().join("backups");
    assert!(backup_once(&server, &repository, &[]).status.success());
    let snapshot = server.snapshot("s.db", &[]);
    let hash = hash_kv(&server, 0);
    let backup = repository.join(names(&repository, "backup").remove(0));
    let sources = [text(&backup), text(&snapshot)];
    for source in sources {
        let (restored, result) = start_restored(&binaries, source, &[]);
        assert_eq!(result["placed"], "copy");
        let db = std::fs::metadata(restored.db()).unwrap();
        assert!(db.len() > 30_000_000, "{db:?}");
        use std::os::unix::fs::MetadataExt;
        assert!(db.blocks() * 512 < db.len() / 4, "{db:?}");
        assert_eq!(hash_kv(&restored, 0), hash);
    }
    // What is left out is proven, too: it is read from the backup.
    let file = backup.join(format!("snapshot_{}.db", names(&repository, "backup")[0]));
    let mut bytes = std::fs::read(&file).unwrap();
    let last = bytes.len() - 40_000;
    bytes[last] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let place = dir.path().join("etcd");
    let (_, message) = refused(&[text(&backup), "--data-dir", text(&place)]);
    assert!(message.contains("damaged"), "{message}");
}

/// The command blocks of the page with this word after `sh`.
fn blocks(word: &str) -> Vec<String> {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/restore.md");
    let page = std::fs::read_to_string(page).unwrap();
    let start = format!("```sh {word}\n");
    let blocks = page.split(&start).skip(1);
    blocks
        .map(|rest| rest.split("```").next().unwrap().to_string())
        .collect()
}

#[test]
fn the_commands_of_the_page_run_as_they_are_printed() {
    let Some(binaries) = require_usual() else {
        return;
    };
    let server = Server::start(&binaries);
    fill(&server, 1);
    let dir = TempDir::new().unwrap();
    let repository = dir.path().join("backups");
    assert!(backup_once(&server, &repository, &[]).status.success());
    std::fs::copy(server.snapshot("s.db", &[]), dir.path().join("snapshot.db")).unwrap();
    let run = |block: &str, data_dir: &str, more: &[(&str, &str)]| {
        let latest = format!("latest --backup-path {}", text(&repository));
        let data_dir = dir.path().join(data_dir);
        let script = block.replace("latest", &latest).replace(
            "--data-dir /var/lib/etcd",
            &format!("--data-dir {} --output json", text(&data_dir)),
        );
        let program = Path::new(env!("CARGO_BIN_EXE_etcd-lifeboat"))
            .parent()
            .unwrap();
        let path = format!("{}:{}", text(program), std::env::var("PATH").unwrap());
        let mut command = Command::new("bash");
        command
            .args(["-euc", &script])
            .env("PATH", path)
            .current_dir(dir.path());
        let output = command.envs(more.iter().copied()).output().unwrap();
        assert!(output.status.success(), "{script}: {}", told(&output));
        serde_json::from_slice::<Value>(&output.stdout).unwrap_or_default()
    };
    let one = blocks("restore");
    assert_eq!(one.len(), 2);
    for block in &one {
        run(block, "one", &[]);
    }
    assert!(dir.path().join("one/member/snap/db").exists());
    let diff = blocks("diff")[0].replace("/var/lib/etcd", "--output json one");
    let changes = run(&diff, "", &[]);
    let totals = serde_json::json!({"vanish": 1, "return": 0, "differ": 0});
    assert_eq!(changes["totals"], totals, "only the key of the bump");
    let first = run(&blocks("first-node")[0], "m1", &[]);
    let revision = first["revision"].to_string();
    let printed = [
        ("RESTORE_ID", first["restore_id"].as_str().unwrap()),
        ("REVISION", &revision),
    ];
    let other = run(&blocks("other-node")[0], "m2", &printed);
    assert_eq!(other["cluster_id"], first["cluster_id"]);
    run(&blocks("raised")[0], "", &[]);
    let named = std::fs::read_dir(dir.path()).unwrap().find_map(|entry| {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let revision = name.strip_prefix("snapshot-from-revision-")?;
        let revision: i64 = revision.strip_suffix(".db")?.parse().unwrap();
        (revision > 1_000_000_000).then_some(name)
    });
    let output = lifeboat(&["verify", text(&dir.path().join(named.unwrap()))]);
    assert!(output.status.success(), "{}", told(&output));
}
