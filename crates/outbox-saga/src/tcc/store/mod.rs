//! The coordinator's store in MySQL or MariaDB.
//!
//! Everything that is decided by time is decided by the database's clock. Each change is one short transaction that locks the
//! transaction's row first; none is open while a branch is called.

mod in_hand;
pub(crate) mod schema;
mod together;

use std::time::Duration;

use outbox_consumer::mysql::Transactions;
use serde_json::Value;
use sqlx::mysql::MySqlRow;
use sqlx::{MySql, MySqlPool, QueryBuilder, Row as _, Transaction};
use time::OffsetDateTime;

use self::together::{Usual, Written};
use super::error::{TccError, TccErrorKind};
use super::machine::{BranchStatus, Decision, Machine, Request};
use super::transaction::NewTransaction;
use crate::conflict::{BEGIN_CLAIM, number, unless_conflict};
use crate::together::{Together, batches, places};
pub(crate) use in_hand::{Branch, InHand};
use in_hand::{Change, shortened};
use schema::{branch_status_name, decision_name, ended, ending};

const DUPLICATE_KEY: u16 = 1062;
/// Why a transaction has ended.
const ALL_ANSWERED: &str = "every branch has answered";

/// Where texts of a collation by bytes are read, they are cast: sqlx takes them for binary.
type Tx = Transaction<'static, MySql>;

/// The decision that stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) decision: Decision,
    /// Not by another instance before.
    pub(crate) made_here: bool,
    /// Why it was decided to cancel.
    pub(crate) reason: Option<String>,
}

/// What the store knows of a transaction that it is asked for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Known {
    pub(crate) decision: Option<Decision>,
    pub(crate) complete: bool,
    pub(crate) reason: Option<String>,
}

/// How a transaction leaves the hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leave {
    Finished,
    /// To be taken up again after this time.
    After(Duration),
    Stuck,
}

#[derive(Debug, Clone)]
pub(crate) struct Store {
    transactions: Transactions,
    queue: Together<Usual, Written>,
}

impl Store {
    pub(crate) fn new(pool: MySqlPool) -> Self {
        Self { transactions: Transactions::new(pool), queue: Together::default() }
    }

    fn pool(&self) -> &MySqlPool {
        self.transactions.pool()
    }

    pub(crate) async fn prepare(&self) -> Result<(), TccError> {
        if self.probe().await.is_ok() {
            return Ok(());
        }
        let mut made = Ok(());
        for definition in schema::DEFINITIONS {
            let done = sqlx::query(definition).persistent(false).execute(self.pool()).await;
            made = made.and(done.map(|_| ()));
        }
        self.probe().await.map_err(|err| {
            let message = format!(
                "cannot use the coordinator's tables: an administrator is to run\n{};\nand to `GRANT SELECT, INSERT, UPDATE, \
                 DELETE` on them to the service's user",
                schema::DEFINITIONS.join(";\n")
            );
            TccError::store(message, made.err().unwrap_or(err))
        })
    }

    async fn probe(&self) -> Result<(), sqlx::Error> {
        let mut tx = self.transactions.begin().await?;
        for statement in schema::PROBES {
            sqlx::query(statement).execute(&mut *tx).await?;
        }
        tx.rollback().await
    }

    /// Stores a new transaction with its branches; tells whether it is new.
    pub(crate) async fn insert(&self, new: &NewTransaction, limit: Duration) -> Result<bool, TccError> {
        match self.together(Usual::Begin(new.clone(), limit)).await {
            Written::Yes => return Ok(true),
            Written::Apart => {}
            Written::Unknown(why) => {
                let message = format!("transaction `{}` may not have been stored: {why}", new.id);
                return Err(TccError::new(TccErrorKind::Unavailable, message));
            }
        }
        match unless_conflict!(self.try_insert(new, limit)) {
            Ok(()) => Ok(true),
            Err(err) if number(&err) == Some(DUPLICATE_KEY) => Ok(false),
            Err(err) => Err(TccError::store(format!("cannot store transaction `{}`", new.id), err)),
        }
    }

    async fn try_insert(&self, new: &NewTransaction, limit: Duration) -> Result<(), sqlx::Error> {
        let mut tx = self.transactions.begin().await?;
        insert_transactions(&mut tx, &[(new, limit)]).await?;
        insert_branches(&mut tx, &[(new, limit)]).await?;
        write_history(&mut tx, &[(&new.id, Change::begun())]).await?;
        self.transactions.commit(tx).await
    }

    /// Stores a decision before anybody hears of it, with what the tries have come to, and gives the decision that stands then: the
    /// one that was stored before, if there was one; `Cancel` if the deadline has passed.
    pub(crate) async fn decide(
        &self,
        hand: &InHand,
        proposed: Decision,
        lease: Duration,
    ) -> Result<Standing, TccError> {
        // After a lost connection as well: it finds what was stored.
        if proposed == Decision::Confirm
            && self.together(Usual::Confirm(hand.clone(), lease)).await == Written::Yes
        {
            return Ok(Standing { decision: proposed, made_here: true, reason: None });
        }
        unless_conflict!(self.try_decide(hand, proposed, lease))
            .map_err(|err| TccError::store(format!("cannot store the decision about `{}`", hand.id), err))
    }

    async fn try_decide(
        &self,
        hand: &InHand,
        proposed: Decision,
        lease: Duration,
    ) -> Result<Standing, sqlx::Error> {
        // The row is locked by the first update, so the others decide about what it has left.
        const LATE: &str = "its tries took longer than its limit";
        let mut tx = self.transactions.begin().await?;
        let mut standing = None;
        let proposals: &[_] = match proposed {
            Decision::Confirm => &[(Decision::Confirm, None), (Decision::Cancel, Some(LATE))],
            Decision::Cancel => &[(Decision::Cancel, hand.reason.as_deref())],
        };
        for &(decision, error) in proposals {
            if set_decision(&mut tx, &hand.id, decision, error, lease).await? {
                let changes = hand.changes(Some(("trying", ending(decision), "decided", error)));
                write_branches(&mut tx, hand).await?;
                write_history(&mut tx, &lines(&hand.id, changes)).await?;
                standing = Some(Standing { decision, made_here: true, reason: error.map(str::to_owned) });
                break;
            }
        }
        let standing = match standing {
            Some(standing) => standing,
            None => stored_decision(&mut tx, &hand.id).await?,
        };
        self.transactions.commit(tx).await?;
        Ok(standing)
    }

    /// Stores what the calls have come to, and lets go of the transaction. Tells whether that was still to be stored: another
    /// instance may have ended it meanwhile.
    pub(crate) async fn leave(&self, hand: &InHand, leave: Leave) -> Result<bool, TccError> {
        if (leave, hand.machine.decision()) == (Leave::Finished, Some(Decision::Confirm))
            && self.together(Usual::End(hand.clone())).await == Written::Yes
        {
            return Ok(true);
        }
        unless_conflict!(self.try_leave(hand, leave))
            .map_err(|err| TccError::store(format!("cannot store the end of `{}`", hand.id), err))
    }

    async fn try_leave(&self, hand: &InHand, leave: Leave) -> Result<bool, sqlx::Error> {
        const UPDATE: &str = "UPDATE tcc_transactions SET status = ?, attempts = ?, \
             next_attempt_at = IF(request IS NULL, UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND, UTC_TIMESTAMP(6)), \
             error = COALESCE(?, error), updated_at = UTC_TIMESTAMP(6) \
             WHERE id = ? AND status IN ('confirming', 'cancelling')";
        let Some(decision) = hand.machine.decision() else { return Ok(false) };
        let (status, delay, cause) = match leave {
            Leave::Finished => (ended(decision), None, ALL_ANSWERED),
            Leave::After(delay) => (ending(decision), Some(micros(delay)), ""),
            Leave::Stuck => ("stuck", None, "all attempts are used up"),
        };
        let open = hand.open_errors();
        let error = if leave == Leave::Finished { None } else { open.as_deref() };
        let mut tx = self.transactions.begin().await?;
        let updated = sqlx::query(UPDATE)
            .bind(status)
            .bind(hand.machine.attempts())
            .bind(delay)
            .bind(if leave == Leave::Stuck { error } else { None })
            .bind(&hand.id)
            .execute(&mut *tx)
            .await?;
        if updated.rows_affected() == 0 {
            tx.rollback().await?;
            return Ok(false);
        }
        let own = (status != ending(decision)).then_some((ending(decision), status, cause, error));
        write_branches(&mut tx, hand).await?;
        write_history(&mut tx, &lines(&hand.id, hand.changes(own))).await?;
        self.transactions.commit(tx).await?;
        Ok(true)
    }

    /// Takes up at most `limit` transactions that nobody has in hand. Until the lease ends, no other instance takes them up.
    pub(crate) async fn claim(&self, limit: u32, lease: Duration) -> Result<Vec<InHand>, TccError> {
        let failed = |err| TccError::store("cannot look for transactions to take up", err);
        let ids = unless_conflict!(self.try_claim(limit, lease)).map_err(failed)?;
        let mut claimed = Vec::new();
        for id in ids {
            claimed.extend(self.load(&id).await.map_err(failed)?);
        }
        Ok(claimed)
    }

    async fn try_claim(&self, limit: u32, lease: Duration) -> Result<Vec<String>, sqlx::Error> {
        const DUE: &str = "SELECT CAST(id AS CHAR) FROM tcc_transactions WHERE next_attempt_at <= UTC_TIMESTAMP(6) \
             ORDER BY next_attempt_at LIMIT ? FOR UPDATE SKIP LOCKED";
        let mut tx = self.pool().begin_with(BEGIN_CLAIM).await?;
        let ids: Vec<String> = sqlx::query_scalar(DUE).bind(limit).fetch_all(&mut *tx).await?;
        if !ids.is_empty() {
            let mut update = QueryBuilder::<MySql>::new(
                "UPDATE tcc_transactions SET next_attempt_at = UTC_TIMESTAMP(6) + INTERVAL ",
            );
            update.push_bind(micros(lease)).push(" MICROSECOND WHERE id IN (");
            let mut places = update.separated(", ");
            for id in &ids {
                places.push_bind(id);
            }
            // Not kept prepared, since the number of places varies.
            update.push(")").build().persistent(false).execute(&mut *tx).await?;
        }
        tx.commit().await?;
        Ok(ids)
    }

    async fn load(&self, id: &str) -> Result<Option<InHand>, sqlx::Error> {
        const TRANSACTION: &str = "SELECT CAST(name AS CHAR), decision, \
             TIMESTAMPDIFF(MICROSECOND, '1970-01-01', deadline), traceparent, attempts, error, CAST(request AS CHAR) FROM tcc_transactions WHERE id = ?";
        const BRANCHES: &str = "SELECT CAST(branch AS CHAR), CAST(endpoint AS CHAR), CAST(payload AS CHAR), status FROM tcc_branches \
             WHERE transaction_id = ? ORDER BY position";
        let Some(row) = sqlx::query(TRANSACTION).bind(id).fetch_optional(self.pool()).await? else {
            return Ok(None);
        };
        let rows = sqlx::query(BRANCHES).bind(id).fetch_all(self.pool()).await?;
        let branches = rows.iter().map(branch).collect::<Result<Vec<_>, _>>()?;
        let decision: Option<&str> = row.try_get(1)?;
        let decision = decision.map(|name| known(schema::decision(name), name)).transpose()?;
        let statuses = branches.iter().map(|branch| branch.stored).collect();
        let request: Option<String> = row.try_get(6)?;
        Ok(Some(InHand {
            id: id.to_owned(),
            name: row.try_get(0)?,
            deadline: OffsetDateTime::UNIX_EPOCH + time::Duration::microseconds(row.try_get(2)?),
            traceparent: row.try_get(3)?,
            machine: Machine::load(decision, statuses, row.try_get(4)?),
            branches,
            reason: row.try_get(5)?,
            // What cannot be read is answered as one that cannot be done.
            request: request
                .map(|json| serde_json::from_str(&json).unwrap_or(Request::Skip { branch: String::new() })),
        }))
    }

    /// Takes an operator's request off the transaction, with what it has changed. Tells whether the transaction is to be carried on.
    pub(crate) async fn answer_request(
        &self,
        hand: &InHand,
        refusal: Option<&str>,
    ) -> Result<bool, TccError> {
        unless_conflict!(self.try_answer_request(hand, refusal)).map_err(|err| {
            TccError::store(format!("cannot store the answer to a request about `{}`", hand.id), err)
        })
    }

    async fn try_answer_request(&self, hand: &InHand, refusal: Option<&str>) -> Result<bool, sqlx::Error> {
        const STATUS: &str = "SELECT status FROM tcc_transactions WHERE id = ? FOR UPDATE";
        const UPDATE: &str = "UPDATE tcc_transactions SET request = NULL, status = ?, attempts = ?, \
             next_attempt_at = IF(?, NULL, next_attempt_at), updated_at = UTC_TIMESTAMP(6) WHERE id = ?";
        let mut tx = self.transactions.begin().await?;
        let status: String = sqlx::query_scalar(STATUS).bind(&hand.id).fetch_one(&mut *tx).await?;
        let next = match (hand.machine.decision(), refusal, status.as_str()) {
            (_, _, "confirmed" | "cancelled" | "trying") | (_, Some(_), _) | (None, _, _) => status.as_str(),
            (Some(decision), None, _) => ending(decision),
        };
        let rests = matches!(next, "confirmed" | "cancelled" | "stuck");
        sqlx::query(UPDATE)
            .bind(next)
            .bind(hand.machine.attempts())
            .bind(rests)
            .bind(&hand.id)
            .execute(&mut *tx)
            .await?;
        let asked = hand.request.as_ref().and_then(|request| serde_json::to_string(request).ok());
        let cause = format!("an operator asked for {}", asked.unwrap_or_default());
        let changes = if refusal.is_some() || rests {
            let refusal = refusal.unwrap_or("it has ended");
            vec![Change::of_transaction(Some(&status), next, &cause, Some(refusal))]
        } else {
            hand.changes(Some((&status, next, &cause, None)))
        };
        write_branches(&mut tx, hand).await?;
        write_history(&mut tx, &lines(&hand.id, changes)).await?;
        self.transactions.commit(tx).await?;
        // What is still being tried goes on with whoever tries it.
        let with_others = refusal.is_some() && next == "trying";
        Ok(!rests && !with_others)
    }

    /// What is known of a transaction, if it is there.
    pub(crate) async fn known(&self, id: &str) -> Result<Option<Known>, TccError> {
        const SELECT: &str = "SELECT decision, status, error FROM tcc_transactions WHERE id = ?";
        let look = async {
            let row = sqlx::query(SELECT).bind(id).fetch_optional(self.pool()).await?;
            row.map(|row: MySqlRow| {
                let decision: Option<&str> = row.try_get(0)?;
                Ok(Known {
                    decision: decision.map(|name| known(schema::decision(name), name)).transpose()?,
                    complete: matches!(row.try_get(1)?, "confirmed" | "cancelled"),
                    reason: row.try_get(2)?,
                })
            })
            .transpose()
        };
        look.await.map_err(|err| TccError::store(format!("cannot look for transaction `{id}`"), err))
    }

    /// Whether the stored branches are these.
    pub(crate) async fn is_same(&self, new: &NewTransaction) -> Result<bool, TccError> {
        let stored = self.load(&new.id).await;
        let stored = stored
            .map_err(|err| TccError::store(format!("cannot look for transaction `{}`", new.id), err))?;
        Ok(stored.is_some_and(|stored| {
            let names = |branch: &Branch| (branch.name.clone(), branch.endpoint.clone());
            let asked = new.branches.iter().map(|branch| (branch.name.clone(), branch.endpoint.clone()));
            stored.branches.iter().map(names).eq(asked)
        }))
    }

    pub(crate) async fn request(&self, id: &str, request: &Request) -> Result<(), TccError> {
        const UPDATE: &str = "UPDATE tcc_transactions SET request = ?, next_attempt_at = UTC_TIMESTAMP(6) \
             WHERE id = ? AND status NOT IN ('confirmed', 'cancelled')";
        let json = serde_json::to_string(request).unwrap_or_default();
        let done = sqlx::query(UPDATE).bind(json).bind(id).execute(self.pool()).await;
        let done =
            done.map_err(|err| TccError::store(format!("cannot store a request about `{id}`"), err))?;
        if done.rows_affected() == 0 {
            let message = format!("there is no transaction `{id}` that has not ended");
            return Err(TccError::new(TccErrorKind::NoSuchTransaction, message));
        }
        Ok(())
    }

    pub(crate) async fn count_stuck(&self) -> Result<i64, TccError> {
        let count = sqlx::query_scalar("SELECT COUNT(*) FROM tcc_transactions WHERE status = 'stuck'");
        count
            .fetch_one(self.pool())
            .await
            .map_err(|err| TccError::store("cannot count stuck transactions", err))
    }

    /// Removes at most `limit` transactions that ended longer ago than `age`, with their branches and history.
    pub(crate) async fn clean_up(&self, age: Duration, limit: u32) -> Result<u64, TccError> {
        let removed = unless_conflict!(self.try_clean_up(age, limit));
        removed.map_err(|err| TccError::store("cannot remove old transactions", err))
    }

    async fn try_clean_up(&self, age: Duration, limit: u32) -> Result<u64, sqlx::Error> {
        const OLD: &str = "SELECT CAST(id AS CHAR) FROM tcc_transactions WHERE status = ? \
             AND updated_at < UTC_TIMESTAMP(6) - INTERVAL ? MICROSECOND ORDER BY updated_at LIMIT ? \
             FOR UPDATE SKIP LOCKED";
        let mut removed = 0;
        for status in [ended(Decision::Confirm), ended(Decision::Cancel)] {
            let mut tx = self.pool().begin_with(BEGIN_CLAIM).await?;
            let old = sqlx::query_scalar(OLD).bind(status).bind(micros(age)).bind(limit);
            let ids: Vec<String> = old.fetch_all(&mut *tx).await?;
            for (table, column) in [
                (schema::HISTORY, "transaction_id"),
                (schema::BRANCHES, "transaction_id"),
                (schema::TRANSACTIONS, "id"),
            ] {
                for id in &ids {
                    let delete = format!("DELETE FROM {table} WHERE {column} = ?");
                    sqlx::query(&delete).bind(id).execute(&mut *tx).await?;
                }
            }
            tx.commit().await?;
            removed += ids.len() as u64;
        }
        Ok(removed)
    }
}

/// Sets a decision if there is none; to confirm only before the deadline.
async fn set_decision(
    tx: &mut Tx,
    id: &str,
    decision: Decision,
    error: Option<&str>,
    lease: Duration,
) -> Result<bool, sqlx::Error> {
    const UPDATE: &str = "UPDATE tcc_transactions SET status = ?, decision = ?, error = ?, attempts = 0, \
         next_attempt_at = UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND, updated_at = UTC_TIMESTAMP(6) \
         WHERE id = ? AND decision IS NULL";
    let in_time = match decision {
        Decision::Confirm => " AND deadline > UTC_TIMESTAMP(6)",
        Decision::Cancel => "",
    };
    let updated = sqlx::query(&format!("{UPDATE}{in_time}"))
        .bind(ending(decision))
        .bind(decision_name(decision))
        .bind(error.map(shortened))
        .bind(micros(lease))
        .bind(id)
        .execute(&mut **tx)
        .await?;
    Ok(updated.rows_affected() == 1)
}

async fn stored_decision(tx: &mut Tx, id: &str) -> Result<Standing, sqlx::Error> {
    const SELECT: &str = "SELECT decision, error FROM tcc_transactions WHERE id = ? FOR UPDATE";
    let row = sqlx::query(SELECT).bind(id).fetch_one(&mut **tx).await?;
    let name = row.try_get::<Option<&str>, _>(0)?.unwrap_or_default();
    let decision = known(schema::decision(name), name)?;
    Ok(Standing { decision, made_here: false, reason: row.try_get(1)? })
}

async fn write_branches(tx: &mut Tx, hand: &InHand) -> Result<(), sqlx::Error> {
    const UPDATE: &str = "UPDATE tcc_branches SET status = ?, attempts = attempts + ?, error = COALESCE(?, error), \
         updated_at = UTC_TIMESTAMP(6) WHERE transaction_id = ? AND position IN (";
    // What another instance has seen end has ended.
    const OPEN: &str = ") AND status NOT IN ('confirmed', 'cancelled', 'skipped')";
    let moved: Vec<_> = hand.moved().collect();
    // Most often all branches have moved alike.
    let alike = |(_, one, status): &(u16, &Branch, BranchStatus),
                 (_, other, next): &(u16, &Branch, BranchStatus)| {
        (status, one.failed, &one.error) == (next, other.failed, &other.error)
    };
    for group in moved.chunk_by(alike) {
        let Some((_, branch, status)) = group.first() else { continue };
        let statement = format!("{UPDATE}{}{OPEN}", vec!["?"; group.len()].join(", "));
        let mut update = sqlx::query(&statement)
            .bind(branch_status_name(*status))
            .bind(branch.failed)
            .bind(branch.error.as_deref().map(shortened))
            .bind(&hand.id);
        for (position, ..) in group {
            update = update.bind(position);
        }
        update.execute(&mut **tx).await?;
    }
    Ok(())
}

fn lines<'a>(id: &'a str, changes: Vec<Change<'a>>) -> Vec<(&'a str, Change<'a>)> {
    changes.into_iter().map(|change| (id, change)).collect()
}

/// Appends to the history: lines with the ids of their transactions.
async fn write_history(tx: &mut Tx, lines: &[(&str, Change<'_>)]) -> Result<(), sqlx::Error> {
    for lines in batches(lines) {
        let statement = format!(
            "INSERT INTO tcc_history (transaction_id, branch, at, from_status, to_status, cause, error) VALUES {}",
            places(lines.len(), "(?, ?, UTC_TIMESTAMP(6), ?, ?, ?, ?)")
        );
        let mut query = sqlx::query(&statement);
        for (id, change) in lines {
            query = query.bind(*id).bind(change.branch).bind(change.from).bind(change.to);
            query = query.bind(change.cause.chars().take(255).collect::<String>());
            query = query.bind(change.error.map(shortened));
        }
        query.execute(&mut **tx).await?;
    }
    Ok(())
}

/// Inserts transactions, each with how long its tries may take. Nobody takes one up before its deadline.
async fn insert_transactions(tx: &mut Tx, new: &[(&NewTransaction, Duration)]) -> Result<(), sqlx::Error> {
    const PLACE: &str = "(?, ?, 'trying', UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND, \
         UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND, ?, UTC_TIMESTAMP(6), UTC_TIMESTAMP(6))";
    for new in batches(new) {
        let statement = format!(
            "INSERT INTO tcc_transactions (id, name, status, deadline, next_attempt_at, traceparent, created_at, updated_at) \
             VALUES {}",
            places(new.len(), PLACE)
        );
        let mut query = sqlx::query(&statement);
        for (new, limit) in new {
            query = query.bind(&new.id).bind(&new.name).bind(micros(*limit)).bind(micros(*limit));
            query = query.bind(&new.traceparent);
        }
        query.execute(&mut **tx).await?;
    }
    Ok(())
}

async fn insert_branches(tx: &mut Tx, new: &[(&NewTransaction, Duration)]) -> Result<(), sqlx::Error> {
    let branches = |new: &'_ NewTransaction| (0u16..).zip(new.branches.clone()).collect::<Vec<_>>();
    let rows: Vec<_> = new
        .iter()
        .flat_map(|(new, _)| branches(new).into_iter().map(|(position, branch)| (&new.id, position, branch)))
        .collect();
    for rows in batches(&rows) {
        let statement = format!(
            "INSERT INTO tcc_branches (transaction_id, position, branch, endpoint, payload, status, updated_at) VALUES {}",
            places(rows.len(), "(?, ?, ?, ?, ?, 'registered', UTC_TIMESTAMP(6))")
        );
        let mut query = sqlx::query(&statement);
        for (id, position, branch) in rows {
            let payload = branch.payload.as_ref().map_or_else(|_| "null".to_owned(), Value::to_string);
            query = query.bind(*id).bind(position).bind(&branch.name).bind(&branch.endpoint).bind(payload);
        }
        query.execute(&mut **tx).await?;
    }
    Ok(())
}

fn branch(row: &MySqlRow) -> Result<Branch, sqlx::Error> {
    let payload: String = row.try_get(2)?;
    let status: &str = row.try_get(3)?;
    Ok(Branch {
        name: row.try_get(0)?,
        endpoint: row.try_get(1)?,
        payload: serde_json::from_str(&payload).map_err(|err| sqlx::Error::Decode(Box::new(err)))?,
        stored: known(schema::branch_status(status), status)?,
        failed: 0,
        error: None,
    })
}

/// What a name in a table stands for.
fn known<T>(found: Option<T>, name: &str) -> Result<T, sqlx::Error> {
    found.ok_or_else(|| {
        sqlx::Error::Decode(format!("the coordinator's tables hold the unknown word {name:?}").into())
    })
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
