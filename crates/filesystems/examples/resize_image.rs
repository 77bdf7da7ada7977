//! `resize_image IMAGE`: how small and how large can the file system in IMAGE be made?
//! `resize_image IMAGE SIZE`: make it SIZE bytes long, in place. For measurements; IMAGE is written.

use anyhow::{Context, bail};
use block_io::{BlockRead, FileDisk, FileDiskMut};
use filesystems::probe::probe;
use filesystems::resize::{resize, resize_limits};
use filesystems::tree::Recovery;

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (image, size) = match &args[..] {
        [image] => (image, None),
        [image, size] => (image, Some(size.parse::<u64>().context("reading SIZE")?)),
        _ => bail!("usage: resize_image IMAGE [SIZE]"),
    };
    let disk = FileDisk::open(image).with_context(|| format!("opening {image}"))?;
    let found = probe(&disk)?.context("finding a file system")?;
    let Some(size) = size else {
        let limits = resize_limits(&disk, found.kind)?;
        println!("{} of {} bytes: {limits:?}", found.kind, disk.size());
        return Ok(());
    };
    let file = std::fs::OpenOptions::new().write(true).open(image)?;
    file.set_len(disk.size().max(size)).context("lengthening")?;
    let disk = FileDiskMut::open(image).with_context(|| format!("opening {image}"))?;
    let done = resize(&disk, found.kind, size, Recovery::Refuse)?;
    file.set_len(size).context("cutting")?;
    println!("{done:?}");
    Ok(())
}
