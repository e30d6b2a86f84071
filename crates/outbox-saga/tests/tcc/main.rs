//! TCC against real servers.

#![cfg(all(feature = "http", feature = "postgres"))]

mod bed;
mod faults;
mod lost;
mod operators;
mod outcomes;
mod together;
#[cfg(feature = "opentelemetry")]
mod traces;
