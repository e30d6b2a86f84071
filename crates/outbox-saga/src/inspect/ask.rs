//! What operators ask for. It is tried on a copy of the state first, so that what makes no sense is refused at once, and what comes
//! next can be told.

use serde_json::Value;

use super::error::{InspectError, InspectErrorKind};
use super::read::Inspector;
use super::types::{Detail, Kind, Part};
use crate::saga::engine::{Effect, Input, Instance, Moment};
use crate::saga::{self, SagaErrorKind};
use crate::tcc;

/// What an operator asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ask {
    /// Does again what is stuck or waits: all of it, or one step of a saga.
    Retry {
        /// The step's name.
        part: Option<String>,
    },
    /// Goes on without a step or branch, which somebody has seen to by hand.
    Skip {
        /// Its name.
        part: String,
    },
    /// Compensates a saga, even after its pivot; cancels a transaction that is not decided.
    Abort {
        /// Why. A transaction keeps no reason.
        reason: String,
    },
    /// Compensates a saga whose pivot is not passed; cancels a transaction that is not decided.
    Cancel {
        /// Why. A transaction keeps no reason.
        reason: String,
    },
}

/// What was asked for.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Asked {
    /// Saga or transaction.
    pub kind: Kind,
    /// Its id.
    pub id: String,
    /// What stands in the table now.
    pub request: Value,
    /// Another request that was not followed yet, and is not any more.
    pub replaced: Option<Value>,
    /// What happens next, in words.
    pub next: String,
    /// How many lines its history had before.
    pub history_before: usize,
}

impl Inspector {
    /// Asks for something, which is done by whichever instance of the service comes first.
    ///
    /// # Errors
    ///
    /// [`Refused`](InspectErrorKind::Refused) when it makes no sense as things stand; otherwise as [`show`](Self::show).
    pub async fn ask(&self, kind: Option<Kind>, id: &str, ask: &Ask) -> Result<Asked, InspectError> {
        let detail = self.show(kind, id).await?;
        let kind = detail.summary.kind;
        if kind.is_end(&detail.summary.status) {
            let status = &detail.summary.status;
            return Err(refused(
                &detail,
                &format!("it has ended ({status}), and nothing more happens to it"),
            ));
        }
        let (request, next) = match kind {
            Kind::Saga => self.ask_saga(&detail, ask).await?,
            Kind::Tcc => self.ask_tcc(&detail, ask).await?,
        };
        let replaced = detail.summary.request.clone();
        let history_before = detail.history.len();
        Ok(Asked { kind, id: id.to_owned(), request, replaced, next, history_before })
    }

    async fn ask_saga(&self, detail: &Detail, ask: &Ask) -> Result<(Value, String), InspectError> {
        let id = &detail.summary.id;
        if let Ask::Retry { part: Some(part) } | Ask::Skip { part } = ask {
            known(detail, part)?;
        }
        let (request, input) = match ask.clone() {
            Ask::Retry { part } => (saga::Request::Retry { step: part.clone() }, Input::Retry { step: part }),
            Ask::Skip { part } => (saga::Request::Skip { step: part.clone() }, Input::Skip { step: part }),
            Ask::Abort { reason } => {
                (saga::Request::Abort { reason: reason.clone() }, Input::Abort { reason })
            }
            Ask::Cancel { reason } => {
                (saga::Request::Cancel { reason: reason.clone() }, Input::Cancel { reason })
            }
        };
        let state =
            sqlx::query_scalar("SELECT CAST(state AS CHAR) FROM saga_instances WHERE id = ?").bind(id);
        let state: String = state
            .fetch_one(&self.pool)
            .await
            .map_err(|error| InspectError::of_database("cannot read the table saga_instances", error))?;
        let mut instance: Instance = serde_json::from_str(&state)
            .map_err(|_| refused(detail, "its state is of a later version of this tool: use that one"))?;
        let effects = instance
            .handle(&input, Moment { now: 0, chance: 0 })
            .map_err(|refusal| refused(detail, &saga_advice(refusal)))?;
        request.leave(&self.pool, id).await.map_err(|error| left_error(detail, error))?;
        let (name, version) = (&detail.summary.name, detail.summary.version.unwrap_or_default());
        let next = format!(
            "the orchestrator that has `{name}` version {version} follows it within half a second, if one runs: {}, and the saga \
             is {}",
            commands(&instance, &effects),
            instance.status.as_str()
        );
        Ok((value(&request), next))
    }

    async fn ask_tcc(&self, detail: &Detail, ask: &Ask) -> Result<(Value, String), InspectError> {
        use tcc::Request;
        let decision = detail.decision.as_deref();
        let (request, next) = match (ask, decision) {
            (Ask::Retry { part: Some(_) }, _) => {
                return Err(refused(detail, "a transaction is retried as a whole: leave the branch out"));
            }
            (Ask::Retry { .. } | Ask::Skip { .. }, None) => {
                let why = "nothing is decided yet, so there is nothing to do again or without: wait for its deadline, or abort it";
                return Err(refused(detail, why));
            }
            (Ask::Retry { part: None }, Some(decision)) => {
                let open: Vec<_> = detail
                    .parts
                    .iter()
                    .filter(|part| !is_closed(part))
                    .map(|part| part.name.as_str())
                    .collect();
                (Request::Retry, format!("it calls {decision} of {} again", open.join(", ")))
            }
            (Ask::Skip { part }, Some(decision)) => {
                if is_closed(known(detail, part)?) {
                    return Err(refused(detail, &format!("the branch `{part}` has ended already")));
                }
                let next = format!(
                    "it takes `{part}` for ended without its {decision}, and goes on with what is open"
                );
                (Request::Skip { branch: part.clone() }, next)
            }
            (Ask::Abort { .. } | Ask::Cancel { .. }, Some(decision)) => {
                let why = format!(
                    "it is decided to {decision}, and a decision stands: retry, or skip what was seen to by hand"
                );
                return Err(refused(detail, &why));
            }
            (Ask::Abort { .. } | Ask::Cancel { .. }, None) => {
                (Request::Abort, "it is decided to cancel, and every branch is cancelled".to_owned())
            }
        };
        let store = tcc::Store::new(self.pool.clone());
        store.request(&detail.summary.id, &request).await.map_err(|error| match error.kind() {
            tcc::TccErrorKind::NoSuchTransaction => refused(detail, "it has ended meanwhile"),
            _ => of_source("cannot leave the request", &error),
        })?;
        Ok((value(&request), format!("a coordinator takes it up at its next look, if one runs: {next}")))
    }
}

fn known<'a>(detail: &'a Detail, part: &str) -> Result<&'a Part, InspectError> {
    detail.parts.iter().find(|one| one.name == part).ok_or_else(|| {
        let names: Vec<_> = detail.parts.iter().map(|part| part.name.as_str()).collect();
        let sort = detail.summary.kind.part();
        refused(detail, &format!("it has no {sort} `{part}`, but {}", names.join(", ")))
    })
}

fn is_closed(part: &Part) -> bool {
    matches!(part.status.as_str(), "confirmed" | "cancelled" | "skipped")
}

fn refused(detail: &Detail, why: &str) -> InspectError {
    let (kind, id) = (detail.summary.kind, &detail.summary.id);
    InspectError::new(InspectErrorKind::Refused, format!("cannot ask that of {kind} {id:?}: {why}"))
}

fn saga_advice(refusal: saga::engine::Refusal) -> String {
    use saga::engine::Refusal;
    match refusal {
        Refusal::PastPivot => format!("{refusal}; `abort` compensates all the same"),
        Refusal::Compensating => format!("{refusal}; `retry` or `skip` what is stuck"),
        other => other.to_string(),
    }
}

fn left_error(detail: &Detail, error: saga::SagaError) -> InspectError {
    match error.kind() {
        SagaErrorKind::NotFound => refused(detail, "it has ended meanwhile"),
        _ => of_source("cannot leave the request", &error),
    }
}

/// The cause says whether the user may not, so it is taken apart again.
fn of_source(what: &str, error: &dyn std::error::Error) -> InspectError {
    let denied = |error: &sqlx::mysql::MySqlDatabaseError| matches!(error.number(), 1044 | 1142 | 1143);
    let cause = error.source().and_then(|cause| cause.downcast_ref::<sqlx::Error>());
    let cause = cause.and_then(sqlx::Error::as_database_error);
    let is_denied = cause.and_then(|cause| cause.try_downcast_ref()).is_some_and(denied);
    if is_denied {
        let remedy =
            "the user may not: have an administrator GRANT UPDATE on saga_instances and tcc_transactions";
        return InspectError::new(InspectErrorKind::Denied, format!("{what}: {remedy}"));
    }
    let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
    InspectError::new(InspectErrorKind::Unavailable, format!("{what}: {error}{cause}"))
}

fn value(request: &impl serde::Serialize) -> Value {
    serde_json::to_value(request).unwrap_or_default()
}

/// The commands that are sent next.
fn commands(instance: &Instance, effects: &[Effect]) -> String {
    let command = |effect: &Effect| match effect {
        Effect::Command { step, action, .. } => {
            instance.steps.get(*step).map(|step| format!("{action} {}", step.shape.name))
        }
        _ => None,
    };
    let commands: Vec<_> = effects.iter().filter_map(command).collect();
    if commands.is_empty() {
        "no command is sent".to_owned()
    } else {
        format!("it sends {}", commands.join(", "))
    }
}
