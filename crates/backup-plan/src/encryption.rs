//! How the API server encrypts what it stores: the names of providers and keys, never the keys themselves (kubernetes/kubernetes:
//! `staging/src/k8s.io/apiserver/pkg/apis/apiserver/v1/types_encryption.go`).
//!
//! The objects of a restored cluster cannot be read without these keys, so the record of a backup names them.

use crate::platform::or_default;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// More resources, providers and keys than anybody has.
const MAX_NAMES: usize = 1000;
const MAX_NAME_BYTES: usize = 253;

/// Resources, and how they are encrypted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EncryptedResources {
    /// The resources, such as `secrets`.
    pub resources: Vec<String>,
    /// The first one encrypts what is written. All of them are tried when it is read.
    pub providers: Vec<EncryptionProvider>,
}

/// One way of encryption.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EncryptionProvider {
    /// Such as `aescbc`, `kms`, or `identity` for no encryption.
    pub provider: String,
    /// The names of its keys.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<String>,
    /// The name of a KMS plugin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plugin: Option<String>,
}

#[derive(Deserialize)]
struct Configuration {
    resources: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    #[serde(default, deserialize_with = "or_default")]
    resources: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    providers: Vec<BTreeMap<String, Option<Provider>>>,
}

#[derive(Deserialize)]
struct Provider {
    name: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    keys: Vec<Key>,
}

#[derive(Deserialize)]
struct Key {
    name: String,
}

/// Reads an `EncryptionConfiguration`.
///
/// # Errors
/// Where the text is not one. Its content is not repeated.
pub fn parse(text: &str) -> Result<Vec<EncryptedResources>, String> {
    let configuration: Configuration =
        serde_saphyr::from_str(text).map_err(|error| match error.location() {
            Some(location) => format!("line {} is not the expected YAML", location.line()),
            None => "it is not the expected YAML".into(),
        })?;
    let groups: Vec<_> = configuration.resources.into_iter().map(group).collect();
    let names = groups.iter().flat_map(|group| {
        let of_providers = group.providers.iter().flat_map(|provider| {
            let names = provider.keys.iter().chain(&provider.plugin);
            names.chain([&provider.provider])
        });
        group.resources.iter().chain(of_providers)
    });
    if groups.len() > MAX_NAMES {
        return Err(format!("it has more than {MAX_NAMES} groups of resources"));
    }
    let mut count = 0;
    for name in names {
        count += 1;
        if count > MAX_NAMES {
            return Err(format!("it has more than {MAX_NAMES} names"));
        }
        if name.len() > MAX_NAME_BYTES {
            return Err(format!("a name has more than {MAX_NAME_BYTES} bytes"));
        }
    }
    Ok(groups)
}

fn group(group: Group) -> EncryptedResources {
    let providers = group.providers.into_iter().flatten();
    EncryptedResources {
        resources: group.resources,
        providers: providers
            .map(|(provider, settings)| match settings {
                None => EncryptionProvider {
                    provider,
                    keys: Vec::new(),
                    plugin: None,
                },
                Some(settings) => EncryptionProvider {
                    provider,
                    keys: settings.keys.into_iter().map(|key| key.name).collect(),
                    plugin: settings.name,
                },
            })
            .collect(),
    }
}

impl std::fmt::Display for EncryptedResources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: ", self.resources.join(" "))?;
        for (number, provider) in self.providers.iter().enumerate() {
            let separator = if number == 0 { "" } else { ", then " };
            write!(f, "{separator}{}", provider.provider)?;
            for name in provider.keys.iter().chain(&provider.plugin) {
                write!(f, " {name}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_providers_and_keys_are_read_and_no_key() {
        let text = "
apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
- resources: [secrets, configmaps]
  providers:
  - aescbc:
      keys:
      - {name: key2, secret: c2VjcmV0}
      - {name: key1, secret: b2xk}
  - kms: {apiVersion: v2, name: vault, endpoint: 'unix:///var/run/kms.sock'}
  - identity: {}
- resources: ['*.*']
  providers: [{identity: {}}]
";
        let groups = parse(text).unwrap();
        assert_eq!(
            groups[0].to_string(),
            "secrets configmaps: aescbc key2 key1, then kms vault, then identity"
        );
        assert_eq!(groups[1].to_string(), "*.*: identity");
        let json = serde_json::to_string(&groups).unwrap();
        assert!(!json.contains("c2VjcmV0"), "{json}");
        assert_eq!(
            serde_json::from_str::<Vec<EncryptedResources>>(&json).unwrap(),
            groups
        );
    }

    #[test]
    fn what_is_not_such_a_file_is_refused_without_its_content() {
        for text in [
            "resources: secret-value",
            "\t",
            "resources: [{providers: [secret-value]}]",
        ] {
            let problem = parse(text).unwrap_err();
            assert!(!problem.contains("secret-value"), "{problem}");
        }
        let many = format!("resources: [{{resources: [{}]}}]", "a,".repeat(1001));
        assert!(parse(&many).unwrap_err().contains("more than 1000"));
    }
}
