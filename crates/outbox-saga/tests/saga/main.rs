//! Sagas on real servers: MySQL or MariaDB, and NATS. Outbox rows become messages by a small relay, so that a test can hold
//! them up and double them; the bridge itself is in the end-to-end tests.

mod bed;
mod clean_up;
mod flow;
mod operators;
mod participants;
mod shop;
mod time;
mod together;
mod versions;

/// Runs the same tests for MySQL and MariaDB.
macro_rules! for_each_database {
    ($($test:ident),* $(,)?) => {
        for_each_database!(@ mysql, testbed::Flavour::MySql, $($test)*);
        for_each_database!(@ mariadb, testbed::Flavour::MariaDb, $($test)*);
    };
    (@ $name:ident, $flavour:expr, $($test:ident)*) => {
        mod $name {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() -> anyhow::Result<()> {
                super::$test($flavour).await
            })*
        }
    };
}
use for_each_database;
