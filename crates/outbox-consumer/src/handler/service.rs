//! Handlers as `tower` services, and services as handlers.

use std::{
    fmt,
    marker::PhantomData,
    sync::Arc,
    task::{Context, Poll},
};

use tower_layer::Layer;
use tower_service::Service;

use super::{Handler, HandlerFuture, error::HandlerError, error::IntoHandlerError};
use crate::{delivery::Delivery, inbox::Inbox};

/// A handler as a `tower` service. Made by [`Handler::into_service`].
pub struct HandlerService<H, Arguments, I, S> {
    handler: H,
    state: Arc<S>,
    signature: PhantomData<fn() -> (Arguments, I)>,
}

impl<H, Arguments, I, S> HandlerService<H, Arguments, I, S> {
    pub(crate) fn new(handler: H, state: Arc<S>) -> Self {
        Self { handler, state, signature: PhantomData }
    }
}

impl<H: Clone, Arguments, I, S> Clone for HandlerService<H, Arguments, I, S> {
    fn clone(&self) -> Self {
        Self::new(self.handler.clone(), Arc::clone(&self.state))
    }
}

impl<H, Arguments, I, S> fmt::Debug for HandlerService<H, Arguments, I, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandlerService").finish_non_exhaustive()
    }
}

impl<H, Arguments, I, S> Service<Delivery<I>> for HandlerService<H, Arguments, I, S>
where
    H: Handler<Arguments, I, S>,
    I: Inbox,
    S: Send + Sync + 'static,
{
    type Response = ();
    type Error = HandlerError;
    type Future = HandlerFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), HandlerError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, delivery: Delivery<I>) -> HandlerFuture {
        self.handler.clone().call(delivery, Arc::clone(&self.state))
    }
}

/// A handler inside of a layer. Made by [`Handler::layer`].
pub struct Layered<L, H, Arguments, I, S> {
    layer: L,
    handler: H,
    // `I` and `S` stand here so that they are inferred from the router that the handler goes into.
    signature: PhantomData<fn(S) -> (Arguments, I)>,
}

impl<L, H, Arguments, I, S> Layered<L, H, Arguments, I, S> {
    pub(crate) fn new(layer: L, handler: H) -> Self {
        Self { layer, handler, signature: PhantomData }
    }
}

impl<L: Clone, H: Clone, Arguments, I, S> Clone for Layered<L, H, Arguments, I, S> {
    fn clone(&self) -> Self {
        Self::new(self.layer.clone(), self.handler.clone())
    }
}

impl<L, H, Arguments, I, S> fmt::Debug for Layered<L, H, Arguments, I, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Layered").finish_non_exhaustive()
    }
}

impl<L, H, Arguments, I, S> Handler<(L, Arguments), I, S> for Layered<L, H, Arguments, I, S>
where
    H: Handler<Arguments, I, S>,
    L: Layer<HandlerService<H, Arguments, I, S>> + Clone + Send + Sync + 'static,
    L::Service: Service<Delivery<I>, Response = ()> + Send + 'static,
    <L::Service as Service<Delivery<I>>>::Error: IntoHandlerError,
    <L::Service as Service<Delivery<I>>>::Future: Send + 'static,
    Arguments: 'static,
    I: Inbox,
    S: Send + Sync + 'static,
{
    fn call(self, delivery: Delivery<I>, state: Arc<S>) -> HandlerFuture {
        let service = self.layer.layer(HandlerService::new(self.handler, state));
        Box::pin(serve(service, delivery))
    }
}

/// A `tower` service as a handler. Made by [`handler_service`].
#[derive(Debug, Clone)]
pub struct ServiceHandler<T>(T);

/// Makes a `tower` service of [`Delivery`] a handler.
///
/// ```
/// use outbox_consumer::{Router, handler_service, Handler, inbox::Inbox};
/// # fn example<I: Inbox>() {
/// let service = Handler::<_, I, ()>::into_service(async || {}, ());
/// let router: Router<I> = Router::new().on("order.placed", handler_service(service));
/// # }
/// ```
pub fn handler_service<T>(service: T) -> ServiceHandler<T> {
    ServiceHandler(service)
}

/// Marks the handlers that are services.
#[derive(Debug, Clone, Copy)]
pub struct ByService;

impl<T, I, S> Handler<ByService, I, S> for ServiceHandler<T>
where
    T: Service<Delivery<I>, Response = ()> + Clone + Send + Sync + 'static,
    T::Error: IntoHandlerError,
    T::Future: Send + 'static,
    I: Inbox,
    S: Send + Sync + 'static,
{
    fn call(self, delivery: Delivery<I>, _: Arc<S>) -> HandlerFuture {
        Box::pin(serve(self.0, delivery))
    }
}

async fn serve<T, I>(mut service: T, delivery: Delivery<I>) -> Result<(), HandlerError>
where
    T: Service<Delivery<I>, Response = ()> + Send,
    T::Error: IntoHandlerError,
    T::Future: Send,
    I: Inbox,
{
    // Errors are turned before they cross an `await`: they need not be `Send`.
    std::future::poll_fn(|task| service.poll_ready(task).map_err(IntoHandlerError::into_handler_error))
        .await?;
    let handling = service.call(delivery);
    futures_util::TryFutureExt::map_err(handling, IntoHandlerError::into_handler_error).await
}
