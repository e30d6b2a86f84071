//! The test kit itself: it lets good handlers pass and finds bad ones.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use outbox_consumer::{
    Context, HandlerError, Router, State, Tx, Unhandled,
    testkit::{Outcome, TestConsumer, TestEvent, check_repeated},
};
use serde_json::json;

use crate::support::TestInbox;

fn events() -> Vec<TestEvent> {
    (0..12).map(|n| TestEvent::new("placed", &json!({"n": n})).key(&format!("key {}", n % 3))).collect()
}

#[tokio::test]
async fn outcomes_are_told() {
    let handler = async |context: Context| match context.message_id() {
        "flaky" if context.attempt() < 3 => Err(HandlerError::transient("not yet")),
        "bad" => Err(HandlerError::permanent("never")),
        _ => Ok(()),
    };
    let consumer = TestConsumer::new(TestInbox::default(), Router::new().on("placed", handler));
    let event = |id: &str| TestEvent::new("placed", &json!({})).id(id);
    assert_eq!(consumer.deliver(&event("good")).await, Outcome::Handled { attempts: 1 });
    assert_eq!(consumer.deliver(&event("good")).await, Outcome::Duplicate);
    assert_eq!(consumer.deliver(&event("flaky")).await, Outcome::Handled { attempts: 3 });
    assert_eq!(consumer.deliver(&TestEvent::new("unknown", &())).await, Outcome::Ignored);
    let Outcome::DeadLetter { reason, attempts } = consumer.deliver(&event("bad")).await else {
        panic!("no dead letter")
    };
    assert_eq!((reason.as_str(), attempts.len()), ("never", 1));
    let strict = Router::<TestInbox>::new().on("placed", async || {}).unhandled(Unhandled::Fail);
    let consumer = TestConsumer::new(TestInbox::default(), strict);
    assert!(matches!(consumer.deliver(&TestEvent::new("unknown", &())).await, Outcome::Stopped(_)));
}

#[tokio::test]
async fn an_idempotent_handler_passes() {
    let handler = async |mut tx: Tx<TestInbox>, context: Context| {
        tokio::task::yield_now().await;
        tx.effect(context.message_id());
    };
    let events = events();
    let checked = check_repeated(&events, async || {
        let inbox = TestInbox::default();
        let consumer = TestConsumer::new(inbox.clone(), Router::new().on("placed", handler));
        (consumer, async move || {
            let mut effects = inbox.effects();
            effects.sort();
            effects
        })
    });
    checked.await.unwrap();
}

#[tokio::test]
async fn a_handler_with_effects_outside_of_its_transaction_is_found() {
    let handler = async |State(counter): State<Arc<AtomicU32>>| {
        counter.fetch_add(1, Ordering::SeqCst);
    };
    let events = events();
    let found = check_repeated(&events, async || {
        let counter = Arc::new(AtomicU32::new(0));
        let router = Router::new().on("placed", handler).with_state(Arc::clone(&counter));
        (TestConsumer::new(TestInbox::default(), router), async move || counter.load(Ordering::SeqCst))
    });
    let difference = found.await.unwrap_err();
    assert!(difference.once.contains("12"), "{difference}");
}

#[tokio::test]
async fn a_handler_that_hangs_on_order_is_found_unless_it_has_order() {
    async fn last_of_key(mut tx: Tx<TestInbox>, context: Context) {
        tokio::task::yield_now().await;
        tx.effect(format!("{}:{:08}", context.partition_key().unwrap_or_default(), context.sequence()));
    }
    let run = async |ordered: bool| {
        check_repeated(&events(), async || {
            let inbox = TestInbox::default();
            let mut consumer = TestConsumer::new(inbox.clone(), Router::new().on("placed", last_of_key));
            if ordered {
                consumer = consumer.ordered();
            }
            (consumer, async move || {
                let mut effects = inbox.effects();
                // The order within each key counts, that between keys does not.
                effects.sort_by_key(|effect| effect.split(':').next().unwrap_or_default().to_owned());
                effects
            })
        })
        .await
    };
    run(true).await.unwrap();
    run(false).await.unwrap_err();
}
