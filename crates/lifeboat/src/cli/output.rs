//! Output for people and scripts.

use clap::ValueEnum;
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;
use std::io::Write;

/// Format of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A table for people.
    Table,
    /// JSON for scripts.
    Json,
}

/// Prints a result. A closed pipe is not an error.
pub(crate) fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Checks that a directory for the files of a command exists.
///
/// # Errors
/// It does not exist, or is something else.
#[cfg(feature = "kubernetes")]
pub(crate) fn require_directory(path: &std::path::Path) -> anyhow::Result<()> {
    anyhow::ensure!(
        path.is_dir(),
        "{} does not exist or is not a directory: create it, or choose another directory with --to",
        path.display()
    );
    Ok(())
}

/// Prints an error to standard error.
pub(crate) fn error(text: &str) {
    let text = printable(text);
    let _ = writeln!(std::io::stderr().lock(), "error: {text}");
}

/// Escapes control characters, because anyone can choose names in files and in a cluster. Line feeds stay.
fn printable(text: &str) -> String {
    let is_plain = |char: char| char == '\n' || !(char.is_control() || reorders(char));
    let mut plain = String::with_capacity(text.len());
    for char in text.chars() {
        if is_plain(char) {
            plain.push(char);
        } else {
            plain.extend(char.escape_unicode());
        }
    }
    plain
}

/// JSON for people and scripts, on several lines.
pub(crate) fn json(value: &impl Serialize) -> serde_json::Result<String> {
    Ok(escaped(&serde_json::to_string_pretty(value)?) + "\n")
}

/// JSON on one line.
pub(crate) fn json_line(value: &impl Serialize) -> serde_json::Result<String> {
    Ok(escaped(&serde_json::to_string(value)?))
}

/// JSON escapes only the first control characters. Here all are, because people look at it in terminals, too.
fn escaped(json: &str) -> String {
    let mut plain = String::with_capacity(json.len());
    for char in json.chars() {
        match char {
            '\u{7f}'..='\u{9f}' => plain += &format!("\\u{:04x}", u32::from(char)),
            char if reorders(char) => plain += &format!("\\u{:04x}", u32::from(char)),
            char => plain.push(char),
        }
    }
    plain
}

/// Whether a character changes the direction of the text or ends a line in some terminals.
fn reorders(char: char) -> bool {
    matches!(char, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Like [`printable`], but also escapes line feeds, so that the result is one line.
pub(crate) fn one_line(text: &str) -> String {
    printable(text).replace('\n', "\\n")
}

/// An error with its causes. A cause that is already part of the message is not repeated.
pub(crate) fn told(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !text.ends_with(&cause) {
            text += &format!(": {cause}");
        }
    }
    text
}

/// A table without borders, as kubectl prints it.
pub(crate) fn table<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header);
    for row in rows {
        table.add_row(row.map(|cell| printable(&cell)));
    }
    let mut text: String = table
        .lines()
        .map(|line| format!("{}\n", line.trim()))
        .collect();
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

/// A size with a suitable unit, such as MiB.
pub(crate) fn bytes(count: u64) -> String {
    indicatif::BinaryBytes(count).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_wrote_can_not_forge_a_row_or_command_a_terminal() {
        let name = "\u{1b}[2Jx\ny\u{202e}";
        assert_eq!(one_line(name), "\\u{1b}[2Jx\\ny\\u{202e}");
        let table = table(["NAME"], [[one_line(name)]]);
        assert_eq!(table.lines().count(), 2, "{table}");
        assert!(!table.contains('\u{1b}'));
    }

    #[test]
    fn json_has_no_character_that_commands_a_terminal_and_is_the_same_value() {
        let value = "a\u{9b}2J\u{7f}\u{202e}\u{1b}ä\n";
        for json in [json(&value).unwrap(), json_line(&value).unwrap()] {
            assert!(
                !json
                    .trim_end()
                    .contains(|c: char| c.is_control() || reorders(c))
            );
            assert_eq!(serde_json::from_str::<String>(&json).unwrap(), value);
        }
    }

    #[test]
    fn a_cause_is_told_once() {
        let cause = std::io::Error::other("no room");
        let outer = anyhow::Error::new(cause).context("writing x: no room");
        assert_eq!(told(&outer.context("backup")), "backup: writing x: no room");
    }
}
