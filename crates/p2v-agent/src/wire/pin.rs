//! The only question asked of a certificate: is it the one whose SHA-256 stands in the connect
//! string, and does the other side hold its key?
//!
//! Names, dates and issuers say nothing here: the converter made its certificate itself, and may be
//! reached under any address.

use std::sync::{Arc, OnceLock};

use rustls::DigitallySignedStruct;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, ring as provider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use stream_protocol::Fingerprint;

/// Accepts one certificate. Remembers what it was shown instead.
#[derive(Debug)]
pub(super) struct Pin {
    expected: Fingerprint,
    algorithms: WebPkiSupportedAlgorithms,
    shown: OnceLock<Fingerprint>,
}

impl Pin {
    pub fn new(expected: Fingerprint) -> Self {
        Self {
            expected,
            algorithms: provider::default_provider().signature_verification_algorithms,
            shown: OnceLock::new(),
        }
    }

    /// The fingerprint of the first certificate that was refused.
    pub fn refused(&self) -> Option<Fingerprint> {
        self.shown.get().copied()
    }
}

/// A client that speaks TLS 1.3 alone, to the holder of that certificate alone.
pub(super) fn client_config(pin: &Arc<Pin>) -> Result<rustls::ClientConfig, rustls::Error> {
    let provider = Arc::new(provider::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?;
    let verifier = Arc::clone(pin) as Arc<dyn ServerCertVerifier>;
    Ok(builder
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth())
}

fn fingerprint_of(certificate: &[u8]) -> Fingerprint {
    let digest = ring::digest::digest(&ring::digest::SHA256, certificate);
    let mut bytes = [0; 32];
    // SHA-256 has 32 bytes; of any other length no byte is copied, and nothing matches.
    if digest.as_ref().len() == bytes.len() {
        bytes.copy_from_slice(digest.as_ref());
    }
    Fingerprint::from_bytes(bytes)
}

impl ServerCertVerifier for Pin {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let shown = fingerprint_of(end_entity);
        if shown == self.expected {
            return Ok(ServerCertVerified::assertion());
        }
        let _ = self.shown.set(shown);
        Err(rustls::CertificateError::ApplicationVerificationFailure.into())
    }

    /// Never asked: TLS 1.2 is not offered.
    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::PeerIncompatible::Tls12NotOffered.into())
    }

    /// [RFC 8446] 4.4.3: whoever shows the certificate proves with this that it holds the key.
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The digest is that of `printf abc | sha256sum`.
    #[test]
    fn another_certificate_is_refused_and_remembered() {
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let expected: Fingerprint = abc.parse().unwrap();
        let pin = Pin::new(expected);
        let show = |bytes: &'static [u8]| {
            let name = ServerName::try_from("any.example").unwrap();
            let now = UnixTime::since_unix_epoch(std::time::Duration::ZERO);
            pin.verify_server_cert(&CertificateDer::from(bytes), &[], &name, &[], now)
        };
        assert!(show(b"abc").is_ok());
        assert_eq!(pin.refused(), None);
        assert!(show(b"abd").is_err());
        assert_eq!(pin.refused(), Some(fingerprint_of(b"abd")));
    }
}
