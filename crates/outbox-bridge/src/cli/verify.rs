//! `outbox-bridge verify`: compares outbox tables with their streams.

use std::fmt::Write as _;
use std::num::NonZeroU32;

use serde_json::json;

use super::display::Display;
use super::{block_on, print_out, start_logging};
use crate::config::{ByteSize, Config};
use crate::exit::{Exit, report};
use crate::source::LogError;
use crate::source::table::{Range, TableError};
use crate::verify::{self, Finding, Kind, Request, StreamReport, VerifyError};

/// How to do it.
#[derive(Debug, Clone, clap::Args)]
#[command(after_long_help = "\
It only reads, so the bridge may run meanwhile, or be stopped. All rows are compared with all messages: body, subject and the headers that \
the row gives. Rows that the bridge has still to publish, rows from before its first start, and rows whose messages the stream has dropped \
at its limits are counted and are not wrong.

Exit codes: 0 nothing is wrong; 65 something was found; 69 MySQL or NATS unavailable; 78 it cannot be compared.")]
pub(super) struct Options {
    /// Only this table, as schema.table; may be given several times
    #[arg(long, value_name = "TABLE")]
    outbox: Vec<String>,
    /// Only rows from this value of the key's first column on
    #[arg(long, value_name = "KEY")]
    from: Option<String>,
    /// Only rows up to this value of the key's first column
    #[arg(long, value_name = "KEY")]
    to: Option<String>,
    /// How many rows one statement reads
    #[arg(long, value_name = "ROWS", default_value = "1000")]
    chunk_rows: NonZeroU32,
    /// How much memory rows and messages may take, about 90 bytes for each row with its message; with more of them everything is read
    /// several times
    #[arg(long, value_name = "SIZE", default_value = "256MiB")]
    memory_max: ByteSize,
    /// As one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn execute(config: &Config, options: Options) -> Exit {
    if let Err(exit) = start_logging(config) {
        return exit;
    }
    let request = Request {
        tables: options.outbox,
        range: Range { from: options.from, to: options.to },
        chunk_rows: options.chunk_rows.get(),
        memory_bytes_max: options.memory_max.as_usize(),
    };
    let mut display = Display::new();
    let outcome = block_on(Box::pin(verify::run(config, &request, |progress| {
        display.show(&progress.stage, (progress.done, progress.of), "", "");
    })));
    display.end();
    match outcome {
        Err(exit) => exit,
        Ok(Ok(reports)) => {
            let text = if options.json { as_json(&reports) } else { as_text(&reports) };
            let printed = print_out(&text);
            if printed == Exit::Success { exit_of(&reports) } else { printed }
        }
        Ok(Err(error)) => fail(&error, exit_of_error(&error)),
    }
}

fn exit_of(reports: &[StreamReport]) -> Exit {
    if reports.iter().any(|report| report.found() > 0) {
        Exit::Findings
    } else if reports.iter().any(|report| report.unchecked.is_some()) {
        Exit::Configuration
    } else {
        Exit::Success
    }
}

fn exit_of_error(error: &VerifyError) -> Exit {
    match error {
        VerifyError::Connection(_)
        | VerifyError::Table(TableError::Connection(_))
        | VerifyError::Log(LogError::Connection(_) | LogError::Damaged(_) | LogError::Gone { .. })
        | VerifyError::Read(_)
        | VerifyError::Nats(crate::nats::NatsError::Connect(_))
        | VerifyError::Checkpoint(crate::checkpoint::CheckpointError::Unavailable(_)) => Exit::Unavailable,
        VerifyError::Letters(error) if error.is_transient() => Exit::Unavailable,
        _ => Exit::Configuration,
    }
}

fn fail(error: &(dyn std::error::Error + 'static), exit: Exit) -> Exit {
    tracing::error!(error = report(error), "tables and streams cannot be compared");
    exit
}

fn as_json(reports: &[StreamReport]) -> String {
    let found: u64 = reports.iter().map(StreamReport::found).sum();
    let checked = reports.iter().all(|report| report.unchecked.is_none());
    json!({ "found": found, "checked": checked, "streams": reports }).to_string() + "\n"
}

fn as_text(reports: &[StreamReport]) -> String {
    let mut text = String::new();
    for report in reports {
        // Writing to a text cannot fail.
        write_report(&mut text, report).unwrap_or_default();
    }
    text
}

fn write_report(text: &mut String, report: &StreamReport) -> std::fmt::Result {
    let name = &report.stream;
    if let Some(reason) = &report.unchecked {
        return writeln!(text, "stream {name} cannot be compared: {reason}");
    }
    let StreamReport { rows, messages, matched, missing, doubled, reordered, altered, .. } = report;
    writeln!(text, "stream {name}: {rows} rows, {messages} messages, {matched} rows have their message")?;
    writeln!(text, "  {missing} missing, {doubled} doubled, {reordered} out of order, {altered} altered")?;
    for (count, what) in [
        (report.unsendable, "rows can be no message"),
        (report.parked, "rows are or were dead letters"),
        (report.unpublished, "rows are still to be published"),
        (report.before_start, "rows without a message are from before the bridge read the table"),
        (
            report.gone,
            "rows have no message any more, or never had: the stream has dropped messages of their time",
        ),
        (report.repeated, "rows have the id of another row, which JetStream takes for the same message"),
        (report.without_row, "messages have no row among those that were read"),
        (report.foreign, "messages are no events: somebody else publishes to the stream"),
    ] {
        if count > 0 {
            writeln!(text, "  {count} {what}")?;
        }
    }
    for table in &report.without_rows {
        writeln!(text, "  table {table} stores no rows (ENGINE=BLACKHOLE)")?;
    }
    for finding in &report.findings {
        writeln!(text, "  {}", line(finding))?;
    }
    let listed = u64::try_from(report.findings.len()).unwrap_or(u64::MAX);
    if report.found() > listed {
        writeln!(text, "  and {} more", report.found() - listed)?;
    }
    Ok(())
}

fn line(finding: &Finding) -> String {
    let mut line = match finding.kind {
        Kind::Missing => "missing",
        Kind::Doubled => "doubled",
        Kind::Reordered => "out of order",
        Kind::Altered => "altered",
        Kind::Unsendable => "can be no message",
    }
    .to_owned();
    if let Some(id) = &finding.id {
        line += &format!(": event {id}");
    }
    if let Some(table) = &finding.table {
        line += &format!(" of {table}");
    }
    if let Some(sequence) = finding.sequence {
        line += &format!(", message {sequence}");
    }
    if let Some(detail) = &finding.detail {
        line += &format!(" ({detail})");
    }
    line
}
