//! What no source has when it is finished, and how long files and functions are.

use super::source::{Source, closing, line, words};

/// Lines of a file, tests not counted, above which we say so; above the second it is an error.
const FILE_LINES: (usize, usize) = (600, 800);
/// Lines of a function above which we say so.
const FUNCTION_LINES: usize = 70;

/// Marks of unfinished work, and tests that do not run.
pub(crate) fn unfinished(source: &Source) -> Vec<String> {
    let mut findings = Vec::new();
    for (at, comment) in &source.comments {
        for mark in ["TODO", "FIXME", "XXX", "HACK"] {
            if words(comment, mark).next().is_some() {
                findings.push(format!("{}: {mark} in a comment", source.at(*at)));
            }
        }
    }
    let code = &source.code;
    for mark in ["todo!", "unimplemented!", "dbg!", "#[ignore"] {
        for (place, _) in code.match_indices(mark) {
            findings.push(format!("{}: {mark}", source.at(line(code, place))));
        }
    }
    findings
}

/// Functions and files that a reader would rather have shorter.
pub(crate) fn long(source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    let lines = product_lines(source);
    if lines > FILE_LINES.0 {
        found.push(format!("{}: {lines} lines without tests", source.path));
    }
    let code = &source.product;
    for place in words(code, "fn") {
        let Some(body) = code[place..].find(['{', ';']).map(|offset| place + offset) else {
            continue;
        };
        if code.as_bytes()[body] == b'{' {
            let (first, last) = (line(code, place), line(code, closing(code, body)));
            let lines = last - first + 1;
            if lines > FUNCTION_LINES {
                found.push(format!("{}: a function of {lines} lines", source.at(first)));
            }
        }
    }
    found
}

/// A file that hides a room of its own.
pub(crate) fn too_long(source: &Source) -> Option<String> {
    let lines = product_lines(source);
    (lines > FILE_LINES.1).then(|| format!("{}: {lines} lines without tests", source.path))
}

/// Lines with anything of the product in them, comments included, tests not.
fn product_lines(source: &Source) -> usize {
    let code = source.code.lines();
    let kept = code.zip(source.product.lines()).filter(|(all, kept)| {
        // A blank or comment line is blank in both; a line of a test is blank in one.
        all.trim().is_empty() || !kept.trim().is_empty()
    });
    let tests_only = source.product.trim().is_empty();
    if tests_only { 0 } else { kept.count() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unfinished_work_is_found() {
        for bad in [
            "// TODO later",
            "/* FIXME */",
            "fn f() { todo!() }",
            "fn f() { unimplemented!() }",
            "fn f() { dbg!(1); }",
            "#[ignore]\nfn f() {}",
            "#[ignore = \"slow\"]\nfn f() {}",
        ] {
            assert_eq!(unfinished(&Source::new("base/src/x.rs", bad)).len(), 1, "{bad}");
        }
        let good = "// A todo list is no mark.\nconst T: &str = \"TODO\";";
        assert!(unfinished(&Source::new("base/src/x.rs", good)).is_empty());
    }

    #[test]
    fn long_functions_and_files_are_found() {
        let body = "    g();\n".repeat(80);
        let text =
            format!("fn short() {{}}\nfn f() {{\n{body}}}\n#[cfg(test)]\nmod t {{\n{body}}}\n");
        let source = Source::new("base/src/x.rs", &text);
        assert_eq!(long(&source), ["base/src/x.rs:2: a function of 82 lines"]);
        assert!(too_long(&source).is_none());
        let many = "fn f() {}\n".repeat(801);
        let source = Source::new("base/src/x.rs", &many);
        assert_eq!(long(&source), ["base/src/x.rs: 801 lines without tests"]);
        assert!(too_long(&source).is_some());
        let tests = format!("#[cfg(test)]\nmod t {{\n{many}}}\nfn f() {{}}\n");
        assert!(too_long(&Source::new("base/src/x.rs", &tests)).is_none());
    }
}
