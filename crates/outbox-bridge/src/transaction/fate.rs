//! How groups of events end: committed, rolled back, or prepared by XA to be either later.

use std::sync::Arc;

use super::{Assembler, Group, Numbers, Replay, Step, TransactionError};
use crate::{
    checkpoint::{At, Transaction},
    publish::{Message, TransactionId},
    route::finish,
    source::gtid::Gtid,
};

/// A prepared XA transaction.
#[derive(Debug)]
pub(super) struct PreparedState {
    pub(super) file: String,
    pub(super) offset: u64,
    pub(super) has_rows: bool,
    /// Its messages, unless they are too large to be held.
    pub(super) messages: Option<Vec<(usize, Message)>>,
    pub(super) bytes: usize,
}

/// A group that has ended and whose rows are not yet sent.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) transaction: Arc<TransactionId>,
    pub(super) gtid: Option<Gtid>,
    /// The prepared transaction that it commits.
    pub(super) xid: Option<String>,
}

/// How a group ends.
#[derive(Debug)]
pub(super) enum Fate {
    Committed,
    RolledBack,
    Prepared(String),
    CommittedPrepared(String),
    RolledBackPrepared(String),
}

impl Assembler {
    /// The open group ends.
    pub(super) fn end(
        &mut self,
        fate: Fate,
        out: &mut Vec<(usize, Message)>,
    ) -> Result<Step, TransactionError> {
        let Some(group) = self.group.take() else { return Err(TransactionError::Stray { at: self.at() }) };
        let Group { transaction, gtid, skip, mut messages, bytes, overflown, .. } = group;
        match fate {
            // The point stands at this very transaction, or this is a transaction before it.
            _ if skip => self.end_skipped(fate, &transaction),
            Fate::Committed if overflown => {
                let replay = Replay {
                    file: transaction.file.to_string(),
                    offset: transaction.offset,
                    transaction: transaction.clone(),
                };
                self.waiting = Some(Waiting { transaction, gtid, xid: None });
                return Ok(Step::Replay(replay));
            }
            Fate::Committed => self.release(&mut messages, &transaction, out),
            Fate::RolledBack => {}
            Fate::Prepared(xid) => {
                let state = PreparedState {
                    file: transaction.file.to_string(),
                    offset: transaction.offset,
                    has_rows: overflown || !messages.is_empty(),
                    messages: (!overflown).then_some(messages),
                    bytes: if overflown { 0 } else { bytes },
                };
                self.forget_prepared(&xid);
                self.prepared_bytes += state.bytes;
                self.prepared.insert(xid, state);
            }
            Fate::RolledBackPrepared(xid) => {
                self.forget_prepared(&xid);
            }
            Fate::CommittedPrepared(xid) => match self.prepared.get(&xid) {
                // It stays among the prepared ones until its rows are sent: a restart must find it there.
                Some(PreparedState { file, offset, has_rows: true, messages: None, .. }) => {
                    let replay =
                        Replay { file: file.clone(), offset: *offset, transaction: transaction.clone() };
                    self.waiting = Some(Waiting { transaction, gtid, xid: Some(xid) });
                    return Ok(Step::Replay(replay));
                }
                Some(_) => {
                    let state = self.forget_prepared(&xid);
                    let mut messages = state.and_then(|state| state.messages).unwrap_or_default();
                    self.release(&mut messages, &transaction, out);
                }
                None => {
                    let (file, offset) = (transaction.file.to_string(), transaction.offset);
                    self.waiting = Some(Waiting { transaction, gtid, xid: None });
                    return Ok(Step::FindPrepare { xid, file, offset });
                }
            },
        }
        self.done(&transaction, gtid.as_ref(), skip);
        Ok(Step::Continue)
    }

    /// A group that is not to be published ends. What it says of prepared transactions holds all the same.
    fn end_skipped(&mut self, fate: Fate, transaction: &TransactionId) {
        match fate {
            Fate::Committed | Fate::RolledBack => {}
            Fate::CommittedPrepared(xid) | Fate::RolledBackPrepared(xid) => {
                self.forget_prepared(&xid);
            }
            Fate::Prepared(xid) => {
                let known = self.prepared.get(&xid).is_some_and(|state| {
                    state.file == *transaction.file && state.offset == transaction.offset
                });
                // The name may have been used before. Its rows were not looked at, so there may be some.
                if !known {
                    self.forget_prepared(&xid);
                    let state = PreparedState {
                        file: transaction.file.to_string(),
                        offset: transaction.offset,
                        has_rows: true,
                        messages: None,
                        bytes: 0,
                    };
                    self.prepared.insert(xid, state);
                }
            }
        }
    }

    fn forget_prepared(&mut self, xid: &str) -> Option<PreparedState> {
        let state = self.prepared.remove(xid)?;
        self.prepared_bytes -= state.bytes;
        Some(state)
    }

    fn release(
        &mut self,
        messages: &mut Vec<(usize, Message)>,
        transaction: &Arc<TransactionId>,
        out: &mut Vec<(usize, Message)>,
    ) {
        self.transactions += u64::from(!messages.is_empty());
        let mut numbers = Numbers::default();
        for (stream, mut message) in messages.drain(..) {
            finish(&mut message, transaction, numbers.next(stream));
            out.push((stream, message));
        }
    }

    /// All of a transaction is done. Only now is it among the executed ones: an open one may never be committed, and its
    /// GTID be given out again, or its rows may have to be read again.
    fn done(&mut self, transaction: &TransactionId, gtid: Option<&Gtid>, skipped: bool) {
        if let Some(gtid) = gtid {
            self.skip.pass(gtid);
        }
        if let (Some(gtid), Some(executed)) = (gtid, &mut self.executed)
            && (!skipped || !executed.contains(gtid))
        {
            executed.add(gtid);
        }
        let identity =
            Transaction { gtid: transaction.gtid.clone(), committed_micros: transaction.committed_micros };
        let at = if self.skip.is_under_way() { At::Gtids } else { At::Done(identity) };
        self.point = (transaction.file.to_string(), transaction.offset, at);
    }

    /// The rows of the transaction of [`Step::Replay`] have all been sent.
    pub fn replayed(&mut self) {
        self.transactions += 1;
        if let Some(Waiting { transaction, gtid, xid }) = self.waiting.take() {
            if let Some(xid) = xid {
                self.forget_prepared(&xid);
            }
            self.done(&transaction, gtid.as_ref(), false);
        }
    }

    /// Where the prepare of [`Step::FindPrepare`] stands; the next step.
    pub fn found(&mut self, file: String, offset: u64) -> Step {
        match &self.waiting {
            Some(Waiting { transaction, .. }) => {
                Step::Replay(Replay { file, offset, transaction: transaction.clone() })
            }
            None => Step::Continue,
        }
    }
}
