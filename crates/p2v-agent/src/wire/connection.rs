//! Connections: made when needed, kept for the next request, watched for stalls.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use stream_protocol::route::{BINARY, EPOCH_HEADER, JSON, MAX_CONTROL_BYTES};
use stream_protocol::{ConnectString, Request, Response};
use tokio::net::TcpStream;
use tokio::time::{Duration, Instant, sleep, timeout};
use tokio_rustls::TlsConnector;

use super::NoAnswer;
use super::meter::{Activity, Metered, Pace, Traffic};
use super::pin::{Pin as CertificatePin, client_config};

/// A name server or a firewall that swallows packets is found out after so long.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// A connection on which nothing moves in either direction for so long is given up. The converter
/// answers within seconds, but a commit waits for its disk.
const STALL_TIMEOUT: Duration = Duration::from_secs(120);

/// All connections to one converter.
pub(super) struct Connections {
    converter: ConnectString,
    pin: Arc<CertificatePin>,
    tls: TlsConnector,
    traffic: Arc<Traffic>,
    pace: Option<Arc<Pace>>,
    idle: Mutex<Vec<Connection>>,
}

struct Connection {
    sender: SendRequest<Pieces>,
    activity: Activity,
}

impl Connections {
    pub fn new(
        converter: ConnectString,
        traffic: Arc<Traffic>,
        pace: Option<Arc<Pace>>,
    ) -> Result<Self, rustls::Error> {
        let pin = Arc::new(CertificatePin::new(converter.fingerprint));
        let tls = TlsConnector::from(Arc::new(client_config(&pin)?));
        Ok(Self {
            converter,
            pin,
            tls,
            traffic,
            pace,
            idle: Mutex::default(),
        })
    }

    /// Send a request and wait for its answer.
    pub async fn ask(&self, request: Request) -> Result<Response, NoAnswer> {
        if let Some(kept) = self.take_idle() {
            // The converter closes connections that were quiet for long, and may do so just now.
            // Every request may come twice, so it goes again at once over a new connection.
            match self.ask_over(kept, &request).await {
                Err(NoAnswer::Lost(_)) => {}
                answer => return answer,
            }
        }
        let fresh = self.connect().await?;
        self.ask_over(fresh, &request).await
    }

    fn take_idle(&self) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(kept) = idle.pop() {
            if kept.sender.is_ready() {
                return Some(kept);
            }
        }
        None
    }

    async fn connect(&self) -> Result<Connection, NoAnswer> {
        let address = self.converter.authority();
        let lost = |what: &str, error: &dyn std::fmt::Display| {
            NoAnswer::Lost(format!("{what} {address}: {error}"))
        };
        let connecting = async {
            let target = (self.converter.host.as_str(), self.converter.port);
            let tcp = TcpStream::connect(target)
                .await
                .map_err(|error| lost("connecting to", &error))?;
            let _ = tcp.set_nodelay(true);
            let activity = Activity::new();
            let metered = Metered {
                tcp,
                traffic: Arc::clone(&self.traffic),
                pace: self.pace.clone(),
                activity: activity.clone(),
                pause: None,
            };
            // The name is sent only as a hint; the certificate is recognised by its fingerprint.
            let name = ServerName::try_from(self.converter.host.clone())
                .map_err(|error| lost("naming", &error))?;
            let tls = self.tls.connect(name, metered).await.map_err(|error| {
                self.other_converter(&address)
                    .unwrap_or_else(|| lost("securing the connection to", &error))
            })?;
            let (sender, driver) = http1::handshake(TokioIo::new(tls))
                .await
                .map_err(|error| lost("speaking HTTP with", &error))?;
            // It ends with the connection; what went wrong is told by the request under way.
            tokio::spawn(async move {
                let _ = driver.await;
            });
            Ok(Connection { sender, activity })
        };
        match timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(connected) => connected,
            Err(_) => {
                let seconds = CONNECT_TIMEOUT.as_secs();
                Err(lost("connecting to", &format!("no answer for {seconds} s")))
            }
        }
    }

    fn other_converter(&self, address: &str) -> Option<NoAnswer> {
        let shown = self.pin.refused()?;
        Some(NoAnswer::OtherConverter {
            host: address.to_owned(),
            shown,
            expected: self.converter.fingerprint,
        })
    }

    async fn ask_over(
        &self,
        mut connection: Connection,
        request: &Request,
    ) -> Result<Response, NoAnswer> {
        let message = self.message(request)?;
        let activity = connection.activity.clone();
        activity.mark();
        let asking = async {
            let response = connection.sender.send_request(message).await;
            match response {
                Ok(response) => read(response).await,
                Err(error) => Err(NoAnswer::Lost(chain(&error))),
            }
        };
        let answer = tokio::select! {
            answer = asking => answer?,
            () = stalled(&activity) => {
                let seconds = STALL_TIMEOUT.as_secs();
                let address = self.converter.authority();
                return Err(NoAnswer::Lost(format!("{address} was silent for {seconds} s")));
            }
        };
        if connection.sender.ready().await.is_ok() {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            idle.push(connection);
        }
        Ok(answer)
    }

    fn message(&self, request: &Request) -> Result<hyper::Request<Pieces>, NoAnswer> {
        hyper::Request::builder()
            .method(request.route.method().as_str())
            .uri(request.route.path())
            .header(hyper::header::HOST, self.converter.authority())
            .header(
                hyper::header::AUTHORIZATION,
                format!("Bearer {}", self.converter.token),
            )
            .header(hyper::header::CONTENT_TYPE, request.route.content_type())
            .body(Pieces::of(request))
            .map_err(|error| NoAnswer::Lost(format!("writing the request: {error}")))
    }
}

async fn stalled(activity: &Activity) {
    loop {
        let deadline = activity.last() + STALL_TIMEOUT;
        if Instant::now() >= deadline {
            return;
        }
        sleep(Duration::from_secs(1)).await;
    }
}

async fn read(response: hyper::Response<Incoming>) -> Result<Response, NoAnswer> {
    let (head, body) = response.into_parts();
    let header = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
    let epoch = header(EPOCH_HEADER).and_then(|epoch| epoch.parse().ok());
    let content_type = match header("content-type") {
        Some(text) if text.starts_with(BINARY) => BINARY,
        _ => JSON,
    };
    // No answer is longer than the longest control message.
    let body = Limited::new(body, MAX_CONTROL_BYTES as usize)
        .collect()
        .await;
    let body = body.map_err(|error| NoAnswer::Lost(format!("reading the answer: {error}")))?;
    Ok(Response {
        status: head.status.as_u16(),
        epoch: epoch.unwrap_or(0),
        content_type,
        body: body.to_bytes(),
    })
}

/// hyper says what happened in its own words and keeps the cause below.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// A body whose pieces go out one behind the other, uncopied.
struct Pieces {
    rest: VecDeque<Bytes>,
    len: u64,
}

impl Pieces {
    fn of(request: &Request) -> Self {
        let rest = request.body.iter().filter(|piece| !piece.is_empty());
        Self {
            rest: rest.cloned().collect(),
            len: request.body_len(),
        }
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let next = self.rest.pop_front();
        if let Some(piece) = &next {
            self.len = self.len.saturating_sub(piece.len() as u64);
        }
        Poll::Ready(next.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.len)
    }
}
