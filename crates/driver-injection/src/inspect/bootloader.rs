//! What starts the guest, and the kernels its menu names.

use filesystems::mounts::MountedTree;
use filesystems::path::GuestPath;
use serde::Serialize;

use super::files::{ConfigFile, ConfigKind};
use crate::hardware::Firmware;

/// Most menu lines looked at: every kernel has a handful.
const MOST_MENU_KERNELS: usize = 1024;

/// What starts the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum BootLoader {
    /// GRUB 2.
    Grub2,
    /// GRUB 0.97.
    GrubLegacy,
    /// systemd-boot.
    SystemdBoot,
    /// extlinux or syslinux.
    Extlinux,
    /// LILO.
    Lilo,
    /// None that is known.
    Unknown,
}

impl BootLoader {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Grub2 => "GRUB 2",
            Self::GrubLegacy => "GRUB legacy",
            Self::SystemdBoot => "systemd-boot",
            Self::Extlinux => "extlinux",
            Self::Lilo => "LILO",
            Self::Unknown => "no known boot loader",
        }
    }
}

/// A kernel a menu names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MenuKernel {
    /// The kernel's path as written, without the drive.
    pub kernel: String,
    /// Its initramfs files as written, without the drive.
    pub initramfs: Vec<String>,
    /// Its arguments.
    pub arguments: String,
}

/// Which boot loader is it?
#[must_use]
pub fn inspect_boot_loader(tree: &MountedTree, files: &[ConfigFile]) -> BootLoader {
    let has_kind = |kind| files.iter().any(|file| file.kind == kind);
    let named = |name: &str| {
        let ends = |file: &ConfigFile| file.path.file_name() == Some(name.as_bytes());
        files
            .iter()
            .any(|file| file.kind == ConfigKind::LegacyMenu && ends(file))
    };
    if has_kind(ConfigKind::GrubConfig) {
        BootLoader::Grub2
    } else if has_kind(ConfigKind::BootEntry) {
        BootLoader::SystemdBoot
    } else if named("menu.lst") || named("grub.conf") {
        BootLoader::GrubLegacy
    } else if has_kind(ConfigKind::LegacyMenu) && !named("update-extlinux.conf") {
        BootLoader::Extlinux
    } else if has_kind(ConfigKind::Lilo) && tree.exists(&"/boot/map".into()) {
        BootLoader::Lilo
    } else {
        BootLoader::Unknown
    }
}

/// How the firmware starts the guest, as far as its files tell: which of GRUB's two builds is there.
/// `None` when both are, or neither.
#[must_use]
pub fn inspect_firmware(tree: &MountedTree) -> Option<Firmware> {
    let any = |patterns: &[&str]| {
        let matches = |pattern: &&str| tree.glob(pattern).is_ok_and(|found| !found.is_empty());
        patterns.iter().any(matches)
    };
    let bios = any(&[
        "/boot/grub*/i386-pc",
        "/boot/grub/stage2",
        "/boot/extlinux/ldlinux.sys",
    ]);
    let uefi = any(&[
        "/boot/grub*/x86_64-efi",
        "/boot/grub*/arm64-efi",
        "/boot/efi/EFI/*/*.efi",
        "/efi/EFI/*/*.efi",
    ]);
    match (bios, uefi) {
        (true, false) => Some(Firmware::Bios),
        (false, true) => Some(Firmware::Uefi),
        _ => None,
    }
}

/// The kernels the menus name, in their order.
#[must_use]
pub fn menu_kernels(files: &[ConfigFile]) -> Vec<MenuKernel> {
    let mut kernels = Vec::new();
    for file in files {
        match file.kind {
            ConfigKind::GrubConfig | ConfigKind::LegacyMenu | ConfigKind::BootEntry => {
                kernels.extend(kernels_of(&file.text()));
            }
            _ => {}
        }
    }
    kernels.truncate(MOST_MENU_KERNELS);
    kernels
}

/// One word of a menu line can be a kernel's keyword: [GRUB manual, "linux"], [GRUB legacy, "kernel"],
/// [UAPI.1 Boot Loader Specification, "linux"], [SYSLINUX, "KERNEL", "LINUX"].
#[must_use]
pub fn is_kernel_keyword(word: &str) -> bool {
    matches!(
        word.to_ascii_lowercase().as_str(),
        "linux" | "linux16" | "linuxefi" | "kernel"
    )
}

fn kernels_of(text: &str) -> Vec<MenuKernel> {
    let mut kernels: Vec<MenuKernel> = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let Some(keyword) = words.next() else {
            continue;
        };
        if is_kernel_keyword(keyword) {
            let Some(path) = words.next() else { continue };
            kernels.push(MenuKernel {
                kernel: without_drive(path),
                arguments: words.collect::<Vec<_>>().join(" "),
                ..MenuKernel::default()
            });
            continue;
        }
        let Some(last) = kernels.last_mut() else {
            continue;
        };
        match keyword.to_ascii_lowercase().as_str() {
            "initrd" | "initrd16" | "initrdefi" => {
                let paths = words.flat_map(|word| word.split(','));
                last.initramfs.extend(paths.map(without_drive));
            }
            "options" | "append" => {
                last.arguments = words.collect::<Vec<_>>().join(" ");
            }
            _ => {}
        }
    }
    kernels
}

/// `(hd0,0)/vmlinuz` and `($root)/vmlinuz` without what is in parentheses.
fn without_drive(path: &str) -> String {
    let path = path.trim_matches(['"', '\'']);
    match path.strip_prefix('(').and_then(|rest| rest.split_once(')')) {
        Some((_, path)) => path.to_owned(),
        None => path.to_owned(),
    }
}

/// The file in the guest that a menu's path means: menus write paths as the boot loader sees them,
/// from the root of the file system they are on.
#[must_use]
pub fn menu_path(tree: &MountedTree, path: &str) -> Option<GuestPath> {
    let path = GuestPath::new(path);
    ["/boot", "/", "/boot/efi", "/efi"]
        .iter()
        .find_map(|mount| {
            let below = String::from_utf8_lossy(path.as_bytes())
                .trim_start_matches('/')
                .to_owned();
            let candidate = GuestPath::new(mount).join(below);
            let resolved = tree.resolve(&candidate).ok()?;
            tree.stat_following(&resolved).ok().map(|_| resolved)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_of_all_menus_are_found() {
        let grub2 = "menuentry 'x' {\n\tset root='hd0,msdos1'\n\
            \tlinux\t/vmlinuz-6.1 root=/dev/sda2 ro\n\tinitrd\t/microcode.img /initrd.img-6.1\n}\n";
        let legacy = "title RH\n root (hd0,0)\n kernel (hd0,0)/vmlinuz-2.6 ro root=/dev/hda3\n \
            initrd /initrd-2.6.img\n";
        let bls =
            "title x\nversion 5.14\nlinux /vmlinuz-5.14\ninitrd /a.img /b.img\noptions root=x ro\n";
        let found = kernels_of(grub2);
        assert_eq!(found[0].initramfs, ["/microcode.img", "/initrd.img-6.1"]);
        let found = kernels_of(legacy);
        assert_eq!(
            (found[0].kernel.as_str(), found[0].arguments.as_str()),
            ("/vmlinuz-2.6", "ro root=/dev/hda3")
        );
        let found = kernels_of(bls);
        assert_eq!(
            (found[0].initramfs.len(), found[0].arguments.as_str()),
            (2, "root=x ro")
        );
    }
}
