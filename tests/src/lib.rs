//! Simulation, checkers and faults for tests of the whole system.
#![forbid(unsafe_code)]

pub mod arbitration;
pub mod chaos;
pub mod checkers;
pub mod model;
pub mod real;
pub mod sim;
pub mod volumes;
