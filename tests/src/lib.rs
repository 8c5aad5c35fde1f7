//! Simulation, checkers and faults for tests of the whole system.

pub mod checkers;
