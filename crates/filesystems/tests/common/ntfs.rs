//! NTFS volumes to test with: made by `mkntfs`, filled through ntfs-3g, and those of real systems.

use std::path::{Path, PathBuf};

use block_io::{BlockRead, FileDisk};
use filesystems::probe::{FsKind, probe};

use super::{Mount, fixtures, make_fs, run, run_ok, skip, text};

/// A name, what mkntfs is told, MiB.
pub const NTFS_VARIANTS: &[(&str, &str, u64)] = &[
    ("ntfs", "-c 4096", 60),
    ("ntfs-512", "-c 512", 40),
    ("ntfs-64k", "-c 65536", 300),
    ("ntfs-1m", "-c 1048576", 600),
    ("ntfs-4kn", "-s 4096 -c 4096", 100),
];

/// Make an NTFS of `mib` MiB and a bit.
pub fn mkntfs(image: &Path, args: &str, mib: u64) {
    let flags = ["-F", "-Q", "-q"];
    make_fs("mkntfs", &flags, args, image, (mib << 20) + 4096);
}

/// `image` mounted by ntfs-3g; `None` (a named skip) where FUSE is not allowed.
pub fn mount(test: &str, image: &Path, options: &str) -> Option<Mount> {
    let dir = tempfile::tempdir().unwrap();
    let output = run("ntfs-3g", &["-o", options, text(image), text(dir.path())]);
    if output.status.success() {
        return Some(Mount { dir });
    }
    skip(
        test,
        &format!(
            "ntfs-3g to mount ({})",
            String::from_utf8_lossy(&output.stderr).trim()
        ),
    );
    None
}

/// Volumes of the fixtures, as files; those inside a partition table are cut out.
pub fn volumes(test: &str, scratch: &Path) -> Option<Vec<(String, PathBuf)>> {
    let ntfs = fixtures(test, "ntfs")?;
    let images = fixtures(test, "images")?;
    let mut found = Vec::new();
    for path in [
        "ColinFinck-ntfs/testfs1.xz",
        "dfir_ntfs/ntfs3.raw.gz",
        "dfir_ntfs/ntfs3_attrlist.raw.gz",
        "dfir_ntfs/ntfs_index.raw.gz",
        "msuhanov-ntfs-samples/ntfs-lastaccess.raw.gz",
        "msuhanov-ntfs-samples/ntfs-ptrn.raw.gz",
        "msuhanov-ntfs-samples/ntfs-ramslack.raw.gz",
        "dfvfs/ntfs.raw.xz",
    ] {
        let from = if path.starts_with("dfvfs") {
            images.join(path)
        } else {
            ntfs.join(path)
        };
        let tool = if path.ends_with("xz") { "xz" } else { "gzip" };
        let unpack = |cut: &str, to: &Path| {
            let (from, to) = (text(&from), text(to));
            run_ok(
                "sh",
                &["-c", &format!("{tool} -dc '{from}' | {cut} > '{to}'")],
            );
        };
        // The table first: what lies in a partition is cut out while it is unpacked.
        let to = scratch.join(path.replace('/', "-"));
        unpack("head -c 65536", &to);
        let disk = FileDisk::open(&to).unwrap();
        let mut table = [0; 512];
        disk.read_at(0, &mut table).unwrap();
        if probe(&disk)
            .unwrap()
            .is_some_and(|p| p.kind == FsKind::Ntfs)
        {
            unpack("cat", &to);
            found.push((path.to_owned(), to));
            continue;
        }
        for entry in table[446..510].chunks(16).filter(|e| e[4] == 7) {
            let number =
                |at: usize| u64::from(u32::from_le_bytes(entry[at..at + 4].try_into().unwrap()));
            let (start, len) = (number(8) * 512, number(12) * 512);
            let part = to.with_extension(format!("p{start}"));
            unpack(&format!("tail -c +{} | head -c {len}", start + 1), &part);
            let disk = FileDisk::open(&part).unwrap();
            if probe(&disk)
                .unwrap()
                .is_some_and(|p| p.kind == FsKind::Ntfs)
            {
                found.push((format!("{path} at {start}"), part));
            }
        }
    }
    Some(found)
}
