//! Idempotent, retrying handlers for the events of Outbox Bridge.

pub mod inbox;
