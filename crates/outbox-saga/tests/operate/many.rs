//! What tools read costs the same however much is kept.

use anyhow::{Context as _, Result, ensure};
use outbox_saga::inspect::{Filter, Inspector, Kind, LOOK_MAX};
use serde_json::json;
use sqlx::MySqlPool;
use sqlx::mysql::MySqlPoolOptions;
use testbed::Flavour;

use crate::bed::Bed;

/// How many are inserted at a time, more than are looked at.
const MANY: i64 = 20_000;

/// Inserts ended sagas and transactions, all older than those before; one of a thousand has a name of its own.
async fn insert(pool: &MySqlPool, round: i64) -> Result<()> {
    const DIGITS: &str = "(SELECT 0 AS d UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4 \
         UNION ALL SELECT 5 UNION ALL SELECT 6 UNION ALL SELECT 7 UNION ALL SELECT 8 UNION ALL SELECT 9)";
    let numbers = format!(
        "(SELECT {MANY} * {round} + a.d + 10 * b.d + 100 * c.d + 1000 * d.d + 10000 * e.d AS n FROM {DIGITS} AS a, \
         {DIGITS} AS b, {DIGITS} AS c, {DIGITS} AS d, (SELECT 0 AS d UNION ALL SELECT 1) AS e) AS numbers"
    );
    let values = "CONCAT('many-', n), IF(n % 1000 = 0, 'rare', 'common')";
    let times = "TIMESTAMP'2020-01-02 00:00:00' - INTERVAL n + 1 SECOND, TIMESTAMP'2020-01-02 00:00:00' - INTERVAL n SECOND";
    for statement in [
        format!(
            "INSERT INTO saga_instances (id, name, version, status, data, state, created_at, updated_at) \
             SELECT {values}, 1, 'completed', '{{}}', '{{}}', {times} FROM {numbers}"
        ),
        format!(
            "INSERT INTO tcc_transactions (id, name, status, deadline, created_at, updated_at) \
             SELECT {values}, 'confirmed', TIMESTAMP'2020-01-02 00:00:00', {times} FROM {numbers}"
        ),
    ] {
        let inserted = sqlx::query(&statement).execute(pool).await?;
        ensure!(inserted.rows_affected() == u64::try_from(MANY)?);
    }
    Ok(())
}

/// How many records this connection has read so far.
async fn records_read(pool: &MySqlPool) -> Result<i64> {
    let status = "SHOW SESSION STATUS LIKE 'Handler_read%'";
    let status: Vec<(String, String)> = sqlx::query_as(status).fetch_all(pool).await?;
    status.iter().map(|(_, count)| Ok(count.parse::<i64>()?)).sum()
}

/// What the tools ask for: what they get, and how many records are read for it.
async fn cost(inspector: &Inspector, pool: &MySqlPool) -> Result<Vec<(&'static str, String, i64)>> {
    let named = Filter { name: Some("rare".to_owned()), limit: 5, ..Filter::default() };
    let page = Filter { limit: 100, ..Filter::default() };
    let mut costs = Vec::new();
    for what in ["list", "list by name", "counts", "stats"] {
        let before = records_read(pool).await?;
        let got = match what {
            "list" => json!(inspector.list(&page).await?),
            "list by name" => json!(inspector.list(&named).await?),
            "counts" => json!(inspector.counts().await?),
            _ => json!(inspector.stats(None).await?),
        };
        costs.push((what, got.to_string(), records_read(pool).await? - before));
    }
    Ok(costs)
}

async fn it_costs_the_same(flavour: Flavour) -> Result<()> {
    let bed = Bed::start(flavour).await?;
    let options = bed.pool.connect_options();
    // One connection, whose counters tell.
    let pool = MySqlPoolOptions::new().max_connections(1).connect_with((*options).clone()).await?;
    let inspector = Inspector::new(pool.clone());
    insert(&bed.pool, 0).await?;
    // What of the bed is still under way would change what is got.
    bed.rest();
    let first = cost(&inspector, &pool).await?;
    insert(&bed.pool, 1).await?;
    insert(&bed.pool, 2).await?;
    let second = cost(&inspector, &pool).await?;
    for ((what, got, read), (_, later, more)) in first.iter().zip(&second) {
        eprintln!("{what}: {read} records");
        ensure!(read == more, "{what}: {read} records are read, and {more} when three times as much is kept");
        ensure!(got == later, "{what}: {got}\nis now\n{later}");
    }
    let cheap = first.iter().find(|(what, ..)| *what == "list").context("a list")?.2;
    ensure!(cheap < 5_000, "{cheap} records for a page");

    let stats = inspector.stats(Some(Kind::Saga)).await?;
    let common = stats.iter().find(|group| group.name == "common").context("a group")?;
    ensure!(common.partial && common.count < i64::from(LOOK_MAX), "{common:?}");
    ensure!(common.mean_seconds == Some(1.0) && common.p99_seconds == Some(1.0), "{common:?}");
    ensure!(
        stats.iter().filter(|group| group.status != "completed").all(|group| !group.partial),
        "{stats:?}"
    );
    let rare = inspector.list(&Filter { name: Some("rare".to_owned()), ..Filter::default() }).await?;
    ensure!(rare.len() == 20 && rare.iter().all(|one| one.name == "rare"), "{rare:?}");
    let counts = inspector.counts().await?;
    let confirmed = counts.iter().find(|(kind, status, _)| *kind == Kind::Tcc && status == "confirmed");
    ensure!(confirmed.is_some_and(|(.., count)| *count == i64::from(LOOK_MAX) + 1), "{counts:?}");
    let text = bed.run(&["stats", "--kind", "saga"]).await?.out;
    ensure!(text.contains(&format!("{}+", common.count)), "{text}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_mysql() -> Result<()> {
    it_costs_the_same(Flavour::MySql).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_mariadb() -> Result<()> {
    it_costs_the_same(Flavour::MariaDb).await
}
