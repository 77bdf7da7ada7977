//! NTFS grown and shrunk: held against `ntfsresize -i`, `ntfsfix -n` and ntfs-3g, which reads every file.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use block_io::{BlockRead, FileDisk, FileDiskMut, MemoryDisk, Overlay, Window};
use common::ntfs::*;
use common::oracle::*;
use common::*;
use filesystems::ntfs::NtfsTree;
use filesystems::probe::FsKind;
use filesystems::resize::{ResizeErrorKind, Resized, resize, resize_limits};
use filesystems::tree::Recovery;

const TOOLS: &[&str] = &["mkntfs", "ntfs-3g", "ntfsresize", "ntfsfix", "ntfsinfo"];

type Files = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// Resize the volume in `image`, which becomes as long as the result.
fn resize_image(image: &Path, new_size: u64) -> Resized {
    let file = std::fs::OpenOptions::new().write(true).open(image).unwrap();
    let len = file.metadata().unwrap().len();
    file.set_len(len.max(new_size)).unwrap();
    let disk = FileDiskMut::open(image).unwrap();
    let resized = resize(&disk, FsKind::Ntfs, new_size, Recovery::Refuse).unwrap();
    assert!(resized.after <= new_size && new_size - resized.after < 4096);
    drop(disk);
    file.set_len(resized.after).unwrap();
    resized
}

/// Everyone finds it sound, and every file is there.
fn assert_sound(test: &str, image: &Path, files: &Files, what: &str) -> bool {
    let info = run("ntfsresize", &["-i", "-f", text(image)]);
    let said = String::from_utf8_lossy(&info.stdout).into_owned();
    // It has compared every cluster with the bitmap when it says this.
    let is_full =
        said.contains("Collecting resizing constraints") && said.contains("Volume is full");
    if !is_full {
        assert_succeeded(&info, &format!("{what}: ntfsresize -i"));
    }
    let fix = run("ntfsfix", &["-n", text(image)]);
    let said = String::from_utf8_lossy(&fix.stdout).into_owned();
    assert!(
        fix.status.success() && said.contains("OK"),
        "{what}: {said}"
    );
    for bad in ["FAILED", "corrupt", "Corrupt", "differ", "rror:"] {
        assert!(!said.contains(bad), "{what}: {said}");
    }
    run_ok("ntfsinfo", &["-m", text(image)]);
    assert_eq!(
        run("ntfs-3g.probe", &["--readwrite", text(image)])
            .status
            .code(),
        Some(0),
        "{what}"
    );
    let disk = FileDisk::open(image).unwrap();
    assert_same(&our_tree(&NtfsTree::open(&disk).unwrap()), files, what);
    let findings = filesystems::used::Findings::default();
    used(&disk, &findings);
    assert!(findings.list().is_empty(), "{what}: {:?}", findings.list());
    let Some(mounted) = mount(test, image, "ro") else {
        return false;
    };
    assert_same(&host_tree(mounted.path()), files, what);
    true
}

/// A volume with files all over it: much was written, and every other of it removed.
fn fill(test: &str, image: &Path, mib: u64) -> Option<Files> {
    let filled = mount(test, image, "rw")?;
    make_tree(filled.path(), 40, true);
    let piece = (mib << 20) / 300;
    let folder = filled.path().join("pieces");
    std::fs::create_dir(&folder).unwrap();
    for k in 0..200 {
        std::fs::write(folder.join(format!("{k}")), Seeded(k).bytes(piece as usize)).unwrap();
    }
    for k in (0..200).filter(|k| k % 3 != 0) {
        std::fs::remove_file(folder.join(format!("{k}"))).unwrap();
    }
    // At the end of the volume, in many pieces.
    std::fs::write(
        filled.path().join("late"),
        Seeded(77).bytes((mib << 20) as usize / 8),
    )
    .unwrap();
    Some(host_tree(filled.path()))
}

#[test]
fn volumes_shrink_to_their_smallest_size_and_grow_again() {
    let test = "volumes_shrink_to_their_smallest_size_and_grow_again";
    if !has_tools(test, TOOLS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    for (name, args, mib) in NTFS_VARIANTS {
        mkntfs(&image, args, *mib);
        let Some(files) = fill(test, &image, *mib) else {
            return;
        };
        let limits = resize_limits(&FileDisk::open(&image).unwrap(), FsKind::Ntfs).unwrap();
        let info = run_ok("ntfsresize", &["-i", "-f", text(&image)]);
        let line = info
            .lines()
            .find(|l| l.contains("resize at"))
            .unwrap_or_default();
        println!("{name}: {limits:?}; {line}");
        let theirs: Option<u64> = line.split_whitespace().find_map(|w| w.parse().ok());
        let theirs = theirs.unwrap_or(limits.current);
        assert!(
            limits.smallest <= theirs + theirs / 50,
            "{name}: {limits:?}, {theirs}"
        );
        let middle = (limits.smallest + limits.current) / 2;
        for new_size in [
            middle,
            limits.smallest,
            limits.current,
            3 * limits.current + 12_345,
            middle,
        ] {
            let resized = resize_image(&image, new_size);
            println!("{name}: {resized:?}");
            if !assert_sound(test, &image, &files, &format!("{name} at {new_size}")) {
                return;
            }
        }
        // ntfsresize takes over from here.
        let size = ((limits.smallest + middle) / 2 / (2 << 20) * (2 << 20)).to_string();
        run_ok("ntfsresize", &["-n", "-f", "-s", &size, text(&image)]);
    }
}

#[test]
fn what_does_not_fit_is_refused_and_nothing_was_written() {
    let test = "what_does_not_fit_is_refused_and_nothing_was_written";
    if !has_tools(test, TOOLS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    mkntfs(&image, "-c 4096", 40);
    let Some(filled) = mount(test, &image, "rw") else {
        return;
    };
    std::fs::write(filled.path().join("big"), Seeded(5).bytes(20 << 20)).unwrap();
    drop(filled);
    let disk = FileDisk::open(&image).unwrap();
    let limits = resize_limits(&disk, FsKind::Ntfs).unwrap();
    let overlay = Overlay::new(&disk);
    let refused = resize(
        &overlay,
        FsKind::Ntfs,
        limits.smallest - 4096,
        Recovery::Refuse,
    )
    .unwrap_err();
    let smallest = limits.smallest;
    assert_eq!(refused.kind(), ResizeErrorKind::TooSmall { smallest });
    assert!(!refused.is_torn());
    let same = resize(&overlay, FsKind::Ntfs, limits.current, Recovery::Refuse).unwrap();
    assert_eq!(
        (same.before, same.after, same.moved),
        (limits.current, limits.current, 0)
    );
    // Marked dirty.
    let mark = Overlay::new(&disk);
    let mut boot = [0; 512];
    disk.read_at(0, &mut boot).unwrap();
    let mft = u64::from_le_bytes(boot[0x30..0x38].try_into().unwrap()) * 4096;
    let mut record = [0; 1024];
    disk.read_at(mft + 3 * 1024, &mut record).unwrap();
    let mut at = usize::from(u16::from_le_bytes([record[0x14], record[0x15]]));
    while record[at] != 0x70 {
        at += usize::from(u16::from_le_bytes([record[at + 4], record[at + 5]]));
    }
    let flags = at + usize::from(u16::from_le_bytes([record[at + 0x14], record[at + 0x15]])) + 10;
    block_io::BlockWrite::write_at(&mark, mft + 3 * 1024 + flags as u64, &[1]).unwrap();
    for refused in [
        resize_limits(&mark, FsKind::Ntfs).unwrap_err(),
        resize(&mark, FsKind::Ntfs, limits.smallest, Recovery::Replay).unwrap_err(),
    ] {
        assert_eq!(refused.kind(), ResizeErrorKind::Dirty);
        assert!(refused.to_string().contains("chkdsk"), "{refused}");
    }
}

#[test]
fn volumes_of_real_systems_change_their_size() {
    let test = "volumes_of_real_systems_change_their_size";
    if !has_tools(test, &[TOOLS, &["xz", "gzip"]].concat()) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let Some(volumes) = volumes(test, scratch.path()) else {
        return;
    };
    let mut resized = 0;
    for (name, image) in volumes {
        let files = {
            let Some(mounted) = mount(test, &image, "ro,norecover") else {
                continue;
            };
            host_tree(mounted.path())
        };
        let limits = match resize_limits(&FileDisk::open(&image).unwrap(), FsKind::Ntfs) {
            Ok(limits) => limits,
            Err(refused) => {
                // Only what ntfsresize refuses, too.
                println!("{name}: {refused}");
                let theirs = run("ntfsresize", &["-i", "-f", text(&image)]);
                assert!(!theirs.status.success(), "{name}: {refused}");
                continue;
            }
        };
        println!("{name}: {limits:?}");
        for new_size in [
            limits.smallest,
            limits.current + (64 << 20),
            limits.smallest + 999_999,
        ] {
            resize_image(&image, new_size);
            if !assert_sound(test, &image, &files, &format!("{name} at {new_size}")) {
                return;
            }
        }
        resized += 1;
    }
    assert!(resized >= 5, "{resized}");
}

#[test]
fn random_sizes_keep_every_file() {
    let test = "random_sizes_keep_every_file";
    if !has_tools(test, TOOLS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    for (round, args) in ["-c 512", "-c 4096", "-c 1024"].into_iter().enumerate() {
        mkntfs(&image, args, 30);
        let Some(files) = fill(test, &image, 30) else {
            return;
        };
        let room = 64 << 20;
        let mut bytes = std::fs::read(&image).unwrap();
        let mut size = bytes.len() as u64;
        bytes.resize(room, 0xA5);
        let disk = MemoryDisk::from(bytes);
        let mut random = Seeded(round as u64);
        for step in 0..120 {
            let part = Window::new(&disk, 0..size).unwrap();
            let limits = resize_limits(&part, FsKind::Ntfs).unwrap();
            let new_size = match random.below(4) {
                0 => limits.smallest + random.below(100_000),
                1 => limits.smallest,
                2 => limits.smallest + random.below(room as u64 - limits.smallest),
                _ => (size + random.below(9000))
                    .saturating_sub(4500)
                    .clamp(limits.smallest, room as u64),
            };
            let resized = resize(&disk, FsKind::Ntfs, new_size, Recovery::Refuse).unwrap();
            size = resized.after;
            let part = Window::new(&disk, 0..size).unwrap();
            let tree = NtfsTree::open(&part).unwrap();
            if step % 8 == 0 {
                assert_same(&our_tree(&tree), &files, &format!("{args}, step {step}"));
            }
            if step % 60 == 59 {
                let mut bytes = vec![0; size as usize];
                disk.read_at(0, &mut bytes).unwrap();
                std::fs::write(&image, bytes).unwrap();
                if !assert_sound(test, &image, &files, &format!("{args}, step {step}")) {
                    return;
                }
            }
        }
    }
}

#[test]
fn files_in_thousands_of_pieces_get_further_records() {
    let test = "files_in_thousands_of_pieces_get_further_records";
    if !has_tools(test, TOOLS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    for (args, mib, piece) in [("-c 4096", 64, 4096), ("-c 512", 16, 900)] {
        mkntfs(&image, args, mib);
        let Some(filled) = mount(test, &image, "rw,compression,streams_interface=windows") else {
            return;
        };
        let at = |name: &str| filled.path().join(name);
        let packed = at("packed");
        std::fs::create_dir(&packed).unwrap();
        let compress = 0x810_u32.to_le_bytes();
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(&packed, "system.ntfs_attrib", &compress, flags).unwrap();
        // Nothing but small files, of which every other one goes, in front of large ones.
        std::fs::create_dir(at("small")).unwrap();
        let small: u64 = (mib << 20) * 35 / 100 / (piece + 1024);
        let mut late = |k: u64| {
            let len = (mib << 20) / 12;
            let contents = Seeded(k).bytes(len as usize);
            match k {
                0 => std::fs::write(at("one"), contents).unwrap(),
                // A stream beside it, so that two grow at once.
                1 => std::fs::write(at("one:stream"), contents).unwrap(),
                // Every third cluster is not there: it has a list already.
                2 => {
                    let file = std::fs::File::create(at("holes")).unwrap();
                    for (n, part) in contents.chunks(4096).enumerate() {
                        std::os::unix::fs::FileExt::write_all_at(&file, part, n as u64 * 12_288)
                            .unwrap();
                    }
                }
                _ => {
                    let text: Vec<u8> = contents.iter().map(|b| b & 3).collect();
                    std::fs::write(at("packed/text"), text).unwrap();
                }
            }
        };
        for k in 0..small {
            std::fs::write(at(&format!("small/{k}")), vec![k as u8; piece as usize]).unwrap();
        }
        (0..4).for_each(&mut late);
        // All the rest, so that there is no other gap.
        let ballast = std::fs::File::create(at("ballast")).unwrap();
        let mut end = 0;
        while std::os::unix::fs::FileExt::write_all_at(&ballast, &[5; 4096], end).is_ok() {
            end += 4096;
        }
        drop(ballast);
        for k in (0..small).step_by(2) {
            std::fs::remove_file(at(&format!("small/{k}"))).unwrap();
        }
        let files = host_tree(filled.path());
        let stream = std::fs::read(at("one:stream")).unwrap();
        drop(filled);
        let limits = resize_limits(&FileDisk::open(&image).unwrap(), FsKind::Ntfs).unwrap();
        let resized = resize_image(&image, limits.smallest);
        println!("{args}: {limits:?}, {resized:?}");
        if !assert_sound(test, &image, &files, args) {
            return;
        }
        let disk = FileDisk::open(&image).unwrap();
        let tree = NtfsTree::open(&disk).unwrap();
        let mut found = vec![0; stream.len()];
        tree.read_stream_at(&"/one".into(), b"stream", 0, &mut found)
            .unwrap();
        assert!(found == stream);
        let has_list = |path: &&str| {
            run_ok("ntfsinfo", &["-F", path, text(&image)]).contains("$ATTRIBUTE_LIST")
        };
        let listed: Vec<_> = ["/one", "/packed/text", "/ballast"]
            .into_iter()
            .filter(has_list)
            .collect();
        println!("{args}: lists of {listed:?}");
        assert!(!listed.is_empty(), "{args}");
        // And on from there, now that there are lists.
        let size = limits.current + (8 << 20);
        resize_image(&image, size);
        let Some(filled) = mount(test, &image, "rw") else {
            return;
        };
        std::fs::write(filled.path().join("further"), Seeded(9).bytes(1 << 20)).unwrap();
        let files = host_tree(filled.path());
        drop(filled);
        let limits = resize_limits(&FileDisk::open(&image).unwrap(), FsKind::Ntfs).unwrap();
        resize_image(&image, limits.smallest);
        if !assert_sound(test, &image, &files, args) {
            return;
        }
    }
}

#[test]
fn contradictions_are_found_before_anything_is_written() {
    let test = "contradictions_are_found_before_anything_is_written";
    if !has_tools(test, TOOLS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    mkntfs(&image, "-c 4096", 20);
    let Some(filled) = mount(test, &image, "rw") else {
        return;
    };
    for k in 0..60 {
        std::fs::write(filled.path().join(format!("{k}")), vec![k; 50_000]).unwrap();
    }
    drop(filled);
    let sound = MemoryDisk::from(std::fs::read(&image).unwrap());
    let limits = resize_limits(&sound, FsKind::Ntfs).unwrap();
    let middle = (limits.smallest + limits.current) / 2;
    // Where the bitmap is: the bits of the first clusters, of $Boot and the MFT, begin it.
    let listed = run_ok("ntfscluster", &["-I", "6", text(&image)]);
    let number = |word: &str| {
        word.trim_matches(|c: char| !c.is_ascii_digit())
            .parse::<u64>()
            .ok()
    };
    let bitmap = listed
        .lines()
        .skip_while(|l| !l.contains("0x80"))
        .find_map(|l| match l.split_whitespace().collect::<Vec<_>>()[..] {
            [vcn, lcn, _count] if number(vcn) == Some(0) => number(lcn),
            _ => None,
        });
    let Some(bitmap) = bitmap else {
        panic!("{listed}");
    };
    for (at, byte, word) in [
        (bitmap * 4096, 0xFE, "found free"),
        (bitmap * 4096 + 600, 0x10, "found used"),
    ] {
        let disk = Overlay::new(&sound);
        let mut old = [0];
        disk.read_at(at, &mut old).unwrap();
        assert_ne!(old[0], byte);
        block_io::BlockWrite::write_at(&disk, at, &[byte]).unwrap();
        let refused = resize(&disk, FsKind::Ntfs, middle, Recovery::Refuse).unwrap_err();
        assert_eq!(refused.kind(), ResizeErrorKind::Damaged, "{refused}");
        assert!(
            refused.to_string().contains(word) && !refused.is_torn(),
            "{refused}"
        );
        std::fs::write(dir.path().join("bad"), {
            let mut bytes = vec![0; disk.size() as usize];
            disk.read_at(0, &mut bytes).unwrap();
            bytes
        })
        .unwrap();
        // ntfsresize says the same.
        let theirs = run("ntfsresize", &["-i", "-f", text(&dir.path().join("bad"))]);
        assert!(!theirs.status.success());
    }
}

#[test]
fn hostile_bytes_are_refused_or_resized_without_panic() {
    let test = "hostile_bytes_are_refused_or_resized_without_panic";
    if !has_tools(test, TOOLS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    mkntfs(&image, "-c 1024", 20);
    let Some(filled) = mount(test, &image, "rw") else {
        return;
    };
    for k in 0..60 {
        std::fs::write(filled.path().join(format!("{k}")), vec![k; 30_000]).unwrap();
    }
    drop(filled);
    let mut bytes = std::fs::read(&image).unwrap();
    bytes.resize(40 << 20, 0);
    let sound = MemoryDisk::from(bytes);
    let mut boot = [0; 512];
    sound.read_at(0, &mut boot).unwrap();
    let mft = u64::from_le_bytes(boot[0x30..0x38].try_into().unwrap()) * 1024;
    let mut random = Seeded(0x5126);
    let (mut done, mut refused) = (0, 0);
    for round in 0..1500 {
        let disk = Overlay::new(&sound);
        for _ in 0..random.below(4) {
            let at = match round % 4 {
                0 => random.below(96),
                1 => mft + random.below(11) * 1024 + random.below(600),
                2 => mft + random.below(90) * 1024 + random.below(400),
                _ => {
                    mft + [0, 1, 2, 6, 8][random.below(5) as usize] * 1024
                        + 0x38
                        + random.below(400)
                }
            };
            mutate(&disk, at, &mut random);
        }
        let _ = resize_limits(&disk, FsKind::Ntfs);
        let new_size = random.below(41 << 20);
        match resize(&disk, FsKind::Ntfs, new_size, Recovery::Refuse) {
            Ok(_) => {
                done += 1;
                if let Ok(tree) = NtfsTree::open(&disk) {
                    exercise(&tree);
                }
            }
            Err(_) => refused += 1,
        }
    }
    println!("{done} resized, {refused} refused");
    assert!(done > 100 && refused > 100, "{done} {refused}");
}

/// Not a check but a measurement:
/// `cargo test --release -p filesystems --test ntfs_resize -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn speed_of_growing_and_shrinking() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    mkntfs(&image, "-c 4096", 200 << 10);
    let filled = mount("speed", &image, "rw").unwrap();
    for k in 0..20_000 {
        std::fs::write(filled.path().join(format!("{k}")), vec![1; 5000]).unwrap();
    }
    drop(filled);
    let time = |what: &str, job: &mut dyn FnMut()| {
        let start = std::time::Instant::now();
        job();
        println!("{what}: {:?}", start.elapsed());
    };
    let disk = FileDisk::open(&image).unwrap();
    time("limits", &mut || {
        println!("{:?}", resize_limits(&disk, FsKind::Ntfs).unwrap());
    });
    time("ntfsresize -i", &mut || {
        run_ok("ntfsresize", &["-i", "-f", text(&image)]);
    });
    for (what, size) in [("shrink to 1 GiB", 1 << 30), ("grow to 1 TiB", 1 << 40)] {
        time(what, &mut || println!("{:?}", resize_image(&image, size)));
    }
    time("shrink to 2 GiB by ntfsresize", &mut || {
        run_ok(
            "ntfsresize",
            &["-f", "-f", "-s", "2147483648", text(&image)],
        );
    });
}
