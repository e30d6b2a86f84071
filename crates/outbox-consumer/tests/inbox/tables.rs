//! Making, finding and refusing the table.

use anyhow::Result;
use outbox_consumer::inbox::{Inbox as _, InboxError, InboxErrorKind};
use tokio::task::JoinSet;

use crate::bed::Bed;
use crate::{begin, for_each_database, is_duplicate, key, refusal};

for_each_database!(
    a_missing_right_is_told_with_its_remedy,
    a_wrong_table_is_refused,
    the_table_may_have_any_name,
    services_that_start_together_make_one_table,
);

async fn refused<B: Bed>(inbox: &B::Inbox, expected: &[&str]) -> InboxError {
    let err = inbox.prepare().await.expect_err("refused");
    assert_eq!(err.kind(), InboxErrorKind::Unusable, "{err:?}");
    for part in expected {
        assert!(err.to_string().contains(part), "{part} is not in: {err}");
    }
    err
}

async fn a_missing_right_is_told_with_its_remedy<B: Bed>() -> Result<()> {
    let bed = B::start().await?;
    bed.create_user("service").await?;
    let inbox = bed.inbox_at("service", bed.port(), 1)?;
    if B::POSTGRES {
        bed.exec("REVOKE CREATE ON SCHEMA public FROM PUBLIC").await?;
    }
    let definition = B::definition(&inbox);
    refused::<B>(&inbox, &[&definition, "GRANT SELECT, INSERT, DELETE"]).await;
    let err = refusal(&inbox, &key("1")).await;
    assert_eq!(err.kind(), InboxErrorKind::Unusable, "{err:?}");
    // An administrator does as told.
    bed.exec(&definition).await?;
    let grantee = if B::POSTGRES { "service" } else { "'service'@'%'" };
    bed.exec(&format!("GRANT SELECT, INSERT ON outbox_inbox TO {grantee}")).await?;
    refused::<B>(&inbox, &["GRANT SELECT, INSERT, DELETE"]).await;
    bed.exec(&format!("GRANT SELECT, INSERT, DELETE ON outbox_inbox TO {grantee}")).await?;
    inbox.prepare().await?;
    let transaction = begin(&inbox, &key("1")).await?;
    inbox.commit(&key("1"), transaction).await?;
    assert!(is_duplicate(&inbox, &key("1")).await?);
    Ok(())
}

async fn a_wrong_table_is_refused<B: Bed>() -> Result<()> {
    let bed = B::start().await?;
    let inbox = bed.inbox().await?;
    let postgres = B::POSTGRES;
    let (bytes, time) = if postgres { ("bytea", "timestamptz") } else { ("VARBINARY(255)", "DATETIME(6)") };
    let key = "PRIMARY KEY (consumer, message_id)";
    let mut cases = vec![
        (
            "c1",
            format!("consumer {bytes} NOT NULL, handled_at {time} NOT NULL"),
            "",
            "no column `message_id`",
        ),
        (
            "c2",
            format!(
                "consumer {bytes} NOT NULL, message_id VARCHAR(255) NOT NULL, handled_at {time} NOT NULL, {key}"
            ),
            "",
            "no column `message_id` of type",
        ),
        (
            "c3",
            format!("consumer {bytes} NOT NULL, message_id {bytes} NOT NULL, handled_at {time} NOT NULL"),
            "",
            "no unique key over `consumer` and `message_id`",
        ),
        (
            "c4",
            format!(
                "consumer {bytes} NOT NULL, message_id {bytes} NOT NULL, handled_at {time} NOT NULL, {key}"
            ),
            "",
            "no index over `consumer` and `handled_at`",
        ),
        (
            "c5",
            format!(
                "consumer {bytes} NOT NULL, message_id {bytes} UNIQUE NOT NULL, handled_at {time} NOT NULL, {key}"
            ),
            "",
            "a unique key over [\"message_id\"]",
        ),
    ];
    let right =
        format!("consumer {bytes} NOT NULL, message_id {bytes} NOT NULL, handled_at {time} NOT NULL, {key}");
    if !postgres {
        cases.push(("c6", right.clone(), "ENGINE=MyISAM", "its engine is MyISAM"));
        cases.push((
            "c7",
            right.replace("(consumer, message_id)", "(consumer, message_id(20))"),
            "",
            "no unique key over `consumer` and `message_id`",
        ));
    }
    for (name, columns, engine, problem) in cases {
        bed.exec(&format!("CREATE TABLE {name} ({columns}) {engine}")).await?;
        refused::<B>(&B::with_table(inbox.clone(), name), &[problem, "CREATE TABLE IF NOT EXISTS"]).await;
    }
    if postgres {
        bed.exec("ALTER TABLE outbox_inbox SET UNLOGGED").await?;
        refused::<B>(&inbox, &["unlogged"]).await;
    }
    Ok(())
}

async fn the_table_may_have_any_name<B: Bed>() -> Result<()> {
    let bed = B::start().await?;
    let schema = "CREATE SCHEMA other";
    bed.exec(schema).await?;
    let inbox = bed.inbox_at("root", bed.port(), 4)?;
    for name in ["Ein`Name\"mit; Zeichen' --", "other.inbox", "select"] {
        let inbox = B::with_table(inbox.clone(), name);
        inbox.prepare().await?;
        inbox.prepare().await?;
        let transaction = begin(&inbox, &key("1")).await?;
        inbox.commit(&key("1"), transaction).await?;
        assert!(is_duplicate(&inbox, &key("1")).await?, "{name}");
        assert_eq!(inbox.clean_up("stock", std::time::Duration::ZERO, 10).await?, 1);
    }
    refused::<B>(&B::with_table(inbox.clone(), "nowhere.inbox"), &["nowhere"]).await;
    refused::<B>(&B::with_table(inbox, ""), &["cannot"]).await;
    Ok(())
}

async fn services_that_start_together_make_one_table<B: Bed + 'static>() -> Result<()> {
    let bed = B::start().await?;
    let mut tasks = JoinSet::new();
    for _ in 0..8 {
        let inbox = bed.inbox_at("root", bed.port(), 2)?;
        tasks.spawn(async move { inbox.prepare().await });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}
