//! The consumer against a real nats-server.
