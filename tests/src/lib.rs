//! Simulation, checkers and faults for tests of the whole system.

pub mod chaos;
pub mod checkers;
pub mod real;
