//! Reads objects of the API server and tolerates those that do not parse. Otherwise one such object would make the whole list
//! fail.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use kube::Resource;
use kube::api::{Api, ListParams, ObjectMeta};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use std::borrow::Cow;
use std::fmt::Debug;

/// Maximum length of a parser's message.
const PROBLEM_CHARS: usize = 200;

/// An object, or the reason why it cannot be read.
#[derive(Debug, Clone)]
pub(crate) struct Lenient<K> {
    meta: ObjectMeta,
    pub(crate) object: Result<K, String>,
}

impl<'de, K: DeserializeOwned + Resource> Deserialize<'de> for Lenient<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut value = Value::deserialize(deserializer)?;
        let object = match K::deserialize(&value) {
            Ok(object) => Ok(object),
            Err(_) => {
                forget_unreadable_fields(&mut value);
                K::deserialize(&value)
                    .map_err(|error| error.to_string().chars().take(PROBLEM_CHARS).collect())
            }
        };
        let text = |field: &str| {
            let field = value.pointer(&format!("/metadata/{field}"));
            field.and_then(Value::as_str).map(String::from)
        };
        let meta = match &object {
            Ok(object) => object.meta().clone(),
            Err(_) => ObjectMeta {
                name: text("name"),
                namespace: text("namespace"),
                uid: text("uid"),
                resource_version: text("resourceVersion"),
                ..ObjectMeta::default()
            },
        };
        Ok(Lenient { meta, object })
    }
}

/// Removes the entries of `managedFields` that do not parse. Every writer of an object can set them.
fn forget_unreadable_fields(value: &mut Value) {
    let managed = value.pointer_mut("/metadata/managedFields");
    if let Some(managed) = managed.and_then(Value::as_array_mut) {
        managed.retain(|entry| ManagedFieldsEntry::deserialize(entry).is_ok());
    }
}

impl<K: Resource> Resource for Lenient<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn kind(of: &Self::DynamicType) -> Cow<'_, str> {
        K::kind(of)
    }

    fn group(of: &Self::DynamicType) -> Cow<'_, str> {
        K::group(of)
    }

    fn version(of: &Self::DynamicType) -> Cow<'_, str> {
        K::version(of)
    }

    fn plural(of: &Self::DynamicType) -> Cow<'_, str> {
        K::plural(of)
    }

    fn metadata_api() -> bool {
        K::metadata_api()
    }

    fn meta(&self) -> &ObjectMeta {
        match &self.object {
            Ok(object) => object.meta(),
            Err(_) => &self.meta,
        }
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        match &mut self.object {
            Ok(object) => object.meta_mut(),
            Err(_) => &mut self.meta,
        }
    }
}

impl<K: Resource<DynamicType: Default>> Lenient<K> {
    /// Kind and name of the object, and why it cannot be read.
    pub(crate) fn problem(&self) -> Option<(String, String)> {
        let problem = self.object.as_ref().err()?;
        let kind = K::kind(&K::DynamicType::default()).into_owned();
        let name = self.meta.name.clone().unwrap_or_default();
        Some((format!("{kind}/{name}"), problem.clone()))
    }
}

/// Lists all readable objects, and the problems of the others.
pub(crate) async fn list<K>(
    all: &Api<Lenient<K>>,
    params: &ListParams,
) -> Result<(Vec<K>, Vec<String>), kube::Error>
where
    K: Resource<DynamicType: Default> + DeserializeOwned + Clone + Debug,
{
    let mut readable = Vec::new();
    let mut problems = Vec::new();
    for object in all.list(params).await? {
        if let Some((name, problem)) = object.problem() {
            problems.push(format!("cannot read {name}: {problem}"));
        }
        readable.extend(object.object);
    }
    Ok((readable, problems))
}

/// Reads one object. Returns `None` if it does not exist or cannot be read.
pub(crate) async fn get<K>(all: &Api<Lenient<K>>, name: &str) -> Result<Option<K>, kube::Error>
where
    K: Resource + DeserializeOwned + Clone + Debug,
{
    let found = all.get_opt(name).await?;
    Ok(found.and_then(|found| found.object.ok()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Node;
    use kube::ResourceExt;
    use kube::core::{ObjectList, PartialObjectMeta};
    use serde_json::json;

    #[test]
    fn one_object_that_can_not_be_read_does_not_hide_the_others() {
        let written = |manager: &str, time: &str| json!({"manager": manager, "operation": "Update", "apiVersion": "v1", "time": time});
        let list = json!({
            "metadata": {},
            "items": [
                {"metadata": {"name": "a", "labels": {"role": "x"}, "managedFields": [
                    // Kubernetes accepts this time, but the library cannot parse it.
                    written("evil", "9999-12-31T23:59:59Z"),
                    written("kubelet", "2026-11-22T03:00:05Z"),
                ]}},
                {"metadata": {"name": "b", "labels": 7}},
                {"metadata": {"name": "c"}},
            ],
        });
        let list: ObjectList<Lenient<PartialObjectMeta<Node>>> =
            serde_json::from_value(list).unwrap();
        let names: Vec<_> = list.iter().map(ResourceExt::name_any).collect();
        assert_eq!(names, ["a", "b", "c"]);
        let first = list.items[0].object.as_ref().unwrap();
        assert_eq!(first.labels()["role"], "x");
        assert_eq!(first.managed_fields().len(), 1);
        let (name, problem) = list.items[1].problem().unwrap();
        assert_eq!(name, "Node/b");
        assert!(problem.contains("invalid type"), "{problem}");
        assert!(list.items[2].problem().is_none());
    }
}
