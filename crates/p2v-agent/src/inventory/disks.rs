//! Disks, their partitions, and what is stacked and mounted on them.

use stream_protocol::inventory::{Disk, DiskPart};

use super::Root;
use super::mounts::Mounts;

/// The unit of `size` and `start` in `/sys/block` is 512 bytes, whatever the disk's own sector.
const SYS_SECTOR: u64 = 512;

/// Devices are stacked a few levels deep; a loop in a broken `/sys` ends here.
const DEEPEST_STACK: u32 = 8;

/// All real disks. Loop, RAM and compressed-RAM disks, CD drives, floppies, network block devices
/// and devices made of others hold nothing of the machine's own; a drive of size 0 has no medium.
pub(super) fn read(root: &Root) -> Vec<Disk> {
    let mounts = Mounts::read(root);
    let names = root.names("sys/block");
    names
        .iter()
        .filter_map(|name| disk(root, &mounts, name))
        .collect()
}

fn disk(root: &Root, mounts: &Mounts, name: &str) -> Option<Disk> {
    let sys = format!("sys/block/{name}");
    let place = root.resolved(&sys).unwrap_or_default();
    // The paths of one NVMe subsystem are hidden disks below the one that is used.
    let hidden = root.flag(&format!("{sys}/hidden")) == Some(true);
    if hidden || is_not_a_disk(name) || place.contains("/virtual/block/") {
        return None;
    }
    let size = root.number::<u64>(&format!("{sys}/size"))?;
    if size == 0 {
        return None;
    }
    let udev = Udev::read(root, &sys);
    let text = |file: &str| root.text(&format!("{sys}/{file}"));
    let number = |file: &str| root.number::<u32>(&format!("{sys}/{file}"));
    Some(Disk {
        path: device_path(name),
        size: size.saturating_mul(SYS_SECTOR),
        logical_sector: number("queue/logical_block_size"),
        physical_sector: number("queue/physical_block_size"),
        model: model(text("device/vendor"), text("device/model")).or_else(|| udev.get("ID_MODEL")),
        serial: serial(root, &sys).or_else(|| udev.get("ID_SERIAL_SHORT")),
        wwn: text("wwid")
            .or_else(|| text("device/wwid"))
            .or_else(|| udev.get("ID_WWN_WITH_EXTENSION"))
            .or_else(|| udev.get("ID_WWN")),
        rotational: root.flag(&format!("{sys}/queue/rotational")),
        removable: root.flag(&format!("{sys}/removable")),
        transport: transport(name, &place).map(str::to_owned),
        driver: driver(root, &place),
        links: udev.links(),
        parts: parts(root, mounts, name),
    })
}

/// A slash inside a device's name is written as `!` in `/sys` (`cciss!c0d0`).
fn device_path(name: &str) -> String {
    format!("/dev/{}", name.replace('!', "/"))
}

fn is_not_a_disk(name: &str) -> bool {
    // By name too: old kernels have no `/virtual/` for some, and drives have real devices.
    let prefixes = [
        "loop", "ram", "zram", "sr", "fd", "dm-", "md", "nbd", "drbd", "mtdblock", "rbd",
    ];
    // A boot or replay-protected area of an eMMC chip, which belongs to the board.
    let of_the_chip =
        name.starts_with("mmcblk") && (name.contains("boot") || name.contains("rpmb"));
    of_the_chip
        || prefixes.iter().any(|prefix| {
            name.strip_prefix(prefix)
                .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        })
}

/// Vendor and model in one. libata calls every vendor `ATA`, virtio gives a PCI number.
fn model(vendor: Option<String>, model: Option<String>) -> Option<String> {
    let vendor = vendor.filter(|vendor| vendor != "ATA" && !vendor.starts_with("0x"));
    match (vendor, model) {
        (Some(vendor), Some(model)) => Some(format!("{vendor} {model}")),
        (vendor, model) => model.or(vendor),
    }
}

/// The serial number: NVMe and MMC say it below `device`, virtio beside it, SCSI and ATA in the
/// vital product data page 0x80.
fn serial(root: &Root, sys: &str) -> Option<String> {
    root.text(&format!("{sys}/device/serial"))
        .or_else(|| root.text(&format!("{sys}/serial")))
        .or_else(|| vpd_serial(&root.bytes(&format!("{sys}/device/vpd_pg80"))?))
}

/// [SPC-4] 7.8.12, "Unit Serial Number VPD page": page code at byte 1, length at 2..4, ASCII after.
fn vpd_serial(page: &[u8]) -> Option<String> {
    if page.get(1) != Some(&0x80) {
        return None;
    }
    let len = usize::from(u16::from_be_bytes([*page.get(2)?, *page.get(3)?]));
    let serial = page.get(4..4 + len).or_else(|| page.get(4..))?;
    let serial = String::from_utf8_lossy(serial);
    let serial = serial.trim_matches(|c: char| c.is_whitespace() || c == '\0');
    (!serial.is_empty()).then(|| serial.to_owned())
}

/// What the disk hangs on, by the buses on the way to it.
fn transport(name: &str, place: &str) -> Option<&'static str> {
    let has = |prefix: &str| place.split('/').any(|part| part.starts_with(prefix));
    let by_name = [
        ("nvme", "nvme"),
        ("mmcblk", "mmc"),
        ("xvd", "xen"),
        ("hd", "ide"),
    ];
    if let Some((_, transport)) = by_name.iter().find(|(prefix, _)| name.starts_with(prefix)) {
        return Some(transport);
    }
    // The nearest bus stands first: a USB case on a SAS controller's port is still USB.
    let by_bus = [
        ("usb", "usb"),
        ("vbd-", "xen"),
        ("virtio", "virtio"),
        ("session", "iscsi"),
        ("rport-", "fc"),
        ("end_device-", "sas"),
        ("ata", "sata"),
        ("ide", "ide"),
        ("vmbus", "vmbus"),
        ("VMBUS", "vmbus"),
        ("host", "scsi"),
    ];
    by_bus
        .iter()
        .find(|(prefix, _)| has(prefix))
        .map(|(_, transport)| *transport)
}

/// The driver of the controller: the lowest device on the way up to the bus root that has one and
/// is not the disk itself (`sd`, or nvme's namespace).
fn driver(root: &Root, place: &str) -> Option<String> {
    let mut path = place;
    while let Some((parent, _)) = path.rsplit_once('/') {
        path = parent;
        match root.link_name(&format!("{path}/driver")).as_deref() {
            None | Some("sd") => {}
            Some(driver) => return Some(driver.to_owned()),
        }
    }
    None
}

/// The partitions of a disk, each followed by the volumes stacked on it.
fn parts(root: &Root, mounts: &Mounts, disk: &str) -> Vec<DiskPart> {
    let sys = format!("sys/block/{disk}");
    let mut parts = Vec::new();
    push_holders(root, mounts, &sys, DEEPEST_STACK, &mut parts);
    if mounts.of(disk).next().is_some() {
        // A file system on the bare disk, with no partition table.
        let size = root.number::<u64>(&format!("{sys}/size")).unwrap_or(0);
        parts.push(part(root, mounts, &sys, disk, Some(0), size));
    }
    for name in root.names(&sys) {
        let part_sys = format!("{sys}/{name}");
        if !root.exists(&format!("{part_sys}/partition")) {
            continue;
        }
        let start = root.number::<u64>(&format!("{part_sys}/start"));
        let size = root.number::<u64>(&format!("{part_sys}/size")).unwrap_or(0);
        parts.push(part(root, mounts, &part_sys, &name, start, size));
        push_holders(root, mounts, &part_sys, DEEPEST_STACK, &mut parts);
    }
    parts
}

/// Volumes made of the device at `sys`: LVM, dm-crypt, multipath, md.
fn push_holders(root: &Root, mounts: &Mounts, sys: &str, depth: u32, parts: &mut Vec<DiskPart>) {
    if depth == 0 {
        return;
    }
    for name in root.names(&format!("{sys}/holders")) {
        let holder = format!("sys/block/{name}");
        let size = root.number::<u64>(&format!("{holder}/size")).unwrap_or(0);
        let mut volume = part(root, mounts, &holder, &name, None, size);
        if let Some(label) = root.text(&format!("{holder}/dm/name")) {
            volume.path = format!("/dev/mapper/{label}");
        }
        if !parts.iter().any(|known| known.path == volume.path) {
            parts.push(volume);
        }
        push_holders(root, mounts, &holder, depth - 1, parts);
    }
}

fn part(
    root: &Root,
    mounts: &Mounts,
    sys: &str,
    name: &str,
    start: Option<u64>,
    size: u64,
) -> DiskPart {
    let udev = Udev::read(root, sys);
    let mounted: Vec<_> = mounts.of(name).collect();
    DiskPart {
        path: device_path(name),
        start: start.map(|sector| sector.saturating_mul(SYS_SECTOR)),
        size: Some(size.saturating_mul(SYS_SECTOR)),
        fs_type: mounted
            .first()
            .map(|mount| mount.fs_type.clone())
            .or_else(|| udev.get("ID_FS_TYPE")),
        uuid: udev.get("ID_FS_UUID"),
        label: udev.get("ID_FS_LABEL"),
        mounted_writable: mounted
            .iter()
            .map(|mount| mount.writable)
            .reduce(|a, b| a || b),
        mounts: mounted.iter().map(|mount| mount.place.clone()).collect(),
    }
}

/// What udev has found out about a device, from its database in `/run`: the only source of file
/// system types without reading the disk, and of serial numbers on kernels before 3.15.
struct Udev(String);

impl Udev {
    fn read(root: &Root, sys: &str) -> Self {
        let record = |dev: String| root.text(&format!("run/udev/data/b{dev}"));
        let dev = root.text(&format!("{sys}/dev"));
        Self(dev.and_then(record).unwrap_or_default())
    }

    fn get(&self, key: &str) -> Option<String> {
        let property = |line: &str| {
            let value = line.strip_prefix("E:")?.strip_prefix(key)?;
            Some(value.strip_prefix('=')?.to_owned())
        };
        let value = self.0.lines().find_map(property)?;
        (!value.is_empty()).then_some(value)
    }

    fn links(&self) -> Vec<String> {
        let links = self.0.lines().filter_map(|line| line.strip_prefix("S:"));
        let mut links: Vec<_> = links.map(|link| format!("/dev/{link}")).collect();
        links.sort();
        links
    }
}
