//! The log of a real server: opens it where a point says, reads it, and hands out what is committed.
//!
//! Reading always begins by file and offset. The transaction that stands there must be the one that the point names, so a
//! log that was reset, or another server's, is noticed. GTID sets serve to find that place ([`super::find`]), not to read.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::sync::watch;

use super::{
    Batch, RawEvent, Source, SourceError,
    connection::{
        ConnectOptions, Connection, ConnectionError, ConnectionErrorKind, DumpRequest, DumpStream, Flavour,
        Recovery,
    },
    event::{EventError, PayloadReader},
    find::{self, FindError},
    group::GroupReader,
    gtid::GtidSet,
    servers::{Failures, RelocateError, identity_of},
};
use crate::{
    checkpoint::{At, LogPoint},
    config::{Behind, StartPosition},
    decode::ColumnDefinition,
    metrics::BridgeMetrics,
    publish::Message,
    route::Route,
    transaction::{Assembler, OutboxRows, Step, TransactionError},
};

/// Settings of a [`LogSource`].
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// How to reach the server that is read.
    pub connect: ConnectOptions,
    /// All servers that may be read, in the order in which they are tried.
    pub servers: Vec<ConnectOptions>,
    /// What the server that is read must be; `None` as long as none is.
    pub expected: Option<String>,
    /// What to do about a server that does not have all that is published.
    pub behind: Behind,
    /// Our identity among its replicas.
    pub server_id: u32,
    /// How often an idle server shows that it is alive.
    pub heartbeat: Duration,
    /// Where a first start begins.
    pub start: StartPosition,
    /// Bytes of messages that are held until their commit.
    pub buffer_bytes_max: usize,
    /// Whether to stop when another table is written to in statement format.
    pub refuse_foreign_statements: bool,
    /// The largest event that is taken.
    pub event_bytes_max: usize,
}

/// Why the log cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The connection.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// The log's content.
    #[error(transparent)]
    Transaction(#[from] TransactionError),
    /// A compressed transaction.
    #[error("a compressed transaction cannot be read")]
    Payload(#[from] EventError),
    /// A place in the log that cannot be found.
    #[error(transparent)]
    Find(#[from] FindError),
    /// The server writes no log.
    #[error("the server writes no binary log: start it with --log-bin")]
    NoLog,
    /// The position is gone.
    #[error(
        "the server has purged its log from {at} on (or its logs were reset), which this bridge still has to read: run `outbox-bridge backfill`, \
         which publishes from the outbox table what the streams do not hold, or bring the log back from a backup or a replica; to go on \
         without it, delete the checkpoint and set source.start"
    )]
    Purged {
        /// The place.
        at: String,
        /// The server's words.
        source: ConnectionError,
    },
    /// The position is past the end, or in the midst of an event.
    #[error(
        "the server's log has nothing that begins at {at}, up to which this bridge has read: this is another server, or its \
         logs were reset, or it lost what it had not synced when it lost power (sync_binlog other than 1). Point source.url to \
         the server that was read before; or, if its log is gone for good, give this bridge a new `name` and a new stream, or \
         delete the checkpoint and set source.start"
    )]
    NothingThere {
        /// The place.
        at: String,
        /// The server's words.
        source: ConnectionError,
    },
    /// What comes is damaged time and again, or somebody else takes the dump over.
    #[error("the log could not be read several times in a row")]
    Damaged(#[source] ConnectionError),
    /// Another server.
    #[error("the server is {found}, but {expected} was read until now")]
    #[expect(missing_docs, reason = "the fields are what the message says")]
    OtherServer { expected: String, found: String },
    /// The server is gone, and there are others.
    #[error("the server {server} is lost")]
    Gone {
        /// Its address.
        server: String,
        /// How.
        source: ConnectionError,
    },
    /// No other server can be read.
    #[error(transparent)]
    Relocate(#[from] RelocateError),
    /// Text that is no GTID set.
    #[error("the GTID set {text:?} is none of {flavour}'s")]
    #[expect(missing_docs, reason = "the fields are what the message says")]
    BadGtids { text: String, flavour: &'static str },
}

impl SourceError for LogError {
    fn is_transient(&self) -> bool {
        match self {
            Self::Connection(error) | Self::Find(FindError::Connection(error)) => {
                error.recovery() != Recovery::Stop
            }
            Self::Relocate(error) => error.is_transient(),
            _ => false,
        }
    }

    fn is_moved(&self) -> bool {
        matches!(
            self,
            Self::OtherServer { .. } | Self::Gone { .. } | Self::Find(FindError::OtherServer { .. })
        )
    }
}

/// A batch is handed out when it has so many rows, or when nothing more is at hand.
const BATCH_ROWS: usize = 256;
/// Or so many bytes.
const BATCH_BYTES: usize = 256 << 10;
/// After so many events without a row, how far the log has been read is handed out all the same.
const BATCH_EVENTS: usize = 4096;
/// So often in a row may what comes be damaged: it may be the wire's fault once, not for ever.
const FAILURES_MAX: u32 = 5;

/// Makes a route's definition for a server; see [`Route::new`].
pub type MakeRoutes = Box<dyn Fn(&str) -> Vec<Route> + Send + Sync>;

/// The log of a MySQL or MariaDB server.
pub struct LogSource {
    pub(super) options: LogOptions,
    make_routes: MakeRoutes,
    metrics: BridgeMetrics,
    server: watch::Sender<ConnectOptions>,
    failures: u32,
    open: Option<Open>,
}

impl std::fmt::Debug for LogSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogSource").field("options", &self.options).finish_non_exhaustive()
    }
}

struct Open {
    dump: DumpStream,
    assembler: Assembler,
    /// The rest of a compressed transaction.
    payload: Option<PayloadReader>,
    /// A transaction that is read again.
    replay: Option<GroupReader>,
    /// Whether the dump ends at the log's end, and whether it has.
    ends: bool,
    ended: bool,
}

impl LogSource {
    /// A source with these options. `make_routes` is called with what `ce-source` is to say of the server.
    #[must_use]
    pub fn new(options: LogOptions, make_routes: MakeRoutes) -> Self {
        let server = watch::channel(options.connect.clone()).0;
        Self { options, make_routes, metrics: BridgeMetrics::new(), server, failures: 0, open: None }
    }

    /// Lets `server` know which server is read.
    #[must_use]
    pub fn telling(mut self, server: watch::Sender<ConnectOptions>) -> Self {
        self.server = server;
        self
    }

    /// How it reads.
    pub(crate) fn options(&self) -> &LogOptions {
        &self.options
    }

    /// Reads the server with this address, if it is one of the list.
    pub(crate) fn read_from(&mut self, address: &str) {
        if let Some(server) = self.in_order().into_iter().find(|server| server.address() == address) {
            self.options.connect = server;
        }
    }

    /// Shows `visit` every committed outbox row from `point` to where the log ends now.
    ///
    /// # Errors
    ///
    /// As of [`Source::open`] and [`Source::next`]. Nothing is tried a second time.
    pub(crate) async fn read_to_end(
        &mut self,
        point: &LogPoint,
        mut visit: impl FnMut(usize, &Message),
    ) -> Result<(), LogError> {
        let at = |error| purged(error, &point.to_string());
        let mut open = self.begin(point, true).await.map_err(at)?;
        while !open.ended {
            for (stream, message) in &self.read(&mut open).await.map_err(at)?.messages {
                visit(*stream, message);
            }
        }
        Ok(())
    }

    async fn connect(&self) -> Result<(Connection, String), ConnectionError> {
        let mut connection = Connection::connect(&self.options.connect).await?;
        let identity = identity_of(&mut connection).await?;
        Ok((connection, identity))
    }

    /// Connects to the first server of the list that can be reached, which is read from now on; gives what [`identity_of`] says of it as
    /// well.
    pub(crate) async fn connect_first(&mut self) -> Result<(Connection, String), LogError> {
        let mut failures = Failures::default();
        for server in self.in_order() {
            self.options.connect = server;
            match self.connect().await {
                Ok((connection, identity)) => {
                    self.options.expected = Some(identity.clone());
                    return Ok((connection, identity));
                }
                Err(error) => failures.add(&self.options.connect, error),
            }
        }
        Err(failures.worth_telling().map_or(LogError::NoLog, LogError::Connection))
    }

    async fn begin(&mut self, point: &LogPoint, ends: bool) -> Result<Open, LogError> {
        let (connection, identity) = match self.connect().await {
            Err(source) if self.options.servers.len() > 1 => {
                return Err(LogError::Gone { server: self.options.connect.address(), source });
            }
            connected => connected?,
        };
        if !point.server.is_empty() && point.server != identity {
            return Err(LogError::OtherServer { expected: point.server.clone(), found: identity });
        }
        self.options.expected = Some(identity.clone());
        self.server.send_replace(self.options.connect.clone());
        let flavour = connection.server().flavour;
        let executed = match &point.executed {
            Some(text) => Some(parse_gtids(text, flavour)?),
            None => None,
        };
        let routes = (self.make_routes)(&identity);
        let definitions = restore_definitions(point, &routes);
        let rows = OutboxRows::new(routes, flavour, definitions);
        // Where the executed set is not known, the file is read from its beginning for its GTIDs.
        let offset = if executed.is_some() { point.offset } else { 4 };
        let request = DumpRequest { non_blocking: ends, ..self.request(point.file.clone(), offset) };
        let mut point = point.clone();
        point.server = identity;
        let dump = connection.dump(request).await?.with_event_bytes_max(self.options.event_bytes_max);
        let assembler = Assembler::new(&point, executed, flavour, rows, self.options.buffer_bytes_max)
            .refusing_foreign_statements(self.options.refuse_foreign_statements);
        Ok(Open { dump, assembler, payload: None, replay: None, ends, ended: false })
    }

    fn request(&self, file: String, offset: u64) -> DumpRequest {
        DumpRequest {
            server_id: self.options.server_id,
            file,
            offset,
            heartbeat: self.options.heartbeat,
            non_blocking: false,
        }
    }

    async fn fetch_definition(&self, open: &mut Open, route: usize) -> Result<(), LogError> {
        let Some(name) = open.assembler.table(route) else { return Ok(()) };
        let mut connection = find::connect(&self.options).await?;
        let definition = find::table_definition(&mut connection, &name).await?;
        open.assembler.define(route, definition);
        Ok(())
    }

    /// Does what the assembler asks for.
    async fn follow(&self, open: &mut Open, step: Step) -> Result<(), LogError> {
        let step = match step {
            Step::FindPrepare { xid, file, offset } => {
                let (file, offset) = find::prepare(&self.options, (&file, offset), &xid).await?;
                open.assembler.found(file, offset)
            }
            step => step,
        };
        match step {
            Step::Continue | Step::FindPrepare { .. } => {}
            Step::Payload(_) if open.payload.is_some() => {
                return Err(
                    EventError::new("a compressed transaction", "it stands within another one").into()
                );
            }
            Step::Payload(payload) => {
                open.payload = Some(PayloadReader::new(payload, self.options.event_bytes_max)?)
            }
            Step::Define(route) => self.fetch_definition(open, route).await?,
            Step::Replay(replay) => {
                tracing::debug!(transaction = %replay.transaction, "reading a transaction again");
                open.replay =
                    Some(GroupReader::open(&self.options, replay, open.assembler.rows().fresh()).await?);
            }
        }
        Ok(())
    }

    /// Feeds one event to the assembler until it has taken it; `true` if a definition was asked for.
    async fn feed(
        &self,
        open: &mut Open,
        event: &RawEvent,
        messages: &mut Vec<(usize, Message)>,
    ) -> Result<bool, LogError> {
        let mut defined = false;
        loop {
            let step = open.assembler.take(event, messages)?;
            let again = matches!(step, Step::Define(_));
            self.follow(open, step).await?;
            if !again {
                return Ok(defined);
            }
            defined = true;
        }
    }

    async fn read(&self, open: &mut Open) -> Result<Batch, LogError> {
        let mut messages = Vec::new();
        let mut events = 0;
        let mut bytes = 0;
        let mut counted = 0;
        // A definition is to stand in a checkpoint before more is read.
        let mut defined = false;
        loop {
            bytes += messages
                .iter()
                .skip(counted)
                .map(|(_, message): &(usize, Message)| message.size())
                .sum::<usize>();
            counted = messages.len();
            let full = counted >= BATCH_ROWS || bytes >= BATCH_BYTES || events >= BATCH_EVENTS;
            if full || defined {
                break;
            }
            if let Some(replay) = &mut open.replay {
                if replay.fill(&mut messages, BATCH_ROWS, BATCH_BYTES).await? {
                    open.replay = None;
                    open.assembler.replayed();
                }
                break;
            }
            if let Some(payload) = &mut open.payload {
                match payload.next_event()? {
                    Some(event) => defined = self.feed(open, &event, &mut messages).await?,
                    None => open.payload = None,
                }
                continue;
            }
            let event = match open.dump.next_buffered() {
                Some(event) => event?,
                None if events > 0 => break,
                None => match open.dump.next().await? {
                    Some(event) => event,
                    None if open.ends => {
                        open.ended = true;
                        break;
                    }
                    None => continue,
                },
            };
            events += 1;
            defined = self.feed(open, &event, &mut messages).await?;
        }
        let (foreign_rows, transactions) = open.assembler.take_counts();
        self.metrics.foreign_rows.increment(foreign_rows);
        self.metrics.transactions.increment(transactions);
        Ok(Batch { messages, point: open.assembler.point(), end: open.assembler.reached() })
    }
}

impl Source for LogSource {
    type Error = LogError;

    async fn locate(&mut self, point: &LogPoint) -> Result<bool, LogError> {
        self.open = None;
        self.locate_server(point).await
    }

    async fn relocate(&mut self, point: &LogPoint, stored: &[String]) -> Result<LogPoint, LogError> {
        self.relocate_server(point, stored).await
    }

    async fn first_point(&mut self) -> Result<LogPoint, LogError> {
        let (mut connection, identity) = self.connect_first().await?;
        let flavour = connection.server().flavour;
        let point = |file: String, offset, at, executed| LogPoint {
            server: identity.clone(),
            file,
            offset,
            at,
            executed,
            prepared: Vec::new(),
            definitions: Default::default(),
        };
        match &self.options.start {
            StartPosition::Now => {
                let end = find::log_end(&mut connection).await?.ok_or(LogError::NoLog)?;
                let executed = find::executed_before(&self.options, &end.file, end.offset).await?.to_string();
                let mut point = point(end.file, end.offset, At::Boundary, Some(executed));
                // What the tables are like now, in case the log does not say and they change before it is read.
                for route in (self.make_routes)(&identity) {
                    let definition = find::table_definition(&mut connection, route.name()).await?;
                    if !definition.is_empty()
                        && let Ok(definition) = serde_json::to_value(definition)
                    {
                        point.definitions.insert(route.table.to_string(), definition);
                    }
                }
                Ok(point)
            }
            StartPosition::Earliest => {
                let files = find::log_files(&mut connection).await?;
                let first = files.into_iter().next().ok_or(LogError::NoLog)?;
                Ok(point(first, 4, At::Boundary, None))
            }
            StartPosition::Gtids(text) => {
                let set = parse_gtids(text, flavour)?;
                let file = find::file_before(&self.options, &mut connection, &set).await?;
                let at = if flavour == Flavour::MariaDb { At::Gtids } else { At::Boundary };
                Ok(point(file, 4, at, Some(set.to_string())))
            }
        }
    }

    async fn now(&mut self) -> Result<u64, LogError> {
        let (mut connection, _) = self.connect().await?;
        Ok(find::clock_micros(&mut connection).await?)
    }

    fn server(&self) -> String {
        let address = self.options.connect.address();
        match &self.options.expected {
            Some(identity) => format!("{address} ({identity})"),
            None => address,
        }
    }

    async fn open(&mut self, point: &LogPoint) -> Result<(), LogError> {
        self.open = None;
        let open = self.begin(point, false).await.map_err(|error| purged(error, &point.to_string()))?;
        self.open = Some(open);
        Ok(())
    }

    async fn next(&mut self) -> Result<Batch, LogError> {
        let Some(mut open) = self.open.take() else {
            return std::future::pending().await;
        };
        match self.read(&mut open).await {
            Ok(batch) => {
                self.failures = 0;
                self.open = Some(open);
                Ok(batch)
            }
            Err(LogError::Connection(error)) if error.recovery() == Recovery::RetryBounded => {
                self.failures += 1;
                Err(if self.failures > FAILURES_MAX { LogError::Damaged(error) } else { error.into() })
            }
            Err(error) => Err(purged(error, &open.assembler.point().to_string())),
        }
    }
}

/// Tells what it means that the server cannot read its log from `at` on.
fn purged(error: LogError, at: &str) -> LogError {
    let at = at.to_owned();
    match error {
        LogError::Connection(source) if source.kind() == ConnectionErrorKind::PositionPurged => {
            LogError::Purged { at, source }
        }
        LogError::Connection(source) if source.kind() == ConnectionErrorKind::ImpossiblePosition => {
            LogError::NothingThere { at, source }
        }
        error => error,
    }
}

pub(super) fn parse_gtids(text: &str, flavour: Flavour) -> Result<GtidSet, LogError> {
    let name = match flavour {
        Flavour::MySql => "MySQL",
        Flavour::MariaDb => "MariaDB",
    };
    GtidSet::parse(text, flavour).map_err(|_| LogError::BadGtids { text: text.to_owned(), flavour: name })
}

fn restore_definitions(point: &LogPoint, routes: &[Route]) -> HashMap<usize, Arc<Vec<ColumnDefinition>>> {
    let definition = |(index, route): (usize, &Route)| {
        let value = point.definitions.get(&*route.table)?;
        Some((index, Arc::new(serde_json::from_value(value.clone()).ok()?)))
    };
    routes.iter().enumerate().filter_map(definition).collect()
}
