//! Reading the body of a frame: one fixed part after the other, nothing beyond its end.
//!
//! Faults assumed: any bytes. Nothing is taken that is not there, and what is reserved is zero.

use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use crate::frame::FrameError;

/// What is left to read of a body.
#[derive(Clone, Debug)]
pub struct Body<'a> {
    kind: u16,
    rest: &'a [u8],
}

impl<'a> Body<'a> {
    /// The whole body of a message of this kind.
    pub const fn new(kind: u16, bytes: &'a [u8]) -> Self {
        Self { kind, rest: bytes }
    }

    /// This body breaks a rule.
    pub const fn error(&self, what: &'static str) -> FrameError {
        FrameError::Body { kind: self.kind, what }
    }

    /// The next part.
    ///
    /// # Errors
    /// It is not there.
    pub fn take<T: FromBytes + KnownLayout + Immutable + Unaligned>(
        &mut self,
    ) -> Result<&'a T, FrameError> {
        let (value, rest) =
            T::ref_from_prefix(self.rest).map_err(|_| self.error("it is too short"))?;
        self.rest = rest;
        Ok(value)
    }

    /// The next `count` bytes.
    ///
    /// # Errors
    /// They are not there.
    pub fn take_bytes(&mut self, count: usize) -> Result<&'a [u8], FrameError> {
        let split = self.rest.split_at_checked(count);
        let (bytes, rest) = split.ok_or(self.error("it is too short"))?;
        self.rest = rest;
        Ok(bytes)
    }

    /// What a byte says that is 0 or 1.
    ///
    /// # Errors
    /// It is neither.
    pub fn flag(&self, byte: u8) -> Result<bool, FrameError> {
        match byte {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(self.error("a flag is neither 0 nor 1")),
        }
    }

    /// Reserved bytes.
    ///
    /// # Errors
    /// One is not zero.
    pub fn zero(&self, reserved: &[u8]) -> Result<(), FrameError> {
        if reserved.iter().all(|b| *b == 0) {
            return Ok(());
        }
        Err(self.error("reserved bytes are not zero"))
    }

    /// Everything was read.
    ///
    /// # Errors
    /// Something is left.
    pub fn end(&self) -> Result<(), FrameError> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.error("it is too long")) }
    }
}
