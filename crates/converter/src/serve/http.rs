//! From an HTTP request to [`Server::answer`] and back: token, limits, body, threads.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, WWW_AUTHENTICATE,
};
use axum::http::{HeaderMap, HeaderValue, Request, StatusCode};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use stream_protocol::message::ErrorBody;
use stream_protocol::route::{EPOCH_HEADER, Response};
use stream_protocol::server::{Incoming, Receiver, Server, too_large};
use stream_protocol::{ErrorCode, Millis, Route, Token};
use tokio::sync::Semaphore;

use super::identity::Tokens;

/// Bytes of request bodies in memory at one time. Together with what the store keeps in memory this
/// bounds the program; a body that does not fit waits in the sender's socket.
const BODY_BUDGET: u32 = 96 << 20;
/// One permit of the budget.
const PERMIT: u32 = 4 << 10;
/// How long a body may pause.
const BODY_PAUSE: Duration = Duration::from_secs(30);
/// How long a body may take in all.
const BODY_TIME: Duration = Duration::from_secs(15 * 60);

/// What every request needs.
pub struct Service {
    server: Server,
    receiver: Box<dyn Receiver + Send + Sync>,
    tokens: Tokens,
    started: Instant,
    budget: Arc<Semaphore>,
    /// Unpacking and hashing keeps a core busy: no more of it at once than there are cores.
    cores: Arc<Semaphore>,
}

impl Service {
    /// Answers as `server`, keeps with `receiver`, lets in who has one of `tokens`.
    #[must_use]
    pub fn new(
        server: Server,
        receiver: Box<dyn Receiver + Send + Sync>,
        tokens: Tokens,
    ) -> Arc<Self> {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Arc::new(Self {
            server,
            receiver,
            tokens,
            started: Instant::now(),
            budget: Arc::new(Semaphore::new((BODY_BUDGET / PERMIT) as usize)),
            cores: Arc::new(Semaphore::new(cores)),
        })
    }

    /// All requests, whatever their path, to [`Service`]: the protocol knows its own routes, and the
    /// token is checked before them.
    pub fn router(self: &Arc<Self>) -> Router {
        Router::new().fallback(answer).with_state(Arc::clone(self))
    }

    fn now(&self) -> Millis {
        // Not zero at the start: leases compare times.
        Millis(self.started.elapsed().as_millis() as u64 + 1)
    }

    /// Only a token that is valid this very moment opens anything.
    fn check_token(&self, headers: &HeaderMap) -> Result<(), ErrorBody> {
        let refused = |message: &str| {
            ErrorBody::new(ErrorCode::Unauthorised, message)
                .advice("copy the connect string that `p2v serve` printed when it was last started")
        };
        let Some(value) = headers.get(AUTHORIZATION) else {
            return Err(refused("the request has no token"));
        };
        let text = value.to_str().unwrap_or_default();
        let token = text.strip_prefix("Bearer ").map(str::parse::<Token>);
        let Some(Ok(token)) = token else {
            return Err(refused("the request's token is not one"));
        };
        match self.tokens.admit(&token) {
            Ok(true) => Ok(()),
            Ok(false) => Err(refused("the token is not valid (any more)")),
            Err(error) => {
                eprintln!("p2v: {error:#}");
                let message = "the converter cannot read its tokens";
                Err(ErrorBody::new(ErrorCode::Internal, message)
                    .advice("look at what `p2v serve` printed"))
            }
        }
    }
}

async fn answer(
    State(service): State<Arc<Service>>,
    request: Request<Body>,
) -> axum::response::Response {
    match take(&service, request).await {
        Ok(response) => into_http(response, false),
        // The body was not read: the connection cannot be used again.
        Err(error) => into_http(service.server.refuse(&error), true),
    }
}

async fn take(service: &Arc<Service>, request: Request<Body>) -> Result<Response, ErrorBody> {
    service.check_token(request.headers())?;
    let (head, body) = request.into_parts();
    let method = head.method.as_str().to_owned();
    let path = head.uri.path().to_owned();
    let route = Route::parse(&method, &path).ok();
    // Nothing is read for a path that leads nowhere; `Server::answer` says what is wrong with it.
    let most = route.map_or(0, |route| route.max_body(service.server.limits()));
    let length = head.headers.get(CONTENT_LENGTH);
    let length = length.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if route.is_some() && length.is_some_and(|length| length > most) {
        return Err(too_large(most, length.unwrap_or_default()));
    }
    // Without a length the body may become as long as it may.
    let room = length.unwrap_or(most).min(most);
    let permits = u32::try_from(room.div_ceil(u64::from(PERMIT))).unwrap_or(u32::MAX);
    let permits = permits.clamp(1, BODY_BUDGET / PERMIT);
    let Ok(held) = Arc::clone(&service.budget)
        .acquire_many_owned(permits)
        .await
    else {
        return Err(ErrorBody::new(
            ErrorCode::Unavailable,
            "the converter is shutting down",
        ));
    };
    let body = match route {
        Some(_) => read_body(body, room, most).await?,
        None => Bytes::new(),
    };
    let core = match route {
        Some(Route::Chunks { .. }) => Arc::clone(&service.cores).acquire_owned().await.ok(),
        _ => None,
    };
    let service = Arc::clone(service);
    let answered = tokio::task::spawn_blocking(move || {
        let incoming = Incoming {
            method: &method,
            path: &path,
            body: &body,
        };
        let response = service
            .server
            .answer(service.now(), incoming, service.receiver.as_ref());
        drop((core, body, held));
        response
    });
    answered.await.map_err(|error| {
        eprintln!("p2v: answering failed: {error}");
        ErrorBody::new(ErrorCode::Internal, "the converter failed to answer")
    })
}

/// The whole body, in one piece, no more than `most` bytes of it.
async fn read_body(mut body: Body, room: u64, most: u64) -> Result<Bytes, ErrorBody> {
    let deadline = Instant::now() + BODY_TIME;
    let too_slow = || {
        ErrorBody::new(ErrorCode::Unavailable, "the body arrived too slowly")
            .advice("look at the network between agent and converter")
    };
    // `room` is covered by the budget, and no larger than the route's limit.
    let mut whole = BytesMut::with_capacity(usize::try_from(room).unwrap_or(0));
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let next = tokio::time::timeout(BODY_PAUSE.min(left), body.frame());
        let Some(frame) = next.await.map_err(|_| too_slow())? else {
            return Ok(whole.freeze());
        };
        let frame = frame.map_err(|error| {
            let message = format!("the body was cut: {error}");
            ErrorBody::new(ErrorCode::BadMessage, message)
        })?;
        if let Ok(data) = frame.into_data() {
            let found = (whole.len() + data.len()) as u64;
            if found > most {
                return Err(too_large(most, found));
            }
            whole.extend_from_slice(&data);
        }
    }
}

fn into_http(response: Response, close: bool) -> axum::response::Response {
    let mut http = axum::response::Response::new(Body::from(response.body));
    let status = StatusCode::from_u16(response.status);
    *http.status_mut() = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = http.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static(response.content_type),
    );
    headers.insert(EPOCH_HEADER, HeaderValue::from(response.epoch));
    if response.status == 401 {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if close {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    http
}
