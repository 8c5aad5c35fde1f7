//! What breaks, and how it heals.
