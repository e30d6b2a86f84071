//! Publishes the rows that neither the streams hold nor the log is going to show.

use std::{future::Future, time::Duration};

use super::{
    Backfill, BackfillError, Progress,
    held::{Ids, key_of_row},
    lanes::Lanes,
};
use crate::{
    route::finish,
    source::{connection::Connection, table::OutboxTable},
};

impl Backfill<'_> {
    /// Publishes what is neither held nor logged; `false` if it was stopped before the end.
    pub(super) async fn publish(
        &self,
        connection: &mut Connection,
        tables: &[OutboxTable],
        known: &Known<'_>,
        lanes: &mut Lanes,
        progress: &mut Progress,
        tell: &mut impl FnMut(&Progress),
    ) -> Result<bool, BackfillError> {
        let mut throttle = Throttle::new(self.request.rows_per_second_max);
        for table in tables {
            let failed = |source| BackfillError::Row { table: table.name().to_string(), source };
            let stream = table.stream();
            let mut cursor = None;
            loop {
                let mut rows = table.chunk(connection, cursor.as_ref(), self.request.chunk_rows).await?;
                let mut count = 0;
                while let Some(row) = rows.next().await? {
                    if self.shutdown.is_cancelled() {
                        return Ok(false);
                    }
                    count += 1;
                    progress.rows += 1;
                    let mut row = table.row(&row).map_err(failed)?;
                    cursor = Some(std::mem::take(&mut row.cursor));
                    match known.of(stream, &row.message) {
                        Where::Stream => progress.held += 1,
                        Where::Log => progress.left += 1,
                        Where::Nowhere => {
                            progress.published += 1;
                            if !self.request.dry_run {
                                throttle.wait().await;
                                let (transaction, number) = lanes.next(stream, row.created_micros)?;
                                finish(&mut row.message, &transaction, number);
                                lanes.push(stream, row.message).await?;
                            }
                        }
                    }
                }
                tell(progress);
                if count < self.request.chunk_rows {
                    break;
                }
            }
        }
        Ok(true)
    }
}

/// What is known of events.
pub(super) struct Known<'a> {
    pub(super) several: &'a [bool],
    pub(super) held: &'a [Ids],
    pub(super) logged: &'a [Ids],
}

enum Where {
    Stream,
    Log,
    Nowhere,
}

impl Known<'_> {
    fn of(&self, stream: usize, message: &crate::publish::Message) -> Where {
        let key = key_of_row(message, self.several.get(stream) == Some(&true));
        let has = |ids: &[Ids]| ids.get(stream).is_some_and(|ids| ids.contains(key));
        match (has(self.held), has(self.logged)) {
            (true, _) => Where::Stream,
            (false, true) => Where::Log,
            (false, false) => Where::Nowhere,
        }
    }
}

/// Lets so many rows a second through.
struct Throttle {
    pause: Option<Duration>,
    due: tokio::time::Instant,
}

impl Throttle {
    fn new(rows_per_second_max: Option<u32>) -> Self {
        let pause = rows_per_second_max.map(|rate| Duration::from_secs(1) / rate.max(1));
        Self { pause, due: tokio::time::Instant::now() }
    }

    fn wait(&mut self) -> impl Future<Output = ()> {
        let due = self.due;
        if let Some(pause) = self.pause {
            self.due = due.max(tokio::time::Instant::now()) + pause;
        }
        let paused = self.pause.is_some();
        async move {
            if paused {
                tokio::time::sleep_until(due).await;
            }
        }
    }
}
