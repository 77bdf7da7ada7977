//! Processors: how many, how they are grouped, what they are called.

use std::collections::BTreeSet;

use stream_protocol::inventory::Cpu;

use super::Root;

const SYS: &str = "sys/devices/system/cpu";

/// The flags that decide what a guest can be given: word size, virtualisation, the instruction
/// sets of the x86-64 levels 2 to 4 that software is built for, and whether this is a guest already.
const FLAGS: [&str; 22] = [
    "lm",
    "pae",
    "nx",
    "vmx",
    "svm",
    "hypervisor",
    "cx16",
    "lahf_lm",
    "popcnt",
    "sse4_1",
    "sse4_2",
    "ssse3",
    "aes",
    "avx",
    "avx2",
    "bmi1",
    "bmi2",
    "f16c",
    "fma",
    "movbe",
    "avx512f",
    "avx512vl",
];

/// Read the processors from `/sys`, and where that is silent (old kernels, some hypervisors) from
/// `/proc/cpuinfo`.
pub(super) fn read(root: &Root) -> Cpu {
    let cpuinfo = CpuInfo::read(root);
    let topology = Topology::read(root).or_else(|| cpuinfo.topology());
    let threads = online_count(root).or((cpuinfo.count > 0).then_some(cpuinfo.count));
    Cpu {
        architecture: architecture(root, &cpuinfo),
        vendor: cpuinfo.vendor,
        model: cpuinfo.model,
        sockets: topology.map(|t| t.sockets),
        cores: topology.map(|t| t.cores),
        threads,
        flags: FLAGS
            .iter()
            .filter(|flag| cpuinfo.flags.contains(**flag))
            .map(|flag| (*flag).to_owned())
            .collect(),
    }
}

/// As the running kernel names it; of a tree that is not this machine only x86 can be told.
fn architecture(root: &Root, cpuinfo: &CpuInfo) -> Option<String> {
    if root.is_live() {
        let uname = rustix::system::uname();
        return Some(uname.machine().to_str().ok()?.to_owned());
    }
    cpuinfo.vendor.as_ref()?;
    Some(
        if cpuinfo.flags.contains("lm") {
            "x86_64"
        } else {
            "i686"
        }
        .to_owned(),
    )
}

/// Sockets and cores in all: a group of processors that share a package, or a core, counts once.
#[derive(Debug, Clone, Copy)]
struct Topology {
    sockets: u32,
    cores: u32,
}

impl Topology {
    /// The masks of siblings name each group exactly once, also where `core_id` repeats in each die
    /// and where a hypervisor gives every processor the package id 0. The `*_cpus` names came with
    /// kernel 5.2.
    fn read(root: &Root) -> Option<Self> {
        let mut packages = BTreeSet::new();
        let mut cores = BTreeSet::new();
        for name in root.names(SYS) {
            let is_cpu = name
                .strip_prefix("cpu")
                .is_some_and(|number| number.parse::<u32>().is_ok());
            if !is_cpu || root.flag(&format!("{SYS}/{name}/online")) == Some(false) {
                continue;
            }
            let mask = |names: [&str; 2]| {
                names
                    .iter()
                    .find_map(|mask| root.text(&format!("{SYS}/{name}/topology/{mask}")))
            };
            packages.extend(mask(["package_cpus", "core_siblings"]));
            cores.extend(mask(["core_cpus", "thread_siblings"]));
        }
        Self::of(packages.len(), cores.len())
    }

    fn of(sockets: usize, cores: usize) -> Option<Self> {
        (sockets > 0 && cores > 0).then(|| Self {
            sockets: u32::try_from(sockets).unwrap_or(u32::MAX),
            cores: u32::try_from(cores).unwrap_or(u32::MAX),
        })
    }
}

/// How many processors the kernel's list of those in use, `0-3,8`, names.
fn online_count(root: &Root) -> Option<u32> {
    let list = root.text(&format!("{SYS}/online"))?;
    let count = list
        .split(',')
        .filter_map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let (first, last) = (first.parse::<u32>().ok()?, last.parse::<u32>().ok()?);
            last.checked_sub(first)?.checked_add(1)
        })
        .fold(0, u32::saturating_add);
    (count > 0).then_some(count)
}

#[derive(Debug, Default)]
struct CpuInfo {
    vendor: Option<String>,
    model: Option<String>,
    flags: BTreeSet<String>,
    count: u32,
    packages: BTreeSet<String>,
    cores: BTreeSet<(String, String)>,
}

impl CpuInfo {
    fn read(root: &Root) -> Self {
        let mut info = Self::default();
        let text = root.text("proc/cpuinfo").unwrap_or_default();
        let mut package = String::new();
        for line in text.lines() {
            let Some((key, value)) = line.split_once(':') else {
                continue;
            };
            let value = value.trim();
            match key.trim() {
                "processor" => info.count = info.count.saturating_add(1),
                "vendor_id" if info.vendor.is_none() => info.vendor = Some(value.to_owned()),
                "model name" if info.model.is_none() => info.model = Some(value.to_owned()),
                "flags" if info.flags.is_empty() => {
                    info.flags = value.split_whitespace().map(str::to_owned).collect();
                }
                "physical id" => {
                    package = value.to_owned();
                    info.packages.insert(value.to_owned());
                }
                "core id" => {
                    info.cores.insert((package.clone(), value.to_owned()));
                }
                _ => {}
            }
        }
        info
    }

    fn topology(&self) -> Option<Topology> {
        Topology::of(self.packages.len(), self.cores.len())
    }
}
