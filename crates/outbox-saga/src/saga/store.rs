//! The tables, which are meant to be read.

use outbox_consumer::inbox::MySqlInbox;
use sqlx::mysql::MySqlRow;
use sqlx::{MySql, MySqlPool, Row as _, Transaction};

use super::engine::{Instance, Note, Step};
use super::error::SagaError;

/// The statements that make the tables, in the schema of the orchestrator's service.
//
// Only ids have a binary collation, since only they can differ in case alone; sqlx 0.8 takes such columns for bytes.
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
    "CREATE TABLE IF NOT EXISTS saga_steps (
  saga_id    VARCHAR(128) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  position   INT UNSIGNED NOT NULL,
  step       VARCHAR(64)  CHARACTER SET ascii NOT NULL,
  stage      INT UNSIGNED NOT NULL COMMENT 'steps of one stage run in parallel',
  pivot      BOOLEAN      NOT NULL,
  status     VARCHAR(16)  CHARACTER SET ascii NOT NULL,
  attempts   INT UNSIGNED NOT NULL COMMENT 'of its present command',
  deadline   DATETIME(6)  NULL COMMENT 'when its command is sent again or given up; UTC',
  error      TEXT         CHARACTER SET utf8mb4 NULL COMMENT 'what went wrong last',
  updated_at DATETIME(6)  NOT NULL,
  PRIMARY KEY (saga_id, position)
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

/// The inbox's transactions are of this kind, too.
pub(super) type Inbox = MySqlInbox;

const COLUMNS: &str =
    "name, version, CAST(data AS CHAR), CAST(state AS CHAR), CAST(request AS CHAR), traceparent";

/// Locks a saga's row.
pub(super) async fn lock(tx: &mut Tx<'_>, id: &str) -> Result<Option<Row>, sqlx::Error> {
    let statement = format!("SELECT {COLUMNS}, {NOW} FROM saga_instances WHERE id = ? FOR UPDATE");
    let row = sqlx::query(&statement).bind(id).fetch_optional(&mut **tx).await?;
    row.as_ref().map(Row::read).transpose()
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
    let places = vec!["(?, ?)"; known.len()].join(", ");
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
    let places = vec!["(?, ?)"; known.len()].join(", ");
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

/// What is written of a transition.
#[derive(Debug)]
pub(super) struct Change<'a> {
    pub(super) id: &'a str,
    pub(super) before: &'a Instance,
    pub(super) after: &'a Instance,
    pub(super) state: &'a str,
    pub(super) data: &'a str,
    /// Whether a request still waits: then the saga stays due.
    pub(super) request_waits: bool,
}

/// Inserts a saga as it is after its first transition; gives whether there was none with this id.
pub(super) async fn insert(
    tx: &mut Tx<'_>,
    (name, version): (&str, u32),
    change: &Change<'_>,
    traceparent: Option<&str>,
) -> Result<bool, sqlx::Error> {
    let Change { id, after, .. } = change;
    let statement = format!(
        "INSERT INTO saga_instances (id, name, version, status, data, state, wake_at, traceparent, created_at, updated_at) \
         VALUES (?, ?, ?, ?, ?, ?, {AT}, ?, UTC_TIMESTAMP(6), UTC_TIMESTAMP(6))"
    );
    let inserted = sqlx::query(&statement)
        .bind(*id)
        .bind(name)
        .bind(version)
        .bind(after.status.as_str())
        .bind(change.data)
        .bind(change.state)
        .bind(microseconds(after.wake_at()))
        .bind(traceparent)
        .execute(&mut **tx)
        .await;
    match inserted {
        Ok(_) => {}
        Err(sqlx::Error::Database(error)) if error.is_unique_violation() => return Ok(false),
        Err(error) => return Err(error),
    }
    write_steps(tx, id, (0u32..).zip(&after.steps)).await?;
    Ok(true)
}

/// Brings a saga's row and its steps from before to after.
pub(super) async fn update(tx: &mut Tx<'_>, change: &Change<'_>) -> Result<(), sqlx::Error> {
    let Change { id, before, after, state, data, request_waits } = change;
    let kept = if *request_waits {
        "wake_at = wake_at".to_owned()
    } else {
        format!("request = NULL, wake_at = {AT}")
    };
    let statement = format!(
        "UPDATE saga_instances SET status = ?, data = ?, state = ?, error = ?, updated_at = UTC_TIMESTAMP(6), {kept} \
         WHERE id = ?"
    );
    let mut query =
        sqlx::query(&statement).bind(after.status.as_str()).bind(*data).bind(*state).bind(error_of(after));
    if !request_waits {
        query = query.bind(microseconds(after.wake_at()));
    }
    query.bind(*id).execute(&mut **tx).await?;
    let pairs = before.steps.iter().zip(&after.steps);
    let changed = (0u32..).zip(pairs).filter(|(_, (before, after))| before != after);
    write_steps(tx, id, changed.map(|(position, (_, after))| (position, after))).await
}

/// Writes steps as they are, in one statement. `VALUES` in it is what MySQL and MariaDB both understand.
async fn write_steps(
    tx: &mut Tx<'_>,
    id: &str,
    steps: impl Iterator<Item = (u32, &Step)>,
) -> Result<(), sqlx::Error> {
    let steps: Vec<_> = steps.collect();
    if steps.is_empty() {
        return Ok(());
    }
    let place = format!("(?, ?, ?, ?, ?, ?, ?, {AT}, ?, UTC_TIMESTAMP(6))");
    let statement = format!(
        "INSERT INTO saga_steps (saga_id, position, step, stage, pivot, status, attempts, deadline, error, updated_at) \
         VALUES {} ON DUPLICATE KEY UPDATE status = VALUES(status), attempts = VALUES(attempts), \
         deadline = VALUES(deadline), error = VALUES(error), updated_at = VALUES(updated_at)",
        vec![place; steps.len()].join(", ")
    );
    let mut query = sqlx::query(&statement);
    for (position, step) in steps {
        let shape = &step.shape;
        query = query.bind(id).bind(position).bind(&shape.name).bind(shape.stage).bind(shape.pivot);
        query = query.bind(step.status.as_str()).bind(step.attempts).bind(microseconds(step.due));
        query = query.bind(step.error.as_deref().map(cut));
    }
    query.execute(&mut **tx).await?;
    Ok(())
}

/// Appends to a saga's history.
pub(super) async fn write_history(
    tx: &mut Tx<'_>,
    id: &str,
    instance: &Instance,
    notes: &[Note],
) -> Result<(), sqlx::Error> {
    if notes.is_empty() {
        return Ok(());
    }
    let places = vec!["(?, UTC_TIMESTAMP(6), ?, ?, ?, ?, ?)"; notes.len()].join(", ");
    let statement = format!(
        "INSERT INTO saga_history (saga_id, at, step, from_status, to_status, cause, error) VALUES {places}"
    );
    let mut query = sqlx::query(&statement);
    for note in notes {
        let step = note.step.and_then(|step| instance.steps.get(step)).map(|step| step.shape.name.as_str());
        query = query.bind(id).bind(step).bind(note.from).bind(note.to).bind(note.cause.as_str());
        query = query.bind(note.error.as_deref().map(cut));
    }
    query.execute(&mut **tx).await?;
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
