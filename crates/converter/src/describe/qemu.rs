//! QEMU arguments, for the script that goes with the images and for `p2v boot`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use stream_protocol::inventory::FirmwareKind;

use super::{Board, Clock, DiskBus, Machine, NicModel};

/// Two channels of two.
pub const MOST_ON_IDE: usize = 4;
/// Ports of QEMU's ICH9 AHCI controller.
const PORTS_OF_AHCI: usize = 6;

/// `-machine …`, `-rtc …`: the board and what is on it.
#[must_use]
pub fn board(machine: &Machine) -> Vec<OsString> {
    let smm = if machine.secure_boot { ",smm=on" } else { "" };
    let board = match machine.board {
        Board::Q35 => format!("q35{smm}"),
        Board::Pc => "pc".to_owned(),
    };
    let clock = match machine.clock {
        Clock::Utc => "base=utc",
        Clock::Localtime => "base=localtime",
    };
    let mut arguments = words(&["-machine", &board, "-rtc", clock]);
    if machine.secure_boot {
        // Without it the guest could write the variable store behind the firmware's back.
        arguments.extend(words(&[
            "-global",
            "driver=cfi.pflash01,property=secure,value=on",
        ]));
    }
    arguments
}

/// Disks and their controllers. `more` is put into each `-drive`, and a relative image is looked for in `directory`.
#[must_use]
pub fn disks(machine: &Machine, directory: &Path, more: &str) -> Vec<OsString> {
    let mut arguments = Vec::new();
    let (mut scsi, mut ahci, mut ide) = (0, 0, 0);
    for (index, disk) in machine.disks.iter().enumerate() {
        let mut drive = OsString::from(format!(
            "if=none,id=disk{index},format={},{more}file.driver=file,file.filename=",
            disk.format.name()
        ));
        drive.push(doubled_commas(directory.join(&disk.file).as_os_str()));
        arguments.extend(["-drive".into(), drive]);
        let boot = index + 1;
        let device = match disk.bus {
            DiskBus::VirtioBlk => format!("virtio-blk-pci,drive=disk{index},bootindex={boot}"),
            DiskBus::VirtioScsi => {
                if scsi == 0 {
                    arguments.extend(words(&["-device", "virtio-scsi-pci,id=scsi0"]));
                }
                scsi += 1;
                format!("scsi-hd,bus=scsi0.0,drive=disk{index},bootindex={boot}")
            }
            DiskBus::Ahci => {
                let (controller, port) = (ahci / PORTS_OF_AHCI, ahci % PORTS_OF_AHCI);
                if port == 0 {
                    arguments.extend(words(&[
                        "-device",
                        &format!("ich9-ahci,id=ahci{controller}"),
                    ]));
                }
                ahci += 1;
                format!("ide-hd,bus=ahci{controller}.{port},drive=disk{index},bootindex={boot}")
            }
            DiskBus::Ide => {
                if ide == 0 && machine.board == Board::Q35 {
                    // i440FX has this controller on the board, under the name `ide`; Q35 has SATA under that name.
                    arguments.extend(words(&["-device", "piix4-ide,id=pata"]));
                }
                let controller = if machine.board == Board::Q35 {
                    "pata"
                } else {
                    "ide"
                };
                let (channel, unit) = (ide / 2, ide % 2);
                ide += 1;
                format!(
                    "ide-hd,bus={controller}.{channel},unit={unit},drive=disk{index},bootindex={boot}"
                )
            }
            DiskBus::Nvme => {
                format!("nvme,serial=p2v-{index},drive=disk{index},bootindex={boot}")
            }
        };
        arguments.extend(words(&["-device", &device]));
    }
    arguments
}

/// Network cards on QEMU's own user-mode network; `options` go into each `-netdev user`, `card` into each card.
#[must_use]
pub fn nics(machine: &Machine, options: &str, card: &str) -> Vec<OsString> {
    let mut arguments = Vec::new();
    for (index, nic) in machine.nics.iter().enumerate() {
        let model = match nic.model {
            NicModel::Virtio => "virtio-net-pci",
            NicModel::E1000e => "e1000e",
            NicModel::E1000 => "e1000",
            NicModel::Rtl8139 => "rtl8139",
        };
        let mac = nic
            .mac
            .as_ref()
            .map_or(String::new(), |mac| format!(",mac={mac}"));
        let netdev = format!("user,id=net{index}{options}");
        arguments.extend(words(&["-netdev", &netdev, "-device"]));
        arguments.extend(words(&[&format!("{model},netdev=net{index}{mac}{card}")]));
    }
    arguments
}

/// A shell script that starts the machine from the directory it stands in, for good (it writes to the images).
#[must_use]
pub fn script(machine: &Machine) -> Vec<u8> {
    let mut text = SCRIPT_HEAD.to_vec();
    if machine.firmware == FirmwareKind::Uefi {
        text.extend_from_slice(find_uefi_firmware(machine.secure_boot).as_bytes());
    }
    text.extend_from_slice(b"exec qemu-system-x86_64 ${ACCEL:--accel kvm -accel tcg}");
    let mib = machine.memory_bytes.div_ceil(1 << 20).to_string();
    let mut arguments = words(&["-name"]);
    let mut name = OsString::from("guest=");
    name.push(doubled_commas(OsStr::new(
        &machine.name.replace(char::is_control, "_"),
    )));
    arguments.push(name);
    arguments.extend(board(machine));
    arguments.extend(words(&[
        "-cpu",
        "max",
        "-m",
        &mib,
        "-smp",
        &machine.vcpus.to_string(),
    ]));
    arguments.extend(disks(machine, Path::new(""), "discard=unmap,"));
    arguments.extend(nics(machine, "", ""));
    arguments.extend(words(&[
        "-vga",
        "std",
        "-device",
        "virtio-rng-pci",
        "-serial",
        "mon:stdio",
    ]));
    for argument in &arguments {
        let next: &[u8] = if argument.as_bytes().starts_with(b"-") {
            b" \\\n    "
        } else {
            b" "
        };
        text.extend_from_slice(next);
        text.extend_from_slice(&quoted(argument));
    }
    if machine.firmware == FirmwareKind::Uefi {
        text.extend_from_slice(
            b" \\\n    -drive \"if=pflash,unit=0,format=raw,readonly=on,file=$code\"",
        );
        text.extend_from_slice(b" \\\n    -drive \"if=pflash,unit=1,format=raw,file=$variables\"");
    }
    text.extend_from_slice(b" \\\n    \"$@\"\n");
    text
}

const SCRIPT_HEAD: &[u8] = b"#!/bin/sh
# Starts this machine in QEMU, from the images beside this script, and writes to them. The network is QEMU's own (the
# guest reaches out, nobody reaches it); arguments of this script go to QEMU. ACCEL='-accel tcg' in the environment keeps
# it off KVM.
set -eu
cd -- \"$(dirname -- \"$0\")\"
";

/// Code and variable store of UEFI firmware where distributions put them, and whether it checks signatures.
const UEFI_FIRMWARE: &[(bool, &str, &str)] = &[
    (
        false,
        "/usr/share/OVMF/OVMF_CODE_4M.fd",
        "/usr/share/OVMF/OVMF_VARS_4M.fd",
    ),
    (
        false,
        "/usr/share/OVMF/OVMF_CODE.fd",
        "/usr/share/OVMF/OVMF_VARS.fd",
    ),
    (
        false,
        "/usr/share/edk2/x64/OVMF_CODE.4m.fd",
        "/usr/share/edk2/x64/OVMF_VARS.4m.fd",
    ),
    (
        true,
        "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd",
        "/usr/share/OVMF/OVMF_VARS_4M.ms.fd",
    ),
    (
        true,
        "/usr/share/OVMF/OVMF_CODE.secboot.fd",
        "/usr/share/OVMF/OVMF_VARS.secboot.fd",
    ),
];

/// The UEFI firmware of this machine: its code, and the variable store to copy.
#[must_use]
pub fn uefi_firmware(secure_boot: bool) -> Option<(&'static str, &'static str)> {
    UEFI_FIRMWARE
        .iter()
        .filter(|(secure, ..)| *secure == secure_boot)
        .map(|(_, code, variables)| (*code, *variables))
        .find(|(code, variables)| Path::new(code).is_file() && Path::new(variables).is_file())
}

/// The part of the script that looks for the firmware where the script runs, which need not be here.
fn find_uefi_firmware(secure_boot: bool) -> String {
    let mut text = String::from("code= store=\nfor pair in");
    for (_, code, variables) in UEFI_FIRMWARE
        .iter()
        .filter(|(secure, ..)| *secure == secure_boot)
    {
        text.push_str(" \\\n    ");
        text.push_str(code);
        text.push(':');
        text.push_str(variables);
    }
    text.push_str(SCRIPT_UEFI);
    text
}

const SCRIPT_UEFI: &str = "; do
    if [ -z \"$code\" ] && [ -r \"${pair%%:*}\" ] && [ -r \"${pair#*:}\" ]; then
        code=${pair%%:*} store=${pair#*:}
    fi
done
if [ -z \"$code\" ]; then
    echo 'No UEFI firmware found: install OVMF (Debian: ovmf, Fedora: edk2-ovmf).' >&2
    exit 1
fi
# The machine's own variable store, made at its first start.
variables=./$(basename -- \"$0\" .sh).nvram
[ -e \"$variables\" ] || cp -- \"$store\" \"$variables\"
";

fn words(list: &[&str]) -> Vec<OsString> {
    list.iter().map(OsString::from).collect()
}

/// QEMU's option parser takes `,,` for a comma that is part of the value.
pub(crate) fn doubled_commas(value: &OsStr) -> OsString {
    let mut doubled = Vec::new();
    for &byte in value.as_bytes() {
        doubled.push(byte);
        if byte == b',' {
            doubled.push(byte);
        }
    }
    OsString::from_vec(doubled)
}

/// As one word for a POSIX shell.
fn quoted(word: &OsStr) -> Vec<u8> {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"-_=.,/:+".contains(b);
    if !word.is_empty() && word.as_bytes().iter().all(plain) {
        return word.as_bytes().to_vec();
    }
    let mut text = vec![b'\''];
    for &byte in word.as_bytes() {
        if byte == b'\'' {
            text.extend_from_slice(b"'\\''");
        } else {
            text.push(byte);
        }
    }
    text.push(b'\'');
    text
}
