//! Shows how far a long command is.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

/// How often progress is shown.
const ON_A_TERMINAL: Duration = Duration::from_millis(200);
const AS_LINES: Duration = Duration::from_secs(10);
/// How wide the bar is.
const BAR: u64 = 30;

/// Shows progress on standard error: a bar on a terminal, now and then a line elsewhere.
pub(super) struct Display {
    terminal: bool,
    shown: Option<(Instant, String)>,
}

impl Display {
    pub(super) fn new() -> Self {
        Self { terminal: std::io::stderr().is_terminal(), shown: None }
    }

    /// Shows that of about so many `things` so many are done, unless that was shown just now.
    pub(super) fn show(&mut self, stage: &str, (done, of): (u64, u64), things: &str, more: &str) {
        let pause = if self.terminal { ON_A_TERMINAL } else { AS_LINES };
        if self.shown.as_ref().is_some_and(|(at, shown)| shown == stage && at.elapsed() < pause) {
            return;
        }
        self.shown = Some((Instant::now(), stage.to_owned()));
        if !self.terminal {
            eprintln!("{stage}: {done}{things} of about {of}{more}");
            return;
        }
        let reached = (done * BAR).checked_div(of.max(done)).unwrap_or(0);
        let bar: String = (0..BAR).map(|place| if place < reached { '#' } else { '.' }).collect();
        eprint!("\r\x1b[K{stage} [{bar}] {done} of about {of}{more}");
    }

    pub(super) fn end(&self) {
        if self.terminal && self.shown.is_some() {
            eprintln!();
        }
    }
}
