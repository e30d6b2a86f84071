//! What a handler fails with.

use std::{convert::Infallible, error::Error, fmt, time::Duration};

/// Any error.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// Why a message could not be handled: for now ([transient](Self::transient)), or for ever
/// ([permanent](Self::permanent)).
///
/// A transient failure is tried again by the [`RetryPolicy`](crate::RetryPolicy); a permanent one goes to the dead
/// letters at once. Every error becomes a transient one by `?`; [`PermanentExt::permanent`] says otherwise:
///
/// ```
/// use outbox_consumer::{HandlerError, PermanentExt};
///
/// async fn reserve() -> Result<(), HandlerError> {
///     let quantity: u32 = "seven".parse().permanent()?; // it will never be a number
///     std::fs::read_to_string("stock")?; // the file may be there next time
///     if quantity > 1000 {
///         return Err(HandlerError::permanent("more than a thousand are never in stock"));
///     }
///     Ok(())
/// }
/// ```
pub struct HandlerError {
    permanent: bool,
    retry_after: Option<Duration>,
    error: BoxError,
}

impl HandlerError {
    /// A failure that another attempt may not meet: a timeout, a lock, a service that is away.
    #[must_use]
    pub fn transient(error: impl Into<BoxError>) -> Self {
        Self { permanent: false, retry_after: None, error: error.into() }
    }

    /// A failure that every attempt will meet: the message becomes a dead letter at once.
    #[must_use]
    pub fn permanent(error: impl Into<BoxError>) -> Self {
        Self { permanent: true, retry_after: None, error: error.into() }
    }

    /// Waits for `delay` before the next attempt, instead of what the retry policy says.
    #[must_use]
    pub fn retry_after(mut self, delay: Duration) -> Self {
        self.retry_after = Some(delay);
        self
    }

    /// Whether no further attempt makes sense.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        self.permanent
    }

    /// The delay that was asked for by [`retry_after`](Self::retry_after).
    #[must_use]
    pub fn delay(&self) -> Option<Duration> {
        self.retry_after
    }

    /// The error and its causes in one line, each said once.
    #[must_use]
    pub fn report(&self) -> String {
        report(self.error.as_ref())
    }
}

/// An error and its causes in one line. A cause that the text before it already ends with is left out.
pub(crate) fn report(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let said = cause.to_string();
        if !text.ends_with(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        source = cause.source();
    }
    text
}

impl fmt::Debug for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandlerError")
            .field("permanent", &self.permanent)
            .field("retry_after", &self.retry_after)
            .field("error", &self.error)
            .finish()
    }
}

impl fmt::Display for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

// As in `anyhow`: `HandlerError` is not an `Error` itself, so that every `Error` can become one.
impl<E: Error + Send + Sync + 'static> From<E> for HandlerError {
    fn from(error: E) -> Self {
        Self::transient(error)
    }
}

/// A [`HandlerError`] inside of a [`BoxError`], so that it comes out of a `tower` layer as it went in.
#[derive(Debug)]
struct Boxed(HandlerError);

impl fmt::Display for Boxed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for Boxed {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.error.source()
    }
}

impl From<HandlerError> for BoxError {
    fn from(error: HandlerError) -> Self {
        Box::new(Boxed(error))
    }
}

/// What the error of a `tower` service may be, so that the service can handle messages.
#[diagnostic::on_unimplemented(
    message = "a service that fails with `{Self}` cannot handle messages",
    note = "its error must be a `HandlerError`, a `BoxError` (`Box<dyn Error + Send + Sync>`) or `Infallible`"
)]
pub trait IntoHandlerError {
    /// The error as the consumer sees it.
    fn into_handler_error(self) -> HandlerError;
}

impl IntoHandlerError for HandlerError {
    fn into_handler_error(self) -> HandlerError {
        self
    }
}

impl IntoHandlerError for BoxError {
    fn into_handler_error(self) -> HandlerError {
        match self.downcast::<Boxed>() {
            Ok(boxed) => boxed.0,
            Err(other) => HandlerError::transient(other),
        }
    }
}

impl IntoHandlerError for Infallible {
    fn into_handler_error(self) -> HandlerError {
        match self {}
    }
}

/// Makes the error of a result a permanent one.
pub trait PermanentExt<T> {
    /// No further attempt makes sense after this error.
    ///
    /// # Errors
    ///
    /// The error itself, as [`HandlerError::permanent`].
    fn permanent(self) -> Result<T, HandlerError>;
}

impl<T, E: Into<BoxError>> PermanentExt<T> for Result<T, E> {
    fn permanent(self) -> Result<T, HandlerError> {
        self.map_err(HandlerError::permanent)
    }
}

/// What a handler may return: nothing, or a result whose error can become a [`HandlerError`].
#[diagnostic::on_unimplemented(
    message = "a handler cannot return `{Self}`",
    note = "it returns `()` or `Result<(), E>` where `E` is `HandlerError` or any `std::error::Error + Send + Sync`"
)]
pub trait IntoOutcome {
    /// The outcome as the consumer sees it.
    ///
    /// # Errors
    ///
    /// If the handler failed.
    fn into_outcome(self) -> Result<(), HandlerError>;
}

impl IntoOutcome for () {
    fn into_outcome(self) -> Result<(), HandlerError> {
        Ok(())
    }
}

impl<E: Into<HandlerError>> IntoOutcome for Result<(), E> {
    fn into_outcome(self) -> Result<(), HandlerError> {
        self.map_err(Into::into)
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn question_mark_is_transient_and_permanent_is_said() {
        let transient: HandlerError = io::Error::other("away").into();
        assert!(!transient.is_permanent());
        let permanent = Err::<(), _>(io::Error::other("never")).permanent().unwrap_err();
        assert!(permanent.is_permanent());
        assert_eq!(permanent.report(), "never");
    }

    #[test]
    fn an_error_survives_a_tower_layer() {
        let boxed: BoxError = HandlerError::permanent("no").retry_after(Duration::from_secs(3)).into();
        let back = boxed.into_handler_error();
        assert!(back.is_permanent());
        assert_eq!(back.delay(), Some(Duration::from_secs(3)));
    }

    #[test]
    fn a_cause_is_said_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer: {0}")]
        struct Outer(#[source] io::Error);
        assert_eq!(report(&Outer(io::Error::other("inner"))), "outer: inner");
    }
}
