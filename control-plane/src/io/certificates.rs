//! Names in status the node's own certificates that end soon, are over or do not count yet: before
//! it matters, because a running connection is never dropped for it but no new one is accepted.
//!
//! Not here: loading them (`config_file`), what a connection is refused for (`base::io::tls`).

use base::io::tls::Term;
use base::time::{Duration, Instant};
use tracing::warn;

use crate::status::NodeStatus;

/// Time between two looks.
const LOOK_INTERVAL: Duration = Duration::from_secs(3600);
/// How long before its end a certificate is named.
const WARN_BEFORE_S: i64 = 30 * 24 * 3600;

/// The certificates that a node has loaded.
#[derive(Debug)]
pub(super) struct Certificates {
    terms: Vec<Term>,
    look_at: Instant,
    cause: String,
}

impl Certificates {
    pub(super) const fn new(terms: Vec<Term>) -> Self {
        Self { terms, look_at: Instant::ZERO, cause: String::new() }
    }

    /// Adds what is to be said about them at `now`, which is `unix_seconds` on the wall clock.
    pub(super) fn add_to(&mut self, status: &mut NodeStatus, now: Instant, unix_seconds: i64) {
        if now >= self.look_at {
            self.look_at = now + LOOK_INTERVAL;
            let texts = self.terms.iter().filter_map(|term| text(term, unix_seconds));
            self.cause = texts.collect::<Vec<_>>().join("; ");
            if !self.cause.is_empty() {
                warn!("{}", self.cause);
            }
        }
        if self.cause.is_empty() {
            return;
        }
        let advice = format!(
            "issue node {} a new certificate (`stretch pki issue`), put it into its folder and \
             restart the node",
            status.node
        );
        append(&mut status.cause, &self.cause);
        append(&mut status.advice, &advice);
    }
}

fn append(text: &mut String, more: &str) {
    if !text.is_empty() {
        text.push_str("; ");
    }
    text.push_str(more);
}

fn text(term: &Term, unix_seconds: i64) -> Option<String> {
    let path = term.path.display();
    let left = term.end.saturating_sub(unix_seconds);
    let until_begin = term.begin.saturating_sub(unix_seconds);
    if until_begin > 0 {
        let wait = days(until_begin);
        return Some(format!("the certificate {path} is not valid yet, but in {wait}"));
    }
    if left < 0 {
        let ago = days(-left);
        return Some(format!(
            "the certificate {path} expired {ago} ago: no new connection uses it"
        ));
    }
    (left < WARN_BEFORE_S).then(|| format!("the certificate {path} expires in {}", days(left)))
}

/// In whole days, or hours if there are few.
fn days(seconds: i64) -> String {
    match seconds / 3600 {
        hours @ 0..48 => format!("{hours} h"),
        hours => format!("{} days", hours / 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 24 * 3600;

    fn status() -> NodeStatus {
        let name = |name: &str| name.parse().expect("a name");
        NodeStatus::starting(name("a"), name("b"), name("a"), 1)
    }

    fn said(certificates: &mut Certificates, now: u64, unix_seconds: i64) -> (String, String) {
        let mut status = status();
        (status.cause, status.advice) = (String::new(), String::new());
        let now = Instant::ZERO + Duration::from_secs(now);
        certificates.add_to(&mut status, now, unix_seconds);
        (status.cause, status.advice)
    }

    fn certificates() -> Certificates {
        let term = |file: &str, begin, end| Term { path: file.into(), begin, end };
        Certificates::new(vec![
            term("pki/ca.pem", 10 * DAY, 4000 * DAY),
            term("pki/server.pem", 10 * DAY, 100 * DAY),
        ])
    }

    #[test]
    fn what_ends_within_30_days_or_is_over_or_not_yet_valid_is_named() {
        for (day, expected) in [
            (9, Some("ca.pem is not valid yet, but in 24 h")),
            (10, None),
            (70, None),
            (71, Some("server.pem expires in 29 days")),
            (99, Some("server.pem expires in 24 h")),
            (103, Some("server.pem expired 3 days ago")),
        ] {
            let (cause, advice) = said(&mut certificates(), 1, day * DAY);
            let Some(expected) = expected else {
                assert_eq!((cause, advice), Default::default(), "day {day}");
                continue;
            };
            assert!(cause.contains(expected), "day {day}: {cause}");
            assert!(advice.contains("stretch pki issue") && advice.contains("node a"), "{advice}");
        }
    }

    #[test]
    fn they_are_looked_at_once_an_hour_and_other_causes_stay() {
        let mut certificates = certificates();
        assert_eq!(said(&mut certificates, 1, 50 * DAY).0, "");
        assert_eq!(said(&mut certificates, 3600, 90 * DAY).0, "", "not looked at yet");
        assert!(said(&mut certificates, 3601, 90 * DAY).0.contains("10 days"));
        let mut status = status();
        (status.cause, status.advice) = ("the link is cut".to_owned(), "mend it".to_owned());
        certificates.add_to(&mut status, Instant::ZERO, 90 * DAY);
        assert!(status.cause.starts_with("the link is cut; the certificate"), "{}", status.cause);
        assert!(status.advice.starts_with("mend it; issue"), "{}", status.advice);
    }
}
