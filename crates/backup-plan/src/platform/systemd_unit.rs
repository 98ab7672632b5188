//! The unit of a service of systemd, with its drop-ins and its environment files (`systemd.unit(5)`, `systemd.exec(5)`).

use super::environment_file;
use super::found::{PlatformError, read};
use super::node_files::NodeFiles;
use std::collections::BTreeMap;

/// Where units are. The first one wins.
const UNIT_DIRS: [&str; 5] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

/// What a unit says about its service.
#[derive(Default)]
pub(super) struct Unit {
    /// The files it was read from. Empty if there is no unit.
    pub(super) paths: Vec<String>,
    /// The name without `.service`.
    name: String,
    environment: Vec<(String, String)>,
    pub(super) environment_files: Vec<String>,
    pub(super) command: String,
}

impl Unit {
    /// Reads the unit `NAME.service` with its drop-ins. Without a unit, all is empty.
    pub(super) fn read(files: &dyn NodeFiles, name: &str) -> Result<Unit, PlatformError> {
        let mut unit = Unit {
            name: name.into(),
            ..Unit::default()
        };
        for dir in UNIT_DIRS {
            let path = format!("{dir}/{name}.service");
            if let Some(text) = read(files, &path)? {
                unit.add(&text);
                unit.paths.push(path);
                break;
            }
        }
        if unit.paths.is_empty() {
            return Ok(unit);
        }
        // systemd uses the first of several drop-ins with the same name. In reverse order this is the last one.
        let mut drop_ins = BTreeMap::new();
        for dir in UNIT_DIRS.iter().rev() {
            let dir = format!("{dir}/{name}.service.d");
            for name in files.names(&dir) {
                if name.ends_with(".conf") {
                    let path = format!("{dir}/{name}");
                    drop_ins.insert(name, path);
                }
            }
        }
        for path in drop_ins.into_values() {
            if let Some(text) = read(files, &path)? {
                unit.add(&text);
                unit.paths.push(path);
            }
        }
        Ok(unit)
    }

    /// The variables of the service, those of its environment files last. They win.
    ///
    /// The files that exist are added to the paths.
    pub(super) fn variables(
        &mut self,
        files: &dyn NodeFiles,
    ) -> Result<Vec<(String, String)>, PlatformError> {
        let mut variables = self.environment.clone();
        for path in &self.environment_files {
            if let Some(text) = read(files, path)? {
                variables.extend(environment_file::parse(&text));
                self.paths.push(path.clone());
            }
        }
        Ok(variables)
    }

    /// Adds the settings of a file. They override earlier settings.
    fn add(&mut self, text: &str) {
        let text = text.replace("\\\n", " ");
        let mut in_service = false;
        for line in text.lines().map(str::trim) {
            if line.starts_with('[') {
                in_service = line == "[Service]";
            }
            let Some((key, value)) = line.split_once('=').filter(|_| in_service) else {
                continue;
            };
            let value = value.trim();
            match key.trim() {
                "Environment" if value.is_empty() => self.environment.clear(),
                "Environment" => {
                    let assignments = quoted_words(value).into_iter();
                    self.environment.extend(assignments.filter_map(|word| {
                        let (name, value) = word.split_once('=')?;
                        Some((name.to_string(), value.to_string()))
                    }));
                }
                "EnvironmentFile" if value.is_empty() => self.environment_files.clear(),
                "EnvironmentFile" => {
                    // The name of the unit, and its instance, which it does not have.
                    let path = value.trim_start_matches('-');
                    let path = path.replace("%p", &self.name).replace("%N", &self.name);
                    self.environment_files.push(path.replace("%i", ""));
                }
                // The last of several commands is used: a service that keeps running has only one.
                "ExecStart" => self.command = value.into(),
                _ => {}
            }
        }
    }
}

/// Splits at white space outside of quotes, as systemd splits the assignments of `Environment=`.
fn quoted_words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (_, '\\') => word.get_or_insert_default().extend(chars.next()),
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

fn unquoted(word: &str) -> String {
    word.replace(['"', '\'', '\\'], "")
}

/// Splits a command line into words and replaces the variables of its environment, also if a shell starts etcd.
/// Variables in the values of variables are not replaced.
pub(super) fn words(command: &str, variables: &[(String, String)]) -> Vec<String> {
    /// A command line is not longer. If the environment makes it longer, it is ignored.
    const MAX_BYTES: usize = 1 << 17;
    let value_of = |name: &str| {
        let set = variables.iter().rev().find(|(key, _)| key == name);
        set.map_or("", |(_, value)| value.as_str())
    };
    let mut expanded = String::new();
    for word in unquoted(command).split_whitespace() {
        expanded.push(' ');
        let mut rest = word;
        while let Some((before, after)) = rest.split_once('$') {
            expanded.push_str(before);
            let (name, after) = match after.strip_prefix('{') {
                Some(braced) => braced.split_once('}').unwrap_or((braced, "")),
                None => {
                    let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
                    after.split_at(end.unwrap_or(after.len()))
                }
            };
            expanded.push_str(value_of(name));
            rest = after;
            if expanded.len() > MAX_BYTES {
                return Vec::new();
            }
        }
        expanded.push_str(rest);
    }
    expanded.split_whitespace().map(String::from).collect()
}
