//! HTTPS to one converter: requests in, answers out, over several connections.
//!
//! One thread runs all connections. The caller hands it requests with a ticket and gets each answer,
//! or the reason why none came, by a call back on that thread. Nothing is retried here but a request
//! that found its kept-alive connection closed: when to try again is the protocol's business.

mod connection;
mod meter;
mod pin;

use std::sync::Arc;
use std::thread::JoinHandle;

use stream_protocol::client::Ticket;
use stream_protocol::{ConnectString, Fingerprint, Request, Response};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

pub use meter::Traffic;

use connection::Connections;
use meter::Pace;

/// How requests travel.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Bytes a second, all connections together; `None` is as fast as it goes.
    pub bytes_per_second: Option<u64>,
}

/// Why no answer came.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoAnswer {
    /// Not connected, cut, stalled, or no HTTP: it may work later.
    #[error("{0}")]
    Lost(String),
    /// The other side is not the converter of the connect string: trying again is of no use.
    #[error(
        "{host} shows another certificate than the connect string names (SHA-256 {shown}, expected {expected})"
    )]
    OtherConverter {
        /// Whom we called.
        host: String,
        /// What it showed.
        shown: Fingerprint,
        /// What the connect string says.
        expected: Fingerprint,
    },
}

/// What the caller hears of.
#[derive(Debug)]
pub enum Heard {
    /// An answer to a request, or the reason why there is none.
    Answer(Ticket, Result<Response, NoAnswer>),
    /// The user wants the program to end (Ctrl-C, SIGTERM, SIGHUP).
    Interrupted,
}

/// The thread with the connections. Ends when it is dropped, and with it what is under way.
#[derive(Debug)]
pub struct Wire {
    requests: Option<UnboundedSender<(Ticket, Request)>>,
    thread: Option<JoinHandle<()>>,
    traffic: Arc<Traffic>,
}

impl Wire {
    /// Start the thread. It connects when the first request comes.
    ///
    /// # Errors
    /// Where the operating system gives no thread, or TLS no configuration.
    pub fn start(
        converter: ConnectString,
        options: Options,
        hear: impl Fn(Heard) + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        let traffic = Arc::new(Traffic::default());
        let pace = options
            .bytes_per_second
            .map(|rate| Arc::new(Pace::new(rate)));
        let connections = Connections::new(converter, Arc::clone(&traffic), pace)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (requests, incoming) = unbounded_channel();
        let thread = std::thread::Builder::new()
            .name("wire".to_owned())
            .spawn(move || runtime.block_on(serve(connections, incoming, Arc::new(hear))))?;
        Ok(Self {
            requests: Some(requests),
            thread: Some(thread),
            traffic,
        })
    }

    /// Send a request. Its answer is heard under `ticket`.
    pub fn send(&self, ticket: Ticket, request: Request) {
        if let Some(requests) = &self.requests {
            // The thread ends only after the sender is dropped.
            let _ = requests.send((ticket, request));
        }
    }

    /// Bytes on the wire so far.
    #[must_use]
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.requests = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

type Hear = Arc<dyn Fn(Heard) + Send + Sync>;

async fn serve(
    connections: Connections,
    mut incoming: UnboundedReceiver<(Ticket, Request)>,
    hear: Hear,
) {
    let connections = Arc::new(connections);
    let signals = tokio::spawn(hear_signals(Arc::clone(&hear)));
    while let Some((ticket, request)) = incoming.recv().await {
        let (connections, hear) = (Arc::clone(&connections), Arc::clone(&hear));
        tokio::spawn(async move {
            let answer = connections.ask(request).await;
            hear(Heard::Answer(ticket, answer));
        });
    }
    signals.abort();
}

async fn hear_signals(hear: Hear) {
    use tokio::signal::unix::{SignalKind, signal};
    let kinds = [
        SignalKind::interrupt(),
        SignalKind::terminate(),
        SignalKind::hangup(),
    ];
    let [Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup)] = kinds.map(signal) else {
        return;
    };
    loop {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
        hear(Heard::Interrupted);
    }
}
