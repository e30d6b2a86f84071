//! What is told of a stream in the end.

use serde::Serialize;

/// So many findings of a kind are listed; all are counted.
pub(super) const LISTED_MAX: usize = 100;

/// What can be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// A row whose message the stream lacks, though it must have it.
    Missing,
    /// A message of an event that an earlier message has told.
    Doubled,
    /// A message behind one that was committed later.
    Reordered,
    /// A message with another subject, body or header than its row says.
    Altered,
    /// A row that can be no message.
    Unsendable,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// What.
    pub(crate) kind: Kind,
    /// The table of the row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) table: Option<String>,
    /// The event's id, as the message names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<String>,
    /// The message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sequence: Option<u64>,
    /// Which parts differ, or why it can be no message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) detail: Option<String>,
}

impl Finding {
    pub(super) fn of(kind: Kind) -> Self {
        Self { kind, table: None, id: None, sequence: None, detail: None }
    }
}

/// What came of one stream.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct StreamReport {
    /// The stream.
    pub(crate) stream: String,
    /// Why it could not be compared, if so; then nothing else counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) unchecked: Option<String>,
    /// Rows read.
    pub(crate) rows: u64,
    /// Messages read.
    pub(crate) messages: u64,
    /// Rows that have their message.
    pub(crate) matched: u64,
    pub(crate) missing: u64,
    pub(crate) doubled: u64,
    pub(crate) reordered: u64,
    pub(crate) altered: u64,
    pub(crate) unsendable: u64,
    /// Rows that the bridge has still to publish.
    pub(crate) unpublished: u64,
    /// Rows without a message from before the bridge read the table.
    pub(crate) before_start: u64,
    /// Rows without a message that the stream may have held and dropped.
    pub(crate) gone: u64,
    /// Rows with the id of another row, which JetStream takes for the same message.
    pub(crate) repeated: u64,
    /// Messages whose rows are not, or not any more, among those that were read.
    pub(crate) without_row: u64,
    /// Messages that are no events.
    pub(crate) foreign: u64,
    /// Tables that store nothing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) without_rows: Vec<String>,
    /// In how many parts it was done.
    pub(crate) passes: u64,
    /// What is wrong: the first of each kind.
    pub(crate) findings: Vec<Finding>,
}

impl StreamReport {
    pub(super) fn new(stream: &str) -> Self {
        Self { stream: stream.to_owned(), ..Self::default() }
    }

    /// How many things are wrong.
    pub(crate) fn found(&self) -> u64 {
        self.missing + self.doubled + self.reordered + self.altered + self.unsendable
    }

    /// Whether another finding of this kind would be listed.
    pub(super) fn lists(&self, kind: Kind) -> bool {
        self.findings.iter().filter(|finding| finding.kind == kind).count() < LISTED_MAX
    }

    /// Lists a finding, if there are not enough of its kind.
    pub(super) fn list(&mut self, finding: Finding) {
        if self.lists(finding.kind) {
            self.findings.push(finding);
        }
    }
}
