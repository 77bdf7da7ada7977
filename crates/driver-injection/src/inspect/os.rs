//! Which system it is: name, version, processor, clock, what starts it.

use filesystems::mounts::MountedTree;
use filesystems::path::GuestPath;
use filesystems::tree::FileTree;
use serde::Serialize;

/// Longest description read.
const LONGEST: u64 = 64 << 10;

/// The operating system.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Os {
    /// Lower-case identifier: `debian`, `rhel`, `sles`, `arch`, `alpine`; empty when unknown.
    pub id: String,
    /// Systems it is like.
    pub id_like: Vec<String>,
    /// Version: `12`, `7.9`; empty for rolling ones.
    pub version: String,
    /// Name for people.
    pub name: String,
    /// Processor it is built for, as the kernel calls it: `x86_64`, `i386`, `aarch64`; empty when
    /// unknown.
    pub arch: String,
    /// What runs as process 1.
    pub init: Init,
    /// Whether the hardware clock runs in local time.
    pub clock_is_local: bool,
}

/// What runs as process 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Init {
    /// systemd.
    Systemd,
    /// Upstart.
    Upstart,
    /// OpenRC.
    Openrc,
    /// System V init or busybox.
    Sysv,
    /// Something else.
    #[default]
    Unknown,
}

/// What system is it?
#[must_use]
pub fn inspect_os(tree: &MountedTree) -> Os {
    let mut os = from_os_release(tree)
        .or_else(|| from_old_release_files(tree))
        .unwrap_or_default();
    os.arch = ["/bin/sh", "/sbin/init", "/bin/busybox", "/usr/bin/env"]
        .iter()
        .find_map(|path| arch_of(tree, &(*path).into()))
        .unwrap_or_default()
        .to_owned();
    os.init = inspect_init(tree);
    os.clock_is_local = clock_is_local(tree);
    os
}

/// Its name for people, `unknown Linux` if it does not say.
#[must_use]
pub fn os_name(tree: &MountedTree) -> String {
    let os = from_os_release(tree).or_else(|| from_old_release_files(tree));
    let name = os.map(|os| os.name).filter(|name| !name.is_empty());
    name.unwrap_or_else(|| "unknown Linux".to_owned())
}

/// [os-release(5)]
fn from_os_release(tree: &MountedTree) -> Option<Os> {
    let text = read(tree, "/etc/os-release").or_else(|| read(tree, "/usr/lib/os-release"))?;
    let value = |key: &str| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.map(|value| value.trim().trim_matches(['"', '\'']).to_owned())
    };
    let id = value("ID").unwrap_or_else(|| "linux".to_owned());
    Some(Os {
        name: value("PRETTY_NAME")
            .or_else(|| value("NAME"))
            .unwrap_or_else(|| id.clone()),
        id_like: value("ID_LIKE")
            .map(|like| like.split_whitespace().map(str::to_owned).collect())
            .unwrap_or_default(),
        version: value("VERSION_ID").unwrap_or_default(),
        id,
        ..Os::default()
    })
}

/// Systems older than os-release.
fn from_old_release_files(tree: &MountedTree) -> Option<Os> {
    const FILES: &[(&str, &str, &str)] = &[
        ("/etc/oracle-release", "ol", "rhel"),
        ("/etc/centos-release", "centos", "rhel"),
        ("/etc/fedora-release", "fedora", ""),
        ("/etc/redhat-release", "rhel", ""),
        ("/etc/SuSE-release", "suse", ""),
        ("/etc/alpine-release", "alpine", ""),
        ("/etc/arch-release", "arch", ""),
        ("/etc/gentoo-release", "gentoo", ""),
        ("/etc/slackware-version", "slackware", ""),
        ("/etc/debian_version", "debian", ""),
    ];
    FILES.iter().find_map(|(path, id, like)| {
        let text = read(tree, path)?;
        let first = text.lines().next().unwrap_or_default().trim();
        let numeric = |word: &&str| word.starts_with(|c: char| c.is_ascii_digit());
        let version = first.split_whitespace().find(numeric).unwrap_or_default();
        let name = match *id {
            "debian" => format!("Debian {first}"),
            "alpine" => format!("Alpine Linux {first}"),
            id if first.is_empty() => id.to_owned(),
            _ => first.to_owned(),
        };
        // CentOS 5 and 6 have no file of their own.
        let id = if *id == "rhel" && first.starts_with("CentOS") {
            "centos"
        } else {
            *id
        };
        Some(Os {
            id: id.to_owned(),
            id_like: like.split_whitespace().map(str::to_owned).collect(),
            version: version.to_owned(),
            name,
            ..Os::default()
        })
    })
}

/// The machine an ELF file is for. [ELF], e_ident and e_machine.
fn arch_of(tree: &MountedTree, path: &GuestPath) -> Option<&'static str> {
    let path = tree.resolve(path).ok()?;
    let mut start = [0; 20];
    let read = tree.read_at(&path, 0, &mut start).ok()?;
    if read < 20 || start[..4] != *b"\x7fELF" {
        return None;
    }
    // e_ident[5]: 1 is little-endian; e_machine at 18.
    let machine = [start[18], start[19]];
    let little = start[5] == 1;
    Some(
        match if little {
            u16::from_le_bytes(machine)
        } else {
            u16::from_be_bytes(machine)
        } {
            3 => "i386",
            62 => "x86_64",
            40 => "arm",
            183 => "aarch64",
            21 if little => "ppc64le",
            21 => "ppc64",
            22 => "s390x",
            243 => "riscv64",
            _ => return None,
        },
    )
}

fn inspect_init(tree: &MountedTree) -> Init {
    let has = |path: &str| tree.exists(&path.into());
    let target = tree.resolve(&"/sbin/init".into()).unwrap_or_default();
    let name = target.file_name().unwrap_or_default();
    if name == b"systemd" {
        Init::Systemd
    } else if name == b"openrc-init" || (has("/sbin/openrc") && has("/etc/runlevels")) {
        Init::Openrc
    } else if has("/sbin/initctl") && (has("/etc/init/rc.conf") || has("/etc/init/rcS.conf")) {
        Init::Upstart
    } else if has("/etc/inittab") {
        Init::Sysv
    } else if has("/usr/lib/systemd/systemd") || has("/lib/systemd/systemd") {
        Init::Systemd
    } else {
        Init::Unknown
    }
}

/// [hwclock(8)]: the third line of adjtime; before that, each distribution's own variable.
fn clock_is_local(tree: &MountedTree) -> bool {
    if let Some(adjtime) = read(tree, "/etc/adjtime")
        && let Some(third) = adjtime.lines().nth(2)
    {
        return third.trim() == "LOCAL";
    }
    let says = |path: &str, lines: &[&str]| {
        let text = read(tree, path).unwrap_or_default();
        text.lines()
            .any(|line| lines.contains(&line.trim().replace('"', "").as_str()))
    };
    says("/etc/default/rcS", &["UTC=no"])
        || says(
            "/etc/sysconfig/clock",
            &["UTC=false", "UTC=no", "HWCLOCK=--localtime"],
        )
        || says("/etc/conf.d/hwclock", &["clock=local"])
}

fn read(tree: &MountedTree, path: &str) -> Option<String> {
    let bytes = tree.read_following(&path.into(), LONGEST).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use filesystems::memory::MemoryTree;

    fn os(files: &[(&str, &[u8])]) -> Os {
        let mut tree = MemoryTree::new();
        for (path, contents) in files {
            tree.add_file(path, contents).unwrap();
        }
        inspect_os(&MountedTree::new(Box::new(tree)))
    }

    #[test]
    fn new_and_old_ways_to_say_who_one_is() {
        let new = os(&[(
            "/etc/os-release",
            b"ID=\"rocky\"\nVERSION_ID='9.3'\nID_LIKE=\"rhel centos fedora\"\nPRETTY_NAME=\"Rocky 9\"\n",
        )]);
        assert_eq!((new.id.as_str(), new.version.as_str()), ("rocky", "9.3"));
        assert_eq!(new.id_like, ["rhel", "centos", "fedora"]);
        let old = os(&[("/etc/redhat-release", b"CentOS release 6.10 (Final)\n")]);
        assert_eq!((old.id.as_str(), old.version.as_str()), ("centos", "6.10"));
        let debian = os(&[("/etc/debian_version", b"5.0.10\n")]);
        assert_eq!(
            (debian.name.as_str(), debian.version.as_str()),
            ("Debian 5.0.10", "5.0.10")
        );
    }

    #[test]
    fn processor_and_clock_are_read_from_files() {
        let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
        elf.resize(64, 0);
        elf[18] = 62;
        let seen = os(&[
            ("/bin/sh", &elf),
            ("/etc/adjtime", b"0.0 0 0.0\n0\nLOCAL\n"),
        ]);
        assert_eq!(seen.arch, "x86_64");
        assert!(seen.clock_is_local);
        assert!(os(&[("/etc/default/rcS", b"UTC=no\n")]).clock_is_local);
    }
}
