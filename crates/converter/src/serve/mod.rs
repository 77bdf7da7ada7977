//! `p2v serve`: lets agents push machines into the store.
//!
//! ```text
//!  listener (TLS 1.3) ── http (token, limits) ── stream_protocol::server ── receiver ── chunk-store
//! ```

pub mod address;
pub mod http;
pub mod identity;
pub mod listener;
pub mod meter;
pub mod receiver;
pub mod record;

use std::io::Write;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use chunk_store::Store;
use stream_protocol::ConnectString;
use stream_protocol::connect::DEFAULT_PORT;
use stream_protocol::message::Limits;
use stream_protocol::server::Server;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::store_dir::StoreArgs;
use identity::{Identity, Tokens, random};

/// The converter as agents see it.
pub const PROGRAM: &str = concat!("p2v ", env!("CARGO_PKG_VERSION"));

/// Let agents push machines into the store.
///
/// Prints one connect string for each way this machine can be reached, to be given to `p2v-agent push`,
/// and receives until it is interrupted. Each start has a new token, so that an old connect string opens
/// nothing: an agent that is to go on after a restart needs --keep-token.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    store: StoreArgs,

    /// Address and port to listen on [default: all addresses, port 8443]
    #[arg(long, value_name = "ADDR[:PORT]", value_parser = parse_listen)]
    listen: Option<SocketAddr>,

    /// Host name or address to print in the connect string, where agents see this machine under another
    /// one than it does itself
    #[arg(long, value_name = "HOST")]
    advertise: Option<String>,

    /// Use the token of the last start again
    #[arg(long)]
    keep_token: bool,

    /// List the tokens that are valid, and do nothing else
    #[arg(long, conflicts_with_all = ["revoke", "keep_token", "listen", "advertise"])]
    tokens: bool,

    /// Take back a token, by its name from --tokens or as a connect string, or "all", and do nothing else;
    /// a running `p2v serve` refuses it from then on
    #[arg(long, value_name = "TOKEN", conflicts_with_all = ["keep_token", "listen", "advertise"])]
    revoke: Option<String>,
}

/// Run the verb.
///
/// # Errors
/// When the store, the address or the certificate cannot be used.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let directory = args.store.directory()?;
    let tokens = Tokens::of(&directory);
    if args.tokens {
        for token in tokens.list()? {
            println!("{}  made {}", token.name, crate::machines::utc(token.made));
        }
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(which) = &args.revoke {
        for token in tokens.revoke(which)? {
            println!("revoked {}", token.name);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(64)
        .build()
        .context("starting threads")?;
    runtime.block_on(serve(&args, &directory))?;
    Ok(ExitCode::SUCCESS)
}

async fn serve(args: &Args, directory: &Path) -> anyhow::Result<()> {
    if let Some(parent) = directory.parent() {
        let making = || format!("making directory {}", parent.display());
        std::fs::create_dir_all(parent).with_context(making)?;
    }
    let opening = || format!("opening the store {}", directory.display());
    let store = Store::open(directory).with_context(opening)?;
    for mended in store.mended() {
        eprintln!("p2v: the store was mended: {mended}");
    }
    let identity = Identity::load_or_make(directory)?;
    let tokens = Tokens::of(directory);
    let token = tokens.begin_serving(args.keep_token)?;
    let fingerprint = identity.fingerprint;

    let address = args
        .listen
        .unwrap_or((Ipv6Addr::UNSPECIFIED, DEFAULT_PORT).into());
    let listening = || format!("listening on {address}");
    let listener = listener::listen(address).await.with_context(listening)?;
    let bound = listener.local_addr().with_context(listening)?;
    let tls = listener::tls(identity).context("using the certificate")?;

    let meter = Arc::new(meter::Meter::default());
    let clock = identity::now_seconds;
    let receiver = receiver::StoreReceiver::new(store.clone(), Arc::clone(&meter), clock);
    let server = new_server()?;
    let service = http::Service::new(server, Box::new(receiver), tokens);

    let hosts = address::advertised(bound, args.advertise.as_deref());
    print_connect_strings(&hosts, bound.port(), &token, fingerprint)?;

    let (end, ending) = watch::channel(false);
    let shown = tokio::spawn(meter::show(meter, ending.clone()));
    tokio::spawn(await_signal(end));
    listener::serve(listener, tls, service.router(), ending).await;
    let _ = shown.await;
    // Pushes that are open stay resumable; what has arrived of them is made durable.
    tokio::task::spawn_blocking(move || store.write_index())
        .await
        .context("ending")?
        .context("flushing the store")
}

/// A server with a new epoch.
///
/// # Errors
/// When the operating system gives no random bytes.
pub fn new_server() -> anyhow::Result<Server> {
    let epoch = u64::from_le_bytes(random()?);
    // Names of pushes: a random beginning, then counted on. They need not be secret, the token is.
    let mut next = u64::from_le_bytes(random()?);
    let new_id = move || {
        next = next.wrapping_add(1);
        next
    };
    Ok(Server::new(
        epoch,
        PROGRAM,
        Limits::default(),
        Box::new(new_id),
    ))
}

fn print_connect_strings(
    hosts: &[String],
    port: u16,
    token: &stream_protocol::Token,
    fingerprint: stream_protocol::Fingerprint,
) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    for host in hosts {
        let connect = ConnectString {
            host: host.clone(),
            port,
            token: token.clone(),
            fingerprint,
        };
        // An advertised host that no agent could use is an error here and not there.
        let checked = connect.to_string().parse::<ConnectString>();
        checked.with_context(|| format!("advertising {host:?}"))?;
        writeln!(out, "{connect}").context("printing the connect string")?;
    }
    out.flush().context("printing the connect string")
}

async fn await_signal(end: watch::Sender<bool>) {
    let (Ok(mut interrupt), Ok(mut terminate)) = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    ) else {
        eprintln!("p2v: signals cannot be waited for: requests will be cut at the end");
        return;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    let _ = end.send(true);
}

/// `ADDR`, `ADDR:PORT`, `[ADDR6]:PORT` or `:PORT`.
fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(address);
    }
    if let Ok(ip) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Ok((ip, DEFAULT_PORT).into());
    }
    if let Some(Ok(port)) = text.strip_prefix(':').map(str::parse::<u16>) {
        return Ok((Ipv6Addr::UNSPECIFIED, port).into());
    }
    Err(format!(
        "{text:?} is not an address to listen on; write 192.0.2.7, 192.0.2.7:8443, [2001:db8::7]:8443 or :8443"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_to_listen_on() {
        let parse = |text| parse_listen(text).map(|address| address.to_string());
        assert_eq!(parse("127.0.0.1").unwrap(), "127.0.0.1:8443");
        assert_eq!(parse("127.0.0.1:0").unwrap(), "127.0.0.1:0");
        assert_eq!(parse("[::1]:9").unwrap(), "[::1]:9");
        assert_eq!(parse("::1").unwrap(), "[::1]:8443");
        assert_eq!(parse(":9000").unwrap(), "[::]:9000");
        assert!(parse("localhost").is_err());
        assert!(parse(":x").is_err());
    }
}
