//! The inbox in a key-value bucket.

use std::time::Duration;

use anyhow::Result;
use async_nats::jetstream;
use outbox_consumer::inbox::{Begun, Inbox as _, InboxErrorKind, KvInbox};
use testbed::{Nats, eventually};

use crate::{begin, is_duplicate, key, key_of, refusal};

const LIMIT: Duration = Duration::from_secs(20);
const DAY: Duration = Duration::from_secs(24 * 3600);

async fn inbox(server: &Nats, retention: Duration) -> Result<KvInbox> {
    let mut context = jetstream::new(server.client().await?);
    context.set_timeout(Duration::from_secs(2));
    Ok(KvInbox::new(context, "inbox", retention))
}

#[tokio::test]
async fn a_recorded_message_is_a_duplicate() -> Result<()> {
    for version in ["2.10", "2.12"] {
        let server = Nats::builder().version(version).start().await?;
        let inbox = inbox(&server, DAY).await?;
        inbox.prepare().await?;
        inbox.prepare().await?;
        let long = "é".repeat(127);
        let ids = ["a", "A", "a ", "a.b", "*", ">", "", "a\0", "$KV", "=", long.as_str()];
        for consumer in ["stock", "stock.", "*"] {
            for id in ids {
                let key = key_of(consumer, id);
                // Begun and given up.
                begin(&inbox, &key).await?;
                let transaction = begin(&inbox, &key).await?;
                inbox.commit(&key, transaction).await?;
                assert!(is_duplicate(&inbox, &key).await?, "{key:?}");
            }
        }
        // As documented: nothing waits, and both may record.
        let (one, two) = (begin(&inbox, &key("both")).await?, begin(&inbox, &key("both")).await?);
        inbox.commit(&key("both"), one).await?;
        inbox.commit(&key("both"), two).await?;
        assert!(is_duplicate(&inbox, &key("both")).await?);
        assert_eq!(inbox.clean_up("stock", Duration::ZERO, 100).await?, 0);
        let err = refusal(&inbox, &key(&"x".repeat(256))).await;
        assert_eq!(err.kind(), InboxErrorKind::Rejected);
    }
    Ok(())
}

#[tokio::test]
async fn records_end_with_their_time_or_by_hand() -> Result<()> {
    let server = Nats::builder().start().await?;
    let context = jetstream::new(server.client().await?);
    let inbox = inbox(&server, Duration::from_secs(1)).await?;
    inbox.prepare().await?;
    let transaction = begin(&inbox, &key("1")).await?;
    inbox.commit(&key("1"), transaction).await?;
    assert!(is_duplicate(&inbox, &key("1")).await?);
    eventually("the record to end", LIMIT, async || {
        Ok((!is_duplicate(&inbox, &key("1")).await?).then_some(()))
    })
    .await?;
    // Deleted or purged, to have the message handled again; and recorded again.
    let store = context.get_key_value("inbox").await?;
    for purge in [false, true] {
        let transaction = begin(&inbox, &key("2")).await?;
        inbox.commit(&key("2"), transaction).await?;
        if purge {
            store.purge("stock.2").await?;
        } else {
            store.delete("stock.2").await?;
        }
    }
    let Begun::New(transaction) = inbox.begin(&key("2")).await? else { panic!("it was purged") };
    inbox.commit(&key("2"), transaction).await?;
    assert!(is_duplicate(&inbox, &key("2")).await?);
    Ok(())
}

#[tokio::test]
async fn a_bucket_that_forgets_too_soon_is_refused() -> Result<()> {
    let server = Nats::builder().start().await?;
    inbox(&server, DAY).await?.prepare().await?;
    inbox(&server, DAY / 2).await?.prepare().await?;
    let err = inbox(&server, DAY * 2).await?.prepare().await.expect_err("a day is too short");
    assert_eq!(err.kind(), InboxErrorKind::Unusable);
    assert!(err.to_string().contains("raise the bucket's age limit"), "{err}");
    let legal = KvInbox::new(jetstream::new(server.client().await?), "no bucket", DAY);
    assert_eq!(legal.prepare().await.expect_err("an illegal name").kind(), InboxErrorKind::Unusable);
    Ok(())
}

#[tokio::test]
async fn records_survive_a_kill_and_a_server_that_is_away_is_unavailable() -> Result<()> {
    let mut server = Nats::builder().start().await?;
    let inbox = inbox(&server, DAY).await?;
    inbox.prepare().await?;
    let transaction = begin(&inbox, &key("1")).await?;
    inbox.commit(&key("1"), transaction).await?;
    let open = begin(&inbox, &key("2")).await?;
    server.kill().await?;
    let err = refusal(&inbox, &key("1")).await;
    assert_eq!(err.kind(), InboxErrorKind::Unavailable, "{err:?}");
    let err = inbox.commit(&key("2"), open).await.expect_err("it is away");
    assert_eq!(err.kind(), InboxErrorKind::Unavailable, "{err:?}");
    server.start().await?;
    eventually("the client to come back", LIMIT, async || match inbox.begin(&key("1")).await {
        Ok(begun) => {
            assert!(matches!(begun, Begun::Duplicate));
            Ok(Some(()))
        }
        Err(err) => {
            assert_eq!(err.kind(), InboxErrorKind::Unavailable, "{err:?}");
            Ok(None)
        }
    })
    .await?;
    // Without its bucket it is of no use.
    jetstream::new(server.client().await?).delete_key_value("inbox").await?;
    let err = refusal(&inbox, &key("1")).await;
    assert_eq!(err.kind(), InboxErrorKind::Unusable, "{err:?}");
    Ok(())
}
