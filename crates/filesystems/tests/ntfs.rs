//! NTFS made by `mkntfs`, filled and read by ntfs-3g, its used clusters held against partclone and
//! `ntfsresize -i`, and volumes of real Windows systems.
#![allow(
    clippy::single_range_in_vec_init,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used
)]

mod common;

use block_io::{BlockRead, FileDisk, MemoryDisk, Overlay};
use common::ntfs::*;
use common::oracle::*;
use common::*;
use filesystems::ntfs::system_files;
use filesystems::probe::{FsKind, probe};
use filesystems::used::Findings;

#[test]
fn used_clusters_are_those_of_partclone_and_a_copy_of_them_is_whole() {
    let test = "used_clusters_are_those_of_partclone_and_a_copy_of_them_is_whole";
    if !has_tools(test, &["mkntfs", "ntfs-3g", "ntfsresize", "partclone.ntfs"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (image, copy) = (dir.path().join("image"), dir.path().join("copy"));
    for (name, args, mib) in NTFS_VARIANTS {
        mkntfs(&image, args, *mib);
        let Some(filled) = mount(test, &image, "rw") else {
            return;
        };
        make_tree(filled.path(), 40, true);
        // Pieces, so that run lists are long.
        for k in (0..40).step_by(3) {
            for dir in ["etc", "EFI/BOOT"] {
                let _ = std::fs::remove_file(filled.path().join(dir).join(format!("FILE{k}.BIN")));
            }
        }
        std::fs::write(filled.path().join("late"), Seeded(9).bytes(3_000_000)).unwrap();
        let files = host_tree(filled.path());
        drop(filled);
        let disk = FileDisk::open(&image).unwrap();
        let findings = Findings::default();
        let ours = used(&disk, &findings);
        assert!(findings.list().is_empty(), "{name}: {:?}", findings.list());
        let truth = partclone_used("ntfs", &image);
        assert_eq!(missing(&truth, &ours), [], "{name}: left out");
        // Behind the last cluster lies the copy of the boot sector; partclone leaves it to others.
        let extra = sum(&missing(&ours, &truth));
        assert!(extra <= 2 << 20, "{name}: {extra} bytes too much");
        assert!(sum(&ours) < (mib << 20) * 9 / 10, "{name}");
        copy_ranges(&image, &ours, &copy);
        litter_free_space(&copy);
        // It follows every run list and compares with the bitmap.
        run_ok("ntfsresize", &["-i", "-f", text(&copy)]);
        let Some(copied) = mount(test, &copy, "ro") else {
            return;
        };
        assert_same(&host_tree(copied.path()), &files, name);
    }
}

#[test]
fn page_and_hibernation_files_are_found_where_their_bytes_lie() {
    let test = "page_and_hibernation_files_are_found_where_their_bytes_lie";
    if !has_tools(test, &["mkntfs", "ntfs-3g"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    mkntfs(&image, "-c 4096", 80);
    assert!(
        system_files(&FileDisk::open(&image).unwrap())
            .unwrap()
            .is_empty()
    );
    let Some(filled) = mount(test, &image, "rw") else {
        return;
    };
    // A root directory whose index is a tree.
    for k in 0..1500 {
        std::fs::write(
            filled.path().join(format!("{k} among many in the root")),
            b"x",
        )
        .unwrap();
        std::fs::write(filled.path().join(format!("p{k}")), b"x").unwrap();
    }
    let page = Seeded(3).bytes(9_000_001);
    let hibernation = [b"HIBR", &Seeded(4).bytes(5_000_000)[..]].concat();
    std::fs::write(filled.path().join("PageFile.sys"), &page).unwrap();
    std::fs::write(filled.path().join("hiberfil.sys"), &hibernation).unwrap();
    drop(filled);
    let disk = FileDisk::open(&image).unwrap();
    let found = system_files(&disk).unwrap();
    let names: Vec<_> = found.iter().map(|f| (f.name, f.is_hibernated)).collect();
    assert_eq!(names, [("pagefile.sys", false), ("hiberfil.sys", true)]);
    for (file, expected) in found.iter().zip([&page, &hibernation]) {
        assert_eq!(file.size, expected.len() as u64);
        let mut bytes = Vec::new();
        for range in &file.ranges {
            let mut part = vec![0; (range.end - range.start) as usize];
            disk.read_at(range.start, &mut part).unwrap();
            bytes.extend(part);
        }
        bytes.truncate(expected.len());
        assert!(bytes == *expected, "{}", file.name);
    }
    // A page of zeroes at its start: the system is awake.
    let awake = Overlay::new(&disk);
    block_io::BlockWrite::write_at(&awake, found[1].ranges[0].start, &[0; 4096]).unwrap();
    assert!(!system_files(&awake).unwrap()[1].is_hibernated);
}

#[test]
fn volumes_of_real_systems_keep_all_their_clusters() {
    let test = "volumes_of_real_systems_keep_all_their_clusters";
    if !has_tools(test, &["xz", "gzip", "partclone.ntfs"]) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let Some(volumes) = volumes(test, scratch.path()) else {
        return;
    };
    assert!(volumes.len() >= 5, "{volumes:?}");
    let mut believed = 0;
    for (name, image) in volumes {
        let files = system_files(&FileDisk::open(&image).unwrap()).unwrap();
        println!("{name}: {files:?}");
        believed += usize::from(believed_as_by_partclone("ntfs", &name, &image));
    }
    assert!(believed >= 1);
}

#[test]
fn hostile_bytes_end_in_findings() {
    let test = "hostile_bytes_end_in_findings";
    if !has_tools(test, &["mkntfs", "ntfs-3g"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    mkntfs(&image, "-c 1024", 20);
    let Some(filled) = mount(test, &image, "rw") else {
        return;
    };
    for k in 0..300 {
        std::fs::write(filled.path().join(format!("p{k} a name in the root")), b"x").unwrap();
    }
    std::fs::write(filled.path().join("pagefile.sys"), vec![1; 100_000]).unwrap();
    drop(filled);
    let sound = MemoryDisk::from(std::fs::read(&image).unwrap());
    let mut boot = [0; 512];
    sound.read_at(0, &mut boot).unwrap();
    let mft = u64::from_le_bytes(boot[0x30..0x38].try_into().unwrap()) * 1024;
    let truth = used(&sound, &Findings::default());
    let mut random = Seeded(0x47F5);
    let mut believed = 0;
    for round in 0..4000 {
        let disk = Overlay::new(&sound);
        for _ in 0..1 + random.below(3) {
            let record = [0, 2, 3, 5, 6][random.below(5) as usize] * 1024;
            let at = match round % 8 {
                0 => random.below(96),
                1 => mft + random.below(64 * 1024),
                _ => mft + record + random.below(600),
            };
            mutate(&disk, at, &mut random);
        }
        if probe(&disk)
            .unwrap()
            .is_some_and(|p| p.kind == FsKind::Ntfs)
        {
            let findings = Findings::default();
            let ours = used(&disk, &findings);
            if findings.list().is_empty() && missing(&truth, &ours).is_empty() {
                believed += 1;
            }
            let _ = system_files(&disk);
        }
    }
    assert!(believed > 100, "{believed}");
}

/// Not a check but a measurement: `cargo test --release -p filesystems --test ntfs -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn speed_of_the_used_map() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    mkntfs(&image, "-c 4096", 1 << 20);
    let filled = mount("speed", &image, "rw").unwrap();
    for k in 0..20_000 {
        std::fs::write(filled.path().join(format!("{k}")), vec![1; 5000]).unwrap();
    }
    drop(filled);
    let start = std::time::Instant::now();
    let ours = used(&FileDisk::open(&image).unwrap(), &Findings::default());
    println!("ours: {:?}, {} ranges", start.elapsed(), ours.len());
    let start = std::time::Instant::now();
    run_ok(
        "ntfsclone",
        &["-q", "-s", "-O", "/dev/null", "-m", text(&image)],
    );
    println!("ntfsclone -m -s to /dev/null: {:?}", start.elapsed());
    let start = std::time::Instant::now();
    partclone_used("ntfs", &image);
    println!("partclone.ntfs: {:?}", start.elapsed());
}
