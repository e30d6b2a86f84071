//! Outbox Bridge: committed rows of a MySQL outbox table become JetStream messages, exactly once and in commit order.

pub mod decode;
pub mod source;
