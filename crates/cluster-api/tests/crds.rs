//! CRDs that are in clusters stay compatible: no later version takes back what a version has defined.

use cluster_api::resources::crds;
use serde_json::Value;
use std::collections::BTreeSet;

/// The definitions as each version has made them.
const BEFORE: [(&str, &str); 1] = [("0.1.0", include_str!("crds/version-0.1.0.json"))];

#[test]
fn the_definitions_of_this_version_are_kept_for_those_to_come() {
    assert!(
        BEFORE
            .iter()
            .any(|(version, _)| *version == env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn whatever_a_version_before_has_written_is_taken_and_kept() {
    let now = serde_json::to_value(crds()).unwrap();
    for (version, text) in BEFORE {
        let before: Vec<Value> = serde_json::from_str(text).unwrap();
        for (before, now) in before.iter().zip(now.as_array().unwrap()) {
            let name = before["metadata"]["name"].as_str().unwrap();
            let taken = |definition: &Value| definition["spec"]["versions"][0].clone();
            for part in ["names", "scope", "group"] {
                assert_eq!(before["spec"][part], now["spec"][part], "{version} {name}");
            }
            let schema =
                |definition: &Value| taken(definition)["schema"]["openAPIV3Schema"].clone();
            let mut broken = Vec::new();
            compare(name, &schema(before), &schema(now), &mut broken);
            assert_eq!(broken, Vec::<String>::new(), "{version}");
        }
    }
}

/// What the schema now would refuse or drop of what the one before took.
fn compare(path: &str, before: &Value, now: &Value, broken: &mut Vec<String>) {
    if before["type"] != now["type"] {
        broken.push(format!("{path}: {} became {}", before["type"], now["type"]));
    }
    let words = |schema: &Value, part: &str| -> Option<BTreeSet<String>> {
        let words = schema[part].as_array()?;
        Some(words.iter().map(Value::to_string).collect())
    };
    let required = |schema: &Value| words(schema, "required").unwrap_or_default();
    if !required(now).is_subset(&required(before)) {
        broken.push(format!("{path}: more is required"));
    }
    // Neither may it grow: a server of this version may meet the definition of the one before.
    if words(before, "enum") != words(now, "enum") {
        broken.push(format!("{path}: other values"));
    }
    for (limit, tighter) in [
        ("minimum", f64::gt as fn(&f64, &f64) -> bool),
        ("minLength", f64::gt),
        ("maxLength", f64::lt),
        ("maxItems", f64::lt),
    ] {
        let is_tighter = match (before[limit].as_f64(), now[limit].as_f64()) {
            (Some(before), Some(now)) => tighter(&now, &before),
            (None, Some(_)) => true,
            (_, None) => false,
        };
        if is_tighter {
            broken.push(format!("{path}: {limit} became tighter"));
        }
    }
    for (name, before) in before["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        match now["properties"].get(name) {
            Some(now) => compare(&path, before, now, broken),
            None => broken.push(format!("{path}: is gone")),
        }
    }
    if before["items"].is_object() {
        compare(
            &format!("{path}[]"),
            &before["items"],
            &now["items"],
            broken,
        );
    }
}

#[test]
fn what_would_break_is_seen() {
    let before = serde_json::json!({"type": "object", "properties": {"a": {"type": "string", "enum": ["x"]}, "b": {"type": "integer", "minimum": 1}}});
    for (change, told) in [
        (
            ("/properties/a/enum", serde_json::json!(["x", "y"])),
            ".a: other values",
        ),
        (
            ("/properties/b/type", "string".into()),
            ".b: \"integer\" became \"string\"",
        ),
        (
            ("/properties/b/minimum", 2.into()),
            ".b: minimum became tighter",
        ),
        (
            (
                "/properties",
                serde_json::json!({"a": {"type": "string", "enum": ["x"]}}),
            ),
            ".b: is gone",
        ),
        (
            ("/required", serde_json::json!(["a"])),
            ": more is required",
        ),
    ] {
        let mut now = before.clone();
        now["required"] = serde_json::json!([]);
        *now.pointer_mut(change.0).unwrap() = change.1;
        let mut broken = Vec::new();
        compare("", &before, &now, &mut broken);
        assert_eq!(broken, [told]);
    }
}
