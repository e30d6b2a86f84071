//! Coordinators, participants and servers that die in the midst of it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::Result;
use outbox_saga::tcc::http::{self, HttpEndpoint};
use outbox_saga::tcc::nats::{NatsEndpoint, serve};
use outbox_saga::tcc::{Limits, Operation, Outcome, TccErrorKind};
use testbed::Port;
use tokio_util::sync::CancellationToken;

use crate::bed::{AMOUNT, Bed, LIMIT, Switched, limits, transaction};

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// A coordinator dies while it waits for an answer, and another one ends what it has left, at each operation.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_instance_ends_what_a_dead_one_has_left() -> Result<()> {
    let bed = Bed::start().await?;
    let survivor = bed.coordinator().await?;
    for (operation, cents, ends) in [
        (Operation::Try, 1, "cancelled"),
        (Operation::Confirm, 1, "confirmed"),
        (Operation::Cancel, AMOUNT + 1, "cancelled"),
    ] {
        bed.stock_switch.hang_at(operation);
        bed.stock_switch.hanging.store(false, Ordering::SeqCst);
        // A runtime of its own, which takes its tasks along.
        let dying = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let id = operation.name();
        let builder = bed.builder().await?;
        dying.spawn(async move {
            let coordinator = builder.build().await?;
            let new = transaction(id, 1, cents).try_limit(Duration::from_secs(2)).traceparent(TRACE);
            coordinator.execute(new).await?;
            anyhow::Ok(())
        });
        testbed::eventually("the call to hang", LIMIT, async || {
            Ok(bed.stock_switch.hanging.load(Ordering::SeqCst).then_some(()))
        })
        .await?;
        dying.shutdown_background();
        bed.stock_switch.hangs.store(0, Ordering::SeqCst);

        let stop = CancellationToken::new();
        let running = tokio::spawn({
            let (survivor, stop) = (survivor.clone(), stop.clone());
            async move { survivor.run(stop).await }
        });
        bed.until(id, ends).await?;
        stop.cancel();
        running.await?;
        let trace = bed.stock_switch.trace.lock().map(|trace| trace.clone());
        assert_eq!(trace.ok().flatten().as_deref(), Some(TRACE), "the survivor's calls belong to it too");
    }
    assert_eq!(bed.amounts().await?, [(AMOUNT - 1, 0, 1), (AMOUNT - 1, 0, 1)]);
    let reason: String = sqlx::query_scalar("SELECT error FROM tcc_transactions WHERE id = 'try'")
        .fetch_one(&bed.pool)
        .await?;
    assert_eq!(reason, "its instance has not decided in time");
    Ok(())
}

/// Nobody is there at HTTP and at NATS, and a participant's database is dead, when a transaction begins; all come back before its deadline.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_try_waits_for_its_participant_to_come_back() -> Result<()> {
    let mut bed = Bed::start().await?;
    let port = Port::reserve()?;
    let inner = HttpEndpoint::new(&format!("http://{}/tcc", port.address()))?;
    let stock = Switched { inner, switch: Arc::clone(&bed.stock_switch) };
    let inner = NatsEndpoint::new(bed.nats.client().await?, "tcc.late");
    let money = Switched { inner, switch: Arc::clone(&bed.money_switch) };
    let builder = bed.builder().await?.endpoint("inventory", stock).endpoint("payment", money);
    let coordinator = builder.build().await?;
    let (stock, money) = (bed.stock_service().await?, bed.money_service().await?);
    bed.postgres.kill().await?;
    let placing = tokio::spawn({
        let coordinator = coordinator.clone();
        async move { coordinator.execute(transaction("a", 1, 1).try_limit(LIMIT)).await }
    });
    let tries = async |bed: &Bed, of: u64| {
        testbed::eventually("repeated tries", LIMIT, async || {
            let switches = [&bed.stock_switch, &bed.money_switch];
            Ok(switches.iter().all(|switch| switch.tries.load(Ordering::SeqCst) >= of).then_some(()))
        })
        .await
    };
    tries(&bed, 3).await?;
    // First the processes, then the database.
    let listener = tokio::net::TcpListener::bind(port.address()).await?;
    tokio::spawn(async move { axum::serve(listener, http::router("/tcc", stock)).await });
    let stop = CancellationToken::new();
    tokio::spawn(serve(bed.nats.client().await?, "tcc.late", "money", money, stop.clone()));
    let before = bed.money_switch.tries.load(Ordering::SeqCst);
    testbed::eventually("a try without its database", LIMIT, async || {
        Ok((bed.money_switch.tries.load(Ordering::SeqCst) > before + 1).then_some(()))
    })
    .await?;
    bed.postgres.start().await?;
    let outcome = placing.await??;
    assert!(matches!(outcome, Outcome::Confirmed { complete: true, .. }), "{outcome:?}");
    assert_eq!(bed.amounts().await?, [(AMOUNT - 1, 0, 1), (AMOUNT - 1, 0, 1)], "once each");
    let failed: Vec<u32> =
        sqlx::query_scalar("SELECT attempts FROM tcc_branches").fetch_all(&bed.pool).await?;
    assert!(failed.iter().all(|failed| *failed >= 3), "{failed:?} failed calls are told");
    stop.cancel();
    Ok(())
}

/// With one attempt, and where it does not come back, it is cancelled.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_try_without_its_participant_is_given_up() -> Result<()> {
    let bed = Bed::start().await?;
    let nobody = NatsEndpoint::new(bed.nats.client().await?, "tcc.nobody");
    let money = Switched { inner: nobody, switch: Arc::clone(&bed.money_switch) };
    let builder = bed.builder().await?.endpoint("payment", money);
    let once = Limits { try_attempts_max: 1, try_limit: LIMIT, ..limits() };
    let hasty = builder.limits(once).build().await?;
    let begun = Instant::now();
    let outcome = hasty.execute(transaction("hasty", 1, 1)).await?;
    assert!(!outcome.is_confirmed() && begun.elapsed() < LIMIT, "{outcome:?}");
    assert_eq!(bed.money_switch.tries.swap(0, Ordering::SeqCst), 1);

    let nobody = NatsEndpoint::new(bed.nats.client().await?, "tcc.nobody");
    let money = Switched { inner: nobody, switch: Arc::clone(&bed.money_switch) };
    let patient = bed.builder().await?.endpoint("payment", money).build().await?;
    let (begun, limit) = (Instant::now(), Duration::from_secs(2));
    let placing = patient.execute(transaction("patient", 1, 1).try_limit(limit));
    let outcome = tokio::time::timeout(LIMIT, placing).await??;
    let Outcome::Cancelled { reason, .. } = &outcome else { panic!("{outcome:?}") };
    assert!(reason.contains("the try of `money` failed: no reply from `tcc.nobody`"), "{reason}");
    assert!(bed.money_switch.tries.load(Ordering::SeqCst) > 2 && begun.elapsed() > limit / 4);
    // The other branch had reserved, once, and has given it back.
    assert_eq!(bed.stock_switch.tries.load(Ordering::SeqCst), 2);
    testbed::eventually("the stock to be free", LIMIT, async || {
        Ok((bed.amounts().await?[0] == (AMOUNT, 0, 0)).then_some(()))
    })
    .await
}

/// A participant's database dies after the decision.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_confirm_waits_for_its_participant() -> Result<()> {
    let mut bed = Bed::start().await?;
    let coordinator = bed.coordinator().await?;
    bed.money_switch.away.store(true, Ordering::SeqCst);
    let outcome = coordinator.execute(transaction("a", 1, 1)).await?;
    assert!(matches!(outcome, Outcome::Confirmed { complete: false, .. }), "{outcome:?}");
    bed.postgres.kill().await?;
    bed.money_switch.away.store(false, Ordering::SeqCst);
    let stop = CancellationToken::new();
    let running = tokio::spawn({
        let (coordinator, stop) = (coordinator.clone(), stop.clone());
        async move { coordinator.run(stop).await }
    });
    testbed::eventually("some confirms to fail", LIMIT, async || {
        let query = "SELECT attempts FROM tcc_branches WHERE branch = 'money'";
        let attempts: u32 = sqlx::query_scalar(query).fetch_one(&bed.pool).await?;
        Ok((attempts >= 3).then_some(()))
    })
    .await?;
    assert_eq!(bed.status("a").await?, "confirming");
    bed.postgres.start().await?;
    bed.until("a", "confirmed").await?;
    stop.cancel();
    running.await?;
    assert_eq!(bed.amounts().await?, [(AMOUNT - 1, 0, 1), (AMOUNT - 1, 0, 1)]);
    Ok(())
}

/// The coordinator's own database dies, and with it that of the stock.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_away_is_told_and_waited_for() -> Result<()> {
    let mut bed = Bed::start().await?;
    let coordinator = bed.coordinator().await?;
    coordinator.execute(transaction("before", 1, 1)).await?;
    bed.mysql.kill().await?;
    let err = coordinator.execute(transaction("while", 1, 1)).await.expect_err("no store");
    assert_eq!(err.kind(), TccErrorKind::Unavailable, "{err}");
    let stop = CancellationToken::new();
    let running = tokio::spawn({
        let (coordinator, stop) = (coordinator.clone(), stop.clone());
        async move { coordinator.run(stop).await }
    });
    bed.mysql.start().await?;
    let outcome = testbed::eventually("a transaction to be carried out", LIMIT, async || {
        Ok(coordinator.execute(transaction("while", 1, 1)).await.ok())
    })
    .await?;
    assert!(outcome.is_confirmed());
    stop.cancel();
    running.await?;
    assert_eq!(bed.amounts().await?, [(AMOUNT - 2, 0, 2), (AMOUNT - 2, 0, 2)]);
    Ok(())
}
