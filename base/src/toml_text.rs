//! The form of a configuration file: what is wrong in a TOML text, said with line and key.
//!
//! Not here: which keys there are, and whether values go together.

use serde::de::DeserializeOwned;
use toml::de::{DeTable, DeValue};

/// Why a text is not the form that was wanted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// Where, from 1.
    pub line: Option<usize>,
    /// Path of the key; empty if it is about none.
    pub key: String,
    /// What was found and what is allowed, in the words of the parser.
    pub message: String,
}

impl Fault {
    fn new(line: Option<usize>, key: &str, message: &str) -> Self {
        let message = match message.trim() {
            "invalid socket address syntax" => {
                "no address; one has the form IP:PORT, for example 127.0.0.11:10810".to_owned()
            }
            message => message.replace('\n', " "),
        };
        Self { line, key: key.to_owned(), message }
    }
}

/// Reads a text that has exactly the keys of `T`.
///
/// # Errors
/// The first thing that is wrong.
pub fn parse<T: DeserializeOwned>(text: &str) -> Result<T, Fault> {
    let line_at = |error: &toml::de::Error| error.span().map(|span| line_number(text, span.start));
    let deserializer = toml::Deserializer::parse(text).map_err(|error| {
        let line = line_at(&error);
        Fault::new(line, key_in(text, line), error.message())
    })?;
    serde_path_to_error::deserialize(deserializer).map_err(|error| {
        let key = match error.path().to_string() {
            top if top == "." => String::new(),
            key => key,
        };
        // A missing key has no place of its own: the library points at its table or nowhere.
        let line = line_of(text, &key).or_else(|| line_at(error.inner()));
        Fault::new(line, &key, error.inner().message())
    })
}

/// The line of the value at `key` ("volume[1].size"), of the nearest table around it if that key
/// is not there.
pub fn line_of(text: &str, key: &str) -> Option<usize> {
    let table = DeTable::parse(text).ok()?;
    let mut found = None;
    let mut here: Option<&DeTable<'_>> = Some(table.get_ref());
    for step in key.split('.') {
        let (name, index) = match step.split_once('[') {
            Some((name, rest)) => (name, rest.trim_end_matches(']').parse::<usize>().ok()),
            None => (step, None),
        };
        let Some((word, value)) = here.and_then(|table| table.get_key_value(name)) else { break };
        found = Some(word.span().start);
        let mut value = value;
        if let (Some(index), DeValue::Array(items)) = (index, value.get_ref()) {
            let Some(item) = items.get(index) else { break };
            found = Some(item.span().start);
            value = item;
        }
        here = match value.get_ref() {
            DeValue::Table(table) => Some(table),
            _ => None,
        };
    }
    found.map(|offset| line_number(text, offset))
}

/// The key that a line begins with, where the file as a whole is no TOML.
fn key_in(text: &str, line: Option<usize>) -> &str {
    let line = line.and_then(|line| text.lines().nth(line.checked_sub(1)?));
    let key = line.and_then(|line| line.split_once('=')).map_or("", |(key, _)| key.trim());
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    if key.chars().all(plain) { key } else { "" }
}

fn line_number(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().get(..offset).unwrap_or(text.as_bytes());
    before.iter().filter(|byte| **byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize, Debug)]
    #[serde(deny_unknown_fields)]
    struct Form {
        #[expect(dead_code, reason = "it is only read")]
        top: Top,
    }

    #[derive(Deserialize, Debug)]
    #[serde(deny_unknown_fields)]
    struct Top {
        #[expect(dead_code, reason = "it is only read")]
        address: SocketAddr,
    }

    #[test]
    fn a_fault_has_its_line_and_key() {
        assert!(parse::<Form>("[top]\naddress = \"127.0.0.1:1\"\n").is_ok());
        for (text, line, key, says) in [
            ("[top]\naddress = 3 4\n", Some(2), "address", ""),
            ("[top]\naddress = \"x\"\n", Some(2), "top.address", "IP:PORT"),
            ("[top]\n\nadress = \"127.0.0.1:1\"\n", Some(3), "top.adress", "expected `address`"),
            ("[top]\n", Some(1), "top", "missing field `address`"),
        ] {
            let fault = parse::<Form>(text).expect_err(text);
            assert_eq!((fault.line, fault.key.as_str()), (line, key), "{fault:?}");
            assert!(fault.message.contains(says), "{fault:?}");
        }
    }
}
