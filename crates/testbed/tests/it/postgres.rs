//! Postgres: started, killed, paused.

use std::time::Duration;

use anyhow::Result;
use sqlx::{Connection as _, PgConnection};
use testbed::{Postgres, eventually};

async fn rows(server: &Postgres) -> Result<Vec<i32>> {
    let mut conn = server.conn().await?;
    let rows = sqlx::query_scalar("SELECT id FROM t ORDER BY id").fetch_all(&mut conn).await?;
    conn.close().await?;
    Ok(rows)
}

#[tokio::test]
async fn committed_rows_survive_a_kill_and_a_restart() -> Result<()> {
    let mut server = Postgres::builder().start().await?;
    let port = server.port();
    server.exec("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)").await?;
    // A connection that is busy when the server dies must not hold up the next start.
    let mut busy = server.conn().await?;
    let sleeping = tokio::spawn(async move { sqlx::query("SELECT pg_sleep(600)").execute(&mut busy).await });
    let mut conn = server.conn().await?;
    eventually("the busy connection", Duration::from_secs(10), async || {
        let asleep: i64 =
            sqlx::query_scalar("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'")
                .fetch_one(&mut conn)
                .await?;
        Ok((asleep == 1).then_some(()))
    })
    .await?;
    server.kill().await?;
    assert!(sleeping.await?.is_err());
    assert!(server.conn().await.is_err(), "it is gone");
    server.start().await?;
    server.exec("INSERT INTO t VALUES (2)").await?;
    server.restart().await?;
    assert_eq!(rows(&server).await?, [1, 2]);
    assert_eq!(server.port(), port);
    Ok(())
}

#[tokio::test]
async fn settings_hold_and_servers_are_apart() -> Result<()> {
    let (one, two) = tokio::try_join!(
        Postgres::builder().start(),
        Postgres::builder().relaxed_durability().setting("lock_timeout", "7s").start(),
    )?;
    for (server, expected) in [(&one, ["on", "0"]), (&two, ["off", "7s"])] {
        let mut conn = server.conn().await?;
        for (setting, expected) in ["fsync", "lock_timeout"].into_iter().zip(expected) {
            let value: String = sqlx::query_scalar(&format!("SHOW {setting}")).fetch_one(&mut conn).await?;
            assert_eq!(value, expected, "{setting}");
        }
    }
    one.exec("CREATE TABLE t (id int)").await?;
    assert!(rows(&two).await.is_err(), "the other server has no such table");
    assert!(one.version().major >= 13);
    Ok(())
}

#[tokio::test]
async fn a_user_has_the_rights_that_were_granted() -> Result<()> {
    let server = Postgres::builder().start().await?;
    server.exec("CREATE TABLE t (id int)").await?;
    server.create_user("reader", "SELECT ON t").await?;
    let mut conn = PgConnection::connect(&server.url("reader")).await?;
    sqlx::raw_sql("SELECT * FROM t").execute(&mut conn).await?;
    let denied = sqlx::raw_sql("INSERT INTO t VALUES (1)").execute(&mut conn).await.expect_err("no right");
    assert!(denied.to_string().contains("permission denied"), "{denied}");
    Ok(())
}

#[tokio::test]
async fn a_paused_server_says_nothing_and_goes_on_later() -> Result<()> {
    let server = Postgres::builder().start().await?;
    let mut conn = server.conn().await?;
    server.pause()?;
    let answer =
        tokio::time::timeout(Duration::from_millis(300), sqlx::raw_sql("SELECT 1").execute(&mut conn)).await;
    assert!(answer.is_err(), "no answer while paused");
    server.resume()?;
    eventually("an answer", Duration::from_secs(10), async || Ok(server.exec("SELECT 1").await.ok())).await
}

#[tokio::test]
async fn a_failed_start_shows_the_end_of_the_log() {
    let failure = Postgres::builder().setting("no_such_setting", "1").start().await.expect_err("refused");
    assert!(failure.to_string().contains("no_such_setting"), "{failure:#}");
}
