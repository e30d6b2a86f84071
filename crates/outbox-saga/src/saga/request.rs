//! What an operator may ask for. It needs no definition: the request is left in the saga's row, and whichever instance has the
//! definition follows it.

use serde::{Deserialize, Serialize};
use sqlx::MySqlPool;

use super::engine::Input;
use super::error::SagaError;
use super::store;

/// A request, as it stands in `saga_instances.request`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Request {
    /// Sends again what is stuck or waits, all of it or one step.
    Retry {
        /// The step's name.
        #[serde(default)]
        step: Option<String>,
    },
    /// Goes on without a step, or without its compensation, that is stuck or waits.
    Skip {
        /// The step's name.
        step: String,
    },
    /// Compensates, even after the pivot.
    Abort {
        /// Why.
        reason: String,
    },
    /// Compensates, if the pivot is not passed.
    Cancel {
        /// Why.
        reason: String,
    },
}

impl Request {
    /// Leaves the request at a saga. What became of it stands in `saga_history`; a request takes the place of one before it
    /// that was not followed yet.
    ///
    /// # Errors
    ///
    /// [`NotFound`](super::SagaErrorKind::NotFound) when there is no such saga, or it has ended.
    pub async fn leave(&self, pool: &MySqlPool, id: &str) -> Result<(), SagaError> {
        let request = serde_json::to_string(self).unwrap_or_default();
        let left = store::leave_request(pool, id, &request).await;
        let left = left.map_err(SagaError::database(format!("cannot leave a request at saga {id}")))?;
        if left { Ok(()) } else { Err(SagaError::not_found(&format!("{id} that has not ended"))) }
    }

    pub(super) fn into_input(self) -> Input {
        match self {
            Self::Retry { step } => Input::Retry { step },
            Self::Skip { step } => Input::Skip { step },
            Self::Abort { reason } => Input::Abort { reason },
            Self::Cancel { reason } => Input::Cancel { reason },
        }
    }
}
