//! The barrier against real servers.

#![cfg(feature = "postgres")]

mod bed;
mod calls;
mod interleavings;
mod model;

/// Runs the same tests for MySQL, MariaDB and Postgres.
macro_rules! for_each_database {
    ($($test:ident),* $(,)?) => {
        for_each_database!(@ mysql, crate::bed::MySqlBed<false>, $($test)*);
        for_each_database!(@ mariadb, crate::bed::MySqlBed<true>, $($test)*);
        for_each_database!(@ postgres, crate::bed::PostgresBed, $($test)*);
    };
    (@ $name:ident, $bed:ty, $($test:ident)*) => {
        mod $name {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() -> anyhow::Result<()> {
                super::$test::<$bed>().await
            })*
        }
    };
}
use for_each_database;
