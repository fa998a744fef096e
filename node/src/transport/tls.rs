//! TLS for the data plane: self-signed certificates whose key is the node's identity.
//!
//! TLS proves that the other side holds a key. Whether that key is a member's is decided afterwards, from the
//! membership certificate in its hello.

use std::sync::Arc;

use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::EncodePrivateKey as _;
use pageswarm_checkpoint::{NodeId, wire};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible, SignatureScheme,
};

/// DER of an Ed25519 public key up to the key itself (RFC 8410).
const ED25519_SPKI_PREFIX: [u8; 12] =
    [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// The name every node's certificate carries; it identifies nothing.
pub const SERVER_NAME: &str = "pageswarm";

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The identity cannot be put into a certificate.
    #[error("cannot make a certificate of the node's key")]
    Certificate(#[from] rcgen::Error),
    /// The identity cannot be encoded.
    #[error("cannot encode the node's key")]
    Key(#[from] ed25519_dalek::pkcs8::Error),
    /// rustls refused the configuration.
    #[error("tls configuration")]
    Rustls(#[from] Error),
    /// No cipher suite fits QUIC.
    #[error("no cipher suite for quic")]
    Quic(#[from] quinn::crypto::rustls::NoInitialCipherSuite),
}

/// The configurations for accepting and for opening connections.
///
/// # Errors
///
/// [`TlsError`].
pub fn configs(key: &SigningKey) -> Result<(quinn::ServerConfig, quinn::ClientConfig), TlsError> {
    let pkcs8 = key.to_pkcs8_der()?;
    let der = PrivatePkcs8KeyDer::from(pkcs8.as_bytes());
    let pair = rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&der, &rcgen::PKCS_ED25519)?;
    let certificate = rcgen::CertificateParams::new([SERVER_NAME.to_owned()])?.self_signed(&pair)?;
    let chain = vec![certificate.der().clone()];
    let provider = Arc::new(aes_first());
    let verifier = Arc::new(AnyMemberKey { provider: Arc::clone(&provider) });
    let mut server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::clone(&verifier) as Arc<dyn ClientCertVerifier>)
        .with_single_cert(chain.clone(), der.clone_key().into())?;
    server.alpn_protocols = vec![wire::ALPN.to_vec()];
    let mut client = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_auth_cert(chain, der.clone_key().into())?;
    client.alpn_protocols = vec![wire::ALPN.to_vec()];
    let server = quinn::crypto::rustls::QuicServerConfig::try_from(server)?;
    let client = quinn::crypto::rustls::QuicClientConfig::try_from(client)?;
    Ok((quinn::ServerConfig::with_crypto(Arc::new(server)), quinn::ClientConfig::new(Arc::new(client))))
}

/// The identity that the other side of `connection` proved.
#[must_use]
pub fn peer_id(connection: &quinn::Connection) -> Option<NodeId> {
    let chain = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    key_of(chain.first()?)
}

/// AES-128-GCM costs two thirds of ChaCha20 on every CPU with AES instructions.
fn aes_first() -> CryptoProvider {
    let mut provider = ring::default_provider();
    provider.cipher_suites = vec![
        ring::cipher_suite::TLS13_AES_128_GCM_SHA256,
        ring::cipher_suite::TLS13_AES_256_GCM_SHA384,
        ring::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    ];
    provider
}

fn key_of(certificate: &CertificateDer<'_>) -> Option<NodeId> {
    let parsed = webpki::EndEntityCert::try_from(certificate).ok()?;
    let spki = parsed.subject_public_key_info();
    let key = spki.as_ref().strip_prefix(ED25519_SPKI_PREFIX.as_slice())?;
    key.try_into().ok().map(NodeId)
}

/// Accepts every certificate with an Ed25519 key; the handshake's signature proves possession of the key.
#[derive(Debug)]
struct AnyMemberKey {
    provider: Arc<CryptoProvider>,
}

impl AnyMemberKey {
    fn check(certificate: &CertificateDer<'_>) -> Result<(), Error> {
        let error = Error::InvalidCertificate(CertificateError::BadEncoding);
        key_of(certificate).map(|_| ()).ok_or(error)
    }

    fn signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }
}

impl ServerCertVerifier for AnyMemberKey {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Self::check(certificate).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::PeerIncompatible(PeerIncompatible::Tls13RequiredForQuic))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

impl ClientCertVerifier for AnyMemberKey {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Self::check(certificate).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::PeerIncompatible(PeerIncompatible::Tls13RequiredForQuic))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}
