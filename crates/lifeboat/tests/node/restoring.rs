//! Restores and the members that start from them.

use super::{lifeboat, text, told};
use serde_json::Value;
use test_support::etcd_binaries::Binaries;
use test_support::etcd_server::{Prepared, Server};

/// Runs `restore` and gives its JSON.
pub(crate) fn restored(args: &[&str]) -> Value {
    let output = lifeboat(&[&["restore", "--output", "json"], args].concat());
    assert!(output.status.success(), "{args:?}: {}", told(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Runs `restore`, which must refuse, and gives its message.
pub(crate) fn refused(args: &[&str]) -> (i32, String) {
    let output = lifeboat(&[&["restore"], args].concat());
    assert!(!output.status.success(), "{args:?}");
    (output.status.code().unwrap(), told(&output))
}

/// Restores a single member, and starts it.
pub(crate) fn start_restored(
    binaries: &Binaries,
    snapshot: &str,
    more: &[&str],
) -> (Server, Value) {
    let member = Prepared::new(binaries);
    let data_dir = member.data_dir();
    let own = member.flags();
    let mut flags = vec![snapshot, "--data-dir", text(&data_dir)];
    flags.extend(own.iter().map(String::as_str));
    let result = restored(&[&flags[..], more].concat());
    (Prepared::start(vec![member]).remove(0), result)
}

/// A member's HashKV at a revision; 0 is the newest.
pub(crate) fn hash_kv(server: &Server, revision: i64) -> u64 {
    let revision = revision.to_string();
    let printed = server.etcdctl_ok(&["endpoint", "hashkv", "--rev", &revision, "-w", "json"]);
    let printed: Value = serde_json::from_str(&printed).unwrap();
    printed[0]["HashKV"]["hash"]
        .as_u64()
        .unwrap_or_else(|| panic!("{printed}"))
}

pub(crate) fn revision(server: &Server) -> i64 {
    server.client().member_id_and_revision().1
}
