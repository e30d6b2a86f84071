//! The testbed against the real servers.

mod browser;
mod mysql;
mod nats;
mod postgres;
mod proxy;
mod replica;
mod survival;
