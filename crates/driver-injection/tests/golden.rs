//! Plans for phony guests of several families, compared with the texts in `golden/`. After a change
//! that is meant, `P2V_BLESS=1 cargo test -p driver-injection --test golden` writes them anew: read the
//! difference before you commit it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use driver_injection::{GuestVolume, Outcome, Plan, SourceHardware, apply, inspect, plan};
use filesystems::memory::MemoryTree;
use filesystems::tree::FileTree;
use support::*;

/// Plan, compare with the golden text, apply twice, plan again: nothing may be left to do.
fn check(name: &str, volumes: Vec<GuestVolume>, source: &SourceHardware) -> Plan {
    let mut guest = assemble(volumes, source);
    let made = plan(&inspect(&guest), source, &target());
    let text = made.to_string();
    let path = format!("{}/tests/golden/{name}.txt", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("P2V_BLESS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        golden == text,
        "{name}: the plan differs from {path}:\n{text}"
    );
    let json = serde_json::to_value(&made).unwrap();
    assert_eq!(json["edits"].as_array().unwrap().len(), made.edits.len());

    let outcomes = apply(&made, &mut guest).unwrap();
    assert!(
        outcomes.iter().all(|outcome| *outcome == Outcome::Changed),
        "{outcomes:?}"
    );
    let again = apply(&made, &mut guest).unwrap();
    assert!(
        again.iter().all(|outcome| *outcome == Outcome::AlreadyDone),
        "{again:?}"
    );
    let second = plan(&inspect(&guest), source, &target());
    assert!(second.edits.is_empty(), "{second}");
    made
}

fn base(os_release: &str, fstab: &str) -> MemoryTree {
    let mut tree = tree_of(&[
        ("/etc/os-release", os_release),
        ("/etc/fstab", fstab),
        ("/usr/sbin/init", ""),
        ("/sbin@", "usr/sbin"),
        ("/lib@", "usr/lib"),
        ("/usr/lib/udev/rules.d/80-net-setup-link.rules", "x"),
        ("/usr/lib/systemd/libsystemd-shared-252.so", ""),
    ]);
    tree.add_dir("/boot").unwrap();
    tree
}

#[test]
fn debian_with_everything_by_device_name() {
    let version = "6.1.0-18-amd64";
    let mut root = base(
        "ID=debian\nVERSION_ID=12\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n",
        "# <file system> <mount point>   <type>  <options>       <dump>  <pass>\n\
         /dev/sda2\t/\text4\terrors=remount-ro\t0\t1\n\
         /dev/sda1       /boot           ext4    defaults        0       2\n\
         /dev/disk/by-id/ata-DISK_sda-part3 none swap sw 0 0\n\
         /dev/sr0        /media/cdrom0   udf,iso9660 user,noauto 0       0\n\
         /dev/sdb1       /backup         ext4    defaults        0       2\n\
         UUID=gone-gone  /old            ext4    noauto          0       0\n",
    );
    for (path, text) in [
        ("/etc/crypttab", "swap_crypt /dev/sda3 /dev/urandom swap\n"),
        (
            "/etc/default/grub",
            "GRUB_TIMEOUT=5\nGRUB_CMDLINE_LINUX=\"resume=/dev/sda3 quiet\"\n",
        ),
        (
            "/etc/initramfs-tools/modules",
            "# List of modules\nsd_mod\n",
        ),
        ("/etc/initramfs-tools/conf.d/resume", "RESUME=/dev/sda3\n"),
        (
            "/etc/network/interfaces",
            "auto lo\niface lo inet loopback\nauto eno1\niface eno1 inet dhcp\n",
        ),
        (
            "/etc/udev/rules.d/70-persistent-cd.rules",
            "ENV{ID_CDROM}==\"?*\", SYMLINK+=\"cdrom\"\n",
        ),
    ] {
        root.add_file(path, text).unwrap();
    }
    root.add_dir("/etc/systemd/network").unwrap();
    add_modules(&mut root, version, ".ko");
    add_modules(&mut root, "5.10.0-28-amd64", ".ko");
    let mut boot = tree_of(&[
        (
            "/grub/grub.cfg",
            "menuentry 'Debian' {\n\tset root='hd1,msdos1'\n\
             \tlinux\t/vmlinuz-6.1.0-18-amd64 root=/dev/sda2 ro quiet console=ttyS0\n\
             \tinitrd\t/initrd.img-6.1.0-18-amd64\n}\n\
             menuentry 'old' {\n\tset root='hd0,msdos1'\n\
             \tlinux\t/vmlinuz-5.10.0-28-amd64 root=/dev/sda2 ro\n}\n",
        ),
        ("/grub/device.map", "(hd0)\t/dev/disk/by-id/ata-DISK_sda\n"),
        ("/grub/i386-pc/normal.mod", ""),
        ("/vmlinuz-6.1.0-18-amd64", "k"),
        ("/vmlinuz-5.10.0-28-amd64", "k"),
    ]);
    let more: &[(&str, &str, &[u8])] = &[("conf/conf.d/resume", "file", b"RESUME=/dev/sda3\n")];
    boot.add_file(
        &format!("/initrd.img-{version}"),
        phony_initramfs("debian", version, ".ko", more),
    )
    .unwrap();
    let already = phony_initramfs("debian", "5.10.0-28-amd64", ".ko", &[]);
    boot.add_file("/initrd.img-5.10.0-28-amd64", already)
        .unwrap();
    let volumes = vec![
        volume(1, "ext4", Some(boot)),
        volume(2, "ext4", Some(root)),
        volume(3, "swap", None),
    ];
    check(
        "debian12",
        volumes,
        &machine(
            &["sda"],
            &[("eno1", "0c:c4:7a:00:00:01"), ("eno2", "0c:c4:7a:00:00:02")],
        ),
    );
}

#[test]
fn rhel_with_boot_entries_packed_modules_and_labels() {
    let version = "5.14.0-427.el9.x86_64";
    let mut root = base(
        "ID=\"rhel\"\nVERSION_ID=\"9.4\"\nPRETTY_NAME=\"Red Hat Enterprise Linux 9.4 (Plow)\"\n",
        "/dev/mapper/rhel-root /     xfs  defaults 0 0\n/dev/nvme0n1p1 /boot xfs defaults 0 0\n",
    );
    for (path, text) in [
        ("/etc/dracut.conf", "# empty\n"),
        (
            "/etc/lvm/devices/system.devices",
            "IDTYPE=sys_wwid IDNAME=eui.1 DEVNAME=/dev/nvme0n1p2\n",
        ),
        (
            "/etc/lvm/lvm.conf",
            "devices {\n\tfilter = [ \"a|/dev/nvme0n1p2|\", \"r|.*|\" ]\n}\n",
        ),
        (
            "/etc/sysconfig/network-scripts/ifcfg-eno1",
            "DEVICE=eno1\nHWADDR=0C:C4:7A:00:00:01\nONBOOT=yes\n",
        ),
    ] {
        root.add_file(path, text).unwrap();
    }
    root.add_dir("/etc/dracut.conf.d").unwrap();
    add_modules(&mut root, version, ".ko.xz");
    let label = b"system_u:object_r:etc_t:s0\0";
    root.set_xattr(&"/etc".into(), b"security.selinux", Some(label))
        .unwrap();
    root.set_xattr(
        &"/etc/dracut.conf.d".into(),
        b"security.selinux",
        Some(label),
    )
    .unwrap();
    let mut grubenv = format!("# GRUB Environment Block\nsaved_entry=0123-{version}\nkernelopts=root=/dev/mapper/rhel-root ro resume=/dev/nvme0n1p3\n").into_bytes();
    grubenv.resize(1024, b'#');
    let mut boot = tree_of(&[
        ("/grub2/grub.cfg", "blscfg\n"),
        (
            "/loader/entries/0123-5.14.0-427.el9.x86_64.conf",
            "title RHEL\nversion 5.14.0-427.el9.x86_64\nlinux /vmlinuz-5.14.0-427.el9.x86_64\n\
             initrd /initramfs-5.14.0-427.el9.x86_64.img $tuned_initrd\n\
             options root=/dev/mapper/rhel-root ro resume=/dev/nvme0n1p3 rd.lvm.lv=rhel/root\n",
        ),
        ("/vmlinuz-5.14.0-427.el9.x86_64", "k"),
    ]);
    boot.add_file("/grub2/grubenv", grubenv).unwrap();
    let more: &[(&str, &str, &[u8])] = &[
        (
            "etc/cmdline.d/95resume.conf",
            "file",
            b" resume=/dev/nvme0n1p3 \n",
        ),
        (
            "usr/lib/dracut/hooks/initqueue/finished/devexists-\\x2fdev\\x2fnvme0n1p3.sh",
            "file",
            b"[ -e x ]\n",
        ),
    ];
    boot.add_file(
        &format!("/initramfs-{version}.img"),
        phony_initramfs("dracut", version, ".ko.xz", more),
    )
    .unwrap();
    let mut lvm = volume(2, "xfs", Some(root));
    lvm.facts.lasting_names = vec!["mapper/rhel-root".into(), "rhel/root".into()];
    (lvm.facts.disk, lvm.facts.partition, lvm.facts.partuuid) = (None, None, None);
    let volumes = vec![volume(1, "xfs", Some(boot)), lvm, volume(3, "swap", None)];
    check(
        "rhel9",
        volumes,
        &machine(&["nvme0n1"], &[("eno1", "0c:c4:7a:00:00:01")]),
    );
}

#[test]
fn centos_6_with_grub_legacy_and_rules_for_names() {
    let version = "2.6.32-754.el6.x86_64";
    let mut root = base(
        "",
        "/dev/cciss/c0d0p2 / ext4 defaults 1 1\n/dev/cciss/c0d0p3 swap swap defaults 0 0\n",
    );
    root.remove(&"/etc/os-release".into()).unwrap();
    root.remove(&"/usr/lib/udev/rules.d/80-net-setup-link.rules".into())
        .unwrap();
    for (path, text) in [
        ("/etc/redhat-release", "CentOS release 6.10 (Final)\n"),
        ("/etc/adjtime", "0.0 0 0.0\n0\nLOCAL\n"),
        (
            "/etc/udev/rules.d/70-persistent-net.rules",
            "# PCI device 0x14e4:0x1639 (bnx2)\nSUBSYSTEM==\"net\", ACTION==\"add\", DRIVERS==\"?*\", \
             ATTR{address}==\"00:11:22:00:00:01\", ATTR{type}==\"1\", KERNEL==\"eth*\", NAME=\"eth0\"\n\n\
             # PCI device 0x14e4:0x1639 (bnx2)\nSUBSYSTEM==\"net\", ACTION==\"add\", DRIVERS==\"?*\", \
             ATTR{address}==\"00:99:99:00:00:99\", ATTR{type}==\"1\", KERNEL==\"eth*\", NAME=\"eth9\"\n",
        ),
        (
            "/boot/grub/grub.conf",
            "default=0\ntitle CentOS\n\troot (hd0,1)\n\tkernel /boot/vmlinuz-2.6.32-754.el6.x86_64 ro \
             root=/dev/cciss/c0d0p2 rhgb\n\tinitrd /boot/initramfs-2.6.32-754.el6.x86_64.img\n",
        ),
        ("/boot/grub/menu.lst@", "./grub.conf"),
        ("/boot/grub/device.map", "(hd0)     /dev/cciss/c0d0\n"),
        ("/boot/grub/stage2", "x"),
        ("/boot/vmlinuz-2.6.32-754.el6.x86_64", "k"),
        ("/etc/dracut.conf", ""),
    ] {
        match path.strip_suffix('@') {
            Some(path) => root.add_symlink(path, text).unwrap(),
            None => root.add_file(path, text).unwrap(),
        }
    }
    add_modules(&mut root, version, ".ko");
    root.add_file(
        &format!("/boot/initramfs-{version}.img"),
        phony_initramfs("dracut", version, ".ko", &[]),
    )
    .unwrap();
    let volumes = vec![volume(2, "ext4", Some(root)), volume(3, "swap", None)];
    let nics = [("eth1", "00:11:22:00:00:02"), ("eth0", "00:11:22:00:00:01")];
    check("centos6", volumes, &machine(&["cciss/c0d0"], &nics));
}

#[test]
fn an_image_without_an_inventory_whose_files_name_the_card() {
    let version = "5.15.0-100-generic";
    let mut root = base(
        "ID=ubuntu\nPRETTY_NAME=\"Ubuntu 22.04 LTS\"\n",
        "/dev/sdb1 / ext4 defaults 0 1\n",
    );
    for (path, text) in [
        (
            "/etc/netplan/00-installer-config.yaml",
            "network:\n  version: 2\n  ethernets:\n    enp3s0:\n      dhcp4: true\n    lan:\n      match:\n\
             \x20       macaddress: 0c:c4:7a:00:00:07\n      set-name: lan0\n",
        ),
        (
            "/boot/grub/grub.cfg",
            "menuentry 'Ubuntu' {\n\tlinux /boot/vmlinuz-5.15.0-100-generic root=/dev/sdb1 ro\n\
             \tinitrd /boot/initrd.img-5.15.0-100-generic\n}\n",
        ),
        ("/boot/vmlinuz-5.15.0-100-generic", "k"),
    ] {
        root.add_file(path, text).unwrap();
    }
    add_modules(&mut root, version, ".ko.zst");
    // Plain modules inside, packed ones outside: what cannot be known to load is unpacked.
    let initramfs = phony_initramfs("debian", version, ".ko", &[]);
    root.add_file(&format!("/boot/initrd.img-{version}"), initramfs)
        .unwrap();
    let made = check(
        "ubuntu2204-image",
        vec![volume(1, "ext4", Some(root))],
        &SourceHardware::unknown(1),
    );
    assert!(
        made.nics.iter().any(|nic| nic.generated) && made.nics.iter().any(|nic| !nic.generated)
    );
}

#[test]
fn an_old_kernel_without_virtio_is_told_to_stay_on_sata_or_ide() {
    let mut root = base(
        "ID=old\nPRETTY_NAME=\"Old\"\n",
        "LABEL=/ / ext3 defaults 1 1\n",
    );
    for (path, text) in [
        ("/boot/vmlinuz-2.6.18", "k"),
        (
            "/lib/modules/2.6.18/modules.dep",
            "kernel/drivers/ata/ata_piix.ko:\n",
        ),
    ] {
        let path = path.replace("/lib/modules", "/usr/lib/modules");
        root.add_file(&path, text).unwrap();
    }
    let nash = newc(&[
        ("bin/nash", "file", b"elf"),
        ("init", "file", b"#!/bin/nash\n"),
    ]);
    root.add_file("/boot/initrd-2.6.18.img", nash).unwrap();
    let mut only = volume(1, "ext3", Some(root));
    only.facts.label = Some("/".into());
    let made = check("without-virtio", vec![only], &machine(&["hda"], &[]));
    assert!(
        !made
            .capabilities
            .block
            .contains(&driver_injection::BlockBus::VirtioBlk)
    );
}
