//! HTTPS: the handshake before the first request.
//!
//! ```text
//! config (names, digests) ──► vault (files, keys) ──► Certificates ──swap──► Resolver ◄── handshakes
//! ```
//!
//! Which certificate a visitor sees follows from the name in the handshake: a certificate for exactly
//! that host, else one for every host of its domain (`*.example.com`), else the stand-in, which says
//! of itself that it is none. The set is replaced whole; a connection keeps what it began with, so a
//! renewal ends nobody's download.
//!
//! Session tickets spare returning visitors half of the handshake. Their key is made by each process
//! for itself and never leaves it: after an upgrade, or at another server, the handshake is a full one.
//!
//! Absent on purpose: client certificates, OCSP stapling (authorities have given it up), and
//! `Strict-Transport-Security`, which is a promise that only the owner of a service can make.

mod certificates;
mod stand_in;
mod vault;

pub use certificates::Certificates;
pub use vault::{Vault, VaultError};

use crate::http1::ClientStream;
use crate::listeners::ListenerIdentity;
use crate::serve::{self, Ends, Protocol};
use crate::shared::Shared;
use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::sync::{Arc, OnceLock};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";
/// A certificate authority at the door (RFC 8737).
pub const ACME: &[u8] = b"acme-tls/1";

/// What handshakes are made with.
#[derive(Debug, Default)]
pub struct Tls {
    certificates: Arc<ArcSwap<Certificates>>,
    /// Made when HTTPS is first wanted: the generator of the cryptographic library takes a tenth of a second
    /// to begin, which a gateway without HTTPS need not spend.
    config: OnceLock<Arc<ServerConfig>>,
}

/// Why HTTPS cannot be spoken at all; none of these has been seen.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("no stand-in certificate could be made: {0}")]
    StandIn(String),
    #[error("TLS cannot be set up: {0}")]
    Setup(#[from] rustls::Error),
}

impl Tls {
    /// Makes ready for the first handshake. Blocks for a moment the first time.
    pub fn prepare(&self) -> Result<(), TlsError> {
        if self.config.get().is_none() {
            let resolver = Resolver { certificates: self.certificates.clone(), stand_in: stand_in::make()? };
            // Somebody else may have been faster; theirs is as good.
            let _ = self.config.set(Arc::new(server_config(resolver)?));
        }
        Ok(())
    }

    /// From now on, handshakes see these.
    pub fn replace(&self, certificates: Certificates) {
        self.certificates.store(Arc::new(certificates));
    }

    pub fn certificates(&self) -> Arc<Certificates> {
        self.certificates.load_full()
    }
}

fn server_config(resolver: Resolver) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?;
    let mut config = builder.with_no_client_auth().with_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = [HTTP2, HTTP1, ACME].map(<[u8]>::to_vec).to_vec();
    config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
    // Each takes a signature's worth of work and half a kilobyte; browsers use one or two.
    config.send_tls13_tickets = 2;
    Ok(config)
}

#[derive(Debug)]
struct Resolver {
    certificates: Arc<ArcSwap<Certificates>>,
    stand_in: Arc<CertifiedKey>,
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let certificates = self.certificates.load();
        let host = hello.server_name();
        // Who asks for this protocol is an authority, and would take any other certificate for a wrong answer.
        if hello.alpn().is_some_and(|mut offered| offered.any(|protocol| protocol == ACME)) {
            return certificates.challenge(host?);
        }
        Some(host.and_then(|host| certificates.find(host)).unwrap_or_else(|| self.stand_in.clone()))
    }
}

impl ClientStream for TlsStream<TcpStream> {
    const SAYS_GOODBYE: bool = true;
}

/// Serves a connection that begins with a handshake.
pub async fn serve(stream: TcpStream, ends: Ends, listener: Arc<ListenerIdentity>, shared: Arc<Shared>) {
    let address = ends.address;
    let Some(config) = shared.tls.config.get() else { return };
    let acceptor = TlsAcceptor::from(config.clone());
    let handshake = tokio::time::timeout(shared.limits.header_time, acceptor.accept(stream)).await;
    let stream = match handshake {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::trace!(peer = %address, %error, "a handshake failed"),
        Err(_) => return tracing::trace!(peer = %address, "a handshake took too long"),
    };
    let protocol = match stream.get_ref().1.alpn_protocol() {
        Some(HTTP2) => Protocol::Http2,
        // The handshake was the whole of the matter.
        Some(ACME) => return,
        _ => Protocol::Http,
    };
    serve::serve_stream(stream, protocol, ends, listener, shared).await;
}
