//! Asking the server for its log.

use std::sync::LazyLock;
use std::time::Duration;

use mysql_common::packets::{BinlogDumpFlags, ComBinlogDump, ComRegisterSlave};
use mysql_common::proto::MySerialize;
use uuid::Uuid;

use super::error::{ConnectionError, ConnectionErrorKind};
use super::handshake::Flavour;
use super::query::quote_string;
use super::stream::DumpStream;
use super::{Connection, Transport};

/// Where to begin, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DumpRequest {
    /// Our identity among the server's replicas. On MariaDB, a dump ends when another with the same id begins.
    pub server_id: u32,
    /// The log file to begin in.
    pub file: String,
    /// The offset of the event to begin at; the first is at 4.
    pub offset: u64,
    /// How often the server shall say that it is alive while it has nothing to send. If it says nothing for twice as
    /// long and some seconds, the stream fails as [`ConnectionErrorKind::Silent`].
    pub heartbeat: Duration,
    /// Whether the stream ends at the log's end, instead of waiting there for more.
    pub non_blocking: bool,
}

/// The shortest and the longest heartbeat that servers take.
const HEARTBEATS: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(1)..=Duration::from_secs(4_294_967);

/// The offset of a file's first event, behind the file's magic number.
const OFFSET_MIN: u64 = 4;

/// How long the server may wait until we take more of what it sends: while a stream cannot be written to, nothing is read,
/// and the default of a minute would cut the connection time and again.
const NET_WRITE_TIMEOUT_SECONDS: u32 = 86_400;

/// MySQL keeps file names in a buffer of this size.
const FILE_BYTES_MAX: usize = 511;

/// The name under which the server lists us among its replicas.
const REPLICA_NAME: &str = "outbox-bridge";

static PROCESS_UUID: LazyLock<Uuid> = LazyLock::new(Uuid::new_v4);

impl DumpRequest {
    fn checked_offset(&self) -> Result<u32, ConnectionError> {
        let refuse = |message: String| Err(ConnectionError::new(ConnectionErrorKind::Options, message));
        if self.server_id == 0 {
            return refuse("a dump needs a server id other than 0".into());
        }
        if self.file.is_empty() || self.file.len() > FILE_BYTES_MAX || self.file.contains('\0') {
            return refuse(format!("\"{}\" is not the name of a log file", self.file.escape_debug()));
        }
        if !HEARTBEATS.contains(&self.heartbeat) {
            return refuse(format!(
                "a heartbeat of {:?} is outside of what servers take: {HEARTBEATS:?}",
                self.heartbeat
            ));
        }
        match u32::try_from(self.offset) {
            Ok(offset) if self.offset >= OFFSET_MIN => Ok(offset),
            Ok(offset) => refuse(format!("no event is at offset {offset}: the first is at {OFFSET_MIN}")),
            Err(_) => refuse(format!(
                "a dump cannot begin at {}:{}: the protocol has no offsets beyond {}; begin at an earlier transaction",
                self.file,
                self.offset,
                u32::MAX
            )),
        }
    }

    /// The same for every dump of this process under this server id, so that MySQL ends the dump that we left behind
    /// when we reconnect, and no other.
    fn replica_uuid(&self) -> Uuid {
        Uuid::from_u128(PROCESS_UUID.as_u128() ^ u128::from(self.server_id))
    }
}

impl Connection {
    /// Turns the connection into a stream of the server's log.
    ///
    /// The account needs `REPLICATION SLAVE`.
    ///
    /// # Errors
    ///
    /// When the request cannot be made or the connection fails. What the server thinks of file and offset is learned
    /// from the stream's first events.
    pub async fn dump(mut self, request: DumpRequest) -> Result<DumpStream, ConnectionError> {
        let offset = request.checked_offset()?;
        self.execute(&settings(&request, self.server.flavour)).await?;
        let mut packet = Vec::new();
        ComRegisterSlave::new(request.server_id)
            .with_hostname(REPLICA_NAME.as_bytes())
            .serialize(&mut packet);
        self.within(async |channel| {
            channel.command(&packet).await?;
            let answer = channel.read().await?;
            match answer.first() {
                Some(0x00) => Ok(()),
                Some(0xFF) => Err(ConnectionError::from_packet(&answer)),
                _ => Err(ConnectionError::protocol("the server's answer to our registration is malformed")),
            }
        })
        .await?;
        let flags = match request.non_blocking {
            true => BinlogDumpFlags::BINLOG_DUMP_NON_BLOCK,
            false => BinlogDumpFlags::empty(),
        };
        let mut packet = Vec::new();
        ComBinlogDump::new(request.server_id)
            .with_pos(offset)
            .with_flags(flags)
            .with_filename(request.file.as_bytes())
            .serialize(&mut packet);
        self.within(async |channel| channel.command(&packet).await).await?;
        Ok(DumpStream::of(self.channel, &request))
    }

    async fn within<T>(
        &mut self,
        exchange: impl AsyncFnOnce(&mut super::Channel<Transport>) -> Result<T, ConnectionError>,
    ) -> Result<T, ConnectionError> {
        let Ok(outcome) = tokio::time::timeout(self.read_timeout, exchange(&mut self.channel)).await else {
            return Err(ConnectionError::new(
                ConnectionErrorKind::Timeout,
                format!("the server did not answer within {:?}", self.read_timeout),
            ));
        };
        outcome
    }
}

/// What a replica tells the server before it asks for the log. Servers read either the old or the new name.
///
/// `CRC32` says that we understand checksums, so that the server sends events as they are stored, with or without; told
/// nothing, it would refuse those with, and told `NONE`, MariaDB would take them off.
fn settings(request: &DumpRequest, flavour: Flavour) -> String {
    let heartbeat_nanoseconds = request.heartbeat.as_nanos();
    let uuid = quote_string(&request.replica_uuid().to_string());
    let common = format!(
        "SET @master_binlog_checksum = 'CRC32', @source_binlog_checksum = 'CRC32', \
         @master_heartbeat_period = {heartbeat_nanoseconds}, @source_heartbeat_period = {heartbeat_nanoseconds}, \
         @slave_uuid = {uuid}, @replica_uuid = {uuid}, \
         SESSION net_write_timeout = {NET_WRITE_TIMEOUT_SECONDS}"
    );
    match flavour {
        Flavour::MySql => common,
        // 4: understands MariaDB's own GTID events, so that nothing is rewritten for us.
        Flavour::MariaDb => format!("{common}, @mariadb_slave_capability = 4"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> DumpRequest {
        DumpRequest {
            server_id: 4001,
            file: "binlog.000001".into(),
            offset: 4,
            heartbeat: Duration::from_secs(1),
            non_blocking: false,
        }
    }

    #[test]
    fn what_no_server_takes_is_refused() {
        assert_eq!(request().checked_offset().expect("good"), 4);
        for bad in [
            DumpRequest { server_id: 0, ..request() },
            DumpRequest { file: String::new(), ..request() },
            DumpRequest { file: "a\0b".into(), ..request() },
            DumpRequest { offset: 3, ..request() },
            DumpRequest { offset: 1 << 32, ..request() },
            DumpRequest { heartbeat: Duration::ZERO, ..request() },
            DumpRequest { heartbeat: Duration::MAX, ..request() },
        ] {
            let error = bad.checked_offset().expect_err("bad");
            assert_eq!(error.kind(), ConnectionErrorKind::Options, "{error}");
        }
    }

    #[test]
    fn the_identity_stays_and_differs_by_server_id() {
        assert_eq!(request().replica_uuid(), request().replica_uuid());
        assert_ne!(request().replica_uuid(), DumpRequest { server_id: 4002, ..request() }.replica_uuid());
    }

    #[test]
    fn settings_are_one_statement() {
        let text = settings(&request(), Flavour::MariaDb);
        assert!(text.contains("@master_heartbeat_period = 1000000000"), "{text}");
        assert!(text.contains("@mariadb_slave_capability = 4"), "{text}");
        assert!(!settings(&request(), Flavour::MySql).contains("mariadb"));
    }
}
