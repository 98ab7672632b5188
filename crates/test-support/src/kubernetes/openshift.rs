//! What makes an API server look like OpenShift to those who ask it: the kinds and the objects by which a
//! cluster is recognised, and on request upstream's own kinds for backups. Written after the published API
//! (openshift/api: `config/v1`, `config/v1alpha1/types_backup.go`, `operator/v1`,
//! `operator/v1alpha1/types_etcdbackup.go`), with the fields that matter to a backup.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};
use std::time::Duration;

/// Which APIs of OpenShift the cluster has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flavour {
    /// Whether the cluster has upstream's `Backup` and `EtcdBackup`, which drop unknown fields, and whether its feature gate is on.
    pub upstream_backups: bool,
}

struct Definition {
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
    /// The schema of `spec` and `status`; with fields that are not named where it is empty.
    properties: Value,
}

/// A schema that keeps all fields.
fn open() -> Value {
    json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

fn definitions(flavour: Flavour) -> Vec<Definition> {
    let any = || json!({"spec": open(), "status": open()});
    let config = |kind, plural, singular| Definition {
        group: "config.openshift.io",
        version: "v1",
        kind,
        plural,
        singular,
        properties: any(),
    };
    let mut all = vec![
        config("ClusterVersion", "clusterversions", "clusterversion"),
        config("FeatureGate", "featuregates", "featuregate"),
        config("Infrastructure", "infrastructures", "infrastructure"),
        Definition {
            group: "operator.openshift.io",
            version: "v1",
            kind: "Etcd",
            plural: "etcds",
            singular: "etcd",
            properties: any(),
        },
        Definition {
            group: "security.openshift.io",
            version: "v1",
            kind: "SecurityContextConstraints",
            plural: "securitycontextconstraints",
            singular: "securitycontextconstraints",
            properties: constraints(),
        },
    ];
    if flavour.upstream_backups {
        all.push(Definition {
            group: "config.openshift.io",
            version: "v1alpha1",
            kind: "Backup",
            plural: "backups",
            singular: "backup",
            properties: backup(),
        });
        all.push(Definition {
            group: "operator.openshift.io",
            version: "v1alpha1",
            kind: "EtcdBackup",
            plural: "etcdbackups",
            singular: "etcdbackup",
            properties: etcd_backup(),
        });
    }
    all
}

fn backup() -> Value {
    let at_least_one = json!({"type": "integer", "minimum": 1});
    json!({
        "spec": {
            "type": "object",
            "required": ["etcd"],
            "properties": {"etcd": {
                "type": "object",
                "properties": {
                    "schedule": {"type": "string"},
                    "timeZone": {"type": "string"},
                    "pvcName": {"type": "string"},
                    "retentionPolicy": {
                        "type": "object",
                        "required": ["retentionType"],
                        "properties": {
                            "retentionType": {"type": "string", "enum": ["", "RetentionNumber", "RetentionSize"]},
                            "retentionNumber": {
                                "type": "object",
                                "properties": {"maxNumberOfBackups": at_least_one},
                            },
                            "retentionSize": {
                                "type": "object",
                                "properties": {"maxSizeOfBackupsGb": at_least_one},
                            },
                        },
                    },
                },
            }},
        },
        "status": {"type": "object"},
    })
}

fn etcd_backup() -> Value {
    json!({
        "spec": {
            "type": "object",
            "properties": {"pvcName": {
                "type": "string",
                "x-kubernetes-validations": [
                    {"rule": "self == oldSelf", "message": "pvcName is immutable once set"},
                ],
            }},
        },
        "status": {
            "type": "object",
            "properties": {
                "conditions": {
                    "type": "array",
                    "x-kubernetes-list-type": "map",
                    "x-kubernetes-list-map-keys": ["type"],
                    "items": {
                        "type": "object",
                        "required": ["type", "status", "lastTransitionTime", "reason", "message"],
                        "properties": {
                            "type": {"type": "string"},
                            "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
                            "reason": {"type": "string"},
                            "message": {"type": "string"},
                            "lastTransitionTime": {"type": "string", "format": "date-time"},
                            "observedGeneration": {"type": "integer", "format": "int64"},
                        },
                    },
                },
                "backupJob": {
                    "type": "object",
                    "required": ["name", "namespace"],
                    "properties": {
                        "name": {"type": "string", "minLength": 1},
                        "namespace": {"type": "string", "minLength": 1},
                    },
                },
            },
        },
    })
}

impl Definition {
    fn crd(&self) -> Value {
        json!({
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("{}.{}", self.plural, self.group)},
            "spec": {
                "group": self.group,
                "scope": "Cluster",
                "names": {
                    "kind": self.kind,
                    "listKind": format!("{}List", self.kind),
                    "plural": self.plural,
                    "singular": self.singular,
                },
                "versions": [{
                    "name": self.version,
                    "served": true,
                    "storage": true,
                    "subresources": {"status": {}},
                    "schema": {"openAPIV3Schema": {
                        "type": "object",
                        "properties": self.properties,
                    }},
                }],
            },
        })
    }
}

/// The fields of `SecurityContextConstraints`, as openshift/api has them (`security/v1/types.go`).
fn constraints() -> Value {
    let mut properties = serde_json::Map::new();
    for flag in [
        "allowHostDirVolumePlugin",
        "allowHostIPC",
        "allowHostNetwork",
        "allowHostPID",
        "allowHostPorts",
        "allowPrivilegeEscalation",
        "allowPrivilegedContainer",
        "defaultAllowPrivilegeEscalation",
        "readOnlyRootFilesystem",
    ] {
        properties.insert(flag.into(), json!({"type": "boolean", "nullable": true}));
    }
    for list in [
        "allowedCapabilities",
        "defaultAddCapabilities",
        "groups",
        "requiredDropCapabilities",
        "seccompProfiles",
        "users",
        "volumes",
    ] {
        let items = json!({"type": "array", "nullable": true, "items": {"type": "string"}});
        properties.insert(list.into(), items);
    }
    for strategy in [
        "fsGroup",
        "runAsUser",
        "seLinuxContext",
        "supplementalGroups",
    ] {
        properties.insert(strategy.into(), open());
    }
    properties.into()
}

/// The one object of each kind, with what operators look at.
fn objects(flavour: Flavour) -> Vec<(&'static str, &'static str, Value)> {
    let version = "4.20.0";
    let gates = if flavour.upstream_backups {
        json!({"enabled": [{"name": "AutomatedEtcdBackup"}], "disabled": []})
    } else {
        json!({"enabled": [], "disabled": [{"name": "AutomatedEtcdBackup"}]})
    };
    let mut gates = gates;
    gates["version"] = version.into();
    vec![
        (
            "config.openshift.io/v1",
            "ClusterVersion",
            json!({
                "metadata": {"name": "version"},
                "spec": {"clusterID": "6f3c1c0a-7c1e-4b52-9a3d-1f2e3d4c5b6a", "channel": "stable-4.20"},
                "status": {
                    "desired": {"version": version},
                    "history": [{"version": version, "state": "Completed"}],
                },
            }),
        ),
        (
            "config.openshift.io/v1",
            "FeatureGate",
            json!({
                "metadata": {"name": "cluster"},
                "spec": {"featureSet": if flavour.upstream_backups { "TechPreviewNoUpgrade" } else { "" }},
                "status": {"featureGates": [gates]},
            }),
        ),
        (
            "config.openshift.io/v1",
            "Infrastructure",
            json!({
                "metadata": {"name": "cluster"},
                "spec": {"platformSpec": {"type": "None"}},
                "status": {
                    "controlPlaneTopology": "HighlyAvailable",
                    "infrastructureTopology": "HighlyAvailable",
                    "platformStatus": {"type": "None"},
                    "infrastructureName": "test",
                },
            }),
        ),
        (
            "operator.openshift.io/v1",
            "Etcd",
            json!({
                "metadata": {"name": "cluster"},
                "spec": {"managementState": "Managed", "logLevel": "Normal"},
                "status": {"readyReplicas": 3},
            }),
        ),
    ]
}

/// Creates the namespaces, the CRDs and, when the API server serves the CRDs, the objects.
pub(super) async fn make(client: &kube::Client, flavour: Flavour) -> Result<(), kube::Error> {
    let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(client.clone());
    for name in ["openshift-etcd", "openshift-etcd-operator"] {
        let namespace =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        let namespace = serde_json::from_value(namespace).map_err(kube::Error::SerdeError)?;
        namespaces
            .create(&PostParams::default(), &namespace)
            .await?;
    }
    let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
    for definition in definitions(flavour) {
        let crd = serde_json::from_value(definition.crd()).map_err(kube::Error::SerdeError)?;
        crds.create(&PostParams::default(), &crd).await?;
    }
    for (api_version, kind, object) in objects(flavour) {
        make_object(client, api_version, kind, object).await?;
    }
    Ok(())
}

async fn make_object(
    client: &kube::Client,
    api_version: &str,
    kind: &str,
    mut object: Value,
) -> Result<(), kube::Error> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    object["apiVersion"] = api_version.into();
    object["kind"] = kind.into();
    let typed: DynamicObject =
        serde_json::from_value(object.clone()).map_err(kube::Error::SerdeError)?;
    let name = typed.metadata.name.clone().unwrap_or_default();
    // The API server serves a CRD a moment after it was created.
    let mut tries = 0;
    loop {
        match api.create(&PostParams::default(), &typed).await {
            Ok(_) => break,
            Err(kube::Error::Api(status)) if status.code == 404 && tries < 100 => {
                tries += 1;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Err(error) => return Err(error),
        }
    }
    let status = json!({"status": object["status"]});
    api.patch_status(&name, &PatchParams::default(), &Patch::Merge(status))
        .await
        .map(|_| ())
}
