//! The text descriptor of a VMDK disk. // [Virtual Disk Format 5.0] Text Descriptor

use super::rules;
use crate::error::require;
use crate::finding::Finding;

/// The first line of a descriptor.
pub(crate) const SIGNATURE: &[u8] = b"# Disk DescriptorFile";
/// The CID of no parent.
pub(crate) const NO_PARENT: u32 = 0xffff_ffff;
/// A disk has at most this many extents: 2 TiB in pieces of 2 GB, and to spare.
const MAX_EXTENTS: usize = 4096;

/// What a descriptor says.
#[derive(Debug, Clone, Default)]
pub(crate) struct Descriptor {
    pub(crate) create_type: String,
    pub(crate) cid: u32,
    pub(crate) parent_cid: u32,
    pub(crate) parent_hint: Option<String>,
    pub(crate) adapter: Option<String>,
    pub(crate) hardware_version: Option<String>,
    pub(crate) extents: Vec<ExtentLine>,
}

/// One line of the extent description.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ExtentLine {
    pub(crate) sectors: u64,
    /// `FLAT`, `SPARSE`, `ZERO`, `VMFS`, `VMFSSPARSE`, …
    pub(crate) kind: String,
    pub(crate) name: Option<String>,
    /// The sector of the file where a flat extent starts.
    pub(crate) start: u64,
}

impl Descriptor {
    /// Understand `text`, which is padded with zero bytes when it is embedded.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, Finding> {
        let end = text
            .iter()
            .position(|byte| *byte == 0)
            .unwrap_or(text.len());
        let text = String::from_utf8_lossy(text.get(..end).unwrap_or_default());
        let mut descriptor = Descriptor {
            parent_cid: NO_PARENT,
            ..Default::default()
        };
        for line in text.lines().map(str::trim) {
            let access = line.split_whitespace().next().unwrap_or("");
            if matches!(access, "RW" | "RDONLY" | "NOACCESS") {
                let extent = parse_extent(line).ok_or_else(|| {
                    Finding::error(rules::EXTENT, 0, "RW SECTORS KIND \"NAME\"", line)
                })?;
                descriptor.extents.push(extent);
                let count = descriptor.extents.len();
                require(
                    count <= MAX_EXTENTS,
                    rules::DESCRIPTOR,
                    0,
                    "at most 4096 extents",
                    "more",
                )?;
                continue;
            }
            let Some((key, value)) = line.split_once('=') else {
                continue;
            };
            let value = value.trim().trim_matches('"');
            match key.trim().to_ascii_lowercase().as_str() {
                "createtype" => descriptor.create_type = value.to_owned(),
                "cid" => descriptor.cid = u32::from_str_radix(value, 16).unwrap_or(0),
                "parentcid" => {
                    descriptor.parent_cid = u32::from_str_radix(value, 16).unwrap_or(NO_PARENT);
                }
                "ddb.adaptertype" => descriptor.adapter = Some(value.to_owned()),
                "ddb.virtualhwversion" => descriptor.hardware_version = Some(value.to_owned()),
                "parentfilenamehint" => descriptor.parent_hint = Some(value.to_owned()),
                _ => {}
            }
        }
        Ok(descriptor)
    }
}

/// `RW 4192256 SPARSE "disk-s001.vmdk" [START]`
fn parse_extent(line: &str) -> Option<ExtentLine> {
    let (head, name, tail) = match line.split_once('"') {
        Some((head, rest)) => {
            let (name, tail) = rest.rsplit_once('"')?;
            (head, Some(name.to_owned()), tail)
        }
        None => (line, None, ""),
    };
    let mut words = head.split_whitespace().skip(1);
    Some(ExtentLine {
        sectors: words.next()?.parse().ok()?,
        kind: words.next()?.to_ascii_uppercase(),
        name,
        start: match tail.split_whitespace().next() {
            Some(start) => start.parse().ok()?,
            None => 0,
        },
    })
}

/// The descriptor of a new disk with extents of one kind: their sectors and the names of their files.
pub(crate) fn new_descriptor(create_type: &str, kind: &str, extents: &[(u64, &str)]) -> String {
    let cid = (uuid::Uuid::new_v4().as_u128() as u32) & 0xffff_fffe;
    let start = if kind == "FLAT" { " 0" } else { "" };
    let lines: String = extents
        .iter()
        .map(|(sectors, name)| format!("RW {sectors} {kind} \"{name}\"{start}\n"))
        .collect();
    let sectors: u64 = extents.iter().map(|(sectors, _)| sectors).sum();
    // The geometry a BIOS reports for SCSI disks. // VMware knowledge base 1026254
    let (heads, track) = if sectors >= 2 << 20 {
        (255, 63)
    } else {
        (64, 32)
    };
    let cylinders = (sectors / (heads * track)).max(1);
    format!(
        "# Disk DescriptorFile\n\
         version=1\n\
         CID={cid:08x}\n\
         parentCID=ffffffff\n\
         createType=\"{create_type}\"\n\
         \n\
         # Extent description\n\
         {lines}\
         \n\
         # The Disk Data Base\n\
         #DDB\n\
         \n\
         ddb.virtualHWVersion = \"8\"\n\
         ddb.geometry.cylinders = \"{cylinders}\"\n\
         ddb.geometry.heads = \"{heads}\"\n\
         ddb.geometry.sectors = \"{track}\"\n\
         ddb.adapterType = \"lsilogic\"\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_descriptor_reads_back() {
        let text = new_descriptor("monolithicFlat", "FLAT", &[(4096, "a \"b\"-flat.vmdk")]);
        let read = Descriptor::parse(text.as_bytes()).unwrap();
        assert_eq!(read.create_type, "monolithicFlat");
        assert_eq!(read.parent_cid, NO_PARENT);
        assert_eq!(read.extents.len(), 1);
        assert_eq!(read.extents[0].name.as_deref(), Some("a \"b\"-flat.vmdk"));
        assert_eq!((read.extents[0].sectors, read.extents[0].start), (4096, 0));
    }

    #[test]
    fn extent_lines_of_every_kind() {
        let text = "RW 100 ZERO\nRDONLY 63 FLAT \"x.bin\" 17\nRW 5 SPARSE \"s001.vmdk\"\n";
        let extents = Descriptor::parse(text.as_bytes()).unwrap().extents;
        assert_eq!(extents[0].name, None);
        assert_eq!(extents[1].start, 17);
        assert_eq!(extents[2].kind, "SPARSE");
        for wrong in [
            "RW",
            "RW x FLAT \"a\"",
            "RW 5",
            "RW 5 FLAT \"a\" b",
            "RW 5 FLAT \"a",
        ] {
            assert!(Descriptor::parse(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
