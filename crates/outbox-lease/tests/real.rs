//! Leases on a real nats-server.

use std::time::Duration;

use anyhow::{Result, ensure};
use async_nats::jetstream::{self, kv};
use outbox_lease::{Candidate, Holder};
use testbed::{Nats, eventually};
use tokio::time::{Instant, timeout};

const TTL: Duration = Duration::from_secs(2);
/// A candidate looks ten times within a lease's life.
const SLACK: Duration = Duration::from_millis(1_500);

async fn bucket(nats: &Nats) -> Result<kv::Store> {
    let config = kv::Config { bucket: "LEASES".into(), history: 4, ..Default::default() };
    Ok(jetstream::new(nats.client().await?).create_key_value(config).await?)
}

/// As if on a host of its own, so that nobody is anybody's predecessor.
fn holder(name: &str) -> Holder {
    Holder { instance: name.into(), host: format!("host of {name}"), process: 1 }
}

async fn candidate(nats: &Nats, name: &str) -> Result<Candidate> {
    let store = jetstream::new(nats.client().await?).get_key_value("LEASES").await?;
    Ok(Candidate::new(store, "work", holder(name), TTL)?)
}

#[tokio::test]
async fn one_holds_it_and_the_next_follows_a_release_at_once() -> Result<()> {
    for version in [None, Some("2.10")] {
        let mut builder = Nats::builder();
        if let Some(version) = version {
            builder = builder.version(version);
        }
        let nats = builder.start().await?;
        bucket(&nats).await?;
        let lease = candidate(&nats, "a").await?.acquire().await;
        let mut b = candidate(&nats, "b").await?;
        let seen = b.holder();
        ensure!(timeout(TTL * 2, b.acquire()).await.is_err(), "it is renewed, so nobody else gets it");
        ensure!(seen.borrow().as_ref().is_some_and(|record| record.holder == holder("a")));
        ensure!(!lease.is_lost());
        let begin = Instant::now();
        let (lease, ()) = tokio::join!(b.acquire(), lease.release());
        ensure!(begin.elapsed() < SLACK, "after {:?}", begin.elapsed());
        ensure!(!lease.is_lost());
    }
    Ok(())
}

#[tokio::test]
async fn a_dead_holder_is_followed_after_its_lifetime() -> Result<()> {
    let nats = Nats::builder().start().await?;
    bucket(&nats).await?;
    let lease = candidate(&nats, "a").await?.acquire().await;
    let mut b = candidate(&nats, "b").await?;
    ensure!(b.try_acquire().await?.is_none());
    // As a process that is killed: nothing is given back.
    drop(lease);
    let begin = Instant::now();
    let _lease = b.acquire().await;
    let after = begin.elapsed();
    ensure!(after + TTL / 3 >= TTL && after < TTL + SLACK, "after {after:?}");
    Ok(())
}

#[tokio::test]
async fn a_process_does_not_wait_for_its_predecessor() -> Result<()> {
    let nats = Nats::builder().start().await?;
    let store = bucket(&nats).await?;
    let this = |instance: &str| Candidate::new(store.clone(), "work", Holder::this_process(instance), TTL);
    drop(this("first run")?.acquire().await);
    let begin = Instant::now();
    let lease = this("second run")?.acquire().await;
    ensure!(begin.elapsed() < SLACK, "after {:?}", begin.elapsed());
    ensure!(!lease.is_lost());
    Ok(())
}

#[tokio::test]
async fn a_holder_that_cannot_renew_gives_up_before_another_may_have_it() -> Result<()> {
    let nats = Nats::builder().start().await?;
    bucket(&nats).await?;
    let lease = candidate(&nats, "a").await?.acquire().await;
    nats.pause()?;
    let begin = Instant::now();
    timeout(TTL * 2, lease.lost()).await?;
    ensure!(begin.elapsed() < TTL, "after {:?}", begin.elapsed());
    nats.resume()?;
    let _next = timeout(TTL * 3, candidate(&nats, "b").await?.acquire()).await?;
    Ok(())
}

#[tokio::test]
async fn a_restarted_server_and_a_deleted_record_do_not_end_it() -> Result<()> {
    let mut nats = Nats::builder().start().await?;
    let store = bucket(&nats).await?;
    let lease = candidate(&nats, "a").await?.acquire().await;
    store.delete("work").await?;
    eventually("the record to be written anew", TTL * 2, async || Ok(store.get("work").await?.map(drop)))
        .await?;
    ensure!(!lease.is_lost());
    nats.kill().await?;
    nats.start().await?;
    ensure!(timeout(TTL * 2, candidate(&nats, "b").await?.acquire()).await.is_err());
    ensure!(!lease.is_lost());
    Ok(())
}

#[tokio::test]
async fn who_finds_another_holder_steps_down() -> Result<()> {
    let nats = Nats::builder().start().await?;
    let store = bucket(&nats).await?;
    let lease = candidate(&nats, "a").await?.acquire().await;
    store.put("work", r#"{"version": 7}"#.into()).await?;
    timeout(TTL, lease.lost()).await?;
    // What a later version wrote is left alone for as long as it changes.
    let mut b = candidate(&nats, "b").await?;
    ensure!(b.try_acquire().await?.is_none());
    Ok(())
}

#[tokio::test]
async fn of_many_exactly_one_has_it() -> Result<()> {
    let nats = Nats::builder().start().await?;
    bucket(&nats).await?;
    let mut candidates = Vec::new();
    for number in 0..8 {
        candidates.push(candidate(&nats, &format!("c{number}")).await?);
    }
    let tasks: Vec<_> = candidates
        .into_iter()
        .map(|mut candidate| tokio::spawn(async move { candidate.try_acquire().await }))
        .collect();
    let mut leases = Vec::new();
    for task in tasks {
        leases.extend(task.await??);
    }
    ensure!(leases.len() == 1, "{} have it", leases.len());
    Ok(())
}
