//! Whether the CRDs in the cluster have the fields that this operator writes. `OpenShift` works on another shape of `EtcdBackup` in the
//! same group and version, and the API server silently drops fields that a CRD does not have.

use crate::names::is_managed_by_us;
use cluster_api::resources::{Backup, EtcdBackup, crds};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps,
};
use kube::api::Api;
use kube::{Client, CustomResourceExt, ResourceExt};

/// The fields that are written, by CRD.
fn written_fields() -> [(&'static str, &'static [&'static str]); 2] {
    [
        (
            Backup::crd_name(),
            &[
                "spec.etcd.schedule",
                "spec.etcd.timeZone",
                "spec.etcd.retentionPolicy.retentionType",
                "spec.etcd.retentionPolicy.retentionNumber.maxNumberOfBackups",
            ],
        ),
        (
            EtcdBackup::crd_name(),
            &["spec.pvcName", "status.conditions", "status.backupJob.name"],
        ),
    ]
}

/// What is wrong with the CRDs of another owner.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ApiProblems {
    /// Why no `Backup` can be written.
    pub backup: Option<String>,
    /// Why no `EtcdBackup` can be written.
    pub etcd_backup: Option<String>,
}

impl ApiProblems {
    /// All of them, for people.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &String> {
        self.backup.iter().chain(&self.etcd_backup)
    }
}

/// Reads the CRDs. One that does not exist is no problem, because the operator creates it. Users who are not allowed to read CRDs find no
/// problem.
///
/// # Errors
/// The error of the API server.
pub(crate) async fn read_api_problems(client: &Client) -> Result<ApiProblems, kube::Error> {
    let all: Api<CustomResourceDefinition> = Api::all(client.clone());
    let mut problems = [None, None];
    for ((name, fields), problem) in written_fields().into_iter().zip(&mut problems) {
        let found = match all.get_opt(name).await {
            Err(kube::Error::Api(status)) if status.code == 403 => None,
            found => found?,
        };
        *problem = found.and_then(|found| problem_of(&found, fields));
    }
    let [backup, etcd_backup] = problems;
    Ok(ApiProblems {
        backup,
        etcd_backup,
    })
}

/// Why these fields cannot be written with a CRD.
fn problem_of(found: &CustomResourceDefinition, fields: &[&str]) -> Option<String> {
    // One of an older version of this operator is brought up to date.
    if is_managed_by_us(found.labels()) {
        return None;
    }
    let name = found.name_any();
    let own = crds().into_iter().find(|own| own.name_any() == name)?;
    let version = own.spec.versions.first()?.name.clone();
    let Some(schema) = schema(found, &version) else {
        return Some(format!("the CRD {name} does not serve version {version}"));
    };
    let own = schema_of_own(&own)?;
    let lacks = fields.iter().find(|field| {
        let wanted = at(own, field).map(|schema| &schema.type_);
        let there = at(schema, field);
        there.is_none_or(|there| !keeps_all(there) && Some(&there.type_) != wanted)
    });
    lacks.map(|field| {
        format!(
            "the CRD {name} is of another owner and has no field {field} as this version needs it"
        )
    })
}

fn schema<'d>(found: &'d CustomResourceDefinition, version: &str) -> Option<&'d JSONSchemaProps> {
    let mut versions = found.spec.versions.iter();
    let version = versions.find(|candidate| candidate.name == version && candidate.served)?;
    version.schema.as_ref()?.open_api_v3_schema.as_ref()
}

fn schema_of_own(own: &CustomResourceDefinition) -> Option<&JSONSchemaProps> {
    schema(own, &own.spec.versions.first()?.name)
}

/// The schema of a field, by its path.
fn at<'s>(schema: &'s JSONSchemaProps, path: &str) -> Option<&'s JSONSchemaProps> {
    path.split('.').try_fold(schema, |schema, name| {
        if keeps_all(schema) {
            return Some(schema);
        }
        schema.properties.as_ref()?.get(name)
    })
}

fn keeps_all(schema: &JSONSchemaProps) -> bool {
    schema.x_kubernetes_preserve_unknown_fields == Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_crds_have_all_fields_and_a_changed_one_is_named_with_the_field() {
        for own in crds() {
            for (name, fields) in written_fields() {
                if own.name_any() != name {
                    continue;
                }
                assert_eq!(problem_of(&own, fields), None);
                for field in fields {
                    let mut changed = own.clone();
                    let (parent, last) = field.rsplit_once('.').unwrap();
                    let version = &mut changed.spec.versions[0];
                    let mut schema = version
                        .schema
                        .as_mut()
                        .and_then(|schema| schema.open_api_v3_schema.as_mut())
                        .unwrap();
                    for name in parent.split('.') {
                        schema = schema.properties.as_mut().unwrap().get_mut(name).unwrap();
                    }
                    schema.properties.as_mut().unwrap().remove(last);
                    let problem = problem_of(&changed, fields).unwrap();
                    assert!(problem.contains(field), "{problem}");
                    // A schema that keeps every field has it.
                    let mut open = changed;
                    let schema = open.spec.versions[0].schema.as_mut().unwrap();
                    let schema = schema.open_api_v3_schema.as_mut().unwrap();
                    schema.x_kubernetes_preserve_unknown_fields = Some(true);
                    assert_eq!(problem_of(&open, fields), None);
                }
                let mut renamed = own.clone();
                renamed.spec.versions[0].name = "v2".into();
                let problem = problem_of(&renamed, fields).unwrap();
                assert!(
                    problem.contains("does not serve version v1alpha1"),
                    "{problem}"
                );
            }
        }
    }
}
