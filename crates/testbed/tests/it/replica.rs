//! Replicas: they follow, fall behind, catch up, are promoted, and are followed by their old primary.

use std::time::Duration;

use anyhow::Result;
use testbed::{Flavour, MySql, eventually};

const LIMIT: Duration = Duration::from_secs(30);

async fn rows(server: &MySql) -> Result<Vec<u32>> {
    server.query("SELECT id FROM shop.t ORDER BY id").await
}

async fn await_rows(server: &MySql, expected: &[u32]) -> Result<()> {
    eventually("the replica's rows", LIMIT, async || {
        Ok(rows(server).await.is_ok_and(|rows| rows == expected).then_some(()))
    })
    .await
}

async fn a_replica_follows_lags_and_takes_over(flavour: Flavour) -> Result<()> {
    let mut primary = MySql::builder_of(flavour).start().await?;
    primary.exec("CREATE DATABASE shop; CREATE TABLE shop.t (id INT PRIMARY KEY) ENGINE=InnoDB").await?;
    primary.exec("INSERT INTO shop.t VALUES (1)").await?;
    let replica = MySql::replica_of(&primary).relaxed_durability().start().await?;
    await_rows(&replica, &[1]).await?;
    replica.stop_applying().await?;
    primary.exec("INSERT INTO shop.t VALUES (2)").await?;
    assert_eq!(rows(&replica).await?, [1], "{flavour}");
    replica.start_replication().await?;
    replica.await_caught_up(&primary).await?;
    assert_eq!(rows(&replica).await?, [1, 2], "{flavour}");
    replica.delay_replication(3600).await?;
    primary.exec("INSERT INTO shop.t VALUES (3)").await?;
    replica.delay_replication(0).await?;
    await_rows(&replica, &[1, 2, 3]).await?;
    primary.kill().await?;
    replica.promote().await?;
    replica.exec("INSERT INTO shop.t VALUES (4)").await?;
    primary.start().await?;
    primary.follow(&replica).await?;
    await_rows(&primary, &[1, 2, 3, 4]).await
}

#[tokio::test]
async fn a_replica_of_mysql_follows_lags_and_takes_over() -> Result<()> {
    a_replica_follows_lags_and_takes_over(Flavour::MySql).await
}

#[tokio::test]
async fn a_replica_of_mariadb_follows_lags_and_takes_over() -> Result<()> {
    a_replica_follows_lags_and_takes_over(Flavour::MariaDb).await
}
