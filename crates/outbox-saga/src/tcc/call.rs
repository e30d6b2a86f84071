//! A call of a branch and its answer, and how they travel.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The header with the transaction's id.
pub const ID_HEADER: &str = "Tcc-Id";
/// The header with the branch's name.
pub const BRANCH_HEADER: &str = "Tcc-Branch";
/// The header with the operation: `try`, `confirm` or `cancel`.
pub const OPERATION_HEADER: &str = "Tcc-Operation";
/// The header with the time by which the decision falls, as RFC 3339 has it.
pub const DEADLINE_HEADER: &str = "Tcc-Deadline";
/// The header of [W3C Trace Context](https://www.w3.org/TR/trace-context/).
pub const TRACE_HEADER: &str = crate::trace::TRACEPARENT;

/// What a branch is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Reserve, or say no.
    Try,
    /// Make use of what was reserved.
    Confirm,
    /// Give back what was reserved, if anything was.
    Cancel,
}

impl Operation {
    /// `try`, `confirm` or `cancel`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Try => "try",
            Self::Confirm => "confirm",
            Self::Cancel => "cancel",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        [Self::Try, Self::Confirm, Self::Cancel].into_iter().find(|operation| operation.name() == name)
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A call of a branch.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// The transaction's id.
    pub transaction: String,
    /// The branch's name.
    pub branch: String,
    /// What it is asked to do.
    pub operation: Operation,
    /// When the decision falls at the latest, by the coordinator's clock. A try that comes later is refused. It says nothing about
    /// when a confirm or a cancel comes: a participant must keep what it has reserved until one of them does.
    pub deadline: OffsetDateTime,
    /// What the transaction was begun with for this branch; the same for each operation.
    pub payload: Value,
    /// The trace that the transaction belongs to.
    pub traceparent: Option<String>,
}

impl Call {
    /// The headers that a call travels with; its payload is the body, as JSON.
    #[must_use]
    pub fn headers(&self) -> Vec<(&'static str, String)> {
        // A time that RFC 3339 cannot write is none that anybody waits for.
        let deadline = self.deadline.format(&Rfc3339).unwrap_or_else(|_| "9999-12-31T23:59:59Z".to_owned());
        let mut headers = vec![
            (ID_HEADER, self.transaction.clone()),
            (BRANCH_HEADER, self.branch.clone()),
            (OPERATION_HEADER, self.operation.name().to_owned()),
            (DEADLINE_HEADER, deadline),
        ];
        headers.extend(self.traceparent.clone().map(|trace| (TRACE_HEADER, trace)));
        headers
    }

    /// Reads a call from its headers and body; `header` finds a header's value.
    ///
    /// # Errors
    ///
    /// If a header is missing or cannot be read, or the body is not JSON.
    pub fn read<'a>(header: impl Fn(&str) -> Option<&'a str>, body: &[u8]) -> Result<Self, CallError> {
        let need =
            |name| header(name).ok_or_else(|| CallError::permanent(format!("the header {name} is missing")));
        let unreadable = |name| CallError::permanent(format!("the header {name} cannot be read"));
        let operation = Operation::from_name(need(OPERATION_HEADER)?);
        let payload = if body.is_empty() { Ok(Value::Null) } else { serde_json::from_slice(body) };
        Ok(Self {
            transaction: need(ID_HEADER)?.to_owned(),
            branch: need(BRANCH_HEADER)?.to_owned(),
            operation: operation.ok_or_else(|| unreadable(OPERATION_HEADER))?,
            deadline: OffsetDateTime::parse(need(DEADLINE_HEADER)?, &Rfc3339)
                .map_err(|_| unreadable(DEADLINE_HEADER))?,
            payload: payload.map_err(|_| CallError::permanent("the body is not JSON"))?,
            traceparent: header(TRACE_HEADER).map(str::to_owned),
        })
    }
}

/// What a branch says.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// It is done, with whatever the participant has to say about it.
    Accepted(Value),
    /// The try is refused, and nothing is reserved. The reason is shown to people and stored.
    Refused(String),
}

/// Nothing is known of a call: it may have happened or not.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct CallError {
    message: String,
    permanent: bool,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl CallError {
    /// An error that says what has happened. The call will be repeated: a try until the deadline, a confirm or a cancel until it is
    /// answered.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), permanent: false, source: None }
    }

    /// An error that every repetition would meet too, such as a payload that the participant cannot read. A try is not repeated then, and the
    /// transaction is cancelled; a confirm or a cancel still is, since nobody may say no to it.
    pub fn permanent(message: impl Into<String>) -> Self {
        Self { permanent: true, ..Self::new(message) }
    }

    /// Whether every repetition would meet it too.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        self.permanent
    }

    /// With its cause.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The error and its causes in a line, for the tables.
    pub(crate) fn report(&self) -> String {
        let mut text = self.message.clone();
        let mut cause = std::error::Error::source(self);
        while let Some(err) = cause {
            let said = err.to_string();
            if !text.contains(&said) {
                text = format!("{text}: {said}");
            }
            cause = err.source();
        }
        text
    }
}

/// Where branches are called: a transport with an address. [`HttpEndpoint`](super::http::HttpEndpoint) and
/// [`NatsEndpoint`](super::nats::NatsEndpoint) are two, and any other is one function. `examples/tcc-over-grpc` has both sides of this one:
///
/// ```
/// use outbox_saga::tcc::{Answer, Call, CallError, Endpoint};
///
/// /// A participant behind gRPC, whose client a build script has generated.
/// struct Grpc {
///     client: generated::Client,
/// }
/// # mod generated {
/// #     pub struct Status(pub u32, pub String);
/// #     impl Status {
/// #         pub fn code(&self) -> u32 { self.0 }
/// #         pub fn message(&self) -> &str { &self.1 }
/// #     }
/// #     pub const FAILED_PRECONDITION: u32 = 9;
/// #     #[derive(Clone)]
/// #     pub struct Client;
/// #     impl Client {
/// #         pub async fn call(&mut self, _: Vec<(&'static str, String)>, _: String) -> Result<String, Status> {
/// #             Ok("{}".to_owned())
/// #         }
/// #     }
/// # }
///
/// impl Endpoint for Grpc {
///     async fn call(&self, call: &Call) -> Result<Answer, CallError> {
///         // The headers are the request's metadata, the payload its message.
///         match self.client.clone().call(call.headers(), call.payload.to_string()).await {
///             Ok(json) => serde_json::from_str(&json)
///                 .map(Answer::Accepted)
///                 .map_err(|err| CallError::new("the answer is not JSON").because(err)),
///             Err(status) if status.code() == generated::FAILED_PRECONDITION => {
///                 Ok(Answer::Refused(status.message().to_owned()))
///             }
///             Err(status) => Err(CallError::new(status.message())),
///         }
///     }
/// }
/// ```
pub trait Endpoint: Send + Sync + 'static {
    /// Calls a branch and waits for its answer. The coordinator limits the time; the future may be dropped.
    ///
    /// # Errors
    ///
    /// If there is no answer, or none that says whether it was done. The call will be repeated then: a try as long as the deadline leaves time
    /// for it, unless the error is [permanent](CallError::permanent).
    fn call(&self, call: &Call) -> impl Future<Output = Result<Answer, CallError>> + Send;
}

pub(crate) type Calling<'a> = Pin<Box<dyn Future<Output = Result<Answer, CallError>> + Send + 'a>>;

/// [`Endpoint`] without its type.
pub(crate) trait AnyEndpoint: Send + Sync {
    fn call_any<'a>(&'a self, call: &'a Call) -> Calling<'a>;
}

impl<E: Endpoint> AnyEndpoint for E {
    fn call_any<'a>(&'a self, call: &'a Call) -> Calling<'a> {
        Box::pin(self.call(call))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_call_is_read_as_it_was_written() {
        let call = Call {
            transaction: "order-42".to_owned(),
            branch: "stock".to_owned(),
            operation: Operation::Confirm,
            deadline: OffsetDateTime::UNIX_EPOCH,
            payload: json!({"sku": "ß", "count": 3}),
            traceparent: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned()),
        };
        let headers = call.headers();
        let header =
            |name: &str| headers.iter().find(|(found, _)| *found == name).map(|(_, value)| value.as_str());
        assert_eq!(Call::read(header, call.payload.to_string().as_bytes()).expect("it is whole"), call);
        for missing in [ID_HEADER, BRANCH_HEADER, OPERATION_HEADER, DEADLINE_HEADER] {
            let err = Call::read(|name| header(name).filter(|_| name != missing), b"").expect_err(missing);
            assert_eq!(err.to_string(), format!("the header {missing} is missing"));
        }
        let err = Call::read(header, b"{").expect_err("no JSON");
        assert_eq!(err.to_string(), "the body is not JSON");
    }
}
