//! Identifiers, each its own type so that two of them cannot be exchanged.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Longest name of a node, volume, witness, host or operator, in bytes.
pub const NAME_BYTES_MAX: usize = 32;

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// Zero bytes long.
    #[error("a name cannot be empty")]
    Empty,
    /// Longer than [`NAME_BYTES_MAX`].
    #[error("a name has at most {NAME_BYTES_MAX} characters, this one has {0}")]
    TooLong(usize),
    /// Something other than `a-z A-Z 0-9 . _ -`, or a first character that is not a letter or digit.
    #[error("'{0}' cannot stand there; allowed are letters, digits, and inside the name . _ -")]
    Character(char),
}

fn check_name(text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > NAME_BYTES_MAX {
        return Err(NameError::TooLong(text.len()));
    }
    for (index, c) in text.chars().enumerate() {
        let inner = matches!(c, '.' | '_' | '-') && index > 0;
        if !c.is_ascii_alphanumeric() && !inner {
            return Err(NameError::Character(c));
        }
    }
    Ok(())
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                check_name(text)?;
                Ok(Self(text.to_owned()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                check_name(&text)?;
                Ok(Self(text))
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name_type! {
    /// A node's name, unique in its pair. The order of names breaks ties and decides who dials.
    NodeName
}
name_type! {
    /// A volume's name; also the NBD export name.
    VolumeName
}

impl NodeName {
    /// Its fixed field on disk and on the wire: padded with zeros.
    pub fn to_field(&self) -> [u8; NAME_BYTES_MAX] {
        let mut field = [0; NAME_BYTES_MAX];
        field[..self.0.len()].copy_from_slice(self.0.as_bytes());
        field
    }

    /// Reads such a field; one of zeros is no name.
    ///
    /// # Errors
    /// It is neither a name nor none.
    pub fn from_field(field: &[u8; NAME_BYTES_MAX]) -> Result<Option<Self>, NameError> {
        if field.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let end = field.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        String::from_utf8_lossy(&field[..end]).parse().map(Some)
    }
}

macro_rules! uuid_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default,
            FromBytes, IntoBytes, Immutable, KnownLayout,
        )]
        #[repr(transparent)]
        pub struct $name(pub [u8; 16]);

        impl $name {
            /// All zero: "none" or "not known yet".
            pub const NONE: Self = Self([0; 16]);

            /// Whether this is [`Self::NONE`].
            pub fn is_none(self) -> bool {
                self == Self::NONE
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                for (index, byte) in self.0.iter().enumerate() {
                    if matches!(index, 4 | 6 | 8 | 10) {
                        f.write_str("-")?;
                    }
                    write!(f, "{byte:02x}")?;
                }
                Ok(())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = UuidError;

            fn from_str(text: &str) -> Result<Self, UuidError> {
                parse_uuid(text).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

/// A text is not 32 hexadecimal digits, with or without dashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an id is 32 hexadecimal digits, for example 0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0")]
pub struct UuidError;

fn parse_uuid(text: &str) -> Result<[u8; 16], UuidError> {
    let mut digits = text.chars().filter(|c| *c != '-').map(|c| c.to_digit(16));
    let mut bytes = [0u8; 16];
    for byte in &mut bytes {
        let high = digits.next().flatten().ok_or(UuidError)?;
        let low = digits.next().flatten().ok_or(UuidError)?;
        *byte = u8::try_from(high * 16 + low).map_err(|_| UuidError)?;
    }
    if digits.next().is_some() || text.len() > 36 { Err(UuidError) } else { Ok(bytes) }
}

uuid_type! {
    /// A pair of nodes, made by `stretch init`.
    PairId
}
uuid_type! {
    /// A volume, equal on both nodes.
    VolumeId
}
uuid_type! {
    /// One node's copy of a volume.
    DiskId
}
uuid_type! {
    /// A generation of the data (PROTOCOL 2.2 `gid`): changes when one node serves alone.
    Generation
}
uuid_type! {
    /// One start of a node process (PROTOCOL 2.2 `incarnation`).
    Incarnation
}
uuid_type! {
    /// One boot of a machine (`/proc/sys/kernel/random/boot_id`).
    BootId
}
uuid_type! {
    /// A machine (`/etc/machine-id`).
    MachineId
}
uuid_type! {
    /// Binds frames to one control connection and what belongs to it (PROTOCOL 2.1).
    ConnNonce
}
uuid_type! {
    /// A witness vote (PROTOCOL 2.2 `wtok`).
    WitnessToken
}
uuid_type! {
    /// One run of a witness process (PROTOCOL 2.9.1 `run_id`): its tokens are known in no other.
    WitnessRun
}
uuid_type! {
    /// Names the wish for a token, so that one that is repeated makes no second (PROTOCOL 2.9.1).
    TokenNonce
}

/// A session: one continuous mirrored period; strictly increasing. 0 = before the first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Session(pub u64);

impl Session {
    /// The session after this one.
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s{}", self.0)
    }
}

/// Position of a volume in its group; equal on both nodes (the order of the pair configuration).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct VolumeIndex(pub u16);

/// One attached NBD connection. Never used again within a process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct ClientId(pub u64);

/// Asks for something to be made durable; comes back when it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Ticket(pub u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        assert!("a".parse::<NodeName>().is_ok());
        assert!("vol-0.x_y".parse::<VolumeName>().is_ok());
        assert_eq!("".parse::<NodeName>(), Err(NameError::Empty));
        assert_eq!("-a".parse::<NodeName>(), Err(NameError::Character('-')));
        assert_eq!("a/b".parse::<NodeName>(), Err(NameError::Character('/')));
        assert_eq!("x".repeat(33).parse::<NodeName>(), Err(NameError::TooLong(33)));
    }

    #[test]
    fn a_name_fills_its_field_with_zeros_and_nothing_else_reads_as_one() {
        for text in ["a", &"x".repeat(NAME_BYTES_MAX)] {
            let name: NodeName = text.parse().expect("a name");
            assert_eq!(NodeName::from_field(&name.to_field()), Ok(Some(name)));
        }
        assert_eq!(NodeName::from_field(&[0; NAME_BYTES_MAX]), Ok(None));
        for start in [&b"a\0b"[..], b"\0a", b"a ", b"\xff"] {
            let mut field = [0; NAME_BYTES_MAX];
            field[..start.len()].copy_from_slice(start);
            assert!(NodeName::from_field(&field).is_err(), "{start:?}");
        }
    }

    #[test]
    fn a_uuid_reads_back_what_it_prints() {
        let id = VolumeId(*b"0123456789abcdef");
        assert_eq!(id.to_string().parse::<VolumeId>(), Ok(id));
        assert!("12".parse::<VolumeId>().is_err());
        assert!("zz".repeat(16).parse::<VolumeId>().is_err());
        assert!("00".repeat(17).parse::<VolumeId>().is_err());
    }
}
