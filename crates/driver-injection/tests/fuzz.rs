//! The entry of the fuzz target `guest`, on mutations of files of guests that a seed decides.
//! `P2V_FUZZ_SECONDS` says for how long; `scripts/fuzz` runs the same entry with coverage.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

#[path = "../../../fuzz/entries/guest.rs"]
mod entry;
#[path = "../../../fuzz/entries/mutate.rs"]
mod mutate;
mod support;

use std::time::Duration;

#[test]
fn mutated_files_of_a_guest() {
    let texts: [(&str, &str); 8] = [
        (
            "/etc/fstab",
            "/dev/sda1 / ext4 d 0 1\nUUID=21111111-2222-4333-8444-555555555555 /x xfs d 0 0\n",
        ),
        (
            "/boot/grub/grub.cfg",
            "set root='hd0,msdos1'\nmenuentry 'x' {\n linux /vmlinuz root=/dev/sda1 ro\n initrd /i\n}\n",
        ),
        (
            "/boot/grub/grub.conf",
            "default=0\ntitle x\n root (hd0,0)\n kernel /vmlinuz root=/dev/sda1\n",
        ),
        (
            "/etc/network/interfaces",
            "auto eth0\niface eth0 inet static\n address 10.0.0.1/24\n",
        ),
        (
            "/etc/netplan/a.yaml",
            "network:\n  ethernets:\n    eth0:\n      match:\n        macaddress: 52:54:00:00:00:01\n      dhcp4: true\n",
        ),
        ("/etc/crypttab", "c /dev/sda2 none luks\n"),
        (
            "/etc/sysconfig/network-scripts/ifcfg-eth0",
            "DEVICE=eth0\nHWADDR=52:54:00:00:00:01\nONBOOT=yes\n",
        ),
        (
            "/usr/lib/modules/6.1.0-18-amd64/modules.dep",
            "kernel/a.ko: kernel/b.ko\nkernel/b.ko:\n",
        ),
    ];
    let slot = |path: &str| entry::FILES.iter().position(|file| *file == path).unwrap() as u8;
    let mut seeds: Vec<Vec<u8>> = texts
        .iter()
        .map(|(path, text)| [&[slot(path)], text.as_bytes()].concat())
        .collect();
    let initramfs = support::phony_initramfs("debian", "6.1.0-18-amd64", ".ko", &[]);
    seeds.push(
        [
            &[slot("/boot/initrd.img-6.1.0-18-amd64")],
            initramfs.as_slice(),
        ]
        .concat(),
    );
    assert!(mutate::run(&seeds, Duration::from_secs(4), entry::feed) >= 100);
}
