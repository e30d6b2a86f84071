//! Reads the tables. Texts of a collation by bytes are cast, since sqlx takes them for binary.

use sqlx::mysql::MySqlRow;
use sqlx::{MySqlPool, Row as _};

use super::error::{InspectError, InspectErrorKind};
use super::types::{Detail, Filter, Group, Kind, Line, Part, Summary};
use crate::saga::engine::Instance;

/// How many instances of a status are looked at where all that are kept would be too many: 10,000.
pub const LOOK_MAX: u32 = 10_000;

/// Reads sagas and transactions, and leaves requests: a cheap handle.
#[derive(Debug, Clone)]
pub struct Inspector {
    pub(super) pool: MySqlPool,
}

/// A column of times as text.
fn time(column: &str) -> String {
    format!("CAST(CONCAT(LEFT(DATE_FORMAT({column}, '%Y-%m-%dT%H:%i:%s.%f'), 23), 'Z') AS CHAR)")
}

fn text(column: &str) -> String {
    format!("CAST({column} AS CHAR)")
}

/// So many instances of a status, which is the first argument, by their last change: `instances`. They are found in the index alone, and only they
/// are read, in this order of tables; so it costs the same however many are kept.
fn some(kind: Kind, order: &str, limit: u32) -> String {
    let table = kind.tables().instances;
    format!(
        "(SELECT id AS looked_at FROM {table} WHERE status = ? ORDER BY updated_at {order} LIMIT {limit}) AS some \
         STRAIGHT_JOIN {table} AS instances ON instances.id = some.looked_at"
    )
}

fn summary_columns(kind: Kind) -> String {
    let texts = ["id", "name", "status", "error", "request"].map(text).join(", ");
    format!("{texts}, {}, {}, {}", kind.tables().version, time("created_at"), time("updated_at"))
}

fn summary(kind: Kind, row: &MySqlRow) -> Result<Summary, sqlx::Error> {
    let request: Option<String> = row.try_get(4)?;
    Ok(Summary {
        kind,
        id: row.try_get(0)?,
        name: row.try_get(1)?,
        status: row.try_get(2)?,
        error: row.try_get(3)?,
        request: request.and_then(|request| serde_json::from_str(&request).ok()),
        version: row.try_get(5)?,
        created_at: row.try_get(6)?,
        updated_at: row.try_get(7)?,
    })
}

impl Inspector {
    /// An inspector of the tables in the database that the pool is connected to.
    #[must_use]
    pub fn new(pool: MySqlPool) -> Self {
        Self { pool }
    }

    /// What is there: stuck ones first, then by the time of their last change, the latest first.
    ///
    /// Each status is read along its index, so it costs little however many have ended. Where a name is asked for, the latest [`LOOK_MAX`] of
    /// each status are looked through.
    ///
    /// # Errors
    ///
    /// When the tables cannot be read. That the tables of one kind are missing is an error only if that kind is asked for.
    pub async fn list(&self, filter: &Filter) -> Result<Vec<Summary>, InspectError> {
        let limit = usize::try_from(filter.limit).unwrap_or(usize::MAX);
        let mut each = Each::of(filter.kind);
        while let Some(kind) = each.next() {
            each.take(self.list_of(kind, filter).await)?;
        }
        let mut found = each.end()?;
        found.sort_by(|a, b| {
            let key = |one: &Summary| (one.status != "stuck", std::cmp::Reverse(one.updated_at.clone()));
            key(a).cmp(&key(b))
        });
        found.truncate(limit);
        Ok(found)
    }

    async fn list_of(&self, kind: Kind, filter: &Filter) -> Result<Vec<Summary>, sqlx::Error> {
        let wanted = |status: &&&str| filter.status.as_ref().is_none_or(|only| only == **status);
        let looked_at = if filter.name.is_some() { LOOK_MAX } else { filter.limit };
        let statement = format!(
            "SELECT {} FROM {} WHERE ? IS NULL OR name = ? ORDER BY instances.updated_at DESC LIMIT ?",
            summary_columns(kind),
            some(kind, "DESC", looked_at)
        );
        let mut found = Vec::new();
        for status in kind.statuses().iter().filter(wanted) {
            let query = sqlx::query(&statement).bind(status).bind(&filter.name).bind(&filter.name);
            for row in query.bind(filter.limit).fetch_all(&self.pool).await? {
                found.push(summary(kind, &row)?);
            }
        }
        Ok(found)
    }

    /// How many there are, by kind and status; where there are more than [`LOOK_MAX`], that and one more.
    ///
    /// # Errors
    ///
    /// As [`list`](Self::list).
    pub async fn counts(&self) -> Result<Vec<(Kind, String, i64)>, InspectError> {
        let mut each = Each::of(None);
        while let Some(kind) = each.next() {
            each.take(self.counts_of(kind).await)?;
        }
        each.end()
    }

    async fn counts_of(&self, kind: Kind) -> Result<Vec<(Kind, String, i64)>, sqlx::Error> {
        let mut counts = Vec::new();
        for status in kind.statuses() {
            counts.push((kind, (*status).to_owned(), self.count(kind, status).await?));
        }
        Ok(counts)
    }

    async fn count(&self, kind: Kind, status: &str) -> Result<i64, sqlx::Error> {
        let statement = format!(
            "SELECT COUNT(*) FROM (SELECT 1 FROM {} WHERE status = ? LIMIT {}) AS counted",
            kind.tables().instances,
            LOOK_MAX + 1
        );
        sqlx::query_scalar(&statement).bind(status).fetch_one(&self.pool).await
    }

    /// How many there are by name and status, and how long those took that have ended. Of each status [`LOOK_MAX`] are looked at: of those that
    /// have ended the latest, of others those that have changed for longest not.
    ///
    /// # Errors
    ///
    /// As [`list`](Self::list).
    pub async fn stats(&self, kind: Option<Kind>) -> Result<Vec<Group>, InspectError> {
        let mut each = Each::of(kind);
        while let Some(kind) = each.next() {
            each.take(self.stats_of(kind).await)?;
        }
        each.end()
    }

    async fn stats_of(&self, kind: Kind) -> Result<Vec<Group>, sqlx::Error> {
        let mut groups = Vec::new();
        for status in kind.statuses() {
            let mut of_status = self.stats_of_status(kind, status).await?;
            let looked_at: i64 = of_status.iter().map(|group| group.count).sum();
            let partial = looked_at >= i64::from(LOOK_MAX) && self.count(kind, status).await? > looked_at;
            of_status.iter_mut().for_each(|group| group.partial = partial);
            groups.append(&mut of_status);
        }
        groups.sort_by(|a, b| (&a.name, &a.status).cmp(&(&b.name, &b.status)));
        Ok(groups)
    }

    async fn stats_of_status(&self, kind: Kind, status: &str) -> Result<Vec<Group>, sqlx::Error> {
        let tables = kind.tables();
        let (ended, stuck) = (kind.is_end(status), status == "stuck");
        // What comes too late changes a row after its end, so the end is looked up in the history.
        let statement = format!(
            "SELECT {name}, COUNT(*), {oldest}, AVG(seconds), MIN(CASE WHEN share >= 0.99 THEN seconds END) FROM (\
               SELECT name, updated_at, seconds, CUME_DIST() OVER (PARTITION BY name ORDER BY seconds) AS share FROM (\
                 SELECT name, updated_at, TIMESTAMPDIFF(MICROSECOND, created_at, COALESCE((SELECT MIN(at) \
                   FROM {history} AS history WHERE history.{key} = instances.id AND history.{part} IS NULL \
                   AND history.to_status = instances.status), updated_at)) / 1e6 AS seconds \
                 FROM {some}) AS timed) AS ranked \
             GROUP BY name",
            name = text("name"),
            oldest = time("MIN(updated_at)"),
            history = tables.history,
            key = tables.key,
            part = tables.part,
            some = some(kind, if ended { "DESC" } else { "ASC" }, LOOK_MAX),
        );
        let rows = sqlx::query(&statement).bind(status).fetch_all(&self.pool).await?;
        let group = |row: &MySqlRow| {
            let oldest: Option<String> = row.try_get(2)?;
            let (mean, p99): (Option<f64>, Option<f64>) = (row.try_get(3)?, row.try_get(4)?);
            Ok(Group {
                kind,
                name: row.try_get(0)?,
                status: status.to_owned(),
                count: row.try_get(1)?,
                partial: false,
                oldest_stuck_at: oldest.filter(|_| stuck),
                mean_seconds: mean.filter(|_| ended),
                p99_seconds: p99.filter(|_| ended),
            })
        };
        rows.iter().map(group).collect()
    }

    /// Everything about one instance; of either kind if none is named.
    ///
    /// # Errors
    ///
    /// [`NotFound`](InspectErrorKind::NotFound), [`Ambiguous`](InspectErrorKind::Ambiguous), or as [`list`](Self::list).
    pub async fn show(&self, kind: Option<Kind>, id: &str) -> Result<Detail, InspectError> {
        let mut each = Each::of(kind);
        while let Some(kind) = each.next() {
            each.take(self.show_of(kind, id).await.map(|detail| detail.into_iter().collect()))?;
        }
        let mut found = each.end()?;
        match (found.pop(), found.is_empty()) {
            (Some(detail), true) => Ok(detail),
            (Some(_), false) => Err(InspectError::new(
                InspectErrorKind::Ambiguous,
                format!("a saga and a TCC transaction have the id {id:?}: say which kind"),
            )),
            (None, _) => {
                let kind = kind.map_or("saga or transaction", Kind::as_str);
                Err(InspectError::new(
                    InspectErrorKind::NotFound,
                    format!("there is no {kind} with the id {id:?}"),
                ))
            }
        }
    }

    async fn show_of(&self, kind: Kind, id: &str) -> Result<Option<Detail>, sqlx::Error> {
        // One snapshot, so that parts and history fit the whole.
        let mut tx = self.pool.begin().await?;
        let further = match kind {
            Kind::Saga => format!("NULL, NULL, {}, {}", time("wake_at"), text("state")),
            Kind::Tcc => {
                format!("{}, {}, {}, NULL", text("decision"), time("deadline"), time("next_attempt_at"))
            }
        };
        let tables = kind.tables();
        let statement = format!(
            "SELECT {}, {further}, {} FROM {} WHERE id = ?",
            summary_columns(kind),
            text("traceparent"),
            tables.instances
        );
        let Some(row) = sqlx::query(&statement).bind(id).fetch_optional(&mut *tx).await? else {
            return Ok(None);
        };
        let state: Option<String> = row.try_get(11)?;
        let shapes = state.and_then(|state| serde_json::from_str::<Instance>(&state).ok());
        let shapes = shapes.map(|instance| instance.steps).unwrap_or_default();
        let columns = match kind {
            Kind::Saga => format!("stage, pivot, NULL, {}", time("deadline")),
            Kind::Tcc => format!("CAST(0 AS UNSIGNED), FALSE, {}, NULL", text("endpoint")),
        };
        let statement = format!(
            "SELECT {}, {columns}, {}, attempts, {}, {} FROM {} WHERE {} = ? ORDER BY position",
            text(tables.part),
            text("status"),
            text("error"),
            time("updated_at"),
            tables.parts,
            tables.key
        );
        let mut parts = Vec::new();
        for (row, place) in sqlx::query(&statement).bind(id).fetch_all(&mut *tx).await?.iter().zip(0usize..) {
            parts.push(Part {
                compensable: shapes.get(place).map(|step| step.shape.compensable),
                ..part(kind, row)?
            });
        }
        let statement = format!(
            "SELECT {}, {}, {}, {}, {}, {} FROM {} WHERE {} = ? ORDER BY seq",
            time("at"),
            text(tables.part),
            text("from_status"),
            text("to_status"),
            text("cause"),
            text("error"),
            tables.history,
            tables.key
        );
        let history = sqlx::query(&statement).bind(id).fetch_all(&mut *tx).await?;
        tx.rollback().await?;
        Ok(Some(Detail {
            summary: summary(kind, &row)?,
            decision: row.try_get(8)?,
            deadline: row.try_get(9)?,
            next_at: row.try_get(10)?,
            traceparent: row.try_get(12)?,
            parts,
            history: history.iter().map(line).collect::<Result<_, _>>()?,
        }))
    }
}

/// What is found of one kind or both; of both, the tables of one may be missing.
struct Each<T> {
    only: Option<Kind>,
    asked: usize,
    kind: Option<Kind>,
    found: Vec<T>,
    missing: Vec<InspectError>,
}

impl<T> Each<T> {
    fn of(only: Option<Kind>) -> Self {
        Self { only, asked: 0, kind: None, found: Vec::new(), missing: Vec::new() }
    }

    /// The kind that is to be asked about next.
    fn next(&mut self) -> Option<Kind> {
        let mut wanted = Kind::ALL.into_iter().filter(|kind| self.only.is_none_or(|only| only == *kind));
        self.kind = wanted.nth(self.asked);
        self.asked += 1;
        self.kind
    }

    fn take(&mut self, answer: Result<Vec<T>, sqlx::Error>) -> Result<(), InspectError> {
        let table = self.kind.map_or("of sagas", |kind| kind.tables().instances);
        let what = format!("cannot read the table {table}");
        match answer.map_err(|error| InspectError::of_database(&what, error)) {
            Ok(more) => self.found.extend(more),
            Err(error) if self.only.is_none() && error.kind() == InspectErrorKind::NoTables => {
                self.missing.push(error);
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn end(mut self) -> Result<Vec<T>, InspectError> {
        match self.missing.pop() {
            Some(error) if self.missing.len() + 1 == Kind::ALL.len() => Err(error),
            _ => Ok(self.found),
        }
    }
}

fn part(kind: Kind, row: &MySqlRow) -> Result<Part, sqlx::Error> {
    let (stage, pivot) = match kind {
        Kind::Saga => (row.try_get(1)?, row.try_get(2)?),
        Kind::Tcc => (0, false),
    };
    Ok(Part {
        name: row.try_get(0)?,
        stage,
        pivot,
        compensable: None,
        endpoint: row.try_get(3)?,
        deadline: row.try_get(4)?,
        status: row.try_get(5)?,
        attempts: row.try_get(6)?,
        error: row.try_get(7)?,
        updated_at: row.try_get(8)?,
    })
}

fn line(row: &MySqlRow) -> Result<Line, sqlx::Error> {
    Ok(Line {
        at: row.try_get(0)?,
        part: row.try_get(1)?,
        from: row.try_get(2)?,
        to: row.try_get(3)?,
        cause: row.try_get(4)?,
        error: row.try_get(5)?,
    })
}
