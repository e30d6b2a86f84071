//! The inboxes against real servers.

#![cfg(all(feature = "mysql", feature = "postgres"))]

mod bed;
mod concurrency;
mod faults;
mod kept;
mod kv;
mod memory;
mod suite;
mod tables;

use anyhow::Result;
use outbox_consumer::inbox::{Begun, Inbox, InboxError, InboxKey};

/// The key of a message for the consumer that most tests use.
fn key(message_id: &str) -> InboxKey {
    key_of("stock", message_id)
}

fn key_of(consumer: &str, message_id: &str) -> InboxKey {
    InboxKey { consumer: consumer.to_owned(), message_id: message_id.to_owned() }
}

/// Begins what must be new.
async fn begin<I: Inbox>(inbox: &I, key: &InboxKey) -> Result<I::Transaction> {
    match inbox.begin(key).await? {
        Begun::New(transaction) => Ok(transaction),
        Begun::Duplicate => anyhow::bail!("{key:?} is no duplicate"),
    }
}

async fn is_duplicate<I: Inbox>(inbox: &I, key: &InboxKey) -> Result<bool> {
    Ok(matches!(inbox.begin(key).await?, Begun::Duplicate))
}

/// The error of a `begin` that must fail.
async fn refusal<I: Inbox>(inbox: &I, key: &InboxKey) -> InboxError {
    match inbox.begin(key).await {
        Err(err) => err,
        Ok(Begun::New(_)) => panic!("{key:?} was begun"),
        Ok(Begun::Duplicate) => panic!("{key:?} is a duplicate"),
    }
}

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

/// Runs tests that are of MySQL alone for MySQL and MariaDB.
macro_rules! for_each_mysql {
    ($($test:ident),* $(,)?) => {
        for_each_mysql!(@ mysql, false, $($test)*);
        for_each_mysql!(@ mariadb, true, $($test)*);
    };
    (@ $name:ident, $mariadb:literal, $($test:ident)*) => {
        mod $name {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() -> anyhow::Result<()> {
                super::$test::<$mariadb>().await
            })*
        }
    };
}
use for_each_mysql;
