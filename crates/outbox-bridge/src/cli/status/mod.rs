//! `outbox-bridge status`: who leads and who stands by, how far the leader is, what the streams hold. Asks the servers, not the bridge, so it works from
//! anywhere, also when no bridge runs.

mod show;

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use async_nats::jetstream::{self, kv};
use outbox_event::{header, log_file_number};
use outbox_lease::{Holder, Record};
use serde::Serialize;

use super::check::permissions;
use super::{block_on, print_out};
use crate::checkpoint::{CheckpointError, Checkpoints as _, KvCheckpoints, LogPoint};
use crate::config::Config;
use crate::exit::{Exit, report};
use crate::instances;
use crate::lead::lease_key;
use crate::nats;
use crate::run::{all_servers, connect_options};
use crate::source::connection::{ConnectOptions, Connection};
use crate::source::{Standing, bytes_behind, find::log_end, standing};

/// How to show it.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(super) struct Options {
    /// As one JSON object a line
    #[arg(long)]
    json: bool,
    /// Again every so many seconds, until Ctrl-C
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2",
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    watch: Option<u64>,
}

/// Everything that is shown. What could not be learnt has an error in its place.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Status {
    /// The bridge's name.
    name: String,
    /// Why NATS cannot be asked, if so; then nothing else about it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    nats_error: Option<String>,
    /// Who holds the lease, and renews it.
    leader: Option<Record>,
    /// Who held it last and does not renew it.
    #[serde(skip_serializing_if = "Option::is_none")]
    former_leader: Option<Former>,
    /// Which bridges of this name stand by; `None`: not known.
    standbys: Option<Vec<Standby>>,
    /// Why that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    standbys_error: Option<String>,
    checkpoint: Option<Position>,
    source: Source,
    /// All servers of `source.urls`, if there are several: how each stands to the checkpoint.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    servers: BTreeMap<String, String>,
    streams: BTreeMap<String, Stream>,
}

/// A bridge whose lease has run out.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Former {
    #[serde(flatten)]
    lease: Record,
    /// How long ago it was renewed.
    seen_seconds_ago: u64,
}

/// A bridge that stands by.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Standby {
    #[serde(flatten)]
    holder: Holder,
    program: String,
    /// Since when, in seconds since the epoch by its own clock.
    since_seconds: u64,
    /// How long ago it gave a sign of life.
    seen_seconds_ago: u64,
}

/// The last checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Position {
    file: String,
    offset: u64,
    /// How long ago it was written.
    age_seconds: u64,
    /// XA transactions that are prepared and neither committed nor rolled back.
    prepared: usize,
}

/// The source's log.
#[derive(Debug, Clone, PartialEq, Serialize, Default)]
struct Source {
    address: String,
    /// Where the log ends.
    file: String,
    offset: u64,
    /// How many bytes of it there are from the checkpoint on, which names the beginning of the last transaction that is done.
    behind_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// One stream.
#[derive(Debug, Clone, PartialEq, Serialize, Default)]
struct Stream {
    messages: u64,
    bytes: u64,
    last_sequence: u64,
    /// How long ago the last message was stored.
    age_seconds: Option<u64>,
    /// Where its row stood in the log.
    position: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

pub(super) fn execute(config: &Config, options: Options) -> Exit {
    let ended = block_on(async {
        loop {
            let status = Box::pin(gather(config)).await;
            let text = if options.json {
                serde_json::to_string(&status).unwrap_or_default() + "\n"
            } else {
                status.to_string()
            };
            let printed = print_out(&text);
            let Some(seconds) = options.watch.filter(|_| printed == Exit::Success) else {
                return if printed == Exit::Success { status.exit() } else { printed };
            };
            tokio::time::sleep(Duration::from_secs(seconds)).await;
        }
    });
    ended.unwrap_or_else(|exit| exit)
}

impl Status {
    fn hold(&mut self, lease: Option<(Record, Duration)>) {
        match lease {
            Some((lease, age)) if age > lease.ttl() => {
                self.former_leader = Some(Former { lease, seen_seconds_ago: age.as_secs() });
            }
            lease => self.leader = lease.map(|(lease, _)| lease),
        }
    }

    fn exit(&self) -> Exit {
        if self.leader.is_some() { Exit::Success } else { Exit::Unavailable }
    }
}

async fn gather(config: &Config) -> Status {
    let mut status = Status {
        name: config.name.clone(),
        nats_error: None,
        leader: None,
        former_leader: None,
        standbys: None,
        standbys_error: None,
        checkpoint: None,
        source: Source::default(),
        servers: BTreeMap::new(),
        streams: BTreeMap::new(),
    };
    let mut point = None;
    let mut place = None;
    match permissions::connect(&config.nats, &format!("{}-status", config.name)).await {
        Ok((client, complaints)) => {
            let mut context = nats::jetstream(&config.nats, client);
            context.set_timeout(permissions::ANSWER_TIMEOUT);
            match ask_bucket(config, &context).await {
                Ok((lease, checkpoint)) => {
                    status.hold(lease);
                    match ask_standbys(config, &context, status.leader.as_ref()).await {
                        Ok((standbys, doubt)) => {
                            status.standbys =
                                Some(standbys).filter(|known| doubt.is_none() || !known.is_empty());
                            status.standbys_error = doubt;
                        }
                        Err(error) => status.standbys_error = Some(error + &complaints.all()),
                    }
                    if let Some((position, found)) = checkpoint {
                        place = log_file_number(&found.file).map(|file| (file, position.offset));
                        point = Some(found);
                        status.checkpoint = Some(position);
                    }
                }
                Err(error) => status.nats_error = Some(error),
            }
            for outbox in &config.outboxes {
                if !status.streams.contains_key(&outbox.stream) {
                    let stream = ask_stream(&context, &outbox.stream).await;
                    let stream =
                        stream.unwrap_or_else(|error| Stream { error: Some(error), ..Stream::default() });
                    status.streams.insert(outbox.stream.clone(), stream);
                }
            }
        }
        Err(error) => status.nats_error = Some(report(&error)),
    }
    let (read, servers) = ask_servers(config, point.as_ref()).await;
    status.servers = servers;
    status.source = ask_source(&read, place).await;
    status
}

/// The server that is read, as far as that can be told, and how each of several stands.
async fn ask_servers(
    config: &Config,
    point: Option<&LogPoint>,
) -> (ConnectOptions, BTreeMap<String, String>) {
    let mut read = connect_options(&config.source);
    let mut told = BTreeMap::new();
    if config.source.others.is_empty() {
        return (read, told);
    }
    for server in all_servers(&config.source) {
        let address = server.address();
        let text = match standing(&server, point).await {
            Ok(Standing { server: name, missing, follows }) => {
                let is_read = point.is_some_and(|point| point.server == name);
                if is_read {
                    read = server;
                }
                let text = match (missing.as_str(), follows) {
                    ("", _) => "has all that the checkpoint has".to_owned(),
                    (missing, true) => format!("a replica that does not have {missing} yet"),
                    (missing, false) => format!("has lost {missing}"),
                };
                format!("{name}, {text}{}", if is_read { ", is read" } else { "" })
            }
            Err(error) => report(&error),
        };
        told.insert(address, text);
    }
    (read, told)
}

/// The lease, how long ago it was renewed, and the checkpoint.
type Bucket = (Option<(Record, Duration)>, Option<(Position, LogPoint)>);

/// The lease and the checkpoint. A bucket that does not exist holds neither.
async fn ask_bucket(config: &Config, context: &jetstream::Context) -> Result<Bucket, String> {
    let bucket = &config.checkpoint.bucket;
    let stream = context.get_stream(format!("KV_{bucket}")).await;
    match stream {
        Ok(_) => {}
        Err(error) if nats::is_missing(&error) => return Ok((None, None)),
        Err(error) => return Err(report(&error)),
    }
    let store = context.get_key_value(bucket).await.map_err(|error| report(&error))?;
    let lease = store.entry(lease_key(&config.name)).await.map_err(|error| report(&error))?;
    let now = nats::server_time(context, &store.stream_name).await.map_err(|error| report(&error))?;
    let lease = lease.filter(|entry| entry.operation == kv::Operation::Put);
    let lease = lease.and_then(|entry| {
        let age = now.duration_since(entry.created.into()).unwrap_or_default();
        serde_json::from_slice(&entry.value).ok().map(|record| (record, age))
    });
    let mut checkpoints = KvCheckpoints::new(context.clone(), bucket.clone(), config.name.clone(), 1);
    let checkpoint = match checkpoints.load().await {
        Ok(checkpoint) => checkpoint,
        Err(error @ CheckpointError::Unreadable { .. }) => return Err(report(&error)),
        Err(error) => return Err(report(&error)),
    };
    let position = checkpoint.map(|(checkpoint, _)| {
        let position = Position {
            age_seconds: seconds_since(checkpoint.written_seconds),
            offset: checkpoint.point.offset,
            prepared: checkpoint.point.prepared.len(),
            file: checkpoint.point.file.clone(),
        };
        (position, checkpoint.point)
    });
    Ok((lease, position))
}

/// The bridges that stand by, and why there may be others.
async fn ask_standbys(
    config: &Config,
    context: &jetstream::Context,
    leader: Option<&Record>,
) -> Result<(Vec<Standby>, Option<String>), String> {
    let Ok(store) = context.get_key_value(&config.checkpoint.bucket).await else {
        // Asked about a moment ago: it does not exist.
        return Ok((Vec::new(), None));
    };
    let reading = instances::read(context, &store, &config.name).await?;
    let leader = leader.map(|leader| &*leader.holder.instance);
    let doubt = leader.filter(|leader| !reading.has(leader)).map(|_| {
        "the leader does not announce itself, so others may not either: it has just begun, is a command or an older version, or \
         lacks the permission"
            .to_owned()
    });
    let standbys = reading.standbys(reading.read_at, leader);
    let seconds = |seen| reading.read_at.duration_since(seen).unwrap_or_default().as_secs();
    let told = standbys.into_iter().map(|(instance, seen)| Standby {
        holder: instance.holder,
        program: instance.program,
        since_seconds: instance.since_seconds,
        seen_seconds_ago: seconds(seen),
    });
    Ok((told.collect(), doubt))
}

async fn ask_stream(context: &jetstream::Context, name: &str) -> Result<Stream, String> {
    let stream = context.get_stream(name).await.map_err(|error| report(&error))?;
    let state = &stream.cached_info().state;
    let last = stream.get_last_raw_message_by_subject(">").await.ok();
    Ok(Stream {
        messages: state.messages,
        bytes: state.bytes,
        last_sequence: state.last_sequence,
        age_seconds: last
            .as_ref()
            .and_then(|message| u64::try_from(message.time.unix_timestamp()).ok())
            .map(seconds_since),
        position: last
            .and_then(|message| message.headers.get_last(header::POSITION).map(ToString::to_string)),
        error: None,
    })
}

async fn ask_source(server: &ConnectOptions, point: Option<(u64, u64)>) -> Source {
    let address = server.address();
    let ask = async {
        let mut connection = Connection::connect(server).await?;
        let end = log_end(&mut connection).await?;
        let behind = match point {
            Some((file, offset)) => Some(bytes_behind(&mut connection, file, offset).await?),
            None => None,
        };
        Ok::<_, crate::source::connection::ConnectionError>((end, behind))
    };
    match ask.await {
        Ok((Some(end), behind_bytes)) => {
            Source { address, file: end.file, offset: end.offset, behind_bytes, error: None }
        }
        Ok((None, _)) => {
            Source { address, error: Some("it writes no binary log".to_owned()), ..Source::default() }
        }
        Err(error) => Source { address, error: Some(report(&error)), ..Source::default() },
    }
}

fn seconds_since(seconds: u64) -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    now.as_secs().saturating_sub(seconds)
}
