//! Who may know whom, what a released binary is built with, and what we take from others.

use std::sync::LazyLock;

use cargo_metadata::camino::Utf8Path;
use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};

use super::root;

/// A crate of the product and the crates of the workspace that it may know.
const ARROWS: [(&str, &[&str]); 5] = [
    ("base", &[]),
    ("nbd-frontend", &["base"]),
    ("datapath", &["base"]),
    ("witness", &["base"]),
    ("control-plane", &["base", "nbd-frontend", "datapath", "witness"]),
];

/// The only packages that may ask for the feature `sabotage` of another.
const SABOTEURS: [&str; 1] = ["stretch-tests"];

/// Licences whose terms our own (Apache-2.0 OR MIT) can carry.
const LICENCES: [&str; 12] = [
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// The workspace and all that it is built from on this platform.
pub(crate) static METADATA: LazyLock<Metadata> = LazyLock::new(|| {
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    MetadataCommand::new()
        .manifest_path(root().join("Cargo.toml"))
        .other_options(["--locked", "--filter-platform", &platform].map(str::to_owned))
        .exec()
        .expect("cargo metadata")
});

/// Arrows that point the wrong way.
pub(crate) fn arrows(metadata: &Metadata) -> Vec<String> {
    let mut findings = Vec::new();
    for package in metadata.workspace_packages() {
        let Some((_, may)) = ARROWS.iter().find(|(name, _)| *name == package.name.as_str()) else {
            continue;
        };
        for dependency in &package.dependencies {
            if dependency.path.is_some() && !may.contains(&dependency.name.as_str()) {
                findings.push(format!(
                    "{}: {} must not know {}",
                    manifest(package),
                    package.name,
                    dependency.name
                ));
            }
        }
    }
    findings
}

/// Ways in which sabotage could get into a released binary.
pub(crate) fn sabotage(metadata: &Metadata) -> Vec<String> {
    let mut findings = Vec::new();
    for package in metadata.workspace_packages() {
        let on = |feature: &String| feature.contains("sabotage");
        if package.features.get("default").is_some_and(|features| features.iter().any(on)) {
            findings.push(format!("{}: sabotage is a default feature", manifest(package)));
        }
        if SABOTEURS.contains(&package.name.as_str()) {
            continue;
        }
        for dependency in &package.dependencies {
            if dependency.features.iter().any(on) {
                let name = &dependency.name;
                findings.push(format!("{}: turns sabotage on in {name}", manifest(package)));
            }
            if SABOTEURS.contains(&dependency.name.as_str()) {
                let name = &dependency.name;
                findings.push(format!("{}: {name} turns sabotage on", manifest(package)));
            }
        }
    }
    for package in metadata.workspace_default_packages() {
        if SABOTEURS.contains(&package.name.as_str()) {
            findings.push(format!("{}: a default member", manifest(package)));
        }
    }
    findings
}

/// Packages with a licence that we have not looked at.
pub(crate) fn licences(metadata: &Metadata) -> Vec<String> {
    let mut findings = Vec::new();
    for package in &metadata.packages {
        let expression = package.license.as_deref().unwrap_or_default();
        if !is_allowed(expression) {
            let Package { name, version, .. } = package;
            findings.push(format!("{name} {version}: licence \"{expression}\" is not allowed"));
        }
    }
    findings
}

/// Packages that do not come from crates.io, by the lock file: it lists every platform's.
pub(crate) fn registries(lock: &str) -> Vec<String> {
    let mut findings = Vec::new();
    for (number, line) in lock.lines().enumerate() {
        if let Some(source) = line.strip_prefix("source = ")
            && source.trim_matches('"') != CRATES_IO
        {
            findings.push(format!("Cargo.lock:{}: {source} is not crates.io", number + 1));
        }
    }
    findings
}

fn manifest(package: &Package) -> String {
    let path: &Utf8Path = &package.manifest_path;
    super::relative(path.as_std_path())
}

/// Whether a licence expression leaves a choice of which we allow one.
fn is_allowed(expression: &str) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let tokens: Vec<&str> = spaced.split_whitespace().collect();
    let mut parser = Expression { tokens: &tokens };
    parser.any_of() == Some(true) && parser.tokens.is_empty()
}

struct Expression<'a> {
    tokens: &'a [&'a str],
}

impl Expression<'_> {
    fn take(&mut self, token: &str) -> bool {
        let taken = self.tokens.first() == Some(&token);
        if taken {
            self.tokens = &self.tokens[1..];
        }
        taken
    }

    fn any_of(&mut self) -> Option<bool> {
        let mut allowed = self.all_of()?;
        while self.take("OR") {
            allowed |= self.all_of()?;
        }
        Some(allowed)
    }

    fn all_of(&mut self) -> Option<bool> {
        let mut allowed = self.one()?;
        while self.take("AND") {
            allowed &= self.one()?;
        }
        Some(allowed)
    }

    fn one(&mut self) -> Option<bool> {
        if self.take("(") {
            let allowed = self.any_of()?;
            return self.take(")").then_some(allowed);
        }
        let (name, rest) = self.tokens.split_first()?;
        self.tokens = rest;
        let mut name = (*name).to_owned();
        if self.take("WITH") {
            let (exception, rest) = self.tokens.split_first()?;
            self.tokens = rest;
            name = format!("{name} WITH {exception}");
        }
        Some(LICENCES.contains(&name.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The workspace, with one dependency added to the manifest of `package`.
    fn with_dependency(package: &str, name: &str, features: &[&str]) -> Metadata {
        let mut metadata = METADATA.clone();
        let known = metadata.packages.iter().flat_map(|package| &package.dependencies);
        let mut dependency =
            known.clone().find(|d| d.name == name).or(known.clone().find(|d| d.path.is_some()));
        let mut added = dependency.take().expect("a dependency within the workspace").clone();
        added.name = name.to_owned();
        added.kind = DependencyKind::Normal;
        added.features = features.iter().map(|feature| (*feature).to_owned()).collect();
        let changed = metadata.packages.iter_mut().find(|p| p.name.as_str() == package);
        changed.expect("a crate").dependencies.push(added);
        metadata
    }

    #[test]
    fn an_arrow_that_points_back_is_found() {
        for (from, to) in
            [("base", "datapath"), ("datapath", "nbd-frontend"), ("witness", "control-plane")]
        {
            let findings = arrows(&with_dependency(from, to, &[]));
            assert_eq!(findings, [format!("{from}/Cargo.toml: {from} must not know {to}")]);
        }
    }

    #[test]
    fn sabotage_in_a_product_crate_is_found() {
        let findings = sabotage(&with_dependency("control-plane", "datapath", &["sabotage"]));
        assert_eq!(findings, ["control-plane/Cargo.toml: turns sabotage on in datapath"]);
        let findings = sabotage(&with_dependency("witness", "stretch-tests", &[]));
        assert_eq!(findings, ["witness/Cargo.toml: stretch-tests turns sabotage on"]);
        let mut default = METADATA.clone();
        let package = default.packages.iter_mut().find(|p| p.name.as_str() == "base");
        let features = &mut package.expect("base").features;
        features.insert("default".to_owned(), vec!["sabotage".to_owned()]);
        assert_eq!(sabotage(&default), ["base/Cargo.toml: sabotage is a default feature"]);
    }

    #[test]
    fn a_licence_that_we_cannot_carry_is_found() {
        let mut changed = METADATA.clone();
        changed.packages[0].license = Some("GPL-3.0-only".to_owned());
        assert_eq!(licences(&changed).len(), 1);
        changed.packages[0].license = None;
        assert_eq!(licences(&changed).len(), 1);
    }

    #[test]
    fn licence_expressions_are_read() {
        for good in [
            "MIT",
            "MIT/Apache-2.0",
            "GPL-2.0-only OR MIT",
            "ISC AND (Apache-2.0 OR GPL-2.0-only)",
            "Apache-2.0 WITH LLVM-exception",
            "(MIT OR Apache-2.0) AND Unicode-3.0",
        ] {
            assert!(is_allowed(good), "{good}");
        }
        for bad in [
            "",
            "GPL-3.0-only",
            "MIT AND GPL-3.0-only",
            "MIT OR",
            "(MIT",
            "MIT ISC",
            "GPL-2.0-only WITH Classpath-exception-2.0",
            "(MIT OR GPL-2.0-only) AND MPL-2.0",
        ] {
            assert!(!is_allowed(bad), "{bad}");
        }
    }

    #[test]
    fn a_package_from_elsewhere_is_found() {
        let lock = format!(
            "name = \"a\"\nsource = \"{CRATES_IO}\"\nname = \"b\"\nsource = \"git+https://example.org/b\"\n"
        );
        let expected = "Cargo.lock:4: \"git+https://example.org/b\" is not crates.io";
        assert_eq!(registries(&lock), [expected]);
    }
}
