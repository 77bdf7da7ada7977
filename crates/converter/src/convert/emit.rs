//! Write the images: every disk once read, every format at once.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use block_io::BlockRead;
use image_formats::output::{self, OutputFormat, OutputOptions};
use image_formats::{CopyOptions, copy};
use serde::Serialize;

use crate::progress::ByteBar;

/// An image file that was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Image {
    /// Which disk of the machine it holds, from 0.
    pub disk: usize,
    /// Its format as the user named it.
    pub format: String,
    /// Its place.
    pub path: PathBuf,
    /// The size of the disk inside, in bytes.
    pub virtual_size: u64,
}

/// Where the images of a machine go and what they are called.
#[derive(Debug)]
pub struct Outputs {
    directory: PathBuf,
    stem: String,
    formats: Vec<OutputFormat>,
    overwrite: bool,
}

impl Outputs {
    /// Images named `STEM-diskN.EXT` in `directory`, each disk in each of `formats`. Where two formats
    /// have one extension the second carries its options: `STEM-diskN-streamOptimized.vmdk`.
    ///
    /// # Errors
    /// When a format is named twice.
    pub fn new(
        directory: &Path,
        stem: &str,
        formats: Vec<OutputFormat>,
        overwrite: bool,
    ) -> anyhow::Result<Self> {
        for (i, format) in formats.iter().enumerate() {
            if formats[..i].contains(format) {
                bail!("--to {format} is named twice");
            }
        }
        Ok(Self {
            directory: directory.to_owned(),
            stem: stem.to_owned(),
            formats,
            overwrite,
        })
    }

    /// The file of `STEM` with this ending in the output directory.
    pub fn file(&self, ending: &str) -> PathBuf {
        self.directory.join(format!("{}{ending}", self.stem))
    }

    /// The image of disk number `disk` in `format`.
    fn image_path(&self, disk: usize, format: &OutputFormat) -> PathBuf {
        let extension = format.extension();
        let before = self.formats.iter().take_while(|other| *other != format);
        let taken = before
            .filter(|other| other.extension() == extension)
            .count()
            > 0;
        let options = match taken {
            true => format!("-{}", options_of(format)),
            false => String::new(),
        };
        self.file(&format!("-disk{}{options}.{extension}", disk + 1))
    }

    /// Make the directory and see that nothing that is there would be lost.
    ///
    /// # Errors
    /// When an output exists and was not to be replaced; when the directory cannot be made.
    pub fn prepare(&self, disks: usize, endings: &[&str]) -> anyhow::Result<()> {
        let images = (0..disks).flat_map(|disk| {
            self.formats
                .iter()
                .map(move |format| self.image_path(disk, format))
        });
        let others = endings.iter().map(|ending| self.file(ending));
        for path in images.chain(others) {
            if !self.overwrite && path.symlink_metadata().is_ok() {
                bail!(
                    "{} exists and is left as it is; name another directory with --out, \
                     or replace it with --force",
                    path.display()
                );
            }
        }
        std::fs::create_dir_all(&self.directory)
            .with_context(|| format!("making the directory {}", self.directory.display()))
    }

    /// Write every disk in every format, one read pass a disk.
    ///
    /// # Errors
    /// When a disk cannot be read or an image cannot be written; images that were not finished are
    /// gone then.
    pub fn write(&self, disks: &[Arc<dyn BlockRead>]) -> anyhow::Result<Vec<Image>> {
        let mut images = Vec::new();
        for (number, disk) in disks.iter().enumerate() {
            let options = OutputOptions {
                overwrite: self.overwrite,
                ..OutputOptions::default()
            };
            let sinks = self
                .formats
                .iter()
                .map(|format| {
                    let path = self.image_path(number, format);
                    output::create(path, format, disk.size(), options.clone())
                })
                .collect::<Result<Vec<_>, _>>()?;
            let bar = ByteBar::new(&format!("writing disk {}", number + 1));
            let written = copy(&**disk, sinks, &bar, &CopyOptions::default());
            bar.clear();
            for (path, format) in written?.into_iter().zip(&self.formats) {
                images.push(Image {
                    disk: number,
                    format: format.to_string(),
                    path,
                    virtual_size: disk.size(),
                });
            }
        }
        Ok(images)
    }
}

/// The options of a format as a part of a file name; two formats of one extension differ in it.
fn options_of(format: &OutputFormat) -> String {
    let text = format.to_string();
    let options = text.split_once(':').map_or("plain", |(_, options)| options);
    options.replace([',', '='], "-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use block_io::MemoryDisk;

    fn qcow2() -> Vec<OutputFormat> {
        vec!["qcow2".parse().unwrap()]
    }

    #[test]
    fn what_exists_is_refused_before_anything_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let outputs = Outputs::new(dir.path(), "web01", qcow2(), false).unwrap();
        let precious = dir.path().join("web01.xml");
        std::fs::write(&precious, "mine").unwrap();
        let error = outputs.prepare(1, &[".xml"]).unwrap_err().to_string();
        assert!(
            error.contains("web01.xml exists") && error.contains("--force"),
            "{error}"
        );
        assert_eq!(std::fs::read_to_string(precious).unwrap(), "mine");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn each_disk_gets_its_image() {
        let dir = tempfile::tempdir().unwrap();
        let outputs = Outputs::new(&dir.path().join("new"), "web01", qcow2(), false).unwrap();
        outputs.prepare(2, &[]).unwrap();
        let disk: Arc<dyn BlockRead> = Arc::new(MemoryDisk::from(vec![7; 1 << 20]));
        let images = outputs.write(&[disk.clone(), disk]).unwrap();
        let names: Vec<_> = images.iter().map(|i| i.path.file_name().unwrap()).collect();
        assert_eq!(names, ["web01-disk1.qcow2", "web01-disk2.qcow2"]);
    }

    #[test]
    fn formats_of_one_extension_get_names_of_their_own() {
        let named = |formats: &[&str]| -> Vec<String> {
            let formats: Vec<OutputFormat> = formats.iter().map(|f| f.parse().unwrap()).collect();
            let outputs = Outputs::new(Path::new("/x"), "a", formats.clone(), false).unwrap();
            let paths = formats.iter().map(|format| outputs.image_path(0, format));
            paths.map(|path| path.display().to_string()).collect()
        };
        assert_eq!(
            named(&["vmdk", "vmdk:streamOptimized", "qcow2"]),
            [
                "/x/a-disk1.vmdk",
                "/x/a-disk1-streamOptimized.vmdk",
                "/x/a-disk1.qcow2"
            ]
        );
        assert_eq!(
            named(&["qcow2:zstd", "qcow2", "qcow2:zlib,cluster_size=4K"]),
            [
                "/x/a-disk1.qcow2",
                "/x/a-disk1-plain.qcow2",
                "/x/a-disk1-zlib-cluster_size-4096.qcow2"
            ]
        );
        let twice = vec![
            "vmdk".parse().unwrap(),
            "vmdk:monolithicSparse".parse().unwrap(),
        ];
        assert!(Outputs::new(Path::new("/x"), "a", twice, false).is_err());
    }
}
