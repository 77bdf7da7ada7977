//! What makes this converter recognisable, and who may push: certificate, key and tokens, kept in the
//! directory `serve` of the store.
//!
//! The files are readable by their owner only, and replaced as a whole. A running server looks at the
//! token file before each request, so that a token revoked by another process is refused at once.

use std::fs::{self, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow, ensure};
use ring::digest;
use ring::rand::{SecureRandom, SystemRandom};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};
use stream_protocol::connect::TOKEN_LEN;
use stream_protocol::{Fingerprint, Token};

const DIRECTORY: &str = "serve";
const CERTIFICATE: &str = "certificate.der";
const KEY: &str = "key.der";
const TOKENS: &str = "tokens.json";

/// Certificate and key.
pub struct Identity {
    /// The self-signed certificate.
    pub certificate: CertificateDer<'static>,
    /// Its key.
    pub key: PrivateKeyDer<'static>,
    /// What agents pin.
    pub fingerprint: Fingerprint,
}

/// One token in the file.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct TokenLine {
    token: String,
    /// Seconds since 1970.
    made: u64,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct TokenFile {
    tokens: Vec<TokenLine>,
}

/// A token without its secret, for a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenName {
    /// The first four bytes in hex.
    pub name: String,
    /// When it was made, in seconds since 1970.
    pub made: u64,
}

/// The tokens that are valid just now.
#[derive(Debug)]
pub struct Tokens {
    path: PathBuf,
    seen: Mutex<Option<Seen>>,
}

/// What the file was when it was last read.
#[derive(Debug)]
struct Seen {
    stamp: Stamp,
    tokens: Vec<Token>,
}

/// Changes whenever the file is replaced: a new file is a new inode, as the old one still exists then.
type Stamp = (u64, u64, i64, i64);

impl Identity {
    /// The identity kept in `store`; made now if there is none.
    ///
    /// # Errors
    /// When the files cannot be read or written, or are not what was written.
    pub fn load_or_make(store: &Path) -> anyhow::Result<Self> {
        let directory = make_directory(store)?;
        let (certificate_path, key_path) = (directory.join(CERTIFICATE), directory.join(KEY));
        if !certificate_path.exists() {
            let (certificate, key) = make_certificate()?;
            // The certificate is written last: with it, the pair is whole.
            replace_file(&key_path, &key)?;
            replace_file(&certificate_path, &certificate)?;
        }
        let certificate = read_secret(&certificate_path)?;
        let key = read_secret(&key_path)?;
        Ok(Self {
            fingerprint: fingerprint_of(&certificate),
            certificate: certificate.into(),
            key: PrivatePkcs8KeyDer::from(key).into(),
        })
    }
}

/// SHA-256 of a certificate in DER.
#[must_use]
pub fn fingerprint_of(certificate: &[u8]) -> Fingerprint {
    let digest = digest::digest(&digest::SHA256, certificate);
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest.as_ref());
    Fingerprint::from_bytes(bytes)
}

impl Tokens {
    /// The tokens of `store`.
    #[must_use]
    pub fn of(store: &Path) -> Self {
        Self {
            path: store.join(DIRECTORY).join(TOKENS),
            seen: Mutex::new(None),
        }
    }

    /// Replace all tokens by a new one; with `keep`, use the newest there is.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn begin_serving(&self, keep: bool) -> anyhow::Result<Token> {
        if keep && let Some(last) = self.read()?.tokens.last() {
            let token = last.token.parse();
            return token.with_context(|| format!("reading {}", self.path.display()));
        }
        let token = new_token()?;
        let line = TokenLine {
            token: token.to_string(),
            made: now_seconds(),
        };
        self.write(&TokenFile { tokens: vec![line] })?;
        Ok(token)
    }

    /// Whether `presented` is one of the tokens. Takes the same time wherever a wrong one differs.
    ///
    /// # Errors
    /// When the file cannot be read: nobody is let in then.
    pub fn admit(&self, presented: &Token) -> anyhow::Result<bool> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = stamp(&self.path)?;
        if seen.as_ref().is_none_or(|seen| seen.stamp != stamp) {
            let file = self.read()?;
            let tokens = file
                .tokens
                .iter()
                .filter_map(|line| line.token.parse().ok());
            let tokens = tokens.collect();
            *seen = Some(Seen { stamp, tokens });
        }
        let tokens = seen.iter().flat_map(|seen| &seen.tokens);
        // No short cut: every token is compared.
        Ok(tokens.fold(false, |found, token| found | token.matches(presented)))
    }

    /// The tokens by name.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn list(&self) -> anyhow::Result<Vec<TokenName>> {
        let lines = self.read()?.tokens;
        lines.into_iter().map(|line| self.name(&line)).collect()
    }

    /// Take tokens away: `all`, or one by its name, itself, or a connect string that has it. Says which.
    ///
    /// # Errors
    /// When there is no such token, or the file cannot be read or written.
    pub fn revoke(&self, which: &str) -> anyhow::Result<Vec<TokenName>> {
        let file = self.read()?;
        let secret = match which.parse::<stream_protocol::ConnectString>() {
            Ok(connect) => connect.token.to_string(),
            Err(_) => which.to_owned(),
        };
        let (mut gone, mut kept) = (Vec::new(), Vec::new());
        for line in file.tokens {
            let name = self.name(&line)?;
            if which == "all" || name.name == which || line.token == secret {
                gone.push(name);
            } else {
                kept.push(line);
            }
        }
        ensure!(
            !gone.is_empty(),
            "there is no token {which:?} here; `p2v serve --tokens` lists them"
        );
        self.write(&TokenFile { tokens: kept })?;
        Ok(gone)
    }

    fn name(&self, line: &TokenLine) -> anyhow::Result<TokenName> {
        let token = line.token.parse::<Token>();
        let token = token.with_context(|| format!("reading {}", self.path.display()))?;
        Ok(TokenName {
            name: token.short_name(),
            made: line.made,
        })
    }

    fn read(&self) -> anyhow::Result<TokenFile> {
        if !self.path.exists() {
            return Ok(TokenFile::default());
        }
        let text = read_secret(&self.path)?;
        serde_json::from_slice(&text).with_context(|| format!("reading {}", self.path.display()))
    }

    fn write(&self, file: &TokenFile) -> anyhow::Result<()> {
        replace_file(&self.path, &serde_json::to_vec_pretty(file)?)
    }
}

/// Random bytes that are fit for secrets.
///
/// # Errors
/// When the operating system has none.
pub fn random<const N: usize>() -> anyhow::Result<[u8; N]> {
    let mut bytes = [0; N];
    let filled = SystemRandom::new().fill(&mut bytes);
    filled.map_err(|_| anyhow!("the operating system gives no random bytes"))?;
    Ok(bytes)
}

fn new_token() -> anyhow::Result<Token> {
    Ok(Token::from_bytes(random::<TOKEN_LEN>()?))
}

fn make_certificate() -> anyhow::Result<(Vec<u8>, Vec<u8>)> {
    let making = "making a certificate";
    let mut params = rcgen::CertificateParams::new(vec!["p2v".to_owned()]).context(making)?;
    let mut name = rcgen::DistinguishedName::new();
    name.push(rcgen::DnType::CommonName, "p2v serve");
    params.distinguished_name = name;
    let key = rcgen::KeyPair::generate().context(making)?;
    let certificate = params.self_signed(&key).context(making)?;
    Ok((certificate.der().to_vec(), key.serialize_der()))
}

fn make_directory(store: &Path) -> anyhow::Result<PathBuf> {
    let directory = store.join(DIRECTORY);
    fs::create_dir_all(&directory)
        .with_context(|| format!("making directory {}", directory.display()))?;
    fs::set_permissions(&directory, Permissions::from_mode(0o700))
        .with_context(|| format!("closing directory {}", directory.display()))?;
    Ok(directory)
}

/// A file only its owner can read. One that others could read may be known to them: it is refused.
fn read_secret(path: &Path) -> anyhow::Result<Vec<u8>> {
    let reading = || format!("reading {}", path.display());
    let metadata = fs::metadata(path).with_context(reading)?;
    ensure!(
        metadata.mode() & 0o077 == 0,
        "{} can be read by others; remove it if they may have done so, or chmod 600 it",
        path.display()
    );
    fs::read(path).with_context(reading)
}

/// Write `bytes` beside `path`, then put the new file in its place.
fn replace_file(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let writing = || format!("writing {}", path.display());
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        path.parent()
            .map_or(Ok(()), |dir| fs::File::open(dir)?.sync_all())
    };
    write().with_context(writing)
}

fn stamp(path: &Path) -> anyhow::Result<Stamp> {
    let metadata = fs::metadata(path);
    let metadata = metadata.with_context(|| format!("looking at {}", path.display()))?;
    Ok((
        metadata.ino(),
        metadata.size(),
        metadata.mtime(),
        metadata.mtime_nsec(),
    ))
}

/// Seconds since 1970.
#[must_use]
pub fn now_seconds() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_identity_is_made_once_and_closed_to_others() {
        let store = tempfile::tempdir().unwrap();
        let first = Identity::load_or_make(store.path()).unwrap();
        let second = Identity::load_or_make(store.path()).unwrap();
        assert_eq!(first.fingerprint, second.fingerprint);
        for file in [CERTIFICATE, KEY] {
            let path = store.path().join(DIRECTORY).join(file);
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        }
        let key = store.path().join(DIRECTORY).join(KEY);
        fs::set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
        let error = Identity::load_or_make(store.path()).err().unwrap();
        assert!(
            error.to_string().contains("can be read by others"),
            "{error}"
        );
    }

    #[test]
    fn each_start_has_its_token_unless_it_is_kept() {
        let store = tempfile::tempdir().unwrap();
        make_directory(store.path()).unwrap();
        let tokens = Tokens::of(store.path());
        let first = tokens.begin_serving(true).unwrap();
        assert_eq!(tokens.begin_serving(true).unwrap(), first);
        let second = tokens.begin_serving(false).unwrap();
        assert_ne!(first, second);
        assert!(tokens.admit(&second).unwrap());
        assert!(!tokens.admit(&first).unwrap());
    }

    #[test]
    fn a_token_revoked_by_another_process_is_refused_at_once() {
        let store = tempfile::tempdir().unwrap();
        make_directory(store.path()).unwrap();
        let running = Tokens::of(store.path());
        let token = running.begin_serving(false).unwrap();
        assert!(running.admit(&token).unwrap());
        let other = Tokens::of(store.path());
        assert!(other.revoke("00000000x").is_err());
        let gone = other.revoke(&token.short_name()).unwrap();
        assert_eq!(gone.len(), 1);
        assert!(!running.admit(&token).unwrap());
        assert!(other.list().unwrap().is_empty());
    }
}
