//! How often what happened: a run in which something never happens proves nothing about it.

use std::collections::BTreeMap;

/// Counts by kind and name.
#[derive(Clone, Default, Debug)]
pub struct Coverage {
    /// (kind, name) to how often.
    pub counts: BTreeMap<(&'static str, String), u64>,
}

impl Coverage {
    /// Counts one more.
    pub fn count(&mut self, kind: &'static str, name: impl Into<String>) {
        *self.counts.entry((kind, name.into())).or_default() += 1;
    }

    /// Adds another run's counts.
    pub fn add(&mut self, other: &Self) {
        for (key, count) in &other.counts {
            *self.counts.entry(key.clone()).or_default() += count;
        }
    }

    /// How often.
    pub fn of(&self, kind: &'static str, name: &str) -> u64 {
        self.counts.get(&(kind, name.to_owned())).copied().unwrap_or_default()
    }

    /// A table for people.
    pub fn table(&self) -> String {
        let mut text = String::new();
        let mut last = "";
        for ((kind, name), count) in &self.counts {
            if *kind != last {
                text.push_str(&format!("{kind}\n"));
                last = kind;
            }
            text.push_str(&format!("  {count:>9}  {name}\n"));
        }
        text
    }
}
