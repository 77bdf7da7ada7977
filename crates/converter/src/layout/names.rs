//! How sizes and partitions are written on the command line and in the layout file.

use std::str::FromStr;

/// Bytes, written as `120G`, `512M`, `1.5T` or a plain number; powers of 1024.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is no size: 120G, 512M, 1.5T or a number of bytes is");
        let digits = text
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let shift = match unit.trim().to_ascii_uppercase().as_str() {
            "" | "B" => 0,
            "K" | "KIB" => 10,
            "M" | "MIB" => 20,
            "G" | "GIB" => 30,
            "T" | "TIB" => 40,
            _ => return Err(bad()),
        };
        let (whole, part) = number.split_once('.').unwrap_or((number, ""));
        let whole: u64 = whole.parse().map_err(|_| bad())?;
        let mut bytes = whole.checked_mul(1 << shift).ok_or_else(bad)?;
        if number.contains('.') {
            // Six digits behind the point are plenty, and exact.
            let fine = part.len() <= 6 && !part.is_empty() && shift > 0;
            let fraction: u64 = part.parse().ok().filter(|_| fine).ok_or_else(bad)?;
            let scaled = (u128::from(fraction) << shift) / 10_u128.pow(part.len() as u32);
            bytes = bytes
                .checked_add(u64::try_from(scaled).map_err(|_| bad())?)
                .ok_or_else(bad)?;
        }
        Ok(Self(bytes))
    }
}

/// Which partition: `2`, `2:1` (partition 1 of the second disk), `/srv` (what is mounted there).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// By disk, from 0, and number.
    Numbered {
        /// The disk, from 0.
        disk: usize,
        /// The partition's number.
        number: u32,
    },
    /// By where the guest's fstab mounts it.
    Mounted(String),
}

impl FromStr for Part {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with('/') || text == "[SWAP]" {
            return Ok(Self::Mounted(text.to_owned()));
        }
        let (disk, number) = on_disk(text)?;
        let number = number.parse().map_err(|_| {
            format!("{text:?} is no partition: its number (2), DISK:NUMBER (2:1) or its mount point (/srv) is")
        })?;
        Ok(Self::Numbered { disk, number })
    }
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Numbered { disk: 0, number } => write!(f, "{number}"),
            Self::Numbered { disk, number } => write!(f, "{}:{number}", disk + 1),
            Self::Mounted(at) => f.write_str(at),
        }
    }
}

/// `2:rest` is `rest` of the second disk; without a number it is the first.
fn on_disk(text: &str) -> Result<(usize, &str), String> {
    let Some((disk, rest)) = text.split_once(':') else {
        return Ok((0, text));
    };
    match disk.parse::<usize>() {
        Ok(disk) if disk > 0 => Ok((disk - 1, rest)),
        _ => Err(format!("{disk:?} is no disk: disks are counted from 1")),
    }
}

/// How large a disk is to be: `120G`, `+20G`, `fit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// This many bytes.
    To(u64),
    /// That many more than today.
    More(u64),
    /// As small as its partitions allow.
    Fit,
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.strip_prefix('+')) {
            ("fit", _) => Ok(Self::Fit),
            (_, Some(more)) => Ok(Self::More(more.parse::<Bytes>()?.0)),
            _ => Ok(Self::To(text.parse::<Bytes>()?.0)),
        }
    }
}

/// `[DISK:]SIZE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskSizeOf {
    /// The disk, from 0.
    pub disk: usize,
    /// Its size.
    pub size: Size,
}

impl FromStr for DiskSizeOf {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (disk, size) = on_disk(text)?;
        Ok(Self {
            disk,
            size: size.parse()?,
        })
    }
}

/// What grows: a partition, or a choice among those of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Grow {
    /// This one.
    Part(Part),
    /// The largest one of a disk whose contents can grow.
    Largest {
        /// The disk, from 0.
        disk: usize,
    },
    /// All of a disk whose contents can grow, swap space and boot partitions aside.
    All {
        /// The disk, from 0.
        disk: usize,
    },
}

impl FromStr for Grow {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match on_disk(text) {
            Ok((disk, "largest")) => Ok(Self::Largest { disk }),
            Ok((disk, "all")) => Ok(Self::All { disk }),
            _ => Ok(Self::Part(text.parse()?)),
        }
    }
}

/// How small: `10G`, `used+2G`, `smallest`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shrink {
    /// To this many bytes.
    To(u64),
    /// To what is in use and this many bytes more, or to the smallest size where that is larger.
    UsedAnd(u64),
    /// To the smallest size its contents allow.
    Smallest,
}

impl FromStr for Shrink {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.strip_prefix("used+")) {
            ("smallest", _) => Ok(Self::Smallest),
            (_, Some(margin)) => Ok(Self::UsedAnd(margin.parse::<Bytes>()?.0)),
            _ => Ok(Self::To(text.parse::<Bytes>()?.0)),
        }
    }
}

/// `PART=VALUE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Of<T> {
    /// The partition.
    pub part: Part,
    /// What is said of it.
    pub value: T,
}

impl<T: FromStr<Err = String>> FromStr for Of<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (part, value) = text.rsplit_once('=').ok_or_else(|| {
            format!("{text:?} lacks its value: PART=VALUE is wanted, as in 2=10G")
        })?;
        Ok(Self {
            part: part.parse()?,
            value: value.parse()?,
        })
    }
}

/// A share of free space, against the others'.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weight(pub u32);

impl FromStr for Weight {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.parse().ok().filter(|number| *number <= 1_000_000);
        number
            .map(Self)
            .ok_or_else(|| format!("{text:?} is no weight: a number up to 1000000 is"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_exactly_or_refused() {
        let of = |text: &str| text.parse::<Bytes>().map(|bytes| bytes.0);
        assert_eq!(of("120G"), Ok(120 << 30));
        assert_eq!(of("1.5t"), Ok(3 << 39));
        assert_eq!(of("0.25MiB"), Ok(256 << 10));
        assert_eq!(of("4096"), Ok(4096));
        for wrong in [
            "",
            "G",
            "-1G",
            "1.G",
            "1.2",
            "1Q",
            "99999999999T",
            "1.1234567G",
            "1.2.3G",
        ] {
            assert!(of(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn partitions_and_what_is_said_of_them() {
        let two = Part::Numbered { disk: 0, number: 2 };
        assert_eq!("2".parse(), Ok(two.clone()));
        assert_eq!("3:1".parse(), Ok(Part::Numbered { disk: 2, number: 1 }));
        assert_eq!("/srv=x".parse(), Ok(Part::Mounted("/srv=x".into())));
        assert!("0:1".parse::<Part>().is_err() && "sda2".parse::<Part>().is_err());
        let of: Of<Shrink> = "2=used+1G".parse().unwrap();
        assert_eq!((of.part, of.value), (two.clone(), Shrink::UsedAnd(1 << 30)));
        assert_eq!("2:all".parse(), Ok(Grow::All { disk: 1 }));
        assert_eq!("2".parse(), Ok(Grow::Part(two)));
        let size = DiskSizeOf {
            disk: 1,
            size: Size::More(5 << 30),
        };
        assert_eq!("2:+5G".parse(), Ok(size));
        assert!("2".parse::<Of<Shrink>>().is_err() && "x:fit".parse::<DiskSizeOf>().is_err());
    }
}
