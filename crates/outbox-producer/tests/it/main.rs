//! Events written into real MySQL and MariaDB servers.

mod many;
mod plain;
mod rows;
mod shop;
mod trace;
mod transactions;
