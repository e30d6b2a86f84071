//! The inbox in memory.

use std::time::Duration;

use anyhow::Result;
use outbox_consumer::inbox::{Begun, Inbox as _, InboxErrorKind, MemoryInbox};
use testbed::eventually;
use tokio::time::timeout;

use crate::{begin, is_duplicate, key, key_of, refusal};

#[tokio::test]
async fn a_waiting_duplicate_learns_how_the_first_ended() -> Result<()> {
    let inbox = MemoryInbox::new();
    inbox.prepare().await?;
    for commit in [false, true] {
        let transaction = begin(&inbox, &key("1")).await?;
        let key_1 = key("1");
        let mut waiting = std::pin::pin!(is_duplicate(&inbox, &key_1));
        assert!(timeout(Duration::ZERO, waiting.as_mut()).await.is_err(), "it waits");
        if commit {
            inbox.commit(&key("1"), transaction).await?;
        } else {
            drop(transaction);
        }
        assert_eq!(waiting.await?, commit);
    }
    Ok(())
}

#[tokio::test]
async fn what_was_dropped_takes_no_memory() -> Result<()> {
    let inbox = MemoryInbox::new();
    let transaction = begin(&inbox, &key("1")).await?;
    assert!(timeout(Duration::from_millis(10), inbox.begin(&key("1"))).await.is_err(), "cancelled");
    assert_eq!(inbox.len(), 1);
    drop(transaction);
    assert!(inbox.is_empty());
    let Begun::New(_) = inbox.begin(&key("1")).await? else { panic!("it is new") };
    assert_eq!(refusal(&inbox, &key(&"x".repeat(256))).await.kind(), InboxErrorKind::Rejected);
    Ok(())
}

#[tokio::test]
async fn clean_up_removes_old_records_of_one_consumer() -> Result<()> {
    let inbox = MemoryInbox::new();
    for (consumer, id) in [("stock", "1"), ("stock", "2"), ("mail", "1")] {
        let key = key_of(consumer, id);
        let transaction = begin(&inbox, &key).await?;
        inbox.commit(&key, transaction).await?;
    }
    let _open = begin(&inbox, &key("open")).await?;
    assert_eq!(inbox.clean_up("stock", Duration::from_secs(3600), 10).await?, 0);
    eventually("a record to be older than nothing", Duration::from_secs(5), async || {
        Ok((inbox.clean_up("stock", Duration::ZERO, 1).await? == 1).then_some(()))
    })
    .await?;
    assert_eq!(inbox.clean_up("stock", Duration::ZERO, 10).await?, 1);
    assert!(is_duplicate(&inbox, &key_of("mail", "1")).await?);
    assert_eq!(inbox.len(), 2);
    Ok(())
}
