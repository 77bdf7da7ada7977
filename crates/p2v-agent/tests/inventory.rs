//! The inventory against what other programs say of the same trees: `lscpu -s` and
//! `lsblk --sysroot` of real machines' `/proc` and `/sys`, `ip` of this machine, and trees made here
//! for what no fixture holds.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use p2v_agent::inventory::{self, Root};
use serde_json::Value;
use test_oracles::{fixture, skip};

/// Standard output of a program, or a skip where it is not installed.
fn output_of(test: &str, program: &str, args: &[&str]) -> Option<String> {
    match Command::new(program).args(args).env("LC_ALL", "C").output() {
        Ok(output) => {
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{program} {args:?}: {error}");
            Some(String::from_utf8(output.stdout).unwrap())
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            skip(test, program);
            None
        }
        Err(error) => panic!("{program}: {error}"),
    }
}

fn json_of(test: &str, program: &str, args: &[&str]) -> Option<Value> {
    Some(serde_json::from_str(&output_of(test, program, args)?).unwrap())
}

fn unpacked(test: &str, archive: &Path) -> Option<tempfile::TempDir> {
    let dir = tempfile::tempdir().unwrap();
    let (archive, target) = (archive.to_str().unwrap(), dir.path().to_str().unwrap());
    output_of(
        test,
        "tar",
        &["-xf", archive, "-C", target, "--strip-components=1"],
    )?;
    Some(dir)
}

#[test]
fn processors_are_counted_as_lscpu_counts_them() {
    let test = "processors_are_counted_as_lscpu_counts_them";
    let Some(dumps) = fixture(test, "volumes/util-linux/lscpu/dumps") else {
        return;
    };
    let mut compared = 0;
    for entry in std::fs::read_dir(dumps).unwrap() {
        let archive = entry.unwrap().path();
        let name = archive.file_name().unwrap().to_string_lossy().into_owned();
        // Of other architectures `lscpu` counts books and drawers; the agent is built for x86.
        if !name.starts_with("x86") && !name.starts_with("v") {
            continue;
        }
        let Some(dir) = unpacked(test, &archive) else {
            return;
        };
        let sysroot = dir.path().to_str().unwrap();
        let Some(lscpu) = json_of(test, "lscpu", &["-s", sysroot, "-J"]) else {
            return;
        };
        let mut fields = BTreeMap::new();
        collect_fields(&lscpu["lscpu"], &mut fields);
        let number = |field: &str| fields.get(field).and_then(|text| text.parse::<u32>().ok());
        let cpu = inventory::read(&Root::new(dir.path())).cpu;
        assert_eq!(cpu.model.as_ref(), fields.get("Model name:"), "{name}");
        assert_eq!(cpu.vendor.as_ref(), fields.get("Vendor ID:"), "{name}");
        let sockets = number("Socket(s):");
        let cores = sockets
            .zip(number("Core(s) per socket:"))
            .map(|(a, b)| a * b);
        assert_eq!(cpu.sockets, sockets, "{name}: sockets");
        assert_eq!(cpu.cores, cores, "{name}: cores");
        assert_eq!(cpu.threads, number("CPU(s):"), "{name}: threads");
        compared += 1;
    }
    assert!(compared >= 5, "only {compared} dumps compared");
}

fn collect_fields(list: &Value, into: &mut BTreeMap<String, String>) {
    for item in list.as_array().into_iter().flatten() {
        if let (Some(field), Some(data)) = (item["field"].as_str(), item["data"].as_str()) {
            into.insert(field.to_owned(), data.to_owned());
        }
        collect_fields(&item["children"], into);
    }
}

#[test]
fn disks_are_those_that_lsblk_sees() {
    let test = "disks_are_those_that_lsblk_sees";
    for dump in ["simple-lvm", "simple-nvme"] {
        let relative = format!("volumes/util-linux/lsblk/dumps/{dump}.tar.xz");
        let Some(archive) = fixture(test, &relative) else {
            return;
        };
        let Some(dir) = unpacked(test, &archive) else {
            return;
        };
        let columns = "NAME,TYPE,SIZE,MODEL,LOG-SEC,PHY-SEC,ROTA,RM,MOUNTPOINTS";
        let sysroot = dir.path().to_str().unwrap();
        let arguments = ["-J", "-b", "--sysroot", sysroot, "-o", columns];
        let Some(lsblk) = json_of(test, "lsblk", &arguments) else {
            return;
        };
        let expected: Vec<&Value> = lsblk["blockdevices"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|device| device["type"] == "disk")
            .collect();
        let mut disks = inventory::read(&Root::new(dir.path())).disks;
        disks.sort_by_key(|disk| disk.path.clone());
        let mut expected = expected;
        expected.sort_by_key(|device| device["name"].as_str().unwrap().to_owned());
        assert_eq!(disks.len(), expected.len(), "{dump}");
        for (disk, device) in disks.iter().zip(expected) {
            let name = device["name"].as_str().unwrap();
            assert_eq!(disk.path, format!("/dev/{name}"));
            assert_eq!(disk.size, device["size"].as_u64().unwrap(), "{name}");
            assert_eq!(
                disk.model.as_deref(),
                device["model"].as_str().map(str::trim),
                "{name}"
            );
            assert_eq!(
                disk.logical_sector.map(u64::from),
                device["log-sec"].as_u64()
            );
            assert_eq!(
                disk.physical_sector.map(u64::from),
                device["phy-sec"].as_u64()
            );
            assert_eq!(disk.rotational, device["rota"].as_bool(), "{name}");
            assert_eq!(disk.removable, device["rm"].as_bool(), "{name}");
            let children: Vec<&Value> = device["children"]
                .as_array()
                .into_iter()
                .flatten()
                .collect();
            assert_eq!(disk.parts.len(), children.len(), "{name}");
            for child in children {
                let path = format!("/dev/{}", child["name"].as_str().unwrap());
                let part = disk.parts.iter().find(|part| part.path == path).unwrap();
                assert_eq!(part.size, child["size"].as_u64(), "{path}");
                let mounts: Vec<&str> = child["mountpoints"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .filter_map(Value::as_str)
                    .collect();
                assert_eq!(part.mounts, mounts, "{path}");
            }
        }
    }
}

/// Read with `xxd` of those dumps: page 0x80, and the `serial` of the NVMe controller.
#[test]
fn serial_numbers_come_from_where_each_bus_keeps_them() {
    let test = "serial_numbers_come_from_where_each_bus_keeps_them";
    let Some(archive) = fixture(test, "volumes/util-linux/lsblk/dumps/simple-lvm.tar.xz") else {
        return;
    };
    let Some(dir) = unpacked(test, &archive) else {
        return;
    };
    let disks = inventory::read(&Root::new(dir.path())).disks;
    let found: Vec<_> = disks
        .iter()
        .map(|disk| {
            let (serial, transport) = (disk.serial.as_deref(), disk.transport.as_deref());
            (disk.path.as_str(), serial.unwrap(), transport.unwrap())
        })
        .collect();
    assert_eq!(
        found,
        [
            ("/dev/sda", "50026B724B09A1FF", "sata"),
            ("/dev/sdb", "WD-WMAM9XE78956", "sata"),
            ("/dev/nvme0n1", "50026B728203601D", "nvme"),
        ]
    );
    assert!(disks[0].wwn.as_ref().unwrap().starts_with("t10.ATA"));
}

#[test]
fn the_network_is_the_one_that_ip_shows() {
    let test = "the_network_is_the_one_that_ip_shows";
    let Some(links) = json_of(test, "ip", &["-j", "addr"]) else {
        return;
    };
    let inventory = inventory::read(&Root::new("/"));
    for nic in &inventory.nics {
        let link = links
            .as_array()
            .unwrap()
            .iter()
            .find(|link| link["ifname"] == nic.name.as_str())
            .unwrap();
        assert_eq!(nic.mac.as_deref(), link["address"].as_str(), "{}", nic.name);
        assert_eq!(nic.mtu.map(u64::from), link["mtu"].as_u64(), "{}", nic.name);
        let mut expected: Vec<String> = link["addr_info"]
            .as_array()
            .unwrap()
            .iter()
            .map(|info| format!("{}/{}", info["local"].as_str().unwrap(), info["prefixlen"]))
            .collect();
        let mut found = nic.addresses.clone();
        expected.sort();
        found.sort();
        assert_eq!(found, expected, "{}", nic.name);
    }
    for family in ["-4", "-6"] {
        let Some(routes) = json_of(test, "ip", &[family, "-j", "route"]) else {
            return;
        };
        for route in routes.as_array().unwrap() {
            let destination = route["dst"].as_str().unwrap();
            if destination.starts_with("fe80:") || route["dev"] == "lo" {
                continue;
            }
            let known = inventory.routes.iter().any(|known| {
                known.destination == destination
                    && known.gateway.as_deref() == route["gateway"].as_str()
                    && known.nic.as_deref() == route["dev"].as_str()
            });
            assert!(known, "{route} is not among {:?}", inventory.routes);
        }
    }
}

/// A tree under construction.
struct Tree(tempfile::TempDir);

impl Tree {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, path: &str, content: impl AsRef<[u8]>) -> &Self {
        let path = self.0.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
        self
    }

    fn link(&self, path: &str, target: &str) -> &Self {
        let path = self.0.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(target, path).unwrap();
        self
    }

    fn read(&self) -> stream_protocol::Inventory {
        inventory::read(&Root::new(self.0.path()))
    }
}

#[test]
fn firmware_and_secure_boot() {
    let variable = "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";
    let tree = Tree::new();
    assert_eq!(tree.read().firmware, None);
    tree.file("sys/firmware/memmap/0/type", "System RAM");
    let json = |tree: &Tree| serde_json::to_value(tree.read().firmware).unwrap();
    assert_eq!(json(&tree), serde_json::json!({"kind": "bios"}));
    tree.file("sys/firmware/efi/fw_platform_size", "64");
    assert_eq!(json(&tree), serde_json::json!({"kind": "uefi"}));
    tree.file(variable, [6, 0, 0, 0, 1]);
    assert_eq!(
        json(&tree),
        serde_json::json!({"kind": "uefi", "secure_boot": true})
    );
    tree.file(variable, [6, 0, 0, 0, 0]);
    assert_eq!(
        json(&tree),
        serde_json::json!({"kind": "uefi", "secure_boot": false})
    );
    tree.file(variable, [6, 0]);
    assert_eq!(json(&tree), serde_json::json!({"kind": "uefi"}));
}

#[test]
fn a_vendor_that_says_nothing_counts_as_silent() {
    let tree = Tree::new();
    tree.file("sys/class/dmi/id/sys_vendor", "Dell Inc.\n")
        .file("sys/class/dmi/id/product_name", "PowerEdge R640\n")
        .file(
            "sys/class/dmi/id/product_serial",
            "To Be Filled By O.E.M.\n",
        )
        .file("sys/class/dmi/id/board_vendor", "\n")
        .file("sys/class/dmi/id/board_name", "0H28RR\n");
    let hardware = tree.read().hardware;
    assert_eq!(hardware.vendor.as_deref(), Some("Dell Inc."));
    assert_eq!(hardware.model.as_deref(), Some("PowerEdge R640"));
    assert_eq!(hardware.serial, None);
    assert_eq!(hardware.board.as_deref(), Some("0H28RR"));
}

#[test]
fn a_bonded_card_is_known_by_its_own_address() {
    let tree = Tree::new();
    let bonding = "Ethernet Channel Bonding Driver: v5.10\n\nSlave Interface: eno1\n\
                   Permanent HW addr: 24:6E:96:00:00:01\n\nSlave Interface: eno2\n\
                   Permanent HW addr: 24:6e:96:00:00:02\nSlave queue ID: 0\n";
    for (nic, card) in [("eno1", "0000:18:00.0"), ("eno2", "0000:18:00.1")] {
        let sys = format!("sys/class/net/{nic}");
        tree.file(&format!("{sys}/address"), "24:6e:96:00:00:01\n")
            .file(&format!("{sys}/addr_assign_type"), "0\n")
            .file(&format!("{sys}/operstate"), "up\n")
            .file(&format!("sys/bus/pci/devices/{card}/vendor"), "0x8086")
            .link(
                &format!("{sys}/device"),
                &format!("../../../bus/pci/devices/{card}"),
            )
            .link(
                &format!("sys/bus/pci/devices/{card}/driver"),
                "../../drivers/ixgbe",
            )
            .link(
                &format!("sys/bus/pci/devices/{card}/subsystem"),
                "../../../pci",
            )
            .link(&format!("{sys}/master"), "../bond0");
    }
    tree.file("sys/class/net/bond0/address", "24:6e:96:00:00:01\n")
        .file("sys/class/net/bond0/bonding/slaves", "eno1 eno2\n")
        .file("sys/class/net/lo/type", "772\n")
        .file("proc/net/bonding/bond0", bonding);
    let nics = tree.read().nics;
    let names: Vec<_> = nics.iter().map(|nic| nic.name.as_str()).collect();
    assert_eq!(names, ["eno1", "eno2", "bond0"]);
    assert_eq!(nics[1].mac.as_deref(), Some("24:6e:96:00:00:01"));
    assert_eq!(nics[1].permanent_mac.as_deref(), Some("24:6e:96:00:00:02"));
    assert_eq!(nics[1].driver.as_deref(), Some("ixgbe"));
    assert_eq!(nics[1].bus.as_deref(), Some("pci 0000:18:00.1"));
    assert_eq!(nics[1].master.as_deref(), Some("bond0"));
    assert_eq!(nics[2].kind.as_deref(), Some("bond"));
    assert_eq!(nics[2].permanent_mac, None);
}

#[test]
fn volumes_are_listed_under_the_disk_they_lie_on() {
    let tree = Tree::new();
    let disk = "sys/devices/pci0000:00/ata1/host0/target0:0:0/0:0:0:0/block/sda";
    tree.link("sys/block/sda", &disk.replace("sys/devices", "../devices"))
        .link("sys/block/dm-0", "../devices/virtual/block/dm-0")
        .link("sys/dev/block/253:0", "../../devices/virtual/block/dm-0")
        .file(&format!("{disk}/size"), "8388608\n")
        .file(&format!("{disk}/dev"), "8:0\n")
        .file(&format!("{disk}/sda1/partition"), "1\n")
        .file(&format!("{disk}/sda1/start"), "2048\n")
        .file(&format!("{disk}/sda1/size"), "8386560\n")
        .file(&format!("{disk}/sda1/dev"), "8:1\n")
        .link(
            &format!("{disk}/sda1/holders/dm-0"),
            "../../../virtual/block/dm-0",
        )
        .file("sys/devices/virtual/block/dm-0/size", "8380416\n")
        .file("sys/devices/virtual/block/dm-0/dm/name", "vg0-root\n")
        .file(
            "proc/self/mountinfo",
            "25 1 253:0 / / rw,relatime - xfs /dev/mapper/vg0-root rw\n",
        )
        .file(
            "run/udev/data/b8:0",
            "S:disk/by-id/ata-X\nE:ID_SERIAL_SHORT=S1\nE:ID_MODEL=X\n",
        )
        .file(
            "run/udev/data/b8:1",
            "E:ID_FS_TYPE=LVM2_member\nE:ID_FS_UUID=u-1\n",
        );
    let disks = tree.read().disks;
    assert_eq!(disks.len(), 1, "the volume is no disk: {disks:?}");
    assert_eq!(disks[0].serial.as_deref(), Some("S1"));
    assert_eq!(disks[0].links, ["/dev/disk/by-id/ata-X"]);
    let [partition, volume] = disks[0].parts.as_slice() else {
        panic!("{:?}", disks[0].parts);
    };
    assert_eq!(partition.start, Some(1 << 20));
    assert_eq!(partition.fs_type.as_deref(), Some("LVM2_member"));
    assert_eq!(partition.mounted_writable, None);
    assert_eq!(volume.path, "/dev/mapper/vg0-root");
    assert_eq!(volume.mounts, ["/"]);
    assert_eq!(volume.fs_type.as_deref(), Some("xfs"));
    assert_eq!(volume.mounted_writable, Some(true));
}

#[test]
fn the_table_shows_what_json_holds_and_no_control_characters() {
    let tree = Tree::new();
    tree.file("etc/hostname", "web\u{1b}[31m01\n")
        .file("etc/os-release", "PRETTY_NAME=\"Debian GNU/Linux 12\"\n")
        .file("proc/meminfo", "MemTotal:       4194304 kB\n");
    let mut table = String::new();
    inventory::write_table(&tree.read(), &mut table).unwrap();
    assert!(table.contains("web\\u{1b}[31m01"), "{table}");
    assert!(table.contains("4.00 GiB"), "{table}");
    assert!(table.contains("Debian GNU/Linux 12"), "{table}");
    assert!(!table.contains('\u{1b}'));
}
