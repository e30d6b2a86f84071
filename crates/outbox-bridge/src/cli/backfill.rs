//! `outbox-bridge backfill`: publishes from the outbox tables what the streams do not hold.

use std::num::NonZeroU32;

use super::display::Display;
use super::{block_on, print_out, signals, start_logging};
use crate::backfill::{self, BackfillError, Outcome, Progress, Request};
use crate::config::Config;
use crate::exit::{Exit, report};
use crate::lead::StandInError;
use crate::source::LogError;
use crate::source::table::{Range, TableError};

/// How to do it.
#[derive(Debug, Clone, clap::Args)]
#[command(after_long_help = "\
Stop the bridge first: the backfill takes its lease, and `run` refuses to start until the backfill has ended. Interrupted at any \
point it can be run again; it goes on with what the streams do not hold yet.

Rows come in the order of the table's AUTO_INCREMENT column or primary key, one table after the other, with the ids that the log would \
have given them. Where the log takes over is written into the checkpoint at the end.")]
pub(super) struct Options {
    /// Only say how many rows would be published
    #[arg(long)]
    dry_run: bool,
    /// Publish also what a stream may have held and has dropped (expired, purged, consumed)
    #[arg(long)]
    refill: bool,
    /// Only rows from this value of the key's first column on
    #[arg(long, value_name = "KEY")]
    from: Option<String>,
    /// How many rows one statement reads
    #[arg(long, value_name = "ROWS", default_value = "1000")]
    chunk_rows: NonZeroU32,
    /// Publish at most so many rows a second
    #[arg(long, value_name = "ROWS")]
    rows_per_second_max: Option<NonZeroU32>,
}

pub(super) fn execute(config: &Config, options: Options) -> Exit {
    if let Err(exit) = start_logging(config) {
        return exit;
    }
    let shutdown = match signals::install() {
        Ok(shutdown) => shutdown,
        Err(error) => return fail(&error, Exit::Internal),
    };
    let request = Request {
        dry_run: options.dry_run,
        refill: options.refill,
        chunk_rows: options.chunk_rows.get(),
        rows_per_second_max: options.rows_per_second_max.map(NonZeroU32::get),
        range: Range { from: options.from, to: None },
    };
    let mut display = Display::new();
    let outcome = block_on(Box::pin(backfill::run(config, &request, &shutdown, |progress| {
        let Progress { stage, rows, rows_estimated, published, .. } = progress;
        let more = format!(", {published} to publish or published");
        display.show(stage, (*rows, *rows_estimated), " rows read", &more);
    })));
    display.end();
    match outcome {
        Err(exit) => exit,
        Ok(Ok(outcome)) => {
            let printed = print_out(&summary(&outcome, request.dry_run));
            let done = outcome.finished || request.dry_run;
            if done { printed } else { Exit::Terminated }
        }
        Ok(Err(error)) => fail(&error, exit_of(&error)),
    }
}

fn summary(outcome: &Outcome, dry_run: bool) -> String {
    let Progress { rows, held, left, published, .. } = &outcome.progress;
    let done = if dry_run { "to be published" } else { "published" };
    let mut text = format!(
        "{rows} rows read: {published} {done}, {held} in the streams already, {left} left to the log\n"
    );
    for table in &outcome.without_rows {
        text += &format!("table {table} stores no rows (ENGINE=BLACKHOLE), so there was nothing to read\n");
    }
    text += &if dry_run {
        format!("the log would take over at {}\n", outcome.point)
    } else if outcome.progress.dropped > 0 {
        format!(
            "{} of them were not stored: the server still knows their ids from messages that are gone. Run `outbox-bridge backfill` again \
             when the stream's duplicate window has passed\n",
            outcome.progress.dropped
        )
    } else if outcome.finished {
        format!("the log takes over at {}: start `outbox-bridge run`\n", outcome.point)
    } else {
        "stopped before the end: run `outbox-bridge backfill` again, which goes on from here\n".to_owned()
    };
    text
}

fn exit_of(error: &BackfillError) -> Exit {
    match error {
        BackfillError::Connection(_)
        | BackfillError::Table(TableError::Connection(_))
        | BackfillError::Log(LogError::Connection(_) | LogError::Damaged(_) | LogError::Gone { .. })
        | BackfillError::Read(_)
        | BackfillError::Checkpoint(crate::checkpoint::CheckpointError::Unavailable(_))
        | BackfillError::LeaseLost
        | BackfillError::StandIn(StandInError::Led { .. }) => Exit::Unavailable,
        BackfillError::Wire(error) if error.is_transient() => Exit::Unavailable,
        _ => Exit::Configuration,
    }
}

fn fail(error: &(dyn std::error::Error + 'static), exit: Exit) -> Exit {
    tracing::error!(error = report(error), "the backfill cannot go on");
    exit
}
