//! Files of NTFS, held against ntfs-3g, which made and reads them, and volumes of real Windows systems.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::Path;

use block_io::{BlockRead, FileDisk, MemoryDisk, Overlay};
use common::ntfs::*;
use common::oracle::*;
use common::*;
use filesystems::ntfs::{NtfsTree, condition};
use filesystems::path::GuestPath;
use filesystems::tree::{FileKind, FileTree, TreeErrorKind};

const TOOLS: &[&str] = &["mkntfs", "ntfs-3g"];

fn tree(image: &Path) -> NtfsTree<FileDisk> {
    NtfsTree::open(FileDisk::open(image).unwrap()).unwrap()
}

fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, rustix::fs::XattrFlags::empty())
        .unwrap_or_else(|e| panic!("{}: {name}: {e}", path.display()));
}

#[test]
fn every_file_is_as_ntfs_3g_has_it() {
    let test = "every_file_is_as_ntfs_3g_has_it";
    if !has_tools(test, TOOLS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    for (name, args, mib) in NTFS_VARIANTS {
        mkntfs(&image, args, *mib);
        let Some(filled) = mount(test, &image, "rw") else {
            return;
        };
        make_tree(filled.path(), 60, true);
        // A directory whose index is deep, with some of its names gone again.
        let deep = filled.path().join("deep");
        std::fs::create_dir(&deep).unwrap();
        for k in 0..3000 {
            std::fs::write(deep.join(format!("{k} ein längerer Name")), [k as u8]).unwrap();
        }
        for k in (0..3000).step_by(3) {
            std::fs::remove_file(deep.join(format!("{k} ein längerer Name"))).unwrap();
        }
        std::fs::hard_link(deep.join("1 ein längerer Name"), filled.path().join("hard")).unwrap();
        // A file of so many pieces that its record does not hold them.
        let holes = std::fs::File::create(filled.path().join("holes")).unwrap();
        for k in 0..600 {
            holes.write_all_at(&[k as u8; 100], k * 70_000).unwrap();
        }
        drop(holes);
        let files = host_tree(filled.path());
        drop(filled);
        let tree = tree(&image);
        assert_same(&our_tree(&tree), &files, name);
        assert_eq!(tree.stat(&"/hard".into()).unwrap().links, 2);
        assert_eq!(
            tree.stat(&"/hard".into()).unwrap().inode,
            tree.stat(&"/deep/1 ein längerer Name".into())
                .unwrap()
                .inode
        );
        // Whatever the case; no name that is not there.
        for path in ["/DEEP/4 EIN LÄNGERER NAME", "/deep/4 ein lÄNGERER nAME"] {
            assert_eq!(tree.read_file(&path.into(), 10).unwrap(), [4], "{path}");
        }
        for path in [
            "/deep/3 ein längerer Name",
            "/deep/4 ein langerer Name",
            "/deeq",
        ] {
            assert_eq!(
                tree.stat(&path.into()).unwrap_err().kind(),
                TreeErrorKind::NotFound,
                "{path}"
            );
        }
        assert_eq!(
            tree.stat(&"/$MFT".into()).unwrap().inode,
            0,
            "found, though not listed"
        );
        let free = run("ntfsinfo", &["-m", text(&image)]).stdout;
        let free = String::from_utf8_lossy(&free).into_owned();
        let number = |what: &str| -> u64 {
            let line = free.lines().find(|l| l.contains(what)).unwrap();
            line.split_whitespace()
                .find_map(|w| w.parse().ok())
                .unwrap()
        };
        let space = tree.space().unwrap();
        let cluster = number("Cluster Size:");
        assert_eq!(
            space.total,
            number("Volume Size in Clusters:") * cluster,
            "{name}"
        );
        assert_eq!(space.free, number("Free Clusters:") * cluster, "{name}");
    }
}

#[test]
fn names_that_differ_in_case_only_are_told_apart() {
    let test = "names_that_differ_in_case_only_are_told_apart";
    if !has_tools(test, TOOLS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    mkntfs(&image, "-c 4096", 20);
    let Some(filled) = mount(test, &image, "rw") else {
        return;
    };
    for name in ["Readme", "README", "readme", "other"] {
        std::fs::write(filled.path().join(name), name).unwrap();
    }
    // A short name beside the long one.
    std::fs::write(
        filled.path().join("a name longer than DOS takes.text"),
        b"x",
    )
    .unwrap();
    set_xattr(
        &filled.path().join("a name longer than DOS takes.text"),
        "system.ntfs_dos_name",
        b"ANAME~1.TEX",
    );
    drop(filled);
    let tree = tree(&image);
    for name in ["Readme", "README", "readme"] {
        let path = GuestPath::root().join(name);
        assert_eq!(tree.read_file(&path, 10).unwrap(), name.as_bytes());
    }
    assert_eq!(tree.read_file(&"/OTHER".into(), 10).unwrap(), b"other");
    let ambiguous = tree.stat(&"/rEADME".into()).unwrap_err();
    assert_eq!(ambiguous.kind(), TreeErrorKind::NotFound);
    assert_eq!(tree.read_file(&"/aname~1.tex".into(), 10).unwrap(), b"x");
    let names = tree.read_dir(&GuestPath::root()).unwrap();
    assert_eq!(names.len(), 5, "{names:?}");
    let stat = tree
        .stat(&"/a name longer than DOS takes.text".into())
        .unwrap();
    assert_eq!(stat.links, 1, "a short name is no link");
}

/// Texts, noise and zeroes of many lengths: what compresses, what does not, what is left out.
fn samples() -> BTreeMap<String, Vec<u8>> {
    let mut random = Seeded(0xC0);
    let words: Vec<Vec<u8>> = (0..500).map(|k| random.bytes(3 + k % 9)).collect();
    let mut samples = BTreeMap::new();
    let program = std::fs::read("/usr/bin/ntfs-3g").unwrap();
    for (k, len) in [
        1, 100, 4095, 4096, 4097, 8192, 16_385, 32_768, 65_536, 70_001, 1_300_000,
    ]
    .into_iter()
    .enumerate()
    {
        let mut text = Vec::new();
        while text.len() < len {
            text.extend(&words[random.below(500) as usize]);
        }
        text.truncate(len);
        samples.insert(format!("words{k}"), text);
        samples.insert(format!("noise{k}"), random.bytes(len));
        samples.insert(format!("same{k}"), vec![b'x'; len]);
        samples.insert(
            format!("program{k}"),
            program.iter().cycle().take(len).copied().collect(),
        );
        let mut mixed = random.bytes(len);
        mixed.iter_mut().skip(len / 3).for_each(|b| *b &= 3);
        mixed
            .iter_mut()
            .skip(len / 2)
            .take(len / 4)
            .for_each(|b| *b = 0);
        samples.insert(format!("mixed{k}"), mixed);
    }
    samples
}

#[test]
fn compressed_files_read_as_ntfs_3g_wrote_them() {
    let test = "compressed_files_read_as_ntfs_3g_wrote_them";
    if !has_tools(test, TOOLS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    for args in ["-c 4096", "-c 512", "-c 2048"] {
        mkntfs(&image, args, 60);
        let Some(filled) = mount(test, &image, "rw,compression") else {
            return;
        };
        let folder = filled.path().join("packed");
        std::fs::create_dir(&folder).unwrap();
        // FILE_ATTRIBUTE_COMPRESSED on the directory: new files are compressed.
        set_xattr(&folder, "system.ntfs_attrib", &0x810_u32.to_le_bytes());
        for (name, contents) in samples() {
            std::fs::write(folder.join(name), contents).unwrap();
        }
        let files = host_tree(filled.path());
        drop(filled);
        let tree = tree(&image);
        assert_same(&our_tree(&tree), &files, args);
        let compressed = |name: &str| tree.details(&name.into()).unwrap().attributes & 0x800 != 0;
        assert!(compressed("/packed/words10") && compressed("/packed/same10"));
        // From the middle of one unit into the next.
        let mut part = vec![0; 70_000];
        assert_eq!(
            tree.read_at(&"/packed/words10".into(), 65_000, &mut part)
                .unwrap(),
            70_000
        );
        let whole = files[&b"packed/words10"[..]].as_ref().unwrap();
        assert!(part == whole[65_000..135_000]);
    }
}

#[test]
fn streams_links_and_reparse_points_are_told() {
    let test = "streams_links_and_reparse_points_are_told";
    if !has_tools(test, TOOLS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    mkntfs(&image, "-c 4096", 20);
    let Some(filled) = mount(test, &image, "rw,streams_interface=windows") else {
        return;
    };
    let at = |name: &str| filled.path().join(name);
    std::fs::write(at("download.exe"), b"program").unwrap();
    std::fs::write(
        at("download.exe:Zone.Identifier"),
        b"[ZoneTransfer]\r\nZoneId=3\r\n",
    )
    .unwrap();
    std::fs::write(at("download.exe:big"), vec![7; 100_000]).unwrap();
    let utf16 =
        |text: &str| -> Vec<u8> { text.encode_utf16().flat_map(u16::to_le_bytes).collect() };
    let reparse = |name: &str, tag: u32, data: Vec<u8>| {
        let head = [
            &tag.to_le_bytes()[..],
            &(data.len() as u16).to_le_bytes(),
            &[0; 2],
        ]
        .concat();
        set_xattr(
            &at(name),
            "system.ntfs_reparse_data",
            &[head, data].concat(),
        );
    };
    // [MS-FSCC] 2.1.2.5: names one after the other, the one to be used first.
    let names = |used: &str, printed: &str, flags: Option<u32>| -> Vec<u8> {
        let (used, printed) = (utf16(used), utf16(printed));
        let mut data = Vec::new();
        for n in [0, used.len(), used.len(), printed.len()] {
            data.extend((n as u16).to_le_bytes());
        }
        data.extend(flags.into_iter().flat_map(u32::to_le_bytes));
        [data, used, printed].concat()
    };
    std::fs::create_dir(at("Documents and Settings")).unwrap();
    reparse(
        "Documents and Settings",
        0xA000_0003,
        names(r"\??\C:\Users", r"C:\Users", None),
    );
    std::fs::write(at("relative"), b"").unwrap();
    reparse(
        "relative",
        0xA000_000C,
        names(r"..\a\b", r"..\a\b", Some(1)),
    );
    std::fs::write(at("absolute"), b"").unwrap();
    reparse(
        "absolute",
        0xA000_000C,
        names(r"\??\D:\x", r"D:\x", Some(0)),
    );
    std::fs::write(at("wsl"), b"").unwrap();
    reparse(
        "wsl",
        0xA000_001D,
        [&2_u32.to_le_bytes()[..], "/usr/bin/ü".as_bytes()].concat(),
    );
    std::fs::write(at("alias.exe"), b"").unwrap();
    reparse("alias.exe", 0x8000_001B, vec![0; 8]);
    std::fs::write(at("deduplicated"), vec![0; 5000]).unwrap();
    reparse("deduplicated", 0x8000_0013, vec![0; 40]);
    std::fs::write(at("cloud"), b"here").unwrap();
    reparse("cloud", 0x9000_701A, vec![0; 40]);
    std::fs::write(at("wimboot"), vec![0; 5000]).unwrap();
    reparse(
        "wimboot",
        0x8000_0017,
        [1_u32, 1, 0, 0]
            .iter()
            .flat_map(|n| n.to_le_bytes())
            .collect(),
    );
    drop(filled);
    let tree = tree(&image);
    let details = tree.details(&"/download.exe".into()).unwrap();
    let streams: BTreeMap<_, _> = details.streams.into_iter().collect();
    assert_eq!(
        streams,
        [(&b""[..], 7), (b"Zone.Identifier", 26), (b"big", 100_000)]
            .map(|(name, size)| (name.to_vec(), size))
            .into()
    );
    let mut stream = vec![0; 200_000];
    let path = "/download.exe".into();
    assert_eq!(
        tree.read_stream_at(&path, b"big", 0, &mut stream).unwrap(),
        100_000
    );
    assert!(stream[..100_000].iter().all(|b| *b == 7));
    assert_eq!(
        tree.read_stream_at(&path, b"Zone.Identifier", 20, &mut stream)
            .unwrap(),
        6
    );
    assert_eq!(&stream[..6], b"Id=3\r\n");
    for (name, target) in [
        ("/Documents and Settings", r"C:\Users"),
        ("/relative", "../a/b"),
        ("/absolute", r"D:\x"),
        ("/wsl", "/usr/bin/ü"),
    ] {
        assert_eq!(
            tree.stat(&name.into()).unwrap().kind,
            FileKind::Symlink,
            "{name}"
        );
        assert_eq!(
            tree.read_link(&name.into()).unwrap(),
            target.as_bytes(),
            "{name}"
        );
    }
    let through = tree.stat(&"/Documents and Settings/x".into()).unwrap_err();
    assert_eq!(through.kind(), TreeErrorKind::IsSymlink);
    assert_eq!(
        tree.stat(&"/alias.exe".into()).unwrap().kind,
        FileKind::Special
    );
    assert_eq!(tree.read_file(&"/cloud".into(), 10).unwrap(), b"here");
    for (name, word) in [("/deduplicated", "deduplicated"), ("/wimboot", "WIMBoot")] {
        let refused = tree.read_file(&name.into(), 10_000).unwrap_err();
        assert_eq!(refused.kind(), TreeErrorKind::Unsupported);
        assert!(refused.to_string().contains(word), "{refused}");
    }
    for entry in tree.read_dir(&GuestPath::root()).unwrap() {
        let path = GuestPath::root().join(&entry.name);
        assert_eq!(tree.stat(&path).unwrap().kind, entry.kind, "{path}");
    }
}

/// The compressed bytes of one file as wimlib compresses it: those of WOF are laid out the same way.
fn wim_resource(dir: &Path, contents: &[u8], method: &str, chunk: usize) -> Vec<u8> {
    let (file, wim) = (dir.join("file"), dir.join("wim"));
    std::fs::write(&file, contents).unwrap();
    let _ = std::fs::remove_file(&wim);
    let (method, chunk) = (
        format!("--compress={method}"),
        format!("--chunk-size={chunk}"),
    );
    let folder = dir.join("folder");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::copy(&file, folder.join("f")).unwrap();
    let args = [
        "capture",
        text(&folder),
        text(&wim),
        &method,
        &chunk,
        "--no-check",
    ];
    run_ok("wimlib-imagex", &args);
    let blobs = run_ok("wimlib-imagex", &["info", "--blobs", text(&wim)]);
    // A paragraph for each blob; the file's is the one of its size that is not metadata.
    let field = |paragraph: &str, name: &str| -> u64 {
        let line = paragraph.lines().find(|l| l.contains(name)).unwrap();
        let number = line.split_once('=').unwrap().1;
        let number = number.trim().trim_end_matches(" bytes");
        match number.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).unwrap(),
            None => number.parse().unwrap(),
        }
    };
    let size = contents.len() as u64;
    let blob = blobs
        .split("\n\n")
        .filter(|p| p.contains("Uncompressed size") && !p.contains("METADATA"))
        .find(|p| field(p, "Uncompressed size") == size)
        .unwrap_or_else(|| panic!("{blobs}"));
    let at = field(blob, "Offset in WIM");
    let len = field(blob, "Compressed size");
    let mut bytes = vec![0; len as usize];
    std::fs::File::open(&wim)
        .unwrap()
        .read_exact_at(&mut bytes, at)
        .unwrap();
    bytes
}

#[test]
fn overlaid_files_are_expanded() {
    let test = "overlaid_files_are_expanded";
    if !has_tools(test, &["mkntfs", "ntfs-3g", "wimlib-imagex"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    mkntfs(&image, "-c 4096", 100);
    let Some(filled) = mount(test, &image, "rw,streams_interface=windows") else {
        return;
    };
    let mut expected = BTreeMap::new();
    for (algorithm, method, chunk) in [
        (0_u32, "XPRESS", 4096),
        (2, "XPRESS", 8192),
        (3, "XPRESS", 16_384),
        (1, "LZX", 32_768),
    ] {
        for (name, contents) in samples() {
            let packed = wim_resource(dir.path(), &contents, method, chunk);
            // wimlib leaves what does not become smaller as it is, without a table: so does Windows.
            if packed.len() == contents.len() {
                continue;
            }
            let name = format!("{method}{chunk}-{name}");
            let path = filled.path().join(&name);
            std::fs::File::create(&path)
                .unwrap()
                .set_len(contents.len() as u64)
                .unwrap();
            let mut stream = path.clone().into_os_string();
            stream.push(":WofCompressedData");
            std::fs::write(stream, packed).unwrap();
            let data: Vec<u8> = [0x8000_0017, 16, 1, 2, 1, algorithm]
                .iter()
                .flat_map(|n: &u32| n.to_le_bytes())
                .collect();
            set_xattr(&path, "system.ntfs_reparse_data", &data);
            expected.insert(name.into_bytes(), Some(contents));
        }
    }
    drop(filled);
    assert!(expected.len() > 80, "{}", expected.len());
    assert_same(&our_tree(&tree(&image)), &expected, "overlaid");
    let some: Vec<_> = expected
        .iter()
        .filter(|(_, c)| c.as_ref().unwrap().len() > 60_000)
        .collect();
    let tree = tree(&image);
    for (name, contents) in some {
        let mut part = vec![0; 20_000];
        let path = GuestPath::root().join(name);
        assert_eq!(tree.read_at(&path, 31_000, &mut part).unwrap(), 20_000);
        assert!(part == contents.as_ref().unwrap()[31_000..51_000], "{path}");
    }
}

#[test]
fn volumes_of_real_systems_are_read_as_by_ntfs_3g() {
    let test = "volumes_of_real_systems_are_read_as_by_ntfs_3g";
    if !has_tools(test, &["xz", "gzip", "ntfs-3g"]) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let Some(volumes) = volumes(test, scratch.path()) else {
        return;
    };
    let mut compared = 0;
    for (name, image) in volumes {
        let condition = condition(&FileDisk::open(&image).unwrap()).unwrap();
        let tree = NtfsTree::open_ignoring_log(FileDisk::open(&image).unwrap()).unwrap();
        let ours = our_tree(&tree);
        println!("{name}: {condition:?}, {} names", ours.len());
        let Some(mounted) = mount(test, &image, "ro,norecover") else {
            continue;
        };
        assert_same(&ours, &host_tree(mounted.path()), &name);
        compared += 1;
    }
    assert!(compared >= 5, "{compared}");
}

#[test]
fn a_volume_that_sleeps_or_was_in_use_is_refused_by_name() {
    let test = "a_volume_that_sleeps_or_was_in_use_is_refused_by_name";
    if !has_tools(test, TOOLS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    mkntfs(&image, "-c 4096", 40);
    assert!(
        condition(&FileDisk::open(&image).unwrap())
            .unwrap()
            .check_writable()
            .is_ok()
    );
    let Some(filled) = mount(test, &image, "rw") else {
        return;
    };
    std::fs::write(
        filled.path().join("hiberfil.sys"),
        [b"HIBR", &[3; 100_000][..]].concat(),
    )
    .unwrap();
    std::fs::write(filled.path().join("file"), b"contents").unwrap();
    drop(filled);
    let disk = || FileDisk::open(&image).unwrap();
    assert!(condition(&disk()).unwrap().is_hibernated);
    let refused = NtfsTree::open(disk()).unwrap_err();
    assert_eq!(refused.kind(), TreeErrorKind::Hibernated);
    assert!(refused.to_string().contains("fast start-up"), "{refused}");
    // ntfs-3g says the same.
    assert_eq!(
        run("ntfs-3g.probe", &["--readwrite", text(&image)])
            .status
            .code(),
        Some(14)
    );
    let tree = NtfsTree::open_ignoring_log(disk()).unwrap();
    assert_eq!(tree.read_file(&"/file".into(), 100).unwrap(), b"contents");
}

#[test]
fn hostile_bytes_never_panic_or_hang() {
    let test = "hostile_bytes_never_panic_or_hang";
    if !has_tools(test, TOOLS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    mkntfs(&image, "-c 1024", 20);
    let Some(filled) = mount(test, &image, "rw,compression,streams_interface=windows") else {
        return;
    };
    let folder = filled.path().join("packed");
    std::fs::create_dir(&folder).unwrap();
    set_xattr(&folder, "system.ntfs_attrib", &0x810_u32.to_le_bytes());
    for (name, contents) in samples().into_iter().take(20) {
        std::fs::write(folder.join(name), contents).unwrap();
    }
    let holes = std::fs::File::create(filled.path().join("holes")).unwrap();
    for k in 0..600 {
        holes.write_all_at(&[k as u8; 100], k * 7000).unwrap();
    }
    drop(holes);
    for k in 0..120 {
        std::fs::write(filled.path().join(format!("some name {k}")), [k]).unwrap();
    }
    std::os::unix::fs::symlink("target", filled.path().join("link")).unwrap();
    for (algorithm, name) in [(0_u32, "x4"), (1, "lzx"), (3, "x16")] {
        let path = filled.path().join(name);
        std::fs::File::create(&path)
            .unwrap()
            .set_len(50_000)
            .unwrap();
        std::fs::write(
            filled.path().join(format!("{name}:WofCompressedData")),
            Seeded(1).bytes(9000),
        )
        .unwrap();
        let data = [0x8000_0017, 16, 1, 2, 1, algorithm];
        let data: Vec<u8> = data.iter().flat_map(|n: &u32| n.to_le_bytes()).collect();
        set_xattr(&path, "system.ntfs_reparse_data", &data);
    }
    drop(filled);
    let sound = MemoryDisk::from(std::fs::read(&image).unwrap());
    // Where records, index blocks and compressed data are: what is not zero.
    let mut places = Vec::new();
    let mut piece = [0; 512];
    for at in (0..sound.size()).step_by(512) {
        if sound.read_at(at, &mut piece).is_ok() && piece.iter().any(|b| *b != 0 && *b != 0xFF) {
            places.push(at);
        }
    }
    let heads: Vec<u64> = places
        .iter()
        .copied()
        .filter(|at| {
            let mut magic = [0; 4];
            sound.read_at(*at, &mut magic).unwrap();
            magic == *b"FILE" || magic == *b"INDX"
        })
        .collect();
    assert!(heads.len() > 150, "{}", heads.len());
    let mut random = Seeded(0x77F5);
    let mut opened = 0;
    for round in 0..600 {
        let disk = Overlay::new(&sound);
        for _ in 0..1 + random.below(30) {
            let at = match round % 3 {
                0 => places[random.below(places.len() as u64) as usize] + random.below(512),
                _ => heads[random.below(heads.len() as u64) as usize] + random.below(500),
            };
            mutate(&disk, at, &mut random);
        }
        if let Ok(tree) = NtfsTree::open_ignoring_log(&disk) {
            opened += 1;
            let _ = tree.condition();
            exercise(&tree);
        }
    }
    assert!(opened > 100, "{opened}");
}

/// Not a check but a measurement:
/// `cargo test --release -p filesystems --test ntfs_read -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn speed_of_listing_a_hundred_thousand_files() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    mkntfs(&image, "-c 4096", 4 << 10);
    let filled = mount("speed", &image, "rw").unwrap();
    for k in 0..100_000 {
        let dir = filled.path().join(format!("{}", k / 1000));
        if k % 1000 == 0 {
            std::fs::create_dir(&dir).unwrap();
        }
        std::fs::write(dir.join(format!("file number {k}")), [1; 100]).unwrap();
    }
    drop(filled);
    let start = std::time::Instant::now();
    let tree = tree(&image);
    let (mut left, mut names) = (vec![GuestPath::root()], Vec::new());
    while let Some(dir) = left.pop() {
        for entry in tree.read_dir(&dir).unwrap() {
            let path = dir.join(&entry.name);
            if entry.kind == FileKind::Directory {
                left.push(path.clone());
            }
            names.push(path);
        }
    }
    println!("ours, listed: {:?}, {} names", start.elapsed(), names.len());
    for path in &names {
        tree.stat(path).unwrap();
    }
    println!("ours, listed and stat: {:?}", start.elapsed());
    let mounted = mount("speed", &image, "ro").unwrap();
    let start = std::time::Instant::now();
    let found = run_ok("find", &[text(mounted.path())]);
    println!(
        "find over ntfs-3g: {:?}, {}",
        start.elapsed(),
        found.lines().count()
    );
    let start = std::time::Instant::now();
    run_ok("find", &[text(mounted.path()), "-printf", "%s %p\\n"]);
    println!("find with sizes over ntfs-3g: {:?}", start.elapsed());
    drop(mounted);
    let start = std::time::Instant::now();
    run_ok("ntfsls", &["-R", "-l", text(&image)]);
    println!("ntfsls -R -l: {:?}", start.elapsed());
}
