//! Two calls of one branch at a time, in every way; then many.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use outbox_saga::barrier::{Barrier, BarrierError, BarrierErrorKind, BarrierKey, Entered, Operation};
use sqlx::{Pool, Transaction};
use testbed::eventually;

use crate::bed::{Bed, CONNECTIONS, Isolation};
use crate::for_each_database;
use crate::model::{self, Came, OPERATIONS};

for_each_database!(two_calls_of_one_branch, many_calls_of_few_branches);

/// What happened to the branch before: the calls, and the state that they leave.
const BEFORE: [(&[Operation], Option<&str>); 5] = [
    (&[], None),
    (&[Operation::Do], Some("done")),
    (&[Operation::Do, Operation::Confirm], Some("confirmed")),
    (&[Operation::Do, Operation::Undo], Some("undone")),
    (&[Operation::Undo], Some("barred")),
];
const LIMIT: Duration = Duration::from_secs(20);

type Open<B> = (Transaction<'static, <B as Bed>::Db>, Result<Entered, BarrierError>);

/// Begins a call and writes its effect if it is to run; the transaction stays open.
async fn begin<B: Bed>(
    pool: &Pool<B::Db>,
    barrier: &Barrier<B::Db>,
    key: &BarrierKey,
    operation: Operation,
) -> Result<Open<B>> {
    let mut tx = pool.begin().await?;
    let entered = barrier.enter(&mut tx, key, operation).await;
    if matches!(entered, Ok(Entered::First)) {
        B::effect(&mut tx, key, operation).await?;
    }
    Ok((tx, entered))
}

async fn end<B: Bed>((tx, entered): Open<B>, commit: bool) -> Result<()> {
    if commit && entered.is_ok() {
        tx.commit().await?
    } else {
        tx.rollback().await?
    }
    Ok(())
}

/// Every pair of calls after every history, with the first one committed or rolled back while the second one waits: what comes of
/// them is what comes of them one after the other, and none fails by a deadlock.
async fn two_calls_of_one_branch<B: Bed>() -> Result<()> {
    let (bed, _, barrier) = B::ready(Isolation::ReadCommitted).await?;
    let mut pairs = 0;
    for isolation in Isolation::BOTH {
        let pool = bed.pool("root", isolation);
        for (before, state) in BEFORE {
            for first in OPERATIONS {
                for second in OPERATIONS {
                    for commit in [true, false] {
                        let pair = (isolation, before, first, second, commit);
                        pairs += 1;
                        let key = BarrierKey { transaction: format!("{pairs}"), branch: "stock".to_owned() };
                        for &operation in before {
                            end::<B>(begin::<B>(&pool, &barrier, &key, operation).await?, true).await?;
                        }
                        two_calls::<B>(&pool, &barrier, &key, state, first, second, commit, isolation)
                            .await
                            .with_context(|| format!("{pair:?}"))?;
                    }
                }
            }
        }
    }
    ensure!(pairs == 180);
    Ok(())
}

#[expect(clippy::too_many_arguments, reason = "it is what makes one case")]
async fn two_calls<B: Bed>(
    pool: &Pool<B::Db>,
    barrier: &Barrier<B::Db>,
    key: &BarrierKey,
    state: Option<&'static str>,
    first: Operation,
    second: Operation,
    commit: bool,
    isolation: Isolation,
) -> Result<()> {
    let open = begin::<B>(pool, barrier, key, first).await?;
    let (after, came) = model::call(state, first);
    ensure!(Came::of(&open.1) == Some(came), "the first: {:?}", open.1);
    let after = if commit { after } else { state };

    let waiting = tokio::spawn({
        let (pool, barrier, key) = (pool.clone(), barrier.clone(), key.clone());
        async move { begin::<B>(&pool, &barrier, &key, second).await }
    });
    eventually("the second call to wait or to be through", LIMIT, async || {
        Ok((waiting.is_finished() || B::waiting(pool).await? > 0).then_some(()))
    })
    .await?;
    // A confirm of an unknown branch finds no row, so there is nothing to wait at.
    let passes =
        came == Came::Violation && state.is_none() || state.is_none() && second == Operation::Confirm;
    ensure!(passes || !waiting.is_finished(), "the second call did not wait: {:?}", waiting.await??.1);
    end::<B>(open, commit).await?;
    let mut open = waiting.await??;

    let (end_state, expected) = model::call(after, second);
    if B::WAITING_MAY_CONFLICT && isolation == Isolation::RepeatableRead {
        // Told to begin again, which it does.
        if let Err(err) = &open.1
            && err.kind() == BarrierErrorKind::Conflict
        {
            end::<B>(open, false).await?;
            open = begin::<B>(pool, barrier, key, second).await?;
        }
    }
    // Who looked while there was no row yet has seen none.
    let overtook =
        state.is_none() && second == Operation::Confirm && Came::of(&open.1) == Some(Came::Violation);
    ensure!(Came::of(&open.1) == Some(expected) || overtook, "the second: {:?}, not {expected:?}", open.1);
    end::<B>(open, true).await?;

    let found = B::state(pool, key).await?;
    let end_state = if overtook { after } else { end_state };
    ensure!(found.as_deref() == end_state, "the state is {found:?}, not {end_state:?}");
    Ok(())
}

/// Calls of everything at once, some rolled back: each effect at most once, and only such as belong together.
async fn many_calls_of_few_branches<B: Bed>() -> Result<()> {
    const BRANCHES: u64 = 24;
    const CALLS: u64 = 14;
    for isolation in Isolation::BOTH {
        let (_bed, pool, barrier) = B::ready(isolation).await?;
        let conflicts = Arc::new(AtomicU32::new(0));
        let keys: Vec<_> = (0..BRANCHES)
            .map(|branch| BarrierKey { transaction: format!("{branch}"), branch: "stock".to_owned() })
            .collect();
        for group in keys.chunks(2) {
            let mut calls = Vec::new();
            for (place, key) in group.iter().enumerate() {
                for call in 0..CALLS {
                    // Any mixture will do; this one has all pairs next to each other.
                    let chance = (call * 7 + place as u64 * 5) % 6;
                    let (pool, barrier, key) = (pool.clone(), barrier.clone(), key.clone());
                    let conflicts = Arc::clone(&conflicts);
                    calls.push(tokio::spawn(async move {
                        let operation = match chance % 3 {
                            0 => Operation::Do,
                            1 => Operation::Confirm,
                            _ => Operation::Undo,
                        };
                        loop {
                            let open = begin::<B>(&pool, &barrier, &key, operation).await?;
                            let lost =
                                open.1.as_ref().is_err_and(|err| err.kind() == BarrierErrorKind::Conflict);
                            ensure!(lost || Came::of(&open.1).is_some(), "{:?}", open.1);
                            end::<B>(open, call % 4 != 0).await?;
                            if !lost {
                                return Ok(());
                            }
                            conflicts.fetch_add(1, Ordering::Relaxed);
                        }
                    }));
                }
            }
            ensure!(calls.len() >= usize::try_from(CONNECTIONS)?);
            for call in calls {
                call.await??;
            }
        }
        for key in &keys {
            let effects = B::effects(&pool, key).await?;
            let state = B::state(&pool, key).await?;
            let expected: &[&str] = match state.as_deref() {
                Some("done") => &["do"],
                Some("confirmed") => &["do", "confirm"],
                Some("undone") => &["do", "undo"],
                _ => &[],
            };
            ensure!(effects == expected, "{key:?} is {state:?}, and what was done is {effects:?}");
        }
        println!("{isolation:?}: {} calls began again", conflicts.load(Ordering::Relaxed));
    }
    Ok(())
}
