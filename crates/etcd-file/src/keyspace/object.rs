//! Which object of Kubernetes a key has (kubernetes/kubernetes: `staging/src/k8s.io/apimachinery/pkg/runtime/serializer/protobuf`,
//! `staging/src/k8s.io/apiserver/pkg/storage/value`).

use crate::wire::{self, Content, Field, varint};

/// How much of a value is needed to know the kind of its object.
pub(super) const PREFIX_BYTES: u64 = 512;
const PROTOBUF: &[u8] = b"k8s\0";
const ENCRYPTED: &[u8] = b"k8s:enc:";
const MAX_KIND_BYTES: usize = 63;

/// The number of the kind of an object: [`NOT_AN_OBJECT`], [`UNNAMED`], or more for those with a name.
pub(super) type KindNumber = u16;
pub(super) const NOT_AN_OBJECT: KindNumber = 0;
pub(super) const UNNAMED: KindNumber = 1;
pub(super) const FIRST_NAMED: KindNumber = 2;

/// The kind of the object in a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KindOf<'v> {
    /// The value is not an object of Kubernetes.
    NoObject,
    /// An object that is encrypted, or whose kind is not at its start.
    Unknown,
    /// Such as `ConfigMap`.
    Named(&'v str),
}

/// Finds the kind of the object in a value from its first bytes.
pub(super) fn kind_of(prefix: &[u8]) -> KindOf<'_> {
    if prefix.starts_with(ENCRYPTED) {
        return KindOf::Unknown;
    }
    let kind = match prefix.strip_prefix(PROTOBUF) {
        Some(message) => type_meta(message),
        None => match first_members(prefix) {
            Some((true, kind)) => kind,
            _ => return KindOf::NoObject,
        },
    };
    let is_name = |kind: &&str| {
        let letters = kind.bytes().all(|byte| byte.is_ascii_alphanumeric());
        letters && !kind.is_empty() && kind.len() <= MAX_KIND_BYTES
    };
    kind.filter(is_name).map_or(KindOf::Unknown, KindOf::Named)
}

/// The kind in the first field of `runtime.Unknown`: `TypeMeta`, with the version and the kind.
fn type_meta(message: &[u8]) -> Option<&str> {
    const TYPE_META: u8 = 1 << 3 | 2;
    let (len, rest) = varint(message.strip_prefix(&[TYPE_META])?)?;
    let meta = rest.get(..usize::try_from(len).ok()?)?;
    let mut kind = None;
    wire::read(
        meta,
        &[Field::Bytes, Field::Bytes],
        &mut |field, content| {
            if let (2, Content::Bytes(bytes)) = (field, content) {
                kind = std::str::from_utf8(bytes).ok();
            }
        },
    )
    .ok()?;
    kind
}

/// Whether JSON begins with the version of an object, and its kind. The API server writes both first.
fn first_members(prefix: &[u8]) -> Option<(bool, Option<&str>)> {
    let mut rest = prefix.strip_prefix(b"{")?;
    let (mut has_version, mut kind) = (false, None);
    for _ in 0..2 {
        let (name, after) = quoted(rest)?;
        let (value, after) = quoted(after.strip_prefix(b":")?)?;
        match name {
            "apiVersion" => has_version = true,
            "kind" => kind = Some(value),
            _ => return None,
        }
        rest = after.strip_prefix(b",").unwrap_or(after);
    }
    Some((has_version, kind))
}

/// A text in quotes, without escapes, and what follows.
fn quoted(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let text = bytes.trim_ascii_start().strip_prefix(b"\"")?;
    let end = text.iter().position(|byte| matches!(byte, b'"' | b'\\'))?;
    let (text, rest) = text.split_at_checked(end)?;
    let rest = rest.strip_prefix(b"\"")?.trim_ascii_start();
    Some((std::str::from_utf8(text).ok()?, rest))
}

/// An object of Kubernetes, as its key names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Such as `ConfigMap`. `None` if the value is encrypted.
    pub kind: Option<String>,
    /// Such as `configmaps`, or `example.com/widgets`.
    pub resource: String,
    /// `None` if the object is in no namespace.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
}

/// Reads the key of an object: `/registry/[group/]resource/[namespace/]name`. A group has a dot, and `services` has two resources.
pub(super) fn object_of(key: &[u8], kind: Option<&str>) -> Option<Object> {
    let path = std::str::from_utf8(key).ok()?.strip_prefix('/')?;
    let (_, path) = path.split_once('/')?;
    let (first, rest) = path.split_once('/')?;
    let (resource, rest) = match first.contains('.') || first == "services" {
        true => {
            let (second, rest) = rest.split_once('/')?;
            match first {
                "services" => (second.to_string(), rest),
                group => (format!("{group}/{second}"), rest),
            }
        }
        false => (first.to_string(), rest),
    };
    let (namespace, name) = match rest.split_once('/') {
        Some((namespace, name)) => (Some(namespace.to_string()), name),
        None => (None, rest),
    };
    Some(Object {
        kind: kind.map(str::to_string),
        resource,
        namespace,
        name: name.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_of_an_object_is_found_at_the_start_of_its_value() {
        let protobuf = b"k8s\0\x0a\x0f\x0a\x02v1\x12\x09ConfigMap\x12\x03abc";
        assert_eq!(kind_of(protobuf), KindOf::Named("ConfigMap"));
        for json in [
            r#"{"apiVersion":"a/v1","kind":"Widget","metadata":{}}"#,
            r#"{"kind":"Widget","apiVersion":"a/v1","metadata":{}}"#,
            r#"{ "kind": "Widget", "apiVersion": "a/v1" }"#,
        ] {
            assert_eq!(kind_of(json.as_bytes()), KindOf::Named("Widget"), "{json}");
        }
        for unknown in [
            &b"k8s:enc:aescbc:v1:key1:\x01\x02"[..],
            b"k8s\0\x0a\x0f\x0a\x02v1",
            b"k8s\0",
            b"k8s\0\x0a\x0f\x0a\x02v1\x12\x09Config\nap",
        ] {
            assert_eq!(kind_of(unknown), KindOf::Unknown, "{unknown:?}");
        }
        for other in [
            "",
            "plain",
            "{}",
            r#"{"kind":"Widget"}"#,
            r#"{"kind":"a","kind":"b"}"#,
            r#"{"a":"b","kind":"Widget","apiVersion":"a/v1"}"#,
            r#"{"kind":1}"#,
        ] {
            assert_eq!(kind_of(other.as_bytes()), KindOf::NoObject, "{other}");
        }
    }

    #[test]
    fn a_key_names_resource_namespace_and_name() {
        for (key, wanted) in [
            ("/registry/pods/default/a", "pods default a"),
            ("/registry/minions/node1", "minions - node1"),
            ("/registry/services/specs/default/a", "specs default a"),
            (
                "/registry/clusterroles/system:node",
                "clusterroles - system:node",
            ),
            (
                "/registry/example.com/widgets/ns/a",
                "example.com/widgets ns a",
            ),
            (
                "/registry/apiregistration.k8s.io/apiservices/v1.apps",
                "apiregistration.k8s.io/apiservices - v1.apps",
            ),
            ("/kubernetes.io/pods/default/a", "pods default a"),
        ] {
            let object = object_of(key.as_bytes(), None).unwrap();
            let namespace = object.namespace.as_deref().unwrap_or("-");
            let found = format!("{} {namespace} {}", object.resource, object.name);
            assert_eq!(found, wanted);
        }
        for other in [
            "",
            "a/b/c",
            "/registry",
            "/registry/health",
            "/registry/services/specs",
        ] {
            assert_eq!(object_of(other.as_bytes(), None), None, "{other}");
        }
    }
}
