//! docs/faults.md against the tests: each names the other.
//!
//! Place: under `faults`; reads both as text. Invariant: the table has the 58 faults in order; a row that says "tested"
//! names at least one test, a row that does not says why.

use std::collections::BTreeSet;

use bedside::fault::FaultKind;

use crate::rig::root;
use crate::tidy::{files, text};

struct Row {
    number: usize,
    tests: BTreeSet<String>,
    state: String,
}

fn rows() -> Vec<Row> {
    let table = text(&root().join("docs/faults.md"));
    let lines = table
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| #"));
    lines
        .map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            let [number, fault, expected, tests, state] = cells[..] else {
                panic!("a row of {} cells: {line}", cells.len());
            };
            assert!(!fault.is_empty() && !expected.is_empty(), "{line}");
            let tests = tests.split('`').skip(1).step_by(2).map(str::to_owned).collect();
            Row {
                number: number.parse().unwrap(),
                tests,
                state: state.to_owned(),
            }
        })
        .collect()
}

/// Names of every test function in a folder.
fn tests_in(folders: &[&str]) -> BTreeSet<String> {
    let sources = folders.iter().flat_map(|folder| files(folder, "rs"));
    let mut names = BTreeSet::new();
    for source in sources {
        let text = text(&source);
        let mut is_test = false;
        for line in text.lines().map(str::trim) {
            if line.starts_with("#[test]")
                || line.starts_with("#[tokio::test")
                || line.starts_with("#![proptest_config")
            {
                is_test = true;
            } else if let Some(rest) = line.strip_prefix("fn ").or_else(|| line.strip_prefix("async fn ")) {
                if is_test && let Some((name, _)) = rest.split_once('(') {
                    names.insert(name.to_owned());
                }
                is_test = false;
            }
        }
    }
    names
}

#[test]
fn the_table_has_every_fault_once_and_in_order() {
    let numbers: Vec<usize> = rows().iter().map(|row| row.number).collect();
    assert_eq!(numbers, (1..=58).collect::<Vec<_>>());
}

#[test]
fn every_test_that_the_table_names_exists_and_every_fault_test_is_in_its_row() {
    let known = tests_in(&["agent", "tests", "model", "pipeline", "deploy"]);
    assert!(known.len() > 100, "only {} tests were found", known.len());
    for row in rows() {
        let missing: Vec<&String> = row.tests.difference(&known).collect();
        assert!(missing.is_empty(), "row {} names {missing:?}", row.number);
        assert_eq!(
            row.state.starts_with("tested"),
            !row.tests.is_empty(),
            "row {}: {}",
            row.number,
            row.state
        );
        let prefix = format!("fault_{:02}_", row.number);
        let own: BTreeSet<&String> = known.iter().filter(|name| name.starts_with(&prefix)).collect();
        let unnamed: Vec<_> = own.iter().filter(|name| !row.tests.contains(**name)).collect();
        assert!(unnamed.is_empty(), "row {} lacks {unnamed:?}", row.number);
    }
}

#[test]
fn every_kind_that_can_be_injected_is_injected_by_a_test() {
    let sources: String = files("tests/it/faults", "rs").iter().map(|path| text(path)).collect();
    let unused: Vec<&str> = (FaultKind::ALL.iter().map(|kind| kind.name()))
        .filter(|name| !sources.contains(&format!("\"{name}@")))
        .collect();
    assert!(unused.is_empty(), "{unused:?}");
}
