//! `cargo xtask generate`: files that come from the program's own types.

use anyhow::{Context, Result};
use cluster_api::resources;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray,
};
use operator::install::manifests::{InstallOptions, alerts, all};
use serde_json::Value;
use xtask::command::root;

/// The template of the Helm chart.
const HELM_TEMPLATE: &str = "deploy/helm/etcd-lifeboat/templates/all.yaml";
/// What each field of the custom resources means, and each alert.
const REFERENCE: &str = "docs/reference.md";

/// Writes them.
pub(crate) fn run() -> Result<()> {
    for (path, text) in files()? {
        std::fs::write(root().join(path), text).with_context(|| format!("write {path}"))?;
        println!("{path}");
    }
    Ok(())
}

fn files() -> Result<[(&'static str, String); 2]> {
    Ok([(HELM_TEMPLATE, helm_template()?), (REFERENCE, reference())])
}

/// The custom resources, field by field, and the alerts.
fn reference() -> String {
    let mut text = String::from(
        "# Reference: the custom resources, field by field, and the operator's alerts\n\nWritten by `cargo xtask generate` from the program's own types; `kubectl explain` says the same of the resources.\n",
    );
    for definition in resources::crds() {
        let names = &definition.spec.names;
        for version in &definition.spec.versions {
            let schema = version
                .schema
                .as_ref()
                .and_then(|schema| schema.open_api_v3_schema.as_ref());
            let Some(schema) = schema else {
                continue;
            };
            text += &format!(
                "\n## {} (`{}/{}`)\n\n",
                names.kind, definition.spec.group, version.name
            );
            let spec = schema.properties.iter().flatten();
            let spec: Vec<_> = spec
                .filter(|(name, _)| name.as_str() != "metadata")
                .collect();
            let about = schema.description.as_deref().unwrap_or_default();
            text += &format!("{about}\n\n| field | type | meaning |\n|---|---|---|\n");
            for (name, property) in spec {
                describe(name, property, &mut text);
            }
        }
    }
    text += "\n## Alerts of the operator\n\n`manifests --monitoring` installs them. Each says in its description where to look.\n\n| alert | severity | after | if | that is |\n|---|---|---|---|---|\n";
    for rule in alerts()
        .pointer("/groups/0/rules")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        let word = |path: &str| {
            rule.pointer(path)
                .and_then(Value::as_str)
                .unwrap_or_default()
        };
        let summary = word("/annotations/summary")
            .replace("{{ $labels.node }}", "NODE")
            .replace("{{ $labels.backup }}", "NAME")
            .replace("{{ $value }}", "some");
        text += &format!(
            "| `{}` | {} | {} | `{}` | {summary} |\n",
            word("/alert"),
            word("/labels/severity"),
            word("/for"),
            word("/expr"),
        );
    }
    text
}

fn describe(path: &str, schema: &JSONSchemaProps, text: &mut String) {
    let items = match &schema.items {
        Some(JSONSchemaPropsOrArray::Schema(items)) => Some(items),
        _ => None,
    };
    let inner = items.map_or(schema, |items| items);
    let path = if items.is_some() {
        format!("{path}[]")
    } else {
        path.to_string()
    };
    let mut kind = inner.type_.clone().unwrap_or_default();
    if let Some(minimum) = inner.minimum {
        kind += &format!(", at least {minimum}");
    }
    if let Some(values) = &inner.enum_ {
        let values: Vec<_> = values
            .iter()
            .map(|value| format!("`{}`", value.0))
            .collect();
        kind += &format!(": {}", values.join(", "));
    }
    let about = schema.description.as_deref().unwrap_or_default();
    let about = about.split_whitespace().collect::<Vec<_>>().join(" ");
    *text += &format!("| `{path}` | {kind} | {about} |\n");
    // The conditions are Kubernetes' own.
    if path.ends_with("conditions[]") {
        return;
    }
    for (name, property) in inner.properties.iter().flatten() {
        describe(&format!("{path}.{name}"), property, text);
    }
}

/// The same objects, as a template: what differs by what is asked for is in a condition.
fn helm_template() -> Result<String> {
    const IMAGE: &str = "IMAGE-OF-THE-CHART:VERSION";
    const REPOSITORY: &str = "IMAGE-OF-THE-CHART";
    const NAMESPACE: &str = "namespace-of-the-chart";
    const DIRECTORY: &str = "/directory-of-the-chart";
    let (argument, listed) = (
        format!("        - --node-directory={DIRECTORY}\n"),
        format!("\\\"{DIRECTORY}\\\","),
    );
    let objects = |openshift, monitoring| {
        all(&InstallOptions {
            image: IMAGE.into(),
            namespace: NAMESPACE.into(),
            openshift,
            monitoring,
            node_directories: vec![DIRECTORY.into()],
        })
    };
    let (plain, openshift, monitored) = (
        objects(false, false),
        objects(true, false),
        objects(false, true),
    );
    let mut text = String::from("# Written by `cargo xtask generate`.\n");
    let mut add = |objects: &[Value], condition: Option<&str>| {
        for object in objects {
            // What is a template of Prometheus' is none of Helm's.
            let yaml = serde_saphyr::to_string(object)?
                .replace("{{ $labels.node }}", "{{ `{{ $labels.node }}` }}")
                .replace("{{ $labels.backup }}", "{{ `{{ $labels.backup }}` }}")
                .replace("{{ $value }}", "{{ `{{ $value }}` }}")
                .replace(
                    &argument,
                    "{{- range .Values.nodeDirectories }}\n        - --node-directory={{ . }}\n{{- end }}\n",
                )
                .replace(
                    &listed,
                    r#"{{ range .Values.nodeDirectories }}\"{{ . }}\",{{ end }}"#,
                )
                .replace(IMAGE, "{{ .Values.image }}")
                // Without its version.
                .replace(
                    REPOSITORY,
                    "{{ regexReplaceAll \":[^/:]*$\" (first (splitList \"@\" .Values.image)) \"\" }}",
                )
                .replace(
                    NAMESPACE,
                    "{{ if .Values.openshift }}openshift-etcd{{ else }}etcd-lifeboat{{ end }}",
                );
            text += &match condition {
                Some(condition) => {
                    format!("{{{{- if {condition} }}}}\n---\n{yaml}{{{{- end }}}}\n")
                }
                None => format!("---\n{yaml}"),
            };
        }
        Ok::<_, anyhow::Error>(())
    };
    let only_in = |one: &[Value], other: &[Value]| -> Vec<Value> {
        let mut one = one.to_vec();
        one.retain(|object| !other.contains(object));
        one
    };
    let mut both = plain.clone();
    both.retain(|object| openshift.contains(object));
    add(&only_in(&plain, &openshift), Some("not .Values.openshift"))?;
    add(&both, None)?;
    add(&only_in(&openshift, &plain), Some(".Values.openshift"))?;
    add(&only_in(&monitored, &plain), Some(".Values.monitoring"))?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_generated_is_of_this_version() {
        for (path, text) in files().unwrap() {
            let written = std::fs::read_to_string(root().join(path)).unwrap_or_default();
            assert!(
                written == text,
                "{path} is not of this version: `cargo xtask generate` writes it anew"
            );
        }
    }
}
