//! What other tables' traffic in the log costs the bridge.

use anyhow::Result;

use crate::field::{Backlog, Field};
use crate::report::{Measurement, Unit};
use crate::{Scale, catch_up, progress};

pub(crate) const GROUP: &str = "foreign";

pub(crate) async fn measure(field: &Field, scale: &Scale) -> Result<Vec<Measurement>> {
    let mut all = Vec::new();
    for percent in scale.foreign_percents {
        let backlog = Backlog { foreign_percent: *percent, ..Backlog::plain(scale.shape_events) };
        let new = |what: &str, unit| {
            Measurement::new(GROUP, format!("{what}, {percent} % foreign"), unit).at(what, *percent as f64)
        };
        let mut cpu = new("bridge CPU a million transactions in the log", Unit::Seconds);
        let mut rate = new("transactions in the log, from launch", Unit::PerSecond);
        progress(&format!("foreign traffic of {percent} %: filling the log"));
        field.fill(backlog).await?;
        let events = backlog.events();
        for round in 0..scale.rounds {
            progress(&format!("foreign traffic of {percent} %, round {}", round + 1));
            let run = Box::pin(catch_up::run(field, events)).await?;
            cpu.add(run.cpu.as_secs_f64() * 1e6 / backlog.rows as f64);
            rate.add(run.rate_from_launch * backlog.rows as f64 / events as f64);
        }
        all.extend([cpu, rate]);
    }
    Ok(all)
}
