//! Device names in kernel arguments, wherever a file holds some.

use crate::devices::{DeviceNames, Meaning};

/// Arguments whose value is a device. [linux, admin-guide/kernel-parameters], [initramfs-tools(7)],
/// [dracut.cmdline(7)], genkernel's real_root, mkinitcpio's cryptdevice.
const ARGUMENTS: &[&str] = &["root=", "resume=", "real_root=", "cryptdevice=", "RESUME="];

/// A text with its device names made lasting.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rewritten {
    /// The text.
    pub bytes: Vec<u8>,
    /// Names that mean nothing here, each once.
    pub absent: Vec<String>,
    /// Names that mean a volume for which there is no lasting name.
    pub nameless: Vec<String>,
}

/// Make the device names in `text` lasting: `root=/dev/sda2` becomes `root=UUID=…`, or `root=PARTUUID=…`
/// where there is no initramfs to look a UUID up. Everything else stays, byte for byte.
#[must_use]
pub fn rewrite_arguments(text: &[u8], names: &DeviceNames, has_initramfs: bool) -> Rewritten {
    let mut out = Rewritten {
        bytes: Vec::with_capacity(text.len() + 64),
        ..Rewritten::default()
    };
    let mut at = 0;
    while at < text.len() {
        let starts_word = at == 0 || is_boundary(text[at - 1]);
        let argument = ARGUMENTS
            .iter()
            .find(|argument| starts_word && text[at..].starts_with(argument.as_bytes()));
        let Some(argument) = argument else {
            out.bytes.push(text[at]);
            at += 1;
            continue;
        };
        let start = at + argument.len();
        let ends = |byte: &u8| {
            byte.is_ascii_whitespace()
                || b"\"'\\".contains(byte)
                || *byte == 0
                || (*byte == b':' && *argument == "cryptdevice=")
        };
        let length = text[start..]
            .iter()
            .position(ends)
            .unwrap_or(text.len() - start);
        let value = &text[start..start + length];
        out.bytes.extend_from_slice(argument.as_bytes());
        match lasting(
            value,
            names,
            has_initramfs || *argument != "root=",
            &mut out,
        ) {
            Some(new) => out.bytes.extend_from_slice(new.as_bytes()),
            None => out.bytes.extend_from_slice(value),
        }
        at = start + length;
    }
    out
}

/// The same device by a lasting name, if it has a fleeting one now.
fn lasting(
    value: &[u8],
    names: &DeviceNames,
    has_initramfs: bool,
    out: &mut Rewritten,
) -> Option<String> {
    let value = std::str::from_utf8(value).ok()?;
    if !value.starts_with("/dev/") {
        return None;
    }
    let note = |list: &mut Vec<String>| {
        if !list.iter().any(|known| known == value) {
            list.push(value.to_owned());
        }
    };
    match names.meaning(value) {
        Meaning::Fleeting(volume) => {
            let new = if has_initramfs {
                names.lasting_reference(volume)
            } else {
                names.partition_reference(volume)
            };
            if new.is_none() {
                note(&mut out.nameless);
            }
            new
        }
        Meaning::Absent
            if !value.starts_with("/dev/mapper/") && !value.starts_with("/dev/disk/by-") =>
        {
            note(&mut out.absent);
            None
        }
        _ => None,
    }
}

fn is_boundary(byte: u8) -> bool {
    byte.is_ascii_whitespace() || b"\"'=\\".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::DeviceFacts;
    use crate::hardware::SourceHardware;

    fn names() -> DeviceNames {
        let volume = |partition: u32, uuid: &str| DeviceFacts {
            disk: Some(0),
            partition: Some(partition),
            uuid: Some(uuid.to_owned()),
            partuuid: Some(format!("0badcafe-0{partition}")),
            ..DeviceFacts::default()
        };
        DeviceNames::new(
            vec![volume(1, "b"), volume(2, "r")],
            &SourceHardware::unknown(1),
        )
    }

    fn rewrite(text: &str, has_initramfs: bool) -> String {
        let out = rewrite_arguments(text.as_bytes(), &names(), has_initramfs);
        String::from_utf8(out.bytes).unwrap()
    }

    #[test]
    fn only_device_names_change() {
        for (text, expected) in [
            (
                "linux /vmlinuz root=/dev/sda2 ro",
                "linux /vmlinuz root=UUID=r ro",
            ),
            ("X=\"resume=/dev/sda1\"", "X=\"resume=UUID=b\""),
            ("kernelopts=root=/dev/sda2 ro", "kernelopts=root=UUID=r ro"),
            ("# kopt=root=/dev/hda2 ro", "# kopt=root=UUID=r ro"),
            ("cryptdevice=/dev/sda2:root x", "cryptdevice=UUID=r:root x"),
            ("set root='hd0,msdos1'", "set root='hd0,msdos1'"),
            ("root=UUID=r root=LABEL=x", "root=UUID=r root=LABEL=x"),
            ("chroot=/dev/sda2", "chroot=/dev/sda2"),
            ("root=/dev/mapper/vg-root", "root=/dev/mapper/vg-root"),
            ("root=/dev/sda2", "root=UUID=r"),
            ("root=", "root="),
        ] {
            assert_eq!(rewrite(text, true), expected);
        }
    }

    #[test]
    fn without_an_initramfs_the_kernel_knows_partitions_only() {
        assert_eq!(
            rewrite("root=/dev/sda2 resume=/dev/sda1", false),
            "root=PARTUUID=0badcafe-02 resume=UUID=b"
        );
    }

    #[test]
    fn names_of_disks_that_are_not_here_are_told() {
        let out = rewrite_arguments(
            b"root=/dev/sdq1 x root=/dev/sdq1 root=/dev/\xff",
            &names(),
            true,
        );
        assert_eq!(out.absent, ["/dev/sdq1"]);
        assert_eq!(out.bytes, b"root=/dev/sdq1 x root=/dev/sdq1 root=/dev/\xff");
    }
}
