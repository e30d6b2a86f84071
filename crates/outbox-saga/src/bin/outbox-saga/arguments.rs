//! What can be typed.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use outbox_saga::inspect::Kind;

const LONG_ABOUT: &str = "\
Shows the sagas and TCC transactions of a service, and leaves operators' requests.

It reads the tables that the service keeps in its MySQL or MariaDB database (saga_instances, saga_steps, saga_history, \
tcc_transactions, tcc_branches, tcc_history) and needs none of its code. What a saga knows and what a branch was sent is never \
shown. A request is left in the row of its saga or transaction; the service itself follows it.

An instance is stuck when a step or branch has not answered as often as it may fail to. Look at it with `show`, put right what \
keeps the participant from answering, then:

    outbox-saga retry order-7             does again what is stuck
    outbox-saga skip order-7 ship         goes on without a step or branch that you have seen to by hand
    outbox-saga abort order-7 --reason …  compensates a saga, even past its pivot; cancels an undecided transaction
    outbox-saga cancel order-7 --reason … compensates a saga only if its pivot is not passed";

const AFTER_HELP: &str = "\
Exit codes: 0 done, 64 wrong usage, 65 not found or makes no sense as things stand, 69 the database cannot be reached, 70 other \
trouble, 78 wrong configuration (URL, password, rights, tables missing).

The user needs SELECT on the tables, and UPDATE on saga_instances and tcc_transactions for requests.";

/// Shows sagas and TCC transactions, and leaves operators' requests.
#[derive(Debug, Parser)]
#[command(name = "outbox-saga", version, long_about = LONG_ABOUT, after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) database: Database,
    /// Prints JSON instead of tables
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The database of the service.
#[derive(Debug, Args)]
pub(crate) struct Database {
    /// The service's database, without password: mysql://USER@HOST:PORT/DATABASE
    #[arg(long, global = true, env = "OUTBOX_SAGA_URL", hide_env_values = true)]
    pub(crate) url: Option<String>,
    /// A file with the user's password; without it the environment variable OUTBOX_SAGA_PASSWORD is taken, if there is one
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) password_file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Lists sagas and transactions: stuck ones first, then what changed last
    List {
        /// Only sagas, or only transactions
        #[arg(long)]
        kind: Option<KindName>,
        /// Only this status, such as stuck, running, compensated, confirming
        #[arg(long)]
        status: Option<String>,
        /// Only those of this name, among the latest 10,000 of each status
        #[arg(long)]
        name: Option<String>,
        /// At most so many
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        limit: u32,
    },
    /// Shows one with its steps or branches, and its history
    Show(Which),
    /// Does again what is stuck or waits for its next attempt
    Retry {
        #[command(flatten)]
        which: Which,
        /// Only this step of a saga
        #[arg(long)]
        step: Option<String>,
        #[command(flatten)]
        wait: Wait,
    },
    /// Goes on without a step or branch that somebody has seen to by hand
    Skip {
        #[command(flatten)]
        which: Which,
        /// The step's or branch's name
        #[arg(value_name = "STEP")]
        part: String,
        #[command(flatten)]
        wait: Wait,
    },
    /// Compensates a saga, even past its pivot; cancels a transaction that is not decided
    Abort {
        #[command(flatten)]
        which: Which,
        /// Why, for the history
        #[arg(long, default_value = "an operator has aborted it")]
        reason: String,
        #[command(flatten)]
        wait: Wait,
    },
    /// Compensates a saga whose pivot is not passed; cancels a transaction that is not decided
    Cancel {
        #[command(flatten)]
        which: Which,
        /// Why, for the history
        #[arg(long, default_value = "an operator has cancelled it")]
        reason: String,
        #[command(flatten)]
        wait: Wait,
    },
    /// Counts by name and status, with the oldest that is stuck, and how long those took that have ended
    Stats {
        /// Only sagas, or only transactions
        #[arg(long)]
        kind: Option<KindName>,
    },
    /// Serves a page that shows all of it, to read only; it asks nobody for a password, so keep it where only operators are
    Serve {
        /// Where to listen
        #[arg(long, default_value = "127.0.0.1:9465")]
        listen: SocketAddr,
    },
}

/// Which saga or transaction.
#[derive(Debug, Args)]
pub(crate) struct Which {
    /// Its id
    pub(crate) id: String,
    /// Saga or transaction; needed only where both have the id
    #[arg(long)]
    pub(crate) kind: Option<KindName>,
}

/// How long to wait for the service.
#[derive(Debug, Args)]
pub(crate) struct Wait {
    /// How many seconds to wait until the service has followed the request; 0: not at all
    #[arg(long = "wait", value_name = "SECONDS", default_value_t = 5)]
    pub(crate) seconds: u64,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum KindName {
    Saga,
    Tcc,
}

impl From<KindName> for Kind {
    fn from(name: KindName) -> Self {
        match name {
            KindName::Saga => Self::Saga,
            KindName::Tcc => Self::Tcc,
        }
    }
}
