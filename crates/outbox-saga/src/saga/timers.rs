//! What happens though no reply comes: timeouts, delayed attempts, and operators' requests.

use std::time::Duration;

use ::metrics::gauge;
use sqlx::{MySql, Transaction};
use tokio_util::sync::CancellationToken;

use super::engine::Input;
use super::error::{SagaError, SagaErrorKind};
use super::request::Request;
use super::{Orchestrator, metrics, store};

/// How often the table is looked at while nothing is due.
const INTERVAL: Duration = Duration::from_millis(500);
/// The longest wait after an error.
const INTERVAL_MAX: Duration = Duration::from_secs(10);
/// How many due sagas are looked up at a time.
const BATCH: u32 = 100;
/// How often open sagas are counted.
const COUNT_INTERVAL: Duration = Duration::from_secs(15);

impl Orchestrator {
    /// Keeps the sagas' time until `shutdown`. Every instance of the service does; each due saga is taken by whoever locks its
    /// row first. The clock is the database's.
    ///
    /// While the database is away it waits, so this never fails.
    pub async fn run(&self, shutdown: CancellationToken) {
        let mut wait = INTERVAL;
        let mut count_at = tokio::time::Instant::now();
        let mut unattended = String::new();
        while !shutdown.is_cancelled() {
            let found = self.fire_due().await;
            wait = match &found {
                Ok(found) if *found >= BATCH as usize => Duration::ZERO,
                Ok(_) => INTERVAL,
                Err(error) => {
                    tracing::warn!(error = %error, "cannot look for due sagas");
                    wait.saturating_mul(2).clamp(INTERVAL, INTERVAL_MAX)
                }
            };
            if found.is_ok() && count_at <= tokio::time::Instant::now() {
                count_at = tokio::time::Instant::now() + COUNT_INTERVAL;
                self.count().await;
                unattended = self.tell_unattended(unattended).await;
            }
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Does what is due now, for up to a hundred sagas; gives how many were found. [`run`](Self::run) calls it, and a test may.
    ///
    /// # Errors
    ///
    /// When the database cannot be asked. A saga that cannot go on is told in its row and tried again later.
    pub async fn fire_due(&self) -> Result<usize, SagaError> {
        let known = self.known();
        if known.is_empty() {
            return Ok(0);
        }
        let due = store::due(&self.pool, &known, BATCH).await;
        let due = due.map_err(SagaError::database("cannot look for due sagas"))?;
        for id in &due {
            match self.fire(id).await {
                Ok(()) => {}
                // Another transaction had the row, or the database is away: it stays due.
                Err(error) if error.kind() == SagaErrorKind::Database => {
                    tracing::debug!(id, error = %error, "a due saga has to wait");
                }
                Err(error) => {
                    tracing::error!(id, error = %error, "a due saga cannot go on");
                    let told = store::put_off(&self.pool, id, &error.to_string()).await;
                    told.map_err(SagaError::database(format!("cannot put off saga {id}")))?;
                }
            }
        }
        Ok(due.len())
    }

    /// One due saga, in one transaction.
    async fn fire(&self, id: &str) -> Result<(), SagaError> {
        let failed = || SagaError::database(format!("cannot take up saga {id}"));
        let mut tx = self.pool.begin().await.map_err(failed())?;
        let Some(row) = store::lock_due(&mut tx, id).await.map_err(failed())? else { return Ok(()) };
        match &row.request {
            None => self.advance(&mut tx, id, row, &Input::Timer).await?,
            Some(request) => match serde_json::from_str::<Request>(request) {
                Ok(request) => self.follow(&mut tx, id, row, request).await?,
                Err(error) => {
                    let why =
                        format!("no request: {:?} error in column {}", error.classify(), error.column());
                    self.refuse_request(&mut tx, id, row, why).await?;
                }
            },
        }
        tx.commit().await.map_err(failed())
    }

    /// Follows an operator's request, or writes down why not.
    async fn follow(
        &self,
        tx: &mut Transaction<'_, MySql>,
        id: &str,
        row: store::Row,
        request: Request,
    ) -> Result<(), SagaError> {
        tracing::info!(id, ?request, "a request of an operator");
        let input = request.into_input();
        match self.advance(tx, id, row.clone(), &input).await {
            Err(error) if matches!(error.kind(), SagaErrorKind::Refused(_)) => {
                self.refuse_request(tx, id, row, error.to_string()).await
            }
            done => done,
        }
    }

    /// Tells of sagas that nobody goes on with, if that is not what was told before. Gives what is told now.
    async fn tell_unattended(&self, before: String) -> String {
        let known = self.known();
        if known.is_empty() {
            return before;
        }
        let found = match store::unattended(&self.pool, &known).await {
            Ok(found) => found,
            Err(error) => {
                tracing::debug!(error = %error, "cannot look for sagas that nobody goes on with");
                return before;
            }
        };
        let count: i64 = found.iter().map(|(.., count)| count).sum();
        gauge!(metrics::UNATTENDED).set(i32::try_from(count).unwrap_or(i32::MAX));
        let sagas = found.iter().map(|(name, version, count)| format!("{count} of {name} {version}"));
        let sagas = sagas.collect::<Vec<_>>().join(", ");
        if !sagas.is_empty() && sagas != before {
            tracing::error!(
                sagas,
                "due for a minute, and this process does not have their definition: run one that has it until they have ended"
            );
        }
        sagas
    }

    async fn count(&self) {
        match store::open(&self.pool).await {
            Ok(counts) => {
                for status in ["running", "compensating", "stuck"] {
                    let count = counts.iter().find(|(of, _)| of == status).map_or(0, |(_, count)| *count);
                    gauge!(metrics::OPEN, "status" => status).set(i32::try_from(count).unwrap_or(i32::MAX));
                }
            }
            Err(error) => tracing::debug!(error = %error, "cannot count the open sagas"),
        }
    }
}
