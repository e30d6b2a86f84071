//! The consumer against a real nats-server.

mod handling;
mod support;
