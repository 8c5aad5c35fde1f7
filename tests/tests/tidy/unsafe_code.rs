//! `unsafe` lives in `datapath/src/io/` alone, each with the reason why it is sound; every other
//! crate forbids it.

use cargo_metadata::Metadata;

use super::source::{Source, line, words};

/// How far above its use the reason may begin, in lines.
const REASON_LINES: usize = 8;

/// Unsafe code in the wrong place, or without a reason.
pub(crate) fn check(source: &Source) -> Vec<String> {
    let mut findings = Vec::new();
    for place in words(&source.code, "unsafe") {
        let line = line(&source.code, place);
        if !source.below(&["datapath/src/io"]) {
            findings.push(format!("{}: unsafe outside datapath/src/io/", source.at(line)));
            continue;
        }
        let above = line.saturating_sub(REASON_LINES)..=line;
        let reason = source.comments.iter().any(|(at, comment)| {
            above.contains(at) && (comment.contains("SAFETY:") || comment.contains("# Safety"))
        });
        if !reason {
            findings.push(format!("{}: unsafe without a SAFETY comment", source.at(line)));
        }
    }
    findings
}

/// Libraries and programs that do not forbid unsafe code.
pub(crate) fn roots(metadata: &Metadata, sources: &[Source]) -> Vec<String> {
    let mut findings = Vec::new();
    for package in metadata.workspace_packages() {
        for target in package.targets.iter().filter(|t| t.is_lib() || t.is_bin()) {
            let path = target.src_path.strip_prefix(&metadata.workspace_root);
            let path = path.expect("targets lie in the workspace").as_str();
            let root = sources.iter().find(|source| source.path == path).expect("a source");
            findings.extend(forbids(root));
        }
    }
    findings
}

fn forbids(root: &Source) -> Option<String> {
    let forbids = root.code.contains("#![forbid(unsafe_code)]");
    (!forbids && root.path != "datapath/src/lib.rs")
        .then(|| format!("{}: no #![forbid(unsafe_code)]", root.at(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BARE: &str = "fn f() {\n unsafe { g() }\n}";
    const REASONED: &str = "fn f() {\n // SAFETY: g asks for nothing.\n unsafe { g() }\n}";

    #[test]
    fn unsafe_code_in_the_wrong_place_or_without_reason_is_found() {
        let found = |path: &str, text: &str| check(&Source::new(path, text));
        assert_eq!(
            found("base/src/x.rs", REASONED),
            ["base/src/x.rs:3: unsafe outside datapath/src/io/"]
        );
        assert_eq!(
            found("datapath/src/io/x.rs", BARE),
            ["datapath/src/io/x.rs:2: unsafe without a SAFETY comment"]
        );
        assert!(found("datapath/src/io/x.rs", REASONED).is_empty());
        assert!(found("base/src/x.rs", "#![forbid(unsafe_code)] // unsafe").is_empty());
    }

    #[test]
    fn a_root_that_does_not_forbid_it_is_found() {
        assert!(forbids(&Source::new("base/src/lib.rs", "pub mod x;")).is_some());
        assert!(forbids(&Source::new("base/src/lib.rs", "// #![forbid(unsafe_code)]")).is_some());
        assert!(forbids(&Source::new("base/src/lib.rs", "#![forbid(unsafe_code)]")).is_none());
    }
}
