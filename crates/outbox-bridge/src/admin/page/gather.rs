//! Puts the status together, out of the process' own memory.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use outbox_event::Position;
use outbox_lease::Holder;

use super::advice::{self, Counts};
use super::exposition::Exposition;
use super::facts::Facts;
use super::history::{Counters, History, SECONDS};
use super::status::{
    CauseStatus, ComponentStatus, DeadLetters, EventStatus, FORMAT, Flow, HeldStatus, HistoryStatus,
    LeaderStatus, LetterStatus, Moment, NatsStatus, PositionStatus, Process, ResumeStatus, Resumes,
    SourceStatus, StandbyStatus, Standbys, State, Status, StreamStatus,
};
use crate::admin::board::{LastEvent, Notes, since_the_epoch};
use crate::admin::readiness::{Component, ReadinessReport, Role, STARTING};
use crate::instances::Instance;
use crate::metrics::{LATENCY_BUCKETS, names};

/// "Now" of rates.
const NOW_SECONDS: usize = 10;
/// "Now" of latencies.
const MINUTE_SECONDS: usize = 60;

/// What the status is made of.
pub(super) struct Parts<'a> {
    pub(super) facts: &'a Facts,
    pub(super) report: ReadinessReport,
    pub(super) notes: Notes,
    pub(super) metrics: &'a Exposition,
    pub(super) history: &'a History,
    pub(super) now: SystemTime,
}

#[expect(clippy::cast_possible_truncation, reason = "counters are whole and not negative")]
fn whole(value: f64) -> u64 {
    value as u64
}

fn count(metrics: &Exposition, name: &str) -> u64 {
    whole(metrics.sum(name).unwrap_or_default())
}

/// The counters of a sample.
pub(super) fn counters(metrics: &Exposition, facts: &Facts) -> Counters {
    let mut latency = [0; LATENCY_BUCKETS.len() + 1];
    let buckets = metrics.by(&format!("{}_bucket", names::COMMIT_TO_STORED), "le");
    for (limit, known) in LATENCY_BUCKETS.iter().zip(&mut latency) {
        *known = buckets.get(&*limit.to_string()).copied().map_or(0, whole);
    }
    if let Some(all) = latency.last_mut() {
        *all = buckets.get("+Inf").copied().map_or(0, whole);
    }
    let streams = metrics.by(names::EVENTS_PUBLISHED, "stream");
    Counters {
        events: count(metrics, names::EVENTS_PUBLISHED),
        bytes: count(metrics, names::PUBLISHED_BYTES),
        resumes: count(metrics, names::RESUMES),
        reconnects: count(metrics, names::SOURCE_RECONNECTS) + count(metrics, names::NATS_RECONNECTS),
        duplicates: count(metrics, names::DUPLICATES),
        latency,
        streams: facts
            .streams
            .iter()
            .map(|(stream, _)| streams.get(&**stream).copied().map_or(0, whole))
            .collect(),
    }
}

/// How late the streams are, as far as that is known: what was never read is not known to be late.
pub(super) fn lag_seconds(metrics: &Exposition, report: &ReadinessReport) -> Option<f64> {
    let reads = report.role == Role::Leader && report.components.get(&Component::Source) == Some(&None);
    if reads { metrics.max(names::LAG_SECONDS) } else { None }
}

impl Parts<'_> {
    pub(super) fn status(self) -> Status {
        let (metrics, history) = (self.metrics, self.history);
        let mut status = Status {
            format: FORMAT,
            name: self.facts.name.clone(),
            version: env!("CARGO_PKG_VERSION"),
            process: Process {
                host: self.facts.host.clone(),
                process: self.facts.process,
                started: Moment(self.facts.started),
            },
            at: Moment(self.now),
            ready: self.report.ready,
            role: self.report.role.name(),
            leader: self.leader(),
            standbys: self.standbys(),
            components: self.components(),
            warnings: Vec::new(),
            flow: self.flow(),
            source: self.source(),
            nats: NatsStatus {
                servers: self.facts.nats.clone(),
                server: self.notes.nats_server.as_ref().and_then(|server| server.name.clone()),
                version: self.notes.nats_server.as_ref().map(|server| server.version.clone()),
                reconnects: count(metrics, names::NATS_RECONNECTS),
            },
            streams: self.streams(),
            resumes: self.resumes(),
            dead_letters: self.dead_letters(),
            history: HistoryStatus {
                end: history.end().map(Moment),
                step_seconds: 1,
                events_per_second: rounded(history.events_per_second()),
                lag_seconds: rounded(history.lag_seconds()),
                latency_p50_seconds: rounded(history.latency(0.5)),
                latency_p99_seconds: rounded(history.latency(0.99)),
            },
        };
        let counts = Counts {
            reconnects: history.grown(SECONDS, |change| change.reconnects),
            duplicates: history.grown(SECONDS, |change| change.duplicates),
            cleanup_overdue_seconds: metrics.max(names::CLEANUP_OVERDUE).unwrap_or_default(),
            audit_findings: [names::AUDIT_MISSING, names::AUDIT_DOUBLED, names::AUDIT_REORDERED]
                .iter()
                .map(|name| count(metrics, name))
                .sum(),
        };
        status.warnings = advice::warnings(&status, counts, self.now);
        status
    }

    fn leads(&self) -> bool {
        self.report.role == Role::Leader
    }

    fn leader(&self) -> Option<LeaderStatus> {
        let leader = self.notes.leader.as_ref().filter(|_| self.report.role != Role::Waiting)?;
        Some(LeaderStatus {
            host: leader.host.clone(),
            process: leader.process,
            instance: leader.instance.clone(),
            this: self.leads(),
            since: Moment(leader.since),
            seen: leader.seen_at.map(Moment),
        })
    }

    /// The others as they were read, this one as it is.
    fn standbys(&self) -> Standbys {
        let notes = &self.notes;
        let leader = notes.leader.as_ref().map(|leader| &*leader.instance);
        let others = notes.instances.as_ref().map(|reading| {
            let others = reading.standbys(self.now, leader).into_iter();
            others
                .filter(|(other, _)| other.holder.instance != notes.instance)
                .map(standby)
                .collect::<Vec<_>>()
        });
        // By now others may be there, which cannot be read.
        let current = others.filter(|others| notes.instances_problem.is_none() || !others.is_empty());
        Standbys {
            known: current.map(|others| others.into_iter().chain(self.this_standby()).collect()),
            read: notes.instances.as_ref().map(|reading| Moment(reading.read_at)),
            problem: notes.instances_problem.clone(),
        }
    }

    fn this_standby(&self) -> Option<StandbyStatus> {
        matches!(self.report.role, Role::Standby { .. }).then(|| StandbyStatus {
            host: self.facts.host.clone(),
            process: self.facts.process,
            instance: self.notes.instance.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            this: true,
            since: Moment(self.report.role_since),
            seen: None,
        })
    }

    /// Only NATS matters to a bridge that does not lead; what it last knew of the rest holds no more.
    fn components(&self) -> BTreeMap<&'static str, ComponentStatus> {
        let state = |component: Component, reason: &Option<String>| match (reason, component) {
            (None, Component::Nats) => State::Ready,
            (Some(_), Component::Nats) => State::NotReady,
            (None, _) if self.leads() => State::Ready,
            (Some(_), _) if self.leads() => State::NotReady,
            // The bucket has to be opened before anybody can lead.
            (Some(reason), Component::Checkpoint)
                if self.report.role == Role::Waiting && reason != STARTING =>
            {
                State::NotReady
            }
            _ => State::Idle,
        };
        let status = |(component, reason): (&Component, &Option<String>)| {
            let state = state(*component, reason);
            let waits = state == State::NotReady;
            let since = self.report.since.get(component).copied().map(Moment);
            let told = ComponentStatus {
                state,
                since: since.filter(|_| state != State::Idle),
                reason: reason.clone().filter(|_| waits),
                remedy: waits.then(|| advice::remedy(component.name())),
                section: waits.then_some(advice::WAITING),
            };
            (component.name(), told)
        };
        self.report.components.iter().map(status).collect()
    }

    fn flow(&self) -> Flow {
        let (metrics, history) = (self.metrics, self.history);
        Flow {
            events_per_second: round(history.rate(NOW_SECONDS, |change| change.events)),
            bytes_per_second: round(history.rate(NOW_SECONDS, |change| change.bytes)),
            events: count(metrics, names::EVENTS_PUBLISHED),
            bytes: count(metrics, names::PUBLISHED_BYTES),
            lag_seconds: lag_seconds(metrics, &self.report).map(round),
            latency_p50_seconds: history.recent_latency(MINUTE_SECONDS, 0.5).map(round),
            latency_p99_seconds: history.recent_latency(MINUTE_SECONDS, 0.99).map(round),
            in_flight_messages: if self.leads() { count(metrics, names::IN_FLIGHT_MESSAGES) } else { 0 },
            duplicates_dropped: count(metrics, names::DUPLICATES),
        }
    }

    fn source(&self) -> SourceStatus {
        let notes = &self.notes;
        let position = notes.reached.as_ref().filter(|_| self.leads()).map(|reached| PositionStatus {
            server: reached.server.clone(),
            file: reached.file.clone(),
            offset: reached.offset,
            prepared_xa: reached.prepared,
        });
        let behind = notes.log_behind.filter(|_| self.leads());
        SourceStatus {
            servers: self.facts.source.clone(),
            read: self.report.server.clone(),
            position,
            checkpoint: notes.checkpoint_at.filter(|_| self.leads()).map(Moment),
            log_behind_bytes: behind.map(|(bytes, _)| bytes),
            log_behind_asked: behind.map(|(_, at)| Moment(at)),
            reconnects: count(self.metrics, names::SOURCE_RECONNECTS),
            switches: count(self.metrics, names::SOURCE_SWITCHES),
        }
    }

    fn streams(&self) -> Vec<StreamStatus> {
        let events = self.metrics.by(names::EVENTS_PUBLISHED, "stream");
        let lags = self.metrics.by(names::LAG_SECONDS, "stream");
        let in_flight = self.metrics.by(names::IN_FLIGHT_MESSAGES, "stream");
        let lag_is_known = lag_seconds(self.metrics, &self.report).is_some();
        let mut found = Vec::with_capacity(self.facts.streams.len());
        for (index, (name, tables)) in self.facts.streams.iter().enumerate() {
            let notes = self.notes.streams.get(name).cloned().unwrap_or_default();
            let known = notes.known.filter(|_| self.leads());
            found.push(StreamStatus {
                name: name.clone(),
                tables: tables.clone(),
                events_per_second: round(self.history.rate(NOW_SECONDS, |change| change.of(index))),
                events: events.get(&**name).copied().map_or(0, whole),
                lag_seconds: lags.get(&**name).copied().filter(|_| lag_is_known).map(round),
                in_flight_messages: in_flight.get(&**name).copied().filter(|_| self.leads()).map_or(0, whole),
                sequence: known.as_ref().map(|(sequence, _)| *sequence),
                position: known.and_then(|(_, position)| position).map(|position| position.to_string()),
                trouble: notes.trouble.filter(|_| self.leads()).map(|trouble| trouble.to_string()),
                held: notes.held.map(|held| HeldStatus {
                    messages: held.messages,
                    bytes: held.bytes,
                    last_sequence: held.last_sequence,
                    last_stored: held.last_stored_at.map(Moment),
                    asked: Moment(held.asked_at),
                }),
                last_events: notes.events.into_iter().rev().map(event).collect(),
            });
        }
        found
    }

    fn resumes(&self) -> Resumes {
        let causes = self.metrics.by_two(names::RESUMES, "stream", "cause").into_iter();
        let mut causes: Vec<_> = causes
            .map(|(stream, cause, value)| CauseStatus {
                stream: stream.to_owned(),
                cause: cause.to_owned(),
                count: whole(value),
            })
            .collect();
        causes.sort_by_key(|cause| std::cmp::Reverse(cause.count));
        let last = self.notes.resumes.iter().rev().map(|resume| ResumeStatus {
            at: Moment(resume.at),
            stream: resume.stream.clone(),
            cause: resume.cause,
        });
        Resumes {
            total: count(self.metrics, names::RESUMES),
            last_ten_minutes: self.history.grown(SECONDS, |change| change.resumes),
            causes,
            last: last.collect(),
        }
    }

    fn dead_letters(&self) -> Option<DeadLetters> {
        let stream = self.facts.letters.clone()?;
        let known = self.notes.letters.as_ref();
        let last = known.into_iter().flat_map(|known| known.last.iter().rev());
        Some(DeadLetters {
            stream,
            stored: count(self.metrics, names::DEAD_LETTERS),
            open: known.map(|known| known.open),
            done: known.map(|known| known.done),
            complete: known.is_some_and(|known| known.complete),
            asked: known.and_then(|known| known.asked_at).map(Moment),
            last: last
                .map(|letter| LetterStatus {
                    number: letter.sequence,
                    stream: letter.stream.clone(),
                    table: letter.table.clone(),
                    reason: letter.reason.clone(),
                    id: letter.id.clone(),
                    position: letter.position.clone(),
                })
                .collect(),
        })
    }
}

fn standby((instance, seen): (Instance, SystemTime)) -> StandbyStatus {
    let Instance { holder: Holder { instance, host, process }, program, since_seconds, .. } = instance;
    StandbyStatus {
        host,
        process,
        instance,
        version: program,
        this: false,
        since: Moment(since_the_epoch(Duration::from_secs(since_seconds))),
        seen: Some(Moment(seen)),
    }
}

fn event(event: LastEvent) -> EventStatus {
    let position = Position {
        gtid: event.transaction.gtid.clone(),
        file: event.transaction.file.to_string(),
        offset: event.transaction.offset,
        row: event.row,
    };
    EventStatus {
        sequence: event.sequence,
        id: event.id,
        kind: event.kind,
        subject: event.subject,
        table: event.table.to_string(),
        position: position.to_string(),
        committed: Moment::of_micros(event.transaction.committed_micros),
        stored: Moment(event.stored_at),
    }
}

/// To ten thousandths: shorter to write.
fn round(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

fn rounded(values: Vec<Option<f64>>) -> Vec<Option<f64>> {
    values.into_iter().map(|value| value.map(round)).collect()
}
