//! The consumer against a real nats-server.

mod handling;
mod letters;
mod lifecycle;
mod order;
mod outages;
mod support;
