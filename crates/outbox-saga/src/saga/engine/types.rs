//! State, inputs and effects of the engine.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::saga::shape::{Shape, StepShape, is_default};

/// An instance of a saga: where each of its steps is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Instance {
    /// How the saga stands as a whole.
    pub status: Status,
    /// Whether it goes back: what was done is undone.
    #[serde(default, skip_serializing_if = "is_default")]
    pub backward: bool,
    /// Whether an operator had it compensated although its pivot was passed.
    #[serde(default, skip_serializing_if = "is_default")]
    pub aborted: bool,
    /// Why it was compensated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How long the whole may take, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// When the whole is to have ended, in milliseconds since 1970; not set when there is no limit or it is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<u64>,
    /// The steps, in the order of their stages.
    pub steps: Vec<Step>,
}

/// A step of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Step {
    /// What the definition says of it.
    pub shape: StepShape,
    /// Where it is.
    pub status: StepStatus,
    /// How often its present command was sent.
    pub attempts: u32,
    /// A repetition belongs to the round of its first command; a retry after a refusal begins another one. From 1.
    pub round: u32,
    /// Whether this round was refused.
    #[serde(default, skip_serializing_if = "is_default")]
    pub refused: bool,
    /// When something is to happen though no answer comes, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due: Option<u64>,
    /// What went wrong with it last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// How a saga stands as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Status {
    /// Going forward.
    Running,
    /// What was done is being undone.
    Compensating,
    /// A step has exceeded its limits: an operator is to retry it, skip it, or abort the saga.
    Stuck,
    /// The end: all steps are done.
    Completed,
    /// The end: all that was done and can be undone is undone.
    Compensated,
    /// The end: as compensated, by an operator's order after the pivot.
    Aborted,
}

impl Status {
    /// As it stands in the tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Compensating => "compensating",
            Self::Stuck => "stuck",
            Self::Completed => "completed",
            Self::Compensated => "compensated",
            Self::Aborted => "aborted",
        }
    }

    /// Whether nothing more happens.
    #[must_use]
    pub fn is_end(self) -> bool {
        matches!(self, Self::Completed | Self::Compensated | Self::Aborted)
    }
}

/// Where a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum StepStatus {
    /// Not begun.
    Waiting,
    /// Its command was sent, and no answer came yet.
    Doing,
    /// Its command will be sent again.
    DoPaused,
    /// Its command was sent as often as it may be, and nothing can be decided without an operator.
    DoStuck,
    /// The participant did it.
    Done,
    /// The participant answered that it does not do it.
    Refused,
    /// It may have been done or not, and has no compensation.
    Unknown,
    /// An operator said to go on without it.
    Skipped,
    /// Its compensation was sent, and no answer came yet.
    Undoing,
    /// Its compensation will be sent again.
    UndoPaused,
    /// Its compensation was sent as often as it may be.
    UndoStuck,
    /// The participant undid it, or never did it and never will.
    Undone,
    /// An operator said to go on without its compensation.
    UndoSkipped,
}

impl StepStatus {
    /// As it stands in the tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Doing => "doing",
            Self::DoPaused => "do_paused",
            Self::DoStuck => "do_stuck",
            Self::Done => "done",
            Self::Refused => "refused",
            Self::Unknown => "unknown",
            Self::Skipped => "skipped",
            Self::Undoing => "undoing",
            Self::UndoPaused => "undo_paused",
            Self::UndoStuck => "undo_stuck",
            Self::Undone => "undone",
            Self::UndoSkipped => "undo_skipped",
        }
    }

    pub(super) fn is_stuck(self) -> bool {
        matches!(self, Self::DoStuck | Self::UndoStuck)
    }

    /// Commanded forward, and not ended.
    pub(super) fn is_doing(self) -> bool {
        matches!(self, Self::Doing | Self::DoPaused | Self::DoStuck)
    }

    /// Commanded backward, and not ended.
    pub(super) fn is_undoing(self) -> bool {
        matches!(self, Self::Undoing | Self::UndoPaused | Self::UndoStuck)
    }

    /// Ended forward, so that the next stage may begin.
    pub(super) fn is_done(self) -> bool {
        matches!(self, Self::Done | Self::Skipped)
    }
}

/// What a command asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Action {
    /// To do the step.
    Do,
    /// To compensate it.
    Undo,
}

impl Action {
    /// As it stands in the header `Saga-Action`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Do => "do",
            Self::Undo => "undo",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The time, and a number by chance for what is to be jittered.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// Milliseconds since 1970.
    pub now: u64,
    /// Chance.
    pub chance: u8,
}

/// What comes in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// The beginning.
    Start,
    /// A participant's answer.
    Reply(Reply),
    /// Time has passed.
    Timer,
    /// From outside: the saga shall not be completed.
    Cancel {
        /// Why.
        reason: String,
    },
    /// From an operator: sends again what is stuck or waits, all of it or one step.
    Retry {
        /// The step's name.
        step: Option<String>,
    },
    /// From an operator: goes on without a step (or without its compensation) that is stuck or waits.
    Skip {
        /// The step's name.
        step: String,
    },
    /// From an operator: compensates, even after the pivot.
    Abort {
        /// Why.
        reason: String,
    },
}

/// A participant's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The index of the step.
    pub step: usize,
    /// The round of the command.
    pub round: u32,
    /// What was asked for.
    pub action: Action,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was done.
    Done,
    /// It was not done, for this reason.
    Refused(String),
}

/// What is to be written, all of it together with the new state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// The reply counts: the saga's data take over what it says. Comes before any command.
    Apply,
    /// A command to the participant of a step.
    Command {
        /// The index of the step.
        step: usize,
        /// What is asked for.
        action: Action,
        /// The command's round.
        round: u32,
    },
    /// A line of the history.
    Note(Note),
}

/// A line of the history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The index of the step; none for the saga as a whole.
    pub step: Option<usize>,
    /// The status before.
    pub from: &'static str,
    /// The status after; the same if nothing changed.
    pub to: &'static str,
    /// What brought it about.
    pub cause: Cause,
    /// In words, where there is more to say.
    pub error: Option<String>,
}

/// What brought a change about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Cause {
    /// The saga was started.
    Started,
    /// The steps before have ended.
    Turn,
    /// A participant's answer.
    Reply,
    /// A participant's answer that was known already.
    Duplicate,
    /// A participant's answer to what is no longer asked.
    Late,
    /// No answer came in time.
    Timeout,
    /// The delay before a further attempt is over.
    Retry,
    /// The whole took too long.
    SagaTimeout,
    /// The saga was cancelled.
    Cancelled,
    /// An operator's retry.
    OperatorRetry,
    /// An operator's skip.
    OperatorSkip,
    /// An operator's abort.
    OperatorAbort,
    /// A request that cannot be followed.
    RequestRefused,
}

impl Cause {
    /// As it stands in the history.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Turn => "turn",
            Self::Reply => "reply",
            Self::Duplicate => "duplicate reply",
            Self::Late => "late reply",
            Self::Timeout => "timeout",
            Self::Retry => "retry",
            Self::SagaTimeout => "saga timeout",
            Self::Cancelled => "cancelled",
            Self::OperatorRetry => "operator: retry",
            Self::OperatorSkip => "operator: skip",
            Self::OperatorAbort => "operator: abort",
            Self::RequestRefused => "request refused",
        }
    }
}

/// Why a request cannot be followed; nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The pivot is done, or its command is under way and could not be undone.
    #[error("the pivot is passed or under way: there is only forward")]
    PastPivot,
    /// It goes back already.
    #[error("the saga is being compensated already")]
    Compensating,
    /// It has ended.
    #[error("the saga has ended")]
    Ended,
    /// Nothing is stuck or waits to be sent again, or not this step.
    #[error("no such step is stuck or waits to be sent again")]
    NothingToDo,
}

impl Instance {
    /// An instance that is to be started.
    #[must_use]
    pub fn new(shape: &Shape) -> Self {
        let steps = shape.steps.iter().map(|step| Step {
            shape: step.clone(),
            status: StepStatus::Waiting,
            attempts: 0,
            round: 1,
            refused: false,
            due: None,
            error: None,
        });
        Self {
            status: Status::Running,
            backward: false,
            aborted: false,
            reason: None,
            timeout_ms: shape.timeout_ms,
            deadline: None,
            steps: steps.collect(),
        }
    }

    /// When a [timer](Input::Timer) is due next, in milliseconds since 1970.
    #[must_use]
    pub fn wake_at(&self) -> Option<u64> {
        self.steps.iter().filter_map(|step| step.due).chain(self.deadline).min()
    }

    /// Whether cancelling comes too late: the pivot is done, or it may be and could not be undone.
    #[must_use]
    pub fn is_past_pivot(&self) -> bool {
        let in_doubt = |step: &Step| step.status.is_doing() && !step.shape.compensable;
        self.steps.iter().any(|step| step.shape.pivot && (step.status.is_done() || in_doubt(step)))
    }

    /// Whether the pivot is done, as it must be before a step after it begins.
    pub(super) fn is_pivot_done(&self) -> bool {
        self.steps.iter().any(|step| step.shape.pivot && step.status.is_done())
    }
}
