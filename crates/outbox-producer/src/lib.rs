//! Writes events into the outbox table in the caller's own transaction.
