//! A transaction in hand, and what of it is not stored yet. It writes nothing itself.

use serde_json::Value;
use time::OffsetDateTime;

use super::schema::branch_status_name;
use crate::tcc::machine::{BranchStatus, Machine, Request};
use crate::tcc::transaction::NewTransaction;

/// How much of an error is kept.
const ERROR_CHARS_MAX: usize = 2000;

/// A transaction as it is in hand: what the store holds, and what has come about since.
#[derive(Debug, Clone)]
pub(crate) struct InHand {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) deadline: OffsetDateTime,
    pub(crate) traceparent: Option<String>,
    pub(crate) machine: Machine,
    pub(crate) branches: Vec<Branch>,
    /// Why it was or will be cancelled.
    pub(crate) reason: Option<String>,
    pub(crate) request: Option<Request>,
}

/// A branch, and what is not stored of it yet.
#[derive(Debug, Clone)]
pub(crate) struct Branch {
    pub(crate) name: String,
    pub(crate) endpoint: String,
    pub(crate) payload: Value,
    pub(crate) stored: BranchStatus,
    /// How many of the calls since it was stored came to nothing, or were refused.
    pub(crate) failed: u32,
    /// Of the last of these calls, if none has been accepted since.
    pub(crate) error: Option<String>,
}

impl Branch {
    /// A call came to nothing, or was refused.
    pub(crate) fn failed(&mut self, error: String) {
        self.failed = self.failed.saturating_add(1);
        self.error = Some(error);
    }
}

impl InHand {
    /// A new transaction as it has just been stored.
    pub(crate) fn new(new: NewTransaction, deadline: OffsetDateTime) -> Self {
        let branches: Vec<_> = new
            .branches
            .into_iter()
            .map(|branch| Branch {
                name: branch.name,
                endpoint: branch.endpoint,
                payload: branch.payload.unwrap_or_default(),
                stored: BranchStatus::Registered,
                failed: 0,
                error: None,
            })
            .collect();
        Self {
            id: new.id,
            name: new.name,
            deadline,
            traceparent: new.traceparent,
            machine: Machine::new(branches.len()),
            branches,
            reason: None,
            request: None,
        }
    }

    /// After what has come about is stored.
    pub(crate) fn stored(&mut self) {
        for (branch, &status) in self.branches.iter_mut().zip(self.machine.branches()) {
            branch.stored = status;
            branch.failed = 0;
            branch.error = None;
        }
    }

    pub(super) fn moved(&self) -> impl Iterator<Item = (u16, &Branch, BranchStatus)> {
        (0u16..)
            .zip(self.branches.iter().zip(self.machine.branches()))
            .map(|(position, (branch, &status))| (position, branch, status))
            .filter(|(_, branch, status)| branch.stored != *status || branch.error.is_some())
    }

    /// The history of what is not stored yet, with the transaction's own change, if there is one.
    pub(super) fn changes<'a>(
        &'a self,
        own: Option<(&'a str, &'a str, &'a str, Option<&'a str>)>,
    ) -> Vec<Change<'a>> {
        let branches = self.moved().map(|(_, branch, status)| Change {
            branch: Some(&branch.name),
            from: Some(branch_status_name(branch.stored)),
            to: branch_status_name(status),
            cause: if branch.stored == status { "a call failed" } else { "answered" },
            error: branch.error.as_deref(),
        });
        let own = own.map(|(from, to, cause, error)| Change::of_transaction(Some(from), to, cause, error));
        branches.chain(own).collect()
    }

    /// The errors of this round in a line.
    pub(super) fn open_errors(&self) -> Option<String> {
        let errors: Vec<_> = self
            .branches
            .iter()
            .filter_map(|branch| Some(format!("{}: {}", branch.name, branch.error.as_ref()?)))
            .collect();
        (!errors.is_empty()).then(|| shortened(&errors.join("; ")))
    }
}

/// A row of the history.
#[derive(Debug)]
pub(super) struct Change<'a> {
    pub(super) branch: Option<&'a str>,
    pub(super) from: Option<&'a str>,
    pub(super) to: &'a str,
    pub(super) cause: &'a str,
    pub(super) error: Option<&'a str>,
}

impl<'a> Change<'a> {
    pub(super) fn begun() -> Self {
        Self::of_transaction(None, "trying", "begun", None)
    }

    pub(super) fn of_transaction(
        from: Option<&'a str>,
        to: &'a str,
        cause: &'a str,
        error: Option<&'a str>,
    ) -> Self {
        Self { branch: None, from, to, cause, error }
    }
}

pub(super) fn shortened(error: &str) -> String {
    error.chars().take(ERROR_CHARS_MAX).collect()
}
