//! The rules of the workspace that a compiler does not check: who may know whom, where the world
//! may be touched, which invariant is asserted and checked where, what we depend on, what sources
//! and documents look like.
//!
//! Every finding names file and line and what to do. Every rule has a test that feeds it something
//! bad: a rule that cannot fire is no rule.
//! Not here: formatting and lints (cargo fmt, clippy; `tests/run`).

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use source::Source;

#[path = "tidy/documents.rs"]
mod documents;
#[path = "tidy/invariants.rs"]
mod invariants;
#[path = "tidy/packages.rs"]
mod packages;
#[path = "tidy/purity.rs"]
mod purity;
#[path = "tidy/shape.rs"]
mod shape;
#[path = "tidy/source.rs"]
mod source;
#[path = "tidy/unsafe_code.rs"]
mod unsafe_code;

/// The crates that ship.
const PRODUCT: [&str; 5] = ["base", "nbd-frontend", "datapath", "witness", "control-plane"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests live in the workspace")
}

/// Every file below `folder` but build output and what git keeps, in the order of their paths.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the workspace can be read") {
            let path = entry.expect("its entries, too").path();
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            if path.is_dir() {
                if !["target", ".git", "__pycache__"].contains(&name.as_str()) {
                    folders.push(path);
                }
            } else {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).to_string_lossy().into_owned()
}

/// Every Rust file of the workspace.
static SOURCES: LazyLock<Vec<Source>> = LazyLock::new(|| {
    files(root())
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .map(|path| Source::new(&relative(&path), &fs::read_to_string(&path).expect("UTF-8")))
        .collect()
});

fn assert_none(findings: Vec<String>) {
    assert!(findings.is_empty(), "\n{}\n{} findings", findings.join("\n"), findings.len());
}

#[test]
fn crates_know_only_whom_they_may() {
    assert_none(packages::arrows(&packages::METADATA));
}

#[test]
fn released_binaries_cannot_be_sabotaged() {
    assert_none(packages::sabotage(&packages::METADATA));
}

#[test]
fn licences_and_sources_are_known() {
    let lock = fs::read_to_string(root().join("Cargo.lock")).expect("Cargo.lock is kept");
    let mut findings = packages::licences(&packages::METADATA);
    findings.extend(packages::registries(&lock));
    assert_none(findings);
}

#[test]
fn cores_do_not_touch_the_world() {
    let cores = SOURCES.iter().filter(|source| purity::applies(source));
    assert_none(cores.flat_map(purity::check).collect());
}

#[test]
fn one_file_reads_clocks() {
    assert_none(SOURCES.iter().flat_map(purity::clocks).collect());
}

#[test]
fn unsafe_code_has_one_place_and_says_why() {
    let mut findings: Vec<_> = SOURCES.iter().flat_map(unsafe_code::check).collect();
    findings.extend(unsafe_code::roots(&packages::METADATA, &SOURCES));
    assert_none(findings);
}

#[test]
fn every_invariant_is_asserted_and_checked() {
    let path = "docs/INVARIANTS.md";
    let text = fs::read_to_string(root().join(path)).expect("the table of invariants");
    let mut findings = invariants::check(&invariants::parse(&text), &SOURCES);
    findings.extend(invariants::missing_files(&text, &SOURCES));
    assert_none(findings);
}

#[test]
fn sources_are_finished() {
    assert_none(SOURCES.iter().flat_map(shape::unfinished).collect());
}

#[test]
fn files_and_functions_are_small() {
    for long in SOURCES.iter().flat_map(shape::long) {
        println!("{long}");
    }
    assert_none(SOURCES.iter().filter_map(shape::too_long).collect());
}

#[test]
fn text_is_ascii_and_uses_our_words() {
    let mut findings = Vec::new();
    for path in files(root()) {
        let name = relative(&path);
        if documents::is_text(&name) {
            let text = fs::read_to_string(&path).expect("UTF-8");
            findings.extend(documents::ascii(&name, &text));
            findings.extend(documents::words(&name, &text));
        }
    }
    assert_none(findings);
}

#[test]
fn documents_are_about_every_machine_and_their_links_lead_somewhere() {
    let mut findings = Vec::new();
    for path in files(root()).iter().filter(|path| path.extension().is_some_and(|e| e == "md")) {
        let text = fs::read_to_string(path).expect("UTF-8");
        findings.extend(documents::machine(&relative(path), &text));
        let folder = path.parent().expect("a folder");
        findings.extend(documents::links(&relative(path), &text, |to| folder.join(to).exists()));
    }
    assert_none(findings);
}

#[test]
fn the_readme_and_ci_run_the_same_test_command() {
    let read = |name: &str| fs::read_to_string(root().join(name)).expect("it is there");
    let command = "./tests/run";
    assert!(read("README.md").lines().any(|line| line.trim() == command), "README.md");
    assert!(read(".ci/run").lines().any(|line| line.trim() == command), ".ci/run");
}
