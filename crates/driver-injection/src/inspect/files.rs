//! The guest's configuration files that can matter, read once.

use std::collections::BTreeMap;

use filesystems::mounts::MountedTree;
use filesystems::path::GuestPath;
use filesystems::tree::FileKind;

use crate::finding::{Finding, tell};

/// Longest configuration file read: real ones stay below 1 MiB.
const LONGEST: u64 = 4 << 20;
/// Most files and bytes kept.
const MOST_FILES: usize = 4096;
const MOST_BYTES: u64 = 64 << 20;

/// What a configuration file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConfigKind {
    /// `/etc/fstab`.
    Fstab,
    /// `/etc/crypttab`.
    Crypttab,
    /// GRUB 2's menu.
    GrubConfig,
    /// GRUB 2's environment block.
    GrubEnvironment,
    /// A boot entry of the Boot Loader Specification.
    BootEntry,
    /// GRUB legacy's menu, and its kin with one command line a line: extlinux, syslinux.
    LegacyMenu,
    /// What menus are made of: `/etc/default/grub`, `/etc/kernel/cmdline`, SUSE's bootloader file.
    KernelArguments,
    /// GRUB's table of BIOS drives.
    DeviceMap,
    /// LILO's configuration.
    Lilo,
    /// initramfs-tools: list of modules.
    InitramfsModules,
    /// initramfs-tools: settings, among them RESUME.
    InitramfsSettings,
    /// dracut's settings.
    Dracut,
    /// SUSE's list of modules for the initrd.
    SuseKernel,
    /// Arch's settings.
    Mkinitcpio,
    /// Alpine's settings.
    Mkinitfs,
    /// udev rules of the administrator.
    UdevRules,
    /// systemd `.link` files of the administrator.
    Link,
    /// systemd `.network` files.
    Networkd,
    /// Debian's interfaces.
    Ifupdown,
    /// Red Hat's and SUSE's interface files.
    Ifcfg,
    /// NetworkManager's connections.
    NetworkManager,
    /// netplan's YAML.
    Netplan,
    /// LVM's list of devices.
    LvmDevices,
    /// LVM's settings.
    LvmSettings,
    /// A cache of device names.
    DeviceCache,
}

/// Where they are. The first pattern to find a file decides what it is.
const PLACES: &[(ConfigKind, &str)] = &[
    (ConfigKind::Fstab, "/etc/fstab"),
    (ConfigKind::Crypttab, "/etc/crypttab"),
    (ConfigKind::GrubConfig, "/boot/grub/grub.cfg"),
    (ConfigKind::GrubConfig, "/boot/grub2/grub.cfg"),
    (ConfigKind::GrubConfig, "/boot/grub*/custom.cfg"),
    (ConfigKind::GrubConfig, "/boot/efi/EFI/*/grub.cfg"),
    (ConfigKind::GrubConfig, "/efi/EFI/*/grub.cfg"),
    (ConfigKind::GrubEnvironment, "/boot/grub/grubenv"),
    (ConfigKind::GrubEnvironment, "/boot/grub2/grubenv"),
    (ConfigKind::GrubEnvironment, "/boot/efi/EFI/*/grubenv"),
    (ConfigKind::BootEntry, "/boot/loader/entries/*.conf"),
    (ConfigKind::BootEntry, "/boot/efi/loader/entries/*.conf"),
    (ConfigKind::BootEntry, "/efi/loader/entries/*.conf"),
    (ConfigKind::LegacyMenu, "/boot/grub/menu.lst"),
    (ConfigKind::LegacyMenu, "/boot/grub/grub.conf"),
    (ConfigKind::LegacyMenu, "/boot/efi/EFI/*/grub.conf"),
    (ConfigKind::LegacyMenu, "/boot/extlinux/extlinux.conf"),
    (ConfigKind::LegacyMenu, "/boot/extlinux.conf"),
    (ConfigKind::LegacyMenu, "/boot/syslinux/syslinux.cfg"),
    (ConfigKind::LegacyMenu, "/etc/update-extlinux.conf"),
    (ConfigKind::KernelArguments, "/etc/default/grub"),
    (ConfigKind::KernelArguments, "/etc/default/grub.d/*.cfg"),
    (ConfigKind::KernelArguments, "/etc/sysconfig/bootloader"),
    (ConfigKind::KernelArguments, "/etc/kernel/cmdline"),
    (ConfigKind::DeviceMap, "/boot/grub/device.map"),
    (ConfigKind::DeviceMap, "/boot/grub2/device.map"),
    (ConfigKind::Lilo, "/etc/lilo.conf"),
    (ConfigKind::InitramfsModules, "/etc/initramfs-tools/modules"),
    (
        ConfigKind::InitramfsSettings,
        "/etc/initramfs-tools/initramfs.conf",
    ),
    (
        ConfigKind::InitramfsSettings,
        "/etc/initramfs-tools/conf.d/*",
    ),
    (ConfigKind::Dracut, "/etc/dracut.conf"),
    (ConfigKind::Dracut, "/etc/dracut.conf.d/*.conf"),
    (ConfigKind::SuseKernel, "/etc/sysconfig/kernel"),
    (ConfigKind::Mkinitcpio, "/etc/mkinitcpio.conf"),
    (ConfigKind::Mkinitfs, "/etc/mkinitfs/mkinitfs.conf"),
    (ConfigKind::UdevRules, "/etc/udev/rules.d/*.rules"),
    (ConfigKind::Link, "/etc/systemd/network/*.link"),
    (ConfigKind::Networkd, "/etc/systemd/network/*.network"),
    (ConfigKind::Ifupdown, "/etc/network/interfaces"),
    (ConfigKind::Ifupdown, "/etc/network/interfaces.d/*"),
    (ConfigKind::Ifcfg, "/etc/sysconfig/network-scripts/ifcfg-*"),
    (ConfigKind::Ifcfg, "/etc/sysconfig/network/ifcfg-*"),
    (
        ConfigKind::NetworkManager,
        "/etc/NetworkManager/system-connections/*",
    ),
    (ConfigKind::Netplan, "/etc/netplan/*.yaml"),
    (ConfigKind::Netplan, "/lib/netplan/*.yaml"),
    (ConfigKind::LvmDevices, "/etc/lvm/devices/system.devices"),
    (ConfigKind::LvmSettings, "/etc/lvm/lvm.conf"),
    (ConfigKind::DeviceCache, "/etc/lvm/cache/.cache"),
    (ConfigKind::DeviceCache, "/etc/blkid/blkid.tab"),
    (ConfigKind::DeviceCache, "/etc/blkid.tab"),
];

/// A configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFile {
    /// What it is.
    pub kind: ConfigKind,
    /// Where it is, without links.
    pub path: GuestPath,
    /// Its contents.
    pub bytes: Vec<u8>,
}

impl ConfigFile {
    /// Its contents as text; what is not UTF-8 is replaced.
    #[must_use]
    pub fn text(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.bytes)
    }
}

/// Read them all. A file that two names lead to is read once.
#[must_use]
pub fn read_config_files(tree: &MountedTree, findings: &mut Vec<Finding>) -> Vec<ConfigFile> {
    let mut found: BTreeMap<GuestPath, ConfigFile> = BTreeMap::new();
    let mut left = MOST_BYTES;
    for (kind, pattern) in PLACES {
        for name in tree.glob(pattern).unwrap_or_default() {
            let Ok(path) = tree.resolve(&name) else {
                continue;
            };
            let stat = match tree.stat_following(&path) {
                Ok(stat) if stat.kind == FileKind::File && !found.contains_key(&path) => stat,
                _ => continue,
            };
            if found.len() >= MOST_FILES || stat.size > left.min(LONGEST) {
                let text = format!("{path} is not looked at: {} bytes", stat.size);
                tell(findings, Finding::warning("config-too-large", text));
                continue;
            }
            left -= stat.size;
            match tree.read_following(&path, LONGEST) {
                Ok(bytes) => {
                    let kind = *kind;
                    let file = ConfigFile {
                        kind,
                        path: path.clone(),
                        bytes,
                    };
                    found.insert(path, file);
                }
                Err(error) => {
                    let text = format!("{path} is not looked at: {error}");
                    tell(findings, Finding::warning("config-unreadable", text));
                }
            }
        }
    }
    found.into_values().collect()
}
