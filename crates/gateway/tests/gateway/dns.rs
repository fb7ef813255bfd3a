use crate::support::*;
use api::gateway::DnsResponder;
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use std::net::{Ipv4Addr, SocketAddr};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

fn with_dns(config: Config, forward_to: Vec<SocketAddr>) -> Config {
    config.with(|config| {
        config.dns = Some(DnsResponder {
            address: "127.0.0.1:0".parse().unwrap(),
            domain: "svc.internal".into(),
            answer: Ipv4Addr::LOCALHOST,
            ttl_seconds: 5,
            forward_to,
            only_from: None,
        });
    })
}

fn question(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::new(fastrand::u16(..), MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.to_vec().unwrap()
}

async fn ask_udp(server: SocketAddr, asked: &[u8]) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(server).await.unwrap();
    socket.send(asked).await.unwrap();
    let mut buffer = [0; 4096];
    let length = tokio::time::timeout(PATIENCE, socket.recv(&mut buffer)).await.expect("an answer").unwrap();
    assert_eq!(buffer[..2], asked[..2]);
    Message::from_vec(&buffer[..length]).unwrap()
}

async fn exchange_tcp(stream: &mut TcpStream, asked: &[u8]) -> Message {
    let framed = [&(asked.len() as u16).to_be_bytes()[..], asked].concat();
    stream.write_all(&framed).await.unwrap();
    let mut length = [0; 2];
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut length)).await.unwrap().unwrap();
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer).await.unwrap();
    Message::from_vec(&answer).unwrap()
}

fn address_in(message: &Message) -> Option<Ipv4Addr> {
    match message.answers.first().map(|record| &record.data) {
        Some(RData::A(A(address))) => Some(*address),
        _ => None,
    }
}

#[tokio::test]
async fn names_of_services_resolve_over_udp_and_tcp_and_follow_the_config() {
    let config = || with_dns(Config::new().service(1, "web", &[]), Vec::new());
    let gateway = TestGateway::start(config()).await;
    let server = gateway.status().await.dns.unwrap();
    let answer = ask_udp(server, &question("web.svc.internal.", RecordType::A)).await;
    assert_eq!(address_in(&answer), Some(Ipv4Addr::LOCALHOST));
    let mut stream = TcpStream::connect(server).await.unwrap();
    for _ in 0..2 {
        let answer = exchange_tcp(&mut stream, &question("web.svc.internal.", RecordType::A)).await;
        assert_eq!(address_in(&answer), Some(Ipv4Addr::LOCALHOST));
    }
    let missing = question("api.svc.internal.", RecordType::A);
    assert_eq!(ask_udp(server, &missing).await.metadata.response_code, ResponseCode::NXDomain);
    gateway.put(config().service(2, "api", &[])).await;
    assert_eq!(gateway.status().await.dns, Some(server), "the responder moved");
    assert_eq!(address_in(&ask_udp(server, &missing).await), Some(Ipv4Addr::LOCALHOST));
    let refused = ask_udp(server, &question("example.com.", RecordType::A)).await;
    assert_eq!(refused.metadata.response_code, ResponseCode::Refused);
    gateway.put(Config::new()).await;
    assert_eq!(gateway.status().await.dns, None);
}

#[tokio::test]
async fn noise_does_not_disturb_the_responder() {
    let gateway = TestGateway::start(with_dns(Config::new().service(1, "web", &[]), Vec::new())).await;
    let server = gateway.status().await.dns.unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for length in 0..200 {
        let noise: Vec<u8> = (0..length).map(|_| fastrand::u8(..)).collect();
        socket.send_to(&noise, server).await.unwrap();
    }
    let mut stream = TcpStream::connect(server).await.unwrap();
    stream.write_all(&[0, 4, 1, 2, 3, 4]).await.unwrap();
    let answer = ask_udp(server, &question("web.svc.internal.", RecordType::A)).await;
    assert_eq!(address_in(&answer), Some(Ipv4Addr::LOCALHOST));
}

/// A resolver that knows every name; over UDP it says that the answer of `long.` is cut.
async fn resolver() -> SocketAddr {
    let address = free_address();
    let udp = UdpSocket::bind(address).await.unwrap();
    let tcp = TcpListener::bind(address).await.unwrap();
    let answer = |asked: &[u8], over_udp: bool| {
        let mut message = Message::from_vec(asked).unwrap().into_response();
        let name = message.queries[0].name.clone();
        if over_udp && name.to_ascii().starts_with("long") {
            message.metadata.truncation = true;
        } else {
            message.add_answer(Record::from_rdata(name, 9, RData::A(A(Ipv4Addr::new(192, 0, 2, 77)))));
        }
        message.to_vec().unwrap()
    };
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        while let Ok((length, peer)) = udp.recv_from(&mut buffer).await {
            // An answer to another question first: it must not be believed.
            let mut forged = answer(&buffer[..length], false);
            forged[0] ^= 0xff;
            udp.send_to(&forged, peer).await.unwrap();
            udp.send_to(&answer(&buffer[..length], true), peer).await.unwrap();
        }
    });
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = tcp.accept().await {
            let mut length = [0; 2];
            stream.read_exact(&mut length).await.unwrap();
            let mut asked = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut asked).await.unwrap();
            let answer = answer(&asked, false);
            let framed = [&(answer.len() as u16).to_be_bytes()[..], &answer].concat();
            stream.write_all(&framed).await.unwrap();
        }
    });
    address
}

#[tokio::test]
async fn other_names_are_asked_elsewhere_and_a_cut_answer_is_fetched_whole_over_tcp() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let forward_to = vec![silent.local_addr().unwrap(), resolver().await];
    let limits =
        gateway::Limits { dns_forward_time: std::time::Duration::from_millis(300), ..gateway::Limits::default() };
    let config = with_dns(Config::new().service(1, "web", &[]), forward_to);
    let gateway = TestGateway::start_with(config, limits).await;
    let server = gateway.status().await.dns.unwrap();
    let elsewhere = Some(Ipv4Addr::new(192, 0, 2, 77));
    assert_eq!(address_in(&ask_udp(server, &question("example.com.", RecordType::A)).await), elsewhere);
    let cut = ask_udp(server, &question("long.example.", RecordType::A)).await;
    assert!(cut.metadata.truncation && cut.answers.is_empty());
    let mut stream = TcpStream::connect(server).await.unwrap();
    let whole = exchange_tcp(&mut stream, &question("long.example.", RecordType::A)).await;
    assert_eq!(address_in(&whole), elsewhere);
}

#[tokio::test]
async fn a_resolver_that_is_silent_gives_a_failure_in_time() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let limits =
        gateway::Limits { dns_forward_time: std::time::Duration::from_millis(200), ..gateway::Limits::default() };
    let config = with_dns(Config::new(), vec![silent.local_addr().unwrap()]);
    let gateway = TestGateway::start_with(config, limits).await;
    let server = gateway.status().await.dns.unwrap();
    let answer = ask_udp(server, &question("example.com.", RecordType::A)).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
}
