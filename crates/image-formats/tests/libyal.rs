//! What is written, opened by the libyal tools (Debian: libvhdi-utils, libvmdk-utils, libqcow-utils): readers that
//! share no code with QEMU.

#![allow(clippy::unwrap_used)]

mod support;

use support::{arg, corner_disks, make_disk, must, scratch, write_image};

/// Format, the tool that opens it, and what the tool calls the kind of disk. libqcow knows neither zstd nor VDI.
const FORMATS: &[(&str, &str, &str)] = &[
    ("vhdx", "vhdiinfo", "Dynamic"),
    ("vhdx:fixed", "vhdiinfo", "Fixed"),
    ("vhd", "vhdiinfo", "Dynamic"),
    ("vhd:fixed", "vhdiinfo", "Fixed"),
    ("vmdk:streamOptimized", "vmdkinfo", "Stream optimized"),
    ("vmdk:monolithicSparse", "vmdkinfo", "Monolithic sparse"),
    ("vmdk:monolithicFlat", "vmdkinfo", "Monolithic flat"),
    ("qcow2", "qcowinfo", "Format version\t\t: 3"),
    ("qcow2:zlib", "qcowinfo", "Format version\t\t: 3"),
    ("qcow2:cluster_size=2M", "qcowinfo", "Format version\t\t: 3"),
];

#[test]
fn libyal_opens_every_corner_disk_as_what_it_is() {
    let test = "libyal_opens_every_corner_disk_as_what_it_is";
    let dir = scratch();
    for (name, size, runs) in corner_disks() {
        let source = make_disk(&dir.path().join("source.raw"), size, &runs);
        for (format, tool, kind) in FORMATS {
            // An extent is found by the name its descriptor gives.
            let path = write_image(&source, format, &dir.path().join("image.vmdk"));
            let Some(said) = must(test, tool, &[arg(&path)]) else {
                return;
            };
            let bytes = [format!("({size} bytes)"), format!(": {size} bytes")];
            let right = bytes.iter().any(|bytes| said.contains(bytes));
            assert!(right, "{name}: {format}: {said}");
            assert!(said.contains(kind), "{name}: {format}: {said}");
            std::fs::remove_file(path).unwrap();
            let _ = std::fs::remove_file(dir.path().join("image-flat.vmdk"));
        }
        std::fs::remove_file(dir.path().join("source.raw")).unwrap();
    }
}
