//! Measures bridge and consumer against real servers, beside the limits that the servers set.
//!
//! Everything is taken in one run on one machine: within a round each candidate and its limit come one after the other,
//! in turns first and second, so that what else goes on there falls on both. What counts is the median of the rounds, and
//! of the ratios within them. The bridge is its own binary, in a process of its own; the loops that set the limits run
//! in this one, on one thread, as the bridge does.

mod catch_up;
mod consume;
mod decode;
mod field;
mod foreign;
pub mod hot;
mod latency;
mod limits;
mod load;
mod plot;
mod publish;
pub mod report;
mod sagas;
mod scale;
mod tcc;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, bail};

use self::field::Field;
use self::report::{Environment, Measurement, Report};

/// The load average of a machine that is at rest.
const REST: f64 = 0.5;

/// The names that `--only` takes, in the order of the measuring.
pub const GROUPS: [&str; 9] = [
    decode::GROUP,
    publish::GROUP,
    catch_up::GROUP,
    latency::GROUP,
    consume::GROUP,
    sagas::GROUP,
    tcc::GROUP,
    foreign::GROUP,
    scale::GROUP,
];

/// What to measure, and how thoroughly.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Smaller backlogs and fewer rounds.
    pub quick: bool,
    /// Hardly anything: to see that it works, not how fast.
    pub smoke: bool,
    /// Only the groups with these names; all if there is none.
    pub only: Vec<String>,
    /// How many rounds; the default depends on `quick`.
    pub rounds: Option<usize>,
    /// Where to write the report as JSON.
    pub json: Option<PathBuf>,
    /// The folder to draw plots into, as SVG.
    pub plots: Option<PathBuf>,
}

/// How large everything is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scale {
    pub(crate) rounds: usize,
    /// Events of a backlog.
    pub(crate) events: u64,
    /// The same where several backlogs are compared.
    pub(crate) shape_events: u64,
    /// Messages for the bare loops, which are held in memory.
    pub(crate) limit_messages: u64,
    /// Events a second for latencies, and for how long.
    pub(crate) rates: &'static [u64],
    pub(crate) seconds: u64,
    /// Sagas or TCC transactions at full load, and a second where the load is given.
    pub(crate) transactions: u64,
    pub(crate) transaction_rate: u64,
    /// Shares of other tables' rows in the log.
    pub(crate) foreign_percents: &'static [u64],
    /// Whether the ordinary backlog is all that is caught up with.
    pub(crate) smoke: bool,
}

impl Scale {
    fn new(options: &Options) -> Self {
        let rounds = options.rounds.unwrap_or(if options.smoke { 1 } else { 3 });
        let full = Self {
            rounds,
            events: 1_000_000,
            shape_events: 200_000,
            limit_messages: 200_000,
            rates: &[100, 1_000, 5_000, 20_000],
            seconds: 20,
            transactions: 10_000,
            transaction_rate: 100,
            foreign_percents: &[0, 25, 50, 75, 90, 99],
            smoke: false,
        };
        let quick = Self {
            events: 60_000,
            shape_events: 20_000,
            seconds: 1,
            transactions: 300,
            foreign_percents: &[0, 90, 99],
            ..full
        };
        match options {
            Options { smoke: true, .. } => Self {
                events: 2_000,
                rates: &[200],
                transactions: 50,
                transaction_rate: 20,
                foreign_percents: &[90],
                smoke: true,
                ..quick
            },
            Options { quick: true, .. } => quick,
            _ => full,
        }
    }
}

/// Measures, and writes down what was asked for.
///
/// # Errors
///
/// When a server cannot be got, a name of a group is wrong, or what is measured does not work.
pub async fn run(options: &Options) -> Result<Report> {
    if let Some(unknown) = options.only.iter().find(|name| !GROUPS.contains(&name.as_str())) {
        bail!("there is no measurement {unknown:?}; there are {}", GROUPS.join(", "));
    }
    let load_before = load_average();
    if load_before > REST {
        eprintln!(
            "bench: the load average is {load_before:.2}: something else is at work here, so the numbers will be rough"
        );
    }
    let scale = Scale::new(options);
    progress("starting the servers");
    let field = Field::start().await?;
    let mut measurements = Vec::new();
    for group in GROUPS {
        if options.only.is_empty() || options.only.iter().any(|name| name == group) {
            let began = Instant::now();
            measurements.extend(measure(group, &field, &scale).await?);
            progress(&format!("{group}: {:.0} s", began.elapsed().as_secs_f64()));
        }
    }
    let environment = Environment {
        processors: std::thread::available_parallelism()?.get(),
        processor: processor(),
        load_before,
        load_after: load_average(),
        mysql: field.world.database.version().to_string(),
        nats: field.world.nats.version().to_string(),
    };
    let report = Report { environment, measurements };
    if let Some(path) = &options.json {
        std::fs::write(path, serde_json::to_vec_pretty(&report)?)?;
    }
    if let Some(folder) = &options.plots {
        plot::draw(&report, folder)?;
    }
    Ok(report)
}

async fn measure(group: &str, field: &Field, scale: &Scale) -> Result<Vec<Measurement>> {
    match group {
        decode::GROUP => Box::pin(decode::measure(field, scale)).await,
        publish::GROUP => Box::pin(publish::measure(field, scale)).await,
        catch_up::GROUP => Box::pin(catch_up::measure(field, scale)).await,
        latency::GROUP => Box::pin(latency::measure(field, scale)).await,
        consume::GROUP => Box::pin(consume::measure(field, scale)).await,
        sagas::GROUP => Box::pin(sagas::measure(scale)).await,
        tcc::GROUP => Box::pin(tcc::measure(scale)).await,
        foreign::GROUP => Box::pin(foreign::measure(field, scale)).await,
        scale::GROUP => Box::pin(scale::measure(field, scale)).await,
        _ => Ok(Vec::new()),
    }
}

/// A line about what is done, on standard error: standard output is for the table.
pub(crate) fn progress(text: &str) {
    eprintln!("bench: {text}");
}

/// Of the last minute; 0 where it cannot be read.
fn load_average() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or_default()
}

fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    model.map_or_else(|| "unknown".to_owned(), |(_, model)| model.trim().to_owned())
}
