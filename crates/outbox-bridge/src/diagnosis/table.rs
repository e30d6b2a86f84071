//! The table of all diagnoses.

use super::{Code, Diagnosis};

macro_rules! diagnoses {
    ($($name:ident = $number:literal: $title:literal, $cause:literal, $remedy:literal;)*) => {
        impl Code {
            $(#[doc = $title] pub const $name: Self = Self($number);)*
        }

        /// Every diagnosis, in the order of the codes.
        pub const DIAGNOSES: &[Diagnosis] = &[
            $(Diagnosis { code: Code::$name, title: $title, cause: $cause, remedy: $remedy },)*
        ];

        #[cfg(test)]
        pub(super) const NAMES: &[&str] = &[$(stringify!($name)),*];
    };
}

diagnoses! {
    // Configuration.
    CONFIG_FILE = 1001: "the configuration file cannot be read",
        "It is not there, may not be read, or is no TOML.",
        "Correct the path after `--config`, the file's permissions, or the line that is named.";
    CONFIG_UNKNOWN_KEY = 1002: "a key of the configuration is unknown",
        "It is misspelt, or belongs to another section or a newer version.",
        "Take it out or correct it; all keys stand under Configuration.";
    CONFIG_MISSING_KEY = 1003: "a key of the configuration is missing",
        "It has no default.",
        "Set it in the file, or by the environment variable that is named.";
    CONFIG_VALUE = 1004: "a value of the configuration is not accepted",
        "It is of another kind, out of its limits, or contradicts another one.",
        "Write it as the message says.";
    CONFIG_SECRET = 1005: "a secret stands in the configuration file",
        "Files are copied, shown and kept; secrets are taken from files of their own or from the environment only.",
        "Use the key with `_file`, or the environment variable, and change the secret if the file was shared.";
    ADDRESS_IN_USE = 1006: "the admin endpoint cannot listen",
        "`http.listen` is taken by another process, or no address of this machine.",
        "Choose another address or port, or `off`.";
    LOG_FILTER = 1007: "logging cannot be set up",
        "`log.level` is no filter, or something in the process logs already.",
        "Write `error`, `warn`, `info`, `debug`, `trace` or directives.";
    // The source.
    SOURCE_UNREACHABLE = 2001: "MySQL cannot be reached",
        "Nothing listens there, the network is cut, or the server is starting, stopping or overloaded.",
        "See that the server runs and `source.url` leads to it. The bridge tries again for ever, and nothing is lost while the server keeps its log.";
    SOURCE_REFUSED = 2002: "MySQL refuses the user or lacks a privilege for it",
        "Wrong password, host or privilege, a locked account, or TLS is demanded.",
        "Correct `source.password_file`; `outbox-bridge check` prints the missing grant.";
    SOURCE_LOGIN = 2003: "no way to log in to MySQL",
        "The account's authentication plugin is none that the bridge has, or needs TLS.",
        "Use `caching_sha2_password` or `mysql_native_password`, or set `source.tls.mode` to `required`.";
    SOURCE_TLS = 2004: "no TLS connection to MySQL as demanded",
        "The server has no TLS, its certificate is of another authority or name, or a file cannot be read.",
        "Correct `source.tls`.";
    SOURCE_ERROR = 2005: "MySQL answers with an error",
        "The number and text in the message are the server's.",
        "Look them up in MySQL's reference; `outbox-bridge check` may name the setting.";
    SOURCE_DAMAGED = 2006: "what MySQL sends is damaged",
        "A checksum or the protocol does not hold: a faulty network, proxy, disk, or a program that is no MySQL.",
        "If it stays: check the server's disk and error log, and what lies between; read from a replica.";
    SOURCE_TAKEN_OVER = 2007: "another replica has the bridge's server id",
        "Two clients with one `server_id` end each other's connection.",
        "Give each its own `source.server_id`, or leave it out.";
    EVENT_TOO_LARGE = 2008: "an event of the log is larger than allowed",
        "It exceeds `source.event_bytes_max`.",
        "Raise that.";
    NO_LOG = 2010: "the server writes no binary log",
        "It was started without `log_bin`.",
        "Start it with the binary log; `outbox-bridge check` names all settings.";
    LOG_PURGED = 2011: "the log that is still to be read is purged",
        "The bridge was away for longer than the server keeps its log, or somebody purged it.",
        "Run `outbox-bridge backfill`; or bring the log back from a backup or replica.";
    LOG_ENDS_BEFORE = 2012: "the log has nothing at the place to go on from",
        "It is another server, its logs were reset, or it lost what it had not synced in a power cut.",
        "Point `source.url` to the server that was read before; if its log is gone for good, delete the checkpoint and set `source.start`.";
    OTHER_SERVER = 2013: "another server answers",
        "The name leads to another server than the one that is being read.",
        "Nothing, where that is a failover: the bridge looks at the server anew. Else correct `source.url`.";
    OTHER_LOG = 2014: "the log has another transaction at the place to go on from",
        "The server's logs were reset, or it is another server.",
        "As for OB-2012.";
    BAD_GTIDS = 2015: "a GTID set is not of this server's kind",
        "`source.start` or the checkpoint has a set in the other flavour's notation, or is damaged.",
        "Write MySQL's `UUID:1-5` (`@@gtid_executed`) or MariaDB's `0-1-270` (`@@gtid_binlog_pos`).";
    XA_PREPARE_PURGED = 2016: "the log with the rows of an XA transaction is purged",
        "It was prepared so long ago that the log with its `XA PREPARE` is gone.",
        "Insert its outbox rows again, then continue behind it.";
    START_PURGED = 2017: "transactions behind `source.start` are purged",
        "The log begins later than the set ends.",
        "Set a later set or `earliest`, and publish what is missing by `outbox-bridge backfill`.";
    REPLICA_BEHIND = 2020: "the replica does not have all that is published",
        "It lags behind the server that was read before.",
        "Wait for it (`source.behind = \"wait\"`, the default), or read another server.";
    TRANSACTIONS_LOST = 2021: "the server has lost transactions that are published",
        "It took over without them, and follows no other server.",
        "See Failover of the source.";
    REPLICA_PURGED = 2022: "the other server has purged what is not published yet",
        "Its log begins too late.",
        "Read a server that still has it, or run `outbox-bridge backfill`.";
    NO_GTIDS = 2023: "without GTIDs there is no change of servers",
        "`gtid_mode` is not `ON`, or the checkpoint is from a time when it was not.",
        "Go on with the server that was read before; set `gtid_mode = ON` on all.";
    NO_REPLICA_LOG = 2024: "the other server does not log what it replicates",
        "It was started without `log_replica_updates` or `log_bin`.",
        "Start it with them, or read another server.";
    ROWS_NOT_SHOWN = 2025: "the other server's log lacks rows that are published",
        "The replica filters tables, or its log was edited.",
        "Go on with the server that was read before.";
    // What the log has.
    STATEMENT_FORMAT = 3001: "outbox rows were written in statement format",
        "A session has `binlog_format` other than `ROW`, so the log does not show the rows.",
        "Let that session and the server use `ROW`; insert the rows of that transaction again, then continue behind it.";
    FOREIGN_STATEMENT = 3002: "another table was written to in statement format",
        "A trigger of that table may have inserted outbox rows that the log does not show.",
        "As for OB-3001; or `source.foreign_statements = \"ignore\"` if no trigger does.";
    INCIDENT = 3003: "the server says that its log lacks events",
        "It could not write its log completely.",
        "Run `outbox-bridge verify`, insert what is missing again, then continue behind it.";
    LOG_INCOMPLETE = 3004: "a transaction has no beginning or no end in the log",
        "A part of the log is missing.",
        "Check the server's disk and error log; read from a replica.";
    LOG_UNREADABLE = 3005: "an event of the log cannot be read",
        "It is damaged, or of a kind that this version does not know.",
        "If the server's own `mysqlbinlog` can read it, report it; else read from a replica.";
    ROW_UNREADABLE = 3006: "a row cannot be decoded",
        "It does not fit the table's definition.",
        "Look at what follows in the message; report it.";
    COLUMN_MISSING = 3010: "the table lacks a column that the configuration names",
        "It was renamed or dropped, or `outbox.columns` is wrong.",
        "Correct `outbox.columns`, or the table.";
    VALUE_MISSING = 3011: "a row lacks a value that a message needs",
        "The column is NULL, empty, or was left to its default in a minimal row image.",
        "Declare the column NOT NULL, name it in the insert, or set `binlog_row_image = FULL`. See Dead letters.";
    VALUE_NOT_TEXT = 3012: "a row has bytes where text belongs",
        "The column is binary, and its value is no UTF-8.",
        "Map another column, or write text. See Dead letters.";
    HEADERS_UNFIT = 3013: "a row has headers that cannot be sent",
        "They are no JSON object, or too many.",
        "Write a JSON object of at most 256 entries. See Dead letters.";
    // NATS and the streams.
    NATS_UNREACHABLE = 4001: "NATS cannot be reached or does not let the bridge in",
        "Nothing listens there, the network is cut, or the credentials are wrong.",
        "See that a server runs and `nats.url` leads to it; check user and password. The bridge tries again for ever.";
    NATS_CREDENTIALS = 4002: "the NATS credentials cannot be used",
        "The file is no credentials file as `nsc` writes it.",
        "Correct `nats.credentials_file`.";
    STREAM_MISSING = 4003: "a stream does not exist",
        "It was never made, or was deleted.",
        "`outbox-bridge init --apply` makes it. If it was deleted with events in it, see OB-4011.";
    STREAM_FOREIGN = 4004: "somebody else publishes to the stream",
        "Its last message was not written by a bridge.",
        "Stop the other publisher, or give the outbox a stream of its own; merge streams by JetStream's `sources`.";
    NEWER_FORMAT = 4005: "a newer bridge has written to the stream",
        "Its last message has a format that this version does not know.",
        "Run that version; for going back see Upgrades.";
    MESSAGE_TOO_LARGE = 4006: "a message is larger than the server takes",
        "The row's payload exceeds `max_payload` of nats-server.",
        "Set `claim_check.bucket`, raise `max_payload`, or let the table refuse such rows.";
    MESSAGE_REFUSED = 4007: "the stream refuses a message for good",
        "The stream's own limits or subjects forbid it, it is sealed, or the message cannot be sent.",
        "The reason stands behind it; correct the stream as `outbox-bridge check` proposes.";
    STREAM_CONFLICT = 4008: "another bridge keeps writing to the stream",
        "Two bridges of different names have one stream.",
        "Let one run, or give each its own streams.";
    STREAM_UNFIT = 4009: "the stream does not fit the log",
        "It ends with something that the log does not have: another server's row, or one of a table that was taken out.",
        "Put table or server back, or use a new stream.";
    STREAM_LOST_MESSAGES = 4010: "the stream has lost messages that it had acknowledged",
        "NATS lost power before it synced, or was restored from a backup.",
        "Nothing: the bridge starts anew and refills it from the log. Set `sync_interval: always` if that must not happen.";
    STREAM_MADE_ANEW = 4011: "the stream is empty and starts anew",
        "It was deleted and made again, or lost its storage.",
        "Run `outbox-bridge backfill`; or publish its events again from the log as the message says.";
    STREAM_UNACCOUNTED = 4012: "messages of the stream are gone that nothing accounts for",
        "They were stored after the last checkpoint, and purged or deleted: nothing tells whether they were rows.",
        "Compare the outbox table with what consumers received; then delete the checkpoint and set `source.start`.";
    STREAM_NOT_TOLD = 4013: "the stream does not tell what it holds",
        "The source changed its server, and messages that would tell were consumed or deleted.",
        "As for OB-4012.";
    STREAM_REFUSES = 4014: "the stream refuses messages for now",
        "It is full, or its account or server has no room.",
        "Make room or raise the limit; the bridge waits meanwhile.";
    STREAM_SILENT = 4015: "nothing takes messages on the subject",
        "No stream has it, or JetStream is away.",
        "Add the subject to the stream, or see to JetStream; the bridge waits meanwhile.";
    JETSTREAM_AWAY = 4016: "JetStream does not answer",
        "It has no leader, is overloaded or switched off, or the user lacks a permission.",
        "See to NATS; `outbox-bridge check` names a missing permission.";
    LETTER_REFUSED = 4017: "the stream of dead letters does not take a letter",
        "It is full or has limits of its own.",
        "The reason stands behind it; correct that stream.";
    // Checkpoint and lease.
    CHECKPOINT_AWAY = 5001: "the checkpoint's bucket cannot be reached",
        "It has no leader, is full, or the user lacks a permission.",
        "See to NATS; `outbox-bridge check` names a missing permission.";
    CHECKPOINT_CONFLICT = 5002: "another bridge has written the checkpoint",
        "A bridge of the same `name` runs without regard to the lease: an older version, or one with another bucket.",
        "Let all bridges of a name have one version and one bucket.";
    CHECKPOINT_UNREADABLE = 5003: "the checkpoint cannot be read",
        "A newer version has written it, or something else than a bridge.",
        "Run the version that wrote it, or choose another `name`.";
    CHECKPOINT_MISSING = 5004: "there is no checkpoint, and nothing else tells the place",
        "It was deleted, or this bridge never ran; of several streams only some hold events.",
        "Set `source.start`, as the message says.";
    BRIDGE_LEADS = 5005: "a bridge of this name is at work",
        "A stream takes messages from one publisher only, so the command cannot take its place.",
        "Stop the bridges, run the command, start them again.";
    LEASE_UNUSABLE = 5006: "the lease cannot be used",
        "Its bucket cannot be reached, or its record is of a newer version.",
        "See to NATS; let all bridges of a name have one version.";
    LEASE_LOST = 5007: "the lease was lost",
        "Another bridge has taken over, or NATS was away for longer than `lease.ttl`.",
        "See that no bridge runs, and run the command again.";
    SHUTDOWN_DEADLINE = 5008: "not everything was stored before the shutdown's deadline",
        "NATS was slow or away.",
        "Nothing: the next start goes on there. Raise `shutdown.deadline` if it happens often.";
    // Commands.
    BACKFILL_UNFINISHED = 6001: "a backfill has begun and not ended",
        "It was killed or stopped.",
        "Run `outbox-bridge backfill` again.";
    BACKFILL_TAIL = 6002: "the stream ends with a backfill's message",
        "The checkpoint, or what followed in the stream, was lost after a backfill.",
        "Run `outbox-bridge backfill` again.";
    BACKFILL_GONE = 6003: "the stream does not tell which events it held",
        "It has dropped messages.",
        "Say which rows it never held by `--from KEY`, or publish all that it does not hold by `--refill`.";
    BACKFILL_AHEAD = 6004: "the stream is ahead of where the log would take over",
        "A bridge was killed, or the log is another server's.",
        "Start the bridge, let it catch up, stop it with SIGTERM, and run the backfill.";
    COMMITS_HANG = 6005: "transactions stay in the midst of their commit",
        "The server waits for something, such as a semi-synchronous replica.",
        "Try again when they have ended.";
    TABLE_MISSING = 6010: "the outbox table cannot be read",
        "It does not exist, or the user lacks SELECT.",
        "`outbox-bridge init` prints table and grants.";
    TABLE_ENGINE = 6011: "the table's engine has no snapshots",
        "Only InnoDB has them.",
        "Leave the table out, or change its engine.";
    TABLE_NO_ORDER = 6012: "the table cannot be read in an order",
        "It has neither a unique AUTO_INCREMENT column nor a primary key of a usable type.",
        "Add such a column or key.";
    OPTION_UNFIT = 6013: "an option does not fit the table or the configuration",
        "A key is of another type than the column, or a table is no outbox of this bridge.",
        "Correct the option.";
    MEMORY_TOO_SMALL = 6014: "the comparison needs more memory than it may take",
        "One event has very many rows or messages.",
        "Raise `--memory-max`.";
    LETTER_UNFIT = 6020: "a dead letter cannot be published",
        "Its row is no message, or it was cut.",
        "Insert the event into the outbox again, and drop the letter.";
    LETTER_NOT_TAKEN = 6021: "the stream still does not take a dead letter",
        "What made it one is not mended.",
        "Mend it (raise the limit, add the subject), and replay again.";
    LETTER_UNTOLD = 6022: "nobody can tell whether a dead letter was published",
        "Its replay was interrupted, and the message that would tell is gone.",
        "If consumers have had the event, drop the letter; else insert the event again and drop it.";
    LETTER_NO_END = 6023: "the stream's end is not known for sure",
        "Its last messages are gone, and the checkpoint does not know of all.",
        "Start the bridge, let it catch up, stop it with SIGTERM, and replay again.";
    LETTER_CONSUMED = 6024: "the stream's messages go away by being consumed",
        "So a replayed one might not be met again.",
        "Insert the event into the outbox again, and drop the letter.";
    LETTER_CHANGED = 6025: "somebody else has just changed the dead letter",
        "Two commands, or a bridge, are at work.",
        "Look at it again by `outbox-bridge dead-letters show`.";
    CLEANUP_UNFIT = 6030: "rows of the table cannot be cleaned up",
        "It lacks a primary key of a usable type, or a TIMESTAMP column.",
        "Change the table as the message says, or remove `outbox.retention`.";
    CLEANUP_STATEMENTS = 6031: "deletes would be logged as statements",
        "The server's `binlog_format` is not `ROW`.",
        "Set `binlog_format = ROW`.";
    CLEANUP_LETTER = 6032: "a dead letter without an id holds clean-up up",
        "It may be any row's.",
        "Replay or drop it.";
    CLEANUP_DELAYED = 6033: "no checkpoint covers the rows yet",
        "The bridge is behind, or stands by.",
        "Nothing, unless it stays: then see OutboxLagging.";
    // What `check` finds.
    CHECK_SOURCE = 7001: "a setting of the source keeps the bridge from working",
        "`outbox-bridge check` has found it.",
        "It stands beside the finding.";
    CHECK_TABLE = 7002: "an outbox table is not as it must be",
        "`outbox-bridge check` has found it.",
        "It stands beside the finding.";
    CHECK_NATS = 7003: "NATS is not as it must be, or lacks a permission for the bridge",
        "`outbox-bridge check` has found it.",
        "It stands beside the finding.";
    CHECK_STREAM = 7004: "a stream is not as it must be",
        "`outbox-bridge check` has found it.",
        "It stands beside the finding.";
    CHECK_PROGRESS = 7005: "the bucket of the checkpoint is not as it must be",
        "`outbox-bridge check` has found it.",
        "It stands beside the finding.";
    // The bridge itself.
    INTERNAL = 9001: "a fault of the bridge",
        "Something happened that its authors thought impossible. It stopped rather than guess.",
        "Start it again, and report the log.";
}
