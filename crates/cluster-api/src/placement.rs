//! Where the backups of `Backup/default` are, and which servers make them: annotations, because the CRD has the fields of `OpenShift`'s.

use std::collections::BTreeMap;
use std::fmt;

/// Annotation: where backups are stored.
pub const STORAGE: &str = "lifeboat.etcd.io/storage";
/// Annotation: the StorageClass of the volumes.
pub const STORAGE_CLASS: &str = "lifeboat.etcd.io/storage-class";
/// Annotation: the size of each volume.
pub const VOLUME_SIZE: &str = "lifeboat.etcd.io/volume-size";
/// Annotation: which servers make the backups.
pub const SERVERS: &str = "lifeboat.etcd.io/servers";
const SIDECAR: &str = "sidecar";
/// The size of a volume, if nothing else is set.
pub const DEFAULT_VOLUME_SIZE: &str = "20Gi";

/// Where backups are stored. They are always on the disks of the nodes, too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Storage {
    /// What suits every cluster: the disks of the nodes.
    #[default]
    Auto,
    /// Also on volumes, where the cluster is in a cloud and has a default StorageClass.
    AutoPvc,
    /// Only on the disks of the nodes.
    HostPath,
    /// Also on a volume for each node.
    Pvc,
}

impl Storage {
    /// All values, in the order in which messages list them.
    pub const ALL: [Storage; 4] = [
        Storage::Auto,
        Storage::AutoPvc,
        Storage::HostPath,
        Storage::Pvc,
    ];

    /// Its name in flags and annotations.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Storage::Auto => "auto",
            Storage::AutoPvc => "auto-pvc",
            Storage::HostPath => "hostPath",
            Storage::Pvc => "pvc",
        }
    }

    /// Parses a name.
    ///
    /// # Errors
    /// The name is unknown.
    pub fn parse(name: &str) -> Result<Self, String> {
        let mut all = Self::ALL.into_iter();
        all.find(|storage| storage.name() == name).ok_or_else(|| {
            format!(
                "{:?} is not a storage: use one of {}",
                short(name),
                Self::ALL.map(Storage::name).join(", ")
            )
        })
    }
}

impl fmt::Display for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which servers make the backups.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Servers {
    /// The pods of a DaemonSet.
    #[default]
    DaemonSet,
    /// Containers in the static pods of etcd, which a person has added.
    Sidecar,
}

/// What the annotations of `Backup/default` say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placement {
    /// Where backups are stored, if that is set.
    pub storage: Option<Storage>,
    /// The StorageClass of the volumes; the default one if it is not set.
    pub storage_class: Option<String>,
    /// The size of each volume, if it is set.
    pub volume_size: Option<String>,
    /// Which servers make the backups.
    pub servers: Servers,
}

impl Placement {
    /// Reads annotations.
    ///
    /// # Errors
    /// Which annotation has a value that cannot be used, and what to write instead.
    pub fn read(annotations: &BTreeMap<String, String>) -> Result<Self, String> {
        let of = |key: &str| annotations.get(key).map(String::as_str);
        let servers = match of(SERVERS) {
            None | Some("daemon-set") => Servers::DaemonSet,
            Some(SIDECAR) => Servers::Sidecar,
            Some(other) => {
                let problem = format!("{:?} is not known: use daemon-set or sidecar", short(other));
                return Err(wrong(SERVERS)(problem));
            }
        };
        Ok(Placement {
            storage: of(STORAGE)
                .map(Storage::parse)
                .transpose()
                .map_err(wrong(STORAGE))?,
            storage_class: of(STORAGE_CLASS)
                .map(storage_class)
                .transpose()
                .map_err(wrong(STORAGE_CLASS))?,
            volume_size: of(VOLUME_SIZE)
                .map(volume_size)
                .transpose()
                .map_err(wrong(VOLUME_SIZE))?,
            servers,
        })
    }
}

/// Whether pods of the operator make the backups. If the annotation is wrong, they do.
#[must_use]
pub fn has_server_pods(annotations: &BTreeMap<String, String>) -> bool {
    annotations
        .get(SERVERS)
        .is_none_or(|servers| servers != SIDECAR)
}

fn wrong(key: &str) -> impl Fn(String) -> String {
    move |problem| format!("the annotation {key}: {problem}")
}

fn short(text: &str) -> String {
    text.chars().take(64).collect()
}

/// Checks the name of a StorageClass.
///
/// # Errors
/// It cannot be a name.
pub fn storage_class(name: &str) -> Result<String, String> {
    if backup_plan::record::is_origin(name) {
        return Ok(name.into());
    }
    Err(format!(
        "{:?} is not the name of a StorageClass: use a name that `kubectl get storageclasses` shows",
        short(name)
    ))
}

/// Checks the size of a volume: a whole number of Mi, Gi or Ti, of at least 100Mi.
///
/// # Errors
/// It cannot be the size of a volume.
pub fn volume_size(text: &str) -> Result<String, String> {
    const LEAST_MIB: u64 = 100;
    let wrong = || {
        format!(
            "{:?} is not the size of a volume: use a whole number with Mi, Gi or Ti, such as {DEFAULT_VOLUME_SIZE}, and at least {LEAST_MIB}Mi",
            short(text)
        )
    };
    let mib = [("Mi", 1), ("Gi", 1 << 10), ("Ti", 1 << 20)]
        .into_iter()
        .find_map(|(unit, mib)| {
            let digits = text.strip_suffix(unit)?;
            let is_plain = !digits.starts_with('0') && digits.bytes().all(|c| c.is_ascii_digit());
            let number: u64 = digits.parse().ok().filter(|_| is_plain)?;
            number.checked_mul(mib)
        });
    match mib {
        Some(mib) if mib >= LEAST_MIB => Ok(text.into()),
        _ => Err(wrong()),
    }
}

/// What decides about volumes beside the wish of a person.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// The type of the infrastructure, as `OpenShift` names it. `None` elsewhere.
    pub infrastructure: Option<String>,
    /// Whether the control plane is one node, as `OpenShift` says it.
    pub single_node: bool,
    /// The name of the default StorageClass, if there is one.
    pub default_class: Option<String>,
}

/// Types of infrastructure without a cloud below.
const NO_CLOUD: [&str; 7] = [
    "",
    "None",
    "BareMetal",
    "EquinixMetal",
    "External",
    "Libvirt",
    "oVirt",
];

/// Whether each node has a volume for its backups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Volumes {
    /// No, and why.
    None(String),
    /// Yes: with this StorageClass.
    Class(String),
}

/// Decides about volumes.
///
/// # Errors
/// Volumes are wanted, but there is no StorageClass for them.
pub fn volumes(
    wish: Storage,
    class: Option<&str>,
    around: &Surroundings,
) -> Result<Volumes, String> {
    let class = class.or(around.default_class.as_deref());
    let none = |why: &str| Ok(Volumes::None(why.into()));
    match wish {
        Storage::Auto => none("storage is auto: backups are only on the disks of the nodes"),
        Storage::HostPath => {
            none("storage is hostPath: backups are only on the disks of the nodes")
        }
        Storage::Pvc => match class {
            Some(class) => Ok(Volumes::Class(class.into())),
            None => Err(format!(
                "storage is pvc, but the cluster has no default StorageClass: set the annotation {STORAGE_CLASS}"
            )),
        },
        Storage::AutoPvc => match (&around.infrastructure, class) {
            (None, _) => none("auto-pvc adds volumes only on OpenShift in a cloud"),
            (Some(kind), _) if NO_CLOUD.contains(&kind.as_str()) => {
                none("auto-pvc adds no volumes on an infrastructure without a cloud")
            }
            (Some(_), _) if around.single_node => none("auto-pvc adds no volumes on a single node"),
            (Some(_), None) => none("auto-pvc adds no volumes without a default StorageClass"),
            (Some(_), Some(class)) => Ok(Volumes::Class(class.into())),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Placement, String> {
        let own = |(key, value): &(&str, &str)| (key.to_string(), value.to_string());
        Placement::read(&pairs.iter().map(own).collect())
    }

    #[test]
    fn each_annotation_is_read_or_refused_with_what_to_write() {
        let all = read(&[
            (STORAGE, "pvc"),
            (STORAGE_CLASS, "fast"),
            (VOLUME_SIZE, "5Gi"),
            (SERVERS, "sidecar"),
        ])
        .unwrap();
        assert_eq!(
            all,
            Placement {
                storage: Some(Storage::Pvc),
                storage_class: Some("fast".into()),
                volume_size: Some("5Gi".into()),
                servers: Servers::Sidecar,
            }
        );
        assert_eq!(read(&[]).unwrap(), Placement::default());
        for (key, values, expected) in [
            (
                STORAGE,
                ["", "PVC", "hostpath", "auto ", "pvc,auto"],
                "use one of auto, auto-pvc, hostPath, pvc",
            ),
            (
                STORAGE_CLASS,
                ["", "Fast", "a b", "../x", "a/b"],
                "kubectl get storageclasses",
            ),
            (VOLUME_SIZE, ["", "5", "5GB", "-5Gi", "0Gi"], "such as 20Gi"),
            (
                VOLUME_SIZE,
                ["99Mi", "5.5Gi", "05Gi", " 5Gi", "99999999999999999999Ti"],
                "at least 100Mi",
            ),
            (
                SERVERS,
                ["", "DaemonSet", "none", "sidecars", "\u{1b}[2J"],
                "use daemon-set or sidecar",
            ),
        ] {
            for value in values {
                let problem = read(&[(key, value)]).unwrap_err();
                assert!(problem.contains(key), "{problem}");
                assert!(problem.contains(expected), "{problem}");
                assert!(!problem.contains('\u{1b}'), "{problem:?}");
            }
        }
    }

    #[test]
    fn volumes_are_where_they_are_wanted_and_automatically_only_in_a_cloud_with_a_default_class() {
        let cloud = Surroundings {
            infrastructure: Some("AWS".into()),
            single_node: false,
            default_class: Some("gp3".into()),
        };
        let with = |change: &dyn Fn(&mut Surroundings)| {
            let mut around = cloud.clone();
            change(&mut around);
            around
        };
        let class = |name: &str| Ok(Volumes::Class(name.into()));
        assert_eq!(volumes(Storage::AutoPvc, None, &cloud), class("gp3"));
        assert_eq!(volumes(Storage::AutoPvc, Some("io2"), &cloud), class("io2"));
        assert_eq!(volumes(Storage::Pvc, None, &cloud), class("gp3"));
        let plain = Surroundings::default();
        assert_eq!(volumes(Storage::Pvc, Some("local"), &plain), class("local"));
        assert!(volumes(Storage::Pvc, None, &plain).is_err());
        for around in [
            plain.clone(),
            with(&|around| around.infrastructure = Some("BareMetal".into())),
            with(&|around| around.infrastructure = Some("None".into())),
            with(&|around| around.single_node = true),
            with(&|around| around.default_class = None),
        ] {
            let decided = volumes(Storage::AutoPvc, None, &around);
            assert!(matches!(decided, Ok(Volumes::None(_))), "{around:?}");
        }
        for wish in [Storage::Auto, Storage::HostPath] {
            let decided = volumes(wish, Some("gp3"), &cloud);
            assert!(matches!(decided, Ok(Volumes::None(_))), "{wish}");
        }
    }
}
