//! Guests that lie, and guests that have no room: each must end in an error or a finding, with nothing
//! written that was not planned.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use driver_injection::{ApplyError, Outcome, SourceHardware, apply, inspect, plan};
use filesystems::memory::MemoryTree;
use filesystems::path::GuestPath;
use filesystems::tree::FileTree;
use support::*;

const VERSION: &str = "6.1.0-18-amd64";

fn root(fstab: &str) -> MemoryTree {
    let mut tree = tree_of(&[
        ("/etc/os-release", "ID=debian\nPRETTY_NAME=\"Debian\"\n"),
        ("/etc/fstab", fstab),
        ("/usr/sbin/init", ""),
        ("/sbin@", "usr/sbin"),
        ("/lib@", "usr/lib"),
        ("/etc/network/interfaces", "iface eth0 inet dhcp\n"),
        ("/usr/lib/udev/rules.d/80-net-setup-link.rules", "x"),
        ("/etc/systemd/network/.keep", ""),
    ]);
    add_modules(&mut tree, VERSION, ".ko");
    tree.add_dir("/boot").unwrap();
    tree
}

fn boot() -> MemoryTree {
    let mut tree = tree_of(&[(&format!("/vmlinuz-{VERSION}"), "k")]);
    let initramfs = phony_initramfs("debian", VERSION, ".ko", &[]);
    tree.add_file(&format!("/initrd.img-{VERSION}"), initramfs)
        .unwrap();
    tree
}

const FSTAB: &str = "/dev/sda2 / ext4 d 0 1\n/dev/sda1 /boot ext4 d 0 2\n";

#[test]
fn a_full_boot_is_refused_before_anything_is_written() {
    let boot = boot().with_capacity(4000);
    let volumes = vec![
        volume(1, "ext4", Some(boot)),
        volume(2, "ext4", Some(root(FSTAB))),
    ];
    let source = machine(&["sda"], &[]);
    let mut guest = assemble(volumes, &source);
    let made = plan(&inspect(&guest), &source, &target());
    let error = apply(&made, &mut guest).unwrap_err();
    assert!(
        matches!(&error, ApplyError::NoSpace { at, .. } if *at == GuestPath::new("/boot")),
        "{error}"
    );
    let fstab = guest
        .files()
        .read_following(&"/etc/fstab".into(), 1000)
        .unwrap();
    assert_eq!(fstab, FSTAB.as_bytes(), "nothing may be written");
}

#[test]
fn a_file_that_changed_since_the_plan_is_not_overwritten() {
    let source = machine(&["sda"], &[]);
    let with = |fstab| {
        let volumes = vec![
            volume(1, "ext4", Some(boot())),
            volume(2, "ext4", Some(root(fstab))),
        ];
        assemble(volumes, &source)
    };
    let made = plan(&inspect(&with(FSTAB)), &source, &target());
    let other = "/dev/sda2 / ext4 d 0 1\n/dev/sda1 /boot ext4 d 0 2\n# by hand\n";
    let error = apply(&made, &mut with(other)).unwrap_err();
    assert!(
        matches!(&error, ApplyError::Moved { place, .. } if *place == GuestPath::new("/etc/fstab")),
        "{error}"
    );
}

#[test]
fn new_files_get_the_label_of_their_neighbours_and_old_ones_keep_theirs() {
    let mut root = root(FSTAB);
    let (label, own) = (b"system_u:object_r:net_conf_t:s0\0", b"fstab's own\0");
    root.set_xattr(
        &"/etc/systemd/network/.keep".into(),
        b"security.selinux",
        Some(label),
    )
    .unwrap();
    root.set_xattr(&"/etc/fstab".into(), b"security.selinux", Some(own))
        .unwrap();
    let volumes = vec![
        volume(1, "ext4", Some(boot())),
        volume(2, "ext4", Some(root)),
    ];
    let source = machine(&["sda"], &[("eth0", "52:54:00:00:00:01")]);
    let mut guest = assemble(volumes, &source);
    let made = plan(&inspect(&guest), &source, &target());
    apply(&made, &mut guest).unwrap();
    let label_of = |path: &str| guest.files().xattrs(&path.into()).unwrap()[0].value.clone();
    assert_eq!(label_of("/etc/systemd/network/10-p2v-eth0.link"), label);
    assert_eq!(label_of("/etc/fstab"), own);
}

#[test]
fn links_lead_nowhere_outside_and_loops_end() {
    let mut root = root(
        "/dev/sda2 / ext4 d 0 1\n/dev/sda1 /boot ext4 d 0 2\n/dev/sda1 /../../../srv ext4 d\n",
    );
    for (name, to) in [
        ("/etc/crypttab", "/../../../../etc/passwd"),
        ("/etc/default/grub", "grub"),
        ("/etc/lvm/lvm.conf", "/etc/lvm/../lvm/lvm.conf"),
        ("/etc/netplan/loop.yaml", "/etc/netplan/loop.yaml"),
        ("/etc/udev/rules.d/70-persistent-net.rules", "/dev/null"),
    ] {
        root.add_symlink(name, to).unwrap();
    }
    root.add_special("/dev/null").unwrap();
    root.add_file("/etc/passwd", "root /dev/sda1 x\n").unwrap();
    let volumes = vec![
        volume(1, "ext4", Some(boot())),
        volume(2, "ext4", Some(root)),
    ];
    let source = machine(&["sda"], &[]);
    let mut guest = assemble(volumes, &source);
    let made = plan(&inspect(&guest), &source, &target());
    // /etc/crypttab does lead to the guest's own passwd: what is changed is that, inside the guest.
    for edit in &made.edits {
        assert!(
            guest.files().resolve(&edit.place).unwrap() == edit.place,
            "{edit}"
        );
    }
    assert!(apply(&made, &mut guest).is_ok());
}

#[test]
fn names_with_newlines_and_control_characters_do_no_harm() {
    let mut root = root(&format!(
        "{FSTAB}/dev/sda9\u{1b}[31m /x ext4 d\n/dev/sdc1\\012x /y\\012z ext4 d\n"
    ));
    let evil = "9.9\nroot=evil\u{1b}]0;";
    root.add_file(&format!("/usr/lib/modules/{evil}/modules.dep"), "a\n")
        .unwrap();
    root.add_file(&format!("/usr/lib/modules/{VERSION}/modules.\nx"), "a\n")
        .unwrap();
    root.add_file(
        "/etc/netplan/\u{1b}x.yaml",
        "ethernets:\n  \"a\\nb\":\n    dhcp4: true\n",
    )
    .unwrap();
    let mut boot = boot();
    boot.add_file(&format!("/vmlinuz-{evil}"), "k").unwrap();
    boot.add_file(&format!("/initrd.img-{evil}"), "junk")
        .unwrap();
    let volumes = vec![volume(1, "ext4", Some(boot)), volume(2, "ext4", Some(root))];
    let source = machine(&["sda"], &[("eth0\nName=evil", "52:54:00:00:00:01")]);
    let mut guest = assemble(volumes, &source);
    let made = plan(&inspect(&guest), &source, &target());
    let text = made.to_string();
    assert!(!text.contains('\u{1b}'), "{text}");
    assert!(
        !text.contains("\nroot=evil") && !text.contains("\nName=evil"),
        "{text}"
    );
    assert!(
        made.findings
            .iter()
            .any(|finding| finding.code == "nic-bad-name")
    );
    assert!(
        made.findings
            .iter()
            .any(|finding| finding.code == "initramfs-damaged")
    );
    let outcomes = apply(&made, &mut guest).unwrap();
    assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Changed));
}

#[test]
fn files_of_a_hundred_thousand_lines_cost_seconds_not_hours() {
    let lines =
        |count: usize, line: &dyn Fn(usize) -> String| -> String { (0..count).map(line).collect() };
    let mut root = root(
        &(FSTAB.to_owned() + &lines(40_000, &|n| format!("/dev/sdb{n} /m{n} ext4 d 0 0\nx\n"))),
    );
    for (path, text) in [
        (
            "/boot/grub/grub.cfg",
            lines(60_000, &|n| {
                format!("set root='hd1,1'\nlinux /v{n} root=/dev/sdq{n}\n")
            }),
        ),
        (
            "/etc/network/interfaces",
            lines(60_000, &|n| format!("iface eth{n} inet dhcp\n")),
        ),
        (
            "/etc/udev/rules.d/70-persistent-net.rules",
            lines(20_000, &|n| {
                format!(
                    "ATTR{{address}}==\"52:54:00:{:02x}:{:02x}:00\", NAME=\"eth{n}\"\n",
                    n >> 8,
                    n & 255
                )
            }),
        ),
        (
            "/etc/crypttab",
            lines(60_000, &|n| format!("c{n} /dev/sda1 none\n")),
        ),
    ] {
        root.add_file(path, text).unwrap();
    }
    let start = std::time::Instant::now();
    let volumes = vec![volume(1, "ext4", None), volume(2, "ext4", Some(root))];
    let source = SourceHardware::unknown(1);
    let mut guest = assemble(volumes, &source);
    let made = plan(&inspect(&guest), &source, &target());
    assert!(made.findings.len() < 300, "{}", made.findings.len());
    assert!(made.nics.len() <= 32);
    let text = made.to_string();
    apply(&made, &mut guest).unwrap();
    let took = start.elapsed();
    println!("{} KiB of plan in {took:.1?}", text.len() >> 10);
    assert!(took.as_secs() < 60, "{took:?}");
}

#[test]
fn a_damaged_initramfs_is_left_alone_and_said() {
    let mut boot = boot();
    let mut damaged = phony_initramfs("debian", VERSION, ".ko", &[]);
    damaged.truncate(damaged.len() - 200);
    let path = GuestPath::new(format!("/initrd.img-{VERSION}"));
    boot.write_file(
        &path,
        &damaged,
        filesystems::tree::Attributes::root_owned(0o644, 0),
    )
    .unwrap();
    let volumes = vec![
        volume(1, "ext4", Some(boot)),
        volume(2, "ext4", Some(root(FSTAB))),
    ];
    let source = machine(&["sda"], &[]);
    let mut guest = assemble(volumes, &source);
    let made = plan(&inspect(&guest), &source, &target());
    assert!(
        made.findings
            .iter()
            .any(|finding| finding.code == "initramfs-damaged")
    );
    apply(&made, &mut guest).unwrap();
    let path = GuestPath::new(format!("/boot/initrd.img-{VERSION}"));
    assert_eq!(
        guest.files().read_following(&path, 1 << 20).unwrap(),
        damaged
    );
}

/// Every menu of the collection: only device names change, and what names none stays byte for byte.
#[test]
fn collected_menus_change_in_device_names_only() {
    let test = "collected_menus_change_in_device_names_only";
    let Some(directory) = test_oracles::fixture(test, "bootcfg/grubby") else {
        return;
    };
    let (mut menus, mut changed) = (0, 0);
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let place = match name.split('.').next().unwrap() {
            "grub2" => "/boot/grub2/grub.cfg",
            "grub" => "/boot/grub/grub.conf",
            "extlinux" => "/boot/extlinux/extlinux.conf",
            _ => continue,
        };
        if !path.is_file() {
            continue;
        }
        menus += 1;
        let before = std::fs::read(&path).unwrap();
        let mut tree = root("/dev/sda2 / ext4 d 0 1\n");
        tree.add_file(place, &before).unwrap();
        let mut volumes = vec![volume(2, "ext4", Some(tree))];
        volumes.extend([1, 3, 4, 5, 6].map(|partition| volume(partition, "ext4", None)));
        let source = machine(&["sda"], &[]);
        let guest = assemble(volumes, &source);
        let made = plan(&inspect(&guest), &source, &target());
        let edit = made
            .edits
            .iter()
            .find(|edit| edit.place == GuestPath::new(place));
        let Some(driver_injection::Change::ReplaceFile { after, .. }) = edit.map(|edit| &edit.what)
        else {
            let text = String::from_utf8_lossy(&before).into_owned();
            let names = text.lines().any(|line| {
                !line.trim_start().starts_with('#')
                    && line
                        .split_whitespace()
                        .any(|word| word.starts_with("root=/dev/sda"))
            });
            assert!(!names, "{name} names a disk and is not changed");
            continue;
        };
        changed += 1;
        let (before, after) = (
            String::from_utf8(before).unwrap(),
            String::from_utf8(after.clone()).unwrap(),
        );
        assert_eq!(before.lines().count(), after.lines().count(), "{name}");
        for (old, new) in before.lines().zip(after.lines()) {
            let pairs = old.split(' ').zip(new.split(' '));
            for (old, new) in pairs.filter(|(old, new)| old != new) {
                assert!(
                    old.contains("=/dev/sda") && new.contains("UUID="),
                    "{name}: {old} -> {new}"
                );
            }
        }
    }
    println!("{menus} menus, {changed} of them changed");
    assert!(
        menus > 20 && changed > 3,
        "{menus} menus, {changed} changed"
    );
}
