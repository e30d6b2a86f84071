//! `outbox-bridge init`: the tables, grants and streams that a configuration needs, as text or made.

mod apply;
mod sql;
mod stream;

use clap::ValueEnum;

use super::{check, print_out};
use crate::config::Config;
use crate::exit::Exit;

/// What to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Part {
    /// The outbox tables
    Table,
    /// The bridge's user and its grants
    Grants,
    /// The streams, as `nats stream add --config` takes them
    Stream,
}

/// The SQL dialect to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(super) enum Dialect {
    /// MySQL 8.0 and later
    #[default]
    Mysql,
    /// MariaDB 10.6 and later
    Mariadb,
}

/// What to write, as typed.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub(super) struct Options {
    /// Print only this part
    #[arg(long, value_enum, conflicts_with = "apply")]
    print: Option<Part>,
    /// Create the tables and streams that do not exist, instead of printing them
    ///
    /// The tables are created by the user in source.url. To have another create them, set OUTBOX_BRIDGE__SOURCE__URL and
    /// OUTBOX_BRIDGE__SOURCE__PASSWORD_FILE for this one run. What exists is compared and left as it is; users and grants
    /// are only ever printed.
    #[arg(long)]
    apply: bool,
    /// With --apply: let streams that exist take the missing subjects and fast-ingest batches
    #[arg(long, requires = "apply")]
    update_stream: bool,
    /// The SQL dialect to write
    #[arg(long, value_enum, default_value_t)]
    dialect: Dialect,
    /// How many servers hold each stream
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=5))]
    replicas: u8,
}

pub(super) fn execute(config: &Config, options: Options) -> Exit {
    if !options.apply {
        return print_out(&text(config, options));
    }
    check::report_findings(Box::pin(apply::apply(config, options)))
}

/// What `options` asks for: one part, or all, each introduced by a comment.
fn text(config: &Config, options: Options) -> String {
    let Options { print, dialect, replicas, .. } = options;
    match print {
        Some(Part::Table) => sql::tables(config),
        Some(Part::Grants) => sql::grants(config, dialect),
        Some(Part::Stream) => stream::json(config, replicas),
        None => format!(
            "-- The outbox tables, for whoever owns the schema.\n\n{}\n\
             -- The bridge's user, for an administrator. Put the password from source.password_file in place.\n\n{}\n\
             -- The streams, for `nats stream add --config FILE`, one object a file. They belong to the bridge:\n\
             -- nobody else may write to them. Choose replicas and limits to suit you.\n\n{}",
            sql::tables(config),
            sql::grants(config, dialect),
            stream::json(config, replicas)
        ),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A small configuration with `more` behind it.
    pub(in crate::cli) fn config(more: &str) -> Config {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("bridge.toml");
        let text = format!(
            "[source]\nurl = \"mysql://bridge@db\"\n[nats]\nurl = \"nats://n\"\n[[outbox]]\ntable = \"shop.outbox\"\n\
             stream = \"ORDERS\"\nsubject = \"orders.{{aggregate_type}}.{{type}}\"\n{more}"
        );
        std::fs::write(&path, text).expect("a file");
        Config::load_with(&path, [("", ""); 0]).expect("a configuration")
    }

    #[test]
    fn all_parts_by_default() {
        let config = config("");
        let all = text(&config, Options::default());
        for part in [Part::Table, Part::Grants, Part::Stream] {
            assert!(
                all.contains(&text(&config, Options { print: Some(part), ..Options::default() })),
                "{part:?}"
            );
        }
    }
}
