//! Kernel modules: their index files, and which of them a module needs.
//!
//! [modules.dep(5)], [modprobe.d(5)] (softdep), [depmod(8)].

use std::collections::{BTreeMap, BTreeSet};

/// Most dependencies followed for one module; a real chain has a dozen.
const MOST_DEPENDENCIES: usize = 512;

/// What the index files of one kernel say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModuleIndex {
    /// Module name → its file, relative to the kernel's module directory.
    paths: BTreeMap<String, String>,
    /// Module name → names it needs.
    needs: BTreeMap<String, Vec<String>>,
    /// Module name → names it wants.
    wants: BTreeMap<String, Vec<String>>,
    /// Names compiled into the kernel.
    builtin: BTreeSet<String>,
}

/// Where a driver of a kernel is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Driver<'a> {
    /// Compiled into the kernel.
    BuiltIn,
    /// A module, at this path below the kernel's module directory.
    Module(&'a str),
    /// Neither.
    Absent,
}

impl ModuleIndex {
    /// Read the index files; a missing one is empty.
    #[must_use]
    pub fn read(dep: &[u8], softdep: &[u8], builtin: &[u8]) -> Self {
        let mut index = Self::default();
        let dep = String::from_utf8_lossy(dep);
        for line in dep.lines() {
            let Some((path, needs)) = line.split_once(':') else {
                continue;
            };
            let name = module_name(path);
            let needs = needs.split_whitespace().map(module_name).collect();
            index.paths.insert(name.clone(), path.trim().to_owned());
            index.needs.insert(name, needs);
        }
        for line in String::from_utf8_lossy(softdep).lines() {
            let mut words = line.split_whitespace();
            if words.next() != Some("softdep") {
                continue;
            }
            let Some(name) = words.next().map(module_name) else {
                continue;
            };
            let wanted = words.filter(|word| !matches!(*word, "pre:" | "post:"));
            index
                .wants
                .entry(name)
                .or_default()
                .extend(wanted.map(module_name));
        }
        index.builtin = String::from_utf8_lossy(builtin)
            .lines()
            .map(module_name)
            .collect();
        index
    }

    /// Add drivers that a kernel's configuration says are compiled in (`CONFIG_VIRTIO_BLK=y`), for
    /// kernels whose `modules.builtin` is missing.
    pub fn add_builtin_from_config(&mut self, config: &[u8]) {
        for line in String::from_utf8_lossy(config).lines() {
            let Some(symbol) = line.strip_suffix("=y") else {
                continue;
            };
            for (known, module) in CONFIG_SYMBOLS {
                if symbol == *known {
                    self.builtin.insert((*module).to_owned());
                }
            }
        }
    }

    /// Whether there is anything in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty() && self.builtin.is_empty()
    }

    /// Where the driver `name` is.
    #[must_use]
    pub fn driver(&self, name: &str) -> Driver<'_> {
        let name = name.replace('-', "_");
        if self.builtin.contains(&name) {
            return Driver::BuiltIn;
        }
        match self.paths.get(&name) {
            Some(path) => Driver::Module(path),
            None => Driver::Absent,
        }
    }

    /// The files of the modules `names` and of all they need or want, sorted; what is compiled in or
    /// not there is left out.
    #[must_use]
    pub fn closure(&self, names: &[&str]) -> Vec<String> {
        let mut pending: Vec<String> = names.iter().map(|name| name.replace('-', "_")).collect();
        let mut seen = BTreeSet::new();
        let mut files = BTreeSet::new();
        while let Some(name) = pending.pop() {
            if seen.len() > MOST_DEPENDENCIES || !seen.insert(name.clone()) {
                continue;
            }
            if let Driver::Module(path) = self.driver(&name) {
                files.insert(path.to_owned());
                let more = [self.needs.get(&name), self.wants.get(&name)];
                pending.extend(more.into_iter().flatten().flatten().cloned());
            }
        }
        files.into_iter().collect()
    }
}

/// The name of the module in a file: `kernel/drivers/block/virtio-blk.ko.xz` → `virtio_blk`.
#[must_use]
pub fn module_name(path: &str) -> String {
    let file = path.trim().rsplit('/').next().unwrap_or_default();
    let stem = file.split(".ko").next().unwrap_or(file);
    stem.replace('-', "_")
}

/// Configuration symbols of the drivers that decide whether a guest boots. [linux, Kconfig files]
const CONFIG_SYMBOLS: &[(&str, &str)] = &[
    ("CONFIG_VIRTIO", "virtio"),
    ("CONFIG_VIRTIO_PCI", "virtio_pci"),
    ("CONFIG_VIRTIO_BLK", "virtio_blk"),
    ("CONFIG_SCSI_VIRTIO", "virtio_scsi"),
    ("CONFIG_VIRTIO_NET", "virtio_net"),
    ("CONFIG_BLK_DEV_SD", "sd_mod"),
    ("CONFIG_SCSI", "scsi_mod"),
    ("CONFIG_SATA_AHCI", "ahci"),
    ("CONFIG_ATA_PIIX", "ata_piix"),
    ("CONFIG_E1000", "e1000"),
];

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &[u8] =
        b"kernel/drivers/block/virtio_blk.ko.xz: kernel/drivers/virtio/virtio.ko.xz \
        kernel/drivers/virtio/virtio_ring.ko.xz\n\
        kernel/drivers/virtio/virtio.ko.xz:\n\
        kernel/drivers/virtio/virtio_ring.ko.xz: kernel/drivers/virtio/virtio.ko.xz\n\
        kernel/lib/crc-t10dif.ko.xz: kernel/drivers/block/virtio_blk.ko.xz\n";

    #[test]
    fn hard_and_soft_dependencies_are_followed_and_circles_end() {
        let softdep = b"# comment\nsoftdep virtio pre: crc-t10dif post: nothing\n";
        let index = ModuleIndex::read(DEP, softdep, b"kernel/drivers/scsi/sd_mod.ko\n");
        assert_eq!(
            index.closure(&["virtio-blk", "sd_mod", "no_such"]),
            [
                "kernel/drivers/block/virtio_blk.ko.xz",
                "kernel/drivers/virtio/virtio.ko.xz",
                "kernel/drivers/virtio/virtio_ring.ko.xz",
                "kernel/lib/crc-t10dif.ko.xz",
            ]
        );
        assert_eq!(index.driver("sd_mod"), Driver::BuiltIn);
        assert_eq!(index.driver("no_such"), Driver::Absent);
    }

    #[test]
    fn a_configuration_stands_in_for_a_missing_list_of_built_in_drivers() {
        let mut index = ModuleIndex::default();
        index.add_builtin_from_config(b"CONFIG_VIRTIO_BLK=y\nCONFIG_VIRTIO_NET=m\n");
        assert_eq!(index.driver("virtio_blk"), Driver::BuiltIn);
        assert_eq!(index.driver("virtio_net"), Driver::Absent);
    }
}
