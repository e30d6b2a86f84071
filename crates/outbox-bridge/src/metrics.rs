//! stand-in
use crate::publish::Message;
#[derive(Debug)]
pub(crate) struct StreamMetrics;
impl StreamMetrics {
    pub(crate) fn new(_stream: &str) -> Self { Self }
    pub(crate) fn stored(&self, _messages: impl Iterator<Item = Message>) {}
    pub(crate) fn duplicate(&self) {}
    pub(crate) fn resumed(&self, _cause: &'static str) {}
    pub(crate) fn in_flight(&self, _messages: usize) {}
}

pub(crate) fn source_reconnect() {}
pub(crate) fn refill(_stream: &str) {}
pub(crate) fn checkpoint_age(_age: std::time::Duration) {}
pub(crate) fn checkpoint_written() {}
