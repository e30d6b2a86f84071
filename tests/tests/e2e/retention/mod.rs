//! Clean-up of outbox tables and the continuous audit, against real servers.

mod audit;
mod cleanup;
mod partitions;
