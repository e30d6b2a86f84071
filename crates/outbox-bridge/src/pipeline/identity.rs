//! What the streams hold of the rows after a checkpoint, told by GTIDs: for a source that has changed its server.
//!
//! The argument. At every checkpoint, the messages of a stream are first those of transactions in its executed set, then all
//! others: on one server since both stream and set follow the log, and across a change of server since no checkpoint is made until the
//! log has shown every row that the streams held ([`crate::publish::Chain::awaited`]). So reading a stream backwards up to the first
//! message whose transaction is in the set finds all rows that the log will show again and that are stored already.

use outbox_event::Position;

use super::plan::{PlanError, StreamState};
use crate::{
    backfill::is_backfilled,
    checkpoint::{At, Checkpoint, LogPoint, StreamPoint},
    publish::{Chain, StoredRows, Tail, Wire, WireError},
    source::{connection::Flavour, gtid::GtidSet},
};

/// So many messages are asked for at a time.
const PORTION: u64 = 256;

/// The executed set of a checkpoint.
#[derive(Debug)]
pub(super) struct Executed(GtidSet);

impl Executed {
    /// The set of this checkpoint, if it has what it takes to find the place on another server.
    pub(super) fn of(checkpoint: &Checkpoint) -> Result<Self, PlanError> {
        if checkpoint.backfill.is_some() {
            return Err(PlanError::BackfillUnfinished);
        }
        let anonymous = match &checkpoint.point.at {
            At::Done(transaction) | At::Pending(transaction) => transaction.gtid.is_empty(),
            At::Boundary | At::Gtids => false,
        };
        let text = checkpoint.point.executed.as_deref().filter(|text| !text.is_empty() && !anonymous);
        let set = text.and_then(|text| GtidSet::parse(text, flavour(text)).ok());
        set.map(Self).ok_or(PlanError::NoGtids)
    }

    fn has(&self, gtid: &str) -> bool {
        GtidSet::parse(gtid, flavour(gtid)).is_ok_and(|gtid| gtid.missing_from(&self.0).is_empty())
    }

    /// Whether everything up to this sequence is executed.
    fn covers(&self, recorded: &StreamPoint) -> bool {
        let Some(position) = &recorded.position else { return true };
        let Ok(position) = position.parse::<Position>() else { return false };
        is_backfilled(&position) || (!position.gtid.is_empty() && self.has(&position.gtid))
    }
}

/// Whether the point lies behind all of these transactions.
pub(super) fn are_executed(gtids: &[String], point: &LogPoint) -> bool {
    let text = point.executed.as_deref().unwrap_or_default();
    let Ok(executed) = GtidSet::parse(text, flavour(text)).map(Executed) else { return false };
    gtids.iter().all(|gtid| executed.has(gtid))
}

/// MySQL's GTIDs have a colon, MariaDB's have none.
fn flavour(text: &str) -> Flavour {
    if text.contains(':') { Flavour::MySql } else { Flavour::MariaDb }
}

/// Why a stream cannot tell.
#[derive(Debug)]
pub(super) enum Failure {
    Wire(WireError),
    Plan(PlanError),
}

/// The chain of a stream, whose rows after the checkpoint are told by GTIDs.
pub(super) async fn chain<W: Wire>(
    wire: &mut W,
    state: &StreamState,
    recorded: Option<&StreamPoint>,
    executed: &Executed,
) -> Result<(Chain, Vec<String>), Failure> {
    let refuse = |reason: String| Failure::Plan(PlanError::NotTold { stream: state.name.clone(), reason });
    let last = state.last_sequence.unwrap_or(0).max(state.tail.sequence());
    let nothing = |sequence| Ok((Chain::by_identity(sequence, None, StoredRows::default()), Vec::new()));
    let tail = match (&state.tail, recorded) {
        // New in the configuration.
        (Tail::Empty { last_sequence }, None) => return nothing(*last_sequence),
        (Tail::Message(_), None) => {
            return Err(refuse("it holds events and the checkpoint does not know it".into()));
        }
        (_, Some(recorded)) if last < recorded.sequence => {
            let Some(lost) = recorded.sequence.checked_sub(last) else { return nothing(last) };
            return Err(refuse(format!("it has lost {lost} messages that it had acknowledged")));
        }
        (Tail::Message(tail), Some(recorded)) if tail.sequence >= recorded.sequence => tail,
        (_, Some(recorded)) if last == recorded.sequence && executed.covers(recorded) => {
            return nothing(last);
        }
        (_, Some(_)) => {
            return Err(refuse(format!("its messages up to {last} are consumed, purged or deleted")));
        }
    };
    let mut rows = StoredRows::default();
    let mut before = tail.sequence + 1;
    while before > 1 {
        let first = before.saturating_sub(PORTION).max(1);
        let positions = wire.read_positions(first, before - 1).await.map_err(Failure::Wire)?;
        let sequences = (first..before).rev();
        for (sequence, position) in sequences.zip(positions.into_iter().rev()) {
            if recorded.is_some_and(|recorded| sequence <= recorded.sequence && executed.covers(recorded)) {
                before = 0;
                break;
            }
            let Some(position) = position else {
                return Err(refuse(format!("its message {sequence} is consumed, purged or deleted")));
            };
            if sequence == tail.sequence && position != tail.position {
                return Err(Failure::Wire(WireError::Unavailable("the stream's end has just moved".into())));
            }
            if position.gtid.is_empty() {
                return Err(Failure::Plan(PlanError::NoGtids));
            }
            // A backfill begins only when all that a stream holds is executed.
            if is_backfilled(&position) || executed.has(&position.gtid) {
                before = 0;
                break;
            }
            rows.add(&position);
        }
        before = before.min(first);
    }
    let gtids = rows.gtids().map(str::to_owned).collect();
    Ok((Chain::by_identity(tail.sequence, Some(tail.position.clone()), rows), gtids))
}
