//! What is in the guest: read once, kept as values, so that planning needs no disk.

mod bootloader;
mod file;
mod files;
mod initramfs;
mod kernels;
mod network;
mod os;

pub use bootloader::{BootLoader, MenuKernel, is_kernel_keyword};
pub use file::GuestFile;
pub use files::{ConfigFile, ConfigKind};
pub use initramfs::{
    Entry, Flavour, Initramfs, InitramfsError, MARK_NAME, OwnArchive, Segment, read_initramfs,
};
pub use kernels::{Contents, DISK_DRIVERS, InitramfsFile, Kernel, NET_DRIVERS};
pub use network::{ConfiguredNic, Naming, Network, is_interface_name, persistent_net_rule};
pub use os::{Init, Os, os_name};

use std::collections::BTreeMap;

use filesystems::path::GuestPath;
use filesystems::tree::{FileKind, FileTree, Space};

use crate::devices::{DeviceNames, VolumeIndex};
use crate::finding::Finding;
use crate::guest::Guest;
use crate::hardware::Firmware;

/// Everything a plan is made from.
#[derive(Debug, Clone)]
pub struct Inspection {
    /// The system.
    pub os: Os,
    /// What starts it.
    pub boot_loader: BootLoader,
    /// How the firmware starts it, as far as its files tell.
    pub firmware: Option<Firmware>,
    /// The installed kernels.
    pub kernels: Vec<Kernel>,
    /// What menus name, the first being the default more often than not.
    pub menu: Vec<MenuKernel>,
    /// The configuration files.
    pub files: Vec<ConfigFile>,
    /// The network.
    pub network: Network,
    /// What device names mean.
    pub names: DeviceNames,
    /// The root's volume.
    pub root: VolumeIndex,
    /// What is mounted where, and the space left there.
    pub mounted: Vec<(GuestPath, VolumeIndex, Option<Space>)>,
    /// Directories that exist among those a plan may put files into.
    pub directories: BTreeMap<&'static str, GuestPath>,
    /// What a person should know.
    pub findings: Vec<Finding>,
}

/// Directories a plan may put files into.
const PLACES_FOR_NEW_FILES: &[&str] = &[
    "/etc",
    "/etc/systemd/network",
    "/etc/systemd",
    "/etc/udev/rules.d",
    "/etc/dracut.conf.d",
    "/etc/initramfs-tools",
];

/// Look at the guest.
#[must_use]
pub fn inspect(guest: &Guest) -> Inspection {
    let tree = guest.files();
    let mut findings = guest.findings.clone();
    let files = files::read_config_files(tree, &mut findings);
    let menu = bootloader::menu_kernels(&files);
    let kernels = kernels::inspect_kernels(tree, &menu, &mut findings);
    let network = network::inspect_network(tree, &files, &mut findings);
    let space =
        |(at, volume): &(GuestPath, VolumeIndex)| (at.clone(), *volume, tree.space_at(at).ok());
    let directory = |name: &&'static str| {
        let path = tree.resolve(&GuestPath::new(name)).ok()?;
        let stat = tree.stat(&path).ok()?;
        (stat.kind == FileKind::Directory).then_some((*name, path))
    };
    Inspection {
        os: os::inspect_os(tree),
        boot_loader: bootloader::inspect_boot_loader(tree, &files),
        firmware: bootloader::inspect_firmware(tree),
        network,
        names: guest.names.clone(),
        root: guest.root,
        mounted: guest.mounted.iter().map(space).collect(),
        directories: PLACES_FOR_NEW_FILES.iter().filter_map(directory).collect(),
        kernels,
        menu,
        files,
        findings,
    }
}

impl Inspection {
    /// The configuration files of one kind.
    pub fn files_of(&self, kind: ConfigKind) -> impl Iterator<Item = &ConfigFile> {
        self.files.iter().filter(move |file| file.kind == kind)
    }

    /// The mount point that holds `path`.
    #[must_use]
    pub fn mount_point_of(&self, path: &GuestPath) -> GuestPath {
        let holds = |at: &&GuestPath| path.strip_prefix(at).is_some();
        let points = self.mounted.iter().map(|(at, ..)| at).filter(holds);
        let deepest = points.max_by_key(|at| at.as_bytes().len());
        deepest.cloned().unwrap_or_default()
    }
}
