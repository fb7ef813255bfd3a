//! HTTPS as a visitor and a certificate authority see it: real handshakes on loopback.

use crate::support::*;
use api::gateway::{GatewayConfig, Listener, ListenerKind};
use api::secret::Secret;
use api::tls::{CertificateDesired, CertificateMaterial, CertificateReference, ChallengeAnswer, ChallengeKind};
use client::gateway::GatewayError;
use gateway::Limits;
use rcgen::{CertificateParams, KeyPair};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, ProtocolVersion, SignatureScheme, SupportedProtocolVersion};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const PLAIN: &str = "127.0.0.1:0";
const STAND_IN: &[u8] = b"Mainstay stand-in: this host has no certificate yet";

/// A self-signed certificate, which is as good as any here: the visitor below takes all and shows what it got.
fn certificate(names: &[&str]) -> CertificateDesired {
    let pair = KeyPair::generate().unwrap();
    let params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
    let chain = params.self_signed(&pair).unwrap().pem();
    CertificateDesired {
        digest: wire::sha256_hex(chain.as_bytes()),
        names: names.iter().map(|name| name.parse().unwrap()).collect(),
        material: CertificateMaterial { chain, private_key: Secret::new(pair.serialize_pem()) },
    }
}

fn der(certificate: &CertificateDesired) -> CertificateDer<'static> {
    use rustls::pki_types::pem::PemObject;
    CertificateDer::from_pem_slice(certificate.material.chain.as_bytes()).unwrap()
}

fn with_tls(config: Config, address: SocketAddr, certificates: &[&CertificateDesired]) -> Config {
    config.with(|config| {
        config.listeners.push(Listener { address, kind: ListenerKind::PublicTls });
        config.tls.port = Some(address.port());
        config.tls.certificates = certificates
            .iter()
            .map(|c| CertificateReference { digest: c.digest.clone(), names: c.names.clone() })
            .collect();
    })
}

async fn bring(gateway: &TestGateway, certificates: &[&CertificateDesired]) {
    for certificate in certificates {
        gateway.client.put_certificate(certificate).await.unwrap();
    }
}

/// A gateway with these certificates, and where it speaks TLS.
async fn secured(config: Config, certificates: &[&CertificateDesired]) -> (TestGateway, SocketAddr) {
    let gateway = TestGateway::start(Config::new()).await;
    let address = free_address();
    bring(&gateway, certificates).await;
    gateway.put(with_tls(config, address, certificates)).await;
    (gateway, address)
}

#[derive(Debug)]
struct TakesAny;

impl ServerCertVerifier for TakesAny {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

struct Visitor {
    protocols: Vec<&'static [u8]>,
    versions: Vec<&'static SupportedProtocolVersion>,
}

impl Default for Visitor {
    fn default() -> Self {
        Self { protocols: vec![b"http/1.1"], versions: rustls::ALL_VERSIONS.to_vec() }
    }
}

impl Visitor {
    async fn handshake(self, address: SocketAddr, host: &str) -> io::Result<TlsStream<TcpStream>> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&self.versions)
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(TakesAny))
            .with_no_client_auth();
        config.alpn_protocols = self.protocols.iter().map(|protocol| protocol.to_vec()).collect();
        let stream = TcpStream::connect(address).await?;
        let connector = TlsConnector::from(Arc::new(config));
        let handshake = connector.connect(ServerName::try_from(host.to_owned()).unwrap(), stream);
        tokio::time::timeout(PATIENCE, handshake).await.unwrap()
    }
}

async fn visit(address: SocketAddr, host: &str) -> TlsStream<TcpStream> {
    Visitor::default().handshake(address, host).await.unwrap()
}

fn shown(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

fn contains(certificate: &CertificateDer<'_>, bytes: &[u8]) -> bool {
    certificate.windows(bytes.len()).any(|window| window == bytes)
}

#[tokio::test]
async fn the_name_in_the_handshake_chooses_the_certificate_exact_before_wildcard_before_the_stand_in() {
    let backend = Backend::start("web").await;
    let wild = certificate(&["*.example.com"]);
    let exact = certificate(&["shop.example.com", "example.net"]);
    let (_gateway, address) = secured(Config::simple(&backend), &[&wild, &exact]).await;
    for (host, expected) in [
        ("shop.example.com", &exact),
        ("SHOP.example.com", &exact),
        ("example.net", &exact),
        ("other.example.com", &wild),
    ] {
        assert_eq!(shown(&visit(address, host).await), der(expected), "{host}");
    }
    for host in ["example.com", "a.b.example.com", "unknown.org", "127.0.0.1"] {
        let stream = visit(address, host).await;
        assert!(contains(&shown(&stream), STAND_IN), "{host}");
        assert_eq!(Http1::over(stream).await.unwrap().get(host, "/").await.unwrap().text, "web");
    }
}

#[tokio::test]
async fn both_protocols_are_offered_and_the_service_learns_that_it_was_https() {
    let backend = Backend::start("web").await;
    let own = certificate(&["shop.example.com"]);
    let (_gateway, address) = secured(Config::simple(&backend), &[&own]).await;
    let headers = |text: String| -> Vec<(String, String)> { serde_json::from_str(&text).unwrap() };
    let find = |lines: &[(String, String)], name: &str| lines.iter().find(|(n, _)| n == name).unwrap().1.clone();

    let visitor = Visitor { protocols: vec![b"h2", b"http/1.1"], ..Visitor::default() };
    let stream = visitor.handshake(address, "shop.example.com").await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let request = hyper::Request::builder().uri("https://shop.example.com/headers").body(text("")).unwrap();
    let answer = whole(http2_over(stream).await.send_request(request).await.unwrap()).await.unwrap();
    assert_eq!(find(&headers(answer.text), "x-forwarded-proto"), "https");

    for versions in [vec![&rustls::version::TLS12], vec![&rustls::version::TLS13]] {
        let version = if versions[0].version == ProtocolVersion::TLSv1_2 {
            ProtocolVersion::TLSv1_2
        } else {
            ProtocolVersion::TLSv1_3
        };
        let stream = Visitor { protocols: vec![], versions }.handshake(address, "shop.example.com").await.unwrap();
        assert_eq!(stream.get_ref().1.protocol_version(), Some(version));
        let answer = Http1::over(stream).await.unwrap().get("shop.example.com", "/headers").await.unwrap();
        let lines = headers(answer.text);
        assert_eq!(find(&lines, "x-forwarded-proto"), "https");
        assert_eq!(find(&lines, "x-forwarded-port"), address.port().to_string());
        assert!(find(&lines, "forwarded").contains("proto=https"), "{lines:?}");
    }
}

#[tokio::test]
async fn a_new_certificate_is_seen_by_the_next_handshake_and_ends_no_connection() {
    let backend = Backend::start("web").await;
    let (old, new) = (certificate(&["shop.example.com"]), certificate(&["shop.example.com"]));
    let (gateway, address) = secured(Config::simple(&backend), &[&old]).await;
    let stream = visit(address, "shop.example.com").await;
    assert_eq!(shown(&stream), der(&old));
    let mut open = Http1::over(stream).await.unwrap();
    open.get("shop.example.com", "/").await.unwrap();
    bring(&gateway, &[&new]).await;
    gateway.put(with_tls(Config::simple(&backend), address, &[&new])).await;
    assert_eq!(shown(&visit(address, "shop.example.com").await), der(&new));
    assert_eq!(open.get("shop.example.com", "/").await.unwrap().text, "web");
    let held = gateway.client.certificates().await.unwrap();
    assert_eq!(held, std::slice::from_ref(&new.digest), "the old key is forgotten");
    assert!(!gateway.directory.path().join(format!("certificates/{}.pem", old.digest)).exists());
}

#[tokio::test]
async fn plain_http_leads_to_https_only_where_a_route_says_so_and_never_away_from_a_challenge() {
    let backend = Backend::start("web").await;
    let own = certificate(&["shop.example.com"]);
    let config = Config::new()
        .service(1, "web", &[(1, backend.address, false)])
        .route(Some("shop.example.com"), "/", false, 1)
        .route(Some("shop.example.com"), "/plain", false, 1)
        .with(|config| {
            config.routes[0].https_only = true;
            config.tls.challenges = vec![answer("shop.example.com", ChallengeKind::Http01)];
        });
    let (gateway, secure) = secured(config, &[&own]).await;
    let listening = gateway.status().await.listening;
    let plain = *listening.iter().find(|address| **address != secure).unwrap();
    let host = format!("Shop.Example.com:{}", plain.port());

    let answer = exchange(plain, request("POST", &host, "/buy?x=1", "body")).await;
    assert_eq!(answer.status, 308);
    assert_eq!(answer.headers["location"], format!("https://shop.example.com:{}/buy?x=1", secure.port()));
    assert_eq!(get(plain, "shop.example.com", "/").await.headers["location"], "https://shop.example.com/");
    assert_eq!(get(plain, &host, "/plain/x").await.status, 200);

    let challenge = get(plain, &host, "/.well-known/acme-challenge/token-1").await;
    assert_eq!((challenge.status, challenge.text.as_str()), (200, "token-1.thumbprint"));
    assert_eq!(get(plain, "other.example.com", "/.well-known/acme-challenge/token-1").await.status, 404);
    let of_the_service = get(plain, &host, "/.well-known/acme-challenge/another").await;
    assert_eq!((of_the_service.status, of_the_service.text.as_str()), (200, "web"));

    // A proxy on this machine has ended TLS already.
    let mut behind = request("GET", &host, "/", "");
    behind.headers_mut().insert("x-forwarded-proto", "https".parse().unwrap());
    assert_eq!(exchange(plain, behind).await.status, 200);
    let mut secured = Http1::over(visit(secure, "shop.example.com").await).await.unwrap();
    assert_eq!(secured.get("shop.example.com", "/").await.unwrap().status, 200);
    assert_eq!(gateway.status().await.challenges, ["token-1"]);
}

fn answer(host: &str, kind: ChallengeKind) -> ChallengeAnswer {
    ChallengeAnswer {
        host: host.parse().unwrap(),
        kind,
        token: "token-1".into(),
        key_authorization: "token-1.thumbprint".into(),
    }
}

#[tokio::test]
async fn an_authority_gets_the_certificate_with_its_answer_and_nobody_else_does() {
    let backend = Backend::start("web").await;
    let own = certificate(&["shop.example.com"]);
    let config = Config::simple(&backend)
        .with(|config| config.tls.challenges = vec![answer("shop.example.com", ChallengeKind::TlsAlpn01)]);
    let (_gateway, address) = secured(config, &[&own]).await;
    let authority = || Visitor { protocols: vec![b"acme-tls/1"], ..Visitor::default() };
    let stream = authority().handshake(address, "shop.example.com").await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"acme-tls/1"[..]));
    let hash = wire::sha256(b"token-1.thumbprint");
    assert!(contains(&shown(&stream), &hash));
    assert!(authority().handshake(address, "other.example.com").await.is_err());
    assert_eq!(shown(&visit(address, "shop.example.com").await), der(&own));
}

#[tokio::test]
async fn keys_lie_in_files_of_their_own_closed_to_others_and_are_there_after_a_restart() {
    let backend = Backend::start("web").await;
    let own = certificate(&["shop.example.com"]);
    let (gateway, address) = secured(Config::simple(&backend), &[&own]).await;
    let directory = gateway.directory.clone();
    let path = directory.path().join(format!("certificates/{}.pem", own.digest));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
    let config = std::fs::read_to_string(directory.path().join("config.json")).unwrap();
    assert!(!config.contains("PRIVATE KEY"));
    gateway.finish().await.unwrap();
    let gateway = TestGateway::run(directory, Limits::default(), false).await;
    assert_eq!(shown(&visit(address, "shop.example.com").await), der(&own));
    assert_eq!(gateway.status().await.certificates, 1);

    // A file that was altered is not used: visitors see the stand-in, and the status says so.
    let directory = gateway.directory.clone();
    gateway.finish().await.unwrap();
    std::fs::write(&path, certificate(&["shop.example.com"]).material.chain).unwrap();
    let gateway = TestGateway::run(directory, Limits::default(), false).await;
    assert!(contains(&shown(&visit(address, "shop.example.com").await), STAND_IN));
    let status = gateway.status().await;
    assert_eq!(status.certificates, 0);
    assert_eq!(status.problem.as_deref(), Some("the certificate for shop.example.com is not here"));
    bring(&gateway, &[&own]).await;
    gateway.put(with_tls(Config::simple(&backend), address, &[&own])).await;
    assert_eq!(shown(&visit(address, "shop.example.com").await), der(&own));
    assert_eq!(gateway.status().await.problem, None);
}

#[tokio::test]
async fn a_newer_gateway_takes_the_port_over_and_serves_the_same_certificate() {
    let backend = Backend::start("web").await;
    let own = certificate(&["shop.example.com"]);
    let (gateway, address) = secured(Config::simple(&backend), &[&own]).await;
    let mut open = Http1::over(visit(address, "shop.example.com").await).await.unwrap();
    open.get("shop.example.com", "/").await.unwrap();
    let newer = TestGateway::run(gateway.directory.clone(), Limits::default(), true).await;
    eventually("the old one ended", async || gateway.task.is_finished() || newer.client.status().await.is_ok()).await;
    assert_eq!(open.get("shop.example.com", "/").await.unwrap().text, "web");
    let stream = visit(address, "shop.example.com").await;
    assert_eq!(shown(&stream), der(&own));
    assert_eq!(Http1::over(stream).await.unwrap().get("shop.example.com", "/").await.unwrap().text, "web");
}

#[tokio::test]
async fn a_certificate_is_refused_with_a_key_that_is_not_its_own_and_the_answer_shows_none_of_it() {
    let gateway = TestGateway::start(Config::new()).await;
    let (one, other) = (certificate(&["a.example.com"]), certificate(&["b.example.com"]));
    let mut wrong = one.clone();
    wrong.material.private_key = other.material.private_key.clone();
    let mut altered = one.clone();
    altered.material.chain.push('\n');
    let mut torn = one.clone();
    torn.material.private_key = Secret::new("-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n");
    for (certificate, expected) in [
        (wrong, "the private key does not belong to the certificate"),
        (altered, "this is not the chain with the digest"),
        (torn, "the private key does not belong to the certificate"),
    ] {
        let error = gateway.client.put_certificate(&certificate).await.unwrap_err();
        assert!(
            matches!(&error, GatewayError::Refused { problem, .. } if problem.contains(expected) && !problem.contains("c2Vj")),
            "{error}"
        );
    }
    assert!(gateway.client.certificates().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_port_for_https_that_another_program_has_does_not_keep_plain_http_from_changing() {
    let backend = Backend::start("web").await;
    let taken = TcpListener::bind(PLAIN).await.unwrap();
    let address = taken.local_addr().unwrap();
    let gateway = TestGateway::start(with_tls(Config::simple(&backend), address, &[])).await;
    let status = gateway.status().await;
    assert!(status.problem.unwrap().starts_with(&format!("cannot listen on {address}: address in use by pid")));
    assert_eq!(get(status.listening[0], "a", "/").await.text, "web");
    drop(taken);
    eventually("the port is taken", async || gateway.status().await.problem.is_none()).await;
    assert!(contains(&shown(&visit(address, "a.example.com").await), STAND_IN));
}

#[tokio::test]
async fn whoever_does_not_complete_a_handshake_is_let_go() {
    use tokio::io::AsyncReadExt;
    let limits = Limits { header_time: std::time::Duration::from_millis(200), ..Limits::default() };
    let gateway = TestGateway::start_with(Config::new(), limits).await;
    let address = free_address();
    gateway.put(with_tls(Config(GatewayConfig { ..Config::new().0 }), address, &[])).await;
    let mut silent = TcpStream::connect(address).await.unwrap();
    let end = tokio::time::timeout(PATIENCE, silent.read(&mut [0; 16])).await.unwrap();
    assert!(matches!(end, Ok(0) | Err(_)));
    let mut plain = TcpStream::connect(address).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut plain, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, plain.read_to_end(&mut answer)).await.unwrap();
    assert!(!answer.starts_with(b"HTTP/"), "plain HTTP on the port for HTTPS is not served");
}
