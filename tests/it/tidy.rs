//! The house rules that the compiler does not hold.
//!
//! Place: reads sources, manifests, settings and dashboards as text. Invariant: a rule names the file that breaks it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::rig::root;

const FOLDERS: [&str; 5] = ["agent", "model", "pipeline", "deploy", "tests"];
/// Folder of each package, and which of ours it may import; what joins them all is in [`JOINS`].
const MAY_IMPORT: [(&str, &[&str]); 11] = [
    ("agent", &["ecg", "service"]),
    ("agent/bedside", &["ecg", "service"]),
    ("agent/ecg", &[]),
    ("agent/service", &[]),
    ("model", &["ecg"]),
    ("model/node", &["model", "ecg", "service", "store", "s3"]),
    ("model/store", &["model", "service", "s3"]),
    ("pipeline/review", &["ecg", "service"]),
    (
        "pipeline",
        &["model", "node", "bedside", "score", "ecg", "service", "store", "s3"],
    ),
    ("pipeline/score", &[]),
    ("tests/s3", &[]),
];
const JOINS: [&str; 2] = ["deploy/standalone", "tests"];
const OURS: [&str; 13] = [
    "agent",
    "bedside",
    "ecg",
    "model",
    "node",
    "pipeline",
    "review",
    "s3",
    "score",
    "service",
    "standalone",
    "store",
    "tests",
];
/// First part of a dependency's name, and the folders of packages that may not have it.
const NEVER: [(&str, &[&str]); 3] = [
    (
        "rdkafka",
        &[
            "agent",
            "agent/bedside",
            "agent/ecg",
            "model",
            "model/node",
            "pipeline",
            "pipeline/review",
            "pipeline/score",
        ],
    ),
    ("tokio", &["agent/ecg", "model", "pipeline/score"]),
    (
        "candle",
        &[
            "agent",
            "agent/bedside",
            "agent/ecg",
            "agent/service",
            "pipeline/review",
            "pipeline/score",
        ],
    ),
];

/// Files under a folder of the repository with an extension, sorted; none when the folder is missing.
pub fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else {
            continue;
        };
        for path in entries.map(|entry| entry.unwrap().path()) {
            let hidden = path.file_name().unwrap().as_encoded_bytes().starts_with(b".");
            if path.is_dir() && !hidden && !path.ends_with("target") {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

pub fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Names in the sections of a package's manifest that `which` picks; target-specific sections included.
fn dependencies(folder: &str, which: &[&str]) -> BTreeSet<String> {
    let manifest: toml::Table = text(&root().join(folder).join("Cargo.toml")).parse().unwrap();
    let targets = manifest.get("target").and_then(toml::Value::as_table);
    let mut tables: Vec<&toml::Table> = vec![&manifest];
    tables.extend(
        targets
            .iter()
            .flat_map(|targets| targets.values())
            .filter_map(toml::Value::as_table),
    );
    let sections = tables
        .iter()
        .flat_map(|table| which.iter().filter_map(|name| table.get(*name)?.as_table()));
    sections.flat_map(|section| section.keys().cloned()).collect()
}

/// True for `start` itself and for `start-` with anything after it.
fn is_or_extends(name: &str, start: &str) -> bool {
    name.strip_prefix(start)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

#[test]
fn every_source_file_opens_with_what_it_is_for() {
    let sources: Vec<PathBuf> = FOLDERS.iter().flat_map(|folder| files(folder, "rs")).collect();
    assert!(sources.len() > 50, "only {} sources were found", sources.len());
    let bare: Vec<&PathBuf> = sources.iter().filter(|path| !text(path).starts_with("//! ")).collect();
    assert!(bare.is_empty(), "no `//! ` at the start of {bare:#?}");
}

#[test]
fn every_package_imports_only_what_the_architecture_lets_it() {
    let root_manifest: toml::Table = text(&root().join("Cargo.toml")).parse().unwrap();
    let members = root_manifest["workspace"]["members"].as_array().unwrap();
    let members: BTreeSet<&str> = members.iter().map(|member| member.as_str().unwrap()).collect();
    let known: BTreeSet<&str> = MAY_IMPORT.iter().map(|(folder, _)| *folder).chain(JOINS).collect();
    assert_eq!(members, known, "a package without a rule, or a rule without a package");
    for (folder, may) in MAY_IMPORT {
        for name in dependencies(folder, &["dependencies", "build-dependencies", "dev-dependencies"]) {
            let ours = OURS.contains(&name.as_str());
            assert!(!ours || may.contains(&name.as_str()), "{folder} imports {name}");
        }
    }
    assert!(!dependencies("deploy/standalone", &["dependencies"]).contains("tests"));
}

#[test]
fn kafka_is_only_in_service_and_neither_runtime_nor_tensors_are_where_they_do_not_belong() {
    for (start, folders) in NEVER {
        for folder in folders {
            let names = dependencies(folder, &["dependencies", "build-dependencies"]);
            let found: Vec<&String> = names.iter().filter(|name| is_or_extends(name, start)).collect();
            assert!(found.is_empty(), "{folder} depends on {found:?}");
        }
    }
    for folder in JOINS {
        let names = dependencies(folder, &["dependencies", "dev-dependencies"]);
        assert!(
            !names.iter().any(|name| is_or_extends(name, "rdkafka")),
            "{folder} depends on rdkafka"
        );
    }
}

#[test]
fn every_setting_has_a_comment_above_it() {
    let text = text(&root().join("config/default.toml"));
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let is_key = |line: &str| !line.starts_with(['#', '[']) && line.contains('=');
    let keys = lines.iter().enumerate().filter(|(_, line)| is_key(line));
    let bare: Vec<&str> = keys
        .filter(|(at, _)| *at == 0 || !lines[at - 1].starts_with('#'))
        .map(|(_, line)| *line)
        .collect();
    assert!(bare.is_empty(), "no comment above {bare:#?}");
}

/// Headings of a document as its links name them: lower case, words joined by hyphens.
fn anchors(document: &str) -> BTreeSet<String> {
    let headings = document.lines().filter(|line| line.starts_with('#'));
    let anchor = |line: &str| {
        let words = line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
        words
            .chars()
            .filter(|c| c.is_alphanumeric() || ['-', '_'].contains(c))
            .collect()
    };
    headings.map(anchor).collect()
}

#[test]
fn every_link_of_a_document_leads_somewhere() {
    let mut documents = files("docs", "md");
    documents.extend(["README.md", "ARCHITECTURE.md"].map(|name| root().join(name)));
    let mut links = 0;
    for path in documents {
        let document = text(&path);
        for link in document.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() {
                path.clone()
            } else {
                path.with_file_name(file)
            };
            assert!(target.exists(), "{}: {link} leads nowhere", path.display());
            let found = anchor.is_empty() || anchors(&text(&target)).contains(anchor);
            assert!(
                found,
                "{}: {} has no heading {anchor}",
                path.display(),
                target.display()
            );
            links += 1;
        }
    }
    assert!(links > 10, "only {links} links were found");
}

#[test]
fn every_file_at_the_top_is_named_in_the_architecture() {
    let architecture = text(&root().join("ARCHITECTURE.md"));
    let named: BTreeSet<&str> = architecture.split_whitespace().collect();
    let entries = std::fs::read_dir(root()).unwrap().map(|entry| entry.unwrap());
    // a worktree's .git is a file
    let files = entries.filter(|entry| entry.file_type().unwrap().is_file() && entry.file_name() != ".git");
    let names: Vec<String> = files.map(|entry| entry.file_name().into_string().unwrap()).collect();
    assert!(names.len() > 5, "only {names:?} were found");
    let unknown: Vec<&String> = names.iter().filter(|name| !named.contains(name.as_str())).collect();
    assert!(unknown.is_empty(), "ARCHITECTURE.md does not name {unknown:?}");
}
