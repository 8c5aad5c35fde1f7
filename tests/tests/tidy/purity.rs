//! Outside `src/io/` and `src/bin/` no product crate touches sockets, files, threads, async code,
//! randomness or the clock, and none of its results depends on the order of a hash table.

use super::PRODUCT;
use super::source::{Source, line, words};

/// Paths that a core does not use, and what to do instead.
const PATHS: [(&str, &str); 19] = [
    ("std::fs", "files belong in src/io/"),
    ("std::thread", "threads belong in src/io/"),
    ("std::process", "processes belong in src/io/ and src/bin/"),
    ("std::env", "the environment is read in src/bin/"),
    ("std::os", "the operating system belongs in src/io/"),
    ("std::time::Instant", "take `now` as an argument: base::time::Instant"),
    ("std::time::SystemTime", "take the time as an argument"),
    ("std::sync::mpsc", "a core has one owner and no threads"),
    ("std::sync::atomic", "a core has one owner and no threads"),
    ("tokio", "async code belongs in src/io/"),
    ("tokio_rustls", "async code belongs in src/io/"),
    ("rustls", "sockets belong in src/io/"),
    ("rustix", "system calls belong in src/io/"),
    ("io_uring", "system calls belong in src/io/"),
    ("crossbeam", "a core has one owner and no threads"),
    ("hyper", "HTTP is served in src/io/"),
    ("axum", "HTTP is served in src/io/"),
    ("rand", "randomness is an argument"),
    ("rand_chacha", "randomness is an argument"),
];

/// Words that a core does not use, whatever path they come by.
const WORDS: [(&str, &str); 18] = [
    ("TcpStream", "sockets belong in src/io/"),
    ("TcpListener", "sockets belong in src/io/"),
    ("UdpSocket", "sockets belong in src/io/"),
    ("UnixStream", "sockets belong in src/io/"),
    ("UnixListener", "sockets belong in src/io/"),
    ("ToSocketAddrs", "names are resolved in src/io/"),
    ("SystemTime", "take the time as an argument"),
    ("Mutex", "a core has one owner: &mut self"),
    ("RwLock", "a core has one owner: &mut self"),
    ("Condvar", "a core has one owner: &mut self"),
    ("async", "async code belongs in src/io/"),
    ("await", "async code belongs in src/io/"),
    ("HashMap", "its order is random: BTreeMap"),
    ("HashSet", "its order is random: BTreeSet"),
    ("RandomState", "randomness is an argument"),
    ("println", "a core returns what it has to say, or logs it"),
    ("eprintln", "a core returns what it has to say, or logs it"),
    ("thread_local", "a core has no hidden state"),
];

/// Ways to ask for the time.
const CLOCKS: [&str; 5] = [
    "clock_gettime",
    "Instant::now",
    "SystemTime::now",
    "UtcDateTime::now",
    "OffsetDateTime::now_utc",
];

/// Whether the file is part of a core.
pub(crate) fn applies(source: &Source) -> bool {
    let crate_name = PRODUCT.iter().find(|name| source.below(&[name]));
    crate_name.is_some_and(|name| {
        source.below(&[&format!("{name}/src")])
            && !source.below(&[&format!("{name}/src/io"), &format!("{name}/src/bin")])
    })
}

/// What a core has that belongs elsewhere.
pub(crate) fn check(source: &Source) -> Vec<String> {
    let code = &source.product;
    let mut findings = Vec::new();
    let mut used: Vec<(usize, String)> = imports(code);
    for (path, _) in PATHS {
        used.extend(words(code, path).map(|place| (line(code, place), inline_path(code, place))));
    }
    for (line, path) in &used {
        for (banned, instead) in PATHS {
            if *path == banned || path.starts_with(&format!("{banned}::")) {
                findings.push(format!("{}: `{path}` in a core: {instead}", source.at(*line)));
            }
        }
    }
    for (word, instead) in WORDS {
        for place in words(code, word) {
            let line = line(code, place);
            findings.push(format!("{}: `{word}` in a core: {instead}", source.at(line)));
        }
    }
    findings.sort();
    findings.dedup();
    findings
}

/// Reading a clock anywhere but in the one place for it.
pub(crate) fn clocks(source: &Source) -> Vec<String> {
    if source.path == "base/src/io/clock.rs" || !source.below(&PRODUCT) {
        return Vec::new();
    }
    let code = &source.product;
    let found = CLOCKS.iter().flat_map(|clock| {
        words(code, clock).map(move |place| {
            format!("{}: `{clock}`: base::io::clock reads clocks", source.at(line(code, place)))
        })
    });
    found.collect()
}

/// A path in the middle of code, from its first word; empty if it is the tail of a longer one.
fn inline_path(code: &str, place: usize) -> String {
    if code[..place].ends_with("::") || !code[place..].contains("::") {
        return String::new();
    }
    let part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let path: String = code[place..].chars().take_while(|c| part(*c)).collect();
    if path.contains("::") { path.trim_end_matches(':').to_owned() } else { String::new() }
}

/// Every path that `use` brings in, written out.
fn imports(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for place in words(code, "use") {
        // `use<'a>` in a type brings nothing in.
        let Some(rest) = code[place + 3..].strip_prefix(' ') else { continue };
        let Some(end) = rest.find(';') else { continue };
        let mut paths = Vec::new();
        let tree: String = rest[..end].split_whitespace().collect::<Vec<_>>().join(" ");
        expand("", &tree, &mut paths);
        found.extend(paths.into_iter().map(|path| (line(code, place), path)));
    }
    found
}

fn expand(before: &str, tree: &str, paths: &mut Vec<String>) {
    let tree = tree.trim();
    match tree.split_once('{') {
        None => {
            let path = tree.split(" as ").next().unwrap_or(tree).trim();
            let path = format!("{before}{path}");
            paths.push(path.trim_end_matches("::self").to_owned());
        }
        Some((head, group)) => {
            let before = format!("{before}{}", head.trim());
            let group = group.rsplit_once('}').map_or(group, |(inside, _)| inside);
            let mut depth = 0;
            let parts = group.split(|c: char| {
                depth += i32::from(c == '{') - i32::from(c == '}');
                c == ',' && depth == 0
            });
            for part in parts.filter(|part| !part.trim().is_empty()) {
                expand(&before, part, paths);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn core(text: &str) -> Vec<String> {
        check(&Source::new("datapath/src/x.rs", text))
    }

    #[test]
    fn a_core_that_touches_the_world_is_found() {
        for bad in [
            "use std::fs;",
            "use std::{fmt, fs::File};",
            "use std::{collections::{BTreeMap}, thread};",
            "fn f() { std::thread::yield_now(); }",
            "use std::time::{Duration, Instant};",
            "fn f() -> std::time::Instant { todo }",
            "use std::net::{IpAddr, TcpStream};",
            "use tokio::net;",
            "fn f() { tokio::spawn(g()); }",
            "use rustix as r;",
            "use rand::Rng;",
            "use std::sync::Mutex;",
            "async fn f() {}",
            "fn f() { println!(); }",
            "use std::collections::HashMap;",
        ] {
            assert_eq!(core(bad).len(), 1, "{bad}: {:?}", core(bad));
        }
        assert_eq!(
            core("\nfn f() { std::fs::read(p) }"),
            ["datapath/src/x.rs:2: `std::fs::read` in a core: files belong in src/io/"]
        );
    }

    #[test]
    fn a_core_that_does_not_is_left_alone() {
        for good in [
            "use std::net::{IpAddr, SocketAddr};",
            "use std::path::Path;",
            "use base::time::Instant;",
            "use std::time::Duration;",
            "// tokio::spawn, std::fs",
            "const S: &str = \"std::fs::read\";",
            "fn operand() { let rand = 1; }",
            "#[cfg(test)]\nmod tests { use std::fs; }",
        ] {
            assert_eq!(core(good), Vec::<String>::new(), "{good}");
        }
    }

    #[test]
    fn shells_and_tests_are_no_cores() {
        for (path, is_core) in [
            ("datapath/src/volume.rs", true),
            ("control-plane/src/polarization/group.rs", true),
            ("datapath/src/io/ring.rs", false),
            ("control-plane/src/bin/stretch.rs", false),
            ("tests/src/sim/world.rs", false),
            ("bench/src/main.rs", false),
        ] {
            assert_eq!(applies(&Source::new(path, "")), is_core, "{path}");
        }
    }

    #[test]
    fn a_second_reader_of_clocks_is_found() {
        let text = "fn f() { let now = std::time::Instant::now(); }";
        let found = |path: &str| clocks(&Source::new(path, text)).len();
        assert_eq!(found("control-plane/src/io/x.rs"), 1);
        assert_eq!(found("base/src/io/clock.rs"), 0);
        assert_eq!(found("bench/src/main.rs"), 0);
    }
}
