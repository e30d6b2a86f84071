//! A call of a branch as a unary call of gRPC: its headers are the metadata, its payload the message, and a refusal is a status.

use std::convert::Infallible;

use outbox_saga::tcc::{Answer, Call, CallError, Endpoint, Participant, ParticipantService};
use serde_json::Value;
use tonic::body::Body;
use tonic::codegen::http::uri::{InvalidUri, PathAndQuery};
use tonic::codegen::{BoxFuture, Context, Poll, Service, http};
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue};
use tonic::server::{NamedService, UnaryService};
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};
use tonic_prost::ProstCodec;

/// The method, as `branch.proto` has it.
const METHOD: &str = "/tcc.Branch/Call";

/// A payload, or an answer.
#[derive(Clone, PartialEq, prost::Message)]
struct Json {
    #[prost(string, tag = "1")]
    text: String,
}

/// Calls branches over a connection that is kept, and made again when it is lost.
#[derive(Debug, Clone)]
pub(crate) struct GrpcEndpoint {
    channel: Channel,
}

impl GrpcEndpoint {
    /// Calls go to this address, such as `http://inventory:8094`.
    pub(crate) fn new(address: String) -> Result<Self, InvalidUri> {
        Ok(Self { channel: Channel::from_shared(address)?.connect_lazy() })
    }
}

impl Endpoint for GrpcEndpoint {
    async fn call(&self, call: &Call) -> Result<Answer, CallError> {
        let mut request = Request::new(Json { text: call.payload.to_string() });
        for (name, value) in call.headers() {
            let (Ok(key), Ok(value)) =
                (AsciiMetadataKey::from_bytes(name.as_bytes()), AsciiMetadataValue::try_from(value))
            else {
                return Err(CallError::permanent(format!(
                    "{name} cannot be metadata: its value is not ASCII"
                )));
            };
            request.metadata_mut().insert(key, value);
        }
        let mut client = tonic::client::Grpc::new(self.channel.clone());
        client.ready().await.map_err(|err| CallError::new("no connection").because(err))?;
        let codec = ProstCodec::<Json, Json>::default();
        match client.unary(request, PathAndQuery::from_static(METHOD), codec).await {
            Ok(answer) => serde_json::from_str(&answer.into_inner().text)
                .map(Answer::Accepted)
                .map_err(|err| CallError::new("the answer is not JSON").because(err)),
            Err(status) => match status.code() {
                Code::FailedPrecondition => Ok(Answer::Refused(status.message().to_owned())),
                Code::InvalidArgument => Err(CallError::permanent(status.message())),
                _ => Err(CallError::new(status.message())),
            },
        }
    }
}

/// Serves a participant's branches.
pub(crate) struct BranchServer<P: Participant> {
    service: ParticipantService<P>,
}

impl<P: Participant> BranchServer<P> {
    pub(crate) fn new(service: ParticipantService<P>) -> Self {
        Self { service }
    }
}

impl<P: Participant> Clone for BranchServer<P> {
    fn clone(&self) -> Self {
        Self { service: self.service.clone() }
    }
}

impl<P: Participant> NamedService for BranchServer<P> {
    const NAME: &'static str = "tcc.Branch";
}

impl<P: Participant> Service<http::Request<Body>> for BranchServer<P> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let branch = self.clone();
        Box::pin(async move {
            if request.uri().path() != METHOD {
                return Ok(Status::unimplemented("there is only tcc.Branch/Call").into_http());
            }
            Ok(tonic::server::Grpc::new(ProstCodec::default()).unary(branch, request).await)
        })
    }
}

impl<P: Participant> UnaryService<Json> for BranchServer<P> {
    type Response = Json;
    type Future = BoxFuture<Response<Json>, Status>;

    fn call(&mut self, request: Request<Json>) -> Self::Future {
        let service = self.service.clone();
        Box::pin(async move { answer(&service, &request).await })
    }
}

async fn answer<P: Participant>(
    service: &ParticipantService<P>,
    request: &Request<Json>,
) -> Result<Response<Json>, Status> {
    let header = |name: &str| request.metadata().get(name).and_then(|value| value.to_str().ok());
    let answered = match Call::read(header, request.get_ref().text.as_bytes()) {
        Ok(call) => service.handle(call).await,
        Err(err) => Err(err),
    };
    match answered {
        Ok(Answer::Accepted(value)) => Ok(Response::new(Json { text: Value::to_string(&value) })),
        Ok(Answer::Refused(reason)) => Err(Status::failed_precondition(reason)),
        Err(err) if err.is_permanent() => Err(Status::invalid_argument(err.to_string())),
        Err(err) => Err(Status::unavailable(err.to_string())),
    }
}
