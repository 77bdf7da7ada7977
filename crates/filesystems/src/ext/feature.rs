//! Feature bits and their names as `dumpe2fs` prints them. // [ext4 disk layout] Super Block

pub(crate) const HAS_JOURNAL: u32 = 0x4;
pub(crate) const EXT_ATTR: u32 = 0x8;
pub(crate) const RESIZE_INODE: u32 = 0x10;
pub(crate) const DIR_INDEX: u32 = 0x20;
pub(crate) const SPARSE_SUPER2: u32 = 0x200;
pub(crate) const FAST_COMMIT: u32 = 0x400;
pub(crate) const STABLE_INODES: u32 = 0x800;
pub(crate) const ORPHAN_FILE: u32 = 0x1000;

pub(crate) const COMPRESSION: u32 = 0x1;
pub(crate) const FILETYPE: u32 = 0x2;
pub(crate) const RECOVER: u32 = 0x4;
pub(crate) const JOURNAL_DEV: u32 = 0x8;
pub(crate) const META_BG: u32 = 0x10;
pub(crate) const EXTENTS: u32 = 0x40;
pub(crate) const B64: u32 = 0x80;
pub(crate) const MMP: u32 = 0x100;
pub(crate) const FLEX_BG: u32 = 0x200;
pub(crate) const EA_INODE: u32 = 0x400;
pub(crate) const CSUM_SEED: u32 = 0x2000;
pub(crate) const LARGEDIR: u32 = 0x4000;
pub(crate) const INLINE_DATA: u32 = 0x8000;
pub(crate) const ENCRYPT: u32 = 0x1_0000;
pub(crate) const CASEFOLD: u32 = 0x2_0000;

pub(crate) const SPARSE_SUPER: u32 = 0x1;
pub(crate) const LARGE_FILE: u32 = 0x2;
pub(crate) const HUGE_FILE: u32 = 0x8;
pub(crate) const GDT_CSUM: u32 = 0x10;
pub(crate) const DIR_NLINK: u32 = 0x20;
pub(crate) const EXTRA_ISIZE: u32 = 0x40;
pub(crate) const HAS_SNAPSHOT: u32 = 0x80;
pub(crate) const QUOTA: u32 = 0x100;
pub(crate) const BIGALLOC: u32 = 0x200;
pub(crate) const METADATA_CSUM: u32 = 0x400;
pub(crate) const REPLICA: u32 = 0x800;
pub(crate) const READONLY: u32 = 0x1000;
pub(crate) const PROJECT: u32 = 0x2000;
pub(crate) const SHARED_BLOCKS: u32 = 0x4000;
pub(crate) const VERITY: u32 = 0x8000;
pub(crate) const ORPHAN_PRESENT: u32 = 0x1_0000;

/// Incompatible features whose file systems we can read.
pub(crate) const INCOMPAT_READ: u32 = FILETYPE
    | RECOVER
    | META_BG
    | EXTENTS
    | B64
    | MMP
    | FLEX_BG
    | EA_INODE
    | CSUM_SEED
    | LARGEDIR
    | INLINE_DATA
    | ENCRYPT
    | CASEFOLD;
/// Read-only compatible features whose file systems we can write.
pub(crate) const RO_COMPAT_WRITE: u32 = SPARSE_SUPER
    | LARGE_FILE
    | HUGE_FILE
    | GDT_CSUM
    | DIR_NLINK
    | EXTRA_ISIZE
    | METADATA_CSUM
    | VERITY
    | ORPHAN_PRESENT;

pub(crate) const COMPAT_NAMES: &[(u32, &str)] = &[
    (0x1, "dir_prealloc"),
    (0x2, "imagic_inodes"),
    (HAS_JOURNAL, "has_journal"),
    (EXT_ATTR, "ext_attr"),
    (RESIZE_INODE, "resize_inode"),
    (DIR_INDEX, "dir_index"),
    (0x40, "lazy_bg"),
    (0x80, "exclude_inode"),
    (0x100, "snapshot_bitmap"),
    (SPARSE_SUPER2, "sparse_super2"),
    (FAST_COMMIT, "fast_commit"),
    (STABLE_INODES, "stable_inodes"),
    (ORPHAN_FILE, "orphan_file"),
];
pub(crate) const INCOMPAT_NAMES: &[(u32, &str)] = &[
    (COMPRESSION, "compression"),
    (FILETYPE, "filetype"),
    (RECOVER, "needs_recovery"),
    (JOURNAL_DEV, "journal_dev"),
    (META_BG, "meta_bg"),
    (EXTENTS, "extent"),
    (B64, "64bit"),
    (MMP, "mmp"),
    (FLEX_BG, "flex_bg"),
    (EA_INODE, "ea_inode"),
    (0x1000, "dirdata"),
    (CSUM_SEED, "metadata_csum_seed"),
    (LARGEDIR, "large_dir"),
    (INLINE_DATA, "inline_data"),
    (ENCRYPT, "encrypt"),
    (CASEFOLD, "casefold"),
];
pub(crate) const RO_COMPAT_NAMES: &[(u32, &str)] = &[
    (SPARSE_SUPER, "sparse_super"),
    (LARGE_FILE, "large_file"),
    (0x4, "btree_dir"),
    (HUGE_FILE, "huge_file"),
    (GDT_CSUM, "uninit_bg"),
    (DIR_NLINK, "dir_nlink"),
    (EXTRA_ISIZE, "extra_isize"),
    (HAS_SNAPSHOT, "snapshot"),
    (QUOTA, "quota"),
    (BIGALLOC, "bigalloc"),
    (METADATA_CSUM, "metadata_csum"),
    (REPLICA, "replica"),
    (READONLY, "read-only"),
    (PROJECT, "project"),
    (SHARED_BLOCKS, "shared_blocks"),
    (VERITY, "verity"),
    (ORPHAN_PRESENT, "orphan_present"),
];

/// The names of the bits of `bits`, unknown ones in hexadecimal.
pub(crate) fn names(bits: u32, table: &[(u32, &str)]) -> String {
    let known = table.iter().filter(|(bit, _)| bits & bit != 0);
    let mut names: Vec<String> = known.map(|(_, name)| (*name).to_owned()).collect();
    let rest = bits & !table.iter().fold(0, |all, (bit, _)| all | bit);
    if rest != 0 {
        names.push(format!("unknown feature {rest:#x}"));
    }
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_features_are_named_by_their_bits() {
        assert_eq!(
            names(EXTENTS | 0x8000_0000, INCOMPAT_NAMES),
            "extent, unknown feature 0x80000000"
        );
    }
}
