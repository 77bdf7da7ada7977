//! `p2v-agent push` to `p2v serve`, as programs: what arrives is read out of the store and compared.
//!
//! Needs both programs built (`cargo build -p p2v-agent -p converter`); `P2V_BIN` names another
//! directory to take them from.
#![allow(missing_docs)]

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use block_io::BlockRead;
use chunk_store::Store;
use serde_json::Value;
use test_oracles::{has_tools, skip};

fn program(test: &str, name: &str) -> Option<PathBuf> {
    let beside = std::env::current_exe().unwrap();
    let built = beside.parent().and_then(Path::parent).unwrap().to_owned();
    let folder = std::env::var_os("P2V_BIN").map_or(built, PathBuf::from);
    let path = folder.join(name);
    // A `p2v` that is older than `serve` does not count.
    let helps = || {
        let mut command = Command::new(&path);
        if name == "p2v" {
            command.arg("serve");
        }
        let output = command.arg("--help").output();
        output.is_ok_and(|output| output.status.success())
    };
    if helps() {
        return Some(path);
    }
    skip(test, &format!("the program {}", path.display()));
    None
}

/// A store and the `p2v serve` on it.
struct Converter {
    program: PathBuf,
    agent: PathBuf,
    folder: tempfile::TempDir,
    serving: Option<Child>,
    listen: String,
    connect: String,
    /// A command before `p2v`, which runs it.
    around: Vec<String>,
}

impl Converter {
    fn start(test: &str) -> Option<Self> {
        let mut converter = Self::prepare(test)?;
        converter.serve();
        Some(converter)
    }

    /// With a store on a file system of `megabytes` that no other process sees.
    fn start_on_a_small_disk(test: &str, megabytes: u32) -> Option<Self> {
        if !has_tools(test, &["unshare", "nsenter", "mount"]) {
            return None;
        }
        let mut converter = Self::prepare(test)?;
        std::fs::create_dir(converter.store()).unwrap();
        let store = converter.store();
        let script = format!(
            "mount -t tmpfs -o size={megabytes}M tmpfs {} && exec \"$@\"",
            store.display()
        );
        let around = ["unshare", "--mount", "--map-root-user", "sh", "-c", &script];
        converter.around = around.map(str::to_owned).to_vec();
        converter.around.push("sh".to_owned());
        converter.serve();
        Some(converter)
    }

    fn prepare(test: &str) -> Option<Self> {
        let (program, agent) = (program(test, "p2v")?, program(test, "p2v-agent")?);
        Some(Self {
            program,
            agent,
            folder: tempfile::tempdir_in("/var/tmp").unwrap(),
            serving: None,
            listen: "127.0.0.1:0".to_owned(),
            connect: String::new(),
            around: Vec::new(),
        })
    }

    fn store(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    fn serve(&mut self) {
        let program = self.program.to_string_lossy().into_owned();
        let mut words = self.around.iter().chain([&program]);
        let mut child = Command::new(words.next().unwrap())
            .args(words)
            .args(["serve", "--keep-token", "--listen", &self.listen, "--store"])
            .arg(self.store())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let connect = lines.find(|line| line.as_ref().is_ok_and(|line| line.contains("p2v://")));
        self.connect = connect.unwrap().unwrap().trim().to_owned();
        let address = self.connect.strip_prefix("p2v://").unwrap();
        self.listen = address.split('/').next().unwrap().to_owned();
        self.serving = Some(child);
        // Whatever else it prints is not waited for.
        std::thread::spawn(move || lines.for_each(drop));
    }

    /// `kill -9`.
    fn kill(&mut self) {
        if let Some(mut child) = self.serving.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    fn agent(&self, name: &str, disks: &[&Path]) -> Command {
        let mut command = Command::new(&self.agent);
        command.args(["push", &self.connect, "--name", name, "--progress", "json"]);
        for disk in disks {
            command.arg("--disk").arg(disk);
        }
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Run a program where `p2v serve` runs, on the file systems that it sees.
    fn inside(&self, program: &str, args: &[&str]) {
        let target = self.serving.as_ref().unwrap().id().to_string();
        let entered = Command::new("nsenter")
            .args([
                "--target",
                &target,
                "--user",
                "--mount",
                "--preserve-credentials",
            ])
            .arg(program)
            .args(args)
            .output()
            .unwrap();
        assert!(entered.status.success(), "{entered:?}");
    }

    /// The disks of the newest snapshot of a machine, out of the store once nobody serves it.
    fn read_back(&mut self, name: &str) -> Vec<Vec<u8>> {
        self.kill();
        Self::read_disks(&Store::open(self.store()).unwrap(), name)
    }

    fn read_disks(store: &Store, name: &str) -> Vec<Vec<u8>> {
        let listing = store.snapshots().unwrap();
        let found = listing
            .snapshots
            .iter()
            .rev()
            .find(|found| found.machine == name);
        let snapshot = found.unwrap_or_else(|| panic!("no snapshot of {name}"));
        (0..snapshot.disks.len())
            .map(|disk| {
                let disk = store.open_disk(snapshot, disk).unwrap();
                let mut bytes = vec![0; disk.size() as usize];
                disk.read_at(0, &mut bytes).unwrap();
                bytes
            })
            .collect()
    }
}

impl Drop for Converter {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The last JSON line of a push that must have succeeded.
fn sums(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{error}");
    let last = text.lines().last().unwrap();
    let sums: Value = serde_json::from_str(last).unwrap();
    assert_eq!(sums["event"], "done", "{last}");
    sums
}

fn random(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}

/// A disk whose content compresses to about a half, with a hole in the middle.
fn disk_file(folder: &Path, name: &str, len: usize, seed: u64) -> (PathBuf, Vec<u8>) {
    let mut bytes = random(len, seed);
    bytes.iter_mut().for_each(|byte| *byte &= 0x0F);
    let hole = len / 2..len / 2 + len / 8;
    bytes[hole].fill(0);
    let path = folder.join(name);
    std::fs::write(&path, &bytes).unwrap();
    (path, bytes)
}

#[test]
fn a_disk_arrives_bit_for_bit_with_fewer_bytes_than_are_used() {
    let test = "a_disk_arrives_bit_for_bit_with_fewer_bytes_than_are_used";
    let Some(mut converter) = Converter::start(test) else {
        return;
    };
    let (path, bytes) = disk_file(converter.folder.path(), "disk.raw", 50_000_000, 1);
    let name = "web 01 ../x";
    let sums = sums(&converter.agent(name, &[&path]).output().unwrap());
    assert_eq!(sums["machine"], name);
    assert!(sums["sent"].as_u64() < sums["used"].as_u64(), "{sums}");
    assert!(converter.read_back(name) == [bytes]);
}

#[test]
fn a_killed_agent_run_again_sends_only_what_is_missing() {
    let test = "a_killed_agent_run_again_sends_only_what_is_missing";
    let Some(mut converter) = Converter::start(test) else {
        return;
    };
    // While the converter's disk is slow to flush, the agent runs up to about 150 MB ahead of what is kept.
    let (path, bytes) = disk_file(converter.folder.path(), "disk.raw", 400_000_000, 2);
    let mut first = converter.agent("m", &[&path]);
    let mut first = first.args(["--bandwidth", "20M"]).spawn().unwrap();
    let mut kept = 0;
    let lines = BufReader::new(first.stdout.take().unwrap()).lines();
    for line in lines {
        let line: Value = serde_json::from_str(&line.unwrap()).unwrap();
        assert_ne!(line["event"], "done", "it was too fast to be killed");
        kept = line["kept"].as_u64().unwrap_or(0);
        if kept > 60_000_000 {
            break;
        }
    }
    first.kill().unwrap();
    first.wait().unwrap();
    assert!(kept > 60_000_000, "{kept}");
    let sums = sums(&converter.agent("m", &[&path]).output().unwrap());
    let new = sums["new"].as_u64().unwrap();
    let (read, zero) = (
        sums["read"].as_u64().unwrap(),
        sums["zero"].as_u64().unwrap(),
    );
    assert!(
        new + kept <= read - zero,
        "{new} sent again, {kept} were kept: {sums}"
    );
    assert!(
        new > 0,
        "everything had been sent when it was killed: {sums}"
    );
    assert!(converter.read_back("m") == [bytes]);
}

#[test]
fn a_converter_killed_in_the_middle_and_started_again_gets_the_rest() {
    let test = "a_converter_killed_in_the_middle_and_started_again_gets_the_rest";
    let Some(mut converter) = Converter::start(test) else {
        return;
    };
    let (path, bytes) = disk_file(converter.folder.path(), "disk.raw", 150_000_000, 3);
    let mut pushing = converter.agent("m", &[&path]);
    let mut pushing = pushing.args(["--bandwidth", "20M"]).spawn().unwrap();
    let mut lines = BufReader::new(pushing.stdout.take().unwrap()).lines();
    let mut killed = false;
    let mut last = Value::Null;
    for line in &mut lines {
        last = serde_json::from_str(&line.unwrap()).unwrap();
        if !killed && last["sent"].as_u64().is_some_and(|sent| sent > 20_000_000) {
            killed = true;
            converter.kill();
            std::thread::sleep(Duration::from_secs(1));
            converter.serve();
        }
    }
    assert!(killed, "it was too fast to be killed");
    assert!(pushing.wait().unwrap().success(), "{last}");
    assert_eq!(last["event"], "done", "{last}");
    assert!(converter.read_back("m") == [bytes]);
}

#[test]
fn of_two_agents_that_push_one_machine_one_is_told_and_the_disk_is_whole() {
    let test = "of_two_agents_that_push_one_machine_one_is_told_and_the_disk_is_whole";
    let Some(mut converter) = Converter::start(test) else {
        return;
    };
    let (path, bytes) = disk_file(converter.folder.path(), "disk.raw", 60_000_000, 4);
    let start = || {
        let mut agent = converter.agent("m", &[&path]);
        agent.args(["--bandwidth", "10M"]).spawn().unwrap()
    };
    let first = start();
    std::thread::sleep(Duration::from_millis(500));
    let second = start();
    let outputs = [first, second].map(|agent| agent.wait_with_output().unwrap());
    let failed: Vec<_> = outputs
        .iter()
        .filter(|output| !output.status.success())
        .collect();
    assert_eq!(failed.len(), 1, "{outputs:?}");
    assert_eq!(failed[0].status.code(), Some(5), "{failed:?}");
    let told = String::from_utf8_lossy(&failed[0].stderr);
    assert!(told.contains("refused"), "{told}");
    assert!(converter.read_back("m") == [bytes]);
}

#[test]
fn a_full_store_holds_a_push_up_until_there_is_room() {
    let test = "a_full_store_holds_a_push_up_until_there_is_room";
    let Some(converter) = Converter::start_on_a_small_disk(test, 24) else {
        return;
    };
    let (path, bytes) = disk_file(converter.folder.path(), "disk.raw", 80_000_000, 7);
    let mut agent = converter.agent("m", &[&path]).spawn().unwrap();
    let mut lines = BufReader::new(agent.stdout.take().unwrap()).lines();
    let full = lines.any(|line| line.unwrap().contains("free some space"));
    assert!(full, "the agent says what it waits for");
    let store = converter.store();
    let store = store.to_str().unwrap();
    converter.inside("mount", &["-o", "remount,size=300M", store]);
    lines.for_each(drop);
    let ended = agent.wait_with_output().unwrap();
    let error = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{error}");
    // Out of the file system that only the server sees.
    let copy = converter.folder.path().join("copy");
    converter.inside("cp", &["-a", store, copy.to_str().unwrap()]);
    let store = Store::open(copy).unwrap();
    assert!(Converter::read_disks(&store, "m") == [bytes]);
}

#[test]
fn a_wrong_token_and_a_wrong_fingerprint_are_refused_with_code_5() {
    let test = "a_wrong_token_and_a_wrong_fingerprint_are_refused_with_code_5";
    let Some(mut converter) = Converter::start(test) else {
        return;
    };
    let (path, _) = disk_file(converter.folder.path(), "disk.raw", 100_000, 5);
    let connect = converter.connect.clone();
    let (place, secret) = connect.split_once('#').unwrap();
    let (token, fingerprint) = secret.split_once('.').unwrap();
    let other = "A".repeat(43);
    let wrong = [
        (format!("{place}#{other}.{fingerprint}"), "refused"),
        (format!("{place}#{token}.{other}"), "another certificate"),
    ];
    for (connect, told) in wrong {
        converter.connect = connect;
        let output = converter.agent("m", &[&path]).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(5), "{error}");
        assert!(error.contains(told), "{error}");
        assert!(
            !error.contains(token),
            "the token is never printed: {error}"
        );
    }
}

#[test]
fn a_source_that_shrinks_ends_with_code_4_and_the_rest_is_kept() {
    let test = "a_source_that_shrinks_ends_with_code_4_and_the_rest_is_kept";
    let Some(mut converter) = Converter::start(test) else {
        return;
    };
    let (path, bytes) = disk_file(converter.folder.path(), "disk.raw", 600_000_000, 6);
    let mut agent = converter.agent("m", &[&path]);
    let mut agent = agent.args(["--bandwidth", "40M"]).spawn().unwrap();
    let mut lines = BufReader::new(agent.stdout.take().unwrap()).lines();
    let opened = |line: &Value| line["kept"].as_u64().is_some_and(|kept| kept > 0);
    let found = lines.any(|line| opened(&serde_json::from_str(&line.unwrap()).unwrap()));
    assert!(found, "it began");
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.set_len(570_000_000).unwrap();
    lines.for_each(drop);
    let mut error = String::new();
    agent
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut error)
        .unwrap();
    assert_eq!(agent.wait().unwrap().code(), Some(4), "{error}");
    assert!(error.contains("vanished or shrank"), "{error}");
    std::fs::write(&path, &bytes).unwrap();
    let sums = sums(&converter.agent("m", &[&path]).output().unwrap());
    assert!(sums["new"].as_u64().unwrap() < 200_000_000, "{sums}");
    assert!(converter.read_back("m") == [bytes]);
}

/// Peak resident memory of the agent, from `/proc`, on a large sparse disk. `P2V_BIG=1` takes 20 GiB
/// with 3 GiB of data in it.
#[test]
fn the_agents_memory_does_not_grow_with_the_disk() {
    let test = "the_agents_memory_does_not_grow_with_the_disk";
    let Some(converter) = Converter::start(test) else {
        return;
    };
    let big = std::env::var_os("P2V_BIG").is_some_and(|value| value == "1");
    let (size, runs) = if big {
        (20_u64 << 30, 48)
    } else {
        (4 << 30, 10)
    };
    let path = converter.folder.path().join("disk.raw");
    let file = std::fs::File::create_new(&path).unwrap();
    file.set_len(size).unwrap();
    let mut block = random(64 << 20, 7);
    for run in 0..runs {
        use std::os::unix::fs::FileExt;
        // Each run differs from the others in every chunk.
        block
            .chunks_mut(4096)
            .for_each(|page| page[..8].copy_from_slice(&u64::to_le_bytes(run)));
        file.write_all_at(&block, size / runs * run).unwrap();
    }
    let mut agent = converter.agent("m", &[&path]).spawn().unwrap();
    let status = format!("/proc/{}/status", agent.id());
    let drain = agent.stdout.take().unwrap();
    let drained = std::thread::spawn(move || BufReader::new(drain).lines().count());
    let mut peak = 0;
    let deadline = Instant::now() + Duration::from_secs(600);
    while agent.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "it hangs");
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok());
        peak = peak.max(kilobytes.unwrap_or(0_u64));
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(agent.wait().unwrap().success());
    drained.join().unwrap();
    println!("peak resident memory of the agent: {} MB", peak / 1000);
    assert!(peak > 1000 && peak < 300_000, "{peak} kB");
}
