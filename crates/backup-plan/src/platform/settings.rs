//! etcd's own settings, by the names of its flags, from the same sources as in etcd itself: its command line, its
//! environment, its configuration file.

use super::node_files::not_yaml;
use serde::Deserialize;
use std::collections::BTreeMap;

/// Settings by the names of their flags.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Settings(BTreeMap<String, String>);

/// The flags in a command line, in their order, with their values: `--name=value` or `--name value`.
pub(super) fn flags(words: &[String]) -> Vec<(String, String)> {
    let mut flags = Vec::new();
    let mut words = words.iter().peekable();
    while let Some(word) = words.next() {
        // Go accepts one dash or two.
        let flag = word.strip_prefix("--").or_else(|| word.strip_prefix('-'));
        let Some(flag) = flag else {
            continue;
        };
        let (name, value) = match flag.split_once('=') {
            Some((name, value)) => (name, value.to_string()),
            None => {
                let value = words.next_if(|next| !next.starts_with('-'));
                (flag, value.cloned().unwrap_or_default())
            }
        };
        flags.push((name.to_string(), value));
    }
    flags
}

/// The parts of etcd's configuration file that are used. In etcd this is `embed.Config`.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct ConfigFile {
    listen_client_urls: Option<String>,
    advertise_client_urls: Option<String>,
    data_dir: Option<String>,
    client_transport_security: Option<Security>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Security {
    cert_file: Option<String>,
    key_file: Option<String>,
    client_cert_file: Option<String>,
    client_key_file: Option<String>,
    trusted_ca_file: Option<String>,
}

impl Settings {
    /// From a command line: `--name=value` or `--name value`.
    pub(super) fn from_words(words: &[String]) -> Self {
        Settings(flags(words).into_iter().collect()).without_empty()
    }

    /// From an environment: `ETCD_SOME_NAME` is the flag `--some-name`.
    pub(super) fn from_environment(variables: &[(String, String)]) -> Self {
        let settings = variables.iter().filter_map(|(name, value)| {
            let name = name.strip_prefix("ETCD_")?.to_lowercase().replace('_', "-");
            Some((name, value.clone()))
        });
        Settings(settings.collect()).without_empty()
    }

    /// From a configuration file.
    pub(super) fn from_config_file(text: &str) -> Result<Self, String> {
        let config: ConfigFile = serde_saphyr::from_str(text).map_err(|error| not_yaml(&error))?;
        let mut settings = BTreeMap::new();
        let mut set = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                settings.insert(name.to_string(), value);
            }
        };
        set("listen-client-urls", config.listen_client_urls);
        set("advertise-client-urls", config.advertise_client_urls);
        set("data-dir", config.data_dir);
        if let Some(security) = config.client_transport_security {
            set("cert-file", security.cert_file);
            set("key-file", security.key_file);
            set("client-cert-file", security.client_cert_file);
            set("client-key-file", security.client_key_file);
            set("trusted-ca-file", security.trusted_ca_file);
        }
        Ok(Settings(settings).without_empty())
    }

    /// Removes empty values: they count as not set.
    fn without_empty(mut self) -> Self {
        self.0.retain(|_, value| !value.is_empty());
        self
    }

    pub(super) fn get(&self, name: &str) -> Option<&String> {
        self.0.get(name)
    }

    /// Adds the settings of `other` that are not set here.
    pub(super) fn or(mut self, other: Settings) -> Self {
        for (name, value) in other.0 {
            self.0.entry(name).or_insert(value);
        }
        self
    }

    /// Where the member listens to this node's own clients.
    pub(super) fn endpoint(&self) -> Option<String> {
        let urls = self
            .get("listen-client-urls")
            .or_else(|| self.get("advertise-client-urls"))?;
        local_url(urls)
    }
}

/// The URL on loopback, or otherwise the first URL.
pub(super) fn local_url(urls: &str) -> Option<String> {
    let urls: Vec<_> = urls
        .split(',')
        .map(str::trim)
        .filter(|url| url.starts_with("http://") || url.starts_with("https://"))
        .collect();
    let loopback = |url: &&&str| {
        ["://127.", "://localhost:", "://[::1]"]
            .iter()
            .any(|host| url.contains(host))
    };
    let chosen = urls.iter().find(loopback).or(urls.first())?;
    // An etcd that listens on all addresses can be reached on loopback.
    Some(
        chosen
            .replace("://0.0.0.0:", "://127.0.0.1:")
            .replace("://[::]:", "://[::1]:"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_on_loopback_is_taken() {
        for (urls, url) in [
            (
                "https://10.0.0.1:2379,https://127.0.0.1:2379",
                "https://127.0.0.1:2379",
            ),
            ("https://10.0.0.1:2379", "https://10.0.0.1:2379"),
            ("http://0.0.0.0:2379", "http://127.0.0.1:2379"),
            ("https://[::]:2379", "https://[::1]:2379"),
            (" https://a:1 , https://localhost:1", "https://localhost:1"),
            (
                "unixs://10.0.0.1:0,https://10.0.0.1:1",
                "https://10.0.0.1:1",
            ),
        ] {
            assert_eq!(local_url(urls).as_deref(), Some(url));
        }
        assert_eq!(local_url(","), None);
    }

    #[test]
    fn a_command_line_is_read_as_go_reads_it() {
        let words = [
            "etcd", "--a=1", "-b", "2", "--flag", "--c", "x=y", "--empty=",
        ]
        .map(String::from);
        let settings = Settings::from_words(&words);
        for (name, value) in [
            ("a", Some("1")),
            ("b", Some("2")),
            ("c", Some("x=y")),
            ("flag", None),
            ("empty", None),
        ] {
            assert_eq!(settings.get(name).map(String::as_str), value, "{name}");
        }
    }

    #[test]
    fn a_configuration_file_with_empty_and_unknown_keys_is_read() {
        let text = "name: 'n'\nwal-dir:\nlisten-client-urls: https://10.0.0.5:2379,https://127.0.0.1:2379\n\
                    snapshot-count: 10000\nlog-outputs: [stderr]\n\
                    client-transport-security: {cert-file: , trusted-ca-file: /ca, client-cert-auth: true}\n";
        let settings = Settings::from_config_file(text).unwrap();
        assert_eq!(
            settings.endpoint().as_deref(),
            Some("https://127.0.0.1:2379")
        );
        assert_eq!(
            settings.get("trusted-ca-file").map(String::as_str),
            Some("/ca")
        );
        assert_eq!(settings.get("cert-file"), None);
        assert!(Settings::from_config_file("client-transport-security: 7").is_err());
    }
}
