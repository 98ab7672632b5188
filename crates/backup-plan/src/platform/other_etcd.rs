//! Other etcds of a node, each with a part of the objects of Kubernetes: the API server stores events elsewhere
//! (`--etcd-servers-overrides`), as kOps and kubespray set it up.

use serde::Serialize;

/// Another etcd than the one that has all other objects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OtherEtcd {
    /// Its name, from what it stores: `events`. Letters, digits and dashes.
    pub name: String,
    /// Where its members listen. The member of this node is one of them, if the node has one.
    pub endpoints: Vec<String>,
    /// The certificate authority of the members. `None` without TLS.
    pub cacert: Option<String>,
    /// A client certificate. `None` if the files of the node name none.
    pub cert: Option<String>,
    /// The private key of `cert`.
    pub key: Option<String>,
    /// The file that says so.
    pub found_in: String,
}

/// The etcds in the value of `--etcd-servers-overrides`: `GROUP/RESOURCE#SERVER;SERVER,…`. Resources with the same servers are in one etcd,
/// with the name of the first. What cannot be read is returned as the second value.
pub(super) fn overrides(value: &str, main: &[String]) -> (Vec<(String, Vec<String>)>, Vec<String>) {
    /// There are a few resources. A longer list is not what anyone wrote by hand.
    const MOST: usize = 64;
    let mut etcds: Vec<(String, Vec<String>)> = Vec::new();
    let mut problems = Vec::new();
    let mut parts = value
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty());
    for part in parts.by_ref().take(MOST) {
        let name = part.split_once('#').and_then(|(resource, servers)| {
            let name = name_of(resource)?;
            Some((name, servers_of(servers, ';')))
        });
        match name {
            Some((name, servers)) if !servers.is_empty() => {
                let is_main = same(&servers, main);
                if !is_main && !etcds.iter().any(|(_, known)| same(known, &servers)) {
                    etcds.push((name, servers));
                }
            }
            _ => problems.push(format!(
                "{part:?} in --etcd-servers-overrides is not GROUP/RESOURCE#SERVER: this etcd is not backed up"
            )),
        }
    }
    if parts.next().is_some() {
        problems.push(format!(
            "--etcd-servers-overrides has more than {MOST} entries: the others are not backed up"
        ));
    }
    (etcds, problems)
}

/// The URLs of servers, in a list with this separator.
pub(super) fn servers_of(list: &str, separator: char) -> Vec<String> {
    let servers = list.split(separator).map(str::trim);
    let is_url = |server: &&str| server.starts_with("http://") || server.starts_with("https://");
    servers
        .filter(is_url)
        .map(|server| server.trim_end_matches('/').to_string())
        .collect()
}

fn same(one: &[String], other: &[String]) -> bool {
    let sorted = |list: &[String]| {
        let mut list = list.to_vec();
        list.sort();
        list
    };
    sorted(one) == sorted(other)
}

/// The name of an etcd, as the name of a directory: `/events` is `events`, `apps/deployments` is `apps-deployments`.
fn name_of(resource: &str) -> Option<String> {
    const MAX_CHARS: usize = 63;
    let name = resource.trim_start_matches('/').replace(['/', '.'], "-");
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let fits = !name.is_empty() && name.len() <= MAX_CHARS && !name.starts_with('-');
    (fits && name.chars().all(is_plain)).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_set_of_servers_beside_the_main_one_is_an_etcd_of_its_own() {
        let main = servers_of("https://127.0.0.1:2379", ',');
        let (etcds, problems) = overrides(
            "/events#https://10.0.0.1:2383;https://127.0.0.1:2383/,coordination.k8s.io/leases#http://127.0.0.1:9,\
             events.k8s.io/events#https://127.0.0.1:2383;https://10.0.0.1:2383,/pods#https://127.0.0.1:2379",
            &main,
        );
        assert_eq!(problems, [""; 0]);
        let events = ["https://10.0.0.1:2383", "https://127.0.0.1:2383"].map(String::from);
        assert_eq!(
            etcds,
            [
                ("events".to_string(), events.to_vec()),
                (
                    "coordination-k8s-io-leases".into(),
                    vec!["http://127.0.0.1:9".into()]
                ),
            ]
        );
    }

    #[test]
    fn what_is_not_an_override_is_reported_and_is_no_path() {
        for value in [
            "events",
            "/events#",
            "#https://a:1",
            "/..#https://a:1",
            "/Events#https://a:1",
            "/a b#https://a:1",
            "/events#ftp://a:1",
        ] {
            let (etcds, problems) = overrides(value, &[]);
            assert_eq!(etcds, [], "{value}");
            assert_eq!(problems.len(), 1, "{value}: {problems:?}");
        }
        let (etcds, problems) = overrides(&"/e#https://a:1,".repeat(100), &[]);
        assert_eq!((etcds.len(), problems.len()), (1, 1));
    }
}
