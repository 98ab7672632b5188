//! Whether a backup fits the node on which it is to be restored.

use crate::encryption::EncryptedResources;

/// What shows which cluster something is of, and which programs can work with it.
#[derive(Debug, Clone, Default)]
pub struct ClusterSigns {
    /// The certificate authority of the cluster, as PEM.
    pub ca: Option<Vec<u8>>,
    /// The certificate authority of etcd, as PEM.
    pub etcd_ca: Option<Vec<u8>>,
    /// The public key for the tokens of service accounts, as PEM.
    pub service_account_key: Option<Vec<u8>>,
    /// The tag of the API server's image, such as `v1.37.2`.
    pub api_server_tag: Option<String>,
    /// How the API server encrypts what it stores.
    pub encryption: Vec<EncryptedResources>,
}

/// What does not fit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Misfits {
    /// Why the backup must not be restored here.
    pub refusals: Vec<String>,
    /// What a person should know.
    pub warnings: Vec<String>,
}

/// Compares a backup with the node.
#[must_use]
pub fn compare(node: &ClusterSigns, backup: &ClusterSigns) -> Misfits {
    let mut misfits = Misfits::default();
    for (what, of_node, of_backup) in [
        ("of the cluster, pki/ca.crt", &node.ca, &backup.ca),
        ("of etcd, pki/etcd/ca.crt", &node.etcd_ca, &backup.etcd_ca),
    ] {
        match (of_node, of_backup) {
            (Some(one), Some(other)) if one.trim_ascii() != other.trim_ascii() => {
                misfits.refusals.push(format!(
                    "the certificate authority {what}, differs from the one in the backup: the backup is of another cluster, or this node has new certificates; in the second case unpack those of the backup first"
                ));
            }
            (Some(_), Some(_)) => {}
            (None, _) => misfits.refusals.push(format!(
                "this node has no certificate authority {what}: unpack the control-plane files of the backup first"
            )),
            (_, None) => misfits.warnings.push(format!(
                "the backup has no certificate authority {what}: whether it is of this cluster is not checked"
            )),
        }
    }
    if let (Some(one), Some(other)) = (&node.service_account_key, &backup.service_account_key)
        && one.trim_ascii() != other.trim_ascii()
    {
        misfits.warnings.push(
            "pki/sa.pub differs from the one in the backup: tokens of service accounts from the time of the backup are not valid any more".into(),
        );
    }
    match (minor(node), minor(backup)) {
        (Some(one), Some(other)) if one != other => misfits.refusals.push(format!(
            "the API server of this node is {one}, but that of the backup was {other}: install the version of the backup first; its manifests are in the backup"
        )),
        (Some(_), Some(_)) => {}
        _ => misfits.warnings.push(
            "the version of the API server is unknown for this node or for the backup: it must be the same minor version".into(),
        ),
    }
    compare_encryption(node, backup, &mut misfits);
    misfits
}

/// `1.37` of `v1.37.2`.
fn minor(signs: &ClusterSigns) -> Option<String> {
    let tag = signs.api_server_tag.as_deref()?.strip_prefix('v')?;
    let mut parts = tag.split('.').map(str::parse::<u32>);
    match (parts.next()?, parts.next()?) {
        (Ok(major), Ok(minor)) => Some(format!("{major}.{minor}")),
        _ => None,
    }
}

fn compare_encryption(node: &ClusterSigns, backup: &ClusterSigns, misfits: &mut Misfits) {
    let mut own = Vec::new();
    for provider in node.encryption.iter().flat_map(|all| &all.providers) {
        let names = provider.keys.iter().chain(&provider.plugin);
        own.extend(names.map(|name| (provider.provider.as_str(), name.as_str())));
    }
    for encrypted in &backup.encryption {
        for (place, provider) in encrypted.providers.iter().enumerate() {
            for (number, name) in provider.keys.iter().chain(&provider.plugin).enumerate() {
                if own.contains(&(provider.provider.as_str(), name.as_str())) {
                    continue;
                }
                let missing = format!(
                    "the encryption key {name:?} of {} for {} is missing in the EncryptionConfiguration of this node",
                    provider.provider,
                    encrypted.resources.join(", ")
                );
                // The first one encrypted what was written last.
                match (place, number) {
                    (0, 0) => misfits.refusals.push(format!(
                        "{missing}: the API server could not read these objects; the file is in the backup"
                    )),
                    _ => misfits.warnings.push(format!(
                        "{missing}: the API server cannot read objects that were encrypted with it"
                    )),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encryption::EncryptionProvider;

    fn signs() -> ClusterSigns {
        ClusterSigns {
            ca: Some(b"ca\n".to_vec()),
            etcd_ca: Some(b"etcd ca".to_vec()),
            service_account_key: Some(b"key".to_vec()),
            api_server_tag: Some("v1.37.2".into()),
            encryption: Vec::new(),
        }
    }

    fn encrypted(keys: &[&str]) -> Vec<EncryptedResources> {
        vec![EncryptedResources {
            resources: vec!["secrets".into()],
            providers: vec![EncryptionProvider {
                provider: "aescbc".into(),
                keys: keys.iter().map(ToString::to_string).collect(),
                plugin: None,
            }],
        }]
    }

    #[test]
    fn only_a_backup_of_this_cluster_and_version_with_known_keys_fits() {
        let node = signs();
        let mut same = signs();
        same.ca = Some(b"ca".to_vec());
        same.api_server_tag = Some("v1.37.0".into());
        assert_eq!(compare(&node, &same), Misfits::default());
        let refused = |change: &dyn Fn(&mut ClusterSigns), text: &str| {
            let mut backup = signs();
            change(&mut backup);
            let found = compare(&node, &backup);
            assert!(found.refusals.concat().contains(text), "{text}: {found:?}");
        };
        refused(
            &|backup| backup.ca = Some(b"other".to_vec()),
            "pki/ca.crt, differs",
        );
        refused(
            &|backup| backup.etcd_ca = Some(b"other".to_vec()),
            "another cluster",
        );
        refused(
            &|backup| backup.api_server_tag = Some("v1.36.9".into()),
            "is 1.37, but that of the backup was 1.36",
        );
        refused(
            &|backup| backup.encryption = encrypted(&["new"]),
            "\"new\" of aescbc for secrets",
        );
        let node = ClusterSigns {
            encryption: encrypted(&["new"]),
            ..signs()
        };
        let backup = ClusterSigns {
            encryption: encrypted(&["new", "old"]),
            service_account_key: Some(b"other".to_vec()),
            api_server_tag: Some("latest".into()),
            ca: None,
            ..signs()
        };
        let found = compare(&node, &backup);
        assert!(found.refusals.is_empty(), "{found:?}");
        for text in ["\"old\"", "sa.pub", "is unknown", "pki/ca.crt: whether"] {
            assert!(found.warnings.concat().contains(text), "{text}: {found:?}");
        }
        let found = compare(&ClusterSigns::default(), &signs());
        assert_eq!(found.refusals.len(), 2, "{found:?}");
    }
}
