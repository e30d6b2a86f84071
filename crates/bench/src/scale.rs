//! How cost grows with outbox tables, streams, the size of transactions, and the backlog.

use anyhow::Result;

use crate::field::{Backlog, Field};
use crate::report::{Measurement, Unit};
use crate::{Scale, catch_up, progress};

pub(crate) const GROUP: &str = "scale";

pub(crate) async fn measure(field: &Field, scale: &Scale) -> Result<Vec<Measurement>> {
    let rows = scale.shape_events;
    let plain = Backlog::plain(rows);
    let mut all = Vec::new();
    for rows_each in [1, 10, 100, 1_000, 10_000].into_iter().filter(|rows_each| *rows_each <= rows) {
        let backlog = Backlog { rows_each, ..plain };
        all.extend(point(field, scale, "rows of a transaction", rows_each, backlog).await?);
    }
    for rows in [10_000, 100_000, 1_000_000].into_iter().filter(|rows| *rows <= scale.events) {
        all.extend(point(field, scale, "events of a backlog", rows, Backlog { rows, ..plain }).await?);
    }
    let widths = if scale.smoke { &[(2, 2)][..] } else { &[(1, 1), (10, 1), (100, 1), (16, 4), (16, 16)] };
    for &(tables, streams) in widths {
        // Servers of its own: a stream or a table more changes what the others have to do.
        let wide = Field::wide(tables, streams).await?;
        let (series, x) = if streams == 1 { ("outbox tables", tables) } else { ("streams", streams) };
        all.extend(point(&wide, scale, series, x as u64, plain).await?);
    }
    Ok(all)
}

async fn point(
    field: &Field,
    scale: &Scale,
    series: &str,
    x: u64,
    backlog: Backlog,
) -> Result<[Measurement; 3]> {
    let new = |what: &str, unit| {
        Measurement::new(GROUP, format!("{series}: {x}, {what}"), unit)
            .at(&format!("{what} by {series}"), x as f64)
    };
    let mut rate = new("events stored", Unit::PerSecond);
    let mut cpu = new("bridge CPU a million events", Unit::Seconds);
    let mut memory = new("resident memory, peak", Unit::Mebibytes);
    progress(&format!("{series}: {x}: filling the log"));
    field.fill(backlog).await?;
    let events = backlog.events();
    for round in 0..scale.rounds {
        progress(&format!("{series}: {x}, round {}", round + 1));
        let run = Box::pin(catch_up::run(field, events)).await?;
        rate.add(run.rate);
        cpu.add(run.cpu.as_secs_f64() * 1e6 / events as f64);
        memory.add(catch_up::mebibytes(run.memory_peak_bytes));
    }
    Ok([rate, cpu, memory])
}
