//! A server process with its children: Postgres serves each connection in a process of its own.
//!
//! A machine that crashes takes all of them along, so a kill that is to look like one must too. Children that outlive
//! the server hold its shared memory, and the next start fails.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process};

use crate::wait::eventually;

const END_LIMIT: Duration = Duration::from_secs(10);

/// The children of a process, from `/proc`.
pub(crate) fn children(parent: u32) -> Result<Vec<Pid>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("finding the server's processes needs /proc")? {
        let name = entry?.file_name();
        let Some(number) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        // A process that ends meanwhile is nobody's child.
        if state(number).is_some_and(|(_, of)| of == parent) {
            found.extend(Pid::from_raw(number));
        }
    }
    Ok(found)
}

/// Sends a signal to each; one that has ended is left alone.
pub(crate) fn signal(processes: &[Pid], signal: Signal) {
    for process in processes {
        // It fails only for a process that has ended, or that we may not signal, and then the wait shows it.
        if let Err(err) = kill_process(*process, signal) {
            tracing::debug!(error = %err, "cannot signal a process of the server");
        }
    }
}

/// Waits until all have ended. One that nobody reaps counts as ended.
pub(crate) async fn ended(processes: &[Pid]) -> Result<()> {
    eventually("the server's processes to end", END_LIMIT, async || {
        let running = |process: &Pid| {
            state(process.as_raw_nonzero().get()).is_some_and(|(state, _)| !matches!(state, 'Z' | 'X'))
        };
        Ok((!processes.iter().any(running)).then_some(()))
    })
    .await
}

/// The state of a process and its parent, if it is there.
fn state(number: i32) -> Option<(char, u32)> {
    parse(&fs::read_to_string(format!("/proc/{number}/stat")).ok()?)
}

/// Reads `/proc/<pid>/stat`, see proc(5). The name stands in parentheses and may hold any of its own.
fn parse(stat: &str) -> Option<(char, u32)> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_line() {
        assert_eq!(parse("71 (postgres: a) b) S 12 71 71 0 -1"), Some(('S', 12)));
        assert_eq!(parse("nonsense"), None);
    }
}
