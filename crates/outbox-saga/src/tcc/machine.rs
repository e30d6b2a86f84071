//! What a transaction does next. Pure: it neither calls, nor stores, nor looks at a clock.
//!
//! The coordinator asks [`Machine::next`] for a step, does it, and says what came of it. A crash loses the machine; another
//! one is made of what the store holds and goes on, so whatever must not be lost is stored before the step that builds on it.

/// Which way a transaction ends. Stored before the first branch hears of it, and never changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Decision {
    /// Every branch is confirmed.
    Confirm,
    /// Every branch is cancelled.
    Cancel,
}

/// How far a branch is, as the coordinator knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum BranchStatus {
    /// Its try has not been answered; it may have been called.
    Registered,
    /// Its try has reserved.
    Tried,
    /// Its try said no.
    Refused,
    Confirmed,
    Cancelled,
    /// An operator has seen to it by hand.
    Skipped,
}

/// What is to be done next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Call `try` of these branches.
    Try(Vec<usize>),
    /// Store this decision, or learn that another one was stored.
    Decide(Decision),
    /// Call `confirm` or `cancel` of these branches.
    End(Decision, Vec<usize>),
    /// Store that all is done.
    Finish(Decision),
    /// Store what there is, and go on later.
    Retry,
    /// Store what there is, and wait for an operator.
    Stick,
}

/// What came of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Came {
    Accepted,
    Refused,
    /// Nothing is known: it may have happened or not.
    Unknown,
}

/// How tries go on after the answer of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trying {
    /// The others are waited for.
    Others,
    /// Nothing is known of this one, so it is called again.
    Again,
    /// It will not be confirmed, whatever the others say.
    Hopeless,
}

/// What an operator can ask for.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "action", rename_all = "lowercase")]
#[non_exhaustive]
pub enum Request {
    /// Try again now what is stuck, with as many attempts as at first.
    Retry,
    /// Take a branch for ended, since somebody has seen to it by hand.
    Skip {
        /// The branch's name.
        branch: String,
    },
    /// Cancel a transaction that is not decided. A decision stands.
    Abort,
}

/// One transaction.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Machine {
    decision: Option<Decision>,
    branches: Vec<BranchStatus>,
    /// Rounds of calls since the decision, or since an operator's retry.
    attempts: u32,
    /// Every branch has been called in this round.
    round_over: bool,
}

impl Machine {
    /// A new transaction.
    pub(crate) fn new(branches: usize) -> Self {
        Self::load(None, vec![BranchStatus::Registered; branches], 0)
    }

    /// What the store holds.
    pub(crate) fn load(decision: Option<Decision>, branches: Vec<BranchStatus>, attempts: u32) -> Self {
        Self { decision, branches, attempts, round_over: false }
    }

    pub(crate) fn decision(&self) -> Option<Decision> {
        self.decision
    }

    pub(crate) fn branches(&self) -> &[BranchStatus] {
        &self.branches
    }

    pub(crate) fn attempts(&self) -> u32 {
        self.attempts
    }

    /// What is to be done next, where a transaction is stuck after `attempts_max` rounds.
    pub(crate) fn next(&self, attempts_max: u32) -> Step {
        let Some(decision) = self.decision else { return self.next_try() };
        let open = self.which(|status| !ended(status));
        if open.is_empty() {
            Step::Finish(decision)
        } else if !self.round_over {
            Step::End(decision, open)
        } else if self.attempts < attempts_max {
            Step::Retry
        } else {
            Step::Stick
        }
    }

    fn next_try(&self) -> Step {
        if self.branches.iter().all(|&status| status == BranchStatus::Tried) {
            Step::Decide(Decision::Confirm)
        } else if self.round_over || self.branches.contains(&BranchStatus::Refused) {
            Step::Decide(Decision::Cancel)
        } else {
            Step::Try(self.which(|status| status == BranchStatus::Registered))
        }
    }

    /// A branch's try was called; `time_left` tells whether it may be called again before the deadline. A refusal is an answer, and never
    /// asked for again.
    pub(crate) fn tried(&mut self, branch: usize, came: Came, time_left: bool) -> Trying {
        let (status, trying) = match came {
            Came::Accepted => (BranchStatus::Tried, Trying::Others),
            Came::Refused => (BranchStatus::Refused, Trying::Hopeless),
            Came::Unknown if time_left => (BranchStatus::Registered, Trying::Again),
            Came::Unknown => (BranchStatus::Registered, Trying::Hopeless),
        };
        self.set(branch, status);
        trying
    }

    /// A branch's confirm or cancel was called. To that nobody can say no, so a refusal is as good as no answer.
    pub(crate) fn ended(&mut self, branch: usize, decision: Decision, came: Came) {
        debug_assert_eq!(self.decision, Some(decision), "a branch ends as was decided");
        if came == Came::Accepted {
            self.set(
                branch,
                match decision {
                    Decision::Confirm => BranchStatus::Confirmed,
                    Decision::Cancel => BranchStatus::Cancelled,
                },
            );
        }
    }

    /// Every branch of the step has been called, or it is too late for it.
    pub(crate) fn round_over(&mut self) {
        self.round_over = true;
        self.attempts = self.attempts.saturating_add(1);
    }

    /// The store holds this decision now, whatever was proposed.
    pub(crate) fn decided(&mut self, decision: Decision) {
        debug_assert!(self.decision.is_none_or(|before| before == decision), "a decision stands");
        self.decision = Some(decision);
        self.attempts = 0;
        self.round_over = false;
    }

    /// Does what an operator asks for, if it can be done; `names` are the branches' names.
    ///
    /// # Errors
    ///
    /// Why it cannot be done.
    pub(crate) fn request(&mut self, request: &Request, names: &[&str]) -> Result<(), &'static str> {
        match request {
            Request::Retry if self.decision.is_none() => {
                return Err("nothing is decided yet, so there is nothing to do again");
            }
            Request::Retry => {}
            Request::Skip { branch } => {
                if self.decision.is_none() {
                    return Err("nothing is decided yet, so no branch can be skipped: abort it");
                }
                let place = names.iter().position(|name| name == branch);
                self.set(place.ok_or("there is no such branch")?, BranchStatus::Skipped);
            }
            Request::Abort if self.decision.is_some() => {
                return Err("a decision stands: retry, or skip what was seen to by hand");
            }
            // As if a round had come to nothing.
            Request::Abort => self.round_over = true,
        }
        self.attempts = 0;
        Ok(())
    }

    fn which(&self, of: impl Fn(BranchStatus) -> bool) -> Vec<usize> {
        self.branches.iter().enumerate().filter(|&(_, &status)| of(status)).map(|(place, _)| place).collect()
    }

    /// A branch that has ended stays so.
    fn set(&mut self, branch: usize, next: BranchStatus) {
        if let Some(status) = self.branches.get_mut(branch)
            && !ended(*status)
        {
            *status = next;
        }
    }
}

fn ended(status: BranchStatus) -> bool {
    matches!(status, BranchStatus::Confirmed | BranchStatus::Cancelled | BranchStatus::Skipped)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: u32 = 2;

    #[test]
    fn all_tried_is_confirmed() {
        let mut machine = Machine::new(2);
        assert_eq!(machine.next(LIMIT), Step::Try(vec![0, 1]));
        assert_eq!(machine.tried(0, Came::Accepted, true), Trying::Others);
        assert_eq!(machine.tried(1, Came::Accepted, false), Trying::Others);
        assert_eq!(machine.next(LIMIT), Step::Decide(Decision::Confirm));
        machine.decided(Decision::Confirm);
        assert_eq!(machine.next(LIMIT), Step::End(Decision::Confirm, vec![0, 1]));
        machine.ended(1, Decision::Confirm, Came::Accepted);
        machine.ended(0, Decision::Confirm, Came::Refused);
        machine.round_over();
        assert_eq!(machine.next(LIMIT), Step::Retry);
        machine.round_over();
        assert_eq!(machine.next(LIMIT), Step::Stick);
        machine.request(&Request::Retry, &["a", "b"]).expect("it is decided");
        assert_eq!(machine.attempts(), 0, "an operator's retry has all attempts again");
        machine.request(&Request::Skip { branch: "a".to_owned() }, &["a", "b"]).expect("it is decided");
        assert_eq!(machine.next(LIMIT), Step::Finish(Decision::Confirm));
    }

    #[test]
    fn a_refusal_and_an_unknown_try_cancel() {
        for came in [Came::Refused, Came::Unknown] {
            let mut machine = Machine::new(2);
            machine.tried(0, Came::Accepted, false);
            assert_eq!(machine.tried(1, came, false), Trying::Hopeless);
            machine.round_over();
            assert_eq!(machine.next(LIMIT), Step::Decide(Decision::Cancel), "{came:?}");
            machine.decided(Decision::Cancel);
            assert_eq!(machine.next(LIMIT), Step::End(Decision::Cancel, vec![0, 1]), "{came:?}");
        }
    }

    #[test]
    fn an_unknown_try_is_called_again_as_long_as_there_is_time() {
        let mut machine = Machine::new(2);
        assert_eq!(machine.tried(1, Came::Unknown, true), Trying::Again);
        assert_eq!(machine.tried(0, Came::Accepted, true), Trying::Others);
        assert_eq!(machine.next(LIMIT), Step::Try(vec![1]));
        assert_eq!(machine.tried(1, Came::Accepted, true), Trying::Others);
        assert_eq!(machine.next(LIMIT), Step::Decide(Decision::Confirm));
        let mut machine = Machine::new(1);
        assert_eq!(machine.tried(0, Came::Refused, true), Trying::Hopeless, "whatever time is left");
        assert_eq!(machine.next(LIMIT), Step::Decide(Decision::Cancel));
    }

    #[test]
    fn operators_cannot_turn_a_decision() {
        let mut machine = Machine::new(1);
        assert!(machine.request(&Request::Skip { branch: "a".to_owned() }, &["a"]).is_err());
        assert!(machine.request(&Request::Retry, &["a"]).is_err());
        machine.decided(Decision::Confirm);
        assert!(machine.request(&Request::Abort, &["a"]).is_err());
        assert!(machine.request(&Request::Skip { branch: "b".to_owned() }, &["a"]).is_err());
        assert_eq!(machine.next(LIMIT), Step::End(Decision::Confirm, vec![0]));
    }
}
