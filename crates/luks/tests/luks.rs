//! Volumes of QEMU and cryptsetup, opened, read and written, held against both and against OpenSSL's cipher.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

#[path = "../../../fuzz/entries/luks.rs"]
mod entry;
#[path = "../../../fuzz/entries/mutate.rs"]
#[allow(dead_code)]
mod mutate;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use block_io::{BlockRead, BlockWrite, FileDisk, MemoryDisk};
use luks::{LuksError, Version, Volume, read_header};
use test_oracles::{fixture, has_tools, python_with, search_path};

const SECRET: &str = "correct horse";
const MIB: usize = 1 << 20;

fn run(program: &str, args: &[&str]) -> (bool, String) {
    let output = Command::new(program)
        .args(args)
        .env("PATH", search_path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}

fn run_ok(program: &str, args: &[&str]) {
    let (ok, said) = run(program, args);
    assert!(ok, "{program} {args:?}: {said}");
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Bytes that repeat nowhere near.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..len.div_ceil(8))
        .flat_map(|_| next())
        .take(len)
        .collect()
}

fn in_memory(path: &Path) -> MemoryDisk {
    MemoryDisk::from(std::fs::read(path).unwrap())
}

fn opened<D: BlockRead>(disk: D, secret: &[u8]) -> Volume<D> {
    let header = read_header(&disk).unwrap();
    let key = header.unlock(&disk, secret).unwrap();
    Volume::new(disk, &header, &key).unwrap()
}

fn all_of(disk: &dyn BlockRead) -> Vec<u8> {
    let mut bytes = vec![0; disk.size() as usize];
    disk.read_at(0, &mut bytes).unwrap();
    bytes
}

#[test]
fn what_qemu_encrypts_is_read_and_what_is_written_qemu_decrypts() {
    let test = "what_qemu_encrypts_is_read_and_what_is_written_qemu_decrypts";
    if !has_tools(test, &["qemu-img"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (raw, image, back) = ["raw", "image", "back"]
        .map(|name| dir.path().join(name))
        .into();
    let mut model = noise(2 * MIB);
    std::fs::write(&raw, &model).unwrap();
    let secret = format!("secret,id=s,data={SECRET}");
    for (cipher, mode, iv, iv_hash, hash) in [
        ("aes-256", "xts", "plain64", "", "sha256"),
        ("aes-128", "xts", "plain", "", "sha1"),
        ("aes-256", "cbc", "essiv", "sha256", "sha512"),
        ("aes-128", "cbc", "plain64", "", "ripemd160"),
        ("serpent-256", "xts", "plain64", "", "sha256"),
        ("serpent-128", "cbc", "essiv", "sha256", "sha256"),
        ("twofish-256", "xts", "plain64", "", "sha224"),
        ("twofish-128", "cbc", "plain", "", "sha384"),
    ] {
        let name = format!("{cipher}-{mode}-{iv}:{iv_hash} {hash}");
        let mut options = format!(
            "key-secret=s,cipher-alg={cipher},cipher-mode={mode},ivgen-alg={iv},hash-alg={hash},iter-time=10"
        );
        if !iv_hash.is_empty() {
            options += &format!(",ivgen-hash-alg={iv_hash}");
        }
        let args = [
            "convert", "--object", &secret, "-f", "raw", "-O", "luks", "-o", &options,
        ];
        run_ok(
            "qemu-img",
            &[&args[..], &[text(&raw), text(&image)]].concat(),
        );
        model = std::fs::read(&raw).unwrap();

        let volume = opened(in_memory(&image), SECRET.as_bytes());
        assert!(all_of(&volume) == model, "{name}");
        // Parts of sectors, whole ones, and both.
        for (at, len) in [
            (0, 512),
            (700, 20),
            (511, 2),
            (4096, 1 << 16),
            (100_000, 333_333),
        ] {
            let mut part = vec![0; len];
            volume.read_at(at as u64, &mut part).unwrap();
            assert!(part == model[at..at + len], "{name}: {at}+{len}");
            let written: Vec<u8> = part.iter().map(|byte| byte ^ 0x5a).collect();
            volume.write_at(at as u64, &written).unwrap();
            model[at..at + len].copy_from_slice(&written);
        }
        std::fs::write(&image, all_of(volume.disk())).unwrap();
        let source = format!("driver=luks,key-secret=s,file.filename={}", text(&image));
        let args = [
            "convert",
            "--object",
            &secret,
            "--image-opts",
            &source,
            "-O",
            "raw",
        ];
        run_ok("qemu-img", &[&args[..], &[text(&back)]].concat());
        assert!(std::fs::read(&back).unwrap() == model, "{name}: written");
    }
}

/// A LUKS1 volume of QEMU with room for 1 MiB.
fn empty_luks1(dir: &Path) -> PathBuf {
    let image = dir.join("luks1");
    let secret = format!("secret,id=s,data={SECRET}");
    let options = "key-secret=s,iter-time=10";
    let args = ["create", "--object", &secret, "-f", "luks", "-o", options];
    run_ok("qemu-img", &[&args[..], &[text(&image), "1M"]].concat());
    image
}

#[test]
fn a_wrong_secret_opens_nothing() {
    let test = "a_wrong_secret_opens_nothing";
    if !has_tools(test, &["qemu-img"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = empty_luks1(dir.path());
    let disk = in_memory(&image);
    let header = read_header(&disk).unwrap();
    assert_eq!((header.version, header.key_slots()), (Version::One, 1));
    for secret in ["", "correct horsf", "correct horse\n"] {
        let error = header.unlock(&disk, secret.as_bytes()).unwrap_err();
        assert!(
            matches!(error, LuksError::WrongSecret { tried: 1, .. }),
            "{error}"
        );
    }
}

/// A LUKS2 volume as cryptsetup formats it, and the volume key it says it has.
fn formatted(dir: &Path, name: &str, options: &[&str]) -> (PathBuf, Vec<u8>) {
    let (image, secret, key) = ["image", "secret", "key"]
        .map(|part| dir.join(format!("{name}-{part}")))
        .into();
    std::fs::write(&secret, SECRET).unwrap();
    std::fs::File::create(&image)
        .unwrap()
        .set_len(20 << 20)
        .unwrap();
    let args = [
        "luksFormat",
        "--batch-mode",
        "--type",
        "luks2",
        "--key-file",
        text(&secret),
    ];
    run_ok(
        "cryptsetup",
        &[&args[..], options, &[text(&image)]].concat(),
    );
    let args = [
        "luksDump",
        "--batch-mode",
        "--dump-volume-key",
        "--key-file",
        text(&secret),
        "--volume-key-file",
        text(&key),
        text(&image),
    ];
    run_ok("cryptsetup", &args);
    (image, std::fs::read(key).unwrap())
}

/// Encrypts standard input, one data unit of AES-XTS, by OpenSSL's cipher.
const OPENSSL_XTS: &str = "
import sys
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
key, iv = map(bytes.fromhex, sys.argv[1:])
cipher = Cipher(algorithms.AES(key), modes.XTS(iv)).encryptor()
sys.stdout.buffer.write(cipher.update(sys.stdin.buffer.read()) + cipher.finalize())
";

fn openssl_xts(python: &Path, key: &[u8], sector: u64, plain: &[u8]) -> Vec<u8> {
    let hex = |bytes: &[u8]| {
        bytes
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    let iv = hex(&[&sector.to_le_bytes()[..], &[0; 8]].concat());
    let mut python = Command::new(python)
        .args(["-c", OPENSSL_XTS, &hex(key), &iv])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    python.stdin.take().unwrap().write_all(plain).unwrap();
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success());
    output.stdout
}

#[test]
fn what_cryptsetup_formats_opens_and_its_sectors_are_those_of_openssl() {
    let test = "what_cryptsetup_formats_opens_and_its_sectors_are_those_of_openssl";
    if !has_tools(test, &["cryptsetup"]) {
        return;
    }
    let Some(python) = python_with(test, "cryptography") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let cheap = ["--pbkdf-force-iterations", "4", "--pbkdf-memory", "4096"];
    let pbkdf2 = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"];
    for (name, sector, options) in [
        (
            "argon2id",
            512,
            [
                &[
                    "--pbkdf",
                    "argon2id",
                    "--pbkdf-parallel",
                    "2",
                    "--sector-size",
                    "512",
                ][..],
                &cheap,
            ]
            .concat(),
        ),
        (
            "argon2i",
            4096,
            [
                &[
                    "--pbkdf",
                    "argon2i",
                    "--pbkdf-parallel",
                    "1",
                    "--sector-size",
                    "4096",
                ][..],
                &cheap,
            ]
            .concat(),
        ),
        (
            "pbkdf2",
            2048,
            [
                &[
                    "--hash",
                    "sha512",
                    "--key-size",
                    "256",
                    "--sector-size",
                    "2048",
                ][..],
                &pbkdf2,
            ]
            .concat(),
        ),
    ] {
        let (image, key) = formatted(dir.path(), name, &options);
        let disk = in_memory(&image);
        let header = read_header(&disk).unwrap();
        assert_eq!(
            (header.version, header.notes.len()),
            (Version::Two, 0),
            "{:?}",
            header.notes
        );
        let error = header.unlock(&disk, b"wrong").unwrap_err();
        assert!(matches!(error, LuksError::WrongSecret { .. }), "{error}");

        let volume = opened(disk, SECRET.as_bytes());
        assert_eq!(volume.size(), 4 << 20);
        let at = 8 * sector as u64;
        let plain = noise(sector);
        volume.write_at(at, &plain).unwrap();
        let mut coded = vec![0; sector];
        volume.disk().read_at((16 << 20) + at, &mut coded).unwrap();
        // The vector counts sectors of 512 bytes whatever the volume's own.
        assert!(
            coded == openssl_xts(&python, &key, at / 512, &plain),
            "{name}"
        );
        let mut read = vec![0; sector];
        volume.read_at(at, &mut read).unwrap();
        assert!(read == plain, "{name}");
    }
}

#[test]
fn a_damaged_first_header_gives_way_to_the_second_and_says_so() {
    let test = "a_damaged_first_header_gives_way_to_the_second_and_says_so";
    if !has_tools(test, &["cryptsetup"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let options = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"];
    let (image, _) = formatted(dir.path(), "volume", &options);
    let sound = std::fs::read(&image).unwrap();
    for (what, at, says) in [
        ("its magic", 0, "is gone"),
        ("its JSON", 5000, "the checksum"),
        ("its size", 8, "size"),
        (
            "its second header's JSON",
            0x4000 + 4500,
            "the second header cannot be used",
        ),
    ] {
        let mut bytes = sound.clone();
        bytes[at] ^= 0x40;
        let disk = MemoryDisk::from(bytes);
        let header = read_header(&disk).unwrap();
        assert!(header.notes[0].contains(says), "{what}: {:?}", header.notes);
        header.unlock(&disk, SECRET.as_bytes()).unwrap();
    }
    let mut both = sound;
    both[5000] ^= 1;
    both[0x4000 + 5000] ^= 1;
    let error = read_header(&MemoryDisk::from(both)).unwrap_err();
    assert!(error.to_string().contains("checksum"), "{error}");
}

fn unpacked(dir: &Path, packed: &Path) -> PathBuf {
    let name = packed.file_stem().unwrap();
    let path = dir.join(name);
    match name.to_str().unwrap().ends_with(".tar") {
        true => run_ok("tar", &["-xJf", text(packed), "-C", text(dir)]),
        false => {
            let file = std::fs::File::create(&path).unwrap();
            let mut xz = Command::new("xz");
            assert!(
                xz.arg("-dc")
                    .arg(packed)
                    .stdout(file)
                    .status()
                    .unwrap()
                    .success()
            );
        }
    }
    path
}

#[test]
fn volumes_of_old_cryptsetups_open() {
    let test = "volumes_of_old_cryptsetups_open";
    let Some(fixtures) = fixture(test, "volumes/cryptsetup") else {
        return;
    };
    if !has_tools(test, &["xz", "tar"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for name in ["compatimage.img.xz", "compatimage2.img.xz"] {
        let image = unpacked(dir.path(), &fixtures.join(name));
        let disk = FileDisk::open(&image).unwrap();
        assert!(opened(disk, b"compatkey").size() > 0, "{name}");
    }
    unpacked(dir.path(), &fixtures.join("luks1-images.tar.xz"));
    let folder = dir.path().join("luks1-images");
    let secret = std::fs::read(folder.join("keyfile1")).unwrap();
    let mut opened_ones = 0;
    for file in std::fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path())
    {
        if file.extension().is_none_or(|extension| extension != "img") {
            continue;
        }
        let disk = FileDisk::open(&file).unwrap();
        let header = read_header(&disk).unwrap();
        match header.unlock(&disk, &secret) {
            Ok(_) => opened_ones += 1,
            Err(error) => assert!(
                text(&file).contains("lrw") && error.to_string().contains("aes-lrw-plain64"),
                "{}: {error}",
                file.display()
            ),
        }
    }
    assert_eq!(opened_ones, 11);
}

#[test]
fn no_header_panics_or_asks_for_the_impossible() {
    let test = "no_header_panics_or_asks_for_the_impossible";
    if !has_tools(test, &["cryptsetup", "qemu-img"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let options = [
        "--pbkdf",
        "argon2id",
        "--pbkdf-force-iterations",
        "4",
        "--pbkdf-memory",
        "4096",
        "--sector-size",
        "512",
    ];
    let (two, _) = formatted(dir.path(), "volume", &options);
    let one = empty_luks1(dir.path());
    // The data and most of the key material are not looked at; the second copy of LUKS2's header is.
    let seeds = [&one, &two].map(|image| std::fs::read(image).unwrap()[..300 << 10].to_vec());
    for seed in &seeds {
        for end in [0, 5, 6, 8, 591, 592, 4095, 4096, 4097, 16_384] {
            entry::feed(&seed[..end]);
        }
    }
    assert!(mutate::run(&seeds, Duration::from_secs(4), entry::feed) >= 100);
    // JSON that is sound but for its numbers reaches the checks: its checksum is made anew.
    let sound = std::fs::read(&two).unwrap();
    let json_end = 4096 + sound[4096..].iter().position(|byte| *byte == 0).unwrap();
    let json = String::from_utf8(sound[4096..json_end].to_vec()).unwrap();
    for (from, to, says) in [
        ("\"memory\":4096", "\"memory\":99999999", "the cost"),
        ("\"time\":4", "\"time\":4000000000", "the cost"),
        ("\"stripes\":4000", "\"stripes\":400000000", "key material"),
        (
            "\"offset\":\"16777216\"",
            "\"offset\":\"18446744073709551615\"",
            "where the data lies",
        ),
        ("\"type\":\"crypt\"", "\"type\":\"hw-opal\"", "hw-opal"),
        ("\"sector_size\":512", "\"sector_size\":3", "sector size"),
        ("\"iterations\":", "\"iterations\":40000", "rounds"),
    ] {
        assert!(json.contains(from), "{from}: {json}");
        let disk = with_json(&sound, &json.replace(from, to));
        let error = match read_header(&disk) {
            Ok(header) => {
                let key = header.unlock(&disk, SECRET.as_bytes()).unwrap();
                Volume::new(&disk, &header, &key).err().unwrap()
            }
            Err(error) => error,
        };
        assert!(error.to_string().contains(says), "{to}: {error}");
    }
}

/// `volume` with other JSON in its first header, checksummed, and without its second.
fn with_json(volume: &[u8], json: &str) -> MemoryDisk {
    let mut bytes = volume.to_vec();
    let mut area = json.as_bytes().to_vec();
    area.resize(0x4000 - 4096, 0);
    bytes[4096..0x4000].copy_from_slice(&area);
    bytes[0x4000..0x8000].fill(0);
    bytes[448..512].fill(0);
    let dir = tempfile::tempdir().unwrap();
    let header = dir.path().join("header");
    std::fs::write(&header, &bytes[..0x4000]).unwrap();
    let (_, said) = run("sha256sum", &[text(&header)]);
    for (at, pair) in (448..).zip(said.as_bytes()[..64].chunks(2)) {
        bytes[at] = u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    }
    MemoryDisk::from(bytes)
}
