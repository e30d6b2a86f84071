//! What transactions usually come to, written for many of them at a time: begun, decided to be confirmed, ended.
//!
//! Only the usual case is here. Whatever else is found or goes wrong leaves a change to the transaction of its own that it would have
//! had: nothing is decided here that is not decided there.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use sqlx::{MySql, QueryBuilder, Row as _};

use super::in_hand::{Change, InHand};
use super::schema::{branch_status_name, decision_name, ended, ending};
use super::{Store, Tx, insert_branches, insert_transactions, micros, write_history};
use crate::tcc::machine::Decision;
use crate::tcc::transaction::NewTransaction;
use crate::together::{batches, places};

/// What is to be written of one transaction.
#[derive(Debug)]
pub(crate) enum Usual {
    Begin(NewTransaction, Duration),
    /// With how long it is in hand then.
    Confirm(InHand, Duration),
    /// Of a transaction that is confirmed by all.
    End(InHand),
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Written {
    Yes,
    /// Nothing was written of it: it is to be done by itself.
    Apart,
    /// The connection was lost in the commit, before it or after it.
    Unknown(String),
}

impl InHand {
    /// Whether all that is to be stored of its branches are accepted calls.
    fn is_usual(&self) -> bool {
        self.moved().all(|(_, branch, _)| branch.failed == 0 && branch.error.is_none())
    }
}

impl Store {
    /// Writes a change together with others, if it is a usual one.
    pub(super) async fn together(&self, change: Usual) -> Written {
        match &change {
            Usual::Confirm(hand, _) | Usual::End(hand) if !hand.is_usual() => return Written::Apart,
            _ => {}
        }
        let store = self.clone();
        let cut_off = || Written::Unknown("the runtime has ended".to_owned());
        self.queue.ask(change, || store.write_groups()).await.unwrap_or_else(cut_off)
    }

    async fn write_groups(self) {
        while let Some((changes, answers)) = self.queue.next() {
            let written = match self.write_group(&changes).await {
                Ok(written) => written,
                // It may be the fault of one of them, or that of a connection that had waited and died.
                Err(_) => vec![Written::Apart; changes.len()],
            };
            for (answer, written) in answers.into_iter().zip(written) {
                // The coordinator waits to the end.
                answer.send(written).ok();
            }
        }
    }

    async fn write_group(&self, changes: &[Usual]) -> Result<Vec<Written>, sqlx::Error> {
        let mut tx = self.transactions.begin().await?;
        let begun: Vec<_> = changes.iter().filter_map(Usual::begun).collect();
        insert_transactions(&mut tx, &begun).await?;
        insert_branches(&mut tx, &begun).await?;
        let rows = lock_free(&mut tx, changes).await?;
        let stands: Vec<bool> = changes.iter().map(|change| change.stands(&rows)).collect();
        let standing: Vec<_> =
            changes.iter().zip(&stands).filter_map(|(change, stands)| stands.then_some(change)).collect();
        confirm(&mut tx, &standing).await?;
        end(&mut tx, &standing).await?;
        move_branches(&mut tx, &standing).await?;
        let history: Vec<_> = standing.iter().flat_map(|change| change.history()).collect();
        write_history(&mut tx, &history).await?;
        match self.transactions.commit(tx).await {
            Ok(()) => {}
            Err(error @ sqlx::Error::Database(_)) => return Err(error),
            Err(error) => return Ok(vec![Written::Unknown(error.to_string()); changes.len()]),
        }
        Ok(stands.into_iter().map(|stands| if stands { Written::Yes } else { Written::Apart }).collect())
    }
}

/// What a row says of a transaction.
struct Found {
    decided: bool,
    in_time: bool,
    status: String,
}

/// The rows that are there and that nobody else has in hand, locked without waiting.
async fn lock_free(tx: &mut Tx, changes: &[Usual]) -> Result<HashMap<String, Found>, sqlx::Error> {
    let ids: Vec<&str> = changes.iter().filter_map(|change| Some(change.hand()?.id.as_str())).collect();
    let mut found = HashMap::new();
    for ids in batches(&ids) {
        let statement = format!(
            "SELECT CAST(id AS CHAR), decision IS NOT NULL, deadline > UTC_TIMESTAMP(6), CAST(status AS CHAR) \
             FROM tcc_transactions FORCE INDEX (PRIMARY) WHERE id IN ({}) FOR UPDATE SKIP LOCKED",
            places(ids.len(), "?")
        );
        let query = ids.iter().fold(sqlx::query(&statement), |query, id| query.bind(*id));
        for row in query.fetch_all(&mut **tx).await? {
            let (decided, in_time, status) = (row.try_get(1)?, row.try_get(2)?, row.try_get(3)?);
            found.insert(row.try_get(0)?, Found { decided, in_time, status });
        }
    }
    Ok(found)
}

impl Usual {
    fn begun(&self) -> Option<(&NewTransaction, Duration)> {
        match self {
            Self::Begin(new, limit) => Some((new, *limit)),
            Self::Confirm(..) | Self::End(_) => None,
        }
    }

    fn hand(&self) -> Option<&InHand> {
        match self {
            Self::Begin(..) => None,
            Self::Confirm(hand, _) | Self::End(hand) => Some(hand),
        }
    }

    /// Whether the rows let it be written.
    fn stands(&self, rows: &HashMap<String, Found>) -> bool {
        match self {
            Self::Begin(..) => true,
            Self::Confirm(hand, _) => rows.get(&hand.id).is_some_and(|row| !row.decided && row.in_time),
            Self::End(hand) => rows.get(&hand.id).is_some_and(|row| row.status == ending(Decision::Confirm)),
        }
    }

    fn history(&self) -> Vec<(&str, Change<'_>)> {
        const CONFIRM: Decision = Decision::Confirm;
        match self {
            Self::Begin(new, _) => vec![(new.id.as_str(), Change::begun())],
            Self::Confirm(hand, _) => of(hand, ("trying", ending(CONFIRM), "decided", None)),
            Self::End(hand) => of(hand, (ending(CONFIRM), ended(CONFIRM), super::ALL_ANSWERED, None)),
        }
    }
}

fn of<'a>(hand: &'a InHand, own: (&'a str, &'a str, &'a str, Option<&'a str>)) -> Vec<(&'a str, Change<'a>)> {
    hand.changes(Some(own)).into_iter().map(|change| (hand.id.as_str(), change)).collect()
}

/// Stores the decision to confirm. The rows are locked, and decide nothing else yet.
async fn confirm(tx: &mut Tx, changes: &[&Usual]) -> Result<(), sqlx::Error> {
    let confirmed: Vec<_> = changes
        .iter()
        .filter_map(|change| match change {
            Usual::Confirm(hand, lease) => Some((hand.id.as_str(), *lease)),
            _ => None,
        })
        .collect();
    for confirmed in confirmed.chunk_by(|(_, one), (_, other)| one == other) {
        let Some((_, lease)) = confirmed.first() else { continue };
        for confirmed in batches(confirmed) {
            let statement = format!(
                "UPDATE tcc_transactions SET status = ?, decision = ?, error = NULL, attempts = 0, \
                 next_attempt_at = UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND, updated_at = UTC_TIMESTAMP(6) \
                 WHERE id IN ({})",
                places(confirmed.len(), "?")
            );
            let query = sqlx::query(&statement)
                .bind(ending(Decision::Confirm))
                .bind(decision_name(Decision::Confirm))
                .bind(micros(*lease));
            let query = confirmed.iter().fold(query, |query, (id, _)| query.bind(*id));
            query.execute(&mut **tx).await?;
        }
    }
    Ok(())
}

/// Stores that transactions have ended. What an operator asks for is still answered, which needs a row that is due.
async fn end(tx: &mut Tx, changes: &[&Usual]) -> Result<(), sqlx::Error> {
    let mut by_attempts: BTreeMap<u32, Vec<&str>> = BTreeMap::new();
    for change in changes {
        if let Usual::End(hand) = change {
            by_attempts.entry(hand.machine.attempts()).or_default().push(&hand.id);
        }
    }
    for (attempts, ids) in by_attempts {
        for ids in batches(&ids) {
            let statement = format!(
                "UPDATE tcc_transactions SET status = ?, attempts = ?, \
                 next_attempt_at = IF(request IS NULL, NULL, UTC_TIMESTAMP(6)), updated_at = UTC_TIMESTAMP(6) \
                 WHERE id IN ({})",
                places(ids.len(), "?")
            );
            let query = sqlx::query(&statement).bind(ended(Decision::Confirm)).bind(attempts);
            ids.iter().fold(query, |query, id| query.bind(*id)).execute(&mut **tx).await?;
        }
    }
    Ok(())
}

/// Stores what branches have answered.
async fn move_branches(tx: &mut Tx, changes: &[&Usual]) -> Result<(), sqlx::Error> {
    let mut by_status: BTreeMap<&str, Vec<(&str, Vec<u16>)>> = BTreeMap::new();
    for hand in changes.iter().filter_map(|change| change.hand()) {
        let mut moved: BTreeMap<&str, Vec<u16>> = BTreeMap::new();
        for (position, _, status) in hand.moved() {
            moved.entry(branch_status_name(status)).or_default().push(position);
        }
        for (status, positions) in moved {
            by_status.entry(status).or_default().push((&hand.id, positions));
        }
    }
    for (status, of_hands) in by_status {
        for of_hands in batches(&of_hands) {
            let mut update = QueryBuilder::<MySql>::new("UPDATE tcc_branches SET status = ");
            update.push_bind(status).push(", updated_at = UTC_TIMESTAMP(6) WHERE (");
            // Each by itself, so that every server looks up single rows and locks no gap.
            let mut any = update.separated(" OR ");
            for (id, positions) in of_hands {
                any.push("(transaction_id = ")
                    .push_bind_unseparated(*id)
                    .push_unseparated(" AND position IN (");
                for (place, position) in positions.iter().enumerate() {
                    if place > 0 {
                        any.push_unseparated(", ");
                    }
                    any.push_bind_unseparated(*position);
                }
                any.push_unseparated("))");
            }
            update.push(") AND status NOT IN ('confirmed', 'cancelled', 'skipped')");
            update.build().execute(&mut **tx).await?;
        }
    }
    Ok(())
}
