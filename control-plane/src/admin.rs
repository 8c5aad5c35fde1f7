//! The words of the admin API: paths, and what a refusal looks like.
//!
//! `GET /v1/status` answers [`crate::status::NodeStatus`], `GET /v1/pair-config` answers
//! [`crate::config::PairConfig`]; everything else, and every failure, answers a [`Refusal`].
//! Not here: serving it (`io/admin_server.rs`), asking it (`io/admin_client.rs`).

use base::identity::{Identity, Kind};
use serde::{Deserialize, Serialize};

/// The node's status.
pub const STATUS_PATH: &str = "/v1/status";
/// The agreement of the pair.
pub const PAIR_CONFIG_PATH: &str = "/v1/pair-config";

/// Why a request was not done.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Refusal {
    /// What happened.
    pub error: String,
    /// What to do.
    pub advice: String,
}

impl Refusal {
    /// Somebody who is no operator came over TLS.
    pub fn not_an_operator(found: &Identity) -> Self {
        Self {
            error: format!("{found} is not an operator: refused at the admin port"),
            advice: "use a certificate of kind operator (stretch pki issue --kind operator NAME)"
                .to_owned(),
        }
    }

    /// A certificate without a usable name came over TLS.
    pub fn nameless(reason: &dyn std::fmt::Display) -> Self {
        Self {
            error: format!("refused at the admin port: {reason}"),
            advice: "use a certificate made by stretch pki issue --kind operator NAME".to_owned(),
        }
    }

    /// The group thread has not reported for `age_ms`.
    pub fn stale(age_ms: u128) -> Self {
        Self {
            error: format!("the thread that decides has not reported for {age_ms} ms"),
            advice: "it may wait for a disk of record_dirs or data_dir; see the node's log"
                .to_owned(),
        }
    }

    /// No such path or method.
    pub fn unknown() -> Self {
        Self {
            error: "no such request".to_owned(),
            advice: format!("this node answers GET {STATUS_PATH} and GET {PAIR_CONFIG_PATH}"),
        }
    }
}

/// Whether the holder may use the admin API.
pub fn admit(holder: &Identity) -> Result<(), Refusal> {
    match holder.kind {
        Kind::Operator => Ok(()),
        Kind::Node | Kind::Witness | Kind::Host => Err(Refusal::not_an_operator(holder)),
    }
}
