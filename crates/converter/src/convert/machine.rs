//! What the source machine was, and what machine the guest gets.

use std::path::Path;

use driver_injection::{
    BlockBus, Capabilities, NetModel, Plan, PlannedNic, SourceDisk, SourceHardware, SourceNic,
};
use driver_injection::{Clock as GuestClock, Firmware, MacAddress};
use stream_protocol::inventory::{FirmwareKind, Inventory, Nic};

use super::emit::Image;
use super::source::Source;
use crate::describe::{
    Board, Clock, DiskBus, DiskDevice, ImageFormat, MACHINE_VERSION, Machine, NicDevice, NicModel,
    qemu,
};

/// Memory of a machine of which nothing is known.
const DEFAULT_MEMORY: u64 = 2 << 30;
/// Processors of a machine of which nothing is known.
const DEFAULT_VCPUS: u32 = 2;

/// The source's hardware as the fix-ups want to know it.
#[must_use]
pub fn source_hardware(source: &Source) -> SourceHardware {
    let Some(inventory) = &source.inventory else {
        return SourceHardware::unknown(source.disks.len());
    };
    SourceHardware {
        disks: source
            .disks
            .iter()
            .map(|disk| disk_names(inventory, &disk.label))
            .collect(),
        nics: inventory.nics.iter().filter_map(source_nic).collect(),
        firmware: inventory
            .firmware
            .as_ref()
            .map(|firmware| match firmware.kind {
                FirmwareKind::Uefi => Firmware::Uefi,
                FirmwareKind::Bios => Firmware::Bios,
            }),
    }
}

fn disk_names(inventory: &Inventory, path: &str) -> SourceDisk {
    let below_dev = |path: &str| path.strip_prefix("/dev/").map(str::to_owned);
    let known = inventory.disks.iter().find(|disk| disk.path == path);
    SourceDisk {
        name: below_dev(path),
        links: known
            .map(|disk| {
                disk.links
                    .iter()
                    .filter_map(|link| below_dev(link))
                    .collect()
            })
            .unwrap_or_default(),
    }
}

fn source_nic(nic: &Nic) -> Option<SourceNic> {
    let mac = nic.permanent_mac.as_deref().or(nic.mac.as_deref())?;
    let mac = MacAddress::parse(mac).filter(|mac| mac.is_station())?;
    Some(SourceNic {
        name: nic.name.clone(),
        mac,
        driver: nic.driver.clone(),
    })
}

/// The machine for what was converted: by what the guest can run on after `plan`; a guest that was
/// not looked into gets what every system has drivers for.
#[must_use]
pub fn describe_machine(source: &Source, images: &[Image], plan: Option<&Plan>) -> Machine {
    let inventory = source.inventory.as_ref();
    let capabilities = plan.map(|plan| &plan.capabilities);
    let firmware = firmware_of(inventory, capabilities);
    // Of several formats the first named is the one that is described.
    let format = images
        .first()
        .map(|image| image.format.as_str())
        .unwrap_or_default();
    let disks: Vec<&Image> = images
        .iter()
        .filter(|image| image.format == format)
        .collect();
    let bus = disk_bus(capabilities, disks.len());
    Machine {
        version: MACHINE_VERSION,
        name: source.name.clone(),
        memory_bytes: inventory
            .and_then(|i| i.memory_bytes)
            .unwrap_or(DEFAULT_MEMORY),
        vcpus: inventory
            .and_then(|i| i.cpu.threads)
            .unwrap_or(DEFAULT_VCPUS)
            .max(1),
        firmware,
        secure_boot: firmware == FirmwareKind::Uefi && had_secure_boot(inventory),
        board: if bus == DiskBus::Ide {
            Board::Pc
        } else {
            Board::Q35
        },
        clock: match capabilities.map(|c| c.clock) {
            Some(GuestClock::Local) => Clock::Localtime,
            _ => Clock::Utc,
        },
        disks: disks
            .into_iter()
            .map(|image| disk_device(image, bus))
            .collect(),
        nics: plan.map_or_else(Vec::new, |plan| {
            plan.nics
                .iter()
                .map(|nic| nic_device(nic, &plan.capabilities))
                .collect()
        }),
    }
}

fn had_secure_boot(inventory: Option<&Inventory>) -> bool {
    inventory
        .and_then(|i| i.firmware.as_ref())
        .and_then(|f| f.secure_boot)
        .unwrap_or(false)
}

fn firmware_of(inventory: Option<&Inventory>, capabilities: Option<&Capabilities>) -> FirmwareKind {
    let told = inventory.and_then(|i| i.firmware.as_ref()).map(|f| f.kind);
    let seen = capabilities
        .and_then(|c| c.firmware)
        .map(|firmware| match firmware {
            Firmware::Uefi => FirmwareKind::Uefi,
            Firmware::Bios => FirmwareKind::Bios,
        });
    told.or(seen).unwrap_or(FirmwareKind::Bios)
}

fn disk_bus(capabilities: Option<&Capabilities>, disks: usize) -> DiskBus {
    let bus = match capabilities.and_then(|c| c.block.first()) {
        Some(BlockBus::VirtioBlk) => DiskBus::VirtioBlk,
        Some(BlockBus::VirtioScsi) => DiskBus::VirtioScsi,
        Some(BlockBus::Ahci) => DiskBus::Ahci,
        Some(BlockBus::Ide) | None => DiskBus::Ide,
    };
    if bus == DiskBus::Ide && disks > qemu::MOST_ON_IDE {
        DiskBus::Ahci
    } else {
        bus
    }
}

fn disk_device(image: &Image, bus: DiskBus) -> DiskDevice {
    // Beside the description: a folder that is moved as a whole keeps working.
    let name = image.path.file_name().map_or(Path::new(""), Path::new);
    let bundle = image.path.is_dir();
    let file = match bundle {
        true => image_formats::parallels::image_in_bundle(name),
        false => name.to_owned(),
    };
    let format = match image.format.split(':').next() {
        // In a bundle a plain image is a raw disk.
        Some("parallels") if image.format != "parallels:plain" => ImageFormat::Parallels,
        Some("qcow2") => ImageFormat::Qcow2,
        Some("vmdk") => ImageFormat::Vmdk,
        Some("vhd") => ImageFormat::Vpc,
        Some("vhdx") => ImageFormat::Vhdx,
        Some("vdi") => ImageFormat::Vdi,
        Some("parallels") => ImageFormat::Parallels,
        _ => ImageFormat::Raw,
    };
    DiskDevice { file, format, bus }
}

fn nic_device(nic: &PlannedNic, capabilities: &Capabilities) -> NicDevice {
    let model = match capabilities.net {
        NetModel::VirtioNet => NicModel::Virtio,
        NetModel::E1000 => NicModel::E1000,
    };
    NicDevice {
        mac: Some(nic.mac.to_string()),
        model,
    }
}
