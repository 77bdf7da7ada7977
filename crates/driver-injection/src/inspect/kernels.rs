//! Every installed kernel: its version, its modules, its initramfs.

use std::collections::{BTreeMap, BTreeSet};

use filesystems::mounts::MountedTree;
use filesystems::path::GuestPath;
use filesystems::tree::{FileKind, FileTree};

use super::bootloader::{MenuKernel, menu_path};
use super::initramfs::{Initramfs, InitramfsError, MOST_UNPACKED, read_initramfs};
use crate::finding::{Finding, tell};
use crate::kmod::{Driver, ModuleIndex};

/// Drivers a guest needs to reach its disk on virtio, whichever way it is attached.
pub const DISK_DRIVERS: &[&str] = &["virtio_pci", "virtio_blk", "virtio_scsi", "sd_mod"];
/// And its network.
pub const NET_DRIVERS: &[&str] = &["virtio_net"];

/// Most bytes unpacked of all initramfs files together: a dozen kernels unpack to 2 GB or so.
const MOST_UNPACKED_IN_ALL: u64 = 8 << 30;
/// Most kernels looked at.
const MOST_KERNELS: usize = 64;
/// Longest index file read.
const LONGEST_INDEX: u64 = 16 << 20;
/// Longest kernel configuration read.
const LONGEST_CONFIG: u64 = 2 << 20;

/// An installed kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kernel {
    /// Its release: `6.1.0-18-amd64`.
    pub version: String,
    /// Its image, without links.
    pub image: GuestPath,
    /// Its modules' directory, without links; `None` when there is none.
    pub modules: Option<GuestPath>,
    /// Which drivers it has.
    pub index: ModuleIndex,
    /// Module files the wanted drivers need (below the modules' directory) and their sizes.
    pub wanted: BTreeMap<String, u64>,
    /// The index files of the modules' directory and their sizes.
    pub index_files: BTreeMap<String, u64>,
    /// Its initramfs files.
    pub initramfs: Vec<InitramfsFile>,
}

impl Kernel {
    /// Whether it has the driver at all.
    #[must_use]
    pub fn has(&self, driver: &str) -> bool {
        self.index.driver(driver) != Driver::Absent
    }
}

/// An initramfs file and what could be read of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitramfsFile {
    /// Where it is, without links.
    pub path: GuestPath,
    /// Its size.
    pub size: u64,
    /// What it holds.
    pub contents: Contents,
}

/// What could be read of an initramfs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Contents {
    /// All.
    Known(Initramfs),
    /// Packed in a way not read here; sound as far as is known.
    Unread,
    /// Damaged.
    Damaged,
}

/// All installed kernels, by version.
#[must_use]
pub fn inspect_kernels(
    tree: &MountedTree,
    menu: &[MenuKernel],
    findings: &mut Vec<Finding>,
) -> Vec<Kernel> {
    let mut kernels = Vec::new();
    let mut reading = Reading {
        unpacked_left: MOST_UNPACKED_IN_ALL,
        findings,
    };
    for image in kernel_images(tree, menu) {
        if kernels.len() >= MOST_KERNELS {
            let text = format!("more than {MOST_KERNELS} kernels; the rest is left as it is");
            tell(reading.findings, Finding::warning("too-many-kernels", text));
            break;
        }
        kernels.push(inspect_kernel(tree, image, menu, &mut reading));
    }
    kernels.sort_by(|a, b| (&a.version, &a.image).cmp(&(&b.version, &b.image)));
    kernels
}

fn kernel_images(tree: &MountedTree, menu: &[MenuKernel]) -> BTreeSet<GuestPath> {
    const PATTERNS: &[&str] = &[
        "/boot/vmlinuz*",
        "/boot/vmlinux*",
        "/boot/kernel-*",
        "/boot/bzImage*",
        "/boot/efi/vmlinuz*",
        "/boot/*/*/linux",
        "/boot/efi/*/*/linux",
        "/efi/*/*/linux",
    ];
    let globbed = PATTERNS
        .iter()
        .flat_map(|pattern| tree.glob(pattern).unwrap_or_default());
    let named = menu
        .iter()
        .filter_map(|entry| menu_path(tree, &entry.kernel));
    globbed
        .chain(named)
        .filter_map(|path| tree.resolve(&path).ok())
        .filter(|path| matches!(tree.stat(path), Ok(stat) if stat.kind == FileKind::File && stat.size > 0))
        // vmlinux.bz2 and System.map-like leftovers beside the image start nothing.
        .filter(|path| !path.file_name().is_some_and(|name| name.ends_with(b".gz") || name.ends_with(b".hmac")))
        .collect()
}

/// What reading all kernels may cost, and where to tell what was seen.
struct Reading<'a> {
    unpacked_left: u64,
    findings: &'a mut Vec<Finding>,
}

fn inspect_kernel(
    tree: &MountedTree,
    image: GuestPath,
    menu: &[MenuKernel],
    reading: &mut Reading,
) -> Kernel {
    let version = kernel_version(tree, &image);
    let modules = tree
        .resolve(&GuestPath::new("/lib/modules").join(&version))
        .ok();
    let modules = modules.filter(|path| !version.is_empty() && tree.is_dir(path));
    let mut kernel = Kernel {
        initramfs: find_initramfs(tree, &image, &version, menu, reading),
        version,
        image,
        modules,
        ..Kernel::default()
    };
    read_indexes(tree, &mut kernel);
    if kernel.modules.is_none() && !kernel.version.is_empty() {
        let text = format!("kernel {}: no modules in /lib/modules", kernel.version);
        tell(
            reading.findings,
            Finding::note("kernel-without-modules", text),
        );
    }
    kernel
}

fn read_indexes(tree: &MountedTree, kernel: &mut Kernel) {
    if let Some(modules) = &kernel.modules {
        let read = |name: &str| {
            let path = modules.join(name);
            tree.read_following(&path, LONGEST_INDEX)
                .unwrap_or_default()
        };
        let (dep, softdep, builtin) = (
            read("modules.dep"),
            read("modules.softdep"),
            read("modules.builtin"),
        );
        kernel.index = ModuleIndex::read(&dep, &softdep, &builtin);
        for entry in tree.list(modules).unwrap_or_default() {
            if entry.kind != FileKind::File || !entry.name.starts_with(b"modules.") {
                continue;
            }
            if let (Ok(name), Ok(stat)) = (
                String::from_utf8(entry.name.clone()),
                tree.stat(&modules.join(&entry.name)),
            ) {
                kernel.index_files.insert(name, stat.size);
            }
        }
        let drivers: Vec<&str> = [DISK_DRIVERS, NET_DRIVERS].concat();
        for file in kernel.index.closure(&drivers) {
            // Old depmod writes absolute paths; a path that climbs out is nobody's module.
            let path = modules.join(&file);
            if path.strip_prefix(modules).is_none() || file.contains("..") {
                continue;
            }
            if let Ok(stat) = tree.stat_following(&path) {
                let below = path.strip_prefix(modules).unwrap_or_default();
                let below = String::from_utf8_lossy(below.as_bytes());
                kernel
                    .wanted
                    .insert(below.trim_start_matches('/').to_owned(), stat.size);
            }
        }
    }
    let config = GuestPath::new("/boot").join(format!("config-{}", kernel.version));
    if let Ok(config) = tree.read_following(&config, LONGEST_CONFIG) {
        kernel.index.add_builtin_from_config(&config);
    }
}

/// The release: from the name if modules of that name are there, else from the image itself.
fn kernel_version(tree: &MountedTree, image: &GuestPath) -> String {
    let name = String::from_utf8_lossy(image.file_name().unwrap_or_default()).into_owned();
    let from_name = match name.split_once('-') {
        Some((_, version)) => version.to_owned(),
        None => image
            .parent()
            .and_then(|dir| Some(String::from_utf8_lossy(dir.file_name()?).into_owned()))
            .filter(|_| name == "linux")
            .unwrap_or_default(),
    };
    let has_modules = |version: &str| tree.is_dir(&GuestPath::new("/lib/modules").join(version));
    if !from_name.is_empty() && has_modules(&from_name) {
        return from_name;
    }
    version_in_image(tree, image).unwrap_or(from_name)
}

/// [linux, Documentation/arch/x86/boot.rst]: "HdrS" at 0x202; kernel_version, two bytes at 0x20e,
/// plus 0x200 is where the string is, whose first word is the release.
fn version_in_image(tree: &MountedTree, image: &GuestPath) -> Option<String> {
    let mut header = [0; 0x210];
    let read = tree.read_at(image, 0, &mut header).ok()?;
    if read < header.len() || header[0x202..0x206] != *b"HdrS" {
        return None;
    }
    let pointer = u64::from(u16::from_le_bytes([header[0x20e], header[0x20f]]));
    let mut text = [0; 256];
    let read = tree.read_at(image, pointer + 0x200, &mut text).ok()?;
    let text = text.get(..read)?.split(|byte| *byte == 0).next()?;
    let release = std::str::from_utf8(text).ok()?.split_whitespace().next()?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "._+-~".contains(c);
    let looks_right =
        release.starts_with(|c: char| c.is_ascii_digit()) && release.chars().all(plain);
    looks_right.then(|| release.to_owned())
}

/// The initramfs files of a kernel: those its menu entries name, and those named after it in any
/// distribution's way.
fn find_initramfs(
    tree: &MountedTree,
    image: &GuestPath,
    version: &str,
    menu: &[MenuKernel],
    reading: &mut Reading,
) -> Vec<InitramfsFile> {
    let mut paths = BTreeSet::new();
    for entry in menu {
        if menu_path(tree, &entry.kernel).as_ref() == Some(image) {
            paths.extend(
                entry
                    .initramfs
                    .iter()
                    .filter_map(|path| menu_path(tree, path)),
            );
        }
    }
    let dir = image.parent().unwrap_or_default();
    let name = String::from_utf8_lossy(image.file_name().unwrap_or_default()).into_owned();
    let suffix = name.split_once('-').map_or("", |(_, suffix)| suffix);
    for suffix in [suffix, version] {
        if suffix.is_empty() {
            continue;
        }
        for name in [
            format!("initrd.img-{suffix}"),
            format!("initrd-{suffix}"),
            format!("initrd-{suffix}.img"),
            format!("initramfs-{suffix}"),
            format!("initramfs-{suffix}.img"),
            format!("initramfs-{suffix}-fallback.img"),
            format!("initramfs-genkernel-x86_64-{suffix}"),
        ] {
            paths.extend(tree.resolve(&dir.join(name)));
        }
    }
    if name == "linux" {
        paths.extend(
            ["initrd", "initrd.img"]
                .map(|name| tree.resolve(&dir.join(name)))
                .into_iter()
                .flatten(),
        );
    }
    let file = |path: GuestPath| {
        let stat = tree
            .stat(&path)
            .ok()
            .filter(|stat| stat.kind == FileKind::File)?;
        Some(inspect_initramfs(tree, path, stat.size, reading))
    };
    paths
        .into_iter()
        .filter_map(file)
        .filter(|file| !is_only_microcode(file))
        .collect()
}

fn inspect_initramfs(
    tree: &MountedTree,
    path: GuestPath,
    size: u64,
    reading: &mut Reading,
) -> InitramfsFile {
    let contents = match read_initramfs(tree, &path, size, reading.unpacked_left) {
        Ok(contents) => {
            reading.unpacked_left = reading.unpacked_left.saturating_sub(contents.unpacked);
            Contents::Known(contents)
        }
        Err(error @ InitramfsError::NotUnpacked { .. }) => {
            tell(
                reading.findings,
                Finding::note("initramfs-unread", format!("{path}: {error}")),
            );
            Contents::Unread
        }
        Err(error) => {
            if let InitramfsError::TooMuch { .. } = &error {
                reading.unpacked_left = reading.unpacked_left.saturating_sub(MOST_UNPACKED);
            }
            let because = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
            let text = format!("{path}: {error}{}", because.unwrap_or_default());
            tell(
                reading.findings,
                Finding::blocker("initramfs-damaged", text),
            );
            Contents::Damaged
        }
    };
    InitramfsFile {
        path,
        size,
        contents,
    }
}

/// Arch and others give microcode as a file of its own, beside the real one.
fn is_only_microcode(file: &InitramfsFile) -> bool {
    let Contents::Known(contents) = &file.contents else {
        return false;
    };
    !contents.entries.is_empty()
        && contents.entries.keys().all(|name| {
            name.starts_with(b"kernel")
                || name.as_slice() == b"."
                || name.as_slice() == b"early_cpio"
                || name.is_empty()
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use filesystems::memory::MemoryTree;

    fn bzimage(release: &str) -> Vec<u8> {
        let mut image = vec![0; 0x1000];
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x20e..0x210].copy_from_slice(&0x400u16.to_le_bytes());
        let text = format!("{release} (build@host) #1 SMP\0");
        image[0x600..0x600 + text.len()].copy_from_slice(text.as_bytes());
        image
    }

    fn guest(files: &[(&str, &[u8])]) -> MountedTree {
        let mut tree = MemoryTree::new();
        for (path, contents) in files {
            tree.add_file(path, contents).unwrap();
        }
        MountedTree::new(Box::new(tree))
    }

    #[test]
    fn each_distributions_names_are_matched() {
        let (arch, alpine) = (bzimage("6.6.7-arch1-1"), bzimage("6.6.8-0-lts"));
        let tree = guest(&[
            ("/boot/vmlinuz-6.1.0-18-amd64", b"k"),
            ("/boot/initrd.img-6.1.0-18-amd64", b""),
            ("/lib/modules/6.1.0-18-amd64/modules.dep", b""),
            ("/boot/vmlinuz-linux", &arch),
            ("/boot/initramfs-linux.img", b""),
            ("/boot/initramfs-linux-fallback.img", b""),
            ("/lib/modules/6.6.7-arch1-1/modules.dep", b""),
            ("/boot/vmlinuz-lts", &alpine),
            ("/boot/initramfs-lts", b""),
            ("/boot/0123456789abcdef/5.14.0/linux", b"k"),
            ("/boot/0123456789abcdef/5.14.0/initrd", b""),
            ("/boot/initramfs-5.14.0kdump.img", b""),
        ]);
        let kernels = inspect_kernels(&tree, &[], &mut Vec::new());
        let seen: Vec<_> = kernels
            .iter()
            .map(|k| (k.version.as_str(), k.initramfs.len()))
            .collect();
        let expected = [
            ("5.14.0", 1),
            ("6.1.0-18-amd64", 1),
            ("6.6.7-arch1-1", 2),
            ("6.6.8-0-lts", 1),
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn a_menu_names_what_no_scheme_would_find() {
        let tree = guest(&[("/boot/bzImage", &bzimage("4.4.4")), ("/boot/my.cpio", b"")]);
        let entry = MenuKernel {
            kernel: "/bzImage".into(),
            initramfs: vec!["/my.cpio".into()],
            arguments: String::new(),
        };
        let kernels = inspect_kernels(&tree, &[entry], &mut Vec::new());
        assert_eq!(kernels[0].version, "4.4.4");
        assert_eq!(kernels[0].initramfs[0].path.to_string(), "/boot/my.cpio");
    }

    #[test]
    fn a_module_path_that_climbs_out_is_nobodys_module() {
        let tree = guest(&[
            ("/boot/vmlinuz-1.0", b"k"),
            (
                "/lib/modules/1.0/modules.dep",
                b"../../../etc/virtio_blk.ko:\n/etc/sd_mod.ko:\n",
            ),
            ("/etc/virtio_blk.ko", b"x"),
            ("/etc/sd_mod.ko", b"x"),
        ]);
        let kernels = inspect_kernels(&tree, &[], &mut Vec::new());
        assert!(kernels[0].wanted.is_empty(), "{:?}", kernels[0].wanted);
    }
}
