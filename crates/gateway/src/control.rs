//! The control socket: HTTP/1.1 and JSON, for the agent on the same machine.
//!
//! The socket file's mode (0600) is the access control. Requests: `PUT /config`, `GET /status`,
//! `GET /certificates`, `PUT /certificates/DIGEST`, `GET /mesh`, `PUT /mesh`, `POST /stop`.

use crate::core::Gateway;
use api::gateway::GatewayConfig;
use api::tls::CertificateMaterial;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use std::convert::Infallible;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

pub const SOCKET: &str = "control.sock";
const CONFIG_LIMIT_BYTES: usize = 32 * 1024 * 1024;
const CERTIFICATE_LIMIT_BYTES: usize = 256 * 1024;
const CERTIFICATES: &str = "/certificates/";
const EXCHANGE_TIME: Duration = Duration::from_secs(30);

/// A Unix socket that only this user can use, in the place of any that was there: made beside it and
/// renamed over it, so there is no moment without.
pub fn bind_private(path: &Path) -> io::Result<StdUnixListener> {
    let beside = path.with_extension("new");
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = StdUnixListener::bind(&beside)?;
    fs::set_permissions(&beside, fs::Permissions::from_mode(0o600))?;
    fs::rename(&beside, path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Answers until `stop`; requests under way are finished. Connections are not tasks of their own: they
/// run where this runs.
pub async fn serve(gateway: &Arc<Gateway>, listener: &UnixListener, stop: &CancellationToken) {
    let mut connections = FuturesUnordered::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(()) = connections.next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => connections.push(serve_connection(gateway.clone(), stream)),
            Err(error) => {
                tracing::warn!(%error, "cannot accept on the control socket");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    // A peer that keeps its connection open must not keep the process.
    let rest = async { while connections.next().await.is_some() {} };
    let _ = tokio::time::timeout(Duration::from_secs(1), rest).await;
}

async fn serve_connection(gateway: Arc<Gateway>, stream: UnixStream) {
    let service = service_fn(move |request| answer(gateway.clone(), request));
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(EXCHANGE_TIME).keep_alive(false);
    if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a control connection ended");
    }
}

async fn answer(gateway: Arc<Gateway>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let (status, value) = match (&parts.method, parts.uri.path()) {
        (&Method::PUT, "/config") => put_config(&gateway, body).await,
        (&Method::GET, "/status") => match serde_json::to_value(gateway.status().await) {
            Ok(status) => (StatusCode::OK, status),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, problem(&error)),
        },
        (&Method::GET, "/certificates") => (StatusCode::OK, json!({ "digests": gateway.certificate_list() })),
        (&Method::PUT, path) if path.starts_with(CERTIFICATES) => {
            put_certificate(&gateway, path[CERTIFICATES.len()..].to_owned(), body).await
        }
        (&Method::GET, "/mesh") => match serde_json::to_value(gateway.mesh.live().await) {
            Ok(live) => (StatusCode::OK, live),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, problem(&error)),
        },
        (&Method::PUT, "/mesh") => put_mesh(&gateway, body).await,
        (&Method::POST, "/stop") => {
            tracing::info!("asked to stop");
            gateway.stop.cancel();
            (StatusCode::ACCEPTED, json!({}))
        }
        _ => (StatusCode::NOT_FOUND, problem(&"the gateway has no such request")),
    };
    let mut response = Response::new(Full::new(Bytes::from(value.to_string())));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    Ok(response)
}

/// All bytes of a body, in one piece from the beginning.
async fn whole(mut body: Limited<Incoming>) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
    let expected = body.size_hint().lower();
    let mut bytes = Vec::with_capacity(usize::try_from(expected).unwrap_or(0).min(CONFIG_LIMIT_BYTES));
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            bytes.extend_from_slice(&data);
        }
    }
    Ok(bytes)
}

/// The body of a request as what it should be; otherwise the answer that says why not.
async fn read<T: serde::de::DeserializeOwned>(
    body: Incoming,
    limit: usize,
    what: &str,
) -> Result<T, (StatusCode, Value)> {
    let read = tokio::time::timeout(EXCHANGE_TIME, whole(Limited::new(body, limit))).await;
    let bytes = match read {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(error)) => return Err((StatusCode::BAD_REQUEST, problem(&error))),
        Err(_) => return Err((StatusCode::REQUEST_TIMEOUT, problem(&format!("the {what} did not arrive in time")))),
    };
    serde_json::from_slice(&bytes)
        .map_err(|error| (StatusCode::UNPROCESSABLE_ENTITY, problem(&format!("this is not a {what}: {error}"))))
}

async fn put_certificate(gateway: &Gateway, digest: String, body: Incoming) -> (StatusCode, Value) {
    let material: CertificateMaterial = match read(body, CERTIFICATE_LIMIT_BYTES, "certificate").await {
        Ok(material) => material,
        Err(answer) => return answer,
    };
    match gateway.certificate_put(digest, material).await {
        Ok(()) => (StatusCode::OK, json!({})),
        Err(error) => (StatusCode::UNPROCESSABLE_ENTITY, problem(&error)),
    }
}

async fn put_mesh(gateway: &Gateway, body: Incoming) -> (StatusCode, Value) {
    let told = match read(body, CONFIG_LIMIT_BYTES, "part in the mesh").await {
        Ok(told) => told,
        Err(refusal) => return refusal,
    };
    match gateway.mesh.apply(told).await {
        Ok(()) => (StatusCode::OK, json!({})),
        Err(error) => (StatusCode::UNPROCESSABLE_ENTITY, problem(&error)),
    }
}

async fn put_config(gateway: &Gateway, body: Incoming) -> (StatusCode, Value) {
    let config: GatewayConfig = match read(body, CONFIG_LIMIT_BYTES, "gateway config").await {
        Ok(config) => config,
        Err(answer) => return answer,
    };
    match gateway.apply(config).await {
        Ok(digest) => (StatusCode::OK, json!({ "digest": digest })),
        Err(error) => {
            tracing::warn!(%error, "a config was refused; the one before stays live");
            (StatusCode::UNPROCESSABLE_ENTITY, problem(&error))
        }
    }
}

fn problem(text: &impl ToString) -> Value {
    json!({ "problem": text.to_string() })
}
