//! What every text of the workspace is: plain ASCII, in the words of our field, true on every
//! machine, with links that lead somewhere.

use super::source::words as word_places;

/// Words that we do not use (STYLE section 4), and what we say.
const WORDS: [(&str, &str); 5] = [
    ("master", "preferred, or source"),
    ("slave", "non-preferred, or target"),
    ("primary", "preferred, or orderer"),
    ("secondary", "non-preferred, or follower"),
    ("failover", "swap, polarization, hand-off or promote"),
];

/// Traces of one machine or of one person's folders.
const MACHINE: [&str; 5] = ["/home/", "/root/", "/work/", "/Users/", "bash_jobs"];

/// Files that people read or write.
pub(crate) fn is_text(path: &str) -> bool {
    let script = ["tests/run", ".ci/run"].contains(&path);
    let endings = [".rs", ".md", ".toml", ".py", ".sh", ".service"];
    script || endings.iter().any(|ending| path.ends_with(ending))
}

/// Characters outside ASCII.
pub(crate) fn ascii(path: &str, text: &str) -> Vec<String> {
    let bad = |line: &str| line.chars().find(|c| !c.is_ascii());
    let found = text.lines().enumerate().filter_map(|(n, line)| Some((n + 1, bad(line)?)));
    found.map(|(line, c)| format!("{path}:{line}: {c:?} is not ASCII")).collect()
}

/// Words that we do not use.
pub(crate) fn words(path: &str, text: &str) -> Vec<String> {
    let mut findings = Vec::new();
    if path.ends_with("tidy/documents.rs") {
        return findings;
    }
    for (number, line) in text.lines().enumerate() {
        let line = line.to_ascii_lowercase();
        for (word, instead) in WORDS {
            if word_places(&line, word).next().is_some() {
                let number = number + 1;
                findings.push(format!("{path}:{number}: \"{word}\": we say {instead}"));
            }
        }
    }
    findings
}

/// Traces of one machine.
pub(crate) fn machine(path: &str, text: &str) -> Vec<String> {
    let mut findings = Vec::new();
    for (number, line) in text.lines().enumerate() {
        for trace in MACHINE.iter().filter(|trace| line.contains(**trace)) {
            findings.push(format!("{path}:{}: {trace} is about one machine", number + 1));
        }
    }
    findings
}

/// Links to files that are not there.
pub(crate) fn links(path: &str, text: &str, exists: impl Fn(&str) -> bool) -> Vec<String> {
    let mut findings = Vec::new();
    for (number, line) in text.lines().enumerate() {
        for (place, _) in line.match_indices("](") {
            let target = &line[place + 2..];
            let target = target.split([')', '#']).next().unwrap_or_default();
            if !target.is_empty() && !target.contains("://") && !exists(target) {
                findings.push(format!("{path}:{}: no file {target}", number + 1));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_characters_words_machines_and_dead_links_are_found() {
        assert_eq!(ascii("a.md", "one\ntw\u{f6}"), ["a.md:2: '\u{f6}' is not ASCII"]);
        assert_eq!(ascii("a.md", "one"), Vec::<String>::new());
        assert_eq!(words("a.md", "The Master copy").len(), 1);
        assert!(words("a.md", "mastery of failovers").is_empty());
        assert_eq!(machine("a.md", "see\n/root/x"), ["a.md:2: /root/ is about one machine"]);
        let text = "[a](A.md) [b](B.md#part) [c](#here) [d](https://example.org/)";
        assert_eq!(links("a.md", text, |to| to == "A.md"), ["a.md:1: no file B.md"]);
    }

    #[test]
    fn our_texts_are_texts() {
        for path in ["README.md", "tests/run", "base/src/lib.rs", "docs/stretch.service"] {
            assert!(is_text(path), "{path}");
        }
        assert!(!is_text("tests/fuzz/corpus/request/0"));
    }
}
