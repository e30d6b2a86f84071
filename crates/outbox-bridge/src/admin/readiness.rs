//! Whether the bridge is ready, and if not, why.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use crate::metrics;

/// What has to be ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Component {
    /// The connection to MySQL or MariaDB.
    Source,
    /// The connection to NATS.
    Nats,
    /// The writers of the streams.
    Publish,
    /// The checkpoint: written at least once.
    Checkpoint,
}

impl Component {
    /// The name in `/readyz`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Nats => "nats",
            Self::Publish => "publish",
            Self::Checkpoint => "checkpoint",
        }
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The shared state behind `/readyz`: a cheap handle. Every component starts unready.
#[derive(Debug, Clone)]
pub struct Readiness {
    /// Why a component is not ready; `None`: it is.
    states: Arc<Mutex<BTreeMap<Component, Option<String>>>>,
}

/// The state at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadinessReport {
    /// Whether all components are ready.
    pub ready: bool,
    /// Why each component is not ready; `None`: it is.
    pub components: BTreeMap<Component, Option<String>>,
}

impl Readiness {
    /// All `components` unready, for the reason "starting".
    #[must_use]
    pub fn new(components: impl IntoIterator<Item = Component>) -> Self {
        let states =
            components.into_iter().map(|component| (component, Some("starting".to_owned()))).collect();
        metrics::ready().set(0.0);
        Self { states: Arc::new(Mutex::new(states)) }
    }

    /// With the components of a running bridge.
    #[must_use]
    pub fn of_bridge() -> Self {
        Self::new([Component::Source, Component::Nats, Component::Publish, Component::Checkpoint])
    }

    /// `component` is ready.
    pub fn set_ready(&self, component: Component) {
        self.set(component, None);
    }

    /// `component` is not ready; `reason` is shown to whoever may read `/readyz`, so it holds neither secrets nor rows.
    pub fn set_unready(&self, component: Component, reason: impl Into<String>) {
        self.set(component, Some(reason.into()));
    }

    fn set(&self, component: Component, state: Option<String>) {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        states.insert(component, state);
        let ready = states.values().all(Option::is_none);
        metrics::ready().set(if ready { 1.0 } else { 0.0 });
    }

    /// Whether all components are ready.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.report().ready
    }

    /// The state now.
    #[must_use]
    pub fn report(&self) -> ReadinessReport {
        let components = self.states.lock().unwrap_or_else(PoisonError::into_inner).clone();
        ReadinessReport { ready: components.values().all(Option::is_none), components }
    }
}

impl ReadinessReport {
    pub(super) fn to_json(&self) -> serde_json::Value {
        let components: serde_json::Map<String, serde_json::Value> = self
            .components
            .iter()
            .map(|(component, reason)| {
                let state = match reason {
                    None => serde_json::json!({ "ready": true }),
                    Some(reason) => serde_json::json!({ "ready": false, "reason": reason }),
                };
                (component.name().to_owned(), state)
            })
            .collect();
        serde_json::json!({ "ready": self.ready, "components": components })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_means_all() {
        let readiness = Readiness::new([Component::Source, Component::Nats]);
        assert!(!readiness.is_ready());
        readiness.set_ready(Component::Source);
        assert!(!readiness.is_ready());
        readiness.set_ready(Component::Nats);
        assert!(readiness.is_ready());
        readiness.set_unready(Component::Source, "connection lost");
        let json = readiness.report().to_json();
        assert_eq!(
            json,
            serde_json::json!({
                "ready": false,
                "components": {
                    "source": { "ready": false, "reason": "connection lost" },
                    "nats": { "ready": true },
                },
            })
        );
    }
}
