//! The members of the cluster that begins, as etcd's flags name them (etcd-io/etcd: `client/pkg/types/{urls,urlsmap}.go`,
//! `server/config/config.go`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv6Addr;

/// What is wrong with the flags. The texts name flags as `etcdutl` has them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClusterProblem {
    /// A URL that etcd does not accept.
    #[error("{flag}: the URL {url:?} {problem}")]
    Url {
        /// The flag.
        flag: &'static str,
        /// The URL.
        url: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A member without a URL.
    #[error("--initial-cluster: {part:?} has no URL, expected NAME=URL")]
    NoUrl {
        /// What was given.
        part: String,
    },
    /// No member.
    #[error("--initial-cluster names no member, expected NAME=URL, with commas between several")]
    Empty,
    /// The member itself is missing.
    #[error(
        "--name {name}: --initial-cluster names no member of this name, but {}", .names.join(", ")
    )]
    NameMissing {
        /// The name.
        name: String,
        /// The names that are there.
        names: Vec<String>,
    },
    /// Two members can't have the same URL.
    #[error("--initial-cluster has the URL {url} twice: each member needs URLs of its own")]
    DuplicateUrl {
        /// The URL.
        url: String,
    },
    /// The member's own URLs are not the same in both flags.
    #[error(
        "--initial-advertise-peer-urls has {}, but --initial-cluster has {} for {name}: both must be the same",
        .advertised.join(","),
        .listed.join(",")
    )]
    Differ {
        /// The name of the member.
        name: String,
        /// Its URLs in `--initial-advertise-peer-urls`.
        advertised: Vec<String>,
        /// Its URLs in `--initial-cluster`.
        listed: Vec<String>,
    },
}

/// Members and their peer URLs, in bytewise order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitialCluster(BTreeMap<String, Vec<String>>);

/// Reads a list of peer URLs.
///
/// # Errors
/// A URL that etcd does not accept.
pub fn peer_urls(flag: &'static str, list: &str) -> Result<Vec<String>, ClusterProblem> {
    let mut urls = Vec::new();
    for text in list.split(',') {
        urls.push(peer_url(flag, text.trim())?);
    }
    urls.sort();
    Ok(urls)
}

/// The URL as etcd keeps it, with its scheme in lower case. The ids of members follow from these texts.
fn peer_url(flag: &'static str, text: &str) -> Result<String, ClusterProblem> {
    let refused = |problem| ClusterProblem::Url {
        flag,
        url: text.into(),
        problem,
    };
    let (scheme, rest) = text
        .split_once("://")
        .ok_or_else(|| refused("has no scheme, expected one such as https://10.0.0.1:2380"))?;
    let scheme = scheme.to_ascii_lowercase();
    // Other characters would be escaped by etcd, and the ids of members follow from the escaped text.
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:/[]@?#%+=,".contains(&byte);
    if !rest.bytes().all(is_plain) {
        return Err(refused("has a character that a URL cannot have"));
    }
    match scheme.as_str() {
        "http" | "https" => {
            let (host, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
            if !path.is_empty() {
                return Err(refused("has a path, expected only a host and a port"));
            }
            if !is_host_and_port(host) {
                return Err(refused("does not have the form host:port"));
            }
        }
        "unix" | "unixs" if !rest.is_empty() => {}
        "unix" | "unixs" => return Err(refused("has no address")),
        _ => return Err(refused("does not begin with http, https, unix or unixs")),
    }
    Ok(format!("{scheme}://{rest}"))
}

fn is_host_and_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else {
        return false;
    };
    let is_host = match host.strip_prefix('[') {
        Some(rest) => rest
            .strip_suffix(']')
            .is_some_and(|host| host.parse::<Ipv6Addr>().is_ok()),
        None => !host.contains([':', '[', ']', '@', '%', '+', '=', ',']),
    };
    let is_port = port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok();
    is_host && is_port
}

impl InitialCluster {
    /// Reads `--initial-cluster`: `NAME=URL,NAME=URL`. A member with several URLs is named several times.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, ClusterProblem> {
        const FLAG: &str = "--initial-cluster";
        let mut members: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut seen = BTreeSet::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let Some((name, url)) = part.split_once('=') else {
                return Err(ClusterProblem::NoUrl { part: part.into() });
            };
            let url = peer_url(FLAG, url.trim())?;
            if !seen.insert(url.clone()) {
                return Err(ClusterProblem::DuplicateUrl { url });
            }
            members.entry(name.into()).or_default().push(url);
        }
        if members.is_empty() {
            return Err(ClusterProblem::Empty);
        }
        members.values_mut().for_each(|urls| urls.sort());
        Ok(InitialCluster(members))
    }

    /// The members, by name.
    #[must_use]
    pub fn members(&self) -> &BTreeMap<String, Vec<String>> {
        &self.0
    }

    /// Checks that the member is in the list, with the URLs that it advertises. `are_same` compares URLs that differ as texts, such
    /// as a name and its address.
    ///
    /// # Errors
    /// Why it is not.
    pub fn check(
        &self,
        name: &str,
        advertised: &[String],
        are_same: &dyn Fn(&[String], &[String]) -> bool,
    ) -> Result<(), ClusterProblem> {
        let listed = self
            .0
            .get(name)
            .ok_or_else(|| ClusterProblem::NameMissing {
                name: name.into(),
                names: self.0.keys().cloned().collect(),
            })?;
        if listed == advertised || are_same(listed, advertised) {
            return Ok(());
        }
        Err(ClusterProblem::Differ {
            name: name.into(),
            advertised: advertised.to_vec(),
            listed: listed.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_as_etcd_reads_them() {
        let read = |list| peer_urls("--flag", list);
        assert_eq!(
            read("HTTPS://b:2380, http://[::1]:2380").unwrap(),
            ["http://[::1]:2380", "https://b:2380"]
        );
        assert_eq!(read("unix://a:1").unwrap(), ["unix://a:1"]);
        for (list, problem) in [
            ("", "has no scheme"),
            ("localhost:2380", "has no scheme"),
            ("http://localhost", "host:port"),
            ("http://::1:2380", "host:port"),
            ("http://[::1:2380", "host:port"),
            ("http://a:b", "host:port"),
            ("http://a:2380/", "has a path"),
            ("http://[zz]:2380", "host:port"),
            ("http://a:+2380", "host:port"),
            ("unix://a<b:1", "a character"),
            ("http://a:2380?x", "has a path"),
            ("ftp://a:2380", "does not begin with http"),
            ("http://a\u{7}:2380", "a character"),
            ("unix://", "no address"),
        ] {
            let error = read(list).unwrap_err().to_string();
            assert!(error.contains(problem), "{list}: {error}");
        }
    }

    #[test]
    fn a_cluster_is_a_list_of_names_and_urls() {
        let cluster = InitialCluster::parse("m2=http://b:1,m1=http://z:1,,m1=http://a:1").unwrap();
        assert_eq!(cluster.members()["m1"], ["http://a:1", "http://z:1"]);
        let same = |_: &[String], _: &[String]| false;
        let urls = |list| peer_urls("--flag", list).unwrap();
        assert_eq!(
            cluster.check("m1", &urls("http://z:1,http://a:1"), &same),
            Ok(())
        );
        assert_eq!(
            cluster.check("m2", &urls("http://c:1"), &|_, _| true),
            Ok(())
        );
        let error = cluster.check("m3", &urls("http://b:1"), &same).unwrap_err();
        assert!(error.to_string().contains("but m1, m2"), "{error}");
        let error = cluster.check("m2", &urls("http://c:1"), &same).unwrap_err();
        assert!(
            error.to_string().contains("both must be the same"),
            "{error}"
        );
        for (text, problem) in [
            ("", "names no member"),
            ("m1", "has no URL"),
            ("m1=http://a:1,m2=http://a:1", "twice"),
        ] {
            let error = InitialCluster::parse(text).unwrap_err().to_string();
            assert!(error.contains(problem), "{text}: {error}");
        }
    }
}
