//! Handlers: plain async functions whose arguments are taken from the message.

pub(crate) mod error;
pub(crate) mod extract;
pub(crate) mod router;
pub(crate) mod service;

use std::{future::Future, pin::Pin, sync::Arc};

use tower_layer::Layer;

use crate::{
    delivery::Delivery,
    handler::{
        error::{HandlerError, IntoOutcome},
        extract::FromDelivery,
        service::Layered,
    },
    inbox::Inbox,
};

/// What a handler's call gives.
pub type HandlerFuture = Pin<Box<dyn Future<Output = Result<(), HandlerError>> + Send>>;

/// An async function that handles messages.
///
/// It is implemented for every async function (and closure) of up to ten arguments that are
/// [`FromDelivery`](crate::FromDelivery), which returns `()` or `Result<(), E>` where `E` is a
/// [`HandlerError`] or any other error:
///
/// ```
/// use outbox_consumer::{Context, Event, HandlerError, State};
/// # #[derive(serde::Deserialize)] struct OrderPlaced { quantity: u32 }
/// # #[derive(Clone)] struct Stock;
///
/// async fn reserve(
///     Event(order): Event<OrderPlaced>,
///     State(stock): State<Stock>,
///     context: Context,
/// ) -> Result<(), HandlerError> {
///     if order.quantity == 0 {
///         return Err(HandlerError::permanent("an order of nothing"));
///     }
///     tracing::info!(message = context.message_id(), "reserved");
///     Ok(())
/// }
/// # fn check<A, I: outbox_consumer::inbox::Inbox>(_: impl outbox_consumer::Handler<A, I, Stock>) {}
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not handle messages",
    label = "not a handler",
    note = "a handler is an `async fn` whose arguments all implement `FromDelivery` (`Event<T>`, `State<T>`, `Tx<{I}>`, `Context`, `Body`) and which returns `()` or `Result<(), E>`; `State<T>` must be `{S}` or a part of it, and its future must be `Send`"
)]
pub trait Handler<Arguments, I: Inbox, S>: Clone + Send + Sync + Sized + 'static {
    /// Handles one message.
    fn call(self, delivery: Delivery<I>, state: Arc<S>) -> HandlerFuture;

    /// Wraps this handler by a `tower` layer.
    fn layer<L>(self, layer: L) -> Layered<L, Self, Arguments, I, S>
    where
        L: Layer<service::HandlerService<Self, Arguments, I, S>> + Clone + Send + Sync + 'static,
    {
        Layered::new(layer, self)
    }

    /// This handler as a `tower` service.
    fn into_service(self, state: S) -> service::HandlerService<Self, Arguments, I, S> {
        service::HandlerService::new(self, Arc::new(state))
    }
}

macro_rules! handler {
    ($($argument:ident),*) => {
        #[expect(non_snake_case, reason = "the type parameters name the values too")]
        impl<F, Fut, R, I, S, $($argument,)*> Handler<($($argument,)*), I, S> for F
        where
            F: FnOnce($($argument),*) -> Fut + Clone + Send + Sync + 'static,
            Fut: Future<Output = R> + Send + 'static,
            R: IntoOutcome,
            I: Inbox,
            S: Send + Sync + 'static,
            $($argument: FromDelivery<S, I>,)*
        {
            fn call(self, delivery: Delivery<I>, state: Arc<S>) -> HandlerFuture {
                $(
                    let $argument = match $argument::from_delivery(&delivery, &state) {
                        Ok(argument) => argument,
                        Err(error) => return Box::pin(std::future::ready(Err(error))),
                    };
                )*
                drop((delivery, state));
                let handling = self($($argument),*);
                Box::pin(async move { handling.await.into_outcome() })
            }
        }
    };
}

macro_rules! handlers {
    ($first:ident $(, $rest:ident)*) => {
        handler!($first $(, $rest)*);
        handlers!($($rest),*);
    };
    () => {};
}

handlers!(A1, A2, A3, A4, A5, A6, A7, A8, A9, A10);

impl<F, Fut, R, I, S> Handler<(), I, S> for F
where
    F: FnOnce() -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = R> + Send + 'static,
    R: IntoOutcome,
    I: Inbox,
    S: Send + Sync + 'static,
{
    fn call(self, _: Delivery<I>, _: Arc<S>) -> HandlerFuture {
        let handling = self();
        Box::pin(async move { handling.await.into_outcome() })
    }
}
