//! Servers that replicate another one, by GTIDs.

use std::time::Duration;

use anyhow::{Result, ensure};
use mysql_async::Row;

use super::{Flavour, MySql, MySqlBuilder};
use crate::eventually;

/// How long a replica may take to do what its primary did.
const CATCH_UP_SECONDS: u32 = 60;

impl MySql {
    /// A server to be that replicates `primary`: of the same flavour and release, with a port, data and a server id of its own. It
    /// follows by GTIDs and writes a log of its own. Its options can be added to.
    #[must_use]
    pub fn replica_of(primary: &Self) -> MySqlBuilder {
        let mut builder = Self::builder_of(primary.flavour());
        builder.release = primary.release;
        builder.primary = Some(primary.port());
        builder
    }

    /// Makes this server replicate `primary`, whatever it did before, from the transactions on that it has not executed.
    ///
    /// # Errors
    ///
    /// When the server cannot be reached or refuses.
    pub async fn follow(&self, primary: &Self) -> Result<()> {
        self.follow_port(primary.port()).await
    }

    pub(super) async fn follow_port(&self, port: u16) -> Result<()> {
        let sql = match self.flavour() {
            Flavour::MySql => format!(
                "STOP REPLICA; CHANGE REPLICATION SOURCE TO SOURCE_HOST='127.0.0.1', SOURCE_PORT={port}, SOURCE_USER='root', \
                 SOURCE_AUTO_POSITION=1, SOURCE_CONNECT_RETRY=1, SOURCE_RETRY_COUNT=86400, GET_SOURCE_PUBLIC_KEY=1; \
                 START REPLICA"
            ),
            // What it wrote itself, as a primary, counts as replicated.
            Flavour::MariaDb => format!(
                "STOP SLAVE; SET GLOBAL gtid_slave_pos = @@GLOBAL.gtid_current_pos; \
                 CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT={port}, MASTER_USER='root', MASTER_USE_GTID=slave_pos, \
                 MASTER_CONNECT_RETRY=1; START SLAVE"
            ),
        };
        self.exec(&sql).await
    }

    /// Stops replication; the server stays a replica and can go on with [`start_replication`](Self::start_replication).
    ///
    /// # Errors
    ///
    /// When the server cannot be reached or refuses.
    pub async fn stop_replication(&self) -> Result<()> {
        self.exec(self.word("STOP REPLICA", "STOP SLAVE")).await
    }

    /// Stops the part that applies transactions; the server goes on fetching them and knows how far it is behind.
    ///
    /// # Errors
    ///
    /// When the server cannot be reached or refuses.
    pub async fn stop_applying(&self) -> Result<()> {
        self.exec(self.word("STOP REPLICA SQL_THREAD", "STOP SLAVE SQL_THREAD")).await
    }

    /// Goes on after [`stop_replication`](Self::stop_replication) or [`stop_applying`](Self::stop_applying).
    ///
    /// # Errors
    ///
    /// When the server cannot be reached or refuses.
    pub async fn start_replication(&self) -> Result<()> {
        self.exec(self.word("START REPLICA", "START SLAVE")).await
    }

    /// Lets the replica apply each transaction so many seconds after its commit on the primary.
    ///
    /// # Errors
    ///
    /// When the server cannot be reached or refuses.
    pub async fn delay_replication(&self, seconds: u32) -> Result<()> {
        let change = match self.flavour() {
            Flavour::MySql => format!("CHANGE REPLICATION SOURCE TO SOURCE_DELAY={seconds}"),
            Flavour::MariaDb => format!("CHANGE MASTER TO MASTER_DELAY={seconds}"),
        };
        // MariaDB wants all of replication stopped for it.
        self.stop_replication().await?;
        self.exec(&change).await?;
        self.start_replication().await
    }

    /// Makes a primary of a replica: it follows nobody any more.
    ///
    /// # Errors
    ///
    /// When the server cannot be reached or refuses.
    pub async fn promote(&self) -> Result<()> {
        self.exec(self.word("STOP REPLICA; RESET REPLICA ALL", "STOP SLAVE; RESET SLAVE ALL")).await
    }

    /// Waits until this replica has everything that `primary` has committed by now.
    ///
    /// # Errors
    ///
    /// When a server cannot be reached, or it takes longer than a minute.
    pub async fn await_caught_up(&self, primary: &Self) -> Result<()> {
        let (position, wait) = match self.flavour() {
            Flavour::MySql => ("@@GLOBAL.gtid_executed", "WAIT_FOR_EXECUTED_GTID_SET"),
            Flavour::MariaDb => ("@@GLOBAL.gtid_binlog_pos", "MASTER_GTID_WAIT"),
        };
        let positions: Vec<String> = primary.query(&format!("SELECT {position}")).await?;
        let position: String = positions.concat().split_whitespace().collect();
        let done: Vec<Option<i64>> =
            self.query(&format!("SELECT {wait}('{position}', {CATCH_UP_SECONDS})")).await?;
        ensure!(done == [Some(0)], "the replica does not get to {position} in {CATCH_UP_SECONDS} s");
        Ok(())
    }

    /// Waits until this replica has fetched everything that `primary` has committed by now, whether or not it applies it.
    ///
    /// # Errors
    ///
    /// When a server cannot be reached, or it takes longer than a minute.
    pub async fn await_fetched(&self, primary: &Self) -> Result<()> {
        let position = match self.flavour() {
            Flavour::MySql => "@@GLOBAL.gtid_executed",
            Flavour::MariaDb => "@@GLOBAL.gtid_binlog_pos",
        };
        let wanted: Vec<String> = primary.query(&format!("SELECT {position}")).await?;
        let wanted: String = wanted.concat().split_whitespace().collect();
        let limit = Duration::from_secs(CATCH_UP_SECONDS.into());
        eventually(&format!("the replica to fetch {wanted}"), limit, async || {
            let fetched = match self.flavour() {
                Flavour::MySql => {
                    let sql = format!(
                        "SELECT GTID_SUBSET('{wanted}', CONCAT(RECEIVED_TRANSACTION_SET, ',', @@GLOBAL.gtid_executed)) \
                         FROM performance_schema.replication_connection_status"
                    );
                    self.query::<bool>(&sql).await?.contains(&true)
                }
                Flavour::MariaDb => {
                    let rows: Vec<Row> = self.query("SHOW SLAVE STATUS").await?;
                    rows.first().and_then(|row| row.get::<String, _>("Gtid_IO_Pos")) == Some(wanted.clone())
                }
            };
            Ok(fetched.then_some(()))
        })
        .await
    }

    fn word(&self, mysql: &'static str, mariadb: &'static str) -> &'static str {
        match self.flavour() {
            Flavour::MySql => mysql,
            Flavour::MariaDb => mariadb,
        }
    }
}
