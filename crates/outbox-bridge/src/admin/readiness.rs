//! Whether the bridge is ready, and if not, why.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::watch;

use super::board::Board;
use crate::metrics;

/// Why a component is not ready that has not begun.
pub(super) const STARTING: &str = "starting";

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
    /// The name in `/readyz`.
    pub(crate) const fn name(&self) -> &'static str {
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
    states: Arc<watch::Sender<ReadinessReport>>,
    board: Board,
}

/// The state at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadinessReport {
    /// Whether the bridge is ready: a leader if all components are, one that stands by if it could lead at once.
    pub ready: bool,
    /// What it does.
    pub role: Role,
    /// Since when it does that.
    pub role_since: SystemTime,
    /// Why each component is not ready; `None`: it is.
    pub components: BTreeMap<Component, Option<String>>,
    /// Since when each component has been ready, or not.
    pub since: BTreeMap<Component, SystemTime>,
    /// The server that was read last.
    pub server: Option<String>,
}

impl Readiness {
    /// All `components` unready, for the reason "starting".
    #[must_use]
    pub fn new(components: impl IntoIterator<Item = Component>) -> Self {
        let components: BTreeMap<_, _> =
            components.into_iter().map(|component| (component, Some(STARTING.to_owned()))).collect();
        metrics::ready().set(0.0);
        let now = SystemTime::now();
        let since = components.keys().map(|component| (*component, now)).collect();
        let role = Role::Leader;
        let report = ReadinessReport { ready: false, role, role_since: now, components, since, server: None };
        Self { states: Arc::new(watch::Sender::new(report)), board: Board::default() }
    }

    /// With the components of a running bridge.
    #[must_use]
    pub fn of_bridge() -> Self {
        let components = [Component::Source, Component::Nats, Component::Publish, Component::Checkpoint];
        let readiness = Self::new(components);
        readiness.set_role(Role::Waiting);
        readiness
    }

    /// Where the parts of the bridge note down what the status page shows.
    pub(crate) fn board(&self) -> &Board {
        &self.board
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
            report.set(Component::Source, None);
        });
    }

    /// What the bridge does now.
    pub fn set_role(&self, role: Role) {
        self.change(|report| {
            // Another leader does not begin a new time of standing by.
            if report.role.name() != role.name() {
                report.role_since = SystemTime::now();
            }
            report.role = role;
        });
    }

    /// Waits until the bridge does something else than what has this name.
    pub(crate) async fn role_other_than(&self, name: &str) {
        // It ends with the last handle, and this is one.
        drop(self.states.subscribe().wait_for(|report| report.role.name() != name).await);
    }

    fn set(&self, component: Component, state: Option<String>) {
        self.change(|report| report.set(component, state));
    }

    fn change(&self, change: impl FnOnce(&mut ReadinessReport)) {
        self.states.send_modify(|report| {
            change(report);
            let is_ready = |component| report.components.get(&component).is_some_and(Option::is_none);
            report.ready = match report.role {
                Role::Waiting => false,
                Role::Leader => report.components.values().all(Option::is_none),
                Role::Standby { .. } => is_ready(Component::Nats),
            };
            metrics::ready().set(if report.ready { 1.0 } else { 0.0 });
        });
    }

    /// Whether all components are ready.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.report().ready
    }

    /// The state now.
    #[must_use]
    pub fn report(&self) -> ReadinessReport {
        self.states.borrow().clone()
    }
}

impl ReadinessReport {
    fn set(&mut self, component: Component, state: Option<String>) {
        let ready = state.is_none();
        let before = self.components.insert(component, state);
        // Another reason does not begin a new time.
        if before.is_none_or(|before| before.is_none() != ready) {
            self.since.insert(component, SystemTime::now());
        }
    }

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
    fn another_leader_begins_no_new_time_of_standing_by() {
        let readiness = Readiness::of_bridge();
        let begun = readiness.report().role_since;
        readiness.set_role(Role::Standby { leader: "a".to_owned() });
        let since = readiness.report().role_since;
        assert!(since > begun);
        readiness.set_role(Role::Standby { leader: "b".to_owned() });
        assert_eq!(readiness.report().role_since, since);
        readiness.set_role(Role::Leader);
        assert!(readiness.report().role_since > since);
    }

    #[test]
    fn another_reason_begins_no_new_time() {
        let readiness = Readiness::new([Component::Source]);
        let since = || readiness.report().since.get(&Component::Source).copied().expect("a time");
        let begun = since();
        readiness.set_unready(Component::Source, "no route");
        assert_eq!(since(), begun);
        readiness.set_ready(Component::Source);
        let ready = since();
        assert!(ready > begun);
        readiness.set_reading("server".to_owned());
        assert_eq!(since(), ready);
        readiness.set_unready(Component::Source, "lost");
        assert!(since() > ready);
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
