//! `outbox-bridge dead-letters`: looks at the rows that could not be published, publishes them after all, or drops them.

mod replay;

pub(crate) use self::replay::StartError as ReplayStartError;

use std::fmt::Write as _;
use std::path::Path;

use outbox_event::header;
use serde::Serialize;

use super::check::permissions;
use super::{ConfigArgument, block_on, complain, print_out};
use crate::config::Config;
use crate::exit::{Exit, report};
use crate::nats;
use crate::publish::{Letter, Letters, Replaced, State, WireError};
use crate::run;

/// What to do.
#[derive(Debug, Clone, clap::Subcommand)]
pub(super) enum Action {
    /// Lists the letters
    List {
        #[command(flatten)]
        config: ConfigArgument,
        #[command(flatten)]
        filter: Filter,
        /// Also those that were published or dropped
        #[arg(long)]
        done: bool,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Shows one letter with its content
    Show {
        #[command(flatten)]
        config: ConfigArgument,
        /// Its number, as `list` shows it
        number: u64,
        /// Its content as it is, alone
        #[arg(long)]
        body: bool,
    },
    /// Publishes letters after all, in the place of the bridge, which has to be stopped meanwhile
    #[command(after_long_help = "\
Mend the cause first: raise the limit, add the subject, give the permission. Consumers get the events now, behind all that was \
published since, and in the order of their rows. Interrupted at any point it can be run again: nothing is published twice.")]
    Replay(Selection),
    /// Throws letters away for good: their rows are not published, whatever happens
    Drop(Selection),
}

impl Action {
    pub(super) fn config(&self) -> &Path {
        match self {
            Self::List { config, .. } | Self::Show { config, .. } => &config.config,
            Self::Replay(selection) | Self::Drop(selection) => &selection.config.config,
        }
    }
}

/// Which letters something is done with.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Selection {
    #[command(flatten)]
    config: ConfigArgument,
    /// Their numbers, as `list` shows them
    #[arg(required_unless_present = "all")]
    numbers: Vec<u64>,
    /// All that the filters leave
    #[arg(long, requires = "yes", conflicts_with = "numbers")]
    all: bool,
    /// Confirms --all
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    filter: Filter,
}

/// Which letters.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct Filter {
    /// Only of rows for this stream
    #[arg(long, value_name = "STREAM")]
    stream: Option<String>,
    /// Only with this reason: too_large, subject, denied, headers, unmappable
    #[arg(long, value_name = "REASON")]
    reason: Option<String>,
}

impl Filter {
    fn matches(&self, letter: &Letter) -> bool {
        let is = |wanted: &Option<String>, name| {
            wanted.as_deref().is_none_or(|wanted| letter.header(name) == Some(wanted))
        };
        is(&self.stream, header::LETTER_STREAM) && is(&self.reason, header::LETTER_REASON)
    }
}

/// A letter as it is listed.
#[derive(Debug, Serialize)]
struct Listed<'a> {
    number: u64,
    state: &'static str,
    stream: &'a str,
    reason: &'a str,
    error: &'a str,
    table: &'a str,
    id: &'a str,
    subject: &'a str,
    position: &'a str,
    bytes: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    missing: Option<&'a str>,
}

impl<'a> Listed<'a> {
    fn of(letter: &'a Letter) -> Self {
        let header = |name| letter.header(name).unwrap_or_default();
        Self {
            number: letter.sequence,
            state: letter.state.label(),
            stream: header(header::LETTER_STREAM),
            reason: header(header::LETTER_REASON),
            error: header(header::LETTER_ERROR),
            table: header(header::LETTER_TABLE),
            id: header(header::CE_ID),
            subject: header(header::LETTER_SUBJECT),
            position: header(header::POSITION),
            bytes: letter.body.len(),
            missing: letter.header(header::LETTER_CUT),
        }
    }

    fn line(&self) -> String {
        let Self { number, state, stream, reason, table, id, position, bytes, .. } = self;
        format!("{number:>8}  {state:<8} {stream}  {reason:<10} {table}  {id}  {position}  {bytes} bytes\n")
    }
}

pub(super) fn execute(config: &Config, action: &Action) -> Exit {
    let ended = block_on(async {
        let connected = permissions::connect(&config.nats, &format!("{}-dead-letters", config.name)).await;
        let client = match connected {
            Ok((client, _)) => client,
            Err(error) => {
                complain(&report(&error));
                return Exit::Unavailable;
            }
        };
        let context = nats::jetstream(&config.nats, client.clone());
        let Some(letters) = run::letters(config, &client, &context) else {
            complain("there are no dead letters: poison.action is \"halt\"");
            return Exit::Configuration;
        };
        if let Action::Replay(Selection { numbers, all, filter, .. }) = action {
            let chosen = if *all { replay::Chosen::All(filter) } else { replay::Chosen::Numbers(numbers) };
            return match Box::pin(replay::execute(config, &client, &context, &letters, chosen)).await {
                Ok(exit) => exit,
                Err(error) => {
                    complain(&report(&error));
                    error.exit()
                }
            };
        }
        match act(&letters, action).await {
            Ok(exit) => exit,
            Err(error) => {
                complain(&report(&error));
                if error.is_transient() { Exit::Unavailable } else { Exit::Configuration }
            }
        }
    });
    ended.unwrap_or_else(|exit| exit)
}

async fn act(letters: &Letters, action: &Action) -> Result<Exit, WireError> {
    match action {
        Action::List { filter, done, json, .. } => list(letters, filter, *done, *json).await,
        Action::Show { number, body, .. } => show(letters, *number, *body).await,
        Action::Replay(_) => Ok(Exit::Usage),
        Action::Drop(Selection { numbers, all, filter, .. }) => {
            let chosen = if *all { chosen(letters, filter).await? } else { numbers.clone() };
            let mut exit = Exit::Success;
            for number in chosen {
                let failed = discard(letters, number, filter).await?;
                if let Some(problem) = failed {
                    complain(&problem);
                    exit = Exit::Usage;
                }
            }
            Ok(exit)
        }
    }
}

async fn list(letters: &Letters, filter: &Filter, done: bool, json: bool) -> Result<Exit, WireError> {
    let mut from = 1;
    let mut count = 0_u64;
    while let Some(letter) = letters.next(from).await? {
        from = letter.sequence + 1;
        if !filter.matches(&letter) || !(done || letter.state.is_open()) {
            continue;
        }
        count += 1;
        let listed = Listed::of(&letter);
        let line =
            if json { serde_json::to_string(&listed).unwrap_or_default() + "\n" } else { listed.line() };
        // Whoever reads it may have seen enough.
        if print_out(&line) != Exit::Success {
            return Ok(Exit::Internal);
        }
    }
    Ok(if json { Exit::Success } else { print_out(&format!("{count} dead letters\n")) })
}

async fn show(letters: &Letters, number: u64, body: bool) -> Result<Exit, WireError> {
    let Some(letter) = letters.at(number).await? else {
        complain(&unknown(number));
        return Ok(Exit::Usage);
    };
    let content = String::from_utf8_lossy(&letter.body);
    if body {
        return Ok(print_out(&content));
    }
    let mut text = String::new();
    let mut names: Vec<_> = letter.headers.iter().collect();
    names.sort_by_key(|(name, _)| AsRef::<str>::as_ref(*name).to_owned());
    for (name, values) in names {
        let name: &str = name.as_ref();
        let internal = name.starts_with("Nats-") || name == header::LETTER_MARKS;
        for value in values.iter().filter(|_| !internal) {
            // Writing to a text cannot fail.
            writeln!(text, "{name}: {}", value.as_str()).unwrap_or_default();
        }
    }
    Ok(print_out(&format!("{text}\n{content}\n")))
}

async fn chosen(letters: &Letters, filter: &Filter) -> Result<Vec<u64>, WireError> {
    let (mut from, mut numbers) = (1, Vec::new());
    while let Some(letter) = letters.next(from).await? {
        from = letter.sequence + 1;
        if letter.state.is_open() && filter.matches(&letter) {
            numbers.push(letter.sequence);
        }
    }
    Ok(numbers)
}

/// The letter of this number, if its content is still there.
async fn open(letters: &Letters, number: u64) -> Result<Option<Letter>, WireError> {
    Ok(letters.at(number).await?.filter(|letter| letter.state.is_open()))
}

/// Drops one; says what keeps it from that.
async fn discard(letters: &Letters, number: u64, filter: &Filter) -> Result<Option<String>, WireError> {
    let letter = open(letters, number).await?.filter(|letter| filter.matches(letter));
    let Some(letter) = letter else { return Ok(Some(unknown(number))) };
    Ok(match letters.replace(&letter, State::Dropped).await? {
        Replaced::Done(_) => {
            print_out(&format!("dropped {number}\n"));
            None
        }
        Replaced::Changed => Some(unknown(number)),
    })
}

fn unknown(number: u64) -> String {
    format!("there is no dead letter {number}; `outbox-bridge dead-letters list` shows those that there are")
}
