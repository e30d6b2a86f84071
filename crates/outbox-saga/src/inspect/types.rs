//! What is read. All times are UTC, as `2026-01-31T12:00:00.000Z`.

use std::fmt;

use serde::Serialize;
use serde_json::Value;

/// Which pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A saga, of steps.
    Saga,
    /// A TCC transaction, of branches.
    Tcc,
}

/// The tables of a kind, and their columns where they differ.
#[derive(Debug)]
pub(super) struct Tables {
    pub(super) instances: &'static str,
    pub(super) parts: &'static str,
    pub(super) history: &'static str,
    /// The column of the instance's id in the other two.
    pub(super) key: &'static str,
    /// The column of the part's name in the other two.
    pub(super) part: &'static str,
    pub(super) version: &'static str,
}

impl Kind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Saga, Self::Tcc];

    /// `saga` or `tcc`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Saga => "saga",
            Self::Tcc => "tcc",
        }
    }

    /// The statuses of an instance: first what asks for an operator, then what goes on, then the ends.
    #[must_use]
    pub fn statuses(self) -> &'static [&'static str] {
        match self {
            Self::Saga => &["stuck", "running", "compensating", "completed", "compensated", "aborted"],
            Self::Tcc => &["stuck", "trying", "confirming", "cancelling", "confirmed", "cancelled"],
        }
    }

    /// Whether nothing more happens to an instance of this status.
    #[must_use]
    pub fn is_end(self, status: &str) -> bool {
        self.statuses().iter().skip(if self == Self::Saga { 3 } else { 4 }).any(|end| *end == status)
    }

    /// What its parts are called.
    #[must_use]
    pub fn part(self) -> &'static str {
        self.tables().part
    }

    pub(super) fn tables(self) -> &'static Tables {
        match self {
            Self::Saga => &Tables {
                instances: "saga_instances",
                parts: "saga_steps",
                history: "saga_history",
                key: "saga_id",
                part: "step",
                version: "version",
            },
            Self::Tcc => &Tables {
                instances: "tcc_transactions",
                parts: "tcc_branches",
                history: "tcc_history",
                key: "transaction_id",
                part: "branch",
                version: "NULL",
            },
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// Only this kind.
    pub kind: Option<Kind>,
    /// Only this status.
    pub status: Option<String>,
    /// Only sagas or transactions of this name, among the latest [`LOOK_MAX`](super::LOOK_MAX) of each status.
    pub name: Option<String>,
    /// At most so many. 20 by default.
    pub limit: u32,
}

impl Default for Filter {
    fn default() -> Self {
        Self { kind: None, status: None, name: None, limit: 20 }
    }
}

/// An instance on one line.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// Saga or transaction.
    pub kind: Kind,
    /// Its id.
    pub id: String,
    /// Of what sort it is.
    pub name: String,
    /// The version of a saga's definition.
    pub version: Option<u32>,
    /// How it stands.
    pub status: String,
    /// Why it does not go on or goes back.
    pub error: Option<String>,
    /// What an operator has asked for, while it is not followed.
    pub request: Option<Value>,
    /// When it was begun.
    pub created_at: String,
    /// When something about it changed last.
    pub updated_at: String,
}

/// An instance with its parts and its history.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Detail {
    /// The whole.
    #[serde(flatten)]
    pub summary: Summary,
    /// What a transaction was decided to: `confirm` or `cancel`.
    pub decision: Option<String>,
    /// Until when a transaction may be decided to confirm.
    pub deadline: Option<String>,
    /// When something happens though nothing comes in.
    pub next_at: Option<String>,
    /// The trace that it belongs to.
    pub traceparent: Option<String>,
    /// Steps or branches, in their order.
    pub parts: Vec<Part>,
    /// What has happened, the oldest first.
    pub history: Vec<Line>,
}

/// A step of a saga, or a branch of a transaction.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Part {
    /// Its name.
    pub name: String,
    /// Parts of one stage go on in parallel.
    pub stage: u32,
    /// Whether there is only forward once this step is done.
    pub pivot: bool,
    /// Whether the step has a compensation; not known of branches, which can always be cancelled.
    pub compensable: Option<bool>,
    /// The endpoint that serves the branch.
    pub endpoint: Option<String>,
    /// How it stands.
    pub status: String,
    /// Of a step: how often its present command was sent. Of a branch: how many calls failed.
    pub attempts: u32,
    /// When a step's command is sent again or given up.
    pub deadline: Option<String>,
    /// What went wrong last.
    pub error: Option<String>,
    /// When it changed last.
    pub updated_at: String,
}

/// A line of the history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line {
    /// When.
    pub at: String,
    /// The step or branch; none for the whole.
    pub part: Option<String>,
    /// The status before, if there was one.
    pub from: Option<String>,
    /// The status after.
    pub to: String,
    /// What brought it about.
    pub cause: String,
    /// In words, where there is more to say.
    pub error: Option<String>,
}

/// Instances of one name and one status.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Group {
    /// Sagas or transactions.
    pub kind: Kind,
    /// Of what sort.
    pub name: String,
    /// How they stand.
    pub status: String,
    /// How many there are, or were looked at.
    pub count: i64,
    /// Whether there are more of this status, of whatever name, than [were looked at](super::LOOK_MAX).
    pub partial: bool,
    /// When the one of them that has been stuck for longest changed last.
    pub oldest_stuck_at: Option<String>,
    /// How long those that have ended took, on average, in seconds.
    pub mean_seconds: Option<f64>,
    /// How long 99 of 100 that have ended took at most, in seconds (nearest rank).
    pub p99_seconds: Option<f64>,
}
