//! A real Debian's files: an initramfs without virtio gets it, and the distribution's own programs
//! read the result.
//!
//! The Debian is the one `tests/guests/debian12-rootfs` makes, or the unpacked one that
//! `P2V_DEBIAN_ROOT` names.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use driver_injection::{BlockBus, Change, Guest, NetModel, Outcome, apply, inspect, plan};
use filesystems::memory::MemoryTree;
use filesystems::path::GuestPath;
use support::*;
use test_oracles::has_tools;

const FSTAB: &str = "# /etc/fstab: static file system information.\n\
    /dev/sda2       /               ext4    errors=remount-ro 0       1\n\
    /dev/sda1       /boot           ext4    defaults          0       2\n\
    /dev/sda3       none            swap    sw                0       0\n";

/// The root file system that `tests/guests/debian12-rootfs` made, what matters of it unpacked below
/// `work`. It is made only where tools are required: that takes minutes.
fn debian_root(test: &str, work: &Path) -> Option<PathBuf> {
    if let Some(root) = std::env::var_os("P2V_DEBIAN_ROOT") {
        return Some(PathBuf::from(root));
    }
    let required = std::env::var_os("P2V_REQUIRE_TOOLS").is_some_and(|value| value == "1");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/guests/debian12-rootfs");
    if !required && !is_cached() {
        let needs = "the tarball that tests/guests/debian12-rootfs --set small makes";
        test_oracles::skip(test, needs);
        return None;
    }
    let made = Command::new(script)
        .args(["--set", "small"])
        .output()
        .unwrap();
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    let tarball = String::from_utf8(made.stdout).unwrap();
    let root = work.join("root");
    std::fs::create_dir(&root).unwrap();
    let done = Command::new("tar")
        .args(["--no-same-owner", "-xf", tarball.trim(), "-C"])
        .arg(&root)
        .args([
            "./boot",
            "./etc",
            "./usr/lib/modules",
            "./usr/lib/systemd",
            "./usr/lib/udev",
        ])
        .args([
            "./usr/lib/os-release",
            "./usr/bin/dash",
            "./usr/bin/sh",
            "./lib",
            "./bin",
            "./sbin",
        ])
        .args([
            "./usr/sbin/init",
            "./usr/lib/x86_64-linux-gnu/systemd",
            "./dev",
        ])
        .status();
    assert!(done.unwrap().success(), "unpacking {tarball}");
    Some(root)
}

fn is_cached() -> bool {
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or(home);
    let names = cache.and_then(|cache| std::fs::read_dir(cache.join("p2v/guests")).ok());
    names.into_iter().flatten().flatten().any(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        name.starts_with("debian12-rootfs-small-") && name.ends_with(".tar")
    })
}

/// The initramfs of that Debian without its virtio modules, packed anew by the distribution's own
/// programs.
fn initramfs_without_virtio(root: &Path, work: &Path, pack: &str) -> (String, Vec<u8>) {
    let boot = std::fs::read_dir(root.join("boot")).unwrap();
    let names = boot.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let version = names
        .filter_map(|name| name.strip_prefix("initrd.img-").map(str::to_owned))
        .max()
        .expect("an initramfs in /boot");
    let script = format!(
        "set -e; cd {work}; mkdir -p tree; unmkinitramfs {root}/boot/initrd.img-{version} tree; \
         find tree -name 'virtio*' -path '*/modules/*' -prune -exec rm -rf {{}} +; \
         find tree -name 'net_failover.ko' -delete; \
         mkdir -p tree/conf/conf.d; echo RESUME=/dev/sda3 > tree/conf/conf.d/resume; \
         cd tree; find . | LC_ALL=C sort | cpio --quiet -R 0:0 -o -H newc | {pack} > ../initrd",
        work = work.display(),
        root = root.display(),
    );
    let done = Command::new("sh").args(["-c", &script]).status().unwrap();
    assert!(done.success());
    (version, std::fs::read(work.join("initrd")).unwrap())
}

fn debian(root: &Path, version: &str, initramfs: &[u8]) -> Guest {
    let parts = [
        "etc",
        "usr/lib/modules",
        "usr/lib/systemd",
        "usr/lib/udev",
        "usr/lib/os-release",
        "usr/bin/dash",
        "usr/bin/sh",
        "usr/sbin/init",
        "usr/lib/x86_64-linux-gnu/systemd",
        "lib",
        "bin",
        "sbin",
        "dev",
    ];
    let mut tree = copy_directory(root, &parts);
    tree.add_dir("/boot").unwrap();
    tree.add_file("/etc/fstab", FSTAB).unwrap();
    tree.add_file("/etc/initramfs-tools/conf.d/resume", "RESUME=/dev/sda3\n")
        .unwrap();
    let mut boot = MemoryTree::new();
    for name in ["vmlinuz", "config"] {
        let bytes = std::fs::read(root.join(format!("boot/{name}-{version}"))).unwrap();
        boot.add_file(&format!("/{name}-{version}"), bytes).unwrap();
    }
    boot.add_file(&format!("/initrd.img-{version}"), initramfs)
        .unwrap();
    let menu = format!(
        "menuentry 'Debian' {{\n\tset root='hd0,msdos1'\n\tlinux /vmlinuz-{version} root=/dev/sda2 ro quiet\n\
         \tinitrd /initrd.img-{version}\n}}\n"
    );
    boot.add_file("/grub/grub.cfg", menu).unwrap();
    let volumes = vec![
        volume(1, "ext4", Some(boot)),
        volume(2, "ext4", Some(tree)),
        volume(3, "swap", None),
    ];
    assemble(
        volumes,
        &machine(&["sda"], &[("eno1", "52:54:00:aa:bb:cc")]),
    )
}

fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    let ticks: f64 = fields[11..13]
        .iter()
        .map(|ticks| ticks.parse::<f64>().unwrap())
        .sum();
    ticks / 100.0
}

/// Unpack the two parts of a patched initramfs over one another with foreign programs, as the kernel
/// does: `unmkinitramfs` of Debian 12 knows only what stands before the packed part.
fn unpack_as_the_kernel_does(work: &Path, patched: &[u8], offset: u64, pack: &str) -> PathBuf {
    let out = work.join("unpacked");
    let _ = std::fs::remove_dir_all(&out);
    std::fs::create_dir(&out).unwrap();
    let (base, tail) = patched.split_at(offset as usize);
    std::fs::write(work.join("base"), base).unwrap();
    std::fs::write(work.join("tail"), tail).unwrap();
    let program = pack.split(' ').next().unwrap();
    let decompress = |file: &str| match (program, file) {
        ("cat", _) => format!("cat ../{file}"),
        ("lz4", _) => format!("lz4 -dcq ../{file}"),
        (_, "tail") => "cat ../tail".to_owned(),
        // The padding before our archive is no part of the stream.
        (program, _) => format!("{program} -dcq ../{file} 2>/dev/null"),
    };
    for file in ["base", "tail"] {
        let unpack = "cpio --quiet -idmu --no-absolute-filenames";
        let script = format!("cd {}; {} | {unpack}", out.display(), decompress(file));
        let done = Command::new("sh").args(["-c", &script]).output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(done.status.success(), "{script}: {said}");
    }
    out
}

fn convert(pack: &str) {
    let test = "debian";
    for tool in [
        "unmkinitramfs",
        "cpio",
        pack.split(' ').next().unwrap_or_default(),
    ] {
        if !has_tools(test, &[tool]) {
            return;
        }
    }
    let work = tempfile::tempdir_in("/var/tmp").unwrap();
    let Some(root) = debian_root(test, work.path()) else {
        return;
    };
    let (version, initramfs) = initramfs_without_virtio(&root, work.path(), pack);
    let mut guest = debian(&root, &version, &initramfs);
    let source = machine(&["sda"], &[("eno1", "52:54:00:aa:bb:cc")]);

    let before = cpu_seconds();
    let made = plan(&inspect(&guest), &source, &target());
    let outcomes = apply(&made, &mut guest).unwrap();
    let spent = cpu_seconds() - before;
    println!("{made}");
    println!("inspect, plan and apply ({pack}): {spent:.2} s of CPU time");
    assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Changed));
    assert_eq!(
        made.capabilities.block[..2],
        [BlockBus::VirtioBlk, BlockBus::VirtioScsi]
    );
    assert_eq!(made.capabilities.net, NetModel::VirtioNet);

    let path = GuestPath::new(format!("/boot/initrd.img-{version}"));
    let patched = guest.files().read_following(&path, 1 << 30).unwrap();
    let archive = made.edits.iter().find_map(|edit| match &edit.what {
        Change::AppendArchive(append) => Some(append),
        _ => None,
    });
    let offset = archive.unwrap().offset();
    let out = unpack_as_the_kernel_does(work.path(), &patched, offset, pack);
    for name in [
        "kernel/drivers/block/virtio_blk.ko",
        "kernel/drivers/scsi/virtio_scsi.ko",
        "kernel/drivers/virtio/virtio_pci.ko",
        "kernel/drivers/net/virtio_net.ko",
        "modules.alias.bin",
        "modules.dep.bin",
    ] {
        let name = format!("usr/lib/modules/{version}/{name}");
        assert_eq!(
            std::fs::read(out.join(&name)).unwrap(),
            std::fs::read(root.join(&name)).unwrap()
        );
    }
    assert!(out.join("etc/systemd/network/10-p2v-eno1.link").exists());
    assert!(out.join("init").exists());
    let link = std::fs::read_link(out.join("lib")).unwrap();
    assert_eq!(
        link,
        Path::new("usr/lib"),
        "the archive must not replace a link by a directory"
    );
    let resume = std::fs::read_to_string(out.join("conf/conf.d/resume")).unwrap();
    assert_eq!(resume, "RESUME=UUID=31111111-2222-4333-8444-555555555555\n");

    // Again: the same plan finds all done, and a new plan has nothing to do.
    let again = apply(&made, &mut guest).unwrap();
    assert!(
        again.iter().all(|outcome| *outcome == Outcome::AlreadyDone),
        "{again:?}"
    );
    assert_eq!(
        guest.files().read_following(&path, 1 << 30).unwrap(),
        patched
    );
    let second = plan(&inspect(&guest), &source, &target());
    assert!(second.edits.is_empty(), "{second}");

    // Another name for the card: the archive is replaced, not stacked.
    let renamed = machine(&["sda"], &[("eno2", "52:54:00:aa:bb:cc")]);
    let third = plan(&inspect(&guest), &renamed, &target());
    assert!(
        third
            .edits
            .iter()
            .any(|edit| matches!(&edit.what, Change::AppendArchive(a) if a.replaces))
    );
    apply(&third, &mut guest).unwrap();
    let replaced = guest.files().read_following(&path, 1 << 30).unwrap();
    // Packed blocks of another name may be a few bytes longer.
    assert!(
        replaced.len().abs_diff(patched.len()) < 64,
        "{} {}",
        replaced.len(),
        patched.len()
    );
}

#[test]
fn a_zstd_initramfs_without_virtio_gets_it() {
    convert("zstd -q");
}

#[test]
fn a_gzip_initramfs_without_virtio_gets_it() {
    convert("gzip");
}

#[test]
fn an_xz_initramfs_without_virtio_gets_it() {
    convert("xz -0 --check=crc32");
}

#[test]
fn an_lz4_initramfs_gets_blocks_of_its_own_kind() {
    convert("lz4 -l -q");
}

#[test]
fn a_plain_initramfs_without_virtio_gets_it() {
    convert("cat");
}

/// Why a module may be unpacked and keep the name the indexes say: kmod looks at the contents.
#[test]
fn kmod_reads_a_plain_module_under_a_packed_name() {
    let test = "kmod_reads_a_plain_module_under_a_packed_name";
    let work = tempfile::tempdir_in("/var/tmp").unwrap();
    let Some(root) = debian_root(test, work.path()) else {
        return;
    };
    if !has_tools(test, &["modinfo"]) {
        return;
    }
    let modules = root.join("usr/lib/modules");
    let version = std::fs::read_dir(&modules)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let module = std::fs::read(version.join("kernel/drivers/block/virtio_blk.ko")).unwrap();
    // A kmod built without a library does not know the suffix; one that finds such modules in its
    // distribution was built with it.
    let features = Command::new("modinfo").arg("--version").output().unwrap();
    let features = String::from_utf8_lossy(&features.stdout).into_owned();
    let known = [("xz", "+XZ"), ("zst", "+ZSTD"), ("gz", "+ZLIB")];
    let known: Vec<_> = known
        .into_iter()
        .filter(|(_, feature)| features.contains(feature))
        .collect();
    assert!(!known.is_empty(), "{features}");
    for (suffix, _) in known {
        let named = work.path().join(format!("virtio_blk.ko.{suffix}"));
        std::fs::write(&named, &module).unwrap();
        let seen = Command::new("modinfo")
            .arg("-F")
            .arg("alias")
            .arg(&named)
            .output()
            .unwrap();
        let seen = String::from_utf8(seen.stdout).unwrap();
        assert!(seen.contains("virtio:d00000002v"), "{suffix}: {seen}");
    }
}
