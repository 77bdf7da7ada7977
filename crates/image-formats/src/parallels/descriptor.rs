//! The descriptor of a bundle, `DiskDescriptor.xml`. // prl-xml.rst

use block_io::BlockRead;
use roxmltree::{Document, Node, ParsingOptions};
use uuid::Uuid;

use super::format::{SECTOR, geometry};
use super::rules::bundle as rules;
use crate::error::{ParseError, require};
use crate::finding::Finding;
use crate::gate::MAX_DEPTH;

/// The image that the guest writes to, where `TopGUID` names no other. // prl-xml.rst, "Snapshots element"
pub(crate) const TOP: Uuid = Uuid::from_u128(0x5fba_abe3_6958_40ff_92a7_860e_329a_ab41);
/// A descriptor has at most this many bytes and elements; those of Parallels have a few thousand bytes.
const MAX_BYTES: u64 = 1 << 20;
const MAX_NODES: u32 = 1 << 16;
/// Storages of a split image, at most: 64 TiB in pieces of 2 GiB.
const MAX_STORAGES: usize = 32_768;

/// What a descriptor says, checked as far as it goes without opening what it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Descriptor {
    /// Sectors of the disk.
    pub(crate) sectors: u64,
    pub(crate) storages: Vec<Storage>,
}

/// A range of the disk and the images it is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Storage {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) cluster_sectors: u64,
    /// The images in use, from the root to the top.
    pub(crate) images: Vec<ImageEntry>,
}

/// One image of a storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ImageEntry {
    pub(crate) id: Uuid,
    pub(crate) plain: bool,
    pub(crate) file: String,
}

/// Whether `bytes`, the start of a file, may be a descriptor's.
pub(crate) fn starts_descriptor(bytes: &[u8]) -> bool {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let text = bytes.trim_ascii_start();
    let root = b"<Parallels_disk_image";
    text.starts_with(root) || text.windows(root.len()).any(|part| part == root)
}

/// Read and understand the descriptor in `file`.
pub(crate) fn read_descriptor(file: &dyn BlockRead) -> Result<Descriptor, ParseError> {
    let size = file.size();
    let right = size <= MAX_BYTES;
    require(right, rules::XML, 0, "at most 1 MiB", size)?;
    let mut bytes = vec![0; size as usize];
    file.read_at(0, &mut bytes)?;
    let broken = |found: String| ParseError::from(Finding::error(rules::XML, 0, "XML", found));
    let text = std::str::from_utf8(&bytes).map_err(|error| broken(error.to_string()))?;
    let options = ParsingOptions {
        allow_dtd: false,
        nodes_limit: MAX_NODES,
        ..ParsingOptions::default()
    };
    let document = Document::parse_with_options(text.trim_start_matches('\u{feff}'), options)
        .map_err(|error| broken(error.to_string()))?;
    parse(document.root_element())
}

fn parse(root: Node<'_, '_>) -> Result<Descriptor, ParseError> {
    let name = root.tag_name().name();
    let right = name == "Parallels_disk_image";
    require(right, rules::XML, at(root), "Parallels_disk_image", name)?;
    let parameters = child(root, "Disk_Parameters")?;
    refuse_what_is_not_read(parameters)?;
    let sectors: u64 = value(parameters, "Disk_size")?;
    let chain = snapshot_chain(root)?;
    let mut storages = Vec::new();
    let mut next = 0;
    for node in children(child(root, "StorageData")?, "Storage") {
        let storage = Storage {
            start: value(node, "Start")?,
            end: value(node, "End")?,
            cluster_sectors: value(node, "Blocksize")?,
            images: images_in_use(node, &chain)?,
        };
        let follows = storage.start == next && storage.end > next && storage.end <= sectors;
        let found = format!("{} to {}", storage.start, storage.end);
        let expected = format!("from {next} on, at most {sectors}");
        require(follows, rules::STORAGE, at(node), expected, found)?;
        next = storage.end;
        storages.push(storage);
        let few = storages.len() <= MAX_STORAGES;
        require(few, rules::STORAGE, at(node), "at most 32768", "more")?;
    }
    let whole = next == sectors && sectors < 1 << 54;
    let expected = format!("an end at {sectors}, below 2^54");
    require(whole, rules::STORAGE, at(root), expected, next)?;
    Ok(Descriptor { sectors, storages })
}

/// Padding and encryption change what the bytes mean.
fn refuse_what_is_not_read(parameters: Node<'_, '_>) -> Result<(), ParseError> {
    let refused = |feature: &str| {
        Err(ParseError::Unsupported {
            feature: feature.to_owned(),
            hint: "convert the disk with Parallels (prl_disk_tool) first",
        })
    };
    let padding = children(parameters, "Padding").any(|node| text(node) != "0");
    if padding {
        return refused("padding");
    }
    let encrypted = children(parameters, "Encryption")
        .flat_map(|node| children(node, "Engine"))
        .any(|node| !id(text(node)).is_some_and(|id| id.is_nil()) && !text(node).is_empty());
    if encrypted {
        return refused("an encrypted disk");
    }
    Ok(())
}

/// The images in use by their identifiers, the top first. Empty where the descriptor knows no snapshots.
// prl-xml.rst, "Snapshots element"
fn snapshot_chain(root: Node<'_, '_>) -> Result<Vec<Uuid>, ParseError> {
    let mut parents = Vec::new();
    let mut top = TOP;
    for snapshots in children(root, "Snapshots") {
        if let Some(node) = children(snapshots, "TopGUID").next() {
            top = identifier(node)?;
        }
        for shot in children(snapshots, "Shot") {
            let own = identifier(child(shot, "GUID")?)?;
            parents.push((own, identifier(child(shot, "ParentGUID")?)?));
        }
    }
    if parents.is_empty() {
        return Ok(Vec::new());
    }
    let mut chain = vec![top];
    let mut current = top;
    loop {
        let found = parents.iter().find(|(own, _)| *own == current);
        let known = found.is_some() && chain.len() <= MAX_DEPTH as usize;
        let expected = "a Shot for every image of at most 64";
        require(known, rules::SNAPSHOTS, at(root), expected, braced(current))?;
        match found {
            Some((_, parent)) if !parent.is_nil() => current = *parent,
            _ => return Ok(chain),
        }
        chain.push(current);
    }
}

/// The images of `chain` in a storage, root first.
fn images_in_use(storage: Node<'_, '_>, chain: &[Uuid]) -> Result<Vec<ImageEntry>, ParseError> {
    let mut all = Vec::new();
    for node in children(storage, "Image") {
        let kind = text(child(node, "Type")?);
        let known = matches!(kind, "Plain" | "Compressed");
        let expected = "Plain or Compressed";
        require(known, rules::IMAGE_TYPE, at(node), expected, kind)?;
        all.push(ImageEntry {
            id: identifier(child(node, "GUID")?)?,
            plain: kind == "Plain",
            file: text(child(node, "File")?).to_owned(),
        });
    }
    if chain.is_empty() {
        let one = all.len() == 1;
        let expected = "one image where there are no snapshots";
        require(one, rules::SNAPSHOTS, at(storage), expected, all.len())?;
        return Ok(all);
    }
    let mut images = Vec::new();
    for wanted in chain.iter().rev() {
        let Some(image) = all.iter().find(|image| image.id == *wanted) else {
            let expected = format!("the image {}", braced(*wanted));
            return Err(Finding::error(rules::SNAPSHOTS, at(storage), expected, "none").into());
        };
        let right = images.is_empty() || !image.plain;
        let expected = "Compressed, over another";
        require(right, rules::IMAGE_TYPE, at(storage), expected, "Plain")?;
        images.push(image.clone());
    }
    Ok(images)
}

fn at(node: Node<'_, '_>) -> u64 {
    node.range().start as u64
}

fn children<'a, 'i>(node: Node<'a, 'i>, name: &'static str) -> impl Iterator<Item = Node<'a, 'i>> {
    node.children()
        .filter(move |child| child.tag_name().name() == name)
}

/// The one child of that name.
fn child<'a, 'i>(node: Node<'a, 'i>, name: &'static str) -> Result<Node<'a, 'i>, ParseError> {
    let mut found = children(node, name);
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one),
        (None, _) => Err(Finding::error(rules::VALUE, at(node), name, "none").into()),
        _ => Err(Finding::error(rules::VALUE, at(node), format!("one {name}"), "several").into()),
    }
}

fn text<'a>(node: Node<'a, '_>) -> &'a str {
    node.text().unwrap_or("").trim()
}

fn value(node: Node<'_, '_>, name: &'static str) -> Result<u64, ParseError> {
    let node = child(node, name)?;
    let broken = |_| {
        let expected = format!("a number in {name}");
        Finding::error(rules::VALUE, at(node), expected, text(node))
    };
    Ok(text(node).parse().map_err(broken)?)
}

/// A UUID in curly brackets.
fn id(text: &str) -> Option<Uuid> {
    Uuid::parse_str(text.strip_prefix('{')?.strip_suffix('}')?).ok()
}

fn identifier(node: Node<'_, '_>) -> Result<Uuid, ParseError> {
    let broken = || {
        let expected = "a UUID in curly brackets";
        Finding::error(rules::VALUE, at(node), expected, text(node))
    };
    Ok(id(text(node)).ok_or_else(broken)?)
}

/// `id` as descriptors spell it.
pub(crate) fn braced(id: Uuid) -> String {
    format!("{{{id}}}")
}

/// The descriptor of a new disk of `size` bytes whose one image is `file`.
pub(crate) fn new_descriptor(size: u64, cluster: u64, plain: bool, file: &str) -> String {
    let sectors = size / SECTOR;
    let (cylinders, heads, track) = geometry(sectors);
    let (top, nil, own) = (braced(TOP), braced(Uuid::nil()), braced(Uuid::new_v4()));
    let kind = if plain { "Plain" } else { "Compressed" };
    let file = file
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;");
    let cluster_sectors = cluster / SECTOR;
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>
<Parallels_disk_image Version=\"1.0\">
    <Disk_Parameters>
        <Disk_size>{sectors}</Disk_size>
        <Cylinders>{cylinders}</Cylinders>
        <PhysicalSectorSize>4096</PhysicalSectorSize>
        <LogicSectorSize>512</LogicSectorSize>
        <Heads>{heads}</Heads>
        <Sectors>{track}</Sectors>
        <Padding>0</Padding>
        <Encryption>
            <Engine>{nil}</Engine>
            <Data></Data>
        </Encryption>
        <UID>{own}</UID>
        <Name>disk</Name>
        <Miscellaneous>
            <CompatLevel>level2</CompatLevel>
            <Bootable>1</Bootable>
            <SuspendState>0</SuspendState>
        </Miscellaneous>
    </Disk_Parameters>
    <StorageData>
        <Storage>
            <Start>0</Start>
            <End>{sectors}</End>
            <Blocksize>{cluster_sectors}</Blocksize>
            <Image>
                <GUID>{top}</GUID>
                <Type>{kind}</Type>
                <File>{file}</File>
            </Image>
        </Storage>
    </StorageData>
    <Snapshots>
        <Shot>
            <GUID>{top}</GUID>
            <ParentGUID>{nil}</ParentGUID>
        </Shot>
    </Snapshots>
</Parallels_disk_image>
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use block_io::MemoryDisk;

    fn read(text: &str) -> Result<Descriptor, ParseError> {
        read_descriptor(&MemoryDisk::from(text.as_bytes().to_vec()))
    }

    fn rule_of(text: &str) -> &'static str {
        match read(text) {
            Err(ParseError::Broken(finding)) => finding.rule.id,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_new_descriptor_reads_back() {
        let text = new_descriptor(5 << 20, 1 << 20, false, "a&b<c>.hds");
        assert!(starts_descriptor(text.as_bytes()));
        let read = read(&text).unwrap();
        assert_eq!(read.sectors, 10_240);
        let storage = &read.storages[0];
        assert_eq!((storage.start, storage.end), (0, 10_240));
        assert_eq!(storage.images[0].file, "a&b<c>.hds");
        assert!(!storage.images[0].plain);
    }

    #[test]
    fn what_lies_is_refused_by_rule() {
        let good = new_descriptor(5 << 20, 1 << 20, true, "x.hds");
        let nil = braced(Uuid::nil());
        let circle = good.replace(
            &format!("<ParentGUID>{nil}"),
            &format!("<ParentGUID>{}", braced(TOP)),
        );
        for (text, rule) in [
            ("".to_owned(), "xml"),
            ("<a/>".to_owned(), "xml"),
            (good.replace("</Storage>", ""), "xml"),
            (format!("<!DOCTYPE a [<!ENTITY b \"c\">]>{good}"), "xml"),
            ("<a>".repeat(60_000), "xml"),
            (good.replace("<End>10240", "<End>10239"), "storage"),
            (good.replace("<Start>0", "<Start>1"), "storage"),
            (good.replace("<End>10240", "<End>-1"), "value"),
            (good.replace("Disk_size>", "Disc_size>"), "value"),
            (good.replace("<Type>Plain", "<Type>Packed"), "image-type"),
            (circle, "snapshots"),
            (
                good.replace(
                    "<Shot>",
                    "<TopGUID>{704718e1-2314-44c8-9087-d78ed36b0f4e}</TopGUID><Shot>",
                ),
                "snapshots",
            ),
        ] {
            assert_eq!(
                rule_of(&text),
                format!("parallels-bundle.{rule}"),
                "{text:.300}"
            );
        }
        for text in [
            good.replace("<Padding>0", "<Padding>1"),
            good.replace(
                &format!("<Engine>{nil}"),
                "<Engine>{00000000-0000-0000-0000-000000000001}",
            ),
        ] {
            assert!(matches!(read(&text), Err(ParseError::Unsupported { .. })));
        }
    }
}
