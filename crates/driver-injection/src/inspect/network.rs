//! What the guest calls its network interfaces, and how it comes by the names.

use std::collections::{BTreeMap, BTreeSet};

use filesystems::mounts::MountedTree;
use filesystems::path::GuestPath;
use filesystems::tree::FileTree;

use super::files::{ConfigFile, ConfigKind};
use crate::finding::{Finding, tell};
use crate::hardware::MacAddress;

/// Who gives interfaces their names in this guest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Naming {
    /// `.link` files. [systemd.link(5)]
    LinkFiles {
        /// Whether `Type=ether` is understood: before systemd 243 it matched only devices that have
        /// a DEVTYPE, which Ethernet cards have not.
        knows_ether: bool,
    },
    /// Rules with NAME=, of udev before systemd 209 and of eudev.
    #[default]
    UdevRules,
}

/// What the guest's files say of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfiguredNic {
    /// Its name.
    pub name: String,
    /// Its hardware address, where a file says it.
    pub mac: Option<MacAddress>,
    /// Where it is configured.
    pub file: GuestPath,
}

/// How the guest's network is set up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Network {
    /// Who gives names.
    pub naming: Naming,
    /// Interfaces with hardware behind them that files name, by name.
    pub nics: Vec<ConfiguredNic>,
}

/// How is the network set up?
#[must_use]
pub fn inspect_network(
    tree: &MountedTree,
    files: &[ConfigFile],
    findings: &mut Vec<Finding>,
) -> Network {
    let mut seen: BTreeMap<String, ConfiguredNic> = BTreeMap::new();
    let mut in_use = BTreeSet::new();
    for file in files {
        let text = file.text();
        let (found, configures) = match file.kind {
            ConfigKind::UdevRules => (from_udev_rules(&text), false),
            ConfigKind::Link => (from_ini(&text, &LINK), false),
            ConfigKind::Networkd => (from_ini(&text, &NETWORKD), true),
            ConfigKind::NetworkManager => (from_ini(&text, &NETWORK_MANAGER), true),
            ConfigKind::Ifupdown => (from_interfaces(&text), true),
            ConfigKind::Ifcfg => (from_ifcfg(&text), true),
            ConfigKind::Netplan => (from_netplan(&text), true),
            _ => continue,
        };
        for (name, mac) in found {
            let mac = mac.filter(|mac| mac.is_station());
            if !is_interface_name(&name) {
                continue;
            }
            if configures {
                in_use.insert(name.clone());
            }
            let known = seen.get(&name).is_some_and(|nic| nic.mac.is_some());
            if known || (mac.is_none() && (seen.contains_key(&name) || !is_hardware_name(&name))) {
                continue;
            }
            let file = file.path.clone();
            seen.insert(name.clone(), ConfiguredNic { name, mac, file });
        }
    }
    // A rule that names a card is no sign that there is one: rules stay when cards go. It counts
    // when something uses the name, or when nothing uses any.
    if !in_use.is_empty() {
        seen.retain(|name, nic| {
            let used = in_use.contains(name);
            if !used {
                let text = format!("{} names a card {name} that nothing uses", nic.file);
                tell(findings, Finding::note("nic-unused", text));
            }
            used
        });
    }
    Network {
        naming: inspect_naming(tree),
        nics: seen.into_values().collect(),
    }
}

/// Whether a name can be an interface's. [linux, dev_valid_name]; and nothing that would end a line
/// or a quote in a file.
#[must_use]
pub fn is_interface_name(name: &str) -> bool {
    (1..=15).contains(&name.len())
        && !matches!(name, "lo" | "all" | "default" | "." | "..")
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

/// Whether the kernel or udev gives such names to Ethernet cards: `eth0`, `eno1`, `ens192`,
/// `enp3s0f1`, `enx…`, `em1`, `p2p1`.
fn is_hardware_name(name: &str) -> bool {
    let digits = |rest: &str| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit());
    let after = |prefix: &str| name.strip_prefix(prefix);
    after("eth").is_some_and(digits)
        || after("em").is_some_and(digits)
        || ["eno", "ens", "enp", "enP", "enx", "enc"]
            .iter()
            .any(|prefix| {
                after(prefix).is_some_and(|rest| {
                    !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_alphanumeric())
                })
            })
        || after("p").is_some_and(|rest| {
            rest.split_once('p')
                .is_some_and(|(slot, port)| digits(slot) && digits(port))
        })
}

fn inspect_naming(tree: &MountedTree) -> Naming {
    const RULE: &str = "80-net-setup-link.rules";
    let shipped = ["/usr/lib/udev/rules.d", "/lib/udev/rules.d"]
        .iter()
        .any(|dir| tree.exists(&GuestPath::new(dir).join(RULE)));
    // An empty file, or a link to /dev/null, of that name in /etc masks it: the way of Debian to
    // keep the old names. [udev(7)]
    let mask = GuestPath::new("/etc/udev/rules.d").join(RULE);
    let masked = match tree.read_link(&mask) {
        Ok(target) => target == b"/dev/null",
        Err(_) => matches!(tree.stat_following(&mask), Ok(stat) if stat.size == 0),
    };
    if shipped && !masked {
        let knows_ether = systemd_version(tree).is_some_and(|version| version >= 243);
        Naming::LinkFiles { knows_ether }
    } else {
        Naming::UdevRules
    }
}

/// systemd's version, from the name of its private library.
fn systemd_version(tree: &MountedTree) -> Option<u32> {
    let places = [
        "/usr/lib/systemd",
        "/lib/systemd",
        "/usr/lib/*/systemd",
        "/usr/lib64/systemd",
    ];
    places.iter().find_map(|dir| {
        let found = tree.glob(&format!("{dir}/libsystemd-shared-*.so")).ok()?;
        found.iter().find_map(|path| {
            let name = std::str::from_utf8(path.file_name()?).ok()?;
            let version = name.strip_prefix("libsystemd-shared-")?;
            let digits = version
                .find(|c: char| !c.is_ascii_digit())
                .unwrap_or(version.len());
            version[..digits].parse().ok()
        })
    })
}

type Found = Vec<(String, Option<MacAddress>)>;

/// `SUBSYSTEM=="net", …, ATTR{address}=="…", …, NAME="eth0"`. [udev(7)]
fn from_udev_rules(text: &str) -> Found {
    let rule = |line: &str| {
        let (mac, name) = persistent_net_rule(line)?;
        Some((name, Some(mac)))
    };
    text.lines().filter_map(rule).collect()
}

/// The address and the name in a rule that names an interface by its address.
#[must_use]
pub fn persistent_net_rule(line: &str) -> Option<(MacAddress, String)> {
    let line = line.trim();
    if line.starts_with('#') {
        return None;
    }
    let quoted = |key: &str| {
        let at = line.find(key)? + key.len();
        line[at..].split('"').next()
    };
    let mac = quoted("ATTR{address}==\"").or_else(|| quoted("SYSFS{address}==\""))?;
    // NAME== is a match, NAME= the assignment.
    let name = quoted("NAME=\"").or_else(|| quoted("NAME:=\""))?;
    Some((MacAddress::parse(mac)?, name.to_owned()))
}

/// Which keys of an INI file give type, name and address.
struct Ini {
    /// Section and key of the type, and the values it may have; absent is fine unless required.
    kind: Option<(&'static str, &'static str, &'static [&'static str])>,
    name: (&'static str, &'static str),
    mac: &'static [(&'static str, &'static str)],
}

/// [systemd.link(5)]
const LINK: Ini = Ini {
    kind: None,
    name: ("Link", "Name"),
    mac: &[("Match", "MACAddress"), ("Match", "PermanentMACAddress")],
};
/// [systemd.network(5)]
const NETWORKD: Ini = Ini {
    kind: None,
    name: ("Match", "Name"),
    mac: &[("Match", "MACAddress"), ("Match", "PermanentMACAddress")],
};
/// [nm-settings-keyfile(5)]
const NETWORK_MANAGER: Ini = Ini {
    kind: Some(("connection", "type", &["ethernet", "802-3-ethernet"])),
    name: ("connection", "interface-name"),
    mac: &[
        ("ethernet", "mac-address"),
        ("802-3-ethernet", "mac-address"),
    ],
};

fn from_ini(text: &str, keys: &Ini) -> Found {
    let mut section = "";
    let (mut name, mut mac, mut kind) = (None, None, None);
    for line in text.lines().map(str::trim) {
        if let Some(header) = line
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
        {
            section = header;
        } else if let Some((key, value)) = line.split_once('=') {
            let at = (section, key.trim());
            let value = value.trim();
            if at == keys.name {
                name = Some(value);
            } else if keys.mac.contains(&at) {
                mac = mac.or(MacAddress::parse(value));
            } else if keys
                .kind
                .is_some_and(|(section, key, _)| at == (section, key))
            {
                kind = Some(value);
            }
        }
    }
    let fits = keys
        .kind
        .is_none_or(|(_, _, allowed)| kind.is_some_and(|kind| allowed.contains(&kind)));
    match name {
        Some(name) if fits => vec![(name.to_owned(), mac)],
        _ => Vec::new(),
    }
}

/// [interfaces(5)]; a stanza of a bridge, bond or VLAN is no card's.
fn from_interfaces(text: &str) -> Found {
    let mut found: Vec<(String, bool)> = Vec::new();
    for line in text.lines().map(str::trim) {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("iface") => {
                if let Some(name) = words.next() {
                    found.push((name.to_owned(), true));
                }
            }
            Some("auto" | "allow-hotplug" | "source" | "source-directory" | "mapping") | None => {}
            Some(
                "bridge_ports" | "bond-slaves" | "bond_slaves" | "vlan-raw-device"
                | "vlan_raw_device",
            ) => {
                if let Some((_, is_card)) = found.last_mut() {
                    *is_card = false;
                }
            }
            Some(_) => {}
        }
    }
    let cards = found.into_iter().filter(|(_, is_card)| *is_card);
    cards.map(|(name, _)| (name, None)).collect()
}

/// Red Hat's and SUSE's ifcfg files: shell variables.
fn from_ifcfg(text: &str) -> Found {
    let value = |wanted: &str| {
        text.lines().find_map(|line| {
            let (key, value) = line.trim().split_once('=')?;
            (key == wanted).then(|| value.trim().trim_matches(['"', '\'']).to_owned())
        })
    };
    let kind = value("TYPE").unwrap_or_default().to_ascii_lowercase();
    let is_card = matches!(kind.as_str(), "" | "ethernet") && value("VLAN").is_none();
    match value("DEVICE") {
        Some(name) if is_card => {
            let mac = value("HWADDR").and_then(|mac| MacAddress::parse(&mac));
            vec![(name, mac)]
        }
        _ => Vec::new(),
    }
}

/// netplan's `ethernets:` by indentation: the keys one level below it are identifiers, and `match:`
/// and `set-name:` below those say more. Not a YAML reader; what it does not see is not learnt.
fn from_netplan(text: &str) -> Found {
    struct Card {
        id: String,
        set_name: Option<String>,
        mac: Option<MacAddress>,
        matched: bool,
    }
    let mut cards: Vec<Card> = Vec::new();
    let mut ethernets: Option<usize> = None;
    let mut card_indent: Option<usize> = None;
    for line in text.lines() {
        let line = line.split(" #").next().unwrap_or_default().trim_end();
        let trimmed = line.trim_start();
        if trimmed.is_empty() || trimmed.starts_with('#') {
            continue;
        }
        let indent = line.len() - trimmed.len();
        let Some((key, value)) = trimmed.split_once(':') else {
            continue;
        };
        let (key, value) = (
            key.trim().trim_matches('"'),
            value.trim().trim_matches(['"', '\'']),
        );
        if key == "ethernets" && value.is_empty() {
            (ethernets, card_indent) = (Some(indent), None);
            continue;
        }
        let Some(section) = ethernets else { continue };
        if indent <= section {
            ethernets = None;
            continue;
        }
        if *card_indent.get_or_insert(indent) == indent {
            let id = key.to_owned();
            cards.push(Card {
                id,
                set_name: None,
                mac: None,
                matched: false,
            });
        } else if let Some(card) = cards.last_mut() {
            match key {
                "match" => card.matched = true,
                "macaddress" if card.matched && card.mac.is_none() => {
                    card.mac = MacAddress::parse(value);
                }
                "set-name" => card.set_name = Some(value.to_owned()),
                _ => {}
            }
        }
    }
    let named = |card: Card| match card.set_name {
        Some(name) => Some((name, card.mac)),
        // With a match and no set-name the identifier is free text.
        None if card.matched => None,
        None => Some((card.id, None)),
    };
    cards.into_iter().filter_map(named).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use filesystems::memory::MemoryTree;

    fn mac(text: &str) -> Option<MacAddress> {
        MacAddress::parse(text)
    }

    #[test]
    fn each_way_to_configure_a_card_names_it() {
        let rules = "# a comment NAME=\"x\"\nSUBSYSTEM==\"net\", ACTION==\"add\", DRIVERS==\"?*\", \
            ATTR{address}==\"52:54:00:00:00:01\", ATTR{type}==\"1\", KERNEL==\"eth*\", NAME=\"eth7\"\n";
        assert_eq!(
            from_udev_rules(rules),
            [("eth7".into(), mac("52:54:00:00:00:01"))]
        );
        let link = "[Match]\nMACAddress=52:54:00:00:00:02\n[Link]\nName=lan0\n";
        assert_eq!(
            from_ini(link, &LINK),
            [("lan0".into(), mac("52:54:00:00:00:02"))]
        );
        let nm = "[connection]\nid=x\ntype=ethernet\ninterface-name=ens192\n[ethernet]\nmac-address=00:50:56:00:00:03\n";
        assert_eq!(
            from_ini(nm, &NETWORK_MANAGER),
            [("ens192".into(), mac("00:50:56:00:00:03"))]
        );
        assert!(
            from_ini(
                "[connection]\ntype=bridge\ninterface-name=br0\n",
                &NETWORK_MANAGER
            )
            .is_empty()
        );
        let interfaces = "auto lo eno1\niface lo inet loopback\niface eno1 inet dhcp\n\
            iface br0 inet static\n  bridge_ports eno2\n";
        assert_eq!(
            from_interfaces(interfaces),
            [("lo".into(), None), ("eno1".into(), None)]
        );
        let ifcfg = "DEVICE=\"eth0\"\nHWADDR=00:16:3E:00:00:04\nTYPE=Ethernet\n";
        assert_eq!(
            from_ifcfg(ifcfg),
            [("eth0".into(), mac("00:16:3e:00:00:04"))]
        );
        assert!(from_ifcfg("DEVICE=br0\nTYPE=Bridge\n").is_empty());
    }

    #[test]
    fn netplan_is_read_by_indentation() {
        let text = "network:\n  version: 2\n  ethernets:\n    eno1:\n      dhcp4: true\n    idlan:\n\
            \x20     match:\n        macaddress: \"52:54:00:00:00:05\"\n      set-name: lan0\n    any:\n\
            \x20     match:\n        name: en*\n  bridges:\n    br0:\n      interfaces: [eno1]\n";
        assert_eq!(
            from_netplan(text),
            [
                ("eno1".into(), None),
                ("lan0".into(), mac("52:54:00:00:00:05"))
            ]
        );
    }

    #[test]
    fn the_fixtures_of_netplan_and_augeas_are_read() {
        let test = "the_fixtures_of_netplan_and_augeas_are_read";
        let Some(root) = test_oracles::fixture(test, "bootcfg") else {
            return;
        };
        let text = std::fs::read_to_string(root.join("netplan/examples/bonding.yaml")).unwrap();
        assert!(!from_netplan(&text).is_empty());
        let text =
            std::fs::read_to_string(root.join("augeas/root/etc/network/interfaces")).unwrap();
        let names: Vec<_> = from_interfaces(&text)
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        assert!(names.contains(&"eth0".to_owned()), "{names:?}");
    }

    #[test]
    fn a_rule_for_a_name_nothing_uses_is_of_a_card_long_gone() {
        let rule = |last: u8, name: &str| {
            format!(
                "SUBSYSTEM==\"net\", ATTR{{address}}==\"52:54:00:00:00:0{last}\", NAME=\"{name}\"\n"
            )
        };
        let file = |kind, path: &str, text: String| ConfigFile {
            kind,
            path: path.into(),
            bytes: text.into_bytes(),
        };
        let rules = file(
            ConfigKind::UdevRules,
            "/etc/udev/rules.d/70-persistent-net.rules",
            rule(1, "eth0") + &rule(2, "lan0"),
        );
        let interfaces = file(
            ConfigKind::Ifupdown,
            "/etc/network/interfaces",
            "iface lan0 inet dhcp\n".into(),
        );
        let tree = MountedTree::new(Box::new(MemoryTree::new()));
        let names = |files: &[ConfigFile]| -> Vec<String> {
            let network = inspect_network(&tree, files, &mut Vec::new());
            network.nics.into_iter().map(|nic| nic.name).collect()
        };
        assert_eq!(names(&[rules.clone(), interfaces]), ["lan0"]);
        assert_eq!(names(&[rules]), ["eth0", "lan0"]);
    }

    #[test]
    fn names_that_would_break_a_file_are_refused() {
        for bad in [
            "",
            "eth0\"",
            "a b",
            "x\ny",
            "averyveryverylongname",
            "lo",
            "a/b",
        ] {
            assert!(!is_interface_name(bad), "{bad:?}");
        }
        assert!(is_hardware_name("enp3s0f1") && is_hardware_name("p2p1"));
        assert!(!is_hardware_name("eth0-2") && !is_hardware_name("br0") && !is_hardware_name("en"));
    }

    #[test]
    fn naming_follows_udevs_own_rules_and_their_mask() {
        let mut tree = MemoryTree::new();
        tree.add_file("/usr/lib/udev/rules.d/80-net-setup-link.rules", "x")
            .unwrap();
        tree.add_file(
            "/usr/lib/x86_64-linux-gnu/systemd/libsystemd-shared-252.so",
            "",
        )
        .unwrap();
        let naming = |tree: &MemoryTree| inspect_naming(&MountedTree::new(Box::new(tree.clone())));
        assert_eq!(naming(&tree), Naming::LinkFiles { knows_ether: true });
        tree.add_symlink("/etc/udev/rules.d/80-net-setup-link.rules", "/dev/null")
            .unwrap();
        assert_eq!(naming(&tree), Naming::UdevRules);
    }
}
