//! `p2v inspect` as a user meets it: disks made with sfdisk, sgdisk and the mkfs programs; what it says is
//! held against `blkid`, its JSON against the schema by a foreign validator, its reads counted.
#![allow(clippy::unwrap_used)]

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use block_io::{BlockRead, Extent, FileDisk, SectorSize};
use converter::convert::source::{Source, SourceDisk};
use converter::inspect::look;
use serde_json::Value;
use tempfile::TempDir;
use test_oracles::{has_tools, python_with, search_path, skip};

const MIB: u64 = 1 << 20;
const TOOLS: &[&str] = &[
    "sfdisk", "mke2fs", "mkswap", "mkfs.fat", "mkfs.xfs", "blkid",
];

type Arg<'a> = &'a dyn AsRef<OsStr>;

fn tool(program: &str, args: &[Arg]) -> Output {
    let mut command = Command::new(program);
    command
        .env("PATH", search_path())
        .args(args.iter().map(|arg| arg.as_ref()));
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    let said = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    assert!(output.status.success(), "{program}: {}", said.concat());
    output
}

fn p2v(args: &[Arg]) -> String {
    String::from_utf8(tool(env!("CARGO_BIN_EXE_p2v"), args).stdout).unwrap()
}

fn partition(disk: &Path, table: &str) {
    let mut child = Command::new("sfdisk")
        .env("PATH", search_path())
        .args(["--quiet", "--wipe", "never"])
        .arg(disk)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(table.as_bytes())
        .unwrap();
    assert!(child.wait().unwrap().success());
}

/// Make a file system in `file` and put it on `disk` at `start`.
fn put(disk: &Path, start: u64, file: &Path) {
    let bytes = fs::read(file).unwrap();
    let mut out = fs::OpenOptions::new().write(true).open(disk).unwrap();
    std::io::Seek::seek(&mut out, std::io::SeekFrom::Start(start)).unwrap();
    out.write_all(&bytes).unwrap();
}

fn sized(dir: &Path, name: &str, size: u64) -> PathBuf {
    let path = dir.join(name);
    fs::File::create(&path).unwrap().set_len(size).unwrap();
    path
}

/// A server: /boot on FAT, root on ext4, swap and /srv (XFS) as logical partitions.
fn server(dir: &Path) -> PathBuf {
    let root = dir.join("root");
    for sub in ["etc", "sbin", "boot", "srv", "usr/lib"] {
        fs::create_dir_all(root.join(sub)).unwrap();
    }
    fs::write(
        root.join("etc/os-release"),
        "ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n",
    )
    .unwrap();
    fs::write(root.join("sbin/init"), "init").unwrap();
    fs::write(
        root.join("etc/fstab"),
        "LABEL=root / ext4 defaults 0 1\n/dev/sda1 /boot vfat defaults 0 2\n\
         /dev/sda5 none swap sw 0 0\nUUID=11111111-2222-3333-4444-555555555555 /srv xfs defaults 0 2\n",
    )
    .unwrap();
    let disk = sized(dir, "web01.img", 600 * MIB);
    partition(
        &disk,
        "label: dos\nlabel-id: 0x1b2c3d4e\n1 : start=1MiB, size=40MiB, type=c, bootable\n\
         2 : start=41MiB, size=100MiB, type=83\n3 : start=141MiB, size=458MiB, type=5\n\
         5 : start=142MiB, size=20MiB, type=82\n6 : start=163MiB, size=400MiB, type=83\n",
    );
    let boot = sized(dir, "boot", 40 * MIB);
    tool(
        "mkfs.fat",
        &[&"-F", &"16", &"-i", &"CAFE1234", &"-n", &"BOOT", &boot],
    );
    let ext = sized(dir, "ext", 100 * MIB);
    tool(
        "mke2fs",
        &[&"-q", &"-t", &"ext4", &"-L", &"root", &"-d", &root, &ext],
    );
    let swap = sized(dir, "swap", 20 * MIB);
    tool(
        "mkswap",
        &[&"-U", &"aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee", &swap],
    );
    let xfs = sized(dir, "xfs", 400 * MIB);
    let uuid = "uuid=11111111-2222-3333-4444-555555555555";
    tool("mkfs.xfs", &[&"-q", &"-m", &uuid, &"-L", &"data", &xfs]);
    for (start, file) in [(1, &boot), (41, &ext), (142, &swap), (163, &xfs)] {
        put(&disk, start * MIB, file);
    }
    disk
}

#[test]
fn the_tree_shows_what_blkid_and_fstab_say() {
    if !has_tools("the_tree_shows_what_blkid_and_fstab_say", TOOLS) {
        return;
    }
    let dir = TempDir::new().unwrap();
    let disk = server(dir.path());
    let before = fs::read(&disk).unwrap();
    let json: Value =
        serde_json::from_str(&p2v(&[&"inspect", &disk, &"--from", &"raw", &"--json"])).unwrap();
    let volumes = json["disks"][0]["volumes"].as_array().unwrap();
    assert_eq!(volumes.len(), 5, "{json:#}");
    for volume in volumes.iter().filter(|v| v["extended"] == false) {
        let (start, size) = (&volume["start"], &volume["size"]);
        let answer = tool(
            "blkid",
            &[
                &"-p",
                &"-O",
                &start.to_string(),
                &"-S",
                &size.to_string(),
                &"-o",
                &"export",
                &disk,
            ],
        );
        let answer = String::from_utf8(answer.stdout).unwrap();
        for (key, field) in [("TYPE", "type"), ("UUID", "uuid"), ("LABEL", "label")] {
            let theirs = answer
                .lines()
                .find_map(|l| l.strip_prefix(&format!("{key}=")));
            assert_eq!(volume[field].as_str(), theirs, "{key} of {volume:#}");
        }
    }
    let by_number = |number: u32| volumes.iter().find(|v| v["partition"] == number).unwrap();
    for (number, at) in [(1, "/boot"), (2, "/"), (5, "[SWAP]"), (6, "/srv")] {
        assert_eq!(by_number(number)["mount_points"][0], at, "{json:#}");
    }
    assert_eq!(by_number(2)["os"], "Debian GNU/Linux 12 (bookworm)");
    assert_eq!(by_number(2)["partuuid"], "1b2c3d4e-02");
    assert_eq!(by_number(5)["used"], 4096, "swap holds its header only");
    assert_eq!(json["systems"][0]["mounts"].as_array().unwrap().len(), 4);

    let tree = p2v(&[&"inspect", &disk, &"--from", &"raw"]);
    let lines: Vec<&str> = tree.lines().collect();
    assert!(lines[0].starts_with("NAME"), "{tree}");
    assert!(
        lines[1].starts_with("web01.img") && lines[1].contains("0x1b2c3d4e"),
        "{tree}"
    );
    assert!(
        lines[2].starts_with("├─1") && lines[2].contains("/boot"),
        "{tree}"
    );
    assert!(
        lines[4].starts_with("└─3") && lines[5].starts_with("  ├─5"),
        "{tree}"
    );
    assert!(
        lines[6].starts_with("  └─6") && lines[6].contains("/srv"),
        "{tree}"
    );
    assert!(fs::read(&disk).unwrap() == before, "the source was written");
}

#[test]
fn the_json_is_what_the_schema_says() {
    const TEST: &str = "the_json_is_what_the_schema_says";
    let Some(python) = python_with(TEST, "jsonschema") else {
        return;
    };
    let python = python.to_str().unwrap();
    if !has_tools(TEST, TOOLS) {
        return;
    }
    let dir = TempDir::new().unwrap();
    let disk = server(dir.path());
    let blank = sized(dir.path(), "blank.img", MIB);
    let schema = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/inspect.schema.json");
    let validate = "import json, sys, jsonschema\n\
        schema = json.load(open(sys.argv[1]))\n\
        jsonschema.Draft7Validator.check_schema(schema)\n\
        jsonschema.validate(json.load(open(sys.argv[2])), schema)\n";
    let answers = dir.path().join("answer.json");
    let machines: [&[Arg]; 3] = [&[&disk], &[&disk, &blank], &[&blank]];
    for machine in machines {
        let mut args: Vec<Arg> = vec![&"inspect", &"--json", &"--from", &"raw"];
        args.extend(machine);
        fs::write(&answers, p2v(&args)).unwrap();
        tool(python, &[&"-c", &validate, &schema, &answers]);
    }
    // The validator does refuse: one field the schema does not know.
    let mut value: Value = serde_json::from_slice(&fs::read(&answers).unwrap()).unwrap();
    value["disks"][0]["surprise"] = Value::Bool(true);
    fs::write(&answers, value.to_string()).unwrap();
    let refused = Command::new(python)
        .args(["-c", validate])
        .arg(&schema)
        .arg(&answers)
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(!refused.success());
}

/// Counts the bytes that are read of a disk.
struct Counting {
    disk: FileDisk,
    read: Arc<AtomicU64>,
}

impl BlockRead for Counting {
    fn size(&self) -> u64 {
        self.disk.size()
    }
    fn sector_size(&self) -> SectorSize {
        self.disk.sector_size()
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> block_io::Result<()> {
        self.read.fetch_add(buf.len() as u64, Ordering::Relaxed);
        self.disk.read_at(offset, buf)
    }
    fn extent_at(&self, offset: u64) -> block_io::Result<Extent> {
        self.disk.extent_at(offset)
    }
}

#[test]
fn a_large_server_is_inspected_in_few_reads() {
    const TEST: &str = "a_large_server_is_inspected_in_few_reads";
    if !has_tools(TEST, TOOLS) {
        return;
    }
    // The root lies on 100 GB of ext4 with the usual flags and 200 MB of file data.
    let dir = TempDir::new().unwrap();
    let root = dir.path().join("root");
    for sub in ["etc", "sbin", "data"] {
        fs::create_dir_all(root.join(sub)).unwrap();
    }
    fs::write(root.join("etc/os-release"), "PRETTY_NAME=\"Big 1\"\n").unwrap();
    fs::write(root.join("etc/fstab"), "/dev/sda1 / ext4 defaults 0 1\n").unwrap();
    fs::write(root.join("sbin/init"), "").unwrap();
    for number in 0..200_u8 {
        let bytes: Vec<u8> = vec![number | 1; MIB as usize];
        fs::write(root.join(format!("data/{number}")), bytes).unwrap();
    }
    let size = 100_000_000_000 / MIB * MIB;
    let disk = sized(dir.path(), "big.img", size);
    partition(&disk, "label: gpt\n1 : start=1MiB, size=95000MiB\n");
    let offset = format!("offset={MIB}");
    let blocks = format!("{}k", 95_000 * 1024);
    tool(
        "mke2fs",
        &[
            &"-q", &"-t", &"ext4", &"-E", &offset, &"-d", &root, &disk, &blocks,
        ],
    );

    let read = Arc::new(AtomicU64::new(0));
    let counting = Counting {
        disk: FileDisk::open(&disk).unwrap(),
        read: Arc::clone(&read),
    };
    let source = Source::of_disks("big", vec![SourceDisk::new("/dev/sda", Arc::new(counting))]);
    let seen = look(&source).unwrap();
    assert_eq!(seen.systems[0].name, "Big 1");
    let bytes = read.load(Ordering::Relaxed);
    println!("{TEST}: {bytes} bytes read of {size}");
    assert!(bytes < 64 * MIB, "{bytes} bytes read");
}

/// The disks of `tests/guests/volumes`, whose volumes lvm2, mdadm and the Linux kernel made, and what it says they are.
fn volumes(test: &str) -> Option<(PathBuf, String)> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/guests/volumes");
    let output = Command::new(script).output().unwrap();
    if output.status.code() == Some(3) {
        skip(test, String::from_utf8_lossy(&output.stderr).trim());
        return None;
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    let directory = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    let report = fs::read_to_string(directory.join("report.txt")).unwrap();
    Some((directory, report))
}

#[test]
fn logical_volumes_stand_below_what_they_lie_on() {
    let Some((directory, report)) = volumes("logical_volumes_stand_below_what_they_lie_on") else {
        return;
    };
    let disks: Vec<PathBuf> = (0..5)
        .map(|at| directory.join(format!("lvm{at}.img")))
        .collect();
    let inspect = |more: &[&str]| {
        let mut args: Vec<Arg> = vec![&"inspect", &"--from", &"raw"];
        args.extend(more.iter().map(|word| word as Arg));
        args.extend(disks.iter().map(|disk| disk as Arg));
        p2v(&args)
    };
    let json: Value = serde_json::from_str(&inspect(&["--json"])).unwrap();
    let seen = json["logical_volumes"].as_array().unwrap();
    let tree = inspect(&[]);
    let lines = report.lines().filter_map(|line| line.strip_prefix("LV "));
    let mut found = 0;
    for line in lines.filter(|line| !line.contains("thin")) {
        let mut words = line.split_whitespace();
        let (name, size) = (words.next().unwrap(), words.next().unwrap());
        let name = format!("vg0/{name}");
        let volume = seen.iter().find(|volume| volume["name"] == name.as_str());
        let volume = volume.unwrap_or_else(|| panic!("{name}: {json:#}"));
        assert_eq!(volume["size"].to_string(), size, "{name}");
        assert!(!volume["on"].as_array().unwrap().is_empty(), "{name}");
        assert!(tree.contains(&format!("─{name}")), "{name}: {tree}");
        found += 1;
    }
    assert!(found >= 5, "{report}");
    // Each line of the report tells an array's partitions by the first and their number.
    let md = directory.join("md.img");
    let json: Value =
        serde_json::from_str(&p2v(&[&"inspect", &"--from", &"raw", &"--json", &md])).unwrap();
    let seen = json["logical_volumes"].as_array().unwrap();
    // Of these some members are not in use, or other volumes lie between.
    let odd = ["spare", "stale", "degraded", "stacked", "nested"];
    let lines = report.lines().filter_map(|line| line.strip_prefix("MD "));
    for line in lines.filter(|line| !odd.iter().any(|word| line.contains(word))) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let numbers: Vec<u64> = words[1..]
            .iter()
            .filter_map(|word| word.parse().ok())
            .collect();
        let [size, first, count] = numbers[..] else {
            continue;
        };
        let on: Vec<Value> = (first..first + count)
            .map(|partition| serde_json::json!({ "disk": 0, "partition": partition }))
            .collect();
        let here = seen
            .iter()
            .find(|volume| volume["on"].as_array() == Some(&on));
        assert!(
            here.is_some_and(|volume| volume["size"] == size),
            "{line}: {json:#}"
        );
    }
}
