//! The bridge as a process of its own between real servers: what it promises, what is done to it, and what its commands say.
//!
//! One executable, so that it is linked once and its tests share the processors; `cargo test --test e2e failover::` runs a part.

mod backfill;
mod bank;
mod basics;
mod check;
mod claim_check;
mod connection;
mod crashes;
mod damage;
mod ddl;
mod decoder;
mod deploy;
mod docs;
mod examples;
mod failover;
mod formats;
mod lease;
mod letters;
mod limits;
mod load;
mod log;
mod memory;
mod migrate;
mod order_flow;
mod page;
mod producer;
mod publish;
mod releases;
mod retention;
mod saga;
mod standbys;
mod stream_life;
mod tcc;
mod traces;
mod traps;
mod types;
mod verify;
mod xa;
mod xa_search;
