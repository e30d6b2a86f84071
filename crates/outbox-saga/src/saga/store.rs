//! The tables, which are meant to be read.

use std::collections::HashMap;

use outbox_consumer::mysql::is_lost;
use sqlx::mysql::MySqlRow;
use sqlx::{Executor as _, MySql, MySqlPool, Row as _, Transaction};

use super::engine::{Instance, Note};
use super::error::SagaError;
use crate::together::{batches, places};

/// The statements that make the tables, and the view of what their `state` says of the steps, in the schema of the orchestrator's service.
//
// The steps are a view, since a row for each would be written with each transition, next to the state which says the same. Only ids have a binary collation, since only they can differ in case alone; sqlx 0.8 takes such columns for bytes.
pub const TABLES: [&str; 3] = [
    "CREATE TABLE IF NOT EXISTS saga_instances (
  id          VARCHAR(128) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY,
  name        VARCHAR(64)  CHARACTER SET ascii NOT NULL,
  version     INT UNSIGNED NOT NULL,
  status      VARCHAR(16)  CHARACTER SET ascii NOT NULL COMMENT 'running, compensating, stuck, completed, compensated, aborted',
  data        JSON         NOT NULL COMMENT 'what the saga knows',
  state       JSON         NOT NULL COMMENT 'its steps, and what the definition says of them',
  error       TEXT         CHARACTER SET utf8mb4 NULL COMMENT 'why it is compensated, or cannot go on',
  wake_at     DATETIME(6)  NULL COMMENT 'when something is to happen though no reply comes; UTC',
  request     JSON         NULL COMMENT 'of an operator; whoever sets it sets wake_at to now',
  traceparent VARCHAR(64)  CHARACTER SET ascii NULL,
  created_at  DATETIME(6)  NOT NULL,
  updated_at  DATETIME(6)  NOT NULL,
  KEY saga_instances_wake (wake_at),
  KEY saga_instances_status (status, updated_at)
) ENGINE=InnoDB",
    "CREATE TABLE IF NOT EXISTS saga_history (
  seq         BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
  saga_id     VARCHAR(128) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  at          DATETIME(6)  NOT NULL,
  step        VARCHAR(64)  CHARACTER SET ascii NULL COMMENT 'NULL: the saga as a whole',
  from_status VARCHAR(16)  CHARACTER SET ascii NOT NULL,
  to_status   VARCHAR(16)  CHARACTER SET ascii NOT NULL,
  cause       VARCHAR(32)  CHARACTER SET ascii NOT NULL,
  error       TEXT         CHARACTER SET utf8mb4 NULL,
  KEY saga_history_saga (saga_id, seq)
) ENGINE=InnoDB",
    "CREATE OR REPLACE VIEW saga_steps AS
SELECT i.id AS saga_id, s.place - 1 AS position, s.step, s.stage, s.pivot, s.status, s.attempts,
  TIMESTAMP'1970-01-01 00:00:00.000000' + INTERVAL s.due * 1000 MICROSECOND AS deadline, s.error,
  COALESCE((SELECT MAX(h.at) FROM saga_history AS h WHERE h.saga_id = i.id AND h.step = s.step), i.created_at) AS updated_at
FROM saga_instances AS i
JOIN JSON_TABLE(i.state, '$.steps[*]' COLUMNS (
  place    FOR ORDINALITY,
  step     VARCHAR(64)  CHARACTER SET ascii PATH '$.shape.name',
  stage    INT UNSIGNED PATH '$.shape.stage',
  pivot    BOOLEAN      PATH '$.shape.pivot',
  status   VARCHAR(16)  CHARACTER SET ascii PATH '$.status',
  attempts INT UNSIGNED PATH '$.attempts',
  due      BIGINT       PATH '$.due',
  error    TEXT         CHARACTER SET utf8mb4 PATH '$.error'
)) AS s",
];

/// Times go in and out as milliseconds since 1970, by the database's clock, so that no time zone plays a part.
const NOW: &str = "CAST(TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) DIV 1000 AS SIGNED)";
const AT: &str = "TIMESTAMP'1970-01-01 00:00:00.000000' + INTERVAL ? MICROSECOND";
/// How long an error may be in the tables, in characters: it is for people.
const ERROR_CHARS_MAX: usize = 2_000;

type Tx<'a> = Transaction<'a, MySql>;

/// A row of `saga_instances`, locked.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) version: u32,
    pub(super) data: String,
    pub(super) state: String,
    pub(super) request: Option<String>,
    pub(super) traceparent: Option<String>,
    /// The database's clock, in milliseconds since 1970.
    pub(super) now: u64,
}

impl Row {
    fn read(row: &MySqlRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            name: row.try_get(0)?,
            version: row.try_get(1)?,
            data: row.try_get(2)?,
            state: row.try_get(3)?,
            request: row.try_get(4)?,
            traceparent: row.try_get(5)?,
            now: u64::try_from(row.try_get::<i64, _>(6)?).unwrap_or_default(),
        })
    }
}

pub(super) async fn create(pool: &MySqlPool) -> Result<(), SagaError> {
    for table in TABLES {
        let made = sqlx::query(table).persistent(false).execute(pool).await;
        made.map_err(SagaError::database(format!(
            "a table of sagas is not there and cannot be made by\n{table}"
        )))?;
    }
    Ok(())
}

const COLUMNS: &str =
    "name, version, CAST(data AS CHAR), CAST(state AS CHAR), CAST(request AS CHAR), traceparent";

/// Makes sure that a transaction of somebody else's has not ended in the server, by a deadlock whose error was passed over, for instance: what
/// is written then would be committed at once. A savepoint is forgotten at once outside of a transaction.
pub(super) async fn verify(tx: &mut Tx<'_>) -> Result<(), SagaError> {
    let verified = (&mut **tx).execute("SAVEPOINT outbox_saga; RELEASE SAVEPOINT outbox_saga").await;
    verified.map(|_| ()).map_err(|error| {
        let what = if is_lost(&error) {
            "the transaction is over: an earlier statement met a deadlock, or ended it; roll back and begin anew"
        } else {
            "the transaction cannot be used"
        };
        SagaError::database(what)(error)
    })
}

/// Locks a saga's row.
pub(super) async fn lock(tx: &mut Tx<'_>, id: &str) -> Result<Option<Row>, sqlx::Error> {
    let statement = format!("SELECT {COLUMNS}, {NOW} FROM saga_instances WHERE id = ? FOR UPDATE");
    let row = sqlx::query(&statement).bind(id).fetch_optional(&mut **tx).await?;
    row.as_ref().map(Row::read).transpose()
}

/// Locks the rows of those of these sagas that are there and that nobody else has in hand, without waiting.
pub(super) async fn lock_free(tx: &mut Tx<'_>, ids: &[&str]) -> Result<HashMap<String, Row>, sqlx::Error> {
    // The index is named since the server would read, and lock, all of a small table for a long list.
    let mut rows = HashMap::new();
    for ids in batches(ids) {
        let places = places(ids.len(), "?");
        let statement = format!(
            "SELECT {COLUMNS}, {NOW}, CAST(id AS CHAR) FROM saga_instances FORCE INDEX (PRIMARY) WHERE id IN ({places}) \
             FOR UPDATE SKIP LOCKED"
        );
        let query = ids.iter().fold(sqlx::query(&statement), |query, id| query.bind(*id));
        for row in query.fetch_all(&mut **tx).await? {
            rows.insert(row.try_get(7)?, Row::read(&row)?);
        }
    }
    Ok(rows)
}

/// Locks the row of a saga that is due, unless another instance has it in hand.
pub(super) async fn lock_due(tx: &mut Tx<'_>, id: &str) -> Result<Option<Row>, sqlx::Error> {
    let statement = format!(
        "SELECT {COLUMNS}, {NOW} FROM saga_instances WHERE id = ? AND wake_at <= UTC_TIMESTAMP(6) \
         FOR UPDATE SKIP LOCKED"
    );
    let row = sqlx::query(&statement).bind(id).fetch_optional(&mut **tx).await?;
    row.as_ref().map(Row::read).transpose()
}

/// The ids of sagas that are due and of one of these names and versions, the longest due first. Reads without locks.
pub(super) async fn due(
    pool: &MySqlPool,
    known: &[(String, u32)],
    limit: u32,
) -> Result<Vec<String>, sqlx::Error> {
    let places = places(known.len(), "(?, ?)");
    let statement = format!(
        "SELECT CAST(id AS CHAR) FROM saga_instances WHERE wake_at <= UTC_TIMESTAMP(6) AND (name, version) IN ({places}) \
         ORDER BY wake_at LIMIT ?"
    );
    let mut query = sqlx::query_scalar(&statement);
    for (name, version) in known {
        query = query.bind(name).bind(version);
    }
    query.bind(limit).fetch_all(pool).await
}

/// How many sagas have not ended, by status.
pub(super) async fn open(pool: &MySqlPool) -> Result<Vec<(String, i64)>, sqlx::Error> {
    let statement = "SELECT status, COUNT(*) FROM saga_instances \
                     WHERE status IN ('running', 'compensating', 'stuck') GROUP BY status";
    sqlx::query_as(statement).fetch_all(pool).await
}

/// Sagas that have been due for a minute and are of none of these names and versions: name, version, and how many.
pub(super) async fn unattended(
    pool: &MySqlPool,
    known: &[(String, u32)],
) -> Result<Vec<(String, u32, i64)>, sqlx::Error> {
    let places = places(known.len(), "(?, ?)");
    let statement = format!(
        "SELECT name, version, COUNT(*) FROM saga_instances WHERE wake_at < UTC_TIMESTAMP(6) - INTERVAL 1 MINUTE \
         AND (name, version) NOT IN ({places}) GROUP BY name, version ORDER BY name, version"
    );
    let mut query = sqlx::query_as(&statement);
    for (name, version) in known {
        query = query.bind(name).bind(version);
    }
    query.fetch_all(pool).await
}

/// The database's clock, in milliseconds since 1970.
pub(super) async fn now(tx: &mut Tx<'_>) -> Result<u64, sqlx::Error> {
    let now: i64 = sqlx::query_scalar(&format!("SELECT {NOW}")).fetch_one(&mut **tx).await?;
    Ok(u64::try_from(now).unwrap_or_default())
}

/// What becomes of a saga's row.
#[derive(Debug)]
pub(super) struct Change<'a> {
    pub(super) id: &'a str,
    pub(super) name: &'a str,
    pub(super) version: u32,
    pub(super) after: &'a Instance,
    pub(super) state: String,
    pub(super) data: &'a str,
    /// Whether a request still waits: then the saga stays due.
    pub(super) request_waits: bool,
}

/// A line of the history.
#[derive(Debug)]
pub(super) struct HistoryRow<'a> {
    pub(super) saga: &'a str,
    pub(super) step: Option<&'a str>,
    pub(super) note: &'a Note,
}

/// Inserts a saga as it is after its first transition; gives whether there was none with this id.
pub(super) async fn insert(
    tx: &mut Tx<'_>,
    change: &Change<'_>,
    traceparent: Option<&str>,
) -> Result<bool, sqlx::Error> {
    let statement = format!(
        "INSERT INTO saga_instances (id, name, version, status, data, state, wake_at, traceparent, created_at, updated_at) \
         VALUES (?, ?, ?, ?, ?, ?, {AT}, ?, UTC_TIMESTAMP(6), UTC_TIMESTAMP(6))"
    );
    let inserted = sqlx::query(&statement)
        .bind(change.id)
        .bind(change.name)
        .bind(change.version)
        .bind(change.after.status.as_str())
        .bind(change.data)
        .bind(&change.state)
        .bind(microseconds(change.after.wake_at()))
        .bind(traceparent)
        .execute(&mut **tx)
        .await;
    match inserted {
        Ok(_) => Ok(true),
        Err(sqlx::Error::Database(error)) if error.is_unique_violation() => Ok(false),
        Err(error) => Err(error),
    }
}

/// Writes the rows of sagas that are locked. `VALUES` in it is what MySQL and MariaDB both understand.
pub(super) async fn update(tx: &mut Tx<'_>, changes: &[Change<'_>]) -> Result<(), sqlx::Error> {
    const UPDATE: &str = "status = VALUES(status), data = VALUES(data), state = VALUES(state), error = VALUES(error), \
                          updated_at = VALUES(updated_at)";
    const UPDATE_AND_WAKE: &str = "request = VALUES(request), wake_at = VALUES(wake_at)";
    let (waiting, free): (Vec<_>, Vec<_>) = changes.iter().partition(|change| change.request_waits);
    let place = format!("(?, ?, ?, ?, ?, ?, ?, {AT}, NULL, UTC_TIMESTAMP(6), UTC_TIMESTAMP(6))");
    for (changes, update) in [(free, format!("{UPDATE}, {UPDATE_AND_WAKE}")), (waiting, UPDATE.to_owned())] {
        for changes in batches(&changes) {
            let statement = format!(
                "INSERT INTO saga_instances (id, name, version, status, data, state, error, wake_at, request, created_at, \
                 updated_at) VALUES {} ON DUPLICATE KEY UPDATE {update}",
                places(changes.len(), &place)
            );
            let mut query = sqlx::query(&statement);
            for change in changes {
                query = query.bind(change.id).bind(change.name).bind(change.version);
                query = query.bind(change.after.status.as_str()).bind(change.data).bind(&change.state);
                query = query.bind(error_of(change.after)).bind(microseconds(change.after.wake_at()));
            }
            query.execute(&mut **tx).await?;
        }
    }
    Ok(())
}

/// Appends to the history.
pub(super) async fn write_history(tx: &mut Tx<'_>, lines: &[HistoryRow<'_>]) -> Result<(), sqlx::Error> {
    for lines in batches(lines) {
        let places = places(lines.len(), "(?, UTC_TIMESTAMP(6), ?, ?, ?, ?, ?)");
        let statement = format!(
            "INSERT INTO saga_history (saga_id, at, step, from_status, to_status, cause, error) VALUES {places}"
        );
        let mut query = sqlx::query(&statement);
        for HistoryRow { saga, step, note } in lines {
            query = query.bind(*saga).bind(*step).bind(note.from).bind(note.to).bind(note.cause.as_str());
            query = query.bind(note.error.as_deref().map(cut));
        }
        query.execute(&mut **tx).await?;
    }
    Ok(())
}

/// Sets a saga aside for a while that cannot go on, and says why.
pub(super) async fn put_off(pool: &MySqlPool, id: &str, error: &str) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE saga_instances SET error = ?, wake_at = UTC_TIMESTAMP(6) + INTERVAL 30 SECOND \
         WHERE id = ? AND wake_at <= UTC_TIMESTAMP(6)",
    )
    .bind(cut(error))
    .bind(id)
    .execute(pool)
    .await?;
    Ok(())
}

/// Leaves a request for whoever has the saga's definition; gives whether there is such a saga that has not ended.
pub(super) async fn leave_request(pool: &MySqlPool, id: &str, request: &str) -> Result<bool, sqlx::Error> {
    let left = sqlx::query(
        "UPDATE saga_instances SET request = ?, wake_at = UTC_TIMESTAMP(6) \
         WHERE id = ? AND status IN ('running', 'compensating', 'stuck')",
    )
    .bind(request)
    .bind(id)
    .execute(pool)
    .await?;
    Ok(left.rows_affected() == 1)
}

/// Why a saga is compensated, or what its stuck steps say.
fn error_of(instance: &Instance) -> Option<String> {
    let stuck = instance.steps.iter().filter(|step| step.status.as_str().ends_with("stuck"));
    let stuck =
        stuck.map(|step| format!("{}: {}", step.shape.name, step.error.as_deref().unwrap_or("stuck")));
    let parts: Vec<String> = instance.reason.clone().into_iter().chain(stuck).collect();
    (!parts.is_empty()).then(|| cut(&parts.join("; ")))
}

fn cut(text: &str) -> String {
    text.chars().take(ERROR_CHARS_MAX).collect()
}

fn microseconds(milliseconds: Option<u64>) -> Option<i64> {
    milliseconds.map(|at| i64::try_from(at.saturating_mul(1_000)).unwrap_or(i64::MAX))
}
