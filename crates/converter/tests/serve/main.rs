//! `p2v serve`, the program, on 127.0.0.1 with real TLS: who is let in, what is refused, what survives.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod client;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use block_io::BlockRead;
use chunk_store::Store;
use chunking::ChunkId;
use client::{Agent, Connection, config, head};
use stream_protocol::client::PushError;
use stream_protocol::message::{ErrorBody, Opened};
use stream_protocol::{ConnectString, ErrorCode, Fingerprint, Route, Token};

/// A running `p2v serve`; killed at the end.
struct Serve {
    child: Child,
    to: ConnectString,
}

impl Serve {
    fn start(store: &Path) -> Self {
        Self::start_at(store, &["--listen", "127.0.0.1:0"])
    }

    fn start_at(store: &Path, more: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_p2v"))
            .args(["serve", "--store"])
            .arg(store)
            .args(more)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let out = child.stdout.take().unwrap();
        BufReader::new(out).read_line(&mut line).unwrap();
        let to = line
            .parse()
            .unwrap_or_else(|error| panic!("{line:?}: {error}"));
        Self { child, to }
    }

    /// Kill it as a power cut would, and start it anew on the same port.
    fn kill_and_restart(mut self, store: &Path) -> Self {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let port = self.to.port;
        std::mem::forget(self);
        Self::start_at(
            store,
            &["--keep-token", "--listen", &format!("127.0.0.1:{port}")],
        )
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Bytes that neither repeat nor compress, but for zeroes in between.
fn disk(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2) | 1;
    let mut data: Vec<u8> = (0..len)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(7);
            (state >> 56) as u8
        })
        .collect();
    data.chunks_mut(100_000)
        .step_by(3)
        .for_each(|piece| piece.fill(0));
    data
}

fn check_stored(store: &Path, machine: &str, disks: &[Vec<u8>]) {
    let store = Store::open(store).unwrap();
    let listing = store.snapshots().unwrap();
    assert!(listing.damaged.is_empty());
    let mut found = listing.snapshots.iter().filter(|s| s.machine == machine);
    let snapshot = found.next_back().expect("a snapshot");
    assert!(snapshot.verified);
    for (number, data) in disks.iter().enumerate() {
        let disk = store.open_disk(snapshot, number).unwrap();
        let mut read = vec![0; data.len()];
        disk.read_at(0, &mut read).unwrap();
        assert!(read == *data, "disk {number} differs");
    }
}

fn error_of(body: &[u8]) -> ErrorBody {
    serde_json::from_slice(body).unwrap()
}

#[test]
fn two_disks_arrive_and_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let serve = Serve::start(&store);
    let disks = [disk(1, 5_000_192), disk(2, 512)];
    let name = "../web 01 (büro)";
    let finished = Agent::new(&serve.to, config(name, "k", "r", &disks), &disks)
        .run()
        .unwrap();
    assert_eq!(finished.machine.as_str(), name);
    // The same key again: another push, of which nothing needs to be sent.
    let mut again = Agent::new(&serve.to, config(name, "k", "r2", &disks), &disks);
    again.run().unwrap();
    assert_eq!(again.push.progress().sent_chunks, 0);
    drop(serve);
    check_stored(&store, name, &disks);
    assert_eq!(
        Store::open(&store)
            .unwrap()
            .snapshots()
            .unwrap()
            .snapshots
            .len(),
        2
    );
}

#[test]
fn nobody_is_let_in_without_the_token() {
    let dir = tempfile::tempdir().unwrap();
    let serve = Serve::start(&dir.path().join("store"));
    let disks = [disk(3, 4096)];
    let mut wrong = serve.to.clone();
    wrong.token = Token::from_bytes([7; 32]);
    let error = Agent::new(&wrong, config("m", "k", "r", &disks), &disks)
        .run()
        .unwrap_err();
    let PushError::Refused(body) = error else {
        panic!("{error}");
    };
    assert_eq!(body.code, ErrorCode::Unauthorised);
    assert!(body.advice.contains("p2v serve"), "{body}");

    for head in [
        "POST /p2v/hello HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\n\r\n",
        "POST /p2v/hello HTTP/1.1\r\nHost: h\r\nAuthorization: Basic eDp5\r\nContent-Length: 0\r\n\r\n",
        "POST /p2v/hello HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer\r\nContent-Length: 0\r\n\r\n",
    ] {
        let mut connection = Connection::open(&serve.to).unwrap();
        connection.send(head, &[]).unwrap();
        let answer = connection.receive().unwrap();
        assert_eq!(answer.status, 401, "{head}");
        assert_eq!(error_of(&answer.body).code, ErrorCode::Unauthorised);
    }
}

#[test]
fn a_client_notices_another_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let serve = Serve::start(&dir.path().join("store"));
    let mut wrong = serve.to.clone();
    wrong.fingerprint = Fingerprint::from_bytes([9; 32]);
    let mut connection = Connection::open(&wrong);
    let error = match &mut connection {
        Ok(connection) => connection
            .post(&wrong, "/p2v/hello", &[])
            .map(|_| ())
            .unwrap_err(),
        Err(error) => std::io::Error::other(error.to_string()),
    };
    assert!(
        error.to_string().contains("the fingerprint is another"),
        "{error}"
    );
}

#[test]
fn a_revoked_token_is_refused_by_the_running_server() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let serve = Serve::start(&store);
    let disks = [disk(4, 3_000_000)];
    let mut agent = Agent::new(&serve.to, config("m", "k", "r", &disks), &disks);
    while agent.push.progress().sent_chunks == 0 {
        assert!(agent.step(&mut |_| false).is_none());
    }
    let revoke = Command::new(env!("CARGO_BIN_EXE_p2v"))
        .args(["serve", "--revoke", &serve.to.to_string(), "--store"])
        .arg(&store)
        .output()
        .unwrap();
    let said = String::from_utf8(revoke.stdout).unwrap();
    assert_eq!(said, format!("revoked {}\n", serve.to.token.short_name()));
    let error = agent.run().unwrap_err();
    assert!(matches!(error, PushError::Refused(body) if body.code == ErrorCode::Unauthorised));
}

#[test]
fn oversized_and_garbage_bodies_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let serve = Serve::start(&dir.path().join("store"));
    let disks = [disk(5, 1 << 20)];
    let open = serde_json::to_vec(&config("m", "k", "r", &disks).open).unwrap();
    let post = |path: &str, body: &[u8]| {
        let mut connection = Connection::open(&serve.to).unwrap();
        let answer = connection.post(&serve.to, path, &[body]).unwrap();
        (answer.status, answer.body)
    };
    let (status, opened) = post(&Route::Open.path(), &open);
    assert_eq!(status, 200);
    let push = serde_json::from_slice::<Opened>(&opened).unwrap().push;
    let query = Route::Query { push }.path();
    let chunks = Route::Chunks { push }.path();
    let recipe = Route::Recipe { push, disk: 0 }.path();

    let refused = |path: &str, body: &[u8], code: ErrorCode| {
        let (status, body) = post(path, body);
        let error = error_of(&body);
        assert_eq!(
            (status, error.code),
            (code.status(), code),
            "{path}: {error}"
        );
    };
    refused(&query, b"garbage", ErrorCode::BadFrame);
    refused(&chunks, &[0xFF; 100], ErrorCode::BadFrame);
    refused(
        &recipe,
        b"P2VR\x01\0\0\0\xFF\xFF\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        ErrorCode::BadFrame,
    );
    refused(
        &recipe,
        b"P2VR\x01\0\0\0\xFF\xFF\xFF\xFF\0\0\0\0\0\0\0\0\0\0\0\0",
        ErrorCode::TooLarge,
    );
    refused(
        &Route::Recipe { push, disk: 9 }.path(),
        b"",
        ErrorCode::DiskMismatch,
    );
    refused(
        &Route::Query { push: push ^ 1 }.path(),
        b"",
        ErrorCode::PushUnknown,
    );
    refused("/p2v/hello", b"{", ErrorCode::BadMessage);
    refused("/p2v/2/pushes", b"{}", ErrorCode::VersionUnmatched);
    refused("/favicon.ico", b"", ErrorCode::NoSuchRoute);
    refused(
        "/p2v/hello",
        br#"{"oldest":7,"newest":9}"#,
        ErrorCode::VersionUnmatched,
    );

    // A length beyond the limit is refused before a byte of the body is sent.
    let mut connection = Connection::open(&serve.to).unwrap();
    connection
        .send(&head(&serve.to, &chunks, 1 << 40), &[])
        .unwrap();
    let answer = connection.receive().unwrap();
    assert_eq!(answer.status, 413);
    assert_eq!(error_of(&answer.body).code, ErrorCode::TooLarge);
    // So is a body without a length once it is too long.
    let mut connection = Connection::open(&serve.to).unwrap();
    let head = format!(
        "POST /p2v/hello HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {}\r\nTransfer-Encoding: chunked\r\n\r\n",
        serve.to.token
    );
    connection
        .send(&head, &[b"11000\r\n", &[b' '; 0x11000], b"\r\n"])
        .unwrap();
    assert_eq!(connection.receive().unwrap().status, 413);
}

#[test]
fn connections_cut_in_the_middle_of_a_batch() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let serve = Serve::start(&store);
    let disks = [disk(6, 6_000_128)];
    let mut agent = Agent::new(&serve.to, config("m", "k", "r", &disks), &disks);
    let mut requests = 0;
    let mut cuts = 0;
    let finished = loop {
        let ended = agent.step(&mut |_| {
            requests += 1;
            cuts += usize::from(requests % 3 == 0);
            requests % 3 == 0
        });
        if let Some(ended) = ended {
            break ended;
        }
    };
    finished.unwrap();
    assert!(cuts > 5, "{cuts}");
    drop(serve);
    check_stored(&store, "m", &disks);
}

#[test]
fn a_server_killed_and_started_again_in_the_middle_of_a_push() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let mut serve = Serve::start(&store);
    let disks = [disk(7, 8_000_000), disk(8, 3_000_320)];
    let mut agent = Agent::new(&serve.to, config("m", "k", "r", &disks), &disks);
    let mut kills = 0;
    let finished = loop {
        if let Some(ended) = agent.step(&mut |_| false) {
            break ended;
        }
        if kills < 4 && agent.push.progress().sent_chunks > 100 * (kills + 1) {
            kills += 1;
            serve = serve.kill_and_restart(&store);
        }
    };
    finished.unwrap();
    assert_eq!(kills, 4);
    assert!(agent.push.progress().reopened >= 4);
    drop(serve);
    check_stored(&store, "m", &disks);
}

#[test]
fn a_killed_agent_run_again_sends_only_what_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let serve = Serve::start(&store);
    let mut disks = [disk(9, 9_000_448)];
    let mut first = Agent::new(&serve.to, config("m", "k", "r1", &disks), &disks);
    while first.push.progress().durable_bytes < 4_000_000 {
        assert!(first.step(&mut |_| false).is_none());
    }
    let sent = first.push.progress();
    drop(first);
    // The machine went on living.
    let before = disks[0].clone();
    disks[0][1_500_000] ^= 1;
    let mut second = Agent::new(&serve.to, config("m", "k", "r2", &disks), &disks);
    second.run().unwrap();
    let again = second.push.progress();
    // Both runs together sent each chunk once.
    let mut distinct: BTreeSet<ChunkId> = disks[0].chunks(16_384).map(ChunkId::of).collect();
    distinct.extend(before.chunks(16_384).map(ChunkId::of));
    assert!(
        sent.sent_chunks + again.sent_chunks <= distinct.len() as u64,
        "{again:?} {sent:?}"
    );
    drop(serve);
    check_stored(&store, "m", &disks);
}

#[test]
fn two_agents_push_one_machine() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let serve = Serve::start(&store);
    let disks = [disk(10, 3_000_000)];
    let mut first = Agent::new(&serve.to, config("m", "first", "r1", &disks), &disks);
    while first.push.progress().sent_chunks == 0 {
        assert!(first.step(&mut |_| false).is_none());
    }
    let mut second = Agent::new(&serve.to, config("m", "second", "r2", &disks), &disks);
    let error = second.run().unwrap_err();
    let PushError::Refused(body) = error else {
        panic!("{error}");
    };
    assert_eq!(body.code, ErrorCode::MachineBusy);
    assert!(
        body.message.contains("host-first") && body.message.contains("since"),
        "{body}"
    );
    // Another machine is not in the way, and the first goes on.
    let mut other = Agent::new(&serve.to, config("m2", "third", "r3", &disks), &disks);
    other.run().unwrap();
    first.run().unwrap();
    drop(serve);
    check_stored(&store, "m", &disks);
    check_stored(&store, "m2", &disks);
}

#[test]
fn an_interrupted_server_ends_well_and_the_store_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let mut serve = Serve::start(&store);
    let disks = [disk(11, 2_000_384)];
    Agent::new(&serve.to, config("m", "k", "r", &disks), &disks)
        .run()
        .unwrap();
    let pid = serve.child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-TERM", &pid])
            .status()
            .unwrap()
            .success()
    );
    assert!(serve.child.wait().unwrap().success());
    check_stored(&store, "m", &disks);
}

/// What `p2v` with these arguments prints, and its exit code.
fn p2v(store: &Path, args: &[&str]) -> (String, Option<i32>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_p2v"));
    let output = command
        .args(args)
        .arg("--store")
        .arg(store)
        .output()
        .unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.is_empty() || !errors.is_empty());
    (text + &errors, output.status.code())
}

#[test]
fn the_list_of_machines_beside_a_running_server() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let (text, code) = p2v(&store, &["machines"]);
    assert!(
        code == Some(0) && text.contains("Nothing has arrived"),
        "{text}"
    );
    assert!(!store.exists());

    let serve = Serve::start(&store);
    let disks = [disk(12, 2_000_384)];
    let to = &serve.to;
    Agent::new(to, config("web 01", "k", "r", &disks), &disks)
        .run()
        .unwrap();
    let mut other = Agent::new(to, config("db", "k2", "r", &disks), &disks);
    while other.push.progress().durable_bytes == 0 {
        assert!(other.step(&mut |_| false).is_none());
    }
    let (text, code) = p2v(&store, &["machines", "--json"]);
    assert_eq!(code, Some(0), "{text}");
    let lines: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(lines[0]["machine"], "web 01");
    assert_eq!(lines[0]["state"], "verified");
    assert_eq!(lines[0]["size"], 2_000_384);
    assert_eq!(lines[1]["machine"], "db");
    assert_eq!(lines[1]["state"], "arriving");
    let percent = lines[1]["percent"].as_u64().unwrap();
    assert!((1..=100).contains(&percent), "{percent}");
    let (table, _) = p2v(&store, &["machines"]);
    assert!(
        table.contains("web 01") && table.contains("verified"),
        "{table}"
    );

    let (text, code) = p2v(&store, &["store", "verify"]);
    assert!(
        code == Some(0) && text.contains("all are what was sent"),
        "{text}"
    );
    let (text, _) = p2v(&store, &["store", "stats", "--json"]);
    let stats: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(stats["snapshots"], 1);
    // What would write is refused while the server has the store, in words.
    let (text, code) = p2v(&store, &["store", "rebuild-index"]);
    assert!(
        code == Some(1) && text.contains("p2v: opening the store"),
        "{text}"
    );
    drop(serve);

    let (text, code) = p2v(&store, &["store", "gc", "--drop-unfinished", "--json"]);
    assert_eq!(code, Some(0), "{text}");
    let (_, code) = p2v(&store, &["store", "rebuild-index"]);
    assert_eq!(code, Some(0));
    let (text, _) = p2v(&store, &["machines"]);
    assert!(!text.contains("arriving"), "{text}");
    check_stored(&store, "web 01", &disks);

    // A flipped byte is found, and the exit code says so.
    let mut packs = std::fs::read_dir(store.join("packs")).unwrap();
    let pack = packs.next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&pack).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&pack, bytes).unwrap();
    let (text, code) = p2v(&store, &["store", "verify"]);
    assert_eq!(code, Some(2), "{text}");
}

/// Run a foreign program, or count a skip.
fn foreign(test: &str, program: &str, args: &[&str]) -> Option<std::process::Output> {
    if !test_oracles::has_tools(test, &[program]) {
        return None;
    }
    let mut command = Command::new(program);
    Some(command.args(args).stdin(Stdio::null()).output().unwrap())
}

#[test]
fn curl_as_a_foreign_client() {
    let dir = tempfile::tempdir().unwrap();
    let serve = Serve::start(&dir.path().join("store"));
    let url = format!("https://{}/p2v/hello", serve.to.authority());
    let token = format!("Authorization: Bearer {}", serve.to.token);
    let common = [
        "-sk",
        "--http1.1",
        "-w",
        " %{http_code}",
        "-d",
        r#"{"oldest":1,"newest":1}"#,
    ];
    let with = |more: &[&str]| {
        let args: Vec<&str> = common.iter().chain(more).copied().collect();
        let output = foreign("curl_as_a_foreign_client", "curl", &args)?;
        Some(String::from_utf8(output.stdout).unwrap())
    };
    let Some(welcome) = with(&["-H", &token, &url]) else {
        return;
    };
    assert!(
        welcome.contains(r#""version":1"#) && welcome.ends_with(" 200"),
        "{welcome}"
    );
    let refused = with(&[&url]).unwrap();
    assert!(
        refused.contains(r#""code":"unauthorised""#) && refused.ends_with(" 401"),
        "{refused}"
    );
}

#[test]
fn openssl_with_tls_1_2_and_1_3() {
    let dir = tempfile::tempdir().unwrap();
    let serve = Serve::start(&dir.path().join("store"));
    let to = serve.to.authority();
    let connect = |version| {
        foreign(
            "openssl_with_tls_1_2_and_1_3",
            "openssl",
            &["s_client", version, "-connect", &to],
        )
    };
    let Some(old) = connect("-tls1_2") else {
        return;
    };
    assert!(!old.status.success());
    assert!(String::from_utf8_lossy(&old.stderr).contains("alert protocol version"));
    let new = connect("-tls1_3").unwrap();
    assert!(new.status.success());
    // The fingerprint that openssl computes is the one in the connect string.
    let text = String::from_utf8_lossy(&new.stdout).into_owned();
    let begin = text.find("-----BEGIN CERTIFICATE-----").unwrap();
    let end = text.find("-----END CERTIFICATE-----").unwrap();
    let pem = dir.path().join("certificate.pem");
    std::fs::write(
        &pem,
        format!("{}-----END CERTIFICATE-----\n", &text[begin..end]),
    )
    .unwrap();
    let pem = pem.to_str().unwrap();
    let args = ["x509", "-in", pem, "-noout", "-fingerprint", "-sha256"];
    let print = foreign("openssl_with_tls_1_2_and_1_3", "openssl", &args).unwrap();
    let print = String::from_utf8(print.stdout).unwrap();
    let hex = print.trim().split('=').nth(1).unwrap().replace(':', "");
    assert_eq!(hex.parse::<Fingerprint>().unwrap(), serve.to.fingerprint);
}
