//! Which handler handles which event type.

use std::{collections::HashMap, fmt, sync::Arc};

use super::{Handler, HandlerFuture};
use crate::{delivery::Delivery, inbox::Inbox};

/// What to do with a message whose event type has no handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Unhandled {
    /// It is acknowledged and counted: a stream usually has events that a service does not care about.
    #[default]
    Ignore,
    /// It becomes a dead letter.
    DeadLetter,
    /// The consumer stops with an error; the message stays in the stream.
    Fail,
}

type Call<I, S> = Arc<dyn Fn(Delivery<I>, Arc<S>) -> HandlerFuture + Send + Sync>;
type StatefulCall<I> = Arc<dyn Fn(Delivery<I>) -> HandlerFuture + Send + Sync>;

/// Handlers by event type, for the inbox `I` and with the state `S`.
///
/// ```
/// use outbox_consumer::{Event, Router, State, Unhandled, inbox::Inbox};
/// # #[derive(serde::Deserialize)] struct OrderPlaced;
/// # #[derive(Clone)] struct Stock;
///
/// async fn reserve(Event(_order): Event<OrderPlaced>, State(_stock): State<Stock>) {}
///
/// # fn example<I: Inbox>() -> outbox_consumer::Routes<I> {
/// Router::new()
///     .on("order.placed", reserve)
///     .unhandled(Unhandled::DeadLetter)
///     .with_state(Stock)
/// # }
/// ```
pub struct Router<I: Inbox, S = ()> {
    calls: HashMap<String, Call<I, S>>,
    unhandled: Unhandled,
}

impl<I: Inbox, S: Send + Sync + 'static> Router<I, S> {
    /// No handlers yet.
    #[must_use]
    pub fn new() -> Self {
        Self { calls: HashMap::new(), unhandled: Unhandled::default() }
    }

    /// Handles events of `event_type` (`ce-type`) by `handler`.
    ///
    /// # Panics
    ///
    /// If the type has a handler already.
    #[must_use]
    pub fn on<Arguments>(
        mut self,
        event_type: impl Into<String>,
        handler: impl Handler<Arguments, I, S>,
    ) -> Self {
        let event_type = event_type.into();
        let call: Call<I, S> = Arc::new(move |delivery, state| handler.clone().call(delivery, state));
        assert!(!self.calls.contains_key(&event_type), "two handlers for the event type {event_type:?}");
        self.calls.insert(event_type, call);
        self
    }

    /// What to do with types that have no handler; [`Unhandled::Ignore`] by default.
    #[must_use]
    pub fn unhandled(mut self, unhandled: Unhandled) -> Self {
        self.unhandled = unhandled;
        self
    }

    /// Gives the handlers their state.
    #[must_use]
    pub fn with_state(self, state: S) -> Routes<I> {
        let state = Arc::new(state);
        let calls = self.calls.into_iter().map(|(event_type, call)| {
            let state = Arc::clone(&state);
            let call: StatefulCall<I> = Arc::new(move |delivery| call(delivery, Arc::clone(&state)));
            (event_type, call)
        });
        Routes { calls: Arc::new(calls.collect()), unhandled: self.unhandled }
    }
}

impl<I: Inbox, S: Send + Sync + 'static> Default for Router<I, S> {
    fn default() -> Self {
        Self::new()
    }
}

impl<I: Inbox, S> fmt::Debug for Router<I, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Router").field("types", &self.calls.keys()).finish_non_exhaustive()
    }
}

/// Handlers with their state: what a consumer runs. A [`Router`] without state becomes one by `into()`.
pub struct Routes<I: Inbox> {
    calls: Arc<HashMap<String, StatefulCall<I>>>,
    unhandled: Unhandled,
}

impl<I: Inbox> Routes<I> {
    pub(crate) fn find(&self, event_type: &str) -> Result<&StatefulCall<I>, Unhandled> {
        self.calls.get(event_type).ok_or(self.unhandled)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }
}

impl<I: Inbox> Clone for Routes<I> {
    fn clone(&self) -> Self {
        Self { calls: Arc::clone(&self.calls), unhandled: self.unhandled }
    }
}

impl<I: Inbox> From<Router<I, ()>> for Routes<I> {
    fn from(router: Router<I, ()>) -> Self {
        router.with_state(())
    }
}

impl<I: Inbox> fmt::Debug for Routes<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Routes").field("types", &self.calls.keys()).finish_non_exhaustive()
    }
}
