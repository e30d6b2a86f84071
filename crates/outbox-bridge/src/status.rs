//! How the parts are, for readiness and the log.
use std::sync::{Arc, Mutex, PoisonError};
use std::collections::BTreeMap;
/// A part that can be well or in trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Component { /// The MySQL side.
 Source, /// The NATS side.
 Nats }
/// Shared.
#[derive(Debug, Clone, Default)]
pub struct Status { inner: Arc<Mutex<BTreeMap<Component, Option<String>>>> }
impl Status {
    /// well
    pub fn well(&self, component: Component) { self.inner.lock().unwrap_or_else(PoisonError::into_inner).insert(component, None); }
    /// trouble
    pub fn trouble(&self, component: Component, what: String) { self.inner.lock().unwrap_or_else(PoisonError::into_inner).insert(component, Some(what)); }
}
