//! A gateway in a temporary directory, backends with known behaviour, and small clients.

use api::gateway::{
    GatewayConfig, GatewayObserved, GatewayRoute, GatewayService, InternalName, Listener, ListenerKind, Upstream,
};
use api::ids::{InstanceId, ServiceId};
use client::gateway::GatewayClient;
use gateway::{GatewayOptions, Limits};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub const PATIENCE: Duration = Duration::from_secs(20);

pub fn service_id(number: u128) -> ServiceId {
    ServiceId::from_uuid(uuid::Uuid::from_u128(number))
}

pub fn instance_id(number: u128) -> InstanceId {
    InstanceId::from_uuid(uuid::Uuid::from_u128(number))
}

/// A config piece by piece; one public-and-internal listener on a port of the kernel's choice.
pub struct Config(pub GatewayConfig);

impl Config {
    pub fn new() -> Self {
        let address = "127.0.0.1:0".parse().unwrap();
        Self(GatewayConfig {
            listeners: vec![Listener { address, kind: ListenerKind::PublicAndInternal }],
            response_timeout_ms: 10_000,
            connect_timeout_ms: 1_000,
            idle_timeout_ms: 20_000,
            ..GatewayConfig::default()
        })
    }

    /// A service with instances `(number, address, draining)`.
    pub fn service(mut self, number: u128, name: &str, instances: &[(u128, SocketAddr, bool)]) -> Self {
        let upstream = |(number, address, draining): &(u128, SocketAddr, bool)| Upstream {
            instance_id: instance_id(*number),
            address: *address,
            draining: *draining,
        };
        self.0.services.push(GatewayService {
            service_id: service_id(number),
            name: name.parse().unwrap(),
            upstreams: instances.iter().map(upstream).collect(),
            unavailable_reason: format!("{name} is starting"),
        });
        self.0.internal.push(InternalName { name: name.parse().unwrap(), service_id: service_id(number) });
        self
    }

    pub fn route(mut self, host: Option<&str>, path: &str, strip_prefix: bool, number: u128) -> Self {
        self.0.routes.push(GatewayRoute {
            host: host.map(|host| host.parse().unwrap()),
            path: path.parse().unwrap(),
            strip_prefix,
            https_only: false,
            service_id: service_id(number),
        });
        self
    }

    /// One service at `/` on every host.
    pub fn simple(backend: &Backend) -> Self {
        Self::new().service(1, "web", &[(1, backend.address, false)]).route(None, "/", false, 1)
    }

    pub fn with(mut self, change: impl FnOnce(&mut GatewayConfig)) -> Self {
        change(&mut self.0);
        self
    }
}

pub struct TestGateway {
    pub directory: Arc<tempfile::TempDir>,
    pub client: GatewayClient,
    pub stop: CancellationToken,
    pub task: JoinHandle<anyhow::Result<()>>,
}

impl Drop for TestGateway {
    fn drop(&mut self) {
        self.stop.cancel();
        self.task.abort();
    }
}

impl TestGateway {
    pub async fn start(config: Config) -> Self {
        Self::start_with(config, Limits::default()).await
    }

    pub async fn start_with(config: Config, limits: Limits) -> Self {
        let gateway = Self::run(Arc::new(tempfile::tempdir().unwrap()), limits, false).await;
        gateway.client.put_config(&config.0).await.unwrap();
        gateway
    }

    /// A gateway on a directory that may have been used before.
    pub async fn run(directory: Arc<tempfile::TempDir>, limits: Limits, take_over: bool) -> Self {
        let client = GatewayClient::new(directory.path());
        let stop = CancellationToken::new();
        let options = GatewayOptions { directory: directory.path().to_owned(), take_over };
        let task = tokio::spawn(gateway::run_until(options, limits, stop.clone()));
        let gateway = Self { directory, client, stop, task };
        if !take_over {
            eventually("the gateway answers", async || gateway.client.status().await.is_ok()).await;
        }
        gateway
    }

    pub async fn put(&self, config: Config) {
        self.client.put_config(&config.0).await.unwrap();
    }

    pub async fn status(&self) -> GatewayObserved {
        self.client.status().await.unwrap()
    }

    pub async fn address(&self) -> SocketAddr {
        self.status().await.listening[0]
    }

    pub async fn open(&self, number: u128) -> Option<u64> {
        let status = self.status().await;
        status.open.iter().find(|open| open.instance_id == instance_id(number)).map(|open| open.requests)
    }

    /// Stops and waits for the end.
    pub async fn finish(mut self) -> anyhow::Result<()> {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, &mut self.task).await.unwrap().unwrap()
    }
}

/// Waits until something is so, within bounds.
pub async fn eventually(what: &str, mut so: impl AsyncFnMut() -> bool) {
    let until = tokio::time::Instant::now() + PATIENCE;
    while !so().await {
        assert!(tokio::time::Instant::now() < until, "never came: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A backend that says who it is and does what the path asks for.
pub struct Backend {
    pub address: SocketAddr,
    pub requests: Arc<AtomicU64>,
    pub connections: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub type TestBody = BoxBody<Bytes, io::Error>;

pub fn text(text: impl Into<Bytes>) -> TestBody {
    Full::new(text.into()).map_err(|never: Infallible| match never {}).boxed()
}

impl Backend {
    pub async fn start(name: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::<AtomicU64>::default();
        let connections = Arc::<AtomicU64>::default();
        let (counted, connected) = (requests.clone(), connections.clone());
        let task = tokio::spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                connected.fetch_add(1, Ordering::SeqCst);
                let counted = counted.clone();
                // Dropped with the set when the backend goes: its connections break.
                open.spawn(async move {
                    let service = service_fn(move |request| {
                        counted.fetch_add(1, Ordering::SeqCst);
                        behave(name, request)
                    });
                    let connection = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .with_upgrades();
                    let _ = connection.await;
                });
                while open.try_join_next().is_some() {}
            }
        });
        Self { address, requests, connections, task }
    }

    pub fn count(&self) -> u64 {
        self.requests.load(Ordering::SeqCst)
    }
}

async fn behave(name: &'static str, mut request: Request<Incoming>) -> Result<Response<TestBody>, io::Error> {
    let path = request.uri().path().to_owned();
    let number = |key: &str| -> u64 {
        let query = request.uri().query().unwrap_or_default();
        query.split('&').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('=')?.parse().ok()).unwrap_or(0)
    };
    Ok(match path.rsplit('/').next().unwrap_or_default() {
        "echo" => Response::new(request.into_body().map_err(io::Error::other).boxed()),
        "refuse-upload" => {
            let mut response = Response::new(text("too large"));
            *response.status_mut() = StatusCode::PAYLOAD_TOO_LARGE;
            response
        }
        "headers" => {
            let lines: Vec<(String, String)> = request
                .headers()
                .iter()
                .map(|(name, value)| (name.to_string(), value.to_str().unwrap_or("?").to_owned()))
                .chain([(":path".to_owned(), request.uri().to_string())])
                .collect();
            Response::new(text(serde_json::to_string(&lines).unwrap()))
        }
        "slow" => {
            tokio::time::sleep(Duration::from_millis(number("ms"))).await;
            Response::new(text(name))
        }
        "count" => {
            let mut bytes = 0;
            while let Some(frame) = request.body_mut().frame().await {
                bytes += frame.map_err(io::Error::other)?.data_ref().map_or(0, Bytes::len);
            }
            Response::new(text(bytes.to_string()))
        }
        "big" => Response::new(BodyExt::boxed(StreamBody::new(pieces(number("bytes"))))),
        "events" => {
            let mut response = Response::new(BodyExt::boxed(StreamBody::new(events())));
            response.headers_mut().insert("content-type", "text/event-stream".parse().unwrap());
            response
        }
        "trailers" => {
            let mut trailers = HeaderMap::new();
            trailers.insert("x-sum", "42".parse().unwrap());
            // Without a known length, or there would be no chunks to put trailers after.
            let frames = [Ok(Frame::data(Bytes::from_static(b"body"))), Ok(Frame::trailers(trailers))];
            let mut response = Response::new(BodyExt::boxed(StreamBody::new(futures_util::stream::iter(frames))));
            response.headers_mut().insert("trailer", "x-sum".parse().unwrap());
            response
        }
        "hop" => {
            let mut response = Response::new(text(name));
            for (name, value) in [("connection", "x-private"), ("x-private", "1"), ("keep-alive", "timeout=1")] {
                response.headers_mut().insert(name, value.parse().unwrap());
            }
            response
        }
        "fail" => {
            let mut response = Response::new(text(name));
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            response
        }
        "socket" => {
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let Ok(raw) = upgrade.await else { return };
                let (mut read, mut write) = tokio::io::split(TokioIo::new(raw));
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
            let mut response = Response::new(text(""));
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            for (name, value) in [("connection", "Upgrade"), ("upgrade", "websocket"), ("sec-websocket-accept", "x")] {
                response.headers_mut().insert(name, value.parse().unwrap());
            }
            response
        }
        _ => Response::new(text(name)),
    })
}

fn pieces(bytes: u64) -> impl futures_util::Stream<Item = io::Result<Frame<Bytes>>> {
    let piece = Bytes::from(vec![7; 64 * 1024]);
    futures_util::stream::unfold(bytes, move |left| {
        let piece = piece.slice(..(left.min(64 * 1024) as usize));
        async move { (left > 0).then(|| (Ok(Frame::data(piece.clone())), left - piece.len() as u64)) }
    })
}

fn events() -> impl futures_util::Stream<Item = io::Result<Frame<Bytes>>> {
    futures_util::stream::unfold(0, |number| async move {
        if number == 5 {
            return None;
        }
        if number > 0 {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Some((Ok(Frame::data(Bytes::from(format!("data: {number}\n\n")))), number + 1))
    })
}

/// An answer, whole.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
    pub trailers: Option<HeaderMap>,
}

pub async fn whole(response: Response<Incoming>) -> Result<Answer, hyper::Error> {
    let (parts, body) = response.into_parts();
    let collected = body.collect().await?;
    let trailers = collected.trailers().cloned();
    let text = String::from_utf8_lossy(&collected.to_bytes()).into_owned();
    Ok(Answer { status: parts.status.as_u16(), headers: parts.headers, text, trailers })
}

/// One HTTP/1.1 connection.
pub struct Http1 {
    sender: hyper::client::conn::http1::SendRequest<TestBody>,
}

impl Http1 {
    pub async fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Self::over(stream).await
    }

    pub async fn over(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> io::Result<Self> {
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        tokio::spawn(connection.with_upgrades());
        Ok(Self { sender })
    }

    pub async fn send(&mut self, request: Request<TestBody>) -> Result<Response<Incoming>, hyper::Error> {
        self.sender.ready().await?;
        self.sender.send_request(request).await
    }

    pub async fn get(&mut self, host: &str, path: &str) -> Result<Answer, hyper::Error> {
        whole(self.send(request("GET", host, path, "")).await?).await
    }

    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}

pub async fn http2(address: SocketAddr) -> hyper::client::conn::http2::SendRequest<TestBody> {
    http2_over(TcpStream::connect(address).await.unwrap()).await
}

pub async fn http2_over(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
) -> hyper::client::conn::http2::SendRequest<TestBody> {
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

pub fn request(method: &str, host: &str, path: &str, body: &'static str) -> Request<TestBody> {
    Request::builder().method(method).uri(path).header("host", host).body(text(body)).unwrap()
}

/// One request on a connection of its own.
pub async fn get(address: SocketAddr, host: &str, path: &str) -> Answer {
    Http1::connect(address).await.unwrap().get(host, path).await.unwrap()
}

pub async fn exchange(address: SocketAddr, request: Request<TestBody>) -> Answer {
    whole(Http1::connect(address).await.unwrap().send(request).await.unwrap()).await.unwrap()
}

/// Sends bytes as they are and reads until the other end closes or the time is over.
pub async fn raw(address: SocketAddr, bytes: &[u8], time: Duration) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(time, async {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = stream.read(&mut buffer).await {
            answer.extend_from_slice(&buffer[..length]);
        }
    })
    .await;
    String::from_utf8_lossy(&answer).into_owned()
}

/// An address of this machine that is not loopback, if it has one. Nothing is sent.
pub fn outside_address() -> Option<std::net::IpAddr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_loopback() && !ip.is_unspecified()).then_some(ip)
}

/// A port that nobody has, below those that the kernel gives to outgoing connections, and that no
/// other test of this process gets.
pub fn free_address() -> SocketAddr {
    static GIVEN: std::sync::Mutex<Vec<u16>> = std::sync::Mutex::new(Vec::new());
    let mut given = GIVEN.lock().unwrap();
    loop {
        let port = fastrand::u16(10_240..19_999);
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let everywhere = SocketAddr::from(([0, 0, 0, 0], port));
        let free = std::net::TcpListener::bind(everywhere).is_ok() && std::net::UdpSocket::bind(address).is_ok();
        if free && !given.contains(&port) {
            given.push(port);
            return address;
        }
    }
}
