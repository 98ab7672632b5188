//! The words of the documentation and of the program are those of the writing guide, and links lead somewhere.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn files_below(dir: &Path, extensions: &[&str], files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files_below(&path, extensions, files);
        } else if path
            .extension()
            .is_some_and(|extension| extensions.iter().any(|one| extension == *one))
        {
            files.push(path);
        }
    }
    files.sort();
}

fn banned() -> Vec<String> {
    let guide = std::fs::read_to_string(root().join("CONTRIBUTING.md")).unwrap();
    let (_, list) = guide.split_once("```banned-phrases\n").unwrap();
    let (list, _) = list.split_once("```").unwrap();
    let phrases: Vec<_> = list.lines().map(str::to_lowercase).collect();
    assert!(phrases.len() > 10, "{phrases:?}");
    phrases
}

/// What a reader reads: words with one space between them.
fn found(text: &str, banned: &[String]) -> Vec<String> {
    let words: Vec<_> = text
        .to_lowercase()
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    let text = format!(" {} ", words.join(" "));
    let is_letter = |char: Option<char>| char.is_some_and(char::is_alphanumeric);
    banned
        .iter()
        .filter(|phrase| {
            text.match_indices(phrase.as_str()).any(|(at, _)| {
                !is_letter(text[..at].chars().next_back())
                    && !is_letter(text[at + phrase.len()..].chars().next())
            })
        })
        .cloned()
        .collect()
}

/// The documentation without its code.
fn prose(markdown: &str) -> String {
    let parts = markdown.split("```").step_by(2);
    parts.collect::<Vec<_>>().join(" ")
}

fn is_attribute(tokens: &[TokenTree], at: usize, name: &str) -> bool {
    matches!(tokens.get(at), Some(TokenTree::Punct(punct)) if punct.as_char() == '#')
        && matches!(tokens.get(at + 1), Some(TokenTree::Group(group))
            if group.delimiter() == Delimiter::Bracket && group.to_string().replace(' ', "").starts_with(name))
}

/// The string literals of a file, without those of its tests and without comments.
fn literals(stream: TokenStream, out: &mut Vec<String>) {
    let tokens: Vec<_> = stream.into_iter().collect();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        if is_attribute(&tokens, at, "[cfg(test)]") {
            while let Some(token) = tokens.get(at) {
                at += 1;
                let is_end = match token {
                    TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
                    TokenTree::Punct(punct) => punct.as_char() == ';',
                    _ => false,
                };
                if is_end {
                    break;
                }
            }
            continue;
        }
        // A comment on what is for developers only. Those of commands and custom resources are read by `help` and `reference.md`.
        if is_attribute(&tokens, at, "[doc=") {
            at += 2;
            continue;
        }
        match token {
            TokenTree::Literal(literal) => out.push(literal.to_string()),
            TokenTree::Group(group) => literals(group.stream(), out),
            _ => {}
        }
        at += 1;
    }
}

#[test]
fn each_test_that_the_pages_cite_exists() {
    let mut sources = Vec::new();
    files_below(&root().join("crates"), &["rs"], &mut sources);
    let text = std::fs::read_to_string(root().join("docs/proposal.md")).unwrap();
    let mut cited = 0;
    for word in text.split('`').skip(1).step_by(2) {
        let Some((file, test)) = word
            .split_once(": ")
            .filter(|(file, _)| file.contains(".rs"))
        else {
            continue;
        };
        cited += 1;
        let file = file.trim_end_matches(" (src)");
        let is_there = sources.iter().any(|path| {
            path.ends_with(file)
                && std::fs::read_to_string(path)
                    .unwrap()
                    .contains(&format!("fn {test}("))
        });
        assert!(is_there, "{file} has no test {test}");
    }
    assert!(cited > 50, "{cited}");
}

#[test]
fn the_documentation_uses_the_words_of_the_guide() {
    let banned = banned();
    let mut files = vec![
        root().join("README.md"),
        root().join("SECURITY.md"),
        root().join("CHANGELOG.md"),
    ];
    files_below(&root().join("docs"), &["md"], &mut files);
    files_below(
        &root().join("deploy"),
        &["yaml", "json", "service"],
        &mut files,
    );
    let mut wrong = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let text = if file.extension().is_some_and(|extension| extension == "md") {
            prose(&text)
        } else {
            text
        };
        for phrase in found(&text, &banned) {
            wrong.push(format!("{}: {phrase:?}", file.display()));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_program_uses_the_words_of_the_guide() {
    let banned = banned();
    let mut wrong = Vec::new();
    for name in [
        "backup-plan",
        "backup-store",
        "cluster-api",
        "etcd-file",
        "lifeboat",
        "operator",
    ] {
        let mut files = Vec::new();
        files_below(
            &root().join("crates").join(name).join("src"),
            &["rs"],
            &mut files,
        );
        for file in files.iter().filter(|file| !file.ends_with("tests.rs")) {
            let text = std::fs::read_to_string(file).unwrap();
            let mut all = Vec::new();
            literals(text.parse().unwrap(), &mut all);
            for literal in all {
                for phrase in found(&literal, &banned) {
                    wrong.push(format!("{}: {phrase:?} in {literal}", file.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_banned_phrase_is_found_also_over_the_end_of_a_line() {
    let banned = ["so many".to_string()];
    assert_eq!(found("There are so\n many.", &banned).len(), 1);
    assert!(found("also manyfold", &banned).is_empty());
    let code = "/// so many\nfn x() { print(\"so many\"); } #[cfg(test)] mod tests { const X: &str = \"so many\"; }";
    let mut all = Vec::new();
    literals(code.parse().unwrap(), &mut all);
    assert_eq!(all, ["\"so many\""]);
}

/// The anchor of a heading, as forges and mdBook make it.
fn anchor(heading: &str) -> String {
    heading
        .trim_start_matches('#')
        .trim()
        .to_lowercase()
        .chars()
        .filter(|char| char.is_alphanumeric() || *char == ' ' || *char == '-' || *char == '_')
        .map(|char| if char == ' ' { '-' } else { char })
        .collect()
}

#[test]
fn links_between_pages_lead_somewhere() {
    let mut files: Vec<_> = [
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "CHANGELOG.md",
    ]
    .map(|name| root().join(name))
    .to_vec();
    files_below(&root().join("docs"), &["md"], &mut files);
    let mut broken = Vec::new();
    for file in &files {
        let text = prose(&std::fs::read_to_string(file).unwrap());
        for (_, rest) in text
            .match_indices("](")
            .map(|(at, _)| text.split_at(at + 2))
        {
            let target = rest.split([')', ' ']).next().unwrap();
            if target.starts_with("http") || target.is_empty() {
                continue;
            }
            let (path, fragment) = target.split_once('#').unwrap_or((target, ""));
            let linked = if path.is_empty() {
                file.clone()
            } else {
                file.parent().unwrap().join(path)
            };
            let Ok(page) = std::fs::read_to_string(&linked).or_else(|error| {
                if linked.is_dir() {
                    Ok(String::new())
                } else {
                    Err(error)
                }
            }) else {
                broken.push(format!("{}: {target}", file.display()));
                continue;
            };
            let mut headings = page.lines().filter(|line| line.starts_with('#'));
            if !fragment.is_empty() && !headings.any(|heading| anchor(heading) == fragment) {
                broken.push(format!("{}: {target}", file.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
    // Each page is in the table of contents.
    let summary = std::fs::read_to_string(root().join("docs/SUMMARY.md")).unwrap();
    for file in files
        .iter()
        .filter(|file| file.parent().unwrap().ends_with("docs"))
    {
        let name = file.file_name().unwrap().to_str().unwrap();
        assert!(
            name == "SUMMARY.md" || summary.contains(&format!("({name})")),
            "{name}"
        );
    }
}
