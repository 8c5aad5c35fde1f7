//! What was said of connections that were refused: each text once in a while and not per attempt.
//!
//! Owns: which text was said when about which address. Bounded: the oldest goes.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::time::{Duration, Instant};

/// What is told at most once in this time.
const SAY_AGAIN_AFTER: Duration = Duration::from_secs(3600);
/// Different texts that are remembered, at most.
const SAID_MAX: usize = 64;

/// What was said.
#[derive(Debug, Default)]
pub struct Said(BTreeMap<(IpAddr, String), Instant>);

impl Said {
    /// Whether it is to be said at `now`; it counts as said then.
    pub fn is_news(&mut self, now: Instant, from: IpAddr, text: &str) -> bool {
        self.0.retain(|_, at| now.since(*at) < SAY_AGAIN_AFTER);
        if self.0.contains_key(&(from, text.to_owned())) {
            return false;
        }
        if self.0.len() >= SAID_MAX
            && let Some(oldest) = self.0.iter().min_by_key(|(_, at)| **at)
        {
            let oldest = oldest.0.clone();
            self.0.remove(&oldest);
        }
        self.0.insert((from, text.to_owned()), now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_said_once_in_a_while_and_few_are_remembered() {
        let at = |s| Instant::ZERO + Duration::from_secs(s);
        let from = |n: usize| IpAddr::from([10, 0, 0, u8::try_from(n).expect("few")]);
        let mut said = Said::default();
        assert!(said.is_news(at(1), from(1), "expired"));
        assert!(!said.is_news(at(2), from(1), "expired"));
        assert!(said.is_news(at(2), from(2), "expired"), "somebody else");
        assert!(said.is_news(at(3), from(1), "foreign"), "something else");
        assert!(said.is_news(at(3601), from(1), "expired"), "an hour later");
        for n in 0..2 * SAID_MAX {
            assert!(said.is_news(at(3602), from(n), "scanned"));
        }
        assert!(said.0.len() <= SAID_MAX);
    }
}
