//! A client for the tests: `client::Push` over blocking TLS, one connection.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use chunking::ChunkId;
use converter::serve::identity::fingerprint_of;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};
use stream_protocol::client::{Config, Lost, Millis, Patience, Push, PushError, Step};
use stream_protocol::message::{Finished, MachineName, OpenPush, PushDisk, PushKey, RunId};
use stream_protocol::route::{EPOCH_HEADER, Request, Response};
use stream_protocol::{ConnectString, Fingerprint, Inventory};

/// Accepts one certificate.
#[derive(Debug)]
struct Pinned(Fingerprint, Arc<CryptoProvider>);

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if fingerprint_of(certificate) == self.0 {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(rustls::Error::General("the fingerprint is another".into()))
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.1.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.1.signature_verification_algorithms.supported_schemes()
    }
}

pub struct Connection(StreamOwned<ClientConnection, TcpStream>);

/// A response as text and bytes.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Connection {
    pub fn open(to: &ConnectString) -> std::io::Result<Self> {
        let provider = Arc::new(ring::default_provider());
        let verifier = Arc::new(Pinned(to.fingerprint, Arc::clone(&provider)));
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        let name = ServerName::try_from("p2v").unwrap();
        let tls = ClientConnection::new(Arc::new(config), name).unwrap();
        let stream = TcpStream::connect((to.host.as_str(), to.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        stream.set_nodelay(true)?;
        let mut stream = StreamOwned::new(tls, stream);
        stream.flush()?;
        Ok(Self(stream))
    }

    /// Send a head and a body as they are.
    pub fn send(&mut self, head: &str, body: &[&[u8]]) -> std::io::Result<()> {
        self.0.write_all(head.as_bytes())?;
        for piece in body {
            self.0.write_all(piece)?;
        }
        self.0.flush()
    }

    pub fn receive(&mut self) -> std::io::Result<Answer> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.0.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let length = header(&head, "content-length").unwrap_or("0".into());
        let mut body = vec![0; length.parse().unwrap()];
        self.0.read_exact(&mut body)?;
        Ok(Answer { status, head, body })
    }

    pub fn post(
        &mut self,
        to: &ConnectString,
        path: &str,
        body: &[&[u8]],
    ) -> std::io::Result<Answer> {
        let length: usize = body.iter().map(|piece| piece.len()).sum();
        self.send(&head(to, path, length), body)?;
        self.receive()
    }

    /// Cut the connection without a word.
    pub fn cut(self) {
        let _ = self.0.sock.shutdown(std::net::Shutdown::Both);
    }
}

pub fn head(to: &ConnectString, path: &str, length: usize) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\nContent-Length: {length}\r\n\r\n",
        to.authority(),
        to.token
    )
}

fn header(head: &str, name: &str) -> Option<String> {
    let mut lines = head.lines().filter_map(|line| line.split_once(':'));
    let found = lines.find(|(found, _)| found.eq_ignore_ascii_case(name));
    found.map(|(_, value)| value.trim().to_owned())
}

/// A push over a connection that can be told to fail.
pub struct Agent {
    pub to: ConnectString,
    pub push: Push,
    disks: Vec<Vec<u8>>,
    disk: usize,
    offset: usize,
    connection: Option<Connection>,
    started: Instant,
    pub requests: usize,
}

pub fn config(name: &str, key: &str, run: &str, disks: &[Vec<u8>]) -> Config {
    let disk = |(index, data): (usize, &Vec<u8>)| PushDisk {
        name: format!("sd{index}"),
        size: data.len() as u64,
        sector_size: 512,
        expected_bytes: Some(data.len() as u64),
    };
    let open = OpenPush {
        machine: MachineName::new(name).unwrap(),
        push_key: PushKey::new(key).unwrap(),
        run: RunId::new(run).unwrap(),
        inventory: Inventory {
            version: 1,
            hostname: Some(format!("host-{key}")),
            ..Inventory::default()
        },
        disks: disks.iter().enumerate().map(disk).collect(),
    };
    Config {
        in_flight: 1,
        batch_bytes: 300_000,
        flush_bytes: 2 << 20,
        patience: Patience {
            first_delay: 20,
            longest_delay: 200,
            give_up_after: 20_000,
        },
        ..Config::new(open, "test agent")
    }
}

impl Agent {
    pub fn new(to: &ConnectString, config: Config, disks: &[Vec<u8>]) -> Self {
        Self {
            to: to.clone(),
            push: Push::new(config, Box::new(|| 4)),
            disks: disks.to_vec(),
            disk: 0,
            offset: 0,
            connection: None,
            started: Instant::now(),
            requests: 0,
        }
    }

    /// Run to the end.
    pub fn run(&mut self) -> Result<Finished, PushError> {
        loop {
            if let Some(ended) = self.step(&mut |_| false) {
                return ended;
            }
        }
    }

    /// Do one step. `cut` is asked before each request whether the connection breaks in its middle.
    pub fn step(
        &mut self,
        cut: &mut dyn FnMut(&Request) -> bool,
    ) -> Option<Result<Finished, PushError>> {
        self.feed();
        let now = Millis(self.started.elapsed().as_millis() as u64);
        match self.push.next(now) {
            Step::Pack { id, raw } => {
                let packed = chunking::compress(id, &raw, 1).unwrap();
                self.push.packed(packed.into());
            }
            Step::Send { ticket, request } => {
                self.requests += 1;
                let answer = if cut(&request) {
                    self.send_half(&request);
                    Err(Lost("cut on purpose".into()))
                } else {
                    self.send(&request).map_err(|error| {
                        self.connection = None;
                        Lost(error.to_string())
                    })
                };
                self.push.answered(now, ticket, answer);
            }
            Step::Wait { .. } => std::thread::sleep(Duration::from_millis(2)),
            Step::Done(finished) => return Some(Ok(finished)),
            Step::Failed(error) => return Some(Err(error)),
        }
        None
    }

    fn feed(&mut self) {
        while self.push.room()
            && let Some(data) = self.disks.get(self.disk)
        {
            let number = self.disk as u32;
            if self.offset == data.len() || !self.push.wants(number) {
                self.push.end_disk(number, Vec::new()).unwrap();
                (self.disk, self.offset) = (self.disk + 1, 0);
                continue;
            }
            let end = data.len().min(self.offset + 16_384);
            let raw = Bytes::copy_from_slice(&data[self.offset..end]);
            let id = ChunkId::of(&raw);
            self.push.feed(number, self.offset as u64, id, raw).unwrap();
            self.offset = end;
        }
    }

    fn send(&mut self, request: &Request) -> std::io::Result<Response> {
        if self.connection.is_none() {
            self.connection = Some(Connection::open(&self.to)?);
        }
        let connection = self.connection.as_mut().unwrap();
        let pieces: Vec<&[u8]> = request.body.iter().map(|piece| &piece[..]).collect();
        let answer = connection.post(&self.to, &request.route.path(), &pieces)?;
        Ok(Response {
            status: answer.status,
            epoch: header(&answer.head, EPOCH_HEADER).map_or(0, |text| text.parse().unwrap()),
            content_type: "",
            body: answer.body.into(),
        })
    }

    fn send_half(&mut self, request: &Request) {
        let body = request.body_bytes();
        let head = head(&self.to, &request.route.path(), body.len());
        if let Ok(mut connection) = Connection::open(&self.to) {
            let _ = connection.send(&head, &[&body[..body.len() / 2]]);
            connection.cut();
        }
    }
}
