//! The consumer against a real nats-server.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod handling;
mod kit;
mod letters;
mod lifecycle;
mod order;
mod outages;
mod parking;
mod partitions;
mod support;
