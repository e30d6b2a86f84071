//! The command line: what was typed becomes one of a few commands, and every command an exit code.

mod backfill;
mod check;
mod dead_letters;
mod display;
mod explain;
mod health;
mod init;
mod run;
mod shell;
mod signals;
mod status;
mod verify;

pub(crate) use self::dead_letters::ReplayStartError;

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::Config;
use crate::exit::{Exit, report};
use crate::logging;

const LONG_ABOUT: &str = "\
Outbox Bridge reads the binary log of MySQL or MariaDB and stores every committed row of an outbox table in a NATS \
JetStream stream: exactly once, in commit order.

The smallest configuration that works (everything else has a default):

    [source]
    url = \"mysql://bridge@127.0.0.1:3306\"
    password_file = \"/run/secrets/mysql-password\"

    [nats]
    url = \"nats://127.0.0.1:4222\"

    [[outbox]]
    table = \"shop.outbox\"
    stream = \"ORDERS\"
    subject = \"orders.{aggregate_type}.{type}\"

Save it as bridge.toml, then:

    outbox-bridge init --config bridge.toml     shows the table, the grants and the stream to create (--apply: creates them)
    outbox-bridge check --config bridge.toml    says what is missing or wrong
    outbox-bridge run --config bridge.toml      runs the bridge until SIGTERM
    outbox-bridge status --config bridge.toml   shows who leads and how far it is";

const AFTER_LONG_HELP: &str = "\
Every key can be overridden from the environment: OUTBOX_BRIDGE__SOURCE__URL is url in [source]. Secrets come from \
files (password_file) or from the environment (OUTBOX_BRIDGE__SOURCE__PASSWORD), never from the configuration file.

Exit codes: 0 done; 64 wrong command line; 65 `verify` has found something; 69 MySQL or NATS unavailable; 70 internal error; 78 wrong configuration.";

/// The command line.
#[derive(Debug, Parser)]
#[command(
    name = "outbox-bridge",
    version,
    about = "Committed rows of a MySQL outbox table become JetStream messages, exactly once and in commit order",
    long_about = LONG_ABOUT,
    after_long_help = AFTER_LONG_HELP
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the bridge until SIGTERM or SIGINT; a second signal stops it at once
    Run(ConfigArgument),
    /// Reports everything that would keep the bridge from running, with remedies
    Check(ConfigArgument),
    /// Prints, or creates, the outbox tables and streams that the configuration needs
    Init {
        #[command(flatten)]
        config: ConfigArgument,
        #[command(flatten)]
        options: init::Options,
    },
    /// Publishes from the outbox tables what the streams do not hold, then hands over to the log; the bridge must not run
    Backfill {
        #[command(flatten)]
        config: ConfigArgument,
        #[command(flatten)]
        options: backfill::Options,
    },
    /// Compares the outbox tables with what the streams hold; exits with 65 if something is missing, doubled, altered or out of order
    Verify {
        #[command(flatten)]
        config: ConfigArgument,
        #[command(flatten)]
        options: verify::Options,
    },
    /// Shows who leads and who stands by, how far the leader is, and what the streams hold; exits with 0 if somebody leads
    Status {
        #[command(flatten)]
        config: ConfigArgument,
        #[command(flatten)]
        options: status::Options,
    },
    /// Lists, shows, publishes and drops the rows that could not be published, where poison.action is "dead_letter"
    #[command(subcommand)]
    DeadLetters(dead_letters::Action),
    /// Asks the bridge that runs beside it whether it is ready; exits with 0 if so, for containers' health checks
    Health(ConfigArgument),
    /// Says what a code such as OB-4003 stands for, its cause and what to do
    Explain(explain::Options),
    /// Prints completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Prints the manual page
    Man(shell::ManOptions),
}

#[derive(Debug, Clone, clap::Args)]
struct ConfigArgument {
    /// The configuration file, TOML
    #[arg(long, short, value_name = "FILE", env = "OUTBOX_BRIDGE_CONFIG")]
    config: PathBuf,
}

/// Does what the process's arguments say.
#[must_use]
pub fn main() -> ExitCode {
    execute(std::env::args_os()).into()
}

fn execute(arguments: impl IntoIterator<Item = OsString>) -> Exit {
    let command = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli.command,
        Err(error) => {
            // Nothing is left to do if the terminal is gone.
            error.print().unwrap_or_default();
            return if error.use_stderr() { Exit::Usage } else { Exit::Success };
        }
    };
    match command {
        Command::Run(argument) => with_config(&argument.config, run::execute),
        Command::Check(argument) => with_config(&argument.config, |config| check::execute(&config)),
        Command::Init { config, options } => {
            with_config(&config.config, |config| init::execute(&config, options))
        }
        Command::Backfill { config, options } => {
            with_config(&config.config, |config| backfill::execute(&config, options))
        }
        Command::Verify { config, options } => {
            with_config(&config.config, |config| verify::execute(&config, options))
        }
        Command::Status { config, options } => {
            with_config(&config.config, |config| status::execute(&config, options))
        }
        Command::DeadLetters(action) => {
            with_config(action.config(), |config| dead_letters::execute(&config, &action))
        }
        Command::Health(argument) => with_config(&argument.config, |config| health::execute(&config)),
        Command::Explain(options) => explain::execute(&options),
        Command::Completions { shell } => shell::completions(shell),
        Command::Man(options) => shell::man(&options),
    }
}

fn with_config(path: &Path, command: impl FnOnce(Config) -> Exit) -> Exit {
    match Config::load(path) {
        Ok(config) => command(config),
        Err(error) => {
            complain(&error.to_string());
            Exit::Configuration
        }
    }
}

/// Sets up what a command that logs needs.
fn start_logging(config: &Config) -> Result<(), Exit> {
    logging::init(&config.log).map_err(|error| {
        complain(&report(&error));
        Exit::Internal
    })
}

/// Does a command's work on this thread: measured faster than on several on few cores, since one loop owns the state.
fn block_on<T>(work: impl Future<Output = T>) -> Result<T, Exit> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| {
        complain(&report(&error));
        Exit::Internal
    })?;
    Ok(runtime.block_on(work))
}

/// Writes `text` to standard output; a reader that has gone away is no error of ours.
fn print_out(text: &str) -> Exit {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => Exit::Success,
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Exit::Success,
        Err(error) => {
            complain(&report(&error));
            Exit::Internal
        }
    }
}

fn complain(text: &str) {
    eprintln!("outbox-bridge: {text}");
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn execute_words(words: &[&str]) -> Exit {
        execute(["outbox-bridge"].iter().chain(words).map(OsString::from))
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn exit_codes() {
        assert_eq!(execute_words(&["--help"]), Exit::Success);
        assert_eq!(execute_words(&["--version"]), Exit::Success);
        assert_eq!(execute_words(&["walk"]), Exit::Usage);
        assert_eq!(execute_words(&["run"]), Exit::Usage);
        assert_eq!(execute_words(&["run", "--config", "/no/such/file"]), Exit::Configuration);
        assert_eq!(execute_words(&["check", "--config", "/no/such/file"]), Exit::Configuration);
    }

    /// The configuration in the help is one that the reader accepts, but for the secret's file.
    #[test]
    fn the_help_teaches_what_works() {
        let lines: Vec<&str> = LONG_ABOUT
            .lines()
            .skip_while(|line| !line.contains("[source]"))
            .take_while(|line| line.is_empty() || line.starts_with("    "))
            .filter(|line| !line.contains("password_file"))
            .collect();
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("bridge.toml");
        std::fs::write(&path, lines.join("\n")).expect("a file");
        Config::load_with(&path, [("", ""); 0]).expect("the help's configuration");
    }
}
