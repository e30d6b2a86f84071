//! The consumer against a real nats-server.

mod handling;
mod kit;
mod letters;
mod lifecycle;
mod order;
mod outages;
mod support;
