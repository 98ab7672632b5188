//! Members of a cluster, their ids, and how they are stored (etcd-io/etcd: `server/etcdserver/api/membership/{member,cluster}.go`).

use serde::Deserialize;
use sha1::{Digest, Sha1};
use std::fmt::Write;

/// A voting member of a new cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Follows from the peer URLs and the token of the cluster.
    pub id: u64,
    /// The name, unique in the cluster.
    pub name: String,
    /// The URLs for other members, in bytewise order.
    pub peer_urls: Vec<String>,
}

impl Member {
    /// A member of the cluster that has this token. Its id does not depend on its name.
    #[must_use]
    pub fn new(name: &str, mut peer_urls: Vec<String>, token: &str) -> Self {
        peer_urls.sort();
        let mut hash = Sha1::new();
        for url in &peer_urls {
            hash.update(url);
        }
        hash.update(token);
        Member {
            id: first_number(&hash.finalize()),
            name: name.into(),
            peer_urls,
        }
    }

    /// The key in bucket `members`: the id in hex digits, without leading zeros.
    #[must_use]
    pub fn key(&self) -> Vec<u8> {
        format!("{:x}", self.id).into_bytes()
    }

    /// The value in bucket `members`, and the context of the entry that adds the member to the cluster.
    #[must_use]
    pub fn json(&self) -> Vec<u8> {
        let name = match self.name.as_str() {
            "" => String::new(),
            name => format!(",\"name\":{}", json_text(name)),
        };
        let urls = json_list(&self.peer_urls);
        format!("{{\"id\":{},\"peerURLs\":{urls}{name}}}", self.id).into_bytes()
    }

    /// The value of `raftAttributes` in the old store of members.
    pub(crate) fn raft_attributes(&self) -> String {
        format!("{{\"peerURLs\":{}}}", json_list(&self.peer_urls))
    }
}

/// A member as a database lists it, in bucket `members`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct StoredMember {
    /// Its id.
    pub id: u64,
    /// Its name; empty before it has started.
    #[serde(default)]
    pub name: String,
    /// The URLs for other members.
    #[serde(default, rename = "peerURLs")]
    pub peer_urls: Vec<String>,
    /// The URLs for clients; none before it has started.
    #[serde(default, rename = "clientURLs")]
    pub client_urls: Vec<String>,
    /// Whether it has no vote yet.
    #[serde(default, rename = "isLearner")]
    pub is_learner: bool,
}

/// The id of a cluster that begins with these members.
#[must_use]
pub fn cluster_id(members: &[Member]) -> u64 {
    let mut ids: Vec<_> = members.iter().map(|member| member.id).collect();
    ids.sort_unstable();
    let mut hash = Sha1::new();
    for id in ids {
        hash.update(id.to_be_bytes());
    }
    first_number(&hash.finalize())
}

fn first_number(hash: &[u8]) -> u64 {
    hash.first_chunk()
        .map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

fn json_list(texts: &[String]) -> String {
    let texts: Vec<_> = texts.iter().map(|text| json_text(text)).collect();
    format!("[{}]", texts.join(","))
}

/// A text as Go's JSON writes it.
pub(crate) fn json_text(text: &str) -> String {
    let mut json = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => json.push_str("\\\""),
            '\\' => json.push_str("\\\\"),
            '\n' => json.push_str("\\n"),
            '\r' => json.push_str("\\r"),
            '\t' => json.push_str("\\t"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\u{1f}' => {
                let _ = write!(json, "\\u{:04x}", u32::from(c));
            }
            c => json.push(c),
        }
    }
    json.push('"');
    json
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str, urls: &[&str], token: &str) -> Member {
        Member::new(name, urls.iter().map(ToString::to_string).collect(), token)
    }

    #[test]
    fn ids_are_those_of_etcd() {
        // The constants of etcd-io/etcd: `membership/member_test.go`, and of every cluster with one member on localhost.
        let one = member("mem1", &["http://10.0.0.8:2379"], "");
        assert_eq!(one.id, 14_544_069_596_553_697_298);
        for urls in [
            ["http://10.0.0.1:2379", "http://10.0.0.2:2379"],
            ["http://10.0.0.2:2379", "http://10.0.0.1:2379"],
        ] {
            assert_eq!(member("memfoo", &urls, "").id, 16_552_244_735_972_308_939);
        }
        let local = member("default", &["http://localhost:2380"], "etcd-cluster");
        assert_eq!(local.key(), b"8e9e05c52164694d");
        assert_eq!(cluster_id(&[local]), 0xcdf8_1819_4e3a_8c32);
    }

    #[test]
    fn json_is_that_of_etcd() {
        let m1 = member("m1", &["https://10.0.0.1:2380"], "etcd-cluster");
        let expected =
            r#"{"id":7134913968731009997,"peerURLs":["https://10.0.0.1:2380"],"name":"m1"}"#;
        assert_eq!(m1.json(), expected.as_bytes());
        let stored: StoredMember = serde_json::from_slice(&m1.json()).unwrap();
        assert_eq!((stored.id, &stored.name), (m1.id, &m1.name));
        assert_eq!(stored.peer_urls, m1.peer_urls);
        // As etcd 3.6 writes a learner that has started.
        let learner = br#"{"id":12,"peerURLs":["http://a:1"],"isLearner":true,"name":"m2","clientURLs":["http://a:2"]}"#;
        let learner: StoredMember = serde_json::from_slice(learner).unwrap();
        assert!(learner.is_learner && learner.client_urls == ["http://a:2"]);
        assert_eq!(
            json_text("a<\"\\\u{1}\u{2028}ü"),
            "\"a\\u003c\\\"\\\\\\u0001\\u2028ü\""
        );
    }
}
