//! Crashes, lost connections, and handlers that break their transaction.

use std::time::Duration;

use anyhow::Result;
use outbox_consumer::inbox::{Begun, Inbox as _, InboxErrorKind, NoInbox};
use testbed::{Direction, FaultyProxy, eventually};

use crate::bed::{Bed, MySqlBed, PostgresBed};
use crate::{begin, for_each_database, is_duplicate, key, refusal};

const LIMIT: Duration = Duration::from_secs(20);

for_each_database!(
    a_killed_database_keeps_neither_effect_nor_record,
    a_connection_lost_in_commit_leaves_one_truth,
    a_database_that_is_away_or_read_only_is_unavailable,
);

async fn a_killed_database_keeps_neither_effect_nor_record<B: Bed>() -> Result<()> {
    let mut bed = B::start().await?;
    let inbox = bed.inbox().await?;
    let mut transaction = begin(&inbox, &key("1")).await?;
    B::effect(&mut transaction, "one").await?;
    inbox.commit(&key("1"), transaction).await?;
    let mut transaction = begin(&inbox, &key("2")).await?;
    B::effect(&mut transaction, "two").await?;
    bed.kill().await?;
    let err = inbox.commit(&key("2"), transaction).await.expect_err("the database is gone");
    assert_eq!(err.kind(), InboxErrorKind::Unavailable, "{err:?}");
    bed.restart().await?;
    assert!(is_duplicate(&inbox, &key("1")).await?);
    assert!(!is_duplicate(&inbox, &key("2")).await?);
    assert_eq!(bed.effects().await?, ["one"]);
    Ok(())
}

/// The connection ends after so many bytes of the commit's questions or answers: it is committed or not, and the next
/// `begin` says which.
async fn a_connection_lost_in_commit_leaves_one_truth<B: Bed>() -> Result<()> {
    let bed = B::start().await?;
    let direct = bed.inbox().await?;
    let (mut committed, mut lost, mut failed) = (0, 0, 0);
    for direction in [Direction::ToServer, Direction::ToClient] {
        for bytes in (1..400).step_by(19) {
            let id = format!("{direction:?} {bytes:03}");
            let proxy = FaultyProxy::start(bed.port()).await?;
            // With two connections, MySQL's inbox begins the next transaction together with the commit.
            let connections = 1 + u32::from(bytes % 2 == 0);
            let inbox = bed.inbox_at("root", proxy.port(), connections)?;
            let mut transaction = begin(&inbox, &key(&id)).await?;
            B::effect(&mut transaction, &id).await?;
            proxy.cut_after(direction, bytes);
            if let Err(err) = inbox.commit(&key(&id), transaction).await {
                assert_eq!(err.kind(), InboxErrorKind::Unavailable, "{err:?}");
                failed += 1;
            }
            // It waits until the server has ended what was open.
            let recorded = is_duplicate(&direct, &key(&id)).await?;
            assert_eq!(bed.effects().await?.contains(&id), recorded, "{id}");
            committed += u32::from(recorded);
            lost += u32::from(!recorded);
        }
    }
    eprintln!("{failed} commits failed; {committed} were committed, {lost} were not");
    assert!(failed > 0 && committed > 0 && lost > 0, "{failed}, {committed}, {lost}");
    Ok(())
}

async fn a_database_that_is_away_or_read_only_is_unavailable<B: Bed>() -> Result<()> {
    let mut bed = B::start().await?;
    bed.inbox().await?;
    // A user whose rights do not reach over the server's being read-only.
    bed.create_user("service").await?;
    let grantee = if B::POSTGRES { "service" } else { "'service'@'%'" };
    bed.exec(&format!("GRANT SELECT, INSERT, DELETE ON outbox_inbox TO {grantee}")).await?;
    let inbox = bed.inbox_at("service", bed.port(), 1)?;
    inbox.prepare().await?;
    bed.stop().await?;
    let proxy = FaultyProxy::start(bed.port()).await?;
    let quick = bed.inbox_at("service", proxy.port(), 1)?;
    proxy.refuse().await?;
    for inbox in [&inbox, &quick] {
        let err = refusal(inbox, &key("1")).await;
        assert_eq!(err.kind(), InboxErrorKind::Unavailable, "{err:?}");
    }
    bed.restart().await?;
    bed.exec(B::READ_ONLY).await?;
    let err = refusal(&inbox, &key("1")).await;
    assert_eq!(err.kind(), InboxErrorKind::Unavailable, "{err:?}");
    let err = inbox.prepare().await.expect_err("it is read-only");
    assert_eq!(err.kind(), InboxErrorKind::Unavailable, "{err:?}");
    Ok(())
}

/// Handlers without an inbox have a database all the same.
#[tokio::test]
async fn without_an_inbox_the_database_is_looked_at() -> Result<()> {
    let mut bed = MySqlBed::<false>::start().await?;
    let inbox = NoInbox::new().watch_mysql(bed.inbox_at("root", bed.port(), 1)?.pool);
    inbox.probe("stock").await?;
    bed.kill().await?;
    let err = inbox.probe("stock").await.expect_err("it is away");
    assert_eq!(err.kind(), InboxErrorKind::Unavailable, "{err:?}");
    // What is said of a handler's failure comes from the probe alone.
    assert!(matches!(inbox.begin(&key("1")).await?, Begun::New(())));
    NoInbox::new().probe("stock").await?;
    bed.restart().await?;
    inbox.probe("stock").await?;
    bed.exec(MySqlBed::<false>::READ_ONLY).await?;
    let err = inbox.probe("stock").await.expect_err("it is read-only");
    assert_eq!(err.kind(), InboxErrorKind::Unavailable, "{err:?}");
    Ok(())
}

/// Postgres answers `COMMIT` in a transaction with a failed statement by rolling back, without an error.
#[tokio::test]
async fn a_swallowed_error_is_not_taken_for_a_commit() -> Result<()> {
    let bed = PostgresBed::start().await?;
    let inbox = bed.inbox().await?;
    let mut transaction = begin(&inbox, &key("1")).await?;
    PostgresBed::effect(&mut transaction, "one").await?;
    assert!(PostgresBed::run(&mut transaction, "SELECT 1 / 0").await.is_err());
    let err = inbox.commit(&key("1"), transaction).await.expect_err("nothing can be committed");
    assert_eq!(err.kind(), InboxErrorKind::Rejected, "{err:?}");
    assert!(!is_duplicate(&inbox, &key("1")).await?);
    assert!(bed.effects().await?.is_empty());

    let constraint = "CREATE TABLE parent (id int PRIMARY KEY); \
         CREATE TABLE child (parent int REFERENCES parent DEFERRABLE INITIALLY DEFERRED)";
    bed.exec(constraint).await?;
    let mut transaction = begin(&inbox, &key("1")).await?;
    PostgresBed::run(&mut transaction, "INSERT INTO child VALUES (1)").await?;
    let err = inbox.commit(&key("1"), transaction).await.expect_err("there is no parent");
    assert_eq!(err.kind(), InboxErrorKind::Rejected, "{err:?}");
    assert!(!is_duplicate(&inbox, &key("1")).await?);
    Ok(())
}

#[tokio::test]
async fn a_handler_that_ends_its_transaction_is_told() -> Result<()> {
    ends_its_transaction::<MySqlBed<false>>().await?;
    ends_its_transaction::<PostgresBed>().await
}

async fn ends_its_transaction<B: Bed>() -> Result<()> {
    let bed = B::start().await?;
    let inbox = bed.inbox().await?;
    let mut transaction = begin(&inbox, &key("1")).await?;
    B::run(&mut transaction, "ROLLBACK").await?;
    let err = inbox.commit(&key("1"), transaction).await.expect_err("there is nothing to commit");
    assert_eq!(err.kind(), InboxErrorKind::Rejected, "{err:?}");
    assert!(err.to_string().contains("leave the commit to the inbox"), "{err}");
    Ok(())
}

/// A deadlock rolls the whole transaction back; a handler that goes on would lose its record.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_swallowed_deadlock_is_told() -> Result<()> {
    deadlock::<MySqlBed<false>>().await?;
    deadlock::<MySqlBed<true>>().await
}

async fn deadlock<B: Bed + 'static>() -> Result<()> {
    let bed = B::start().await?;
    let inbox = bed.inbox().await?;
    bed.exec("CREATE TABLE t (id INT PRIMARY KEY, n INT); INSERT INTO t VALUES (1, 0), (2, 0)").await?;
    let (one, two) = (key("1"), key("2"));
    let mut first = begin(&inbox, &one).await?;
    let mut second = begin(&inbox, &two).await?;
    B::run(&mut first, "UPDATE t SET n = n + 1 WHERE id = 1").await?;
    B::run(&mut second, "UPDATE t SET n = n + 1 WHERE id = 2").await?;
    // Both swallow whatever comes.
    let crossed = tokio::join!(
        B::run(&mut first, "UPDATE t SET n = n + 1 WHERE id = 2"),
        B::run(&mut second, "UPDATE t SET n = n + 1 WHERE id = 1"),
    );
    assert!(crossed.0.is_err() != crossed.1.is_err(), "one is the victim: {crossed:?}");
    let (victim, winner) =
        if crossed.0.is_err() { ((one, first), (two, second)) } else { ((two, second), (one, first)) };
    inbox.commit(&winner.0, winner.1).await?;
    let err = inbox.commit(&victim.0, victim.1).await.expect_err("its record is gone");
    assert_eq!(err.kind(), InboxErrorKind::Rejected, "{err:?}");
    let again = eventually("the victim's message to be new", LIMIT, async || {
        Ok(match inbox.begin(&victim.0).await? {
            Begun::New(transaction) => Some(transaction),
            Begun::Duplicate => None,
        })
    })
    .await?;
    inbox.commit(&victim.0, again).await?;
    Ok(())
}
