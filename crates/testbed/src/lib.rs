//! Real servers for tests, the demo and benchmarks.
//!
//! This crate gets MySQL, MariaDB, Postgres and nats-server without root rights and without containers, keeps them in a
//! cache folder outside the repository, and starts each on a free port with its data in a temporary folder. A
//! server dies with its handle, and with the process that started it, however that process ends.
//!
//! Beside the servers stand [`FaultyProxy`], a TCP proxy whose faults are switched at run time,
//! [`TlsMaterial`], certificates for tests of TLS, plain HTTP ([`request`]), programs that check files for others:
//! [`promtool`] and [`systemd_analyze`], and [`Browser`], a headless Chromium.
//!
//! It never skips: where a server can neither be found nor got, the error says what to install or which variable
//! to set.
//!
//! | variable | meaning |
//! |---|---|
//! | `OUTBOX_TESTBED_CACHE` | the cache folder; else `$XDG_CACHE_HOME/outbox-bridge-testbed`, else `~/.cache/…` |
//! | `OUTBOX_TESTBED_MYSQLD` | path of a `mysqld` to use, MySQL 8.0 or newer |
//! | `OUTBOX_TESTBED_MARIADBD` | path of a `mariadbd` to use |
//! | `OUTBOX_TESTBED_MARIADBD_NEXT` | path of a `mariadbd` of release 11 to use |
//! | `OUTBOX_TESTBED_POSTGRES` | path of a `postgres` to use, version 13 or newer, with `initdb` beside it |
//! | `OUTBOX_TESTBED_NATS_SERVER` | path of a `nats-server` to use where the newest is asked for |
//! | `OUTBOX_TESTBED_PROMTOOL` | path of a `promtool` to use |
//! | `OUTBOX_TESTBED_SYSTEMD_ANALYZE` | path of a `systemd-analyze` to use, version 250 or newer |
//! | `OUTBOX_TESTBED_CHROMIUM` | path of a Chromium or Chrome to use |
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! let mysql = testbed::MySql::builder().option("--binlog-row-image=MINIMAL").start().await?;
//! let nats = testbed::Nats::builder().version("2.12").start().await?;
//! mysql.exec("CREATE DATABASE shop").await?;
//! let client = nats.client().await?;
//! # Ok(())
//! # }
//! ```

mod browser;
mod cache;
mod damage;
mod http;
mod mysql;
mod nats;
mod packages;
mod port;
mod postgres;
mod process;
mod proxy;
mod servers;
mod subscriber;
mod tls;
mod tools;
mod version;
mod wait;
mod wheel;

pub use browser::{Browser, Page, View};
pub use damage::DamagingProxy;
pub use http::request;
pub use mysql::{Flavour, MySql, MySqlBuilder};
pub use nats::{Links, Nats, NatsBuilder, NatsCluster};
pub use port::Port;
pub use postgres::{Postgres, PostgresBuilder};
pub use process::freeze;
pub use proxy::{Direction, FaultyProxy};
pub use servers::{Server, prefetch_all};
pub use subscriber::own_subscriber;
pub use tls::{Certificate, TlsMaterial};
pub use tools::{promtool, systemd_analyze};
pub use version::Version;
pub use wait::eventually;
