//! HTTP/1.1 byte by byte: whatever comes in whatever pieces, both sides read the same.

use crate::support::*;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const SHORT: Duration = Duration::from_secs(5);

/// Writes in pieces of random lengths, each its own packet.
async fn write_in_pieces(stream: &mut TcpStream, bytes: &[u8], random: &mut fastrand::Rng) {
    stream.set_nodelay(true).unwrap();
    let mut rest = bytes;
    let most = *random.choice(&[1, 3, 17, 200, 5000]).unwrap();
    while !rest.is_empty() {
        let length = random.usize(1..=most).min(rest.len());
        stream.write_all(&rest[..length]).await.unwrap();
        rest = &rest[length..];
        // The other end has a chance to read just this piece, but not always.
        if random.bool() {
            tokio::task::yield_now().await;
        }
    }
}

/// Everything that comes until the other end closes, without what differs from one time to the next.
async fn read_all(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("the connection ends");
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let varies =
        |line: &&str| ["date: ", "x-request-id: "].iter().any(|name| line.to_ascii_lowercase().starts_with(name));
    text.split_inclusive("\r\n").filter(|line| !varies(line)).collect()
}

/// The bodies of chunked answers are cut where they were read; only what they hold is compared.
fn without_chunk_sizes(text: &str) -> String {
    let size = |line: &&str| {
        let digits = line.trim_end_matches("\r\n");
        line.ends_with("\r\n") && !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    text.split_inclusive("\r\n").filter(|line| !size(line)).map(|line| line.trim_end_matches("\r\n")).collect()
}

#[tokio::test]
async fn requests_mean_the_same_in_whatever_pieces_they_come() {
    let backend = Backend::start("web").await;
    let gateway = TestGateway::start(Config::simple(&backend)).await;
    let address = gateway.address().await;
    let last = "GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let body = "zyxw".repeat(9_000);
    let requests = [
        format!("GET /one HTTP/1.1\r\nHost: a\r\n\r\nHEAD /two HTTP/1.1\r\nHost: a\r\n\r\n{last}"),
        format!("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}{last}", body.len()),
        format!(
            "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
             5;x=\"y\"\r\nhello\r\n{:X}\r\n{body}\r\n0\r\nX-Sum: 1\r\n\r\n{last}",
            body.len()
        ),
        format!("POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n{last}"),
        format!("\r\nPUT /count HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc{last}"),
        "GET /old HTTP/1.0\r\nConnection: keep-alive\r\n\r\nPOST /count HTTP/1.0\r\nContent-Length: 2\r\n\r\nab".into(),
    ];
    let mut random = fastrand::Rng::with_seed(11);
    for request in requests {
        let mut whole = TcpStream::connect(address).await.unwrap();
        whole.write_all(request.as_bytes()).await.unwrap();
        let expected = without_chunk_sizes(&read_all(&mut whole).await).replace("HTTP/1.1 100 Continue", "");
        assert!(expected.contains("200 OK"), "{expected}");
        for _ in 0..8 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            write_in_pieces(&mut stream, request.as_bytes(), &mut random).await;
            // Whether the word to go on comes depends on whether the client seems to wait for it.
            let answer = without_chunk_sizes(&read_all(&mut stream).await).replace("HTTP/1.1 100 Continue", "");
            assert_eq!(answer, expected, "{}", &request[..request.len().min(200)]);
        }
    }
}

/// An instance that answers every request with the same bytes, in random pieces, and closes if told so.
async fn answering(bytes: String, closes: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut seed = 0;
        while let Ok((mut stream, _)) = listener.accept().await {
            seed += 1;
            let mut random = fastrand::Rng::with_seed(seed);
            let bytes = bytes.clone();
            tokio::spawn(async move {
                let mut request = [0; 4096];
                while let Ok(1..) = stream.read(&mut request).await {
                    write_in_pieces(&mut stream, bytes.as_bytes(), &mut random).await;
                    if closes {
                        return;
                    }
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn answers_mean_the_same_in_whatever_pieces_they_come() {
    let body = "0123456789".repeat(3_000);
    let length = body.len();
    let chunks = format!("{length:x}\r\n{body}\r\n3;a\r\nabc\r\n0\r\n\r\n");
    let whole = format!("{body}abc");
    let cases = [
        (format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}"), false, 200, body.as_str()),
        (format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}"), false, 200, &whole),
        (format!("HTTP/1.1 200 OK\r\n\r\n{body}"), true, 200, &body),
        (format!("HTTP/1.0 200 OK\r\n\r\n{body}"), true, 200, &body),
        (
            "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 404 No\r\nContent-Length: 2\r\n\r\nno".into(),
            false,
            404,
            "no",
        ),
        ("HTTP/1.1 204 None\r\nContent-Length: 9\r\n\r\n".into(), false, 204, ""),
        ("HTTP/1.1 304 Same\r\nContent-Length: 9\r\n\r\n".into(), false, 304, ""),
    ];
    for (bytes, closes, status, expected) in cases {
        let instance = answering(bytes.clone(), closes).await;
        let config = Config::new().service(1, "web", &[(1, instance, false)]).route(None, "/", false, 1);
        let gateway = TestGateway::start(config).await;
        let address = gateway.address().await;
        let mut connection = Http1::connect(address).await.unwrap();
        for _ in 0..6 {
            let answer = connection.get("a", "/").await.unwrap();
            assert_eq!(answer.status, status, "{bytes:.60}");
            assert!(answer.text == expected, "{bytes:.60}: {} bytes", answer.text.len());
        }
        // A client that speaks HTTP/1.0 gets the same bytes, ended as it can understand.
        let old = raw(address, b"GET / HTTP/1.0\r\n\r\n", SHORT).await;
        assert!(old.ends_with(expected) && !old.contains("chunked"), "{bytes:.60}: {old:.200}");
    }
}

#[tokio::test]
async fn answers_that_can_be_read_in_two_ways_are_none() {
    for odd in [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nabc",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n",
        "HTTP/1.1 20 OK\r\n\r\n",
    ] {
        let instance = answering(odd.into(), true).await;
        let config = Config::new().service(1, "web", &[(1, instance, false)]).route(None, "/", false, 1);
        let gateway = TestGateway::start(config).await;
        assert_eq!(get(gateway.address().await, "a", "/").await.status, 502, "{odd}");
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_seen_to_break_off() {
    for broken in [
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nx\r\n",
    ] {
        let instance = answering(broken.into(), true).await;
        let config = Config::new().service(1, "web", &[(1, instance, false)]).route(None, "/", false, 1);
        let gateway = TestGateway::start(config).await;
        let response = Http1::connect(gateway.address().await).await.unwrap().get("a", "/").await;
        assert!(response.is_err(), "{broken}: {response:?}");
    }
}

#[tokio::test]
async fn malformed_chunks_end_a_request_and_nothing_behind_them_is_read() {
    let backend = Backend::start("web").await;
    let gateway = TestGateway::start(Config::simple(&backend)).await;
    let address = gateway.address().await;
    for chunks in [
        "x\r\nabc\r\n0\r\n\r\n",
        "\r\n\r\n",
        "3\nabc\n0\n\n",
        "3\r\nabcd\r\n0\r\n\r\n",
        "3;a\nb\r\nabc\r\n0\r\n\r\n",
        "fffffffffffffffff\r\nabc",
        "0\r\nX: 1\n\r\n\r\n",
        " 3\r\nabc\r\n0\r\n\r\n",
        "+3\r\nabc\r\n0\r\n\r\n",
    ] {
        let message = format!(
            "POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}\
             GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
        );
        let answer = raw(address, message.as_bytes(), SHORT).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{chunks:?}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{chunks:?}: {answer}");
    }
    for head in ["GET / HTTP/1.1\nHost: a\n\n", "GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n"] {
        let answer = raw(address, head.as_bytes(), SHORT).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{head:?}: {answer}");
    }
}

#[tokio::test]
async fn a_refusal_reaches_a_client_that_is_still_sending() {
    let backend = Backend::start("web").await;
    let config = Config::simple(&backend).service(2, "idle", &[]);
    let gateway = TestGateway::start(config).await;
    let address = gateway.address().await;
    for (host, path, status) in [("a", "/refuse-upload", "413"), ("idle.svc.internal", "/", "503")] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = format!("POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 50000000\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let (mut read, mut write) = stream.split();
        let sending = async {
            let piece = vec![b'x'; 64 * 1024];
            for _ in 0..40 {
                if write.write_all(&piece).await.is_err() {
                    break;
                }
            }
            std::future::pending::<()>().await;
        };
        let mut answer = Vec::new();
        tokio::select! {
            () = sending => {}
            read = tokio::time::timeout(PATIENCE, read.read_to_end(&mut answer)) => { read.expect("an end").ok(); }
        }
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{host}{path}: {answer:.200}");
    }
}

#[tokio::test]
async fn a_refused_request_whose_body_is_there_leaves_the_connection_open() {
    let backend = Backend::start("web").await;
    let config = Config::new()
        .service(1, "web", &[(1, backend.address, false)])
        .service(2, "idle", &[])
        .route(Some("a"), "/", false, 1)
        .route(Some("b"), "/", false, 2);
    let gateway = TestGateway::start(config).await;
    let messages = "POST / HTTP/1.1\r\nHost: b\r\nContent-Length: 3\r\n\r\nabc\
                    GET /x HTTP/1.1\r\nHost: nowhere\r\n\r\n\
                    GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let answer = raw(gateway.address().await, messages.as_bytes(), SHORT).await;
    let statuses: Vec<&str> = answer.match_indices("HTTP/1.1 ").map(|(at, _)| &answer[at + 9..at + 12]).collect();
    assert_eq!(statuses, ["503", "404", "200"], "{answer}");
}

#[tokio::test]
async fn a_client_of_http_1_0_keeps_its_connection_only_if_it_says_so() {
    let backend = Backend::start("web").await;
    let gateway = TestGateway::start(Config::simple(&backend)).await;
    let address = gateway.address().await;
    let closed = raw(address, b"GET / HTTP/1.0\r\n\r\nGET / HTTP/1.0\r\n\r\n", SHORT).await;
    assert_eq!(closed.matches("HTTP/1.1 200").count(), 1, "{closed}");
    assert!(closed.contains("Connection: close"), "{closed}");
    let kept = raw(address, b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET / HTTP/1.0\r\n\r\n", SHORT).await;
    assert_eq!(kept.matches("HTTP/1.1 200").count(), 2, "{kept}");
    assert!(kept.contains("Connection: keep-alive"), "{kept}");
}

#[tokio::test]
async fn what_comes_together_with_an_upgrade_is_not_lost() {
    let instance =
        answering("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nhello".into(), true)
            .await;
    let config = Config::new().service(1, "web", &[(1, instance, false)]).route(None, "/", false, 1);
    let gateway = TestGateway::start(config).await;
    let asked = "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
    let answer = raw(gateway.address().await, asked.as_bytes(), SHORT).await;
    assert!(
        answer.starts_with("HTTP/1.1 101 Switching Protocols\r\n") && answer.ends_with("\r\n\r\nhello"),
        "{answer}"
    );

    let backend = Backend::start("web").await;
    let gateway = TestGateway::start(Config::simple(&backend)).await;
    let mut stream = TcpStream::connect(gateway.address().await).await.unwrap();
    let asked = "GET /socket HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nearly";
    stream.write_all(asked.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\nearly") {
        let read = tokio::time::timeout(PATIENCE, stream.read_buf(&mut answer)).await.unwrap();
        assert!(read.unwrap() > 0, "{}", String::from_utf8_lossy(&answer));
    }
    // One direction ends, and the other still carries what is on its way.
    stream.write_all(b"late").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut rest = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut rest)).await.unwrap().unwrap();
    assert_eq!(rest, "late");
}

#[tokio::test]
async fn the_same_request_over_http_1_and_http_2_is_the_same_to_a_service() {
    let backend = Backend::start("web").await;
    let config =
        Config::new().service(1, "web", &[(1, backend.address, false)]).route(Some("a.example"), "/api", true, 1);
    let gateway = TestGateway::start(config).await;
    let address = gateway.address().await;
    let lines = [
        ("accept", "text/html"),
        ("te", "trailers"),
        ("x-request-id", "same-1"),
        ("x-forwarded-for", "203.0.113.9"),
        ("x-forwarded-for", "203.0.113.10"),
        ("x-forwarded-proto", "https"),
        ("forwarded", "for=203.0.113.9"),
        ("cookie", "a=1; b=2"),
        ("x-other", "one"),
        ("x-other", "two"),
    ];
    let asked = |uri: &str, body: &'static str| {
        let mut request = request("POST", "a.example", uri, body);
        lines.iter().for_each(|(name, value)| {
            request.headers_mut().append(*name, value.parse().unwrap());
        });
        request
    };
    let seen = |text: &str| -> BTreeMap<String, Vec<String>> {
        let mut seen = BTreeMap::<String, Vec<String>>::new();
        for (name, value) in serde_json::from_str::<Vec<(String, String)>>(text).unwrap() {
            seen.entry(name).or_default().push(value);
        }
        seen
    };
    let first = exchange(address, asked("/api/headers?q=1", "abc")).await;
    let mut second = asked("http://a.example/api/headers?q=1", "abc");
    second.headers_mut().remove("host");
    let second = whole(http2(address).await.send_request(second).await.unwrap()).await.unwrap();
    let (first, second) = (seen(&first.text), seen(&second.text));
    assert_eq!(first, second);
    assert_eq!(first["x-forwarded-for"], ["203.0.113.9, 203.0.113.10, 127.0.0.1"]);
    assert_eq!(first["x-forwarded-prefix"], ["/api"]);
    assert_eq!(first["x-other"], ["one", "two"]);
}
