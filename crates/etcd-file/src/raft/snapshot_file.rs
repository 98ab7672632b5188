//! The snapshot of raft, a `.snap` file. etcd up to 3.5 reads the members from it, 3.6 the voters, 3.7 nothing; 3.8 has none.

use super::config::voters;
use super::protobuf;
use crate::membership::{Member, json_text};
use std::fmt::Write;

/// The name and the content of the snapshot of a new cluster, after its members were added in term 1. `members` are in the order
/// of their ids.
#[must_use]
pub fn snapshot_file(members: &[Member]) -> (String, Vec<u8>) {
    let ids: Vec<_> = members.iter().map(|member| member.id).collect();
    let index = members.len() as u64;
    let mut metadata = Vec::new();
    protobuf::bytes(&mut metadata, 1, &voters(&ids));
    protobuf::number(&mut metadata, 2, index);
    protobuf::number(&mut metadata, 3, 1);
    let mut snapshot = Vec::new();
    protobuf::bytes(&mut snapshot, 1, old_store(members).as_bytes());
    protobuf::bytes(&mut snapshot, 2, &metadata);
    let mut file = Vec::new();
    protobuf::number(&mut file, 1, u64::from(crc32c::crc32c(&snapshot)));
    protobuf::bytes(&mut file, 2, &snapshot);
    (format!("{:016x}-{index:016x}.snap", 1), file)
}

/// The store of etcd 2 as JSON, with the members alone. What is missing has its default.
fn old_store(members: &[Member]) -> String {
    let nodes: Vec<_> = members
        .iter()
        .map(|member| {
            let path = format!("/0/members/{:x}", member.id);
            let attributes = format!("{path}/raftAttributes");
            let value = json_text(&member.raft_attributes());
            let file = node(&attributes, &value, "null");
            let children = format!("{{\"raftAttributes\":{file}}}");
            format!("\"{:x}\":{}", member.id, node(&path, "\"\"", &children))
        })
        .collect();
    let nodes = format!("{{{}}}", nodes.join(","));
    let members = format!("{{\"members\":{}}}", node("/0/members", "\"\"", &nodes));
    let mut store = String::new();
    let tops = format!(
        "{{\"0\":{},\"1\":{}}}",
        node("/0", "\"\"", &members),
        node("/1", "\"\"", "{}")
    );
    let root = node("/", "\"\"", &tops);
    let _ = write!(
        store,
        "{{\"Root\":{root},\"CurrentIndex\":1,\"CurrentVersion\":2}}"
    );
    store
}

/// A directory has children, if only an empty object; a file has `null`.
fn node(path: &str, value: &str, children: &str) -> String {
    let path = json_text(path);
    format!(
        "{{\"Path\":{path},\"CreatedIndex\":1,\"ModifiedIndex\":1,\"ExpireTime\":\"0001-01-01T00:00:00Z\",\"Value\":{value},\"Children\":{children}}}"
    )
}
