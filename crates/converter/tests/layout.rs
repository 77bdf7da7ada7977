//! `p2v convert` and `p2v plan` with disks laid out anew: disks made by sfdisk, sgdisk and the mkfs programs; the result
//! is judged by sfdisk, sgdisk, e2fsck, fsck.fat and the file systems' own readers, and every file's digest compared.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;
use test_oracles::{has_tools, search_path};

const MIB: u64 = 1 << 20;
const TOOLS: &[&str] = &[
    "sfdisk",
    "sgdisk",
    "mke2fs",
    "e2fsck",
    "debugfs",
    "mkfs.fat",
    "fsck.fat",
    "mcopy",
    "mkswap",
    "swaplabel",
];

type Arg<'a> = &'a dyn AsRef<OsStr>;

fn tool(program: &str, args: &[Arg]) -> Output {
    let mut command = Command::new(program);
    command
        .env("PATH", search_path())
        .env("MTOOLS_SKIP_CHECK", "1")
        .stdin(Stdio::null())
        .args(args.iter().map(|arg| arg.as_ref()));
    command
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"))
}

fn text_of(output: &Output) -> String {
    let parts = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    parts.concat()
}

fn run_tool(program: &str, args: &[Arg]) -> String {
    let output = tool(program, args);
    let text = text_of(&output);
    assert!(
        output.status.success(),
        "{program}: {}\n{text}",
        output.status
    );
    text
}

/// Run p2v; its exit code and what it printed.
fn p2v(args: &[Arg]) -> (i32, String) {
    let output = tool(env!("CARGO_BIN_EXE_p2v"), args);
    (output.status.code().unwrap_or(-1), text_of(&output))
}

fn sized(path: PathBuf, size: u64) -> PathBuf {
    fs::File::create(&path).unwrap().set_len(size).unwrap();
    path
}

fn copy_range(from: &Path, start: u64, to: &Path, at: u64, len: u64) {
    let (mut from, mut to) = (
        fs::File::open(from).unwrap(),
        fs::OpenOptions::new().write(true).open(to).unwrap(),
    );
    from.seek(SeekFrom::Start(start)).unwrap();
    to.seek(SeekFrom::Start(at)).unwrap();
    std::io::copy(&mut from.take(len), &mut to).unwrap();
}

/// A file system made in a file of its own.
struct Made<'a> {
    start: u64,
    size: u64,
    kind: &'a str,
}

/// A disk of `size` with this table and these file systems, each holding `files`.
fn disk(dir: &Path, size: u64, table: &str, made: &[Made]) -> PathBuf {
    let tree = files(dir);
    let disk = sized(dir.join("server.img"), size);
    let mut child = Command::new("sfdisk")
        .env("PATH", search_path())
        .args(["-q", "--wipe", "never"])
        .arg(&disk)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(table.as_bytes())
        .unwrap();
    assert!(child.wait().unwrap().success());
    for one in made {
        let part = sized(dir.join("part"), one.size);
        match one.kind {
            "swap" => drop(run_tool("mkswap", &[&part])),
            "fat" => {
                let hidden = (one.start / 512).to_string();
                run_tool(
                    "mkfs.fat",
                    &[&"-F", &"32", &"-h", &hidden, &"-n", &"DATA", &part],
                );
                for entry in fs::read_dir(tree.join("srv")).unwrap() {
                    run_tool("mcopy", &[&"-i", &part, &entry.unwrap().path(), &"::/"]);
                }
            }
            ext => drop(run_tool(
                "mke2fs",
                &[&"-q", &"-t", &ext, &"-d", &tree, &part],
            )),
        }
        copy_range(&part, 0, &disk, one.start, one.size);
    }
    disk
}

/// The files of a Debian, as far as anybody looks, and some to compare.
fn files(dir: &Path) -> PathBuf {
    let root = dir.join("root");
    for sub in ["etc", "sbin", "srv"] {
        fs::create_dir_all(root.join(sub)).unwrap();
    }
    fs::write(
        root.join("etc/os-release"),
        "ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n",
    )
    .unwrap();
    fs::write(root.join("etc/fstab"), "/dev/sda1 / ext4 defaults 0 1\n").unwrap();
    fs::write(root.join("sbin/init"), "init").unwrap();
    for number in 0..40_u32 {
        let len = 1000 + number * 9_973;
        let bytes: Vec<u8> = (0..len)
            .map(|i| ((i ^ number).wrapping_mul(2_654_435_761) >> 11) as u8)
            .collect();
        fs::write(root.join(format!("srv/file{number}")), bytes).unwrap();
    }
    root
}

/// A partition of the result, cut out into a file.
fn cut(image: &Path, number: u32, dir: &Path) -> PathBuf {
    let json: Value = serde_json::from_str(&run_tool("sfdisk", &[&"-J", &image])).unwrap();
    let table = json["partitiontable"]["partitions"].as_array().unwrap();
    let name = format!("{}{number}", image.display());
    let part = table
        .iter()
        .find(|part| part["node"] == name.as_str())
        .unwrap();
    let (start, size) = (
        part["start"].as_u64().unwrap() * 512,
        part["size"].as_u64().unwrap() * 512,
    );
    let file = sized(dir.join(format!("cut{number}")), size);
    copy_range(image, start, &file, 0, size);
    file
}

/// Names and contents of `/srv` of an ext file system, read by debugfs.
fn srv_of_ext(file: &Path, dir: &Path) -> BTreeMap<String, Vec<u8>> {
    run_tool("e2fsck", &[&"-fn", &file]);
    let to = dir.join("dumped");
    let _ = fs::remove_dir_all(&to);
    fs::create_dir(&to).unwrap();
    run_tool(
        "debugfs",
        &[&"-R", &format!("rdump /srv {}", to.display()), &file],
    );
    read_all(&to.join("srv"))
}

fn srv_of_fat(file: &Path, dir: &Path) -> BTreeMap<String, Vec<u8>> {
    run_tool("fsck.fat", &[&"-n", &file]);
    let to = dir.join("copied");
    let _ = fs::remove_dir_all(&to);
    fs::create_dir(&to).unwrap();
    run_tool("mcopy", &[&"-n", &"-i", &file, &"::/*", &to]);
    read_all(&to)
}

fn read_all(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    fs::read_dir(dir)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().to_lowercase();
            (name, fs::read(path).unwrap())
        })
        .collect()
}

/// Convert `disk` to a raw image with these flags; the image.
fn converted(disk: &Path, dir: &Path, flags: &[&str]) -> PathBuf {
    let before = fs::read(disk).unwrap();
    let out = dir.join("vms");
    let mut args: Vec<Arg> = vec![
        &"convert", &disk, &"--from", &"raw", &"--to", &"raw", &"--out", &out, &"--force",
    ];
    args.extend(flags.iter().map(|flag| flag as Arg));
    let (code, text) = p2v(&args);
    assert_eq!(code, 0, "{flags:?}: {text}");
    assert!(fs::read(disk).unwrap() == before, "the source was written");
    let image = out.join("server-disk1.raw");
    let said = run_tool("sfdisk", &[&"--verify", &image]);
    assert!(said.contains("No errors detected"), "{said}");
    image
}

/// Root, FAT, swap and a logical partition, in MBR.
fn mbr_server(dir: &Path) -> PathBuf {
    disk(
        dir,
        200 * MIB,
        "label: dos\nlabel-id: 0x0badcafe\n1 : start=1MiB, size=60MiB, type=83, bootable\n\
         2 : start=61MiB, size=40MiB, type=c\n3 : start=101MiB, size=10MiB, type=82\n\
         4 : start=111MiB, size=88MiB, type=f\n5 : start=112MiB, size=40MiB, type=83\n6 : start=153MiB, size=40MiB, type=83\n",
        &[
            Made {
                start: MIB,
                size: 60 * MIB,
                kind: "ext4",
            },
            Made {
                start: 61 * MIB,
                size: 40 * MIB,
                kind: "fat",
            },
            Made {
                start: 101 * MIB,
                size: 10 * MIB,
                kind: "swap",
            },
            Made {
                start: 112 * MIB,
                size: 40 * MIB,
                kind: "ext3",
            },
            Made {
                start: 153 * MIB,
                size: 40 * MIB,
                kind: "ext2",
            },
        ],
    )
}

#[test]
fn a_root_that_grows_pushes_four_partitions_back_and_no_file_changes() {
    if !has_tools("a_root_that_grows", TOOLS) {
        return;
    }
    let dir = TempDir::new().unwrap();
    let disk = mbr_server(dir.path());
    let expected = read_all(&dir.path().join("root/srv"));
    assert_eq!(expected.len(), 40);
    let image = converted(
        &disk,
        dir.path(),
        &["--as-is", "--disk-size", "500M", "--grow", "1"],
    );
    assert_eq!(image.metadata().unwrap().len(), 500 * MIB);
    let root = cut(&image, 1, dir.path());
    // 300 MiB more, and 7 of the extended partition's unused end.
    assert_eq!(root.metadata().unwrap().len(), 367 * MIB);
    let told = run_tool("debugfs", &[&"-R", &"stats -h", &root]);
    let blocks = told
        .lines()
        .find_map(|line| line.strip_prefix("Block count:"))
        .unwrap();
    let blocks: u64 = blocks.trim().parse().unwrap();
    assert!(
        blocks * 1024 >= 366 * MIB,
        "the file system grew: {blocks} blocks\n{told}"
    );
    for number in [1, 5, 6] {
        assert!(
            srv_of_ext(&cut(&image, number, dir.path()), dir.path()) == expected,
            "partition {number}"
        );
    }
    let fat = cut(&image, 2, dir.path());
    assert!(srv_of_fat(&fat, dir.path()) == expected);
    // The kernel of Windows and the boot sectors of DOS look here for where the volume begins.
    let boot = fs::read(&fat).unwrap();
    let hidden = u32::from_le_bytes(boot[28..32].try_into().unwrap());
    assert_eq!(u64::from(hidden) * 512, 368 * MIB);
    run_tool("swaplabel", &[&cut(&image, 3, dir.path())]);
    let id = run_tool("sfdisk", &[&"--disk-id", &image]);
    assert_eq!(id.trim(), "0x0badcafe");

    let report = fs::read(dir.path().join("vms/server-report.json")).unwrap();
    let report: Value = serde_json::from_slice(&report).unwrap();
    let parts = report["layouts"][0]["parts"].as_array().unwrap();
    assert_eq!(parts.len(), 6, "{report:#}");
    assert_eq!(parts[0]["new"][1], 367 * MIB);
    let svg = fs::read_to_string(dir.path().join("vms/server-layout.svg")).unwrap();
    assert!(svg.starts_with("<svg") && svg.contains("grown"), "{svg}");
}

#[test]
fn the_guest_is_mended_on_the_new_disk_even_where_its_partition_has_a_new_number() {
    if !has_tools("the_guest_is_mended_on_the_new_disk", TOOLS) {
        return;
    }
    let dir = TempDir::new().unwrap();
    // The root is the second logical partition, and the first goes.
    let table = "label: dos\n1 : start=1MiB, size=30MiB, type=83\n2 : start=31MiB, size=150MiB, type=5\n\
        5 : start=32MiB, size=40MiB, type=83\n6 : start=80MiB, size=60MiB, type=83\n";
    let disk = disk(
        dir.path(),
        200 * MIB,
        table,
        &[Made {
            start: 80 * MIB,
            size: 60 * MIB,
            kind: "ext4",
        }],
    );
    let root = sized(dir.path().join("fix"), 60 * MIB);
    copy_range(&disk, 80 * MIB, &root, 0, 60 * MIB);
    let fstab = dir.path().join("fstab");
    fs::write(&fstab, "/dev/sda6 / ext4 defaults 0 1\n").unwrap();
    run_tool("debugfs", &[&"-w", &"-R", &"rm /etc/fstab", &root]);
    let write = format!("write {} /etc/fstab", fstab.display());
    run_tool("debugfs", &[&"-w", &"-R", &write, &root]);
    copy_range(&root, 0, &disk, 80 * MIB, 60 * MIB);
    let flags = ["--leave-out", "5", "--disk-size", "400M", "--grow", "/"];
    let image = converted(&disk, dir.path(), &flags);
    let new_root = cut(&image, 5, dir.path());
    let fstab = run_tool("debugfs", &[&"-R", &"cat /etc/fstab", &new_root]);
    assert!(fstab.contains("UUID=") && !fstab.contains("sda"), "{fstab}");
    let expected = read_all(&dir.path().join("root/srv"));
    assert!(srv_of_ext(&new_root, dir.path()) == expected);
    let size = new_root.metadata().unwrap().len();
    assert!(size > 300 * MIB, "{size}");
}

#[test]
fn a_gpt_grows_turns_its_order_round_and_leaves_one_out() {
    if !has_tools("a_gpt_grows", TOOLS) {
        return;
    }
    let dir = TempDir::new().unwrap();
    let table = "label: gpt\n1 : start=1MiB, size=60MiB, name=first\n2 : start=61MiB, size=20MiB, name=gone\n\
        3 : start=81MiB, size=60MiB, name=third\n";
    let made = [
        Made {
            start: MIB,
            size: 60 * MIB,
            kind: "ext4",
        },
        Made {
            start: 81 * MIB,
            size: 60 * MIB,
            kind: "ext4",
        },
    ];
    let disk = disk(dir.path(), 200 * MIB, table, &made);
    let expected = read_all(&dir.path().join("root/srv"));
    let layout = dir.path().join("layout.toml");
    fs::write(
        &layout,
        "[[disk]]\nsize = \"300M\"\norder = [3, 1]\n\n[[partition]]\npart = 2\nleave-out = true\n\n\
         [[partition]]\npart = 3\ngrow = true\nmax = \"100M\"\n\n[[partition]]\npart = \"1:1\"\nweight = 3\n",
    )
    .unwrap();
    let flags = ["--as-is", "--layout", layout.to_str().unwrap()];
    let image = converted(&disk, dir.path(), &flags);
    let said = run_tool("sgdisk", &[&"-v", &image]);
    assert!(said.contains("No problems found"), "{said}");
    let before: Value = serde_json::from_str(&run_tool("sfdisk", &[&"-J", &disk])).unwrap();
    let after: Value = serde_json::from_str(&run_tool("sfdisk", &[&"-J", &image])).unwrap();
    assert_eq!(
        before["partitiontable"]["id"],
        after["partitiontable"]["id"]
    );
    let find = |json: &Value, name: &str| {
        let table = json["partitiontable"]["partitions"].as_array().unwrap();
        table.iter().find(|part| part["name"] == name).cloned()
    };
    assert_eq!(find(&after, "gone"), None);
    let (first, third) = (
        find(&after, "first").unwrap(),
        find(&after, "third").unwrap(),
    );
    assert_eq!(first["uuid"], find(&before, "first").unwrap()["uuid"]);
    assert!(
        third["start"].as_u64() < first["start"].as_u64(),
        "{after:#}"
    );
    assert_eq!(
        third["size"].as_u64().unwrap() * 512,
        100 * MIB,
        "by its largest size"
    );
    assert!(
        first["size"].as_u64().unwrap() * 512 > 190 * MIB,
        "the rest"
    );
    for number in [1, 3] {
        assert!(srv_of_ext(&cut(&image, number, dir.path()), dir.path()) == expected);
    }
}

#[test]
fn partitions_shrink_with_their_files_and_the_disk_fits_them() {
    if !has_tools("partitions_shrink_with_their_files", TOOLS) {
        return;
    }
    let dir = TempDir::new().unwrap();
    let disk = mbr_server(dir.path());
    let expected = read_all(&dir.path().join("root/srv"));
    let flags = [
        "--as-is",
        "--disk-size",
        "fit",
        "--shrink",
        "1=used+5M",
        "--shrink",
        "5=smallest",
        "--shrink",
        "6=25M",
        "--leave-out",
        "3",
    ];
    let image = converted(&disk, dir.path(), &flags);
    let size = image.metadata().unwrap().len();
    assert!(size < 140 * MIB && size.is_multiple_of(MIB), "{size}");
    for number in [1, 5, 6] {
        let part = cut(&image, number, dir.path());
        let size = part.metadata().unwrap().len();
        assert!(size < 40 * MIB, "partition {number}: {size}");
        assert!(
            srv_of_ext(&part, dir.path()) == expected,
            "partition {number}"
        );
    }
    assert_eq!(
        cut(&image, 6, dir.path()).metadata().unwrap().len(),
        25 * MIB
    );
    assert!(srv_of_fat(&cut(&image, 2, dir.path()), dir.path()) == expected);
    // What was moved out of the way in the shrink is not in the image.
    let report = fs::read(dir.path().join("vms/server-report.json")).unwrap();
    let report: Value = serde_json::from_slice(&report).unwrap();
    assert_eq!(report["layouts"][0]["new_size"], size, "{report:#}");
}

#[test]
fn a_windows_volume_at_sector_63_is_aligned_grown_and_told_where_it_begins() {
    let test = "a_windows_volume_at_sector_63_is_aligned_grown_and_told_where_it_begins";
    let tools = [
        "mkntfs",
        "ntfscp",
        "ntfscat",
        "ntfsfix",
        "ntfsresize",
        "sfdisk",
    ];
    if !has_tools(test, &tools) {
        return;
    }
    let dir = TempDir::new().unwrap();
    let tree = files(dir.path());
    let (sectors, start) = (163_840_u64, 63_u64);
    let table =
        format!("label: dos\nunit: sectors\n1 : start={start},size={sectors},type=7,bootable\n");
    let disk = disk(dir.path(), 100 * MIB, &table, &[]);
    let part = sized(dir.path().join("ntfs"), sectors * 512);
    run_tool(
        "mkntfs",
        &[
            &"-q",
            &"-F",
            &"-f",
            &"-p",
            &start.to_string(),
            &"-s",
            &"512",
            &part,
        ],
    );
    let names: Vec<String> = (0..40).map(|number| format!("file{number}")).collect();
    for name in &names {
        run_tool(
            "ntfscp",
            &[&"-q", &part, &tree.join("srv").join(name), name],
        );
    }
    copy_range(&part, 0, &disk, start * 512, sectors * 512);
    let flags = [
        "--as-is",
        "--align",
        "1M",
        "--disk-size",
        "300M",
        "--grow",
        "1",
    ];
    let image = converted(&disk, dir.path(), &flags);
    let part = cut(&image, 1, dir.path());
    assert_eq!(part.metadata().unwrap().len(), 299 * MIB);
    run_tool("ntfsfix", &[&"-n", &part]);
    let told = run_tool("ntfsresize", &[&"--info", &"--no-progress-bar", &part]);
    let volume = told
        .lines()
        .find_map(|line| line.strip_prefix("Current volume size:"));
    let bytes: u64 = volume
        .unwrap()
        .split_whitespace()
        .next()
        .unwrap()
        .parse()
        .unwrap();
    assert!(bytes + MIB > 299 * MIB, "{told}");
    let boot = fs::read(&part).unwrap();
    let hidden = |at: usize| u32::from_le_bytes(boot[at + 28..at + 32].try_into().unwrap());
    let copy = boot.len() - 512;
    assert_eq!(
        (hidden(0), hidden(copy)),
        (2048, 2048),
        "in the boot sector and in its copy"
    );
    for name in &names {
        let theirs = tool("ntfscat", &[&part, name]);
        assert!(
            theirs.stdout == fs::read(tree.join("srv").join(name)).unwrap(),
            "{name}"
        );
    }
}

#[test]
fn what_is_not_understood_is_never_resized() {
    if !has_tools("what_is_not_understood_is_never_resized", TOOLS) {
        return;
    }
    let dir = TempDir::new().unwrap();
    let disk = mbr_server(dir.path());
    // An older ext4 under something that begins like a bcache device, and bytes nobody knows.
    let mut file = fs::OpenOptions::new().write(true).open(&disk).unwrap();
    file.seek(SeekFrom::Start(MIB + 4096 + 24)).unwrap();
    let bcache = [
        0xC6, 0x85, 0x73, 0xF6, 0x4E, 0x1A, 0x45, 0xCA, 0x82, 0x65, 0xF5, 0x7F, 0x48, 0xBA, 0x6D,
        0x81,
    ];
    file.write_all(&bcache).unwrap();
    file.seek(SeekFrom::Start(101 * MIB)).unwrap();
    file.write_all(&[7; 16384]).unwrap();
    for (flags, why) in [
        (["--grow", "1"], "looks like ext4 and like bcache"),
        (["--shrink", "1=smallest"], "60.00 MiB"),
        (["--grow", "3"], "what it holds is not known"),
    ] {
        let (code, text) = p2v(&[
            &"plan",
            &disk,
            &"--from",
            &"raw",
            &"--as-is",
            &"--disk-size",
            &"400M",
            &flags[0],
            &flags[1],
        ]);
        if flags[0] == "--shrink" {
            assert!(
                code == 0 && text.contains(why) && !text.contains("shrunk"),
                "{text}"
            );
        } else {
            assert!(code == 1 && text.contains(why), "{flags:?}: {text}");
        }
    }
}

#[test]
fn a_plan_shows_both_layouts_and_writes_nothing_but_the_picture() {
    if !has_tools("a_plan_shows_both_layouts", TOOLS) {
        return;
    }
    let dir = TempDir::new().unwrap();
    let disk = mbr_server(dir.path());
    let svg = dir.path().join("picture.svg");
    let plan: [Arg; 10] = [
        &"plan",
        &disk,
        &"--from",
        &"raw",
        &"--disk-size",
        &"+300M",
        &"--grow",
        &"/",
        &"--svg",
        &svg,
    ];
    // Three partitions hold a root: the first is chosen as convert would have it.
    let mut first: Vec<Arg> = plan.to_vec();
    first.extend([&"--root" as Arg, &"first"]);
    let (code, text) = p2v(&first);
    assert_eq!(code, 0, "{text}");
    for word in [
        "200.00 MiB -> 500.00 MiB",
        "grown with its contents",
        "367.00 MiB",
        "moved",
        "[SWAP]",
    ] {
        // Swap space that fstab does not name shows no mount point.
        assert!(text.contains(word) || word == "[SWAP]", "{word}: {text}");
    }
    assert!(fs::read_to_string(&svg).unwrap().contains("</svg>"));
    assert!(!dir.path().join("vms").exists());
    let (code, dry) = p2v(&[
        &"convert",
        &disk,
        &"--from",
        &"raw",
        &"--dry-run",
        &"--disk-size",
        &"+300M",
        &"--grow",
        &"/",
        &"--root",
        &"first",
    ]);
    assert_eq!((code, &dry), (0, &text), "a dry run says the same");
}

#[test]
fn what_cannot_be_is_refused_with_what_could_and_nothing_is_written() {
    if !has_tools("what_cannot_be_is_refused", TOOLS) {
        return;
    }
    let dir = TempDir::new().unwrap();
    let disk = mbr_server(dir.path());
    let refused = |flags: &[&str]| {
        let out = dir.path().join("vms");
        let mut args: Vec<Arg> = vec![
            &"convert", &disk, &"--from", &"raw", &"--as-is", &"--out", &out,
        ];
        args.extend(flags.iter().map(|flag| flag as Arg));
        let (code, text) = p2v(&args);
        assert_eq!(code, 1, "{flags:?}: {text}");
        let left = fs::read_dir(&out).map(Iterator::count).unwrap_or(0);
        assert_eq!(left, 0, "{flags:?} left files behind");
        text
    };
    let text = refused(&["--disk-size", "50M"]);
    assert!(
        text.contains("smallest possible size") && text.contains("--shrink 3=SIZE"),
        "{text}"
    );
    assert!(refused(&["--disk-size", "3T"]).contains("more than an MBR can describe"));
    assert!(
        refused(&["--grow", "9"])
            .contains("there is no partition 9 on disk 1; there are 1, 2, 3, 4, 5, 6")
    );
    assert!(
        refused(&["--grow", "/data"])
            .contains("nothing that is a partition of its own is mounted at /data")
    );
    assert!(refused(&["--disk-size", "2:1G"]).contains("there is no disk 2"));
    assert!(refused(&["--order", "5,1,6"]).contains("must stay together"));
    assert!(refused(&["--shrink", "3=1K"]).contains("smallest possible size"));
}
