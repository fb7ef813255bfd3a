use super::*;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream as StdTcpStream;

struct TestSite {
    directory: tempfile::TempDir,
    address: SocketAddr,
    task: tokio::task::JoinHandle<anyhow::Result<()>>,
}

impl Drop for TestSite {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn site() -> TestSite {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("site");
    for (name, text) in [
        ("site/index.html", "home"),
        ("site/blog/index.html", "blog"),
        ("site/app.js", "0123456789"),
        ("site/.env", "SECRET"),
        ("site/.git/config", "SECRET"),
        ("site/.well-known/security.txt", "contact"),
        ("site/a b.txt", "space"),
        ("outside.txt", "SECRET"),
    ] {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    std::os::unix::fs::symlink("../outside.txt", root.join("escape.txt")).unwrap();
    std::os::unix::fs::symlink("app.js", root.join("alias.js")).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(serve(Arc::new(Site::open(&root).unwrap()), listener));
    TestSite { directory, address, task }
}

/// The whole answer to one raw request.
async fn get(site: &TestSite, line: &str, headers: &str) -> String {
    let request = format!("{line} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{headers}\r\n");
    let address = site.address;
    tokio::task::spawn_blocking(move || {
        let mut stream = StdTcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    })
    .await
    .unwrap()
}

fn header<'a>(answer: &'a str, name: &str) -> &'a str {
    answer.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("no {name} in {answer}")).trim()
}

#[tokio::test]
async fn files_and_indexes_are_served_and_nothing_outside_or_hidden() {
    let site = site().await;
    for (path, expected) in [
        ("/", "home"),
        ("/blog/", "blog"),
        ("/a%20b.txt", "space"),
        ("/alias.js", "0123456789"),
        ("/.well-known/security.txt", "contact"),
    ] {
        let answer = get(&site, &format!("GET {path}"), "").await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with(expected), "{path}: {answer}");
    }
    for path in [
        "/.env",
        "/.git/config",
        "/escape.txt",
        "/../outside.txt",
        "/%2e%2e/outside.txt",
        "/blog/..%2f..%2foutside.txt",
        "//etc/passwd",
        "/%2fetc/passwd",
        "/nothing",
        "/app.js/",
    ] {
        let answer = get(&site, &format!("GET {path}"), "").await;
        assert!(answer.starts_with("HTTP/1.1 404"), "{path}: {answer}");
        assert!(!answer.contains("SECRET") && !answer.contains("root:"), "{path}: {answer}");
    }
    for path in ["/%00", "/%zz", "/a%5cb", "/%ff"] {
        let answer = get(&site, &format!("GET {path}"), "").await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{path}: {answer}");
    }
    let answer = get(&site, "POST /", "Content-Length: 0\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 405") && answer.contains("GET, HEAD"), "{answer}");
    let answer = get(&site, "GET /blog?x=1", "").await;
    assert_eq!(header(&answer, "location:"), "/blog/?x=1");
}

#[tokio::test]
async fn an_unchanged_file_is_not_sent_again_and_parts_can_be_asked_for() {
    let site = site().await;
    let whole = get(&site, "GET /app.js", "").await;
    assert_eq!(header(&whole, "content-type:"), "text/javascript; charset=utf-8");
    let (etag, modified) = (header(&whole, "etag:"), header(&whole, "last-modified:"));
    for unchanged in [format!("If-None-Match: W/{etag}\r\n"), format!("If-Modified-Since: {modified}\r\n")] {
        let answer = get(&site, "GET /app.js", &unchanged).await;
        assert!(answer.starts_with("HTTP/1.1 304") && answer.ends_with("\r\n\r\n"), "{unchanged}: {answer}");
    }
    let answer = get(&site, "GET /app.js", "If-None-Match: \"other\"\r\n").await;
    assert!(answer.ends_with("0123456789"));
    for (wanted, part, said) in [
        ("2-4", "234", "bytes 2-4/10"),
        ("7-", "789", "bytes 7-9/10"),
        ("-2", "89", "bytes 8-9/10"),
        ("8-99", "89", "bytes 8-9/10"),
    ] {
        let answer = get(&site, "GET /app.js", &format!("Range: bytes={wanted}\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 206") && answer.ends_with(&format!("\r\n\r\n{part}")), "{answer}");
        assert_eq!(header(&answer, "content-range:"), said);
    }
    let answer = get(&site, "GET /app.js", "Range: bytes=10-\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 416"), "{answer}");
    let answer = get(&site, "GET /app.js", "Range: bytes=0-1\r\nIf-Range: \"other\"\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let answer = get(&site, "HEAD /app.js", "").await;
    assert_eq!(header(&answer, "content-length:"), "10");
    assert!(answer.ends_with("\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn a_site_has_its_own_page_for_what_is_not_there() {
    let site = site().await;
    fs::write(site.directory.path().join("site/404.html"), "lost?").unwrap();
    let answer = get(&site, "GET /nothing", "Range: bytes=0-1\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 404") && answer.ends_with("lost?"), "{answer}");
    assert_eq!(header(&answer, "content-type:"), "text/html; charset=utf-8");
}
