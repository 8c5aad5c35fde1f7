//! Who the other end of a TLS connection is: the name in its certificate.

use std::fmt;
use std::str::FromStr;

use crate::ids::{NameError, NodeName};

/// What kind of holder a certificate names. A certificate of one kind is refused where another
/// kind is expected.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    /// A data node: peer link.
    Node,
    /// A witness.
    Witness,
    /// A machine that attaches volumes over NBD.
    Host,
    /// A person or tool that uses the admin API.
    Operator,
}

impl Kind {
    /// The word in the certificate.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Witness => "witness",
            Self::Host => "host",
            Self::Operator => "operator",
        }
    }
}

/// A holder: `stretch:node/a` in the certificate's URI SAN.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    /// What it is.
    pub kind: Kind,
    /// Its name; the same rules as a node's.
    pub name: NodeName,
}

/// Why a text is not an identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// Does not have the form `stretch:KIND/NAME`.
    #[error("an identity has the form stretch:node/a (kinds: node, witness, host, operator)")]
    Form,
    /// The name is not one.
    #[error(transparent)]
    Name(#[from] NameError),
}

impl FromStr for Identity {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let rest = text.strip_prefix("stretch:").ok_or(IdentityError::Form)?;
        let (kind, name) = rest.split_once('/').ok_or(IdentityError::Form)?;
        let kind = [Kind::Node, Kind::Witness, Kind::Host, Kind::Operator]
            .into_iter()
            .find(|k| k.word() == kind)
            .ok_or(IdentityError::Form)?;
        Ok(Self { kind, name: name.parse()? })
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stretch:{}/{}", self.kind.word(), self.name)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_read_back() {
        for text in
            ["stretch:node/a", "stretch:witness/w", "stretch:host/host1", "stretch:operator/x"]
        {
            assert_eq!(text.parse::<Identity>().map(|i| i.to_string()), Ok(text.to_owned()));
        }
        assert!("stretch:king/a".parse::<Identity>().is_err());
        assert!("node/a".parse::<Identity>().is_err());
        assert!("stretch:node/a b".parse::<Identity>().is_err());
    }
}
