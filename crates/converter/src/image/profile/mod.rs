//! What each platform insists on of a disk image, and the command that makes an image it takes.

mod rules;

use std::path::Path;

use image_formats::details::{VhdDetails, VmdkDetails};
use image_formats::{Details, Finding, ImageFormat, ImageInfo, Report, Verdict};

use rules::Check;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// The largest VHD, which Hyper-V and XenServer share.
const LARGEST_VHD: u64 = 2040 * GIB;
/// The smallest disk Azure takes.
const SMALLEST_AZURE: u64 = 20 * MIB;
/// XenServer's storage manager knows blocks of this size only.
const XEN_BLOCK: u64 = 2 * MIB;

/// A platform that takes disk images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Profile {
    /// KVM: libvirt, Proxmox VE, oVirt, OpenStack
    Kvm,
    /// Import into ESXi or vSphere, by OVF
    EsxiImport,
    /// VMware Workstation and Fusion
    Workstation,
    /// Hyper-V, a machine of generation 1
    HypervGen1,
    /// Hyper-V, a machine of generation 2
    HypervGen2,
    /// Upload to Azure
    Azure,
    /// XCP-ng and XenServer
    XcpNg,
    /// VirtualBox
    Virtualbox,
    /// Parallels Desktop
    Parallels,
}

/// Whether a platform takes an image.
#[derive(Debug)]
pub struct Judgement {
    /// Which platform.
    pub profile: Profile,
    /// The rules of the platform that the image breaks.
    pub broken: Vec<Finding>,
    /// The command that makes an image it takes, where one can.
    pub mend: Option<String>,
}

impl Profile {
    /// The name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Profile::Kvm => "kvm",
            Profile::EsxiImport => "esxi-import",
            Profile::Workstation => "workstation",
            Profile::HypervGen1 => "hyperv-gen1",
            Profile::HypervGen2 => "hyperv-gen2",
            Profile::Azure => "azure",
            Profile::XcpNg => "xcp-ng",
            Profile::Virtualbox => "virtualbox",
            Profile::Parallels => "parallels",
        }
    }

    /// The format to convert to, and the end of the file's name.
    fn wants(self) -> (&'static str, &'static str) {
        match self {
            Profile::Kvm => ("qcow2", "qcow2"),
            Profile::EsxiImport => ("vmdk:streamOptimized", "vmdk"),
            Profile::Workstation => ("vmdk:monolithicSparse", "vmdk"),
            Profile::HypervGen1 | Profile::HypervGen2 => ("vhdx", "vhdx"),
            Profile::Azure => ("vhd:azure", "vhd"),
            Profile::XcpNg => ("vhd", "vhd"),
            Profile::Virtualbox => ("vdi", "vdi"),
            Profile::Parallels => ("parallels", "hdd"),
        }
    }

    /// Bytes of disk that the format converted to holds: least and most.
    fn bounds(self) -> (u64, u64) {
        match self {
            Profile::Kvm => (1, 1 << 60),
            // What a sparse VMDK counts in 32 bits of sectors, less its tables.
            Profile::EsxiImport | Profile::Workstation => (1, 2015 * GIB),
            Profile::HypervGen1 | Profile::HypervGen2 => (1, 64 << 40),
            Profile::Azure => (SMALLEST_AZURE - MIB + 1, LARGEST_VHD),
            Profile::XcpNg => (1, LARGEST_VHD),
            Profile::Virtualbox | Profile::Parallels => (1, 64 << 40),
        }
    }
}

/// Whether `profile` takes the image `path`, of which `report` tells.
#[must_use]
pub fn judge(profile: Profile, report: &Report, path: &Path) -> Judgement {
    let mut check = Check::default();
    let sound = report.verdict() != Verdict::Broken;
    check.require(
        sound,
        rules::SOUND,
        0,
        "no corruption",
        "an image that is broken",
    );
    if let Some(info) = &report.info {
        require_alone(info, &mut check);
        match profile {
            Profile::Kvm => judge_kvm(info, &mut check),
            Profile::EsxiImport => judge_esxi(info, &mut check),
            Profile::Workstation => judge_workstation(info, &mut check),
            Profile::HypervGen1 => judge_hyperv(info, path, true, &mut check),
            Profile::HypervGen2 => judge_hyperv(info, path, false, &mut check),
            Profile::Azure => judge_azure(info, path, &mut check),
            Profile::XcpNg => judge_xcp_ng(info, path, &mut check),
            Profile::Virtualbox => judge_virtualbox(info, &mut check),
            Profile::Parallels => judge_parallels(info, path, &mut check),
        }
    }
    let mend = match (check.broken.is_empty(), &report.info) {
        (false, Some(info)) => mend(profile, info, path),
        _ => None,
    };
    Judgement {
        profile,
        broken: check.broken,
        mend,
    }
}

/// A delivered image has no other below it and no data beside it.
fn require_alone(info: &ImageInfo, check: &mut Check) {
    let below = info
        .below
        .as_ref()
        .map(|below| below.path.display().to_string());
    let aside = match &info.details {
        Details::Qcow2(qcow2) => qcow2.data_file.clone(),
        _ => None,
    };
    if let Some(other) = below.or(aside) {
        check.require(
            false,
            rules::ALONE,
            0,
            "the whole disk",
            format!("needs {other}"),
        );
    }
}

fn judge_kvm(info: &ImageInfo, check: &mut Check) {
    let right = matches!(info.format, ImageFormat::Raw | ImageFormat::Qcow2);
    check.require(right, rules::KVM_FORMAT, 0, "raw or qcow2", kind_of(info));
    if let Details::Qcow2(qcow2) = &info.details {
        let closed = !qcow2.dirty && !qcow2.corrupt;
        check.require(
            closed,
            rules::KVM_CLOSED,
            72,
            "dirty and corrupt bits clear",
            "one of them",
        );
    }
    let sectors = info.virtual_size.is_multiple_of(512);
    let found = info.virtual_size.to_string();
    check.require(sectors, rules::KVM_SECTORS, 0, "a multiple of 512", found);
}

fn vmdk(info: &ImageInfo) -> Option<&VmdkDetails> {
    match &info.details {
        Details::Vmdk(vmdk) => Some(vmdk),
        _ => None,
    }
}

fn vhd(info: &ImageInfo) -> Option<&VhdDetails> {
    match &info.details {
        Details::Vhd(vhd) => Some(vhd),
        _ => None,
    }
}

fn judge_esxi(info: &ImageInfo, check: &mut Check) {
    let Some(vmdk) = vmdk(info) else {
        check.require(
            false,
            rules::ESXI_STREAM,
            0,
            "a streamOptimized VMDK",
            kind_of(info),
        );
        return;
    };
    let stream = vmdk.create_type.eq_ignore_ascii_case("streamOptimized");
    check.require(
        stream,
        rules::ESXI_STREAM,
        0,
        "a streamOptimized VMDK",
        kind_of(info),
    );
    let version = vmdk.sparse_version.unwrap_or(0);
    if stream {
        check.require(
            version == 3,
            rules::ESXI_VERSION,
            4,
            "3",
            version.to_string(),
        );
    }
    let adapter = vmdk
        .adapter
        .clone()
        .unwrap_or_default()
        .to_ascii_lowercase();
    let known = matches!(adapter.as_str(), "lsilogic" | "buslogic" | "ide");
    check.require(
        known,
        rules::ESXI_ADAPTER,
        0,
        "lsilogic, buslogic or ide",
        adapter,
    );
    let found = info.virtual_size.to_string();
    let expected = "at most 62 TiB";
    check.require(
        info.virtual_size <= 62 << 40,
        rules::ESXI_SIZE,
        12,
        expected,
        found,
    );
}

fn judge_workstation(info: &ImageInfo, check: &mut Check) {
    let known = [
        "monolithicSparse",
        "monolithicFlat",
        "twoGbMaxExtentSparse",
        "twoGbMaxExtentFlat",
        "2GbMaxExtentSparse",
        "2GbMaxExtentFlat",
    ];
    let right = vmdk(info).is_some_and(|vmdk| {
        known
            .iter()
            .any(|known| vmdk.create_type.eq_ignore_ascii_case(known))
    });
    let expected = "a VMDK, monolithic or in pieces of 2 GB";
    check.require(right, rules::WORKSTATION_KIND, 0, expected, kind_of(info));
}

fn judge_hyperv(info: &ImageInfo, path: &Path, first_generation: bool, check: &mut Check) {
    match (info.format, first_generation) {
        (ImageFormat::Vhdx, _) => require_extension(path, "vhdx", check),
        (ImageFormat::Vhd, true) => {
            require_extension(path, "vhd", check);
            require_vhd_size(info, check);
        }
        (_, true) => check.require(false, rules::HYPERV_GEN1, 0, "VHD or VHDX", kind_of(info)),
        (_, false) => check.require(false, rules::HYPERV_GEN2, 0, "VHDX", kind_of(info)),
    }
}

fn judge_azure(info: &ImageInfo, path: &Path, check: &mut Check) {
    let fixed = vhd(info).is_some_and(|vhd| vhd.block_size.is_none());
    check.require(fixed, rules::AZURE_FIXED, 60, "a fixed VHD", kind_of(info));
    let size = info.virtual_size;
    let expected = format!("a multiple of {MIB}");
    check.require(
        size.is_multiple_of(MIB),
        rules::AZURE_MIB,
        48,
        expected,
        size.to_string(),
    );
    let expected = format!("{SMALLEST_AZURE} to {LARGEST_VHD}");
    let fits = (SMALLEST_AZURE..=LARGEST_VHD).contains(&size);
    check.require(fits, rules::AZURE_SIZE, 48, expected, size.to_string());
    if fixed {
        let exact = info.file_size == size + 512;
        let expected = (size + 512).to_string();
        check.require(
            exact,
            rules::AZURE_FILE,
            size,
            expected,
            info.file_size.to_string(),
        );
        let marred = info
            .notes
            .iter()
            .find(|note| note.rule.id == "vhd.footer-checksum");
        if let Some(note) = marred {
            check.require(
                false,
                rules::AZURE_SUM,
                note.offset,
                "the sum",
                note.found.clone(),
            );
        }
    }
    require_extension(path, "vhd", check);
}

fn judge_xcp_ng(info: &ImageInfo, path: &Path, check: &mut Check) {
    let block = vhd(info).and_then(|vhd| vhd.block_size);
    check.require(
        block.is_some(),
        rules::XEN_DYNAMIC,
        60,
        "a dynamic VHD",
        kind_of(info),
    );
    if let Some(block) = block {
        let found = block.to_string();
        check.require(
            block == XEN_BLOCK,
            rules::XEN_BLOCK,
            32,
            XEN_BLOCK.to_string(),
            found,
        );
    }
    require_vhd_size(info, check);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let named = name.strip_suffix(".vhd").is_some_and(is_uuid);
    check.require(named, rules::XEN_NAME, 0, "UUID.vhd", name.as_ref());
}

fn require_vhd_size(info: &ImageInfo, check: &mut Check) {
    let found = info.virtual_size.to_string();
    let expected = format!("at most {LARGEST_VHD}");
    check.require(
        info.virtual_size <= LARGEST_VHD,
        rules::VHD_SIZE,
        48,
        expected,
        found,
    );
}

fn is_uuid(text: &str) -> bool {
    let groups: Vec<usize> = text.split('-').map(str::len).collect();
    groups == [8, 4, 4, 4, 12] && text.chars().all(|c| c == '-' || c.is_ascii_hexdigit())
}

fn judge_virtualbox(info: &ImageInfo, check: &mut Check) {
    let right = match info.format {
        ImageFormat::Vdi | ImageFormat::Vhd => true,
        // A stream can be read there and not written.
        ImageFormat::Vmdk => {
            vmdk(info).is_some_and(|vmdk| !vmdk.create_type.eq_ignore_ascii_case("streamOptimized"))
        }
        _ => false,
    };
    check.require(
        right,
        rules::VIRTUALBOX,
        0,
        "VDI, VHD, or a VMDK that is no stream",
        kind_of(info),
    );
}

fn judge_parallels(info: &ImageInfo, path: &Path, check: &mut Check) {
    let right = info.format == ImageFormat::Parallels;
    check.require(
        right,
        rules::PARALLELS_FORMAT,
        0,
        "a Parallels disk",
        kind_of(info),
    );
    if right {
        let bundle = path.is_dir() || info.path.ends_with("DiskDescriptor.xml");
        let expected = "a folder with DiskDescriptor.xml";
        check.require(
            bundle,
            rules::PARALLELS_BUNDLE,
            0,
            expected,
            "an image alone",
        );
    }
}

fn require_extension(path: &Path, wanted: &'static str, check: &mut Check) {
    let found = path
        .extension()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let right = found.eq_ignore_ascii_case(wanted);
    check.require(
        right,
        rules::EXTENSION,
        0,
        format!(".{wanted}"),
        format!(".{found}"),
    );
}

fn kind_of(info: &ImageInfo) -> String {
    match info.variant.is_empty() {
        true => info.format.qemu_name().to_owned(),
        false => format!("{} ({})", info.format.qemu_name(), info.variant),
    }
}

/// The command that makes an image the platform takes.
fn mend(profile: Profile, info: &ImageInfo, path: &Path) -> Option<String> {
    let (least, most) = profile.bounds();
    if !(least..=most).contains(&info.virtual_size) {
        return None;
    }
    let (format, extension) = profile.wants();
    let stem = path
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let name = match profile {
        Profile::XcpNg => format!("{}.vhd", uuid::Uuid::new_v4()),
        _ => format!("{stem}.{extension}"),
    };
    let mut out = path.with_file_name(name);
    if out.exists() {
        out = path.with_file_name(format!("{stem}-{}.{extension}", profile.name()));
    }
    Some(format!(
        "p2v image convert --from {} {} --to {format} {}",
        info.format.qemu_name(),
        quoted(path),
        quoted(&out)
    ))
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:@%".contains(c);
    match !text.is_empty() && !text.starts_with('-') && text.chars().all(plain) {
        true => text,
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_survive_a_shell() {
        for name in ["disk.raw", "a b", "it's", "-x", "$HOME/`id`", "d\"q"] {
            let script = format!("printf %s {}", quoted(Path::new(name)));
            let output = std::process::Command::new("sh")
                .args(["-c", &script])
                .output()
                .unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), name);
        }
    }

    #[test]
    fn only_a_uuid_is_one() {
        assert!(is_uuid("9d64115e-9bfd-4a08-8200-0123456789ab"));
        for wrong in [
            "",
            "disk",
            "9d64115e9bfd4a0882000123456789ab",
            "9d64115e-9bfd-4a08-8200-0123456789ag",
        ] {
            assert!(!is_uuid(wrong), "{wrong}");
        }
    }
}
