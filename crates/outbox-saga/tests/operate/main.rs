//! The command `outbox-saga` and its page, with sagas and transactions in each state, on MySQL and MariaDB.

#![cfg(feature = "cli")]
#![expect(clippy::indexing_slicing, reason = "a test fails by it, and JSON gives null for what is not there")]

mod bed;
mod command;
mod many;
mod page;
mod refusals;
