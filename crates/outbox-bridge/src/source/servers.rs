//! Which server is read, and whether another one can be read in its place.
//!
//! Another server will do only if it has all that is published: the executed set of the checkpoint, and the transactions whose
//! messages the streams hold beyond it. Then the newest of its log files that has nothing before it but executed transactions is
//! where all others follow.

use std::collections::BTreeSet;

use super::{
    connection::{ConnectOptions, Connection, ConnectionError, ConnectionErrorKind, Flavour, Recovery},
    find::{self, FindError},
    gtid::GtidSet,
    log::{LogError, LogOptions, LogSource, parse_gtids},
    stream::SourceError as _,
};
use crate::{
    checkpoint::{At, LogPoint},
    config::Behind,
};

/// Why a server cannot be read in place of another.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RelocateError {
    /// It is a replica and does not have all that is published, yet.
    #[error(
        "the replica {server} is behind what is published and is waited for: it does not have {missing} yet"
    )]
    #[expect(missing_docs, reason = "the fields are what the message says")]
    Waiting { server: String, missing: String },
    /// The same, and it is not to be waited for.
    #[error(
        "the replica {server} is behind what is published and source.behind is \"refuse\": it does not have {missing}; start the \
         bridge again when it has caught up, or set source.behind to \"wait\""
    )]
    #[expect(missing_docs, reason = "the fields are what the message says")]
    Behind { server: String, missing: String },
    /// It replicates nobody and does not have all that is published, so it never will.
    #[error(
        "the server {server} has lost transactions that are published: {missing}. It follows no other server (any more), so they do not \
         come. If it is a server of its own, which never had them, correct source.url. Else bring them there (from the old server's log, or by \
         replicating from it), or read the server that has them; to go on without them, correct what their messages did, then delete the checkpoint and set source.start to the server's own executed set"
    )]
    #[expect(missing_docs, reason = "the fields are what the message says")]
    Lost { server: String, missing: String },
    /// Its log begins too late.
    #[error(
        "the server {server} has purged transactions from its log that are not published yet: {missing}; read a server that still has \
         them, or publish their rows from the outbox table itself"
    )]
    #[expect(missing_docs, reason = "the fields are what the message says")]
    Purged { server: String, missing: String },
    /// It gives out no GTIDs.
    #[error(
        "the server {server} cannot take the place of another one: its gtid_mode is {mode} and must be ON; if it is read by \
         mistake, correct source.url"
    )]
    #[expect(missing_docs, reason = "the fields are what the message says")]
    NoGtids { server: String, mode: String },
    /// It writes no log of what it replicates.
    #[error(
        "the server {server} cannot take the place of another one: it does not write what it replicates to its own log; start it with \
         log_replica_updates (MariaDB: log_slave_updates) and log_bin; if it is read by mistake, correct source.url"
    )]
    #[expect(missing_docs, reason = "the fields are what the message says")]
    NoLog { server: String },
}

impl RelocateError {
    pub(super) fn is_transient(&self) -> bool {
        matches!(self, Self::Waiting { .. })
    }
}

/// What tells a server from all others of its topology, and is what `ce-source` says of it: MySQL's `server_uuid`;
/// `server-<server_id>` on MariaDB, which has none.
pub(crate) async fn identity_of(connection: &mut Connection) -> Result<String, ConnectionError> {
    let flavour = connection.server().flavour;
    let sql = match flavour {
        Flavour::MySql => "SELECT @@GLOBAL.server_uuid AS id",
        Flavour::MariaDb => "SELECT CONCAT('server-', @@GLOBAL.server_id) AS id",
    };
    text(connection, sql, "id").await
}

/// Why servers could not be reached.
#[derive(Debug, Default)]
pub(super) struct Failures {
    transient: Option<ConnectionError>,
    lasting: Option<ConnectionError>,
}

impl Failures {
    pub(super) fn add(&mut self, server: &ConnectOptions, error: ConnectionError) {
        tracing::warn!(
            error = crate::exit::report(&error),
            server = server.address(),
            "cannot read this server"
        );
        let slot = if error.recovery() == Recovery::Stop { &mut self.lasting } else { &mut self.transient };
        slot.get_or_insert(error);
    }

    /// As long as one server may come back by itself, there is hope.
    pub(super) fn worth_telling(self) -> Option<ConnectionError> {
        self.transient.or(self.lasting)
    }
}

impl LogSource {
    /// All servers, beginning with the one that is read.
    pub(super) fn in_order(&self) -> Vec<ConnectOptions> {
        let current = self.options.connect.address();
        let mut servers = self.options.servers.clone();
        if servers.is_empty() {
            servers.push(self.options.connect.clone());
        }
        servers.sort_by_key(|server| server.address() != current);
        servers
    }

    pub(super) async fn locate_server(&mut self, point: &LogPoint) -> Result<bool, LogError> {
        let servers = self.in_order();
        let several = servers.len() > 1;
        let mut another = false;
        let mut failures = Failures::default();
        for server in servers {
            let identity = async {
                let mut connection = Connection::connect(&server).await?;
                identity_of(&mut connection).await
            };
            match identity.await {
                // A point of an older bridge. With several servers, GTIDs find the place on any of them.
                Ok(_) if point.server.is_empty() && several && point.executed.is_some() => another = true,
                Ok(found) if point.server.is_empty() || found == point.server => {
                    self.options.connect = server;
                    return Ok(true);
                }
                Ok(_) => another = true,
                Err(error) => failures.add(&server, error),
            }
        }
        match failures.worth_telling() {
            _ if another => Ok(false),
            Some(source) if several => Err(source.into()),
            // Opening it tells.
            _ => Ok(true),
        }
    }

    pub(super) async fn relocate_server(
        &mut self,
        point: &LogPoint,
        stored: &[String],
    ) -> Result<LogPoint, LogError> {
        let (mut waiting, mut refused, mut unreachable) = (None, None, None);
        for server in self.in_order() {
            let address = server.address();
            let options = LogOptions { connect: server, expected: None, ..self.options.clone() };
            match relocate(options, point, stored).await {
                Ok((options, point)) => {
                    self.options = options;
                    return Ok(point);
                }
                Err(error) => {
                    tracing::warn!(
                        error = crate::exit::report(&error),
                        server = address,
                        "cannot go on with this server"
                    );
                    match error {
                        LogError::Relocate(RelocateError::Waiting { .. }) => {
                            waiting = waiting.or(Some(error))
                        }
                        error if error.is_transient() => unreachable = unreachable.or(Some(error)),
                        error => refused = refused.or(Some(error)),
                    }
                }
            }
        }
        Err(waiting.or(refused).or(unreachable).unwrap_or(LogError::NoLog))
    }
}

/// The place on this server behind `point`, if it has all that is published.
async fn relocate(
    mut options: LogOptions,
    point: &LogPoint,
    stored: &[String],
) -> Result<(LogOptions, LogPoint), LogError> {
    let server = options.connect.address();
    let mut connection = Connection::connect(&options.connect).await?;
    let uuid = identity_of(&mut connection).await?;
    options.expected = Some(uuid.clone());
    let flavour = connection.server().flavour;
    let text_of_set = point.executed.clone().unwrap_or_default();
    let executed = parse_gtids(&text_of_set, flavour)?;
    let has = has(&mut connection, &server).await?;
    let mut missing = BTreeSet::new();
    for gtid in text_of_set.split(',').chain(stored.iter().map(String::as_str)) {
        let gone = parse_gtids(gtid, flavour)?.missing_from(&has);
        missing.extend((!gone.is_empty()).then_some(gone));
    }
    let follows = follows(&mut connection).await?;
    let behind = |missing: BTreeSet<String>| {
        let missing = summary(&missing, flavour);
        let server = server.clone();
        LogError::Relocate(match (follows, options.behind) {
            (false, _) => RelocateError::Lost { server, missing },
            (true, Behind::Wait) => RelocateError::Waiting { server, missing },
            (true, Behind::Refuse) => RelocateError::Behind { server, missing },
        })
    };
    if !missing.is_empty() {
        return Err(behind(missing));
    }
    let file = match find::file_before(&options, &mut connection, &executed).await {
        Err(FindError::Purged { missing }) => {
            return Err(RelocateError::Purged { server, missing }.into());
        }
        file => file?,
    };
    if flavour == Flavour::MariaDb {
        // Numbers are all that its sets compare.
        let wanted = text_of_set.split(',').map(str::to_owned).chain(stored.iter().cloned()).collect();
        let missing = find::not_shown(&options, &file, wanted).await?;
        if !missing.is_empty() {
            return Err(RelocateError::Lost { server, missing: summary(&missing, flavour) }.into());
        }
    }
    let point = LogPoint {
        server: uuid,
        file,
        offset: 4,
        at: if flavour == Flavour::MariaDb { At::Gtids } else { At::Boundary },
        executed: Some(executed.to_string()),
        // They stand elsewhere in this log, and are looked for when they are committed.
        prepared: Vec::new(),
        definitions: point.definitions.clone(),
    };
    Ok((options, point))
}

/// How a server stands to a checkpoint.
#[derive(Debug)]
pub(crate) struct Standing {
    /// What tells it from the others.
    pub(crate) server: String,
    /// Whether it replicates another one.
    pub(crate) follows: bool,
    /// What it does not have of the executed set.
    pub(crate) missing: String,
}

/// How a server stands to a checkpoint's point.
pub(crate) async fn standing(
    connect: &ConnectOptions,
    point: Option<&LogPoint>,
) -> Result<Standing, LogError> {
    let mut connection = Connection::connect(connect).await?;
    let server = identity_of(&mut connection).await?;
    let has = has(&mut connection, &connect.address()).await?;
    let executed = point.and_then(|point| point.executed.as_deref()).unwrap_or_default();
    let missing = parse_gtids(executed, connection.server().flavour)?.missing_from(&has);
    Ok(Standing { server, follows: follows(&mut connection).await?, missing })
}

/// What the server has and shows in its log.
async fn has(connection: &mut Connection, server: &str) -> Result<GtidSet, LogError> {
    let server = server.to_owned();
    let flavour = connection.server().flavour;
    // The second one has two names, of which the older is gone in newer servers.
    let sql = "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('log_bin', 'log_replica_updates', 'log_slave_updates')";
    if connection.query(sql).await?.iter().any(|row| row.get("Value") != Some("ON")) {
        return Err(RelocateError::NoLog { server }.into());
    }
    let executed = match flavour {
        Flavour::MySql => {
            let mode = text(connection, "SELECT @@GLOBAL.gtid_mode AS mode", "mode").await?;
            if mode != "ON" {
                return Err(RelocateError::NoGtids { server, mode }.into());
            }
            text(connection, "SELECT @@GLOBAL.gtid_executed AS executed", "executed").await?
        }
        Flavour::MariaDb => {
            text(connection, "SELECT @@GLOBAL.gtid_binlog_pos AS executed", "executed").await?
        }
    };
    parse_gtids(&executed, flavour)
}

/// Whether the server replicates another one.
async fn follows(connection: &mut Connection) -> Result<bool, ConnectionError> {
    const UNKNOWN_STATEMENT: u16 = 1064;
    match connection.server().flavour {
        Flavour::MySql => match connection.query("SHOW REPLICA STATUS").await {
            Err(error) if error.kind() == (ConnectionErrorKind::Server { code: UNKNOWN_STATEMENT }) => {
                Ok(!connection.query("SHOW SLAVE STATUS").await?.is_empty())
            }
            rows => Ok(!rows?.is_empty()),
        },
        Flavour::MariaDb => {
            match connection.query("SHOW ALL SLAVES STATUS").await {
                // It needs a privilege (SLAVE MONITOR) that nothing else here needs.
                Err(error) if error.kind() == ConnectionErrorKind::AccessDenied => {}
                rows => return Ok(!rows?.is_empty()),
            }
            let running = text(connection, "SHOW GLOBAL STATUS LIKE 'Slaves_running'", "Value").await?;
            Ok(running != "0" && !running.is_empty())
        }
    }
}

async fn text(connection: &mut Connection, sql: &str, column: &str) -> Result<String, ConnectionError> {
    let rows = connection.query(sql).await?;
    Ok(rows.first().and_then(|row| row.get(column)).unwrap_or_default().to_owned())
}

/// The transactions in the server's notation, joined and cut to what can be read.
fn summary(missing: &BTreeSet<String>, flavour: Flavour) -> String {
    const CHARACTERS_MAX: usize = 1_000;
    let all = missing.iter().map(String::as_str).collect::<Vec<_>>().join(",");
    let all = match flavour {
        Flavour::MySql => GtidSet::parse(&all, flavour).map_or(all, |set| set.to_string()),
        Flavour::MariaDb => all,
    };
    if all.chars().count() <= CHARACTERS_MAX {
        return all;
    }
    format!("{}… ({} ranges)", all.chars().take(CHARACTERS_MAX).collect::<String>(), missing.len())
}
