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

/// What a bridge does among those of its name.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Role {
    /// It is not known yet who leads.
    Waiting,
    /// It carries the events.
    Leader,
    /// Another one leads, and this one takes over when that is gone.
    Standby {
        /// Who leads.
        leader: String,
    },
}

impl Role {
    const fn name(&self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Leader => "leader",
            Self::Standby { .. } => "standby",
        }
    }
}

/// The shared state behind `/readyz`: a cheap handle. Every component starts unready.
#[derive(Debug, Clone)]
pub struct Readiness {
    states: Arc<Mutex<ReadinessReport>>,
}

/// The state at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadinessReport {
    /// Whether the bridge is ready: a leader if all components are, one that stands by if it could lead at once.
    pub ready: bool,
    /// What it does.
    pub role: Role,
    /// Why each component is not ready; `None`: it is.
    pub components: BTreeMap<Component, Option<String>>,
    /// The server that was read last.
    pub server: Option<String>,
}

impl Readiness {
    /// All `components` unready, for the reason "starting".
    #[must_use]
    pub fn new(components: impl IntoIterator<Item = Component>) -> Self {
        let components =
            components.into_iter().map(|component| (component, Some("starting".to_owned()))).collect();
        metrics::ready().set(0.0);
        let report = ReadinessReport { ready: false, role: Role::Leader, components, server: None };
        Self { states: Arc::new(Mutex::new(report)) }
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

    /// The source is ready, and this is the server that is read.
    pub fn set_reading(&self, server: String) {
        self.change(|report| {
            report.server = Some(server);
            report.components.insert(Component::Source, None);
        });
    }

    /// What the bridge does now.
    pub fn set_role(&self, role: Role) {
        self.change(|report| report.role = role);
    }

    fn set(&self, component: Component, state: Option<String>) {
        self.change(|report| drop(report.components.insert(component, state)));
    }

    fn change(&self, change: impl FnOnce(&mut ReadinessReport)) {
        let mut report = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut report);
        let is_ready = |component| report.components.get(&component).is_some_and(Option::is_none);
        report.ready = match report.role {
            Role::Waiting => false,
            Role::Leader => report.components.values().all(Option::is_none),
            Role::Standby { .. } => is_ready(Component::Nats),
        };
        metrics::ready().set(if report.ready { 1.0 } else { 0.0 });
    }

    /// Whether all components are ready.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.report().ready
    }

    /// The state now.
    #[must_use]
    pub fn report(&self) -> ReadinessReport {
        self.states.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ReadinessReport {
    pub(super) fn to_json(&self) -> serde_json::Value {
        let components: serde_json::Map<String, serde_json::Value> = self
            .components
            .iter()
            .map(|(component, reason)| {
                let state = match (reason, &self.server) {
                    (None, Some(server)) if *component == Component::Source => {
                        serde_json::json!({ "ready": true, "server": server })
                    }
                    (None, _) => serde_json::json!({ "ready": true }),
                    (Some(reason), _) => serde_json::json!({ "ready": false, "reason": reason }),
                };
                (component.name().to_owned(), state)
            })
            .collect();
        let mut json =
            serde_json::json!({ "ready": self.ready, "role": self.role.name(), "components": components });
        if let (Role::Standby { leader }, Some(object)) = (&self.role, json.as_object_mut()) {
            object.insert("leader".to_owned(), leader.as_str().into());
        }
        json
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_stands_by_is_ready_if_it_could_lead() {
        let readiness = Readiness::of_bridge();
        readiness.set_role(Role::Waiting);
        readiness.set_ready(Component::Nats);
        assert!(!readiness.is_ready());
        readiness.set_role(Role::Standby { leader: "a".to_owned() });
        assert!(readiness.is_ready());
        assert_eq!(readiness.report().to_json().get("leader"), Some(&"a".into()));
        readiness.set_unready(Component::Nats, "disconnected");
        assert!(!readiness.is_ready());
    }

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
                "role": "leader",
                "components": {
                    "source": { "ready": false, "reason": "connection lost" },
                    "nats": { "ready": true },
                },
            })
        );
    }
}
