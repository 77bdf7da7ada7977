//! Each card keeps its name by its hardware address, so that the network's configuration still holds.

use std::collections::BTreeSet;

use filesystems::path::GuestPath;

use super::PlannedNic;
use super::draft::Draft;
use crate::finding::{Finding, tell};
use crate::hardware::{MacAddress, SourceHardware};
use crate::inspect::{ConfigKind, Naming, is_interface_name, persistent_net_rule};

/// Where old udev keeps such rules.
const RULES_FILE: &str = "70-persistent-net.rules";

/// Most cards planned: more than any VM takes.
const MOST_CARDS: usize = 32;

/// A file that names cards, as it shall be in the guest and in each initramfs that has a udev.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamingFile {
    /// Its place from the root, without the leading slash.
    pub name: String,
    /// Its contents.
    pub contents: Vec<u8>,
}

/// The cards the VM shall have, in the order they are to be attached.
pub fn plan_nics(draft: &mut Draft, source: &SourceHardware) -> Vec<PlannedNic> {
    let mut nics = if source.nics.is_empty() {
        nics_from_files(draft)
    } else {
        nics_from_inventory(draft, source)
    };
    if nics.len() > MOST_CARDS {
        let text = format!(
            "{} network cards; only the first {MOST_CARDS} are planned",
            nics.len()
        );
        tell(&mut draft.findings, Finding::warning("too-many-nics", text));
        nics.truncate(MOST_CARDS);
    }
    let mut names = BTreeSet::new();
    let mut macs = BTreeSet::new();
    nics.retain(|nic| {
        let fresh = macs.insert(nic.mac) && nic.name.clone().is_none_or(|name| names.insert(name));
        if !fresh {
            let text = format!("{nic} stands for two cards; the second is left out");
            tell(&mut draft.findings, Finding::warning("nic-twice", text));
        }
        fresh
    });
    order_for_kernel_names(nics)
}

/// Files that give the cards their names, drafted into the guest; the same belong into each
/// initramfs whose udev meets the cards first.
pub fn plan_names(draft: &mut Draft, nics: &[PlannedNic]) -> Vec<NamingFile> {
    let naming = draft.inspection.network.naming;
    let named = nics
        .iter()
        .filter_map(|nic| Some((nic.name.as_deref()?, nic.mac)));
    match naming {
        Naming::LinkFiles { knows_ether } => named
            .filter_map(|(name, mac)| plan_link(draft, name, mac, knows_ether))
            .collect(),
        Naming::UdevRules => {
            let named: Vec<_> = named.collect();
            plan_rules(draft, &named).into_iter().collect()
        }
    }
}

fn nics_from_inventory(draft: &mut Draft, source: &SourceHardware) -> Vec<PlannedNic> {
    let mut nics = Vec::new();
    for nic in &source.nics {
        if !nic.mac.is_station() {
            let text = format!(
                "{} has no address of its own ({}) and is left out",
                nic.name, nic.mac
            );
            tell(
                &mut draft.findings,
                Finding::note("nic-without-address", text),
            );
            continue;
        }
        let usable = is_interface_name(&nic.name);
        if !usable {
            let text = format!("{:?} is no name for a network card", nic.name);
            tell(&mut draft.findings, Finding::warning("nic-bad-name", text));
        }
        nics.push(PlannedNic {
            name: usable.then(|| nic.name.clone()),
            mac: nic.mac,
            generated: false,
        });
    }
    nics
}

/// Without an inventory: what the guest's own files say. A card whose address nobody wrote down gets
/// one made from the root's identity and its name, the same whenever it is asked for.
fn nics_from_files(draft: &Draft) -> Vec<PlannedNic> {
    let inspection = draft.inspection;
    let root = inspection.names.volumes().get(inspection.root);
    let identity = root
        .and_then(|facts| facts.uuid.clone().or_else(|| facts.partuuid.clone()))
        .unwrap_or_default();
    let seed = |name: &str| format!("p2v nic {identity} {name}");
    let card = |name: Option<&String>, mac: Option<MacAddress>| PlannedNic {
        name: name.cloned(),
        generated: mac.is_none(),
        mac: mac.unwrap_or_else(|| MacAddress::from_seed(&seed(name.map_or("", String::as_str)))),
    };
    let configured = &inspection.network.nics;
    if configured.is_empty() {
        return vec![card(None, None)];
    }
    configured
        .iter()
        .map(|nic| card(Some(&nic.name), nic.mac))
        .collect()
}

/// Put the cards into an order in which no renaming meets a name that is still taken.
///
/// The kernel calls the n-th card it finds `eth<n>`. A card that is to keep `ethK` with K below the
/// number of cards goes to place K, and needs no renaming; the others fill the places left, and their
/// names are ones the kernel gives to nobody. So names are free when they are wanted, also with a
/// udev that does not retry.
fn order_for_kernel_names(nics: Vec<PlannedNic>) -> Vec<PlannedNic> {
    let count = nics.len();
    let mut places: Vec<Option<PlannedNic>> = vec![None; count];
    let mut others = Vec::new();
    for nic in nics {
        let place = nic
            .name
            .as_deref()
            .and_then(|name| name.strip_prefix("eth")?.parse::<usize>().ok())
            .filter(|place| *place < count && places[*place].is_none());
        match place {
            Some(place) => places[place] = Some(nic),
            None => others.push(nic),
        }
    }
    let mut others = others.into_iter();
    places
        .into_iter()
        .filter_map(|place| place.or_else(|| others.next()))
        .collect()
}

/// [systemd.link(5)]: the first file in the order of names that matches decides, so that `10-` goes
/// before what distributions ship (73-usb-net-by-mac, 99-default).
fn plan_link(
    draft: &mut Draft,
    name: &str,
    mac: MacAddress,
    knows_ether: bool,
) -> Option<NamingFile> {
    // The administrator's own .link file of that name and address does it already.
    let own = draft.contents_of(ConfigKind::Link);
    let says = |text: &str| {
        let text = text.to_ascii_lowercase();
        text.contains(&format!("macaddress={mac}"))
            && text
                .lines()
                .any(|line| line.trim() == format!("name={}", name.to_ascii_lowercase()))
    };
    let mine = format!("10-p2v-{name}.link");
    for (file, text) in own {
        let is_mine = file.path.file_name() == Some(mine.as_bytes());
        if !is_mine && says(&String::from_utf8_lossy(&text)) {
            return None;
        }
    }
    // VLANs, bonds and bridges share the address of a card; they have types of their own.
    let kind = if knows_ether { "Type=ether\n" } else { "" };
    let contents = format!(
        "# The card keeps the name it had on the machine this system was converted from.\n\
         [Match]\nMACAddress={mac}\n{kind}\n[Link]\nName={name}\n"
    );
    let why = "the card keeps its name, and with it its configuration";
    let directory = draft.directory("/etc/systemd/network", why)?;
    draft.put(directory.join(&mine), contents.clone().into_bytes(), why);
    Some(NamingFile {
        name: format!("etc/systemd/network/{mine}"),
        contents: contents.into_bytes(),
    })
}

/// [udev(7)], rules as the generator of old releases wrote them.
fn plan_rules(draft: &mut Draft, nics: &[(&str, MacAddress)]) -> Option<NamingFile> {
    let why = "the card keeps its name, and with it its configuration";
    let rule = |(name, mac): &(&str, MacAddress)| {
        format!(
            "SUBSYSTEM==\"net\", ACTION==\"add\", DRIVERS==\"?*\", ATTR{{address}}==\"{mac}\", \
             ATTR{{type}}==\"1\", NAME=\"{name}\"\n"
        )
    };
    let directory = draft.directory("/etc/udev/rules.d", why)?;
    let path: GuestPath = directory.join(RULES_FILE);
    let rules = draft.contents_of(ConfigKind::UdevRules);
    let existing = rules.iter().find(|(file, _)| file.path == path);
    let mut text = existing.map(|(_, text)| text.clone()).unwrap_or_default();
    let all: Vec<String> = rules
        .iter()
        .map(|(_, text)| String::from_utf8_lossy(text).into_owned())
        .collect();
    let known = |(name, mac): &&(&str, MacAddress)| {
        let same =
            |line: &str| persistent_net_rule(line).is_some_and(|(m, n)| m == *mac && n == *name);
        all.iter().any(|text| text.lines().any(same))
    };
    for nic in nics.iter().filter(|nic| !known(nic)) {
        if !text.is_empty() && !text.ends_with(b"\n") {
            text.push(b'\n');
        }
        text.extend_from_slice(rule(nic).as_bytes());
    }
    if text.is_empty() {
        return None;
    }
    draft.put(path, text.clone(), why);
    Some(NamingFile {
        name: format!("etc/udev/rules.d/{RULES_FILE}"),
        contents: text,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nic(name: &str, last: u8) -> PlannedNic {
        PlannedNic {
            name: (!name.is_empty()).then(|| name.to_owned()),
            mac: MacAddress([0x52, 0x54, 0, 0, 0, last]),
            generated: false,
        }
    }

    #[test]
    fn no_card_is_renamed_to_a_name_the_kernel_gave_another() {
        for names in [
            &["eth1", "eth0"][..],
            &["eth1", "eth2"],
            &["eno1", "eth0", "ens5"],
            &["eth3", "eth1", "", "eth0"],
            &["eth2", "eth1"],
            &["eth99999999999999999999"],
        ] {
            let nics: Vec<_> = names
                .iter()
                .zip(1..)
                .map(|(name, last)| nic(name, last))
                .collect();
            let ordered = order_for_kernel_names(nics.clone());
            assert_eq!(ordered.len(), nics.len());
            for (place, nic) in ordered.iter().enumerate() {
                let taken = (0..ordered.len())
                    .any(|other| other != place && nic.name == Some(format!("eth{other}")));
                assert!(!taken, "{names:?} ordered {ordered:?}");
            }
        }
    }
}
