//! `docs/INVARIANTS.md` and the code say the same: every rule in the tables is asserted by name
//! where they say so, or decided there, and checked by the tests and checkers that they name; every
//! switch of `base::rules` breaks one of them, which a seed of some random test notices; no comment
//! speaks of an id that they do not have; every file that the text names is there.

use std::collections::BTreeMap;

use super::PRODUCT;
use super::source::{Source, closing, words};

/// First letters of ids (PROTOCOL 3.1 and 2.x).
const KINDS: &str = "DFGILPTUWN";
/// Where the switches are.
const RULES: &str = "base/src/rules.rs";
/// Where each of them has the test that notices when it is off, in the table `each_rule!` of a file.
const SABOTAGE: &str = "tests/tests/";
/// What may hold a named assert.
const ASSERTS: [&str; 6] =
    ["assert!", "assert_eq!", "assert_ne!", "panic!", "unreachable!", "debug_assert!"];

/// A line of a table.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Invariant {
    id: String,
    line: usize,
    /// The rules that break it, by their names in `base::rules`.
    switches: Vec<String>,
    /// Files with the assert.
    asserted: Option<Vec<String>>,
    /// Files with the decision, where there is no state to assert.
    decided: Option<Vec<String>>,
    /// Files with a checker or with tests.
    checked: Option<Vec<Checks>>,
}

/// A file in the column `checked by`.
#[derive(Debug, PartialEq, Eq)]
struct Checks {
    file: String,
    /// The tests in it; none if all of it is a checker.
    tests: Vec<String>,
}

/// Reads the tables. A table has the columns that make sense for what is in it: `id`, `switch`,
/// `asserted in`, `decided in`, `checked by`; names and files stand in back quotes, tests behind their
/// file.
pub(crate) fn parse(text: &str) -> Vec<Invariant> {
    let mut found = Vec::new();
    let mut columns: Vec<String> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let Some(row) = line.strip_prefix('|').and_then(|line| line.trim_end().strip_suffix('|'))
        else {
            columns.clear();
            continue;
        };
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        if columns.is_empty() {
            columns = cells.iter().map(|cell| (*cell).to_owned()).collect();
            continue;
        }
        let cell = |name: &str| {
            let column = columns.iter().position(|column| column == name)?;
            cells.get(column).copied()
        };
        let Some(id) = cell("id").filter(|id| !id.starts_with("--")) else { continue };
        found.push(Invariant {
            id: id.to_owned(),
            line: number + 1,
            switches: cell("switch").map(quoted).unwrap_or_default(),
            asserted: cell("asserted in").map(quoted),
            decided: cell("decided in").map(quoted),
            checked: cell("checked by").map(checks),
        });
    }
    found
}

fn quoted(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Files and the tests behind each of them.
fn checks(cell: &str) -> Vec<Checks> {
    let mut found: Vec<Checks> = Vec::new();
    for name in quoted(cell) {
        match found.last_mut().filter(|_| !name.contains('/')) {
            Some(checks) => checks.tests.push(name),
            None => found.push(Checks { file: name, tests: Vec::new() }),
        }
    }
    found
}

/// Rust files that the text names and that are not there.
pub(crate) fn missing_files(text: &str, sources: &[Source]) -> Vec<String> {
    let mut findings = Vec::new();
    for (number, line) in text.lines().enumerate() {
        for name in quoted(line).into_iter().filter(|name| name.ends_with(".rs")) {
            if !sources.iter().any(|source| source.path == name) {
                findings.push(format!("docs/INVARIANTS.md:{}: there is no {name}", number + 1));
            }
        }
    }
    findings
}

/// Where table and code differ.
pub(crate) fn check(table: &[Invariant], sources: &[Source]) -> Vec<String> {
    let by_path: BTreeMap<&str, &Source> = sources.iter().map(|s| (s.path.as_str(), s)).collect();
    let known = by_path.get(RULES).map(|source| switches(source)).unwrap_or_default();
    let mut findings = Vec::new();
    for invariant in table {
        let earlier =
            table.iter().any(|other| other.id == invariant.id && other.line < invariant.line);
        let mut found = row(invariant, &by_path);
        if earlier {
            found.push(format!("{} is listed twice", invariant.id));
        }
        let unknown = invariant.switches.iter().filter(|switch| !known.contains(switch));
        found.extend(unknown.map(|switch| format!("there is no switch {switch} in {RULES}")));
        let line = invariant.line;
        findings.extend(found.into_iter().map(|f| format!("docs/INVARIANTS.md:{line}: {f}")));
    }
    for switch in &known {
        if !table.iter().any(|invariant| invariant.switches.contains(switch)) {
            findings.push(format!("{RULES}: {switch} breaks nothing in docs/INVARIANTS.md"));
        }
    }
    let ours = |source: &&Source| source.below(&PRODUCT) || source.below(&["tests"]);
    for source in sources.iter().filter(ours) {
        for (line, id) in ids(source) {
            if !table.iter().any(|invariant| invariant.id == id) {
                let at = source.at(line);
                findings.push(format!("{at}: {id} is not in docs/INVARIANTS.md"));
            }
        }
    }
    findings
}

/// What is not true in one row.
fn row(invariant: &Invariant, by_path: &BTreeMap<&str, &Source>) -> Vec<String> {
    let Invariant { id, asserted, decided, checked, .. } = invariant;
    let mut findings = Vec::new();
    let files = |cell: &Option<Vec<String>>| cell.clone().unwrap_or_default();
    let empty = [
        (asserted.as_ref().is_some_and(Vec::is_empty), "assert"),
        (decided.as_ref().is_some_and(Vec::is_empty), "decision"),
        (checked.as_ref().is_some_and(Vec::is_empty), "check"),
    ];
    for (_, what) in empty.into_iter().filter(|(empty, _)| *empty) {
        findings.push(format!("{id} has no file with its {what}"));
    }
    let holds = |path: &str, test: &dyn Fn(&Source) -> bool| {
        by_path.get(path).is_some_and(|source| test(source))
    };
    for path in files(asserted) {
        if !holds(&path, &|source| asserts(source, id)) {
            findings.push(format!("{path} has no assert whose text begins with \"{id}:\""));
        }
    }
    for path in files(decided) {
        if !holds(&path, &|source| says(source, id)) {
            findings.push(format!("{path} does not say {id}"));
        }
    }
    let checked = checked.as_deref().unwrap_or_default();
    for Checks { file, tests } in checked {
        let checks = |source: &Source| is_test(source) && says(source, id);
        if tests.is_empty() && !holds(file, &checks) {
            findings.push(format!("{file} has no checker that says {id}"));
        }
        for test in tests {
            if !holds(file, &|source| has_test(source, test)) {
                findings.push(format!("{file} has no test {test}"));
            }
        }
    }
    for switch in &invariant.switches {
        let noticed = format!("{}_is_noticed", snake_case(switch));
        let named =
            |checks: &&Checks| checks.file.starts_with(SABOTAGE) && checks.tests.contains(&noticed);
        let Some(Checks { file, .. }) = checked.iter().find(named) else {
            findings.push(format!("{switch} needs {noticed} in a file of {SABOTAGE}"));
            continue;
        };
        if !holds(file, &|source| breaks(source, &noticed, switch)) {
            findings.push(format!("{noticed} in {file} does not break {switch}"));
        }
    }
    findings
}

fn snake_case(name: &str) -> String {
    let mut snake = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}

/// Whether a file has a test of this name: a function, or one that its table of rules makes.
fn has_test(source: &Source, name: &str) -> bool {
    let code = &source.code;
    let function = words(code, name).any(|place| {
        let Some(before) = code[..place].strip_suffix("fn ") else { return false };
        let item = before.rfind(['{', '}', ';']).map_or(before, |end| &before[end..]);
        item.contains("#[test]")
    });
    function || rule_tests(source).any(|(test, _)| test == name)
}

/// Whether the test of this name runs seeds with this rule broken.
fn breaks(source: &Source, name: &str, switch: &str) -> bool {
    rule_tests(source).any(|entry| entry == (name, switch))
}

/// The entries of `each_rule!`: tests and the rules that they break.
fn rule_tests(source: &Source) -> impl Iterator<Item = (&str, &str)> {
    const TABLE: &str = "each_rule! {";
    let code = &source.code;
    let table = code.find(TABLE).map_or("", |begin| {
        let open = begin + TABLE.len() - 1;
        &code[open + 1..closing(code, open)]
    });
    let entries = table.split(',').filter_map(|entry| entry.split_once(':'));
    entries.map(|(test, rule)| (test.trim(), rule.trim()))
}

/// The variants of `enum Rule`.
fn switches(rules: &Source) -> Vec<String> {
    let code = &rules.product;
    let Some(begin) = code.find("enum Rule {") else { return Vec::new() };
    let open = begin + "enum Rule ".len();
    let variants = code[open + 1..closing(code, open)].split(',').map(str::trim);
    variants.filter(|variant| !variant.is_empty()).map(str::to_owned).collect()
}

/// Whether the product's part of a file has an assert that names the invariant.
fn asserts(source: &Source, id: &str) -> bool {
    let named = format!("{id}:");
    ASSERTS.iter().any(|name| {
        words(&source.product, name.trim_end_matches('!'))
            .filter(|place| source.product[*place..].starts_with(name))
            .any(|place| {
                let Some(open) = source.product[place..].find(['(', '[', '{']) else {
                    return false;
                };
                let inside = place + open..closing(&source.product, place + open);
                let mut texts = source.texts.iter();
                texts.any(|(_, at, text)| inside.contains(at) && text.starts_with(&named))
            })
    })
}

/// Whether a file tests something.
fn is_test(source: &Source) -> bool {
    source.product != source.code || source.below(&["tests"]) || source.path.contains("/tests/")
}

/// Whether a file says a name: in code, in a comment or in a text.
fn says(source: &Source, name: &str) -> bool {
    let comments = source.comments.iter().map(|(_, text)| text.as_str());
    let texts = source.texts.iter().map(|(_, _, text)| text.as_str());
    let mut all = comments.chain(texts).chain([source.code.as_str()]);
    all.any(|text| words(text, name).next().is_some())
}

/// The ids that the comments of a file mention.
fn ids(source: &Source) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (line, comment) in &source.comments {
        let words = comment.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        found.extend(words.filter(|word| is_id(word)).map(|word| (*line, word.to_owned())));
    }
    found
}

fn is_id(word: &str) -> bool {
    let Some(rest) = word.strip_prefix(|c| KINDS.contains(c)) else { return false };
    let digits = rest.trim_end_matches(['a', 'b']);
    let number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    number && digits.len() <= 2 && rest.len() <= digits.len() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
| id | statement | why | switch | asserted in | checked by |
|---|---|---|---|---|---|
| W1 | a | b | `InOrder` | `datapath/src/x.rs` | `tests/tests/sim.rs`: `in_order_is_noticed`; `tests/src/sim/y.rs` |

| id | statement | why | checked by |
|---|---|---|---|
| D1 | a | b | `tests/src/sim/y.rs`: `one_disk`, `one_order` |

| id | statement | decided in | checked by |
|---|---|---|---|
| I9 | a | `base/src/rules.rs` | `tests/src/sim/y.rs` |

| id | what there is |
|---|---|
| G9 | nothing |
";
    const ASSERT: &str = "assert!(a, \"W1: in order\");";
    const CHECKS: &str = "\
//! Checks W1 and I9.
/// D1.
#[test]
fn one_disk() {}
#[test]
#[ignore = \"long\"]
fn one_order() {}
";
    const SWITCHES: &str = "// I9\npub enum Rule { /** one */ InOrder, }";
    const NOTICED: &str = "each_rule! { other_is_noticed: Other, in_order_is_noticed: InOrder, }";

    fn sources(assert: &str, checker: &str, rules: &str, noticed: &str) -> [Source; 4] {
        [
            Source::new("datapath/src/x.rs", &format!("fn f() {{ {assert} }}")),
            Source::new("tests/src/sim/y.rs", checker),
            Source::new(RULES, rules),
            Source::new("tests/tests/sim.rs", noticed),
        ]
    }

    fn findings(assert: &str, checker: &str, rules: &str) -> Vec<String> {
        check(&parse(TABLE), &sources(assert, checker, rules, NOTICED))
    }

    #[test]
    fn a_table_that_is_true_is_left_alone() {
        let table = parse(TABLE);
        assert_eq!(table.len(), 4);
        assert_eq!((&table[1].asserted, &table[3].checked), (&None, &None));
        assert_eq!(findings(ASSERT, CHECKS, SWITCHES), Vec::<String>::new());
        let sources = sources(ASSERT, CHECKS, SWITCHES, NOTICED);
        assert_eq!(missing_files(TABLE, &sources), Vec::<String>::new());
    }

    #[test]
    fn a_file_that_is_not_there_is_found() {
        let sources = sources(ASSERT, CHECKS, SWITCHES, NOTICED);
        let found = missing_files("Some\nprose about `tests/src/sim/z.rs` and `Rule`.", &sources);
        assert_eq!(found, ["docs/INVARIANTS.md:2: there is no tests/src/sim/z.rs"]);
    }

    #[test]
    fn a_test_that_is_not_there_is_found() {
        let missing = |name| format!("docs/INVARIANTS.md:7: tests/src/sim/y.rs has no test {name}");
        for bad in [CHECKS.replace("one_disk", "one_disc"), CHECKS.replacen("#[test]", "", 1)] {
            assert_eq!(findings(ASSERT, &bad, SWITCHES), [missing("one_disk")]);
        }
        let commented = CHECKS.replace("fn one_order", "// fn one_order");
        assert_eq!(findings(ASSERT, &commented, SWITCHES), [missing("one_order")]);
    }

    #[test]
    fn a_switch_that_no_test_breaks_is_found() {
        let of = |table: &str, noticed| {
            check(&parse(table), &sources(ASSERT, CHECKS, SWITCHES, noticed))
        };
        let unnamed = TABLE.replace("`tests/tests/sim.rs`: `in_order_is_noticed`; ", "");
        let needs = "InOrder needs in_order_is_noticed in a file of tests/tests/";
        assert_eq!(of(&unnamed, NOTICED), [format!("docs/INVARIANTS.md:3: {needs}")]);
        let other = NOTICED.replace("in_order_is_noticed: InOrder", "in_order_is_noticed: Other");
        let wrong = "in_order_is_noticed in tests/tests/sim.rs does not break InOrder";
        assert_eq!(of(TABLE, &other), [format!("docs/INVARIANTS.md:3: {wrong}")]);
        let none = "tests/tests/sim.rs has no test in_order_is_noticed";
        let expected = [none, wrong].map(|what| format!("docs/INVARIANTS.md:3: {what}"));
        assert_eq!(of(TABLE, "each_rule! { }"), expected);
    }

    #[test]
    fn a_missing_assert_is_found() {
        let tests_only = format!("#[cfg(test)] mod t {{ fn g() {{ {ASSERT} }} }}");
        for bad in
            ["", "assert!(a, \"in order\");", "log(\"W1: in order\");", "// W1:", &tests_only]
        {
            let expected = "datapath/src/x.rs has no assert whose text begins with \"W1:\"";
            let expected = format!("docs/INVARIANTS.md:3: {expected}");
            assert_eq!(findings(bad, CHECKS, SWITCHES), [expected], "{bad}");
        }
    }

    #[test]
    fn a_missing_check_or_decision_is_found() {
        let expected = |line, what| format!("docs/INVARIANTS.md:{line}: {what}");
        let found = findings(ASSERT, &CHECKS.replace("W1", "W11"), SWITCHES);
        let missing = "tests/src/sim/y.rs has no checker that says W1";
        assert!(found.contains(&expected(3, missing)), "{found:?}");
        let found = findings(ASSERT, CHECKS, &SWITCHES.replace("I9", "2.5.3"));
        assert_eq!(found, [expected(11, "base/src/rules.rs does not say I9")]);
    }

    #[test]
    fn a_switch_without_a_row_and_a_row_without_its_switch_are_found() {
        let found = findings(ASSERT, CHECKS, "// I9\npub enum Rule { InOrder, Other }");
        assert_eq!(found, ["base/src/rules.rs: Other breaks nothing in docs/INVARIANTS.md"]);
        let found = findings(ASSERT, CHECKS, "// I9\npub enum Rule { }");
        let expected = "docs/INVARIANTS.md:3: there is no switch InOrder in base/src/rules.rs";
        assert_eq!(found, [expected]);
    }

    #[test]
    fn a_row_without_files_and_a_second_row_are_found() {
        let head = "| id | asserted in | checked by |\n|---|---|---|\n";
        let table = parse(&format!("{head}| W1 | | |\n| W1 | | |\n"));
        assert_eq!(check(&table, &[]).len(), 5);
    }

    #[test]
    fn an_id_that_nobody_lists_is_found() {
        let checker = format!("{CHECKS}\n// and F8b, T_hold, U8, G2a.");
        let expected = ["F8b", "U8", "G2a"]
            .map(|id| format!("tests/src/sim/y.rs:9: {id} is not in docs/INVARIANTS.md"));
        assert_eq!(findings(ASSERT, &checker, SWITCHES), expected);
    }
}
