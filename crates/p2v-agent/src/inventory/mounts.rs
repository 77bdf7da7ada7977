//! What is mounted, and what is swapped to.

use super::Root;

/// One mount of a block device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount {
    /// The kernel's name of the device.
    pub device: String,
    /// Where it is mounted; `[SWAP]` for swap space in use.
    pub place: String,
    /// `ext4`.
    pub fs_type: String,
    /// Whether the file system may be written to.
    pub writable: bool,
}

/// All mounts of block devices.
#[derive(Debug, Default)]
pub(super) struct Mounts(Vec<Mount>);

impl Mounts {
    pub fn read(root: &Root) -> Self {
        let mounts = root.text("proc/self/mountinfo").unwrap_or_default();
        let swaps = root.text("proc/swaps").unwrap_or_default();
        let mut all: Vec<_> = mounts
            .lines()
            .filter_map(|line| mount(root, line))
            .collect();
        all.extend(swaps.lines().skip(1).filter_map(|line| swap(root, line)));
        Self(all)
    }

    /// The mounts of the device `name`.
    pub fn of(&self, name: &str) -> impl Iterator<Item = &Mount> {
        self.0.iter().filter(move |mount| mount.device == name)
    }
}

/// [proc(5)] `/proc/pid/mountinfo`: id, parent, major:minor, root, place, options, any number of
/// tags, a dash, type, source, options of the superblock.
fn mount(root: &Root, line: &str) -> Option<Mount> {
    let (left, right) = line.split_once(" - ")?;
    let left: Vec<&str> = left.split(' ').collect();
    let right: Vec<&str> = right.split(' ').collect();
    let (number, place) = (left.get(2)?, left.get(4)?);
    let (fs_type, source, options) = (right.first()?, right.get(1)?, right.get(2)?);
    // btrfs mounts have a device number of their own, `0:44`; then only the source tells.
    let device = root
        .link_name(&format!("sys/dev/block/{number}"))
        .or_else(|| kernel_name(root, &unescape(source)))?;
    Some(Mount {
        device,
        place: unescape(place),
        fs_type: (*fs_type).to_owned(),
        // The superblock's own: a read-only bind mount of a writable file system still changes.
        writable: options.split(',').any(|option| option == "rw"),
    })
}

/// [proc(5)] `/proc/swaps`: file name, type (`partition` or `file`), sizes.
fn swap(root: &Root, line: &str) -> Option<Mount> {
    let mut fields = line.split_whitespace();
    let (path, kind) = (unescape(fields.next()?), fields.next()?);
    if kind != "partition" {
        return None;
    }
    Some(Mount {
        device: kernel_name(root, &path)?,
        place: "[SWAP]".to_owned(),
        fs_type: "swap".to_owned(),
        // What is swapped out means nothing after a restart: not a file system that could tear.
        writable: false,
    })
}

/// The kernel's name of a device file: links like `/dev/mapper/vg-root` followed on the live
/// machine, device-mapper names looked up in `/sys` elsewhere.
fn kernel_name(root: &Root, path: &str) -> Option<String> {
    let name = device_name(root, path)?;
    if root.exists(&format!("sys/class/block/{name}")) || root.exists(&format!("sys/block/{name}"))
    {
        return Some(name);
    }
    let label = path.strip_prefix("/dev/mapper/")?;
    let is_it =
        |name: &String| root.text(&format!("sys/block/{name}/dm/name")).as_deref() == Some(label);
    root.names("sys/block").into_iter().find(is_it)
}

/// `sda1` of `/dev/sda1` or of a link to it, `cciss!c0d0p1` of `/dev/cciss/c0d0p1`.
fn device_name(root: &Root, path: &str) -> Option<String> {
    let below = path.strip_prefix("/dev/")?;
    let target = match root.is_live() {
        true => std::fs::canonicalize(path).ok(),
        false => None,
    };
    let target = target.as_deref().and_then(|target| target.to_str());
    let below = target
        .and_then(|target| target.strip_prefix("/dev/"))
        .unwrap_or(below);
    Some(below.replace('/', "!"))
}

/// The kernel writes a space as `\040`, a tab as `\011`, a newline as `\012`, a backslash as `\134`.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let octal = |digits: &[u8]| {
            let digits = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(digits, 8).ok()
        };
        match after.get(..3).filter(|_| first == b'\\').and_then(octal) {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_of_the_kernel_are_undone() {
        assert_eq!(unescape(r"/mnt/a\040b\134c"), r"/mnt/a b\c");
        assert_eq!(unescape(r"/mnt/\9x\04"), r"/mnt/\9x\04");
    }
}
