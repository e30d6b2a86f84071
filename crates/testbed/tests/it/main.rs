//! The testbed against the real servers.

mod mysql;
mod nats;
mod proxy;
mod survival;
