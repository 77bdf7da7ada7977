//! The rules of the platforms, and where each comes from.

use image_formats::{Finding, Rule};

/// Collects the rules an image breaks.
#[derive(Debug, Default)]
pub(super) struct Check {
    pub(super) broken: Vec<Finding>,
}

impl Check {
    pub(super) fn require(
        &mut self,
        holds: bool,
        rule: &'static Rule,
        offset: u64,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) {
        if !holds {
            self.broken
                .push(Finding::error(rule, offset, expected, found));
        }
    }
}

macro_rules! platform_rules {
    ($($name:ident = $id:literal, $says:literal, $spec:literal;)*) => {$(
        pub(super) const $name: &Rule = &Rule { id: $id, says: $says, spec: $spec };
    )*};
}

platform_rules! {
    SOUND = "any.sound", "the image breaks no rule that makes its data wrong", "p2v image check";
    ALONE = "any.alone", "a delivered image holds the whole disk by itself", "products.md 5: no backing file in a delivered image";
    EXTENSION = "hyperv.extension", "the file is named after its format", "Hyper-V and Azure tell VHD from VHDX by the file's name";
    KVM_FORMAT = "kvm.format", "the image is raw or qcow2", "libvirt domain XML, driver type; RHEL supports no other";
    KVM_CLOSED = "kvm.closed", "the image was closed", "qcow2.rst, incompatible_features";
    KVM_SECTORS = "kvm.sectors", "the disk is whole sectors", "qcow2.rst, Header";
    ESXI_STREAM = "esxi.stream", "an import takes a streamOptimized VMDK", "DSP0243, disk format streamOptimized; hosted kinds do not run from VMFS";
    ESXI_VERSION = "esxi.version", "the stream is of version 3", "ESXi refuses older ones: sparse VMDK version too old";
    ESXI_ADAPTER = "esxi.adapter", "the descriptor names an adapter that importers know", "Virtual Disk Format 5.0, ddb.adapterType";
    ESXI_SIZE = "esxi.size", "the disk has at most 62 TiB", "vSphere configuration maximums";
    WORKSTATION_KIND = "workstation.kind", "the VMDK is of a kind that Workstation runs", "Virtual Disk Format 5.0, createType";
    HYPERV_GEN1 = "hyperv-gen1.format", "a machine of generation 1 takes VHD and VHDX", "Hyper-V, generations of virtual machines";
    HYPERV_GEN2 = "hyperv-gen2.format", "a machine of generation 2 takes VHDX only", "Hyper-V, generations of virtual machines";
    VHD_SIZE = "vhd.largest", "a VHD has at most 2040 GiB", "Hyper-V and XenServer, the format's limit";
    AZURE_FIXED = "azure.fixed", "an upload is a fixed VHD", "Azure, Prepare a VHD to upload";
    AZURE_MIB = "azure.whole-mib", "the disk is whole MiB", "Azure, Prepare a VHD to upload";
    AZURE_SIZE = "azure.size", "the disk has 20 MiB to 2040 GiB", "Azure managed disks, upload; VHD 1.0";
    AZURE_FILE = "azure.file-size", "the file is the disk and a footer of 512 bytes", "Azure, Prepare a VHD to upload";
    AZURE_SUM = "azure.checksum", "the footer's checksum is right", "VHD 1.0, Checksum";
    XEN_DYNAMIC = "xcp-ng.dynamic", "a VDI is a dynamic VHD", "XCP-ng storage, VHD chains";
    XEN_BLOCK = "xcp-ng.block-size", "blocks have 2 MiB", "xapi vhd-tool, block size";
    XEN_NAME = "xcp-ng.name", "the file is named by a UUID", "XCP-ng file storage: UUID.vhd";
    VIRTUALBOX = "virtualbox.format", "VirtualBox writes to VDI, VHD and VMDK that are no streams", "VirtualBox manual, Disk image files";
    PARALLELS_FORMAT = "parallels.format", "the disk is one of Parallels", "prl-xml.rst";
    PARALLELS_BUNDLE = "parallels.bundle", "Parallels Desktop opens bundles only", "prl-xml.rst, Description file";
}
