//! The files of each crate depend on one another in one direction only, so that each can be read without the ones that use it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Longer files say in their head why.
const LONGEST_LINES: usize = 620;
const LONG_FILE_REASON: &str = "This file is long because";

type Module = Vec<String>;

/// A file of a crate: what it names, and what it gives on under a name of its own.
#[derive(Default)]
struct SourceFile {
    paths: Vec<Module>,
    /// By the name that others use; `*` for all of a module.
    reexports: Vec<(String, Module)>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn sources() -> Vec<PathBuf> {
    let mut all: Vec<_> = std::fs::read_dir(root().join("crates"))
        .unwrap()
        .map(|entry| entry.unwrap().path().join("src"))
        .collect();
    all.push(root().join("xtask/src"));
    all.sort();
    all
}

fn files_below(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files_below(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
}

/// The module that a file is; of tests nothing is asked.
fn module_of(path: &Path) -> Option<Module> {
    let mut module: Module = path
        .with_extension("")
        .iter()
        .map(|part| part.to_str().unwrap().to_string())
        .collect();
    match module.last().map(String::as_str) {
        Some("lib" | "main" | "mod") => drop(module.pop()),
        Some("tests") => return None,
        _ => {}
    }
    Some(module)
}

fn is_punct(token: Option<&TokenTree>, char: char) -> bool {
    matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == char)
}

fn ident(token: Option<&TokenTree>) -> Option<String> {
    match token {
        Some(TokenTree::Ident(ident)) => Some(ident.to_string()),
        _ => None,
    }
}

/// `a::b` at this place, and where it ends.
fn path_at(tokens: &[TokenTree], mut at: usize) -> (Module, usize) {
    let mut path = Vec::new();
    while let Some(name) = ident(tokens.get(at)) {
        path.push(name);
        at += 1;
        if !(is_punct(tokens.get(at), ':') && is_punct(tokens.get(at + 1), ':')) {
            break;
        }
        at += 2;
    }
    (path, at)
}

/// Every name that a `use` brings, as the path and the name.
fn imports(tokens: &[TokenTree], before: &[String], out: &mut Vec<(String, Module)>) {
    for tree in tokens.split(|token| is_punct(Some(token), ',')) {
        let (path, end) = path_at(tree, 0);
        let mut path = [before, &path].concat();
        match tree.get(end) {
            Some(TokenTree::Group(group)) => {
                let inner: Vec<_> = group.stream().into_iter().collect();
                imports(&inner, &path, out);
            }
            Some(token) if is_punct(Some(token), '*') => out.push(("*".into(), path)),
            _ if path.is_empty() => {}
            rest => {
                if path.last().is_some_and(|last| last == "self") {
                    path.pop();
                }
                let renamed = ident(rest).filter(|word| word == "as");
                let name = renamed.and_then(|_| ident(tree.get(end + 1)));
                out.push((name.or(path.last().cloned()).unwrap_or_default(), path));
            }
        }
    }
}

fn is_test_attribute(tokens: &[TokenTree], at: usize) -> bool {
    is_punct(tokens.get(at), '#')
        && matches!(tokens.get(at + 1), Some(TokenTree::Group(group))
            if group.delimiter() == Delimiter::Bracket && group.to_string().replace(' ', "") == "[cfg(test)]")
}

fn read(stream: TokenStream, file: &mut SourceFile) {
    let tokens: Vec<_> = stream.into_iter().collect();
    let mut at = 0;
    let mut public = false;
    while let Some(token) = tokens.get(at) {
        if is_test_attribute(&tokens, at) {
            // To the end of what it is on.
            while let Some(token) = tokens.get(at) {
                at += 1;
                let is_body = matches!(token, TokenTree::Group(group) if group.delimiter() == Delimiter::Brace);
                if is_body || is_punct(Some(token), ';') {
                    break;
                }
            }
            continue;
        }
        match token {
            TokenTree::Ident(word) if *word == "use" => {
                let end = (at..tokens.len())
                    .find(|end| is_punct(tokens.get(*end), ';'))
                    .unwrap_or(tokens.len());
                let mut names = Vec::new();
                imports(&tokens[at + 1..end], &[], &mut names);
                if public {
                    file.reexports.extend(names.clone());
                }
                file.paths.extend(names.into_iter().map(|(_, path)| path));
                (at, public) = (end + 1, false);
            }
            TokenTree::Ident(word) if *word == "pub" => {
                public = true;
                at += 1;
                if matches!(tokens.get(at), Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Parenthesis)
                {
                    at += 1;
                }
            }
            TokenTree::Ident(_) => {
                let (path, end) = path_at(&tokens, at);
                if path.len() > 1 {
                    file.paths.push(path);
                }
                (at, public) = (end, false);
            }
            TokenTree::Group(group) => {
                read(group.stream(), file);
                (at, public) = (at + 1, false);
            }
            _ => (at, public) = (at + 1, false),
        }
    }
}

/// A path from the crate's root, if it is one of this crate's.
fn absolute(
    path: &[String],
    module: &Module,
    all: &BTreeMap<Module, SourceFile>,
) -> Option<Module> {
    let mut base = module.clone();
    let mut rest = path;
    match path.first()?.as_str() {
        "crate" => {
            base.clear();
            rest = &path[1..];
        }
        "self" => rest = &path[1..],
        "super" => {
            while rest.first().is_some_and(|word| word == "super") {
                base.pop()?;
                rest = &rest[1..];
            }
        }
        child => {
            let mut module = base.clone();
            module.push(child.into());
            if !all.contains_key(&module) {
                return None;
            }
        }
    }
    Some([base.as_slice(), rest].concat())
}

/// The file in which what a path names is written, past all re-exports.
fn file_of(path: &[String], all: &BTreeMap<Module, SourceFile>, depth: usize) -> Module {
    let mut module: Module = Vec::new();
    let mut rest = path;
    while let Some((first, more)) = rest.split_first() {
        let mut inner = module.clone();
        inner.push(first.clone());
        if !all.contains_key(&inner) {
            break;
        }
        (module, rest) = (inner, more);
    }
    if let (Some(name), true) = (rest.first(), depth < 8) {
        let reexports = &all[&module].reexports;
        let named = reexports.iter().find(|(known, _)| known == name);
        if let Some(path) = named.and_then(|(_, path)| absolute(path, &module, all)) {
            return file_of(&[path.as_slice(), &rest[1..]].concat(), all, depth + 1);
        }
    }
    module
}

fn circles(src: &Path) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    files_below(src, &mut paths);
    let mut all: BTreeMap<Module, SourceFile> = BTreeMap::new();
    for path in &paths {
        let Some(module) = module_of(path.strip_prefix(src).unwrap()) else {
            continue;
        };
        let text = std::fs::read_to_string(path).unwrap();
        let stream = text
            .parse()
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mut file = SourceFile::default();
        read(stream, &mut file);
        all.insert(module, file);
    }
    let uses: BTreeMap<&Module, BTreeSet<Module>> = all
        .iter()
        .map(|(module, file)| {
            let named = file.paths.iter();
            let used = named
                .filter_map(|path| absolute(path, module, &all))
                .map(|path| file_of(&path, &all, 0))
                .filter(|used| used != module);
            (module, used.collect())
        })
        .collect();
    let reached = |from: &Module| {
        let mut seen: BTreeSet<Module> = BTreeSet::new();
        let mut next: Vec<Module> = uses[from].iter().cloned().collect();
        while let Some(module) = next.pop() {
            if seen.insert(module.clone()) {
                next.extend(uses[&module].iter().cloned());
            }
        }
        seen
    };
    let all_reached: BTreeMap<&Module, BTreeSet<Module>> = uses
        .keys()
        .map(|module| (*module, reached(module)))
        .collect();
    let mut found: BTreeSet<Vec<String>> = BTreeSet::new();
    for (module, seen) in &all_reached {
        if seen.contains(*module) {
            let circle = seen
                .iter()
                .filter(|other| all_reached[other].contains(*module))
                .map(|other| {
                    let direct = uses[other]
                        .iter()
                        .filter(|used| seen.contains(*used) && all_reached[used].contains(*module));
                    let direct: Vec<_> = direct.map(|used| used.join("::")).collect();
                    format!("{} uses {}", other.join("::"), direct.join(", "))
                });
            found.insert(circle.collect());
        }
    }
    found.into_iter().collect()
}

#[test]
fn no_file_of_a_crate_uses_a_file_that_uses_it() {
    let mut found = Vec::new();
    for src in sources() {
        for circle in circles(&src) {
            found.push(format!("{}:\n  {}", src.display(), circle.join("\n  ")));
        }
    }
    assert!(
        found.is_empty(),
        "files that use one another:\n{}",
        found.join("\n")
    );
}

#[test]
fn a_circle_is_found_also_when_it_goes_through_a_reexport() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("lib.rs", "mod a; mod b; pub use b::inner::Thing;");
    write(
        "a.rs",
        "use crate::Thing as Other; #[cfg(test)] mod tests { use crate::b; }",
    );
    write("b/mod.rs", "pub mod inner;");
    write(
        "b/inner.rs",
        "pub struct Thing; fn go() { println!(\"{}\", crate::c()); }",
    );
    assert_eq!(
        circles(dir.path()),
        [["b::inner uses ", " uses b::inner"].map(String::from)].map(|mut circle| {
            circle.sort();
            circle.to_vec()
        })
    );
    write("b/inner.rs", "pub struct Thing;");
    assert_eq!(circles(dir.path()), Vec::<Vec<String>>::new());
    write(
        "b/inner.rs",
        "pub struct Thing; fn go() { super::super::a::x(); }",
    );
    assert_eq!(circles(dir.path()).len(), 1);
}

#[test]
fn a_file_that_is_long_says_why() {
    let mut long = Vec::new();
    for dir in ["crates", "xtask"] {
        let mut files = Vec::new();
        files_below(&root().join(dir), &mut files);
        for path in files {
            let text = std::fs::read_to_string(&path).unwrap();
            let lines = text.lines().count();
            let head: String = text
                .lines()
                .take_while(|line| line.starts_with("//!"))
                .collect();
            if lines > LONGEST_LINES && !head.contains(LONG_FILE_REASON) {
                long.push(format!("{}: {lines} lines", path.display()));
            }
        }
    }
    assert!(
        long.is_empty(),
        "longer than {LONGEST_LINES} lines, without {LONG_FILE_REASON:?} in the head: {long:#?}"
    );
}
