//! TCC against real servers.

#![cfg(all(feature = "http", feature = "postgres"))]

mod bed;
mod faults;
mod lost;
mod operators;
mod outcomes;
#[cfg(feature = "opentelemetry")]
mod traces;
