//! The strict check, held against `qemu-img check`, the fixtures, and damage done on purpose.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;

use image_formats::{Report, SameFolder, Severity, Verdict, check};
use support::{arg, make_disk, must, run, scratch, write_image};

const MIB: u64 = 1 << 20;

fn rules_of(report: &Report) -> Vec<&'static str> {
    report
        .findings
        .iter()
        .filter(|finding| finding.severity > Severity::Note)
        .map(|finding| finding.rule.id)
        .collect()
}

/// Leaks and corruptions as `qemu-img check` counts them; `None` where it did not finish.
fn qemu_counts(test: &str, image: &Path) -> Option<Option<(u64, u64)>> {
    let args = ["check", "-f", "qcow2", "--output", "json", arg(image)];
    let (_, text) = run(test, "qemu-img", &args)?;
    let number = |name: &str| -> u64 {
        text.split(&format!("\"{name}\": "))
            .nth(1)
            .and_then(|rest| rest.split([',', '\n', ' ']).next())
            .map_or(0, |digits| digits.parse().unwrap())
    };
    if !text.contains("\"check-errors\": 0") {
        return Some(None);
    }
    Some(Some((number("leaks"), number("corruptions"))))
}

/// A disk with data here and there.
fn sample(path: &Path) -> block_io::FileDisk {
    make_disk(
        path,
        9 * MIB + 512,
        &[(0, 300_000), (2 * MIB, 100), (3 * MIB, MIB), (9 * MIB, 512)],
    )
}

#[test]
fn what_this_crate_writes_breaks_no_rule() {
    let dir = scratch();
    for (name, size, runs) in support::corner_disks() {
        let raw = dir.path().join("source.raw");
        let source = make_disk(&raw, size, &runs);
        for format in [
            "raw",
            "qcow2",
            "qcow2:zstd",
            "qcow2:zlib,cluster_size=512",
            "qcow2:cluster_size=2M",
            "vhdx",
            "vhdx:fixed",
            "vhdx:sector_size=4096",
            "vmdk:monolithicSparse",
            "vmdk:monolithicFlat",
            "vmdk:streamOptimized",
            "vmdk:twoGbMaxExtentSparse",
            "vhd",
            "vhd:fixed",
            "vdi",
            "vdi:fixed",
            "parallels",
        ] {
            // Tables of 512-byte clusters of a large disk are larger than QEMU opens; fixed files of one
            // are only time.
            if size > 1 << 30 && (format.contains("=512") || format.ends_with("fixed")) {
                continue;
            }
            let path = write_image(&source, format, &dir.path().join("image"));
            let kind = format.split(':').next().unwrap();
            let kind = image_formats::ImageFormat::from_qemu_name(kind).unwrap();
            let report = check(&path, Some(kind), &SameFolder).unwrap();
            assert_eq!(
                report.verdict(),
                Verdict::Clean,
                "{name}, {format}: {:#?}",
                report.findings
            );
            assert_eq!(
                (report.leaks, report.corruptions),
                (0, 0),
                "{name}, {format}"
            );
            support::remove_image(&path);
        }
        std::fs::remove_file(raw).unwrap();
    }
}

#[test]
fn what_qemu_writes_breaks_no_rule() {
    let test = "what_qemu_writes_breaks_no_rule";
    let dir = scratch();
    let (raw, image) = (dir.path().join("source.raw"), dir.path().join("image"));
    sample(&raw);
    for (format, options) in [
        ("qcow2", "compat=0.10"),
        ("qcow2", "refcount_bits=1"),
        ("qcow2", "refcount_bits=2"),
        ("qcow2", "refcount_bits=4"),
        ("qcow2", "refcount_bits=8"),
        ("qcow2", "refcount_bits=32"),
        ("qcow2", "refcount_bits=64"),
        ("qcow2", "cluster_size=512"),
        ("qcow2", "cluster_size=2M"),
        ("qcow2", "extended_l2=on"),
        ("qcow2", "preallocation=metadata"),
        ("qcow2", "preallocation=full"),
        ("vmdk", "subformat=monolithicSparse"),
        ("vmdk", "subformat=monolithicFlat"),
        ("vmdk", "subformat=twoGbMaxExtentSparse"),
        ("vmdk", "subformat=streamOptimized"),
        ("vhdx", "subformat=dynamic"),
        ("vhdx", "subformat=fixed"),
        ("vpc", "subformat=dynamic,force_size=on"),
        ("vpc", "subformat=fixed,force_size=on"),
    ] {
        let args = [
            "convert",
            "-f",
            "raw",
            "-O",
            format,
            "-o",
            options,
            arg(&raw),
            arg(&image),
        ];
        if must(test, "qemu-img", &args).is_none() {
            return;
        }
        let format = image_formats::ImageFormat::from_qemu_name(format).unwrap();
        let report = check(&image, Some(format), &SameFolder).unwrap();
        assert_eq!(report.corruptions, 0, "{options}: {:#?}", report.findings);
        // QEMU leaves 14 MiB unused in a fixed VHDX.
        let fixed = options == "subformat=fixed";
        assert!(
            report.leaks == 0 || fixed,
            "{options}: {:#?}",
            report.findings
        );
        // Against the letter of the specification, in every file of this version of QEMU.
        let known = [
            "vmdk.stream-end",
            "vmdk.flags",
            "vmdk.redundant",
            "vhdx.metadata-shape",
            "vhdx.leak",
        ];
        let rules = rules_of(&report);
        println!("{format:?} {options}: {rules:?}");
        assert!(
            rules.iter().all(|rule| known.contains(rule)),
            "{options}: {:#?}",
            report.findings
        );
    }
}

/// One kind of damage to a qcow2 file.
type Damage = (&'static str, fn(&mut Vec<u8>), &'static [&'static str]);

fn be64(bytes: &[u8], at: u64) -> u64 {
    u64::from_be_bytes(bytes[at as usize..at as usize + 8].try_into().unwrap())
}

fn set_be64(bytes: &mut [u8], at: u64, value: u64) {
    bytes[at as usize..at as usize + 8].copy_from_slice(&value.to_be_bytes());
}

const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

/// The first L2 table of a qcow2 file.
fn first_l2(bytes: &[u8]) -> u64 {
    be64(bytes, be64(bytes, 40)) & OFFSET
}

/// The place of the `index`th L2 entry that is not zero.
fn used_entry(bytes: &[u8], index: usize) -> u64 {
    let table = first_l2(bytes);
    (0..)
        .map(|entry| table + entry * 8)
        .filter(|at| be64(bytes, *at) & OFFSET != 0)
        .nth(index)
        .unwrap()
}

fn refcount_block(bytes: &[u8]) -> u64 {
    be64(bytes, be64(bytes, 48))
}

const DAMAGES: &[Damage] = &[
    ("nothing", |_| {}, &[]),
    (
        "an entry dropped",
        |bytes| {
            let at = used_entry(bytes, 3);
            set_be64(bytes, at, 0);
        },
        &["qcow2.leak"],
    ),
    (
        "a table dropped",
        |bytes| {
            let at = be64(bytes, 40);
            set_be64(bytes, at, 0);
        },
        &["qcow2.leak"],
    ),
    (
        "two entries of one cluster",
        |bytes| {
            let (from, to) = (used_entry(bytes, 1), used_entry(bytes, 2));
            let entry = be64(bytes, from);
            set_be64(bytes, to, entry);
        },
        &["qcow2.refcount-low", "qcow2.leak"],
    ),
    (
        "a refcount of zero",
        |bytes| {
            let cluster = (be64(bytes, used_entry(bytes, 0)) & OFFSET) >> 16;
            let at = (refcount_block(bytes) + cluster * 2) as usize;
            bytes[at..at + 2].fill(0);
        },
        &["qcow2.refcount-low", "qcow2.copied"],
    ),
    (
        "a refcount of two",
        |bytes| {
            let cluster = (be64(bytes, used_entry(bytes, 0)) & OFFSET) >> 16;
            let at = (refcount_block(bytes) + cluster * 2 + 1) as usize;
            bytes[at] = 2;
        },
        &["qcow2.leak", "qcow2.copied"],
    ),
    (
        "COPIED cleared",
        |bytes| {
            let at = used_entry(bytes, 0);
            bytes[at as usize] &= 0x7f;
        },
        &["qcow2.copied"],
    ),
    (
        "reserved bits of an L2 entry",
        |bytes| {
            let at = used_entry(bytes, 0);
            bytes[at as usize] |= 0x01;
        },
        &["qcow2.l2-entry"],
    ),
    (
        "reserved bits of an L1 entry",
        |bytes| {
            let at = be64(bytes, 40);
            bytes[at as usize + 7] |= 1;
        },
        &["qcow2.l1-entry"],
    ),
    (
        "an entry out of line",
        |bytes| {
            let at = used_entry(bytes, 0);
            bytes[at as usize + 6] |= 0x02;
        },
        &["qcow2.data-offset", "qcow2.refcount-low"],
    ),
    (
        "data over the L2 table",
        |bytes| {
            let (at, table) = (used_entry(bytes, 0), first_l2(bytes));
            set_be64(bytes, at, table | 1 << 63);
        },
        &["qcow2.overlap", "qcow2.refcount-low", "qcow2.leak"],
    ),
    (
        "data over the header",
        |bytes| {
            let at = used_entry(bytes, 0);
            // Bit 0 to make it allocated: offset 0 alone would be nothing. Zero and allocated at the L1.
            let l1 = be64(bytes, 40);
            set_be64(bytes, at, l1 | 1 << 63);
        },
        &["qcow2.overlap", "qcow2.refcount-low", "qcow2.leak"],
    ),
    (
        "data far outside",
        |bytes| {
            let at = used_entry(bytes, 0);
            set_be64(bytes, at, 1 << 63 | 1 << 40);
        },
        &["qcow2.outside", "qcow2.leak", "qcow2.copied"],
    ),
    (
        "a lost refcount block",
        |bytes| {
            let at = be64(bytes, 48);
            set_be64(bytes, at, 0);
        },
        &["qcow2.refcount-low", "qcow2.copied"],
    ),
    (
        "a refcount block out of line",
        |bytes| {
            let at = be64(bytes, 48);
            bytes[at as usize + 6] |= 0x02;
        },
        &["qcow2.refcount-block", "qcow2.refcount-low", "qcow2.copied"],
    ),
];

/// The same numbers of leaks and corruptions, for damage that both count.
#[test]
fn damaged_qcow2_counts_as_qemu_counts_it() {
    let test = "damaged_qcow2_counts_as_qemu_counts_it";
    let dir = scratch();
    let (raw, image) = (dir.path().join("source.raw"), dir.path().join("image"));
    let source = sample(&raw);
    let path = write_image(&source, "qcow2", &image);
    let sound = std::fs::read(&path).unwrap();
    for (what, damage, rules) in DAMAGES {
        let mut bytes = sound.clone();
        damage(&mut bytes);
        std::fs::write(&path, &bytes).unwrap();
        let report = check(&path, None, &SameFolder).unwrap();
        let told = rules_of(&report);
        for rule in *rules {
            assert!(
                told.contains(rule),
                "{what}: {rule} in {:#?}",
                report.findings
            );
        }
        assert!(
            told.iter()
                .all(|rule| rules.contains(rule) || *rule == "image.read"),
            "{what}: {:#?}",
            report.findings
        );
        let Some(theirs) = qemu_counts(test, &path) else {
            return;
        };
        println!(
            "{what}: {} leaks, {} corruptions; QEMU {theirs:?}",
            report.leaks, report.corruptions
        );
        if let Some(theirs) = theirs {
            assert_eq!(
                (report.leaks, report.corruptions),
                theirs,
                "{what}: {:#?}",
                report.findings
            );
        }
    }
}

/// Snapshots and bitmaps hold clusters; every width of refcounts counts them.
#[test]
fn snapshots_and_bitmaps_are_in_use_at_every_refcount_width() {
    let test = "snapshots_and_bitmaps_are_in_use_at_every_refcount_width";
    let dir = scratch();
    let (raw, image) = (dir.path().join("source.raw"), dir.path().join("image"));
    sample(&raw);
    for bits in ["2", "4", "8", "16", "32", "64"] {
        let options = format!("refcount_bits={bits},cluster_size=4K");
        let args = [
            "convert",
            "-f",
            "raw",
            "-O",
            "qcow2",
            "-o",
            &options,
            arg(&raw),
            arg(&image),
        ];
        if must(test, "qemu-img", &args).is_none() {
            return;
        }
        must(test, "qemu-img", &["bitmap", "--add", arg(&image), "b0"]).unwrap();
        for name in ["one", "two"] {
            must(test, "qemu-img", &["snapshot", "-c", name, arg(&image)]).unwrap();
            let args = ["-f", "qcow2", "-c", "write -P 5 100k 200k", arg(&image)];
            must(test, "qemu-io", &args).unwrap();
        }
        let report = check(&image, None, &SameFolder).unwrap();
        assert_eq!(rules_of(&report), [""; 0], "{bits}: {:#?}", report.findings);
        assert_eq!(qemu_counts(test, &image).unwrap(), Some((0, 0)), "{bits}");
        // A cluster of the data that loses its last reference, and one that gains one.
        let mut bytes = std::fs::read(&image).unwrap();
        let at = be64(&bytes, 40);
        set_be64(&mut bytes, at, 0);
        std::fs::write(&image, &bytes).unwrap();
        let report = check(&image, None, &SameFolder).unwrap();
        let theirs = qemu_counts(test, &image).unwrap();
        assert_eq!(Some((report.leaks, report.corruptions)), theirs, "{bits}");
        assert!(report.leaks > 0, "{bits}");
    }
}

#[test]
fn overlays_and_images_in_use_count_as_qemu_counts_them() {
    let test = "overlays_and_images_in_use_count_as_qemu_counts_them";
    let dir = scratch();
    let (raw, image) = (dir.path().join("base.raw"), dir.path().join("image"));
    sample(&raw);
    for options in ["lazy_refcounts=on", "extended_l2=on", "cluster_size=512"] {
        let args = [
            "create",
            "-f",
            "qcow2",
            "-b",
            "base.raw",
            "-F",
            "raw",
            "-o",
            options,
            arg(&image),
        ];
        if must(test, "qemu-img", &args).is_none() {
            return;
        }
        // It dies in the middle: leaks, or the dirty bit.
        let args = [
            "-f",
            "qcow2",
            "-c",
            "write -P 1 3M 500k",
            "-c",
            "discard 3M 100k",
            "-c",
            "write -z 1M 70k",
            "-c",
            "abort",
            arg(&image),
        ];
        run(test, "qemu-io", &args).unwrap();
        let report = check(&image, None, &SameFolder).unwrap();
        let theirs = qemu_counts(test, &image).unwrap();
        println!(
            "{options}: {} {} {theirs:?}",
            report.leaks, report.corruptions
        );
        assert_eq!(
            Some((report.leaks, report.corruptions)),
            theirs,
            "{options}: {:#?}",
            report.findings
        );
    }
}

/// Damage to the other formats: each names its rule.
#[test]
fn damage_to_the_other_formats_names_its_rule() {
    let dir = scratch();
    let source = sample(&dir.path().join("source.raw"));
    let le32 = |bytes: &[u8], at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let le64 = |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    let be32 = |bytes: &[u8], at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
    let check_damage = |format: &str, what: &str, rule: &str, damage: &dyn Fn(&mut Vec<u8>)| {
        let path = write_image(&source, format, &dir.path().join("image"));
        let mut bytes = std::fs::read(&path).unwrap();
        damage(&mut bytes);
        std::fs::write(&path, &bytes).unwrap();
        let report = check(&path, None, &SameFolder).unwrap();
        let told: Vec<_> = report
            .findings
            .iter()
            .map(|finding| finding.rule.id)
            .collect();
        assert!(
            told.contains(&rule),
            "{format}, {what}: {rule} in {:#?}",
            report.findings
        );
        for finding in &report.findings {
            let text = finding.to_string();
            assert!(
                text.contains("expected") && text.contains("at byte"),
                "{text}"
            );
        }
        support::remove_image(&path);
    };
    // VHD: the table starts at 1536.
    check_damage("vhd", "a clobbered copy", "vhd.footer-copy", &|bytes| {
        bytes[50] ^= 1
    });
    check_damage(
        "vhd",
        "a clobbered footer",
        "vhd.footer-checksum",
        &|bytes| {
            let at = bytes.len() - 512 + 100;
            bytes[at] ^= 1;
        },
    );
    check_damage("vhd", "two blocks in one place", "vhd.overlap", &|bytes| {
        let first = be32(bytes, 1536).to_be_bytes();
        bytes[1540..1544].copy_from_slice(&first);
    });
    check_damage("vhd", "a block lost", "vhd.leak", &|bytes| {
        bytes[1536..1540].fill(0xff)
    });
    check_damage("vhd", "a block outside", "vhd.block", &|bytes| {
        bytes[1536..1540].copy_from_slice(&0x7fff_ffffu32.to_be_bytes());
    });
    check_damage("vhd", "a bit of the bitmap", "vhd.bitmap", &|bytes| {
        let at = be32(bytes, 1536) as usize * 512;
        bytes[at] = 0x7f;
    });
    check_damage(
        "vhd:fixed",
        "a size it does not have",
        "vhd.size",
        &|bytes| {
            let at = bytes.len() - 512 + 48;
            bytes[at + 3] = 1;
        },
    );
    // VHDX: the BAT starts at 3 MiB.
    const BAT: usize = 3 << 20;
    check_damage("vhdx", "a header lost", "vhdx.header-lost", &|bytes| {
        bytes[65_600] ^= 1
    });
    check_damage(
        "vhdx",
        "a region table lost",
        "vhdx.region-table-lost",
        &|bytes| {
            bytes[(192 << 10) + 40] ^= 1;
        },
    );
    check_damage(
        "vhdx",
        "two blocks in one place",
        "vhdx.overlap",
        &|bytes| {
            let first = le64(bytes, BAT).to_le_bytes();
            bytes[BAT + 16..BAT + 24].copy_from_slice(&first);
        },
    );
    check_damage("vhdx", "a block in the log", "vhdx.overlap", &|bytes| {
        bytes[BAT..BAT + 8].copy_from_slice(&((1u64 << 20) | 6).to_le_bytes());
    });
    check_damage("vhdx", "a block lost", "vhdx.leak", &|bytes| {
        bytes[BAT..BAT + 8].fill(0)
    });
    check_damage("vhdx", "reserved bits", "vhdx.bat-reserved", &|bytes| {
        bytes[BAT] |= 8
    });
    check_damage("vhdx", "an unknown state", "vhdx.bat-state", &|bytes| {
        bytes[BAT] = bytes[BAT] & !7 | 5;
    });
    check_damage(
        "vhdx",
        "partly present without a parent",
        "vhdx.no-parent",
        &|bytes| {
            bytes[BAT] |= 7;
        },
    );
    check_damage("vhdx", "far outside", "vhdx.bat-place", &|bytes| {
        bytes[BAT + 6] = 1
    });
    check_damage(
        "vhdx:fixed",
        "a hole in a fixed file",
        "vhdx.fixed-absent",
        &|bytes| {
            bytes[BAT..BAT + 8].fill(0);
        },
    );
    // Monolithic sparse VMDK: the directory's sector stands at 56.
    let table = |bytes: &[u8]| le32(bytes, le64(bytes, 56) as usize * 512) as usize * 512;
    check_damage(
        "vmdk",
        "two grains in one place",
        "vmdk.overlap",
        &|bytes| {
            let at = table(bytes);
            let first = le32(bytes, at).to_le_bytes();
            bytes[at + 4..at + 8].copy_from_slice(&first);
        },
    );
    check_damage(
        "vmdk",
        "the copies of a table differ",
        "vmdk.redundant",
        &|bytes| {
            let at = table(bytes);
            bytes[at..at + 4].fill(0);
        },
    );
    check_damage("vmdk", "a grain outside", "vmdk.grain", &|bytes| {
        let at = table(bytes);
        bytes[at..at + 4].copy_from_slice(&0x7fff_ffffu32.to_le_bytes());
    });
    check_damage(
        "vmdk",
        "a grain behind the end",
        "vmdk.grain-beyond",
        &|bytes| {
            let at = table(bytes) + 511 * 4;
            bytes[at..at + 4].copy_from_slice(&128u32.to_le_bytes());
        },
    );
    check_damage("vmdk", "newlines harmed", "vmdk.newlines", &|bytes| {
        bytes[74] = b'\n'
    });
    check_damage("vmdk", "a table outside", "vmdk.table", &|bytes| {
        let at = le64(bytes, 56) as usize * 512;
        bytes[at..at + 4].copy_from_slice(&0x7fff_ffffu32.to_le_bytes());
    });
    check_damage(
        "vmdk:streamOptimized",
        "a changed grain",
        "vmdk.grain-data",
        &|bytes| {
            bytes[65_536 + 1000] ^= 1;
        },
    );
    check_damage(
        "vmdk:streamOptimized",
        "a marker of another place",
        "vmdk.grain-marker",
        &|bytes| {
            bytes[65_536] ^= 1;
        },
    );
    check_damage(
        "vmdk:streamOptimized",
        "bytes behind the end",
        "vmdk.footer",
        &|bytes| {
            bytes.extend([0; 512]);
        },
    );
    check_damage(
        "vmdk:monolithicFlat",
        "another kind",
        "vmdk.extent-kind",
        &|bytes| {
            let text = String::from_utf8(bytes.clone()).unwrap();
            *bytes = text.replace("monolithicFlat", "vmfs").into_bytes();
        },
    );
}

/// Files made by the vendors' programs have no error, and what they have against them is known.
#[test]
fn fixtures_break_no_rule_that_makes_data_wrong() {
    let test = "fixtures_break_no_rule_that_makes_data_wrong";
    let dir = scratch();
    for image in support::fixture_images(test, &dir) {
        let report = match check(&image, None, &SameFolder) {
            Ok(report) => report,
            Err(error) => panic!("{}: {error}", image.display()),
        };
        for finding in &report.findings {
            println!("{}: {:?}: {finding}", image.display(), finding.severity);
        }
        assert_ne!(report.verdict(), Verdict::Broken, "{}", image.display());
        if report.format == image_formats::ImageFormat::Qcow2 {
            let theirs = qemu_counts(test, &image).unwrap();
            assert_eq!(
                Some((report.leaks, report.corruptions)),
                theirs,
                "{}",
                image.display()
            );
        }
    }
}

/// QEMU stops at the first broken grain: what it counts, this check counts too, and the other way round.
#[test]
fn damaged_vmdk_is_corrupt_for_qemu_too() {
    let test = "damaged_vmdk_is_corrupt_for_qemu_too";
    let dir = scratch();
    let source = sample(&dir.path().join("source.raw"));
    let path = write_image(&source, "vmdk", &dir.path().join("image"));
    let sound = std::fs::read(&path).unwrap();
    let le32 = |at: usize| u32::from_le_bytes(sound[at..at + 4].try_into().unwrap()) as usize;
    let table = le32(le32(56) * 512) * 512;
    for (what, sector, corrupt) in [
        ("nothing", le32(table) as u32, false),
        ("a grain behind the end", 0x00ff_ffff, true),
        ("a grain far behind the end", 0x7fff_ffff, true),
        ("a grain dropped", 0, false),
    ] {
        let mut bytes = sound.clone();
        bytes[table..table + 4].copy_from_slice(&sector.to_le_bytes());
        std::fs::write(&path, &bytes).unwrap();
        let report = check(&path, None, &SameFolder).unwrap();
        let args = ["check", "-f", "vmdk", arg(&path)];
        let Some((clean, text)) = run(test, "qemu-img", &args) else {
            return;
        };
        let broken = report.corruptions > 0;
        assert_eq!(broken, corrupt, "{what}: {:#?}", report.findings);
        assert_eq!(clean, !corrupt, "{what}: {text}");
    }
}
