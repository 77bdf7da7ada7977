//! Connections: accepted, limited, encrypted, ended.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use rustls::crypto::ring::default_provider;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_rustls::TlsAcceptor;

use super::identity::Identity;

/// Connections at one time; further ones wait to be accepted.
const CONNECTIONS: usize = 256;
/// How long a TLS handshake may take.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// How long a request's head may take, waiting for its first byte included. Agents give a sign of life
/// more often than that.
const HEAD_TIME: Duration = Duration::from_secs(75);
/// How long requests may go on after the program was asked to end.
const GRACE: Duration = Duration::from_secs(30);
/// Bytes of a body that are read at once.
const READ_BUFFER: usize = 512 << 10;
/// A pause after an accept that failed for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// TLS 1.3 and nothing older, with this certificate.
///
/// # Errors
/// When the certificate and key do not go together.
pub fn tls(identity: Identity) -> Result<TlsAcceptor, rustls::Error> {
    let provider = Arc::new(default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![identity.certificate], identity.key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Serve `router` until `ending` turns true; then let requests end, for a while.
pub async fn serve(
    listener: TcpListener,
    tls: TlsAcceptor,
    router: Router,
    mut ending: watch::Receiver<bool>,
) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            break;
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = asked_to_end(&mut ending) => break,
        };
        match accepted {
            Ok((stream, _)) => {
                let (tls, router, ending) = (tls.clone(), router.clone(), ending.clone());
                tokio::spawn(connection(stream, tls, router, ending, slot));
            }
            Err(error) => {
                eprintln!("p2v: accepting a connection: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    // Once all slots are free, all connections have ended.
    let all = u32::try_from(CONNECTIONS).unwrap_or(u32::MAX);
    if tokio::time::timeout(GRACE, slots.acquire_many(all))
        .await
        .is_err()
    {
        eprintln!(
            "p2v: some requests did not end within {} s",
            GRACE.as_secs()
        );
    }
}

async fn connection(
    stream: TcpStream,
    tls: TlsAcceptor,
    router: Router,
    mut ending: watch::Receiver<bool>,
    _slot: OwnedSemaphorePermit,
) {
    // Answers are small and waited for.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!("setting TCP_NODELAY: {error}");
    }
    let stream = match tokio::time::timeout(HANDSHAKE_TIME, tls.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!("TLS handshake: {error}"),
        Err(_) => return tracing::debug!("TLS handshake: too slow"),
    };
    let service = TowerToHyperService::new(router);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(READ_BUFFER)
        .max_headers(64)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = asked_to_end(&mut ending) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!("a connection ended: {error}");
    }
}

/// Returns once `ending` is true, or nobody is left to say so.
async fn asked_to_end(ending: &mut watch::Receiver<bool>) {
    let _ = ending.wait_for(|ending| *ending).await;
}

/// Listen on `address`; where IPv6 is switched off, on all of IPv4 instead.
///
/// # Errors
/// When the address is taken, or not ours.
pub async fn listen(address: std::net::SocketAddr) -> io::Result<TcpListener> {
    match TcpListener::bind(address).await {
        Err(error) if address.is_ipv6() && address.ip().is_unspecified() && no_ipv6(&error) => {
            TcpListener::bind((std::net::Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        other => other,
    }
}

fn no_ipv6(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::Unsupported | io::ErrorKind::AddrNotAvailable
    ) || error.raw_os_error() == Some(97) // EAFNOSUPPORT
}
