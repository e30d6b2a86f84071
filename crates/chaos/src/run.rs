//! One run: rounds of faults, quiet times, and the comparison.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use outbox_bridge_tests::{Bridge, Event, TABLE};

use crate::faults::UNAVAILABLE;
use crate::oracle::Oracle;
use crate::place::Place;
use crate::producer::Producers;
use crate::report::Report;
use crate::schedule::{BRIDGES, Fault, ROUND, Timed, schedule};

/// How long the bridges may take, after everything was healed, to have stored what was committed until then. A NATS server
/// that was killed, one that was cut off, and a lease have their times one after the other.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(60);
/// The most memory that a bridge may ever have resident.
const MEMORY_MAX_BYTES: u64 = 128 << 20;
/// How often bridges, producers and the stream are looked at while nothing else is to be done.
const LOOK: Duration = Duration::from_millis(200);
/// A run has so many rounds a minute; what a round does not take is its quiet time.
const ROUNDS_A_MINUTE: usize = 2;

/// What a run is like.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where all randomness comes from.
    pub seed: u64,
    /// About how long it is to take.
    pub minutes: usize,
    /// Where logs are kept if it fails.
    pub keep: PathBuf,
}

impl Options {
    /// How many rounds that makes.
    #[must_use]
    pub fn rounds(&self) -> usize {
        self.minutes * ROUNDS_A_MINUTE
    }
}

/// Breaks everything for so long, and compares.
///
/// # Errors
///
/// The first thing that is wrong, with what had happened until then. Logs are kept.
pub async fn run(options: &Options) -> Result<Report> {
    let mut place = Box::pin(Place::new()).await?;
    let producers = Producers::start(&place.writable.subscribe(), options.seed);
    let mut run = Run {
        place: &mut place,
        producers,
        oracle: Oracle::default(),
        report: Report { seed: options.seed, ..Report::default() },
        journal: Vec::new(),
        began: Instant::now(),
        growth: (0, Instant::now()),
        down: [false; BRIDGES],
    };
    let result = Box::pin(run.all(options)).await;
    let journal = std::mem::take(&mut run.journal).join("\n");
    match result {
        Ok(()) => Ok(run.report),
        Err(error) => {
            place.keep_logs(&options.keep)?;
            std::fs::write(options.keep.join("journal.txt"), &journal)?;
            let folder = options.keep.display();
            Err(anyhow!("{error:#}\nseed {}; logs and the journal of faults are in {folder}", options.seed))
        }
    }
}

struct Run<'a> {
    place: &'a mut Place,
    producers: Producers,
    oracle: Oracle,
    report: Report,
    journal: Vec<String>,
    began: Instant,
    /// How many messages the stream had when it last had more, and when that was.
    growth: (u64, Instant),
    /// Which bridges a fault has taken away.
    down: [bool; BRIDGES],
}

impl Run<'_> {
    async fn all(&mut self, options: &Options) -> Result<()> {
        for (number, faults) in schedule(options.seed, options.rounds()).into_iter().enumerate() {
            self.note(&format!("round {number}"));
            self.round(&faults).await?;
            self.settle().await?;
            self.report.rounds += 1;
            eprintln!(
                "    round {} of {}: {} faults, {} messages compared",
                number + 1,
                options.rounds(),
                self.report.faults(),
                self.oracle.stored()
            );
        }
        self.finish().await
    }

    fn note(&mut self, what: &str) {
        self.journal.push(format!("{:8.3} {what}", self.began.elapsed().as_secs_f64()));
    }

    /// One round of faults; what one of them takes longer than planned, others begin later.
    async fn round(&mut self, faults: &[Timed]) -> Result<()> {
        let begin = tokio::time::Instant::now();
        let mut steps: Vec<(Duration, bool, Fault)> = faults
            .iter()
            .flat_map(|timed| [(timed.begin, true, timed.fault), (timed.end, false, timed.fault)])
            .collect();
        steps.sort_by_key(|(at, begins, _)| (*at, !begins));
        for (at, begins, fault) in steps {
            while begin.elapsed() < at {
                tokio::time::sleep_until((begin + at).min(tokio::time::Instant::now() + LOOK)).await;
                self.look().await?;
            }
            self.note(&format!("{}: {fault}", if begins { "begin" } else { "end" }));
            if begins {
                self.report.count(fault);
                self.take_away(fault, true);
                self.place.begin(fault).await.with_context(|| format!("cannot begin: {fault}"))?;
            } else {
                self.place.end(fault).await.with_context(|| format!("cannot end: {fault}"))?;
                self.take_away(fault, false);
            }
        }
        while begin.elapsed() < ROUND {
            tokio::time::sleep(LOOK).await;
            self.look().await?;
        }
        Ok(())
    }

    fn take_away(&mut self, fault: Fault, away: bool) {
        if let Fault::KillBridge(index) | Fault::StopBridge(index) | Fault::FreezeBridge(index) = fault
            && let Some(down) = self.down.get_mut(index)
        {
            *down = away;
        }
    }

    /// Looks after bridges and producers, and how the stream grows.
    async fn look(&mut self) -> Result<()> {
        self.producers.check().await?;
        for (index, bridge) in self.place.bridges.iter_mut().enumerate() {
            if self.down.get(index) == Some(&true) {
                continue;
            }
            if restarted(bridge).with_context(|| format!("bridge {index}"))? {
                self.report.restarts += 1;
                let at = self.began.elapsed().as_secs_f64();
                self.journal.push(format!("{at:8.3} bridge {index} asked to be started again"));
            }
            let memory = bridge.memory_peak_bytes().unwrap_or_default();
            self.report.memory_peak_bytes = self.report.memory_peak_bytes.max(memory);
        }
        let memory = self.report.memory_peak_bytes;
        ensure!(memory <= MEMORY_MAX_BYTES, "a bridge took {} MiB of memory", memory >> 20);
        self.watch_growth().await;
        Ok(())
    }

    async fn watch_growth(&mut self) {
        let asking = self.place.jetstream.get_stream(outbox_bridge_tests::STREAM);
        if let Ok(Ok(stream)) = tokio::time::timeout(LOOK, asking).await {
            let messages = stream.cached_info().state.messages;
            if messages > self.growth.0 {
                self.report.longest_stall = self.report.longest_stall.max(self.growth.1.elapsed());
                self.growth = (messages, Instant::now());
            }
        }
    }

    /// The quiet time: what is committed by now must be stored within the limit, though producers go on.
    async fn settle(&mut self) -> Result<()> {
        let begin = Instant::now();
        let mut event = Event::new(self.report.rounds as u64 + 1);
        event.aggregate_id = "quiet".to_owned();
        let mut conn = self.place.source.conn().await?;
        event.insert(&mut conn, TABLE).await?;
        drop(conn);
        let committed = Oracle::committed(self.place).await?;
        self.note("quiet");
        loop {
            self.look().await?;
            self.oracle.follow(self.place).await?;
            let missing = self.oracle.missing(&committed);
            if missing == 0 {
                break;
            }
            if begin.elapsed() > CATCH_UP_LIMIT {
                bail!(
                    "{missing} of {} events are not stored {CATCH_UP_LIMIT:?} after all was healed",
                    committed.len()
                );
            }
            tokio::time::sleep(LOOK).await;
        }
        self.report.longest_catch_up = self.report.longest_catch_up.max(begin.elapsed());
        self.note("caught up");
        Ok(())
    }

    async fn finish(&mut self) -> Result<()> {
        let producers = std::mem::take(&mut self.producers);
        let believed = producers.committed();
        producers.stop().await?;
        self.settle().await?;
        let counts = Oracle::compare(self.place).await?;
        ensure!(
            (counts.committed + counts.letters) as u64 >= believed,
            "{believed} events were committed, but the table has {}: MySQL lost what it had acknowledged",
            counts.committed + counts.letters
        );
        self.report.committed = counts.committed;
        self.report.stored = counts.stored;
        self.report.missing = counts.missing;
        self.report.doubled = counts.doubled;
        self.report.letters = counts.letters;
        self.report.large = counts.large;
        self.report.switches = self.place.switches();
        let descents = self.oracle.descents();
        ensure!(
            descents <= self.report.switches,
            "positions went back {descents} times, and the source's server changed {} times",
            self.report.switches
        );
        self.report.took = self.began.elapsed();
        for bridge in std::mem::take(&mut self.place.bridges) {
            bridge.finish().await?;
        }
        Ok(())
    }
}

/// Does what a supervisor does: a bridge that ended with the code that asks for it is started again.
fn restarted(bridge: &mut Bridge) -> Result<bool> {
    match bridge.exited()? {
        None => Ok(false),
        Some(status) if status.code() == Some(UNAVAILABLE) => {
            bridge.launch()?;
            Ok(true)
        }
        Some(status) => Err(bridge.explain(anyhow!("it ended with {status}"))),
    }
}
