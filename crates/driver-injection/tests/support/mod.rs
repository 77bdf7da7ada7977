//! Phony and copied guests for the tests of this crate.
#![allow(clippy::unwrap_used, clippy::expect_used)]
#![allow(dead_code)]

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use driver_injection::{
    DeviceFacts, Guest, GuestVolume, RootChoice, SourceDisk, SourceHardware, SourceNic, Target,
};
use filesystems::memory::MemoryTree;
use filesystems::tree::FileTree;

/// A partition of the first disk with these files.
pub fn volume(partition: u32, kind: &str, tree: Option<MemoryTree>) -> GuestVolume {
    GuestVolume {
        facts: DeviceFacts {
            disk: Some(0),
            partition: Some(partition),
            partuuid: Some(format!("9f8e7d6c-{partition:02}")),
            uuid: Some(format!("{partition}1111111-2222-4333-8444-555555555555")),
            kind: kind.into(),
            ..DeviceFacts::default()
        },
        tree: tree.map(|tree| Box::new(tree) as Box<dyn FileTree>),
        problem: None,
    }
}

/// A machine with these disks and cards.
pub fn machine(disks: &[&str], nics: &[(&str, &str)]) -> SourceHardware {
    let disk = |name: &&str| SourceDisk {
        name: Some((*name).to_owned()),
        links: vec![format!("disk/by-id/ata-DISK_{name}")],
    };
    let nic = |(name, mac): &(&str, &str)| SourceNic {
        name: (*name).to_owned(),
        mac: driver_injection::MacAddress::parse(mac).unwrap(),
        driver: None,
    };
    SourceHardware {
        disks: disks.iter().map(disk).collect(),
        nics: nics.iter().map(nic).collect(),
        firmware: None,
    }
}

pub fn target() -> Target {
    Target {
        boot_disk: 0,
        time: 1_700_000_000,
    }
}

pub fn assemble(volumes: Vec<GuestVolume>, source: &SourceHardware) -> Guest {
    Guest::assemble(volumes, source, &RootChoice::Only).unwrap()
}

/// Copy what matters of a directory of this machine into memory: everything below the given parts.
pub fn copy_directory(from: &Path, parts: &[&str]) -> MemoryTree {
    let mut tree = MemoryTree::new().with_capacity(8 << 30);
    for part in parts {
        copy_into(&mut tree, from, &from.join(part));
    }
    tree
}

fn copy_into(tree: &mut MemoryTree, root: &Path, path: &Path) {
    let name = format!("/{}", path.strip_prefix(root).unwrap().to_str().unwrap());
    let Ok(metadata) = path.symlink_metadata() else {
        return;
    };
    if metadata.is_symlink() {
        let target = std::fs::read_link(path).unwrap();
        tree.add_symlink(&name, target.to_str().unwrap()).unwrap();
    } else if metadata.is_dir() {
        tree.add_dir(&name).unwrap();
        let mut children: Vec<PathBuf> = std::fs::read_dir(path)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        children.sort();
        for child in children {
            copy_into(tree, root, &child);
        }
    } else if metadata.is_file() {
        tree.add_file(&name, std::fs::read(path).unwrap()).unwrap();
        let mode = (metadata.permissions().mode() & 0o7777) as u16;
        let path = filesystems::path::GuestPath::new(&name);
        tree.set_owner(&path, mode, metadata.uid(), metadata.gid())
            .unwrap();
    }
}

/// A plain newc archive, written here anew so that the crate is not judged by itself.
pub fn newc(entries: &[(&str, &str, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    let trailer = [("TRAILER!!!", "", &b""[..])];
    for (name, kind, data) in entries.iter().chain(&trailer) {
        let mode = match *kind {
            "dir" => 0o040_755,
            "link" => 0o120_777,
            "" => 0,
            _ => 0o100_644,
        };
        let numbers = [
            1,
            mode,
            0,
            0,
            1,
            0,
            data.len(),
            0,
            0,
            0,
            0,
            name.len() + 1,
            0,
        ];
        out.extend_from_slice(b"070701");
        for number in numbers {
            out.extend_from_slice(format!("{number:08x}").as_bytes());
        }
        out.extend_from_slice(name.as_bytes());
        out.push(0);
        out.resize(out.len().next_multiple_of(4), 0);
        out.extend_from_slice(data);
        out.resize(out.len().next_multiple_of(4), 0);
    }
    out
}

/// A tree of these files; a name that ends in `@` is a link to its contents.
pub fn tree_of(files: &[(&str, &str)]) -> MemoryTree {
    let mut tree = MemoryTree::new();
    for (name, contents) in files {
        match name.strip_suffix('@') {
            Some(name) => tree.add_symlink(name, contents).unwrap(),
            None => tree.add_file(name, contents).unwrap(),
        }
    }
    tree
}

/// The modules every kernel of these phony guests has.
pub fn add_modules(tree: &mut MemoryTree, version: &str, suffix: &str) {
    let root = format!("/usr/lib/modules/{version}");
    let names = [
        "drivers/virtio/virtio",
        "drivers/virtio/virtio_ring",
        "drivers/virtio/virtio_pci",
        "drivers/block/virtio_blk",
        "drivers/scsi/virtio_scsi",
        "drivers/net/virtio_net",
        "drivers/scsi/sd_mod",
        "drivers/scsi/scsi_mod",
        "drivers/ata/ahci",
    ];
    let mut dep = String::new();
    for name in names {
        let needs = match name.rsplit('/').next().unwrap() {
            "virtio_blk" | "virtio_net" | "virtio_pci" => {
                "drivers/virtio/virtio drivers/virtio/virtio_ring"
            }
            "virtio_scsi" => {
                "drivers/virtio/virtio drivers/virtio/virtio_ring drivers/scsi/scsi_mod"
            }
            "sd_mod" => "drivers/scsi/scsi_mod",
            _ => "",
        };
        let needs: Vec<_> = needs
            .split_whitespace()
            .map(|need| format!(" kernel/{need}{suffix}"))
            .collect();
        dep.push_str(&format!("kernel/{name}{suffix}:{}\n", needs.concat()));
        tree.add_file(
            &format!("{root}/kernel/{name}{suffix}"),
            format!("ELF {name}"),
        )
        .unwrap();
    }
    tree.add_file(&format!("{root}/modules.dep"), dep).unwrap();
    tree.add_file(
        &format!("{root}/modules.alias"),
        "alias virtio:d00000002v* virtio_blk\n",
    )
    .unwrap();
}

/// An initramfs with udev, AHCI and nothing virtual, as `flavour` ("debian", "dracut") lays it out.
pub fn phony_initramfs(
    flavour: &str,
    version: &str,
    suffix: &str,
    more: &[(&str, &str, &[u8])],
) -> Vec<u8> {
    let modules = format!("usr/lib/modules/{version}/kernel/drivers");
    let (ahci, sd, scsi) = (
        format!("{modules}/ata/ahci{suffix}"),
        format!("{modules}/scsi/sd_mod{suffix}"),
        format!("{modules}/scsi/scsi_mod{suffix}"),
    );
    let mut entries: Vec<(&str, &str, &[u8])> = vec![
        ("lib", "link", b"usr/lib"),
        ("usr", "dir", b""),
        ("usr/lib", "dir", b""),
        ("usr/lib/systemd/systemd-udevd", "file", b"elf"),
        ("init", "file", b"#!/bin/sh\n"),
        (&ahci, "file", b"elf"),
        (&sd, "file", b"elf"),
        (&scsi, "file", b"elf"),
        match flavour {
            "dracut" => ("usr/lib/dracut/hooks/x.sh", "file", b""),
            _ => ("scripts/functions", "file", b""),
        },
    ];
    entries.extend(more);
    newc(&entries)
}
