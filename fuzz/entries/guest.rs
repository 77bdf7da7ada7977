//! Any bytes as a file of a guest that is inspected, planned for and edited: fstab, boot menus, network
//! files, initramfs archives. The first byte says which file.

use driver_injection::{
    DeviceFacts, Guest, GuestVolume, RootChoice, SourceDisk, SourceHardware, Target, apply,
    inspect, plan,
};
use filesystems::memory::MemoryTree;
use filesystems::tree::FileTree;

/// The files that are made of the bytes.
pub const FILES: &[&str] = &[
    "/etc/fstab",
    "/boot/grub/grub.cfg",
    "/boot/grub2/grub.cfg",
    "/boot/grub/grub.conf",
    "/boot/loader/entries/a.conf",
    "/boot/extlinux/extlinux.conf",
    "/etc/default/grub",
    "/etc/crypttab",
    "/etc/lvm/lvm.conf",
    "/etc/mdadm/mdadm.conf",
    "/etc/network/interfaces",
    "/etc/netplan/a.yaml",
    "/etc/sysconfig/network-scripts/ifcfg-eth0",
    "/etc/NetworkManager/system-connections/a.nmconnection",
    "/etc/systemd/network/a.network",
    "/etc/udev/rules.d/70-persistent-net.rules",
    "/etc/os-release",
    "/usr/lib/modules/6.1.0-18-amd64/modules.dep",
    "/usr/lib/modules/6.1.0-18-amd64/modules.alias",
    "/boot/initrd.img-6.1.0-18-amd64",
];

/// Feed `data` to everything that reads guests.
pub fn feed(data: &[u8]) {
    let Some((slot, content)) = data.split_first() else {
        return;
    };
    let path = FILES[usize::from(*slot) % FILES.len()];
    let fstab = "/dev/sda1 / ext4 d 0 1\n/dev/sda2 /home ext4 d 0 2\n";
    let mut tree = MemoryTree::new();
    for (name, text) in [
        ("/etc/os-release", "ID=debian\nPRETTY_NAME=\"Debian\"\n"),
        ("/etc/fstab", fstab),
        ("/usr/sbin/init", ""),
        ("/boot/vmlinuz-6.1.0-18-amd64", "k"),
        (
            "/usr/lib/modules/6.1.0-18-amd64/modules.dep",
            "kernel/drivers/block/virtio_blk.ko:\n",
        ),
        (
            "/usr/lib/modules/6.1.0-18-amd64/kernel/drivers/block/virtio_blk.ko",
            "ELF",
        ),
    ] {
        if name != path {
            let _ = tree.add_file(name, text);
        }
    }
    let _ = tree.add_symlink("/sbin", "usr/sbin");
    let _ = tree.add_symlink("/lib", "usr/lib");
    let _ = tree.add_file(path, content);
    let volume = |partition: u32, tree: Option<MemoryTree>| GuestVolume {
        facts: DeviceFacts {
            disk: Some(0),
            partition: Some(partition),
            uuid: Some(format!("{partition}1111111-2222-4333-8444-555555555555")),
            kind: "ext4".into(),
            ..DeviceFacts::default()
        },
        tree: tree.map(|tree| Box::new(tree) as Box<dyn FileTree>),
        problem: None,
    };
    let source = SourceHardware {
        disks: vec![SourceDisk {
            name: Some("sda".to_owned()),
            links: vec!["disk/by-id/ata-DISK".to_owned()],
        }],
        nics: Vec::new(),
        firmware: None,
    };
    let volumes = vec![volume(1, Some(tree)), volume(2, None)];
    let Ok(mut guest) = Guest::assemble(volumes, &source, &RootChoice::Only) else {
        return;
    };
    let target = Target {
        boot_disk: 0,
        time: 1_700_000_000,
    };
    let made = plan(&inspect(&guest), &source, &target);
    let text = made.to_string();
    assert!(
        !text.contains('\u{1b}'),
        "a plan prints no control characters"
    );
    if apply(&made, &mut guest).is_ok() {
        let again = plan(&inspect(&guest), &source, &target);
        let outcomes = apply(&again, &mut guest);
        assert!(
            outcomes.is_ok(),
            "what was changed can be planned for again"
        );
    }
}
