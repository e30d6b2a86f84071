//! Announces this bridge to the others, and notes who else is there.

use std::time::{Duration, SystemTime};

use async_nats::connection::State;
use async_nats::jetstream::{
    self,
    kv::{CreateErrorKind, Store, UpdateErrorKind},
};
use outbox_lease::Holder;
use tokio::{
    task::JoinHandle,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{Instance, Reading, Record, instances_key, is_about, millis, read};
use crate::{
    admin::{Readiness, ReadinessReport},
    config::Config,
    exit::report,
    metrics::BridgeMetrics,
    publish::Complaints,
};

/// How long the server may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// The others are looked at so often at least.
const LOOK_INTERVAL_MAX: Duration = Duration::from_secs(2);
/// How long nothing is tried that is forbidden: the server logs each attempt.
const FORBIDDEN_PAUSE: Duration = Duration::from_secs(60);
/// So often in a row another bridge may be faster with its sign of life.
const ATTEMPTS_MAX: usize = 5;

/// The announcement of a bridge, which is renewed until it is withdrawn.
#[derive(Debug)]
pub(crate) struct Announcement {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Announcement {
    /// Announces the bridge with this `holder`, as what `readiness` says that it is. `complaints` are what the server says on this
    /// connection.
    pub(crate) fn begin(
        config: &Config,
        mut context: jetstream::Context,
        holder: Holder,
        complaints: Complaints,
        readiness: Readiness,
    ) -> Self {
        context.set_timeout(ANSWER_LIMIT);
        BridgeMetrics::new().standbys.set(f64::NAN);
        let teller = Teller {
            context,
            name: config.name.clone(),
            bucket: config.checkpoint.bucket.clone(),
            ttl: config.lease.ttl,
            holder,
            complaints,
            readiness,
            store: None,
            told: None,
            complained: false,
        };
        let stop = CancellationToken::new();
        Self { task: tokio::spawn(teller.run(stop.clone())), stop }
    }

    /// Takes it back, so that the others see at once that this bridge is gone. If the server does not answer, they see it later.
    pub(crate) async fn withdraw(mut self) {
        self.stop.cancel();
        // It fails only where it panicked, and then nothing is left to take back.
        drop((&mut self.task).await);
    }
}

impl Drop for Announcement {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What was announced last.
struct Told {
    role: &'static str,
    at: Instant,
}

struct Teller {
    context: jetstream::Context,
    name: String,
    bucket: String,
    ttl: Duration,
    holder: Holder,
    complaints: Complaints,
    readiness: Readiness,
    store: Option<Store>,
    /// `None`: this process is not known to the others yet.
    told: Option<Told>,
    /// Whether the log already says that it is forbidden.
    complained: bool,
}

impl Teller {
    async fn run(mut self, stop: CancellationToken) {
        loop {
            let report = self.readiness.report();
            let turn = async {
                let pause = self.turn(&report).await;
                let changed = self.readiness.role_other_than(report.role.name());
                // Another role is told at once; that it ends by time is no error.
                drop(timeout(pause, changed).await);
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return self.withdraw().await,
                () = turn => {}
            }
        }
    }

    /// Looks who is there and announces this bridge when it is time; says how long to wait until the next time.
    async fn turn(&mut self, report: &ReadinessReport) -> Duration {
        match self.look_and_tell(report).await {
            Ok(reading) => {
                self.complained = false;
                self.note(reading);
                (self.ttl / 3).min(LOOK_INTERVAL_MAX)
            }
            Err(reason) => self.fail(reason),
        }
    }

    fn fail(&mut self, reason: String) -> Duration {
        self.store = None;
        BridgeMetrics::new().standbys.set(f64::NAN);
        let forbidden = self.complaints.take(|complaint| is_about(&self.name, complaint));
        let (problem, pause) = match forbidden {
            Some(complaint) => {
                if !self.complained {
                    tracing::warn!(
                        reason = complaint,
                        "the bridges of this name cannot announce themselves to one another, so nobody lists those that stand by; \
                         `outbox-bridge check` says which permission is missing"
                    );
                }
                self.complained = true;
                (complaint, FORBIDDEN_PAUSE)
            }
            None => {
                tracing::debug!(reason, "cannot look now who stands by");
                let problem = if self.is_connected() { reason } else { "NATS is away".to_owned() };
                (problem, (self.ttl / 10).min(LOOK_INTERVAL_MAX))
            }
        };
        self.readiness.board().note(|notes| notes.instances_problem = Some(problem));
        pause
    }

    async fn look_and_tell(&mut self, report: &ReadinessReport) -> Result<Reading, String> {
        for _ in 0..ATTEMPTS_MAX {
            let mut reading = self.read().await?;
            let this = self.instance(report);
            if self.is_told(&reading.record, report) {
                return Ok(reading);
            }
            let begins = self.told.is_none();
            let record = reading.record.without(|other| begins && self.holder.has_outlived(other)).with(this);
            let role = report.role.name();
            if self.write(&record, reading.revision).await? {
                self.told = Some(Told { role, at: Instant::now() });
                reading.record = record;
                return Ok(reading);
            }
        }
        Err("other bridges write the record all the time".to_owned())
    }

    /// Whether the others know what this bridge does, and that it still does it.
    fn is_told(&self, record: &Record, report: &ReadinessReport) -> bool {
        let is_fresh = |told: &Told| told.role == report.role.name() && told.at.elapsed() < self.ttl / 3;
        self.told.as_ref().is_some_and(is_fresh) && record.has(&self.holder.instance)
    }

    fn instance(&self, report: &ReadinessReport) -> Instance {
        let since = report.role_since.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Instance {
            holder: self.holder.clone(),
            program: env!("CARGO_PKG_VERSION").to_owned(),
            role: report.role.name().to_owned(),
            since_seconds: since.as_secs(),
            ttl_millis: millis(self.ttl),
            seen_millis: 0,
        }
    }

    fn note(&self, reading: Reading) {
        self.readiness.board().note(|notes| {
            let leader = notes.leader.as_ref().map(|leader| &*leader.instance);
            BridgeMetrics::new().standbys.set(reading.record.standbys(leader).count() as f64);
            notes.instances_problem = None;
            notes.instances = Some(reading);
        });
    }

    fn is_connected(&self) -> bool {
        self.context.client().connection_state() == State::Connected
    }

    async fn store(&mut self) -> Result<Store, String> {
        if self.store.is_none() {
            // It is made by whoever would lead.
            let store = self.context.get_key_value(&self.bucket).await;
            self.store = Some(store.map_err(|error| report(&error))?);
        }
        self.store.clone().ok_or_else(|| "no bucket".to_owned())
    }

    async fn read(&mut self) -> Result<Reading, String> {
        let reading = async {
            let store = self.store().await?;
            read(&self.context, &store, &self.name).await
        };
        timeout(ANSWER_LIMIT, reading).await.unwrap_or_else(|_| Err("no answer".to_owned()))
    }

    /// Writes the record in place of a revision, or where there is none; false if another one was faster.
    async fn write(&mut self, record: &Record, revision: Option<u64>) -> Result<bool, String> {
        let (store, key) = (self.store().await?, instances_key(&self.name));
        let value = serde_json::to_vec(record).map_err(|error| error.to_string())?.into();
        let writing = async {
            match revision {
                Some(revision) => match store.update(&key, value, revision).await {
                    Ok(_) => Ok(true),
                    Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => Ok(false),
                    Err(error) => Err(report(&error)),
                },
                None => match store.create(&key, value).await {
                    Ok(_) => Ok(true),
                    Err(error) if error.kind() == CreateErrorKind::AlreadyExists => Ok(false),
                    Err(error) => Err(report(&error)),
                },
            }
        };
        timeout(ANSWER_LIMIT, writing).await.unwrap_or_else(|_| Err("no answer".to_owned()))
    }

    async fn withdraw(mut self) {
        if self.told.is_none() || !self.is_connected() {
            return;
        }
        match timeout(ANSWER_LIMIT, self.leave()).await {
            Ok(Ok(())) => {}
            Ok(Err(reason)) => {
                tracing::debug!(reason, "the others will see a little later that this bridge is gone")
            }
            Err(_) => tracing::debug!("the others will see a little later that this bridge is gone"),
        }
    }

    async fn leave(&mut self) -> Result<(), String> {
        for _ in 0..ATTEMPTS_MAX {
            let Reading { record, revision, .. } = self.read().await?;
            if self.write(&record.left_by(&self.holder.instance), revision).await? {
                return Ok(());
            }
        }
        Err("other bridges write the record all the time".to_owned())
    }
}
