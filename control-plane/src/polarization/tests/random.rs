//! Random orders of events.
