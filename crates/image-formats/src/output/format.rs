//! Names of output formats and their options, as users write them: `qcow2:zstd,cluster_size=128K`.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use crate::detect::ImageFormat;

/// A format an image can be written in, with its options.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum OutputFormat {
    /// The bytes of the disk and nothing else.
    Raw(RawOptions),
    /// QEMU's own format, version 3.
    Qcow2(Qcow2Options),
    /// The format of Hyper-V.
    Vhdx(VhdxOptions),
    /// The format of VMware.
    Vmdk(VmdkKind),
    /// The older format of Microsoft, and that of Azure and XenServer.
    Vhd(VhdOptions),
    /// The format of VirtualBox.
    Vdi(VdiOptions),
    /// The format of Parallels.
    Parallels(ParallelsOptions),
}

/// How a Parallels disk is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ParallelsOptions {
    /// Keep the whole disk as it is; otherwise only clusters with data. Always in a bundle: outside of
    /// one a plain image is a raw file.
    pub plain: bool,
    /// Make a bundle, which Parallels Desktop opens, and not the image alone, which QEMU opens. A name
    /// that ends in `.hdd` asks for the same.
    pub bundle: bool,
}

impl ParallelsOptions {
    /// Whether the output `path` is a bundle.
    pub(crate) fn is_bundle(self, path: &Path) -> bool {
        let ending = path.extension();
        self.plain || self.bundle || ending.is_some_and(|ending| ending.eq_ignore_ascii_case("hdd"))
    }
}

/// How a VDI file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VdiOptions {
    /// Allocate the whole disk; otherwise only blocks with data.
    pub fixed: bool,
}

/// How a VHD file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VhdOptions {
    /// Keep the whole disk; otherwise only blocks with data.
    pub fixed: bool,
    /// Round the size up to a whole MiB, as Azure demands.
    pub whole_mib: bool,
}

/// The kinds of VMDK that are written, by VMware's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VmdkKind {
    /// One file, grains as they come. Runs on Workstation and Fusion.
    MonolithicSparse,
    /// A descriptor, and a raw file beside it. Runs on Workstation and Fusion.
    MonolithicFlat,
    /// A descriptor, and sparse files of less than 2 GB beside it. Runs on Workstation and Fusion.
    TwoGbMaxExtentSparse,
    /// One file, compressed, for import into ESXi and vSphere, and for OVF.
    StreamOptimized,
}

impl VmdkKind {
    const ALL: [VmdkKind; 4] = [
        VmdkKind::MonolithicSparse,
        VmdkKind::MonolithicFlat,
        VmdkKind::TwoGbMaxExtentSparse,
        VmdkKind::StreamOptimized,
    ];

    /// VMware's name, which stands in the descriptor.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            VmdkKind::MonolithicSparse => "monolithicSparse",
            VmdkKind::MonolithicFlat => "monolithicFlat",
            VmdkKind::TwoGbMaxExtentSparse => "twoGbMaxExtentSparse",
            VmdkKind::StreamOptimized => "streamOptimized",
        }
    }
}

/// How a raw file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RawOptions {
    /// Reserve the whole size on the medium first; otherwise zeroes are holes.
    pub preallocated: bool,
}

/// How clusters are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// Deflate, which every reader knows.
    Zlib,
    /// Zstandard: faster and smaller, needs QEMU 5.1 or later.
    Zstd,
}

/// The image that another lies over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackingFile {
    /// Its name as it is written into the header: relative to the overlay's folder.
    pub name: String,
    /// Its format, which is never guessed.
    pub format: ImageFormat,
}

/// How a qcow2 file is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Qcow2Options {
    /// How clusters are compressed.
    pub compression: Compression,
    /// Bytes in a cluster: a power of two from 512 to 2 MiB.
    pub cluster_size: u64,
    /// The image below: only what differs from it is written.
    pub backing: Option<BackingFile>,
}

impl Default for Qcow2Options {
    fn default() -> Self {
        Self {
            compression: Compression::None,
            cluster_size: 64 << 10,
            backing: None,
        }
    }
}

/// How a VHDX file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VhdxOptions {
    /// Allocate all blocks at once; otherwise only those with data.
    pub fixed: bool,
    /// Bytes in a block: a power of two from 1 to 256 MiB. By default 1 MiB, larger beyond 2 TiB.
    pub block_size: Option<u64>,
    /// Bytes in a logical sector: 512 or 4096. QEMU opens only 512.
    pub logical_sector: u32,
}

impl Default for VhdxOptions {
    fn default() -> Self {
        Self {
            fixed: false,
            block_size: None,
            logical_sector: 512,
        }
    }
}

/// Why a text does not name an output format.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FormatError {
    /// No such format.
    #[error(
        "unknown output format {name:?}; known are raw, qcow2, vhdx, vmdk, vhd, vdi, parallels"
    )]
    Unknown {
        /// What was written.
        name: String,
    },
    /// The format has no such option.
    #[error("{format} has no option {option:?}; it has {known}")]
    Option {
        /// The format.
        format: &'static str,
        /// What was written.
        option: String,
        /// What could have been.
        known: &'static str,
    },
    /// The option's value cannot be.
    #[error("{option} cannot be {value:?}: {allowed}")]
    Value {
        /// The option.
        option: &'static str,
        /// What was written.
        value: String,
        /// What could have been.
        allowed: &'static str,
    },
}

impl OutputFormat {
    /// The usual end of a file name of this format, without the dot.
    #[must_use]
    pub fn extension(&self) -> &'static str {
        match self {
            OutputFormat::Raw(_) => "raw",
            OutputFormat::Qcow2(_) => "qcow2",
            OutputFormat::Vhdx(_) => "vhdx",
            OutputFormat::Vmdk(_) => "vmdk",
            OutputFormat::Vhd(_) => "vhd",
            OutputFormat::Vdi(_) => "vdi",
            OutputFormat::Parallels(parallels) => match parallels.is_bundle(Path::new("")) {
                true => "hdd",
                false => "hds",
            },
        }
    }

    /// The name users write.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            OutputFormat::Parallels(_) => "parallels",
            _ => self.extension(),
        }
    }

    /// What QEMU calls the format.
    #[must_use]
    pub fn qemu_name(&self) -> &'static str {
        match self {
            OutputFormat::Raw(_) => "raw",
            OutputFormat::Qcow2(_) => "qcow2",
            OutputFormat::Vhdx(_) => "vhdx",
            OutputFormat::Vmdk(_) => "vmdk",
            OutputFormat::Vhd(_) => "vpc",
            OutputFormat::Vdi(_) => "vdi",
            OutputFormat::Parallels(_) => "parallels",
        }
    }
}

impl FromStr for OutputFormat {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        let (name, options) = text.split_once(':').unwrap_or((text, ""));
        let options = options.split(',').filter(|option| !option.is_empty());
        match name.to_ascii_lowercase().as_str() {
            "raw" => parse_raw(options).map(OutputFormat::Raw),
            "qcow2" => parse_qcow2(options).map(OutputFormat::Qcow2),
            "vhdx" => parse_vhdx(options).map(OutputFormat::Vhdx),
            "vmdk" => parse_vmdk(options).map(OutputFormat::Vmdk),
            "vhd" => parse_vhd(options).map(OutputFormat::Vhd),
            "vdi" => parse_vdi(options).map(OutputFormat::Vdi),
            "parallels" => parse_parallels(options).map(OutputFormat::Parallels),
            _ => Err(FormatError::Unknown {
                name: name.to_owned(),
            }),
        }
    }
}

impl fmt::Display for OutputFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut options = Vec::new();
        match self {
            OutputFormat::Raw(raw) => {
                if raw.preallocated {
                    options.push("preallocated".to_owned());
                }
            }
            OutputFormat::Qcow2(qcow2) => {
                match qcow2.compression {
                    Compression::None => {}
                    Compression::Zlib => options.push("zlib".to_owned()),
                    Compression::Zstd => options.push("zstd".to_owned()),
                }
                if qcow2.cluster_size != Qcow2Options::default().cluster_size {
                    options.push(format!("cluster_size={}", qcow2.cluster_size));
                }
                if let Some(BackingFile { name, format }) = &qcow2.backing {
                    options.push(format!("backing={name}"));
                    options.push(format!("backing_format={}", format.qemu_name()));
                }
            }
            OutputFormat::Vhd(vhd) => {
                if vhd.fixed {
                    options.push("fixed".to_owned());
                }
                if vhd.whole_mib {
                    options.push("azure".to_owned());
                }
            }
            OutputFormat::Parallels(parallels) => {
                if parallels.plain {
                    options.push("plain".to_owned());
                } else if parallels.bundle {
                    options.push("bundle".to_owned());
                }
            }
            OutputFormat::Vdi(vdi) => {
                if vdi.fixed {
                    options.push("fixed".to_owned());
                }
            }
            OutputFormat::Vmdk(kind) => options.push(kind.name().to_owned()),
            OutputFormat::Vhdx(vhdx) => {
                if vhdx.fixed {
                    options.push("fixed".to_owned());
                }
                if let Some(size) = vhdx.block_size {
                    options.push(format!("block_size={size}"));
                }
                if vhdx.logical_sector != 512 {
                    options.push(format!("sector_size={}", vhdx.logical_sector));
                }
            }
        }
        f.write_str(self.name())?;
        if !options.is_empty() {
            write!(f, ":{}", options.join(","))?;
        }
        Ok(())
    }
}

fn parse_raw<'a>(options: impl Iterator<Item = &'a str>) -> Result<RawOptions, FormatError> {
    let mut raw = RawOptions::default();
    for option in options {
        match option {
            "sparse" => raw.preallocated = false,
            "preallocated" => raw.preallocated = true,
            _ => {
                return Err(FormatError::Option {
                    format: "raw",
                    option: option.to_owned(),
                    known: "sparse, preallocated",
                });
            }
        }
    }
    Ok(raw)
}

fn parse_qcow2<'a>(options: impl Iterator<Item = &'a str>) -> Result<Qcow2Options, FormatError> {
    let mut qcow2 = Qcow2Options::default();
    let (mut name, mut format) = (None, None);
    for option in options {
        match option.split_once('=').unwrap_or((option, "")) {
            ("plain", "") => qcow2.compression = Compression::None,
            ("zlib", "") => qcow2.compression = Compression::Zlib,
            ("zstd", "") => qcow2.compression = Compression::Zstd,
            ("cluster_size", value) => {
                let size = parse_size(value)
                    .filter(|size| size.is_power_of_two() && (512..=2 << 20).contains(size));
                qcow2.cluster_size = size.ok_or_else(|| FormatError::Value {
                    option: "cluster_size",
                    value: value.to_owned(),
                    allowed: "a power of two from 512 to 2M",
                })?;
            }
            ("backing", value) if !value.is_empty() => name = Some(value.to_owned()),
            ("backing_format", value) => {
                format =
                    Some(
                        ImageFormat::from_qemu_name(value).ok_or_else(|| FormatError::Value {
                            option: "backing_format",
                            value: value.to_owned(),
                            allowed: "raw, qcow2, vmdk, vpc, vhdx, vdi, parallels",
                        })?,
                    );
            }
            _ => {
                return Err(FormatError::Option {
                    format: "qcow2",
                    option: option.to_owned(),
                    known: "plain, zlib, zstd, cluster_size=BYTES, backing=FILE with backing_format=FORMAT",
                });
            }
        }
    }
    qcow2.backing = match (name, format) {
        (Some(name), Some(format)) => Some(BackingFile { name, format }),
        (None, None) => None,
        (name, _) => {
            return Err(FormatError::Value {
                option: "backing",
                value: name.unwrap_or_default(),
                allowed: "backing=FILE and backing_format=FORMAT go together: a format is not guessed",
            });
        }
    };
    Ok(qcow2)
}

fn parse_vhdx<'a>(options: impl Iterator<Item = &'a str>) -> Result<VhdxOptions, FormatError> {
    let mut vhdx = VhdxOptions::default();
    for option in options {
        match option.split_once('=').unwrap_or((option, "")) {
            ("dynamic", "") => vhdx.fixed = false,
            ("fixed", "") => vhdx.fixed = true,
            ("block_size", value) => {
                let size = parse_size(value)
                    .filter(|size| size.is_power_of_two() && (1 << 20..=256 << 20).contains(size));
                vhdx.block_size = Some(size.ok_or_else(|| FormatError::Value {
                    option: "block_size",
                    value: value.to_owned(),
                    allowed: "a power of two from 1M to 256M",
                })?);
            }
            ("sector_size", "512") => vhdx.logical_sector = 512,
            ("sector_size", "4096" | "4K" | "4k") => vhdx.logical_sector = 4096,
            _ => {
                return Err(FormatError::Option {
                    format: "vhdx",
                    option: option.to_owned(),
                    known: "dynamic, fixed, block_size=BYTES, sector_size=512 or 4096",
                });
            }
        }
    }
    Ok(vhdx)
}

fn parse_vmdk<'a>(options: impl Iterator<Item = &'a str>) -> Result<VmdkKind, FormatError> {
    let mut kind = VmdkKind::MonolithicSparse;
    for option in options {
        kind = VmdkKind::ALL
            .into_iter()
            .find(|kind| kind.name().eq_ignore_ascii_case(option))
            .ok_or_else(|| FormatError::Option {
                format: "vmdk",
                option: option.to_owned(),
                known: "monolithicSparse, monolithicFlat, twoGbMaxExtentSparse, streamOptimized",
            })?;
    }
    Ok(kind)
}

fn parse_vhd<'a>(options: impl Iterator<Item = &'a str>) -> Result<VhdOptions, FormatError> {
    let mut vhd = VhdOptions::default();
    for option in options {
        match option {
            "dynamic" => vhd.fixed = false,
            "fixed" => vhd.fixed = true,
            // Azure takes fixed disks of whole MiB and nothing else.
            "azure" => (vhd.fixed, vhd.whole_mib) = (true, true),
            _ => {
                return Err(FormatError::Option {
                    format: "vhd",
                    option: option.to_owned(),
                    known: "dynamic, fixed, azure",
                });
            }
        }
    }
    Ok(vhd)
}

fn parse_vdi<'a>(options: impl Iterator<Item = &'a str>) -> Result<VdiOptions, FormatError> {
    let mut vdi = VdiOptions::default();
    for option in options {
        match option {
            "dynamic" => vdi.fixed = false,
            "fixed" => vdi.fixed = true,
            _ => {
                return Err(FormatError::Option {
                    format: "vdi",
                    option: option.to_owned(),
                    known: "dynamic, fixed",
                });
            }
        }
    }
    Ok(vdi)
}

fn parse_parallels<'a>(
    options: impl Iterator<Item = &'a str>,
) -> Result<ParallelsOptions, FormatError> {
    let mut parallels = ParallelsOptions::default();
    for option in options {
        match option {
            "expanding" => parallels.plain = false,
            "plain" => (parallels.plain, parallels.bundle) = (true, true),
            "bundle" => parallels.bundle = true,
            _ => {
                return Err(FormatError::Option {
                    format: "parallels",
                    option: option.to_owned(),
                    known: "expanding, plain, bundle",
                });
            }
        }
    }
    Ok(parallels)
}

/// Bytes, with K, M or G as powers of 1024.
fn parse_size(text: &str) -> Option<u64> {
    let (digits, shift) = match text.as_bytes().last()?.to_ascii_lowercase() {
        b'k' => (&text[..text.len() - 1], 10),
        b'm' => (&text[..text.len() - 1], 20),
        b'g' => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_being_written_and_read() {
        for text in [
            "raw",
            "raw:preallocated",
            "qcow2",
            "qcow2:zstd",
            "qcow2:zlib,cluster_size=131072",
            "qcow2:backing=base.vmdk,backing_format=vmdk",
            "vhdx",
            "vmdk:streamOptimized",
            "vmdk:twoGbMaxExtentSparse",
            "vhd",
            "vhd:fixed",
            "vhd:fixed,azure",
            "vdi",
            "vdi:fixed",
            "parallels",
            "parallels:plain",
            "parallels:bundle",
            "vhdx:fixed,block_size=4194304,sector_size=4096",
        ] {
            assert_eq!(text.parse::<OutputFormat>().unwrap().to_string(), text);
        }
        let large: OutputFormat = "QCOW2:cluster_size=2M".parse().unwrap();
        assert_eq!(large.to_string(), "qcow2:cluster_size=2097152");
    }

    #[test]
    fn wrong_names_options_and_values_say_what_could_have_been() {
        for (text, needle) in [
            ("qcow3", "unknown output format"),
            ("raw:zstd", "sparse, preallocated"),
            ("qcow2:lz4", "zlib, zstd"),
            ("qcow2:backing=base", "go together"),
            ("qcow2:backing_format=raw", "go together"),
            ("qcow2:backing=b,backing_format=tar", "raw, qcow2"),
            ("qcow2:cluster_size=3K", "power of two"),
            ("qcow2:cluster_size=4M", "power of two"),
            ("qcow2:cluster_size=", "power of two"),
            ("qcow2:cluster_size=99999999999999999999G", "power of two"),
        ] {
            let error = text.parse::<OutputFormat>().unwrap_err().to_string();
            assert!(error.contains(needle), "{text}: {error}");
        }
    }
}
