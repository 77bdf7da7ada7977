//! A converter for tests: the protocol's own server over TLS on a free port, keeping everything in
//! memory, that can be killed, restarted and told to misbehave.

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming as Body;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use stream_protocol::client::Millis;
use stream_protocol::message::Limits;
use stream_protocol::route::EPOCH_HEADER;
use stream_protocol::server::{Incoming, MemoryReceiver, Server};
use stream_protocol::{ConnectString, ErrorBody, ErrorCode, Fingerprint, Token};
use tokio_rustls::TlsAcceptor;

/// What outlives a restart: certificate, port, and what was kept.
pub struct Converter {
    pub receiver: Arc<MemoryReceiver>,
    pub counts: Arc<Counts>,
    address: SocketAddr,
    tls: Arc<rustls::ServerConfig>,
    fingerprint: Fingerprint,
    epoch: u64,
    running: Option<Running>,
}

/// What came in, over all restarts.
#[derive(Default)]
pub struct Counts {
    pub requests: AtomicU64,
    pub chunk_bytes: AtomicU64,
    /// Stop answering for good after so many bytes of chunks; 0 is never.
    pub die_after: AtomicU64,
}

struct Running {
    stop: tokio::sync::oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

const TOKEN: [u8; 32] = [7; 32];

impl Converter {
    pub fn start() -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["converter".to_owned()]).unwrap();
        let certificate = made.cert.der().clone();
        let digest = ring::digest::digest(&ring::digest::SHA256, &certificate);
        let fingerprint = Fingerprint::from_bytes(digest.as_ref().try_into().unwrap());
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        let listener = StdListener::bind("127.0.0.1:0").unwrap();
        let mut converter = Self {
            receiver: Arc::new(MemoryReceiver::new()),
            counts: Arc::default(),
            address: listener.local_addr().unwrap(),
            tls: Arc::new(tls),
            fingerprint,
            epoch: 0,
            running: None,
        };
        converter.run(listener);
        converter
    }

    pub fn connect_string(&self) -> ConnectString {
        ConnectString {
            host: self.address.ip().to_string(),
            port: self.address.port(),
            token: Token::from_bytes(TOKEN),
            fingerprint: self.fingerprint,
        }
    }

    /// As by `kill -9`: what was not durable is lost, connections are cut.
    pub fn kill(&mut self) {
        if let Some(running) = self.running.take() {
            let _ = running.stop.send(());
            running.thread.join().unwrap();
            self.receiver.crash();
        }
    }

    /// Start again at the same port.
    pub fn restart(&mut self) {
        self.counts.die_after.store(0, Ordering::Relaxed);
        let deadline = Instant::now() + Duration::from_secs(10);
        let listener = loop {
            match StdListener::bind(self.address) {
                Ok(listener) => break listener,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        self.run(listener);
    }

    fn run(&mut self, listener: StdListener) {
        self.epoch += 1;
        let mut next = self.epoch << 32;
        let new_id = move || {
            next += 1;
            next
        };
        let limits = Limits::default();
        let shared = Arc::new(Shared {
            server: Server::new(self.epoch, "test", limits, Box::new(new_id)),
            receiver: Arc::clone(&self.receiver),
            counts: Arc::clone(&self.counts),
            started: Instant::now(),
            dead: Mutex::new(false),
        });
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let acceptor = TlsAcceptor::from(Arc::clone(&self.tls));
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                tokio::select! {
                    _ = stopped => {}
                    () = accept(listener, acceptor, shared) => {}
                }
            });
        });
        self.running = Some(Running { stop, thread });
    }
}

impl Drop for Converter {
    fn drop(&mut self) {
        self.kill();
    }
}

struct Shared {
    server: Server,
    receiver: Arc<MemoryReceiver>,
    counts: Arc<Counts>,
    started: Instant,
    dead: Mutex<bool>,
}

async fn accept(listener: StdListener, acceptor: TlsAcceptor, shared: Arc<Shared>) {
    listener.set_nonblocking(true).unwrap();
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    loop {
        let Ok((tcp, _)) = listener.accept().await else {
            continue;
        };
        let (acceptor, shared) = (acceptor.clone(), Arc::clone(&shared));
        tokio::spawn(async move {
            let Ok(tls) = acceptor.accept(tcp).await else {
                return;
            };
            let service = service_fn(|request| serve(&shared, request));
            let connection = hyper::server::conn::http1::Builder::new();
            let _ = connection
                .serve_connection(TokioIo::new(tls), service)
                .await;
        });
    }
}

async fn serve(
    shared: &Shared,
    request: hyper::Request<Body>,
) -> Result<hyper::Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let Ok(body) = body.collect().await else {
        return Ok(hyper::Response::new(Full::default()));
    };
    let body = body.to_bytes();
    shared.counts.requests.fetch_add(1, Ordering::Relaxed);
    if head.uri.path().ends_with("/chunks") {
        let len = body.len() as u64;
        let before = shared.counts.chunk_bytes.fetch_add(len, Ordering::Relaxed);
        let limit = shared.counts.die_after.load(Ordering::Relaxed);
        if limit > 0 && before + len >= limit {
            *shared.dead.lock().unwrap() = true;
        }
    }
    if *shared.dead.lock().unwrap() {
        // As a machine that hangs: no answer ever.
        std::future::pending::<()>().await;
    }
    let expected = format!("Bearer {}", Token::from_bytes(TOKEN));
    let token = head.headers.get("authorization");
    let response = if token.is_some_and(|token| *token == *expected) {
        let incoming = Incoming {
            method: head.method.as_str(),
            path: head.uri.path(),
            body: &body,
        };
        let now = Millis(shared.started.elapsed().as_millis() as u64);
        shared.server.answer(now, incoming, &*shared.receiver)
    } else {
        let error = ErrorBody {
            code: ErrorCode::Unauthorised,
            message: "the token is not known".to_owned(),
            advice: String::new(),
        };
        shared.server.refuse(&error)
    };
    Ok(hyper::Response::builder()
        .status(response.status)
        .header("content-type", response.content_type)
        .header(EPOCH_HEADER, response.epoch)
        .body(Full::new(response.body))
        .unwrap())
}
