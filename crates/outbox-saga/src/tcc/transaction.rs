//! What a transaction is begun with, and how it ended.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use super::error::{TccError, TccErrorKind};

/// How long ids and names may be, in bytes; the tables hold as many characters.
const NAME_BYTES_MAX: usize = 128;
/// How many branches a transaction may have. Each is called at the same time as the others.
const BRANCHES_MAX: usize = 64;

/// A transaction to be.
///
/// ```
/// use std::time::Duration;
/// use outbox_saga::tcc::NewTransaction;
///
/// let transaction = NewTransaction::new("order-42", "place-order")
///     .branch("stock", "inventory", serde_json::json!({"sku": "book", "count": 1}))
///     .branch("money", "payment", serde_json::json!({"customer": 7, "cents": 1500}))
///     .try_limit(Duration::from_secs(5));
/// ```
#[derive(Debug, Clone)]
pub struct NewTransaction {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) branches: Vec<NewBranch>,
    pub(crate) try_limit: Option<Duration>,
    pub(crate) traceparent: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NewBranch {
    pub(crate) name: String,
    pub(crate) endpoint: String,
    pub(crate) payload: Result<Value, String>,
}

impl NewTransaction {
    /// A transaction without branches yet. Its `id` must be its own among all transactions, and the same if it is asked for again,
    /// such as the order's number; `name` says of what sort it is, for people and metrics.
    #[must_use]
    pub fn new(id: impl Into<String>, name: impl Into<String>) -> Self {
        Self { id: id.into(), name: name.into(), branches: Vec::new(), try_limit: None, traceparent: None }
    }

    /// Adds a branch: its name within the transaction, the name of the endpoint that serves it, and what is sent with each call. All branches
    /// are tried at the same time.
    #[must_use]
    pub fn branch(
        mut self,
        name: impl Into<String>,
        endpoint: impl Into<String>,
        payload: impl Serialize,
    ) -> Self {
        let payload = serde_json::to_value(payload).map_err(|err| err.to_string());
        self.branches.push(NewBranch { name: name.into(), endpoint: endpoint.into(), payload });
        self
    }

    /// How long after the begin the decision to confirm may fall; a transaction that takes longer is cancelled. The
    /// coordinator's default is ten seconds.
    #[must_use]
    pub fn try_limit(mut self, limit: Duration) -> Self {
        self.try_limit = Some(limit);
        self
    }

    /// The trace that the transaction belongs to, a `traceparent` of W3C Trace Context. Every call carries it, also after a
    /// recovery. Without this it is the trace of the span in which the transaction is executed, if the feature
    /// `opentelemetry` is on.
    #[must_use]
    pub fn traceparent(mut self, traceparent: impl Into<String>) -> Self {
        self.traceparent = Some(traceparent.into());
        self
    }

    pub(crate) fn check(&self) -> Result<(), TccError> {
        let wrong = |what: String| Err(TccError::new(TccErrorKind::Settings, what));
        let names = self.branches.iter().flat_map(|branch| [&branch.name, &branch.endpoint]);
        for name in [&self.id, &self.name].into_iter().chain(names) {
            let printable = !name.chars().any(char::is_control) && !name.ends_with(' ');
            if name.is_empty() || name.len() > NAME_BYTES_MAX || !printable {
                return wrong(format!(
                    "{name:?} cannot be an id or a name: use 1 to {NAME_BYTES_MAX} bytes of printable characters"
                ));
            }
        }
        if self.branches.is_empty() || self.branches.len() > BRANCHES_MAX {
            let count = self.branches.len();
            return wrong(format!("the transaction has {count} branches: give it 1 to {BRANCHES_MAX}"));
        }
        if self.traceparent.as_ref().is_some_and(|trace| trace.len() > 55 || !trace.is_ascii()) {
            return wrong("the traceparent is longer than 55 bytes".to_owned());
        }
        for (place, branch) in self.branches.iter().enumerate() {
            if self.branches.iter().skip(place + 1).any(|other| other.name == branch.name) {
                return wrong(format!("two branches have the name `{}`", branch.name));
            }
            if let Err(err) = &branch.payload {
                return wrong(format!("the payload of branch `{}` is no JSON: {err}", branch.name));
            }
        }
        Ok(())
    }
}

/// How a transaction was decided. A decision stands: where `complete` is false, some branch has not answered yet, and is
/// called until it has.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Every branch is confirmed, or will be.
    Confirmed {
        /// Whether every branch has answered.
        complete: bool,
        /// What the tries have answered, by branch; empty if another instance has carried the transaction out.
        answers: BTreeMap<String, Value>,
    },
    /// Every branch is cancelled, or will be.
    Cancelled {
        /// Whether every branch has answered.
        complete: bool,
        /// Why.
        reason: String,
    },
}

impl Outcome {
    /// Whether the transaction is confirmed.
    #[must_use]
    pub fn is_confirmed(&self) -> bool {
        matches!(self, Self::Confirmed { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_is_refused() {
        let good = || NewTransaction::new("1", "order").branch("stock", "inventory", 1);
        assert!(good().check().is_ok());
        for (wrong, why) in [
            (NewTransaction::new("1", "order"), "0 branches"),
            (NewTransaction::new("", "order").branch("a", "b", 1), "cannot be an id"),
            (good().branch("stock", "other", 2), "two branches have the name `stock`"),
            (good().branch("b ", "other", 2), "cannot be an id"),
            (good().traceparent("x".repeat(56)), "traceparent"),
            (good().branch("b", "other", BTreeMap::from([((1, 2), 3)])), "no JSON"),
        ] {
            let err = wrong.check().expect_err(why);
            assert!(err.to_string().contains(why), "{err}");
        }
    }
}
