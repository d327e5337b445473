//! The Open Inference Protocol, version 2, over gRPC: the calls of `inference.GRPCInferenceService`, on the port of HTTP.
//!
//! In: HTTP/2 requests whose content type is gRPC's. Out: the answers that the same questions get over HTTP, errors as
//! gRPC's codes. A message has the bound of a request's body, a call ends at its `grpc-timeout`, and a panic in it costs
//! the call only.

mod inference;
#[cfg(test)]
mod schema;
mod tensors;

use std::{marker::PhantomData, sync::Arc, time::Duration};

use hyper::{Request, Response, body::Incoming, header};
use prost::Message;
use tidemill_base::Error;
use tidemill_model::weights::here_only;
use tokio::time::{Instant, timeout_at};
use tonic::{
    Code, Status,
    codec::{BufferSettings, Codec, DecodeBuf, Decoder},
    codegen::{Context, Poll, Service},
    metadata::MetadataValue,
};

use super::{
    Shared,
    access::{Grant, Need, Role},
    body::Counted,
    contained,
    host::ServedModel,
    load::{Deadline, Verdict},
    metrics::Reason,
    oip, our_mistake,
    reply::Refusal,
    route::ModelName,
    router::{self, find},
};
use crate::live::Which;
use inference::*;

/// Where the calls stand.
const SERVICE: &str = "/inference.GRPCInferenceService/";
/// What a call may take that does not say it itself.
const DEADLINE: Duration = Duration::from_secs(60);

/// Whether a request is a gRPC call.
pub(super) fn is_grpc<B>(request: &Request<B>) -> bool {
    request.headers().get(header::CONTENT_TYPE).is_some_and(|t| t.as_bytes().starts_with(b"application/grpc"))
}

/// Answers one call.
pub(super) async fn answer(shared: &Arc<Shared>, request: Request<Incoming>) -> Response<tonic::body::Body> {
    let Some(_place) = shared.load.enter(shared.limits.requests_max) else {
        return counted(shared, status(shared, router::too_many(shared)).into_http());
    };
    let (deadline, said) = match deadline(request.headers()) {
        Ok(deadline) => deadline,
        Err(status) => return counted(shared, status.into_http()),
    };
    if deadline.at <= Instant::now() {
        shared.metrics.refused(Reason::Deadline);
        return counted(shared, late().into_http());
    }
    // A call that does not say how long it may take is not judged by it.
    let reply = timeout_at(deadline.at, call(shared, request, said.then_some(deadline))).await;
    counted(shared, reply.unwrap_or_else(|_| late().into_http()))
}

fn late() -> Status {
    Status::deadline_exceeded("the call did not end before its deadline")
}

async fn call(
    shared: &Arc<Shared>,
    request: Request<Incoming>,
    deadline: Option<Deadline>,
) -> Response<tonic::body::Body> {
    let method = request.uri().path().strip_prefix(SERVICE).unwrap_or_default().to_string();
    let of_model = method.starts_with("Model");
    let caller = match of_model.then(|| router::caller(shared, request.headers())).transpose() {
        Ok(caller) => caller.flatten(),
        Err(refusal) => return status(shared, refusal).into_http(),
    };
    let unary = Unary { shared, caller: caller.as_deref(), deadline };
    match method.as_str() {
        "ServerLive" => {
            unary
                .call(request, |_: &Shared, _: Option<&ServedModel>, ServerLiveRequest {}: &_| {
                    Ok(ServerLiveResponse { live: true })
                })
                .await
        }
        "ServerReady" => {
            let ready = |shared: &Shared, _: Option<&ServedModel>, ServerReadyRequest {}: &_| {
                Ok(ServerReadyResponse { ready: contained(|| oip::is_ready(shared))? })
            };
            unary.call(request, ready).await
        }
        "ServerMetadata" => {
            let metadata = |_: &Shared, _: Option<&ServedModel>, ServerMetadataRequest {}: &_| {
                Ok(ServerMetadataResponse {
                    name: oip::SERVER.into(),
                    version: env!("CARGO_PKG_VERSION").into(),
                    extensions: oip::EXTENSIONS.map(String::from).to_vec(),
                })
            };
            unary.call(request, metadata).await
        }
        "ModelReady" => unary.call(request, model_ready).await,
        "ModelMetadata" => unary.call(request, model_metadata).await,
        "ModelInfer" => unary.call(request, model_infer).await,
        _ => {
            let path = super::shown(request.uri().path());
            let calls = "ServerLive, ServerReady, ServerMetadata, ModelReady, ModelMetadata, ModelInfer";
            Status::unimplemented(format!("no call {path}; {SERVICE} has {calls}")).into_http()
        }
    }
}

/// What a call asks of a model.
#[derive(Clone, Copy)]
enum Ask {
    See,
    Infer,
}

/// A message that may ask something of a model.
trait Asks {
    /// What, of which model and version.
    fn asks(&self) -> Option<(Ask, &str, &str)> {
        None
    }
}

impl Asks for ServerLiveRequest {}
impl Asks for ServerReadyRequest {}
impl Asks for ServerMetadataRequest {}

impl Asks for ModelReadyRequest {
    fn asks(&self) -> Option<(Ask, &str, &str)> {
        Some((Ask::See, &self.name, &self.version))
    }
}

impl Asks for ModelMetadataRequest {
    fn asks(&self) -> Option<(Ask, &str, &str)> {
        Some((Ask::See, &self.name, &self.version))
    }
}

impl Asks for ModelInferRequest {
    fn asks(&self) -> Option<(Ask, &str, &str)> {
        Some((Ask::Infer, &self.model_name, &self.model_version))
    }
}

/// Whether this caller may ask that.
fn check(shared: &Shared, caller: Option<&Grant>, name: &str, ask: Ask) -> Result<(), Refusal> {
    let Some(grant) = caller else { return Ok(()) };
    let name = ModelName::parse(name)?.name;
    let need = match ask {
        Ask::See => Need::See(name),
        Ask::Infer => Need::Model(Role::Predict, "infer", name),
    };
    grant.check(&need, &*shared.host)
}

fn model_ready(
    shared: &Shared,
    _: Option<&ServedModel>,
    request: &ModelReadyRequest,
) -> Result<ModelReadyResponse, Refusal> {
    contained(|| {
        let name = model_name(&request.name, &request.version)?;
        let (_, ready) = oip::model_ready(shared, name)?;
        Ok(ModelReadyResponse { ready })
    })?
}

fn model_metadata(
    shared: &Shared,
    _: Option<&ServedModel>,
    request: &ModelMetadataRequest,
) -> Result<ModelMetadataResponse, Refusal> {
    let metadata = contained(|| -> Result<_, Refusal> {
        let name = model_name(&request.name, &request.version)?;
        Ok(oip::metadata(shared, name)?)
    })??;
    let tensor = |name: &str, datatype: &str, shape: Vec<i64>| model_metadata_response::TensorMetadata {
        name: name.to_string(),
        datatype: datatype.to_string(),
        shape,
    };
    let inputs = metadata.inputs.iter().map(|i| tensor(&i.name, i.datatype.name(), vec![-1])).collect();
    let outputs = metadata.outputs.into_iter().map(|(o, shape)| tensor(o.name(), o.datatype().name(), shape)).collect();
    Ok(ModelMetadataResponse {
        name: metadata.name,
        versions: metadata.versions,
        platform: oip::SERVER.into(),
        inputs,
        outputs,
    })
}

fn model_infer(
    shared: &Shared,
    model: Option<&ServedModel>,
    request: &ModelInferRequest,
) -> Result<ModelInferResponse, Refusal> {
    let began = Instant::now();
    let (rows, reply) = contained(|| -> Result<_, Refusal> {
        let name = model_name(&request.model_name, &request.model_version)?;
        Ok(infer(model.ok_or_else(our_mistake)?, name.which, request)?)
    })??;
    shared.metrics.predicted(rows, began.elapsed());
    Ok(reply)
}

/// Answers by a model that is there; how many rows, and the reply.
fn infer(
    model: &ServedModel,
    which: Which<'_>,
    request: &ModelInferRequest,
) -> tidemill_base::Result<(usize, ModelInferResponse)> {
    let (outputs, _) = model.predictor().outputs();
    let chosen = tensors::chosen(request, model.name(), outputs)?;
    let missing_as_null = tensors::flag(&request.parameters, "missing_as_null")?;
    // A call that says nothing to be told apart by is told apart by all it says.
    let whole = match model.predictor().live().is_split() && routing_key(request).is_empty() {
        true => request.encode_to_vec(),
        false => Vec::new(),
    };
    let which = model.by_key(which, || if whole.is_empty() { routing_key(request) } else { &whole });
    let inferred = model.infer(&tensors::inputs(request)?, which, missing_as_null)?;
    Ok((inferred.rows, tensors::reply(model.name(), request, &inferred, &chosen)))
}

/// Answers the message of a call by this model, whatever model it names: message in, message out.
pub(super) fn infer_message(model: &ServedModel, message: &[u8]) -> tidemill_base::Result<Vec<u8>> {
    let request = ModelInferRequest::decode(message).map_err(|e| Error::invalid(unreadable(e)))?;
    Ok(infer(model, Which::Live, &request)?.1.encode_to_vec())
}

fn unreadable(e: prost::DecodeError) -> String {
    format!("the request cannot be read: {e}")
}

/// What tells calls apart where traffic is split: the parameter `routing_key`, the call's id, or what it asks about.
fn routing_key(request: &ModelInferRequest) -> &[u8] {
    use infer_parameter::ParameterChoice::StringParam;
    let parameter = request.parameters.get("routing_key").and_then(|p| p.parameter_choice.as_ref());
    match (parameter, request.id.as_str(), request.raw_input_contents.first()) {
        (Some(StringParam(key)), ..) => key.as_bytes(),
        (_, "", Some(raw)) => raw,
        (_, id, _) => id.as_bytes(),
    }
}

/// `ctr`, `ctr@42`, `ctr@canary`, or a version or label beside the name; empty stands for none.
fn model_name<'a>(name: &'a str, version: &'a str) -> Result<ModelName<'a>, Refusal> {
    let name = ModelName::parse(name)?;
    match version {
        "" => Ok(name),
        version => oip::with_version(name, version),
    }
}

/// One request, one answer.
struct Unary<'a> {
    shared: &'a Arc<Shared>,
    caller: Option<&'a Grant>,
    deadline: Option<Deadline>,
}

impl Unary<'_> {
    async fn call<M, N>(&self, request: Request<Incoming>, run: impl Answers<M, N>) -> Response<tonic::body::Body>
    where
        M: prost::Message + Asks + Default + 'static,
        N: prost::Message + 'static,
    {
        let bytes_max = self.shared.limits.body_bytes_max;
        let request = request.map(|body| Counted::new(body, self.shared.clone()));
        let mut grpc = tonic::server::Grpc::new(Messages::<M, N>::default()).max_decoding_message_size(bytes_max);
        grpc.unary(Call(|message| self.in_time(message, run)), request).await
    }

    /// Runs what there is time for; what came too late for its caller is not passed off as an answer.
    async fn in_time<M, N>(&self, message: M, run: impl Answers<M, N>) -> Result<tonic::Response<N>, Status>
    where
        M: prost::Message + Asks + 'static,
        N: Send + 'static,
    {
        let shared = &**self.shared;
        let refused = |refusal| status(shared, refusal);
        let Some(deadline) = self.deadline else {
            return self
                .answer(message, run)
                .await
                .map(|answered| tonic::Response::new(answered.reply()))
                .map_err(refused);
        };
        let (bytes, began) = (message.encoded_len(), Instant::now());
        match shared.load.judge(deadline, bytes, began) {
            Verdict::Enough => {}
            Verdict::Past => {
                shared.metrics.refused(Reason::Deadline);
                return Err(late());
            }
            verdict => return Err(refused(deadline.refusal(verdict, shared.load.expected(bytes)))),
        }
        let answered = self.answer(message, run).await.map_err(refused)?;
        let now = Instant::now();
        let reply = match answered {
            Answered::Here(reply) => {
                shared.load.took(bytes, now - began);
                reply
            }
            // How long a disk takes says nothing of others.
            Answered::Aside(reply) => reply,
        };
        if now > deadline.at { Err(late()) } else { Ok(tonic::Response::new(reply)) }
    }

    /// Answers whoever may ask, when the model that is asked is in memory.
    async fn answer<M, N>(&self, message: M, run: impl Answers<M, N>) -> Result<Answered<N>, Refusal>
    where
        M: Asks + Send + 'static,
        N: Send + 'static,
    {
        let loading = match message.asks() {
            Some((ask, name, version)) => {
                check(self.shared, self.caller, name, ask)?;
                let name = model_name(name, version)?;
                contained(|| self.shared.host.load(name.name, name.which.version()))?
            }
            None => None,
        };
        if let Some(loading) = loading {
            loading.await?;
        }
        // Held: meanwhile the model that was found may leave for another.
        let model = match message.asks() {
            Some((Ask::Infer, name, version)) => {
                Some(contained(|| find(self.shared, model_name(name, version)?.name).map_err(Refusal::from))??)
            }
            _ => None,
        };
        if let Some(reply) = here_only(|| run(self.shared, model.as_deref(), &message)) {
            return reply.map(Answered::Here);
        }
        let shared = self.shared.clone();
        let answer = move || run(&shared, model.as_deref(), &message);
        self.shared.aside.answer(answer).await.map(Answered::Aside)
    }
}

/// A reply, and where it was made.
enum Answered<N> {
    /// On the thread that reads calls.
    Here(N),
    /// Where it may have waited for a disk.
    Aside(N),
}

impl<N> Answered<N> {
    fn reply(self) -> N {
        let (Self::Here(reply) | Self::Aside(reply)) = self;
        reply
    }
}

/// What answers a message, by a model where it is for one to answer.
trait Answers<M, N>: Fn(&Shared, Option<&ServedModel>, &M) -> Result<N, Refusal> + Copy + Send + 'static {}

impl<M, N, F> Answers<M, N> for F where
    F: Fn(&Shared, Option<&ServedModel>, &M) -> Result<N, Refusal> + Copy + Send + 'static
{
}

/// A function as tonic calls it.
struct Call<F>(F);

impl<F, M, N, A> Service<tonic::Request<M>> for Call<F>
where
    F: Fn(M) -> A,
    A: Future<Output = Result<tonic::Response<N>, Status>>,
{
    type Response = tonic::Response<N>;
    type Error = Status;
    type Future = A;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: tonic::Request<M>) -> Self::Future {
        (self.0)(request.into_inner())
    }
}

/// Messages as prost writes and reads them; what cannot be read is the caller's mistake.
struct Messages<M, N>(PhantomData<(M, N)>);

impl<M, N> Default for Messages<M, N> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<M, N> Codec for Messages<M, N>
where
    M: prost::Message + Default + Send + 'static,
    N: prost::Message + Send + 'static,
{
    type Encode = N;
    type Decode = M;
    type Encoder = tonic_prost::ProstEncoder<N>;
    type Decoder = Reader<M>;

    fn encoder(&mut self) -> Self::Encoder {
        tonic_prost::ProstEncoder::new(BufferSettings::default())
    }

    fn decoder(&mut self) -> Self::Decoder {
        Reader(PhantomData)
    }
}

struct Reader<M>(PhantomData<M>);

impl<M: prost::Message + Default> Decoder for Reader<M> {
    type Item = M;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<M>, Status> {
        M::decode(bytes).map(Some).map_err(|e| Status::invalid_argument(unreadable(e)))
    }
}

/// The refusal, counted, by the code that means what its HTTP status means.
fn status(shared: &Shared, refusal: Refusal) -> Status {
    shared.metrics.refusal(refusal.status.as_u16(), refusal.code);
    to_status(refusal.within(shared.host.home()))
}

fn to_status(refusal: Refusal) -> Status {
    let code = match refusal.status.as_u16() {
        400 | 413 | 415 => Code::InvalidArgument,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::NotFound,
        409 => Code::FailedPrecondition,
        429 => Code::ResourceExhausted,
        503 => Code::Unavailable,
        _ => Code::Internal,
    };
    let text = match refusal.hint {
        Some(hint) => format!("{}; {hint}", refusal.message),
        None => refusal.message,
    };
    let mut status = Status::new(code, text);
    if code == Code::ResourceExhausted {
        // What Retry-After is over HTTP.
        let wait = MetadataValue::from(refusal.retry_after_s.saturating_mul(1000));
        status.metadata_mut().insert("grpc-retry-pushback-ms", wait);
    }
    status
}

/// When a call must have ended, by its `grpc-timeout`: up to eight digits and a unit. And whether it says so itself.
fn deadline(headers: &hyper::HeaderMap) -> Result<(Deadline, bool), Status> {
    let within = |allowed| Deadline { at: Instant::now() + allowed, allowed };
    let Some(value) = headers.get("grpc-timeout") else { return Ok((within(DEADLINE), false)) };
    let text = String::from_utf8_lossy(value.as_bytes());
    let wrong = || {
        let shown = super::shown(&text);
        Status::invalid_argument(format!(
            "grpc-timeout '{shown}' is not up to eight digits and one of H, M, S, m, u, n"
        ))
    };
    let unit = text.chars().last().ok_or_else(wrong)?;
    let digits = &text[..text.len() - unit.len_utf8()];
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(wrong());
    }
    let n: u64 = digits.parse().map_err(|_| wrong())?;
    let allowed = match unit {
        'H' => Duration::from_secs(n * 3600),
        'M' => Duration::from_secs(n * 60),
        'S' => Duration::from_secs(n),
        'm' => Duration::from_millis(n),
        'u' => Duration::from_micros(n),
        'n' => Duration::from_nanos(n),
        _ => return Err(wrong()),
    };
    Ok((within(allowed.min(DEADLINE)), true))
}

/// Counts a call as a request over HTTP is counted, and gives a message that is too large its usual code.
fn counted(shared: &Shared, mut reply: Response<tonic::body::Body>) -> Response<tonic::body::Body> {
    let code = Status::from_header_map(reply.headers()).map_or(Code::Ok, |s| s.code());
    if code == Code::OutOfRange {
        let text =
            format!("request is longer than {} bytes; send it in several requests", shared.limits.body_bytes_max);
        reply = Status::resource_exhausted(text).into_http();
    }
    let class = match code {
        Code::Ok => 200,
        Code::Internal | Code::Unavailable | Code::Unknown => 500,
        _ => 400,
    };
    shared.metrics.request("grpc", class);
    reply
}

#[cfg(test)]
mod tests {
    use tidemill_base::{Error, Kind};

    use super::*;

    /// What a caller does next follows from the kind, over gRPC as over HTTP.
    #[test]
    fn every_kind_of_error_has_a_code() {
        for (kind, code) in [
            (Kind::Invalid, Code::InvalidArgument),
            (Kind::NotFound, Code::NotFound),
            (Kind::Conflict, Code::FailedPrecondition),
            (Kind::Unavailable, Code::Unavailable),
            (Kind::Exhausted, Code::ResourceExhausted),
            (Kind::Corrupt, Code::Internal),
            (Kind::Internal, Code::Internal),
        ] {
            assert_eq!(to_status(Error::new(kind, "x").into()).code(), code);
        }
    }

    #[test]
    fn deadlines_are_read_or_refused() {
        let parse = |text: &str| {
            let mut headers = hyper::HeaderMap::new();
            headers.insert("grpc-timeout", text.parse().unwrap());
            let began = Instant::now();
            deadline(&headers).map(|(d, _)| d.at.saturating_duration_since(began)).map_err(|e| e.code())
        };
        let near = |text: &str, expected: Duration| {
            let allowed = parse(text).unwrap();
            assert!(allowed >= expected && allowed < expected + Duration::from_secs(5), "{text}: {allowed:?}");
        };
        near("20S", Duration::from_secs(20));
        near("1500m", Duration::from_millis(1500));
        near("99999999H", DEADLINE);
        near("0n", Duration::ZERO);
        for wrong in ["", "S", "5", "5s", "123456789S", "-1S", "1.5S", "5 S"] {
            assert_eq!(parse(wrong), Err(Code::InvalidArgument), "{wrong}");
        }
    }
}
