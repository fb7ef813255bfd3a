//! A small file server, for sites that are only files: `mainstay static DIRECTORY`.
//!
//! It runs as an instance behind the gateway like any other program, on loopback. What it serves is
//! bounded by the directory: paths are resolved by the kernel with "stay beneath" (`openat2`), so
//! neither `..` nor a symbolic link leads out, also while the directory changes. Names that begin
//! with a dot are not served, `.well-known` excepted (RFC 8615).
//!
//! Absent on purpose: directory listings, compression, caching rules beyond validators.

use anyhow::Context;
use futures_util::Stream;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use std::convert::Infallible;
use std::fs::{File, Metadata};
use std::io::{self, SeekFrom};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::net::TcpListener;

const CHUNK_BYTES: usize = 64 * 1024;
const HEADER_TIME: Duration = Duration::from_secs(75);
const CONNECTIONS: usize = 4096;

type Body = BoxBody<Bytes, io::Error>;

/// Serves `directory` on loopback until the process ends.
pub async fn run(directory: PathBuf, port: u16) -> anyhow::Result<()> {
    let site = Site::open(&directory).with_context(|| format!("cannot serve {}", directory.display()))?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    tracing::info!(directory = %directory.display(), address = %listener.local_addr()?, "serving files");
    serve(Arc::new(site), listener).await
}

async fn serve(site: Arc<Site>, listener: TcpListener) -> anyhow::Result<()> {
    let permits = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS));
    loop {
        let permit = permits.clone().acquire_owned().await?;
        let (stream, _) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        // Without it answers are only slower.
        let _ = stream.set_nodelay(true);
        let site = site.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(site.clone(), request));
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(HEADER_TIME);
            if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
                tracing::trace!(%error, "a connection ended");
            }
            drop(permit);
        });
    }
}

#[derive(Debug)]
struct Site {
    root: File,
    path: PathBuf,
}

/// What a path leads to.
#[derive(Debug)]
enum Found {
    File(File, Box<Metadata>, PathBuf),
    /// A directory asked for without the slash at the end.
    Directory,
    Nothing,
}

impl Site {
    fn open(directory: &Path) -> io::Result<Self> {
        let path = directory.canonicalize()?;
        if !path.is_dir() {
            return Err(io::Error::new(io::ErrorKind::NotADirectory, "it is not a directory"));
        }
        Ok(Self { root: File::open(&path)?, path })
    }

    /// `path` is decoded and relative; a trailing slash asks for the index.
    fn find(&self, path: &str) -> Found {
        let wants_index = path.is_empty() || path.ends_with('/');
        let relative = if wants_index { format!("{path}index.html") } else { path.to_owned() };
        let Ok(file) = self.open_beneath(Path::new(&relative)) else { return Found::Nothing };
        match file.metadata() {
            Ok(metadata) if metadata.is_file() => Found::File(file, Box::new(metadata), relative.into()),
            Ok(metadata) if metadata.is_dir() && !wants_index => Found::Directory,
            _ => Found::Nothing,
        }
    }

    fn open_beneath(&self, relative: &Path) -> io::Result<File> {
        // Not blocking: a named pipe in the directory must not hold a thread.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        match rustix::fs::openat2(&self.root, relative, flags, Mode::empty(), resolve) {
            Ok(descriptor) => Ok(File::from(descriptor)),
            // Kernels before 5.6 and some sandboxes: resolve first, look where that led.
            Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => {
                let resolved = self.path.join(relative).canonicalize()?;
                if !resolved.starts_with(&self.path) {
                    return Err(io::Error::new(io::ErrorKind::NotFound, "it is outside the directory"));
                }
                let flags = flags | OFlags::NOFOLLOW;
                Ok(File::from(rustix::fs::open(&resolved, flags, Mode::empty())?))
            }
            Err(error) => Err(error.into()),
        }
    }
}

async fn answer(site: Arc<Site>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let method = request.method().clone();
    if !matches!(method, Method::GET | Method::HEAD) {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "Only GET and HEAD are served here.\n");
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return Ok(response);
    }
    let Some(path) = decode(request.uri().path()) else {
        return Ok(text(StatusCode::BAD_REQUEST, "This path cannot be understood.\n"));
    };
    let found = {
        let (site, path) = (site.clone(), path.clone());
        look(move || if is_hidden(&path) { Found::Nothing } else { site.find(&path) }).await
    };
    let response = match found {
        Found::File(file, metadata, name) => send(file, &metadata, &name, request.headers(), StatusCode::OK).await,
        Found::Directory => redirect(request.uri()),
        Found::Nothing => {
            let own = look(move || site.find("404.html")).await;
            match own {
                Found::File(file, metadata, name) => {
                    send(file, &metadata, &name, &HeaderMap::new(), StatusCode::NOT_FOUND).await
                }
                _ => text(StatusCode::NOT_FOUND, "There is no such file.\n"),
            }
        }
    };
    Ok(if method == Method::HEAD { without_body(response) } else { response })
}

/// Opening may wait for a disk.
async fn look(find: impl FnOnce() -> Found + Send + 'static) -> Found {
    tokio::task::spawn_blocking(find).await.unwrap_or(Found::Nothing)
}

/// The path below the root, percent-decoded; `None` if it is no text or holds what no file name can.
fn decode(path: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.strip_prefix('/')?.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next()?, rest.next()?];
            let digits = std::str::from_utf8(&digits).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok().filter(|_| !digits.starts_with('+'))?);
        } else {
            bytes.push(byte);
        }
    }
    let path = String::from_utf8(bytes).ok()?;
    (!path.contains(['\0', '\\'])).then_some(path)
}

/// Dot files, dot segments and empty segments (an absolute path among them) lead nowhere.
fn is_hidden(path: &str) -> bool {
    let path = path.strip_suffix('/').unwrap_or(path);
    let hidden = |segment: &str| segment.is_empty() || (segment.starts_with('.') && segment != ".well-known");
    !path.is_empty() && path.split('/').any(hidden)
}

async fn send(file: File, metadata: &Metadata, name: &Path, asked: &HeaderMap, status: StatusCode) -> Response<Body> {
    let validators = Validators::of(metadata);
    let mut response = Response::new(empty());
    let headers = response.headers_mut();
    headers.insert(header::ETAG, validators.etag.clone());
    if let Some(modified) = &validators.last_modified {
        headers.insert(header::LAST_MODIFIED, modified.clone());
    }
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type(name)));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    *response.status_mut() = status;
    if status == StatusCode::OK {
        response.headers_mut().insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        if validators.is_unchanged(asked) {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            return response;
        }
    }
    let length = metadata.len();
    let wanted = if validators.allows_range(asked) { range(asked, length) } else { Range::Whole };
    let (start, count) = match wanted {
        Range::Whole => (0, length),
        Range::Part { start, count } => {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            let text = format!("bytes {start}-{}/{length}", start + count - 1);
            response.headers_mut().insert(header::CONTENT_RANGE, header_text(&text));
            (start, count)
        }
        Range::Outside => {
            *response.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
            response.headers_mut().insert(header::CONTENT_RANGE, header_text(&format!("bytes */{length}")));
            (0, 0)
        }
    };
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(count));
    match stream(file, start, count).await {
        Ok(body) => *response.body_mut() = body,
        Err(error) => {
            tracing::warn!(file = %name.display(), %error, "cannot read a file");
            return text(StatusCode::INTERNAL_SERVER_ERROR, "This file cannot be read.\n");
        }
    }
    response
}

/// The file's bytes as they are wanted, never more than one piece in memory.
async fn stream(file: File, start: u64, count: u64) -> io::Result<Body> {
    if count == 0 {
        return Ok(empty());
    }
    let mut file = tokio::fs::File::from_std(file);
    file.set_max_buf_size(CHUNK_BYTES);
    file.seek(SeekFrom::Start(start)).await?;
    Ok(BodyExt::boxed(StreamBody::new(pieces(file.take(count)))))
}

fn pieces(file: tokio::io::Take<tokio::fs::File>) -> impl Stream<Item = io::Result<Frame<Bytes>>> + Send + Sync {
    futures_util::stream::try_unfold(file, |mut file| async move {
        let mut piece = vec![0; CHUNK_BYTES.min(usize::try_from(file.limit()).unwrap_or(CHUNK_BYTES))];
        let length = file.read(&mut piece).await?;
        if length == 0 {
            let short = file.limit() > 0;
            // A file that shrank: the connection must break, or the rest of the stream would be read as body.
            return if short { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(None) };
        }
        piece.truncate(length);
        Ok(Some((Frame::data(Bytes::from(piece)), file)))
    })
}

/// What tells one content of a file from another.
#[derive(Debug)]
struct Validators {
    etag: HeaderValue,
    last_modified: Option<HeaderValue>,
    modified: Option<SystemTime>,
}

impl Validators {
    fn of(metadata: &Metadata) -> Self {
        let (seconds, nanos) = (metadata.mtime(), metadata.mtime_nsec());
        let etag = format!("\"{:x}-{seconds:x}-{nanos:x}\"", metadata.len());
        let modified = metadata.modified().ok();
        let printed = modified.and_then(|modified| jiff::Timestamp::try_from(modified).ok()).and_then(|timestamp| {
            let printer = jiff::fmt::rfc2822::DateTimePrinter::new();
            printer.timestamp_to_rfc9110_string(&timestamp).ok()
        });
        Self { etag: header_text(&etag), last_modified: printed.map(|text| header_text(&text)), modified }
    }

    /// RFC 9110, 13.2.2: the tag decides if it is there, else the date.
    fn is_unchanged(&self, asked: &HeaderMap) -> bool {
        if let Some(tags) = asked.get(header::IF_NONE_MATCH).and_then(|tags| tags.to_str().ok()) {
            let own = self.etag.to_str().unwrap_or_default();
            return tags.split(',').map(str::trim).any(|tag| tag == "*" || tag.trim_start_matches("W/") == own);
        }
        let since = asked.get(header::IF_MODIFIED_SINCE).and_then(|since| parse_date(since.to_str().ok()?));
        match (since, self.modified) {
            (Some(since), Some(modified)) => seconds(modified) <= seconds(since),
            _ => false,
        }
    }

    /// `If-Range`: a part is sent only of the content that the client has begun.
    fn allows_range(&self, asked: &HeaderMap) -> bool {
        asked
            .get(header::IF_RANGE)
            .is_none_or(|known| *known == self.etag || Some(known) == self.last_modified.as_ref())
    }
}

fn parse_date(text: &str) -> Option<SystemTime> {
    jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok().map(SystemTime::from)
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[derive(Debug, PartialEq, Eq)]
enum Range {
    Whole,
    Part { start: u64, count: u64 },
    Outside,
}

/// One range of bytes; several at once are answered with the whole, which is allowed.
fn range(asked: &HeaderMap, length: u64) -> Range {
    let Some(wanted) = asked.get(header::RANGE).and_then(|value| value.to_str().ok()) else { return Range::Whole };
    let Some((first, last)) = wanted.strip_prefix("bytes=").and_then(|range| range.split_once('-')) else {
        return Range::Whole;
    };
    let (first, last) = (first.trim(), last.trim());
    let (start, end) = match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(start), Ok(end)) if start <= end => (start, end.saturating_add(1).min(length)),
        (Ok(start), Err(_)) if last.is_empty() => (start, length),
        (Err(_), Ok(count)) if first.is_empty() && count > 0 => (length.saturating_sub(count), length),
        (Err(_), Ok(0)) if first.is_empty() => return Range::Outside,
        _ => return Range::Whole,
    };
    if start >= length { Range::Outside } else { Range::Part { start, count: end - start } }
}

fn redirect(uri: &http::Uri) -> Response<Body> {
    // Slashes at the start would make another host of the path.
    let path = format!("/{}/", uri.path().trim_matches('/'));
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let mut response = text(StatusCode::PERMANENT_REDIRECT, "This is a directory.\n");
    response.headers_mut().insert(header::LOCATION, header_text(&format!("{path}{query}")));
    response
}

fn text(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())).map_err(|e| match e {}).boxed());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(text.len()));
    response
}

fn without_body(response: Response<Body>) -> Response<Body> {
    response.map(|_| empty())
}

fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed()
}

fn header_text(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

fn content_type(name: &Path) -> &'static str {
    let extension = name.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    match extension.to_ascii_lowercase().as_str() {
        "html" | "htm" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "json" | "map" => "application/json",
        "webmanifest" => "application/manifest+json",
        "txt" => "text/plain; charset=utf-8",
        "md" => "text/markdown; charset=utf-8",
        "csv" => "text/csv; charset=utf-8",
        "xml" => "application/xml",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "avif" => "image/avif",
        "ico" => "image/x-icon",
        "woff" => "font/woff",
        "woff2" => "font/woff2",
        "ttf" => "font/ttf",
        "otf" => "font/otf",
        "pdf" => "application/pdf",
        "wasm" => "application/wasm",
        "mp3" => "audio/mpeg",
        "ogg" => "audio/ogg",
        "wav" => "audio/wav",
        "mp4" => "video/mp4",
        "webm" => "video/webm",
        "zip" => "application/zip",
        "gz" => "application/gzip",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests;
