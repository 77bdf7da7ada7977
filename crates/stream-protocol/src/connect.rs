//! The connect string `p2v://HOST:PORT/#TOKEN.FINGERPRINT`: everything an agent needs to reach one
//! converter and no other.
//!
//! The secret stands after `#`, the part of a URL that no program sends to a server or writes into
//! an access log by itself.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

/// The port of `p2v serve` where nothing else is said.
pub const DEFAULT_PORT: u16 = 8443;

/// Bytes of a token.
pub const TOKEN_LEN: usize = 32;

/// Bytes of a fingerprint: one SHA-256.
pub const FINGERPRINT_LEN: usize = 32;

/// What gives an agent the right to push: 32 random bytes, made by `p2v serve`.
///
/// `Debug` shows only the first characters: a token must not end up in a log.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token([u8; TOKEN_LEN]);

/// SHA-256 of the converter's certificate in DER. The agent accepts no other certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; FINGERPRINT_LEN]);

/// Where the converter is, how it is recognised, and the right to push to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectString {
    /// A host name or an IP address, an IPv6 address without its brackets.
    pub host: String,
    /// The TCP port.
    pub port: u16,
    /// The right to push.
    pub token: Token,
    /// The only certificate to accept.
    pub fingerprint: Fingerprint,
}

/// Which part of a connect string is wrong, and how.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// It does not begin with `p2v://`.
    #[error(
        "the connect string begins with {found:?}, not with \"p2v://\": copy the whole line that `p2v serve` printed"
    )]
    Scheme {
        /// What it begins with.
        found: String,
    },
    /// There is no host before the port.
    #[error("the connect string has no host after \"p2v://\"")]
    HostMissing,
    /// The host has a character that no host name has.
    #[error("the host {host:?} of the connect string has the character {found:?}")]
    HostCharacter {
        /// The host as found.
        host: String,
        /// The character.
        found: char,
    },
    /// A `[` that does not enclose an IPv6 address.
    #[error("{host:?} in the connect string is not an IPv6 address in brackets")]
    HostAddress {
        /// The host as found.
        host: String,
    },
    /// The port is not a number from 1 to 65535.
    #[error("the port {found:?} of the connect string is not a number from 1 to 65535")]
    Port {
        /// What stands where the port belongs.
        found: String,
    },
    /// Something stands between the port and `#`.
    #[error("the connect string has the path {found:?}; only \"/\" may stand before \"#\"")]
    Path {
        /// What stands there.
        found: String,
    },
    /// No `#`: most often a shell took it for a comment.
    #[error(
        "the connect string has no \"#TOKEN.FINGERPRINT\" at its end: put it in single quotes, a shell may have cut it at the #"
    )]
    SecretMissing,
    /// No `.` between token and fingerprint: most often the end is missing.
    #[error("the connect string has no \".FINGERPRINT\" after its token: its end is missing")]
    FingerprintMissing,
    /// The token is not 32 bytes in base64url or hex.
    #[error("the token of the connect string {fault}")]
    Token {
        /// What is wrong with it.
        fault: SecretFault,
    },
    /// The fingerprint is not 32 bytes in base64url or hex.
    #[error("the fingerprint of the connect string {fault}")]
    Fingerprint {
        /// What is wrong with it.
        fault: SecretFault,
    },
}

/// What is wrong with 32 bytes written as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SecretFault {
    /// The number of characters fits neither base64url nor hex.
    #[error("has {found} characters, expected 43 (base64url) or 64 (hex): it was cut or mixed up")]
    Length {
        /// How many there are.
        found: usize,
    },
    /// A character of neither alphabet.
    #[error("has the character {found:?} at position {position}")]
    Character {
        /// Counted from 0, in characters.
        position: usize,
        /// The character.
        found: char,
    },
    /// The last base64url character carries bits beyond the last byte.
    #[error("has a last character that no 32 bytes end in: it was mistyped")]
    TrailingBits,
}

impl Token {
    /// A token of these bytes. They must come from a random source that is fit for secrets.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; TOKEN_LEN]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; TOKEN_LEN] {
        &self.0
    }

    /// Whether the two are equal, in a time that does not tell where they differ.
    #[must_use]
    pub fn matches(&self, other: &Self) -> bool {
        let differing = self.0.iter().zip(other.0.iter());
        std::hint::black_box(differing.fold(0_u8, |bits, (a, b)| bits | (a ^ b))) == 0
    }

    /// A name for it in lists and logs, from which it cannot be used: its first four bytes in hex.
    #[must_use]
    pub fn short_name(&self) -> String {
        hex(&self.0[..4])
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({}..)", self.short_name())
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base64url(&self.0))
    }
}

impl FromStr for Token {
    type Err = SecretFault;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_secret(text).map(Self)
    }
}

impl Fingerprint {
    /// A fingerprint of these bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; FINGERPRINT_LEN]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; FINGERPRINT_LEN] {
        &self.0
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base64url(&self.0))
    }
}

impl FromStr for Fingerprint {
    type Err = SecretFault;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_secret(text).map(Self)
    }
}

impl ConnectString {
    /// `HOST:PORT` as a resolver or an HTTP `Host` header takes it, IPv6 in brackets.
    #[must_use]
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for ConnectString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "p2v://{}/#{}.{}",
            self.authority(),
            self.token,
            self.fingerprint
        )
    }
}

impl FromStr for ConnectString {
    type Err = ConnectError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        let Some(rest) = text.strip_prefix("p2v://") else {
            let found = text.chars().take(8).collect();
            return Err(ConnectError::Scheme { found });
        };
        let Some((place, secret)) = rest.split_once('#') else {
            return Err(ConnectError::SecretMissing);
        };
        let (authority, path) = match place.find('/') {
            Some(at) => place.split_at(at),
            None => (place, ""),
        };
        if !matches!(path, "" | "/") {
            return Err(ConnectError::Path {
                found: path.to_owned(),
            });
        }
        let (host, port) = parse_authority(authority)?;
        let Some((token, fingerprint)) = secret.split_once('.') else {
            return Err(ConnectError::FingerprintMissing);
        };
        Ok(Self {
            host,
            port,
            token: token
                .parse()
                .map_err(|fault| ConnectError::Token { fault })?,
            fingerprint: fingerprint
                .parse()
                .map_err(|fault| ConnectError::Fingerprint { fault })?,
        })
    }
}

fn parse_authority(authority: &str) -> Result<(String, u16), ConnectError> {
    if let Some(rest) = authority.strip_prefix('[') {
        let not_an_address = || ConnectError::HostAddress {
            host: authority.to_owned(),
        };
        let (address, port) = rest.split_once(']').ok_or_else(not_an_address)?;
        // A zone (fe80::1%eth0) is a name on the agent's machine: kept as it is.
        let bare = address.split('%').next().unwrap_or_default();
        bare.parse::<Ipv6Addr>().map_err(|_| not_an_address())?;
        check_host(address)?;
        let port = match port.strip_prefix(':') {
            Some(port) => parse_port(port)?,
            None if port.is_empty() => DEFAULT_PORT,
            None => return Err(not_an_address()),
        };
        return Ok((address.to_owned(), port));
    }
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, parse_port(port)?),
        None => (authority, DEFAULT_PORT),
    };
    if host.is_empty() {
        return Err(ConnectError::HostMissing);
    }
    check_host(host)?;
    Ok((host.to_owned(), port))
}

fn parse_port(text: &str) -> Result<u16, ConnectError> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(port) if digits && port != 0 => Ok(port),
        _ => Err(ConnectError::Port {
            found: text.to_owned(),
        }),
    }
}

/// A host goes into a `Host` header: whatever could end that line or its field is refused here.
fn check_host(host: &str) -> Result<(), ConnectError> {
    let allowed = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '%');
    match host.chars().find(|c| !allowed(c)) {
        None => Ok(()),
        Some(found) => Err(ConnectError::HostCharacter {
            host: host.to_owned(),
            found,
        }),
    }
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// [RFC 4648] section 5, without padding.
fn base64url(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let mut bits = 0_u32;
        for index in 0..3 {
            bits = bits << 8 | u32::from(group.get(index).copied().unwrap_or(0));
        }
        for index in 0..=group.len() {
            let six = bits >> (18 - 6 * index) & 0x3f;
            text.push(char::from(ALPHABET[six as usize]));
        }
    }
    text
}

fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn parse_secret(text: &str) -> Result<[u8; 32], SecretFault> {
    let mut bytes = [0_u8; 32];
    let length = text.chars().count();
    let (bits_each, digit): (u32, fn(char) -> Option<u32>) = match length {
        43 => (6, base64url_digit),
        64 => (4, |c| c.to_digit(16)),
        found => return Err(SecretFault::Length { found }),
    };
    let (mut held, mut held_bits, mut filled) = (0_u32, 0_u32, 0_usize);
    for (position, found) in text.chars().enumerate() {
        let value = digit(found).ok_or(SecretFault::Character { position, found })?;
        held = held << bits_each | value;
        held_bits += bits_each;
        if held_bits >= 8 {
            held_bits -= 8;
            if let Some(slot) = bytes.get_mut(filled) {
                *slot = (held >> held_bits) as u8;
            }
            held &= (1 << held_bits) - 1;
            filled += 1;
        }
    }
    // 43 base64url characters are 258 bits: the last two must be zero, or two texts mean one secret.
    if held != 0 {
        return Err(SecretFault::TrailingBits);
    }
    Ok(bytes)
}

fn base64url_digit(c: char) -> Option<u32> {
    let byte = u8::try_from(c).ok()?;
    let at = ALPHABET.iter().position(|letter| *letter == byte)?;
    u32::try_from(at).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TOKEN: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";
    const PRINT: &str = "Dw4NDAsKCQgHBgUEAwIBAP_-_fz7-vn49_b19PPy8fA";

    fn good(host: &str) -> String {
        format!("p2v://{host}/#{TOKEN}.{PRINT}")
    }

    #[test]
    fn a_string_as_serve_prints_it() {
        let parsed: ConnectString = good("web01.example:8443").parse().unwrap();
        assert_eq!(parsed.host, "web01.example");
        assert_eq!(parsed.port, 8443);
        assert_eq!(parsed.token.as_bytes()[31], 31);
        assert_eq!(parsed.fingerprint.as_bytes()[0], 15);
        assert_eq!(parsed.to_string(), good("web01.example:8443"));
    }

    #[test]
    fn base64url_as_a_foreign_program_writes_it() {
        // python3 -c 'import base64; print(base64.urlsafe_b64encode(bytes(range(32))))'
        let token = Token::from_bytes(std::array::from_fn(|i| i as u8));
        assert_eq!(token.to_string(), TOKEN);
        assert_eq!(token.short_name(), "00010203");
        assert!(!format!("{token:?}").contains(TOKEN));
    }

    #[test]
    fn hex_secrets_are_taken_too() {
        let hex_token = hex(&std::array::from_fn::<u8, 32, _>(|i| i as u8));
        let text = format!("p2v://h:1/#{hex_token}.{PRINT}");
        let parsed: ConnectString = text.parse().unwrap();
        assert_eq!(parsed.token.to_string(), TOKEN);
    }

    #[test]
    fn ipv6_hosts_with_and_without_port_and_zone() {
        let parsed: ConnectString = good("[2001:db8::1]:9000").parse().unwrap();
        assert_eq!((parsed.host.as_str(), parsed.port), ("2001:db8::1", 9000));
        assert_eq!(parsed.authority(), "[2001:db8::1]:9000");
        let parsed: ConnectString = good("[fe80::1%eth0]").parse().unwrap();
        assert_eq!(
            (parsed.host.as_str(), parsed.port),
            ("fe80::1%eth0", DEFAULT_PORT)
        );
    }

    #[test]
    fn each_wrong_part_is_named() {
        use ConnectError as E;
        let parse = |text: &str| text.parse::<ConnectString>().unwrap_err();
        assert!(matches!(parse("https://h/#x.y"), E::Scheme { .. }));
        assert_eq!(parse("p2v://h:8443/"), E::SecretMissing);
        assert_eq!(parse(&good(":8443")), E::HostMissing);
        assert!(matches!(parse(&good("h:0")), E::Port { .. }));
        assert!(matches!(parse(&good("h:+1")), E::Port { .. }));
        assert!(matches!(parse(&good("h:70000")), E::Port { .. }));
        assert!(matches!(parse(&good("2001:db8::1")), E::Port { .. }));
        assert!(matches!(parse(&good("[::zz]:1")), E::HostAddress { .. }));
        assert!(matches!(parse(&good("[::1]x")), E::HostAddress { .. }));
        assert!(matches!(
            parse(&good("a b")),
            E::HostCharacter { found: ' ', .. }
        ));
        assert!(matches!(
            parse(&good("a\r\nX: y")),
            E::Port { .. } | E::HostCharacter { .. }
        ));
        assert!(matches!(parse(&good("h:1/x")), E::Path { .. }));
        assert_eq!(parse(&format!("p2v://h/#{TOKEN}")), E::FingerprintMissing);
        let fault = SecretFault::Length { found: 42 };
        let short = format!("p2v://h/#{}.{PRINT}", &TOKEN[1..]);
        assert_eq!(parse(&short), E::Token { fault });
        let fault = SecretFault::Character {
            position: 0,
            found: '!',
        };
        let odd = format!("p2v://h/#{TOKEN}.!{}", &PRINT[1..]);
        assert_eq!(parse(&odd), E::Fingerprint { fault });
        let loose = format!("p2v://h/#{}9.{PRINT}", &TOKEN[..42]);
        let fault = SecretFault::TrailingBits;
        assert_eq!(parse(&loose), E::Token { fault });
    }

    proptest! {
        #[test]
        fn printing_and_parsing_agree(token: [u8; 32], print: [u8; 32], port in 1_u16..,
            host in "[a-z0-9][a-z0-9.-]{0,60}")
        {
            let string = ConnectString {
                host, port,
                token: Token::from_bytes(token),
                fingerprint: Fingerprint::from_bytes(print),
            };
            prop_assert_eq!(string.to_string().parse::<ConnectString>().unwrap(), string);
        }

        #[test]
        fn any_text_is_refused_or_printed_alike(text in "(p2v://)?.{0,120}") {
            if let Ok(parsed) = text.parse::<ConnectString>() {
                prop_assert_eq!(parsed.to_string().parse::<ConnectString>().unwrap(), parsed);
            }
        }

        #[test]
        fn tokens_match_only_themselves(a: [u8; 32], at in 0_usize..32, bit in 0_u8..8) {
            let mut b = a;
            prop_assert!(Token::from_bytes(a).matches(&Token::from_bytes(b)));
            b[at] ^= 1 << bit;
            prop_assert!(!Token::from_bytes(a).matches(&Token::from_bytes(b)));
        }
    }
}
