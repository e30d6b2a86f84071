//! The rules.

use super::types::{
    Action, Cause, Effect, Input, Instance, Moment, Note, Outcome, Refusal, Reply, Status, Step, StepStatus,
};

impl Instance {
    /// Takes `input` in, and says what is to be written together with the new state.
    ///
    /// # Errors
    ///
    /// When a request cannot be followed; then nothing has changed.
    pub fn handle(&mut self, input: &Input, at: Moment) -> Result<Vec<Effect>, Refusal> {
        let mut turn = Turn { instance: self, at, effects: Vec::new() };
        match input {
            Input::Start => turn.start(),
            Input::Reply(reply) => turn.reply(reply),
            Input::Timer => turn.timer(),
            Input::Cancel { reason } => turn.cancel(reason)?,
            Input::Retry { step } => turn.retry(step.as_deref())?,
            Input::Skip { step } => turn.skip(step)?,
            Input::Abort { reason } => turn.abort(reason)?,
        }
        Ok(turn.effects)
    }
}

struct Turn<'a> {
    instance: &'a mut Instance,
    at: Moment,
    effects: Vec<Effect>,
}

/// What comes in.
impl Turn<'_> {
    fn start(&mut self) {
        let timeout = self.instance.timeout_ms;
        self.instance.deadline = timeout.map(|timeout| self.at.now.saturating_add(timeout));
        self.go_on(Cause::Started);
    }

    fn reply(&mut self, reply: &Reply) {
        let Some(step) = self.instance.steps.get(reply.step) else { return };
        let asked = step.round == reply.round && !step.refused;
        match (reply.action, &reply.outcome) {
            (Action::Do, outcome) if step.status.is_doing() && asked => {
                self.effects.push(Effect::Apply);
                match outcome {
                    Outcome::Done => {
                        self.set(reply.step, StepStatus::Done, Cause::Reply, None);
                        self.go_on(Cause::Turn);
                    }
                    Outcome::Refused(reason) => self.refused(reply.step, reason),
                }
            }
            (Action::Undo, Outcome::Done) if step.status.is_undoing() => {
                self.effects.push(Effect::Apply);
                self.set(reply.step, StepStatus::Undone, Cause::Reply, None);
                self.go_on(Cause::Turn);
            }
            (Action::Undo, Outcome::Refused(reason)) if step.status == StepStatus::Undoing => {
                self.pause(reply.step, Cause::Reply, reason);
            }
            _ => self.ignore(reply),
        }
    }

    /// Before the pivot is done a refusal is the saga's failure; after it the step is tried again.
    fn refused(&mut self, index: usize, reason: &str) {
        if self.instance.is_pivot_done() {
            if let Some(step) = self.instance.steps.get_mut(index) {
                step.refused = true;
            }
            self.pause(index, Cause::Reply, reason);
        } else {
            self.set(index, StepStatus::Refused, Cause::Reply, Some(reason.to_owned()));
            self.go_back(Cause::Reply, reason);
        }
    }

    fn ignore(&mut self, reply: &Reply) {
        let Some(step) = self.instance.steps.get(reply.step) else { return };
        let known = match reply.action {
            Action::Do => step.round == reply.round && step.status == StepStatus::Done,
            Action::Undo => step.status == StepStatus::Undone,
        };
        let cause = if known { Cause::Duplicate } else { Cause::Late };
        let said = match &reply.outcome {
            Outcome::Done => format!("{} was done", reply.action),
            Outcome::Refused(reason) => format!("{} was refused: {reason}", reply.action),
        };
        let status = step.status.as_str();
        self.note(Some(reply.step), status, status, cause, Some(said));
    }

    fn timer(&mut self) {
        if self.instance.deadline.is_some_and(|deadline| deadline <= self.at.now) {
            self.saga_timeout();
        }
        for index in 0..self.instance.steps.len() {
            let Some(step) = self.instance.steps.get(index) else { break };
            if step.due.is_none_or(|due| self.at.now < due) {
                continue;
            }
            match step.status {
                StepStatus::Doing if step.attempts >= step.shape.retry.attempts_max => self.give_up(index),
                StepStatus::Doing | StepStatus::Undoing => {
                    self.pause(index, Cause::Timeout, "no answer came in time");
                }
                StepStatus::DoPaused => self.command(index, Action::Do, Cause::Retry),
                StepStatus::UndoPaused => self.command(index, Action::Undo, Cause::Retry),
                _ => {}
            }
        }
    }

    fn saga_timeout(&mut self) {
        const REASON: &str = "the saga took too long";
        self.instance.deadline = None;
        if self.instance.is_past_pivot() {
            let status = self.instance.status.as_str();
            let error = format!("{REASON}, and goes on: it is past its pivot");
            self.note(None, status, status, Cause::SagaTimeout, Some(error));
        } else {
            self.go_back(Cause::SagaTimeout, REASON);
        }
    }

    /// No answer to the last attempt. Before the pivot the step is compensated as if it had been done; a pivot that
    /// cannot be compensated must not be decided by guessing.
    fn give_up(&mut self, index: usize) {
        const REASON: &str = "no answer came to the last attempt";
        if self.instance.is_past_pivot() {
            self.set(index, StepStatus::DoStuck, Cause::Timeout, Some(REASON.to_owned()));
            self.settle(Cause::Timeout, None);
        } else {
            if let Some(step) = self.instance.steps.get_mut(index) {
                step.error = Some(REASON.to_owned());
            }
            self.go_back(Cause::Timeout, REASON);
        }
    }

    fn cancel(&mut self, reason: &str) -> Result<(), Refusal> {
        self.may_go_back()?;
        if self.instance.is_past_pivot() {
            return Err(Refusal::PastPivot);
        }
        self.go_back(Cause::Cancelled, reason);
        Ok(())
    }

    fn abort(&mut self, reason: &str) -> Result<(), Refusal> {
        self.may_go_back()?;
        self.instance.aborted = self.instance.is_past_pivot();
        self.go_back(Cause::OperatorAbort, reason);
        Ok(())
    }

    fn may_go_back(&self) -> Result<(), Refusal> {
        match self.instance.status {
            status if status.is_end() => Err(Refusal::Ended),
            _ if self.instance.backward => Err(Refusal::Compensating),
            _ => Ok(()),
        }
    }

    fn retry(&mut self, name: Option<&str>) -> Result<(), Refusal> {
        let mut found = false;
        for index in 0..self.instance.steps.len() {
            let Some(step) = self.instance.steps.get_mut(index) else { break };
            let action = match step.status {
                StepStatus::DoStuck | StepStatus::DoPaused => Action::Do,
                StepStatus::UndoStuck | StepStatus::UndoPaused => Action::Undo,
                _ => continue,
            };
            if name.is_none_or(|name| name == step.shape.name) {
                found = true;
                step.attempts = 0;
                self.command(index, action, Cause::OperatorRetry);
            }
        }
        self.settle(Cause::OperatorRetry, None);
        if found { Ok(()) } else { Err(self.nothing_to_do()) }
    }

    fn skip(&mut self, name: &str) -> Result<(), Refusal> {
        let index = self.instance.steps.iter().position(|step| step.shape.name == name);
        let skipped = index.and_then(|index| {
            let status = match self.instance.steps.get(index)?.status {
                StepStatus::DoStuck | StepStatus::DoPaused => StepStatus::Skipped,
                StepStatus::UndoStuck | StepStatus::UndoPaused => StepStatus::UndoSkipped,
                _ => return None,
            };
            Some((index, status))
        });
        let (index, status) = skipped.ok_or_else(|| self.nothing_to_do())?;
        self.set(index, status, Cause::OperatorSkip, None);
        self.go_on(Cause::OperatorSkip);
        Ok(())
    }

    fn nothing_to_do(&self) -> Refusal {
        if self.instance.status.is_end() { Refusal::Ended } else { Refusal::NothingToDo }
    }
}

/// What follows from it.
impl Turn<'_> {
    fn go_back(&mut self, cause: Cause, reason: &str) {
        self.instance.backward = true;
        self.instance.deadline = None;
        self.instance.reason = Some(reason.to_owned());
        self.settle(cause, Some(reason.to_owned()));
        self.go_on(cause);
    }

    /// Begins what can begin now, in the direction that the saga has.
    fn go_on(&mut self, cause: Cause) {
        if cause == Cause::Started {
            let status = self.instance.status.as_str();
            self.note(None, status, status, cause, None);
        }
        let ended = if self.instance.backward { self.undo_stages(cause) } else { self.do_stages(cause) };
        if ended {
            self.end(cause);
        } else {
            self.settle(cause, None);
        }
    }

    /// The indexes of the steps, stage by stage.
    fn stages(&self) -> Vec<Vec<usize>> {
        let mut stages: Vec<Vec<usize>> = Vec::new();
        let mut last = None;
        for (index, step) in self.instance.steps.iter().enumerate() {
            match stages.last_mut() {
                Some(stage) if last == Some(step.shape.stage) => stage.push(index),
                _ => stages.push(vec![index]),
            }
            last = Some(step.shape.stage);
        }
        stages
    }

    /// Begins the first stage that is not done; gives whether there is none.
    fn do_stages(&mut self, cause: Cause) -> bool {
        for stage in self.stages() {
            for &index in &stage {
                if self.is(index, |step| step.status == StepStatus::Waiting) {
                    self.command(index, Action::Do, cause);
                }
            }
            if !stage.iter().all(|&index| self.is(index, |step| step.status.is_done())) {
                return false;
            }
        }
        true
    }

    /// Undoes the last stage that is not undone; gives whether there is none.
    fn undo_stages(&mut self, cause: Cause) -> bool {
        for stage in self.stages().into_iter().rev() {
            for &index in &stage {
                self.undo(index, cause);
            }
            if stage.iter().any(|&index| self.is(index, |step| step.status.is_undoing())) {
                return false;
            }
        }
        true
    }

    /// Has a step undone that was done, or may have been.
    fn undo(&mut self, index: usize, cause: Cause) {
        let Some(step) = self.instance.steps.get_mut(index) else { return };
        let in_doubt = step.status.is_doing();
        if !in_doubt && !step.status.is_done() {
            return;
        }
        if in_doubt && step.refused {
            self.set(index, StepStatus::Refused, cause, None);
        } else if step.shape.compensable {
            step.attempts = 0;
            self.command(index, Action::Undo, cause);
        } else if in_doubt {
            self.set(index, StepStatus::Unknown, cause, None);
        }
    }

    fn end(&mut self, cause: Cause) {
        self.instance.deadline = None;
        let to = match (self.instance.backward, self.instance.aborted) {
            (false, _) => Status::Completed,
            (true, false) => Status::Compensated,
            (true, true) => Status::Aborted,
        };
        self.change(to, cause, None);
    }

    /// Brings the saga's status in line with its steps.
    fn settle(&mut self, cause: Cause, error: Option<String>) {
        if self.instance.status.is_end() {
            return;
        }
        let to = if self.instance.steps.iter().any(|step| step.status.is_stuck()) {
            Status::Stuck
        } else if self.instance.backward {
            Status::Compensating
        } else {
            Status::Running
        };
        self.change(to, cause, error);
    }

    fn change(&mut self, to: Status, cause: Cause, error: Option<String>) {
        let from = std::mem::replace(&mut self.instance.status, to);
        if from != to {
            self.note(None, from.as_str(), to.as_str(), cause, error);
        }
    }

    fn command(&mut self, index: usize, action: Action, cause: Cause) {
        let Some(step) = self.instance.steps.get_mut(index) else { return };
        step.attempts = step.attempts.saturating_add(1);
        if std::mem::take(&mut step.refused) && action == Action::Do {
            step.round = step.round.saturating_add(1);
        }
        let (round, due) = (step.round, self.at.now.saturating_add(step.shape.timeout_ms));
        let status = match action {
            Action::Do => StepStatus::Doing,
            Action::Undo => StepStatus::Undoing,
        };
        self.set(index, status, cause, None);
        self.set_due(index, due);
        self.effects.push(Effect::Command { step: index, action, round });
    }

    /// Waits before the next attempt, if there is one.
    fn pause(&mut self, index: usize, cause: Cause, error: &str) {
        let Some(step) = self.instance.steps.get(index) else { return };
        let forward = step.status.is_doing();
        let retry = if forward { &step.shape.retry } else { &step.shape.compensation_retry };
        let error = Some(error.to_owned());
        if step.attempts >= retry.attempts_max {
            let stuck = if forward { StepStatus::DoStuck } else { StepStatus::UndoStuck };
            self.set(index, stuck, cause, error);
        } else {
            let due = self.at.now.saturating_add(retry.delay_ms(step.attempts, self.at.chance));
            let paused = if forward { StepStatus::DoPaused } else { StepStatus::UndoPaused };
            self.set(index, paused, cause, error);
            self.set_due(index, due);
        }
        self.settle(cause, None);
    }

    /// Gives a step a status, and writes it down. A step's last error stays until there is another one.
    fn set(&mut self, index: usize, to: StepStatus, cause: Cause, error: Option<String>) {
        let Some(step) = self.instance.steps.get_mut(index) else { return };
        let from = std::mem::replace(&mut step.status, to);
        step.due = None;
        if error.is_some() {
            step.error.clone_from(&error);
        }
        self.note(Some(index), from.as_str(), to.as_str(), cause, error);
    }

    fn set_due(&mut self, index: usize, due: u64) {
        if let Some(step) = self.instance.steps.get_mut(index) {
            step.due = Some(due);
        }
    }

    fn note(
        &mut self,
        step: Option<usize>,
        from: &'static str,
        to: &'static str,
        cause: Cause,
        error: Option<String>,
    ) {
        self.effects.push(Effect::Note(Note { step, from, to, cause, error }));
    }

    fn is(&self, index: usize, holds: impl FnOnce(&Step) -> bool) -> bool {
        self.instance.steps.get(index).is_some_and(holds)
    }
}
