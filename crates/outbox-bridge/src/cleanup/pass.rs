//! One pass over one table.

use std::{collections::HashSet, time::Duration};

use outbox_event::header::encode_value;
use tokio::time::Instant;

use super::{
    Cleaned, CleanupError, PAGE_ROWS, Span, connect,
    gate::Gate,
    is_busy,
    partitions::{self, Partition},
    refuse_statements,
    table::{Keyed, RowKey},
};
use crate::{
    config::{self, Outbox},
    publish::{Letters, State},
    source::{
        clock_micros,
        connection::{ConnectOptions, Connection, Row},
    },
};

/// If producers are in the way of dropping partitions, that is tried again after so many intervals.
const BUSY_INTERVALS: u32 = 10;

/// What cleaning a table takes.
#[derive(Debug)]
pub(super) struct Work<'a> {
    pub(super) options: ConnectOptions,
    pub(super) letters: Option<&'a Letters>,
    pub(super) settings: &'a config::Cleanup,
}

impl Work<'_> {
    /// The ids of the rows that are letters not done with.
    async fn parked(&self, outbox: &Outbox) -> Result<HashSet<String>, CleanupError> {
        let Some(letters) = self.letters else { return Ok(HashSet::new()) };
        let ids = letters.ids(&outbox.stream, &outbox.table.to_string(), State::is_open).await?;
        if ids.contains("") { Err(CleanupError::NamelessLetter) } else { Ok(ids) }
    }
}

/// Goes through one table.
pub(super) async fn clean(
    work: Work<'_>,
    gate: &mut Gate,
    cleaned: &mut Cleaned,
    connection: &mut Option<Connection>,
) -> Result<(), CleanupError> {
    let open = match connection {
        Some(open) => open,
        None => connection.insert(connect(&work.options).await?),
    };
    refuse_statements(open).await?;
    let Some(table) = Keyed::read(open, &cleaned.outbox).await? else { return Ok(()) };
    let Outbox { table: name, columns, .. } = &cleaned.outbox;
    let partitions = partitions::read(open, name, &columns.created_at).await?;
    let scope = match &partitions {
        None => Vec::new(),
        Some(partitions) => match drop_old(&work, gate, cleaned, open, &table, partitions).await? {
            rest if rest.is_empty() => return Ok(()),
            rest => rest,
        },
    };
    // Where partitions come and go, a key says nothing of the rows before it.
    let (ordered, floor) = (table.is_ordered(), cleaned.floor.clone().filter(|_| scope.is_empty()));
    let mut after = floor;
    let mut passed_over = false;
    loop {
        let since = gate.since(&cleaned.outbox.table.to_string()).await?;
        let now = clock_micros(open).await?;
        let span = Span::new(now, since, cleaned.retention);
        let rows = open.query(&table.page(after.as_ref(), PAGE_ROWS, &scope)).await?;
        let page = table.rows(&rows)?;
        after = page.last().map(|(key, _)| key.clone());
        let mut old: Vec<_> = page
            .iter()
            .zip(&rows)
            .filter(|((_, created), _)| created.is_some_and(|at| span.contains(at)))
            .collect();
        if let Some(oldest) = old.iter().filter_map(|((_, created), _)| *created).min() {
            let overdue = span.until.saturating_sub(oldest);
            cleaned.metrics.overdue.set(Duration::from_micros(overdue).as_secs_f64());
            gate.pass(open).await?;
            let parked = work.parked(&cleaned.outbox).await?;
            old.retain(|(_, row)| {
                let id = table.event(row).map(|(id, _)| id).unwrap_or_default();
                !parked.contains(&*encode_value(&id))
            });
        }
        for batch in old.chunks(usize::try_from(work.settings.batch_rows).unwrap_or(1)) {
            let keys = batch.iter().map(|((key, _), _)| key);
            match open.execute(&table.delete(keys, span.from, span.until)).await {
                Ok(()) => {
                    let rows = open.query("SELECT ROW_COUNT() AS deleted").await?;
                    let deleted = rows.first().and_then(|row| row.get("deleted")?.parse().ok());
                    cleaned.metrics.deleted.increment(deleted.unwrap_or(0));
                }
                Err(error) if is_busy(&error) => passed_over = true,
                Err(error) => return Err(error.into()),
            }
            tokio::time::sleep(work.settings.pause).await;
        }
        if ordered
            && scope.is_empty()
            && !page.is_empty()
            && page.iter().all(|(_, created)| created.is_some_and(|at| at < span.from))
        {
            cleaned.floor.clone_from(&after);
        }
        let young = page.iter().any(|(_, created)| created.is_some_and(|at| at >= span.until));
        if page.len() < PAGE_ROWS || (ordered && young) {
            break;
        }
        tokio::time::sleep(work.settings.pause).await;
    }
    if !passed_over && cleaned.partitions_after.is_none() {
        cleaned.metrics.overdue.set(0.0);
    }
    Ok(())
}

/// Drops the partitions of which nothing has to stay; gives those whose rows are to go one by one.
async fn drop_old(
    work: &Work<'_>,
    gate: &mut Gate,
    cleaned: &mut Cleaned,
    open: &mut Connection,
    table: &Keyed,
    partitions: &[Partition],
) -> Result<Vec<String>, CleanupError> {
    let name = cleaned.outbox.table.clone();
    let since = gate.since(&name.to_string()).await?;
    let span = Span::new(clock_micros(open).await?, since, cleaned.retention);
    let mut singly: Vec<String> =
        partitions.iter().filter(|partition| partition.is_open()).map(|open| open.name.clone()).collect();
    // A table cannot lose its last partition.
    let all_but_last = partitions.split_last().map_or(&[][..], |(_, rest)| rest);
    // Rows from before the table was read stay, and so does a partition of nothing else.
    let old =
        all_but_last.iter().filter(|partition| partition.is_old(span.until) && !partition.is_old(span.from));
    let old: Vec<&Partition> = old.collect();
    let overdue = old.first().map_or(0, |oldest| oldest.overdue(span.until));
    cleaned.metrics.overdue.set(Duration::from_micros(overdue).as_secs_f64());
    if old.is_empty() {
        cleaned.partitions_after = None;
    }
    if old.is_empty() || cleaned.partitions_after.is_some_and(|after| Instant::now() < after) {
        return Ok(singly);
    }
    let busy = |cleaned: &mut Cleaned| {
        tracing::info!(table = %name, "producers are in the way of dropping partitions: later");
        cleaned.partitions_after = Some(Instant::now() + work.settings.interval * BUSY_INTERVALS);
    };
    match partitions::await_writers(open, &name).await {
        Ok(()) => {}
        Err(error) if is_busy(&error) => {
            busy(cleaned);
            return Ok(singly);
        }
        Err(error) => return Err(error.into()),
    }
    gate.pass(open).await?;
    let parked = work.parked(&cleaned.outbox).await?;
    let mut dropped = Vec::new();
    for partition in old {
        if must_stay(open, table, partition, span.from, &parked).await? {
            singly.push(partition.name.clone());
        } else {
            dropped.push(partition);
        }
    }
    if dropped.is_empty() {
        return Ok(singly);
    }
    match partitions::drop(open, &name, &dropped).await {
        Ok(()) => {
            let names: Vec<&str> = dropped.iter().map(|partition| partition.name.as_str()).collect();
            tracing::info!(table = %name, partitions = names.join(", "), "dropped partitions of published rows");
            cleaned.metrics.partitions.increment(u64::try_from(dropped.len()).unwrap_or(0));
            cleaned.metrics.overdue.set(0.0);
            cleaned.partitions_after = None;
        }
        Err(error) if is_busy(&error) => busy(cleaned),
        Err(error) => return Err(error.into()),
    }
    Ok(singly)
}

/// Whether a partition has rows from before `from`, or dead letters that are not done with.
async fn must_stay(
    open: &mut Connection,
    table: &Keyed,
    partition: &Partition,
    from: u64,
    parked: &HashSet<String>,
) -> Result<bool, CleanupError> {
    let scope = [partition.name.clone()];
    let mut after: Option<RowKey> = None;
    loop {
        let rows = open.query(&table.page(after.as_ref(), PAGE_ROWS, &scope)).await?;
        let page = table.rows(&rows)?;
        let stays = |((_, created), row): (&(RowKey, Option<u64>), &Row)| {
            let id = table.event(row).map(|(id, _)| id).unwrap_or_default();
            created.is_none_or(|at| at < from) || parked.contains(&*encode_value(&id))
        };
        if page.iter().zip(&rows).any(stays) {
            return Ok(true);
        }
        if page.len() < PAGE_ROWS {
            return Ok(false);
        }
        after = page.last().map(|(key, _)| key.clone());
    }
}
