//! TLS 1.3 between members as libp2p specifies it, with the cipher first that costs this machine's processor least.
//!
//! Certificates are made and judged by libp2p's own code. Its configurations ask for ChaCha20 first and cannot be changed,
//! so rustls gets one here (decision 0055).

use super::identity::crypto_provider;
use futures::{AsyncRead, AsyncWrite};
use futures_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use libp2p::identity::Keypair;
use libp2p::{PeerId, tls};
use protocol::time::WallTime;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    CertificateError, CipherSuite, ClientConfig, DigitallySignedStruct, DistinguishedName, OtherError,
    ServerConfig, SignatureScheme,
};
use std::net::Ipv4Addr;
use std::sync::Arc;

/// The certificates of libp2p are valid from the year 1975 on: a device whose clock was never set cannot judge one.
pub(super) const VALID_FROM: WallTime = WallTime::from_unix_seconds(157_766_400);

/// The name under which TLS carries libp2p.
const APPLICATION: &[u8] = b"libp2p";

/// How a member encrypts its connections; cheap to clone.
#[derive(Clone)]
pub(super) struct Tls {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

/// Why TLS cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unusable {
    /// No certificate could be made.
    #[error("no certificate can be made for this device's key")]
    Certificate(#[from] tls::certificate::GenError),
    /// The cryptographic library refuses what it is asked for.
    #[error("the cryptographic library refuses the configuration")]
    Configuration(#[from] rustls::Error),
}

impl Tls {
    /// For connections of the device with this key.
    pub(super) fn new(key: &Keypair) -> Result<Tls, Unusable> {
        let mut provider = crypto_provider();
        // A stable order: what is not named keeps its place behind.
        provider.cipher_suites.sort_by_key(|suite| preference(suite.suite()));
        let provider = Arc::new(provider);
        let (certificate, private) = tls::certificate::generate(key)?;
        let own = CertifiedKey::new(vec![certificate], provider.key_provider.load_private_key(private)?);
        let own = Arc::new(SingleCertAndKey::from(own));
        let judge = Arc::new(Judge);
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(Arc::clone(&judge) as Arc<dyn ClientCertVerifier>)
            .with_cert_resolver(Arc::clone(&own) as _);
        server.alpn_protocols = vec![APPLICATION.to_vec()];
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(judge)
            .with_client_cert_resolver(own);
        client.alpn_protocols = vec![APPLICATION.to_vec()];
        Ok(Tls { server: Arc::new(server), client: Arc::new(client) })
    }

    /// Encrypts a connection that we opened; with whose key the other end proved itself.
    pub(super) async fn dial<S>(&self, stream: S) -> std::io::Result<(PeerId, TlsStream<S>)>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        // libp2p's specification: no server name is sent, and an address is how rustls is told so.
        let nobody = ServerName::IpAddress(Ipv4Addr::UNSPECIFIED.into());
        let stream = TlsConnector::from(Arc::clone(&self.client)).connect(nobody, stream).await?;
        named(TlsStream::Client(stream))
    }

    /// Encrypts a connection that was opened to us; with whose key the other end proved itself.
    pub(super) async fn accept<S>(&self, stream: S) -> std::io::Result<(PeerId, TlsStream<S>)>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        named(TlsStream::Server(TlsAcceptor::from(Arc::clone(&self.server)).accept(stream).await?))
    }
}

fn named<S>(stream: TlsStream<S>) -> std::io::Result<(PeerId, TlsStream<S>)> {
    let peer = match stream.get_ref().1.peer_certificates() {
        Some([one]) => presented(one, &[]).map_err(std::io::Error::other)?,
        _ => return Err(std::io::Error::other("no certificate, or more than one")),
    };
    Ok((peer, stream))
}

/// AES where the processor has instructions for it: it then costs a fraction of ChaCha20, which is faster everywhere else.
fn preference(suite: CipherSuite) -> u8 {
    match suite {
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 if !has_aes() => 0,
        CipherSuite::TLS13_AES_128_GCM_SHA256 => 1,
        CipherSuite::TLS13_AES_256_GCM_SHA384 => 2,
        _ => 3,
    }
}

fn has_aes() -> bool {
    #[cfg(target_arch = "x86_64")]
    let here = std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    let here =
        std::arch::is_aarch64_feature_detected!("aes") && std::arch::is_aarch64_feature_detected!("pmull");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let here = false;
    here
}

/// Judges the certificate of the other end, whichever end that is: exactly one, signed by itself, that carries a signature
/// of its key by the device's. Who may connect is for the membership check, which comes next.
#[derive(Debug)]
struct Judge;

/// Best first; what libp2p's certificates may be signed with, without RSA, which no device of a fleet has.
const SCHEMES: [SignatureScheme; 3] = [
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::ED25519,
];

fn refused(error: impl std::error::Error + Send + Sync + 'static) -> rustls::Error {
    rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
}

fn presented(one: &CertificateDer<'_>, more: &[CertificateDer<'_>]) -> Result<PeerId, rustls::Error> {
    if !more.is_empty() {
        return Err(rustls::Error::General("more than one certificate".to_owned()));
    }
    Ok(tls::certificate::parse(one).map_err(refused)?.peer_id())
}

fn signed(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, rustls::Error> {
    let certificate = tls::certificate::parse(certificate).map_err(refused)?;
    certificate.verify_signature(signature.scheme, message, signature.signature()).map_err(refused)?;
    Ok(HandshakeSignatureValid::assertion())
}

/// TLS 1.2 is never offered; whoever speaks it all the same is refused.
fn too_old() -> Result<HandshakeSignatureValid, rustls::Error> {
    Err(rustls::Error::General("TLS 1.3 is the only version".to_owned()))
}

impl ServerCertVerifier for Judge {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        presented(end_entity, intermediates).map(|_| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        too_old()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        signed(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SCHEMES.to_vec()
    }
}

impl ClientCertVerifier for Judge {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        presented(end_entity, intermediates).map(|_| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        too_old()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        signed(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SCHEMES.to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::identity::keypair;
    use libp2p::core::upgrade::{InboundConnectionUpgrade as _, OutboundConnectionUpgrade as _};
    use protocol::signature::SigningKey;
    use tokio_util::compat::TokioAsyncReadCompatExt as _;

    fn key(number: u8) -> Keypair {
        keypair(&SigningKey::from_seed(&[number; 32]))
    }

    fn peer(number: u8) -> PeerId {
        key(number).public().to_peer_id()
    }

    #[tokio::test]
    async fn both_ends_learn_who_the_other_is_and_take_the_cheapest_cipher() {
        let (near, far) = tokio::io::duplex(1 << 16);
        let (one, two) = (Tls::new(&key(1)).unwrap(), Tls::new(&key(2)).unwrap());
        let (dialled, accepted) = tokio::join!(one.dial(near.compat()), two.accept(far.compat()));
        let ((there, stream), (here, _)) = (dialled.unwrap(), accepted.unwrap());
        assert_eq!((there, here), (peer(2), peer(1)));
        let taken = stream.get_ref().1.negotiated_cipher_suite().map(|suite| suite.suite());
        let cheapest = match has_aes() {
            true => CipherSuite::TLS13_AES_128_GCM_SHA256,
            false => CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
        };
        assert_eq!(taken, Some(cheapest));
    }

    // The version before has libp2p's own configuration.
    #[tokio::test]
    async fn nodes_of_the_version_before_are_understood_at_either_end() {
        let (ours, theirs) = (Tls::new(&key(1)).unwrap(), tls::Config::new(&key(2)).unwrap());
        let (near, far) = tokio::io::duplex(1 << 16);
        let accepting = theirs.clone().upgrade_inbound(far.compat(), "tls");
        let (dialled, accepted) = tokio::join!(ours.dial(near.compat()), accepting);
        assert_eq!((dialled.unwrap().0, accepted.unwrap().0), (peer(2), peer(1)));
        let (near, far) = tokio::io::duplex(1 << 16);
        let dialling = theirs.upgrade_outbound(near.compat(), "tls");
        let (dialled, accepted) = tokio::join!(dialling, ours.accept(far.compat()));
        assert_eq!((dialled.unwrap().0, accepted.unwrap().0), (peer(1), peer(2)));
    }
}
