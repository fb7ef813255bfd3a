//! Which question gets which answer. No IO.

use super::plain::PlainQuestion;
use api::addresses::Subnet;
use api::gateway::GatewayConfig;
use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, SOA};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::BinEncodable;
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// What we can take in one UDP message, as is usual.
const UDP_PAYLOAD_BYTES: u16 = 1232;
const HEADER_BYTES: usize = 12;

/// The names of the machine, immutable.
#[derive(Debug)]
pub struct Zone {
    domain: Name,
    /// The same as it stands in messages.
    domain_bytes: Vec<u8>,
    names: HashSet<Box<[u8]>>,
    answer: Ipv4Addr,
    ttl_seconds: u32,
    pub forward_to: Vec<SocketAddr>,
    only_from: Option<Subnet>,
}

/// What to do with a question.
#[derive(Debug, PartialEq, Eq)]
pub enum Reply {
    Send(Vec<u8>),
    /// Not ours: ask a resolver.
    Forward,
    /// Not a question at all; answering could start a conversation between machines.
    Nothing,
}

impl Zone {
    /// What the responder at this address, as the config has it, answers.
    pub fn of(config: &GatewayConfig, configured: SocketAddr) -> Self {
        let dns = config.responders().find(|responder| responder.address == configured);
        let domain = dns.map_or(crate::config::INTERNAL_DOMAIN, |dns| dns.domain.as_str());
        let parsed = Name::from_ascii(format!("{}.", domain.trim_end_matches('.')));
        // The config was checked; a domain that still does not parse owns no names.
        let domain = parsed.unwrap_or_else(|_| Name::root()).to_lowercase();
        Self {
            domain_bytes: domain.to_bytes().unwrap_or_default(),
            domain,
            names: config.internal.iter().map(|internal| internal.name.as_str().as_bytes().into()).collect(),
            answer: dns.map_or(Ipv4Addr::LOCALHOST, |dns| dns.answer),
            ttl_seconds: dns.map_or(0, |dns| dns.ttl_seconds),
            forward_to: dns.map(|dns| dns.forward_to.clone()).unwrap_or_default(),
            only_from: dns.and_then(|dns| dns.only_from),
        }
    }

    /// Whether whoever is at this address is answered at all.
    pub fn is_for(&self, peer: IpAddr) -> bool {
        self.only_from.is_none_or(|subnet| matches!(peer, IpAddr::V4(peer) if subnet.contains(peer)))
    }

    pub fn reply(&self, bytes: &[u8]) -> Reply {
        self.reply_plain(bytes).unwrap_or_else(|| self.reply_in_full(bytes))
    }

    fn reply_plain(&self, bytes: &[u8]) -> Option<Reply> {
        let question = PlainQuestion::read(bytes, &self.domain_bytes).filter(|_| !self.domain.is_root())?;
        let known = self.names.contains(question.label.to_ascii_lowercase().as_slice());
        let forwards = !self.forward_to.is_empty();
        known.then(|| Reply::Send(question.answer(self.answer, self.ttl_seconds, forwards, UDP_PAYLOAD_BYTES)))
    }

    fn reply_in_full(&self, bytes: &[u8]) -> Reply {
        let is_question = bytes.len() >= HEADER_BYTES && bytes[2] & 0x80 == 0;
        if !is_question {
            return Reply::Nothing;
        }
        let Ok(message) = Message::from_vec(bytes) else {
            return Reply::Send(error_header(bytes, ResponseCode::FormErr));
        };
        if message.metadata.op_code != OpCode::Query {
            return self.send(&message, ResponseCode::NotImp, false);
        }
        let [query] = message.queries.as_slice() else {
            return self.send(&message, ResponseCode::FormErr, false);
        };
        if message.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
            return self.send(&message, ResponseCode::BADVERS, false);
        }
        if !self.domain.is_root() && self.domain.zone_of(&query.name) {
            return self.reply_own(&message, query);
        }
        if self.forward_to.is_empty() {
            return self.send(&message, ResponseCode::Refused, false);
        }
        Reply::Forward
    }

    fn reply_own(&self, message: &Message, query: &Query) -> Reply {
        if query.query_class != DNSClass::IN {
            return self.send(message, ResponseCode::Refused, false);
        }
        let is_apex = query.name.num_labels() == self.domain.num_labels();
        if !is_apex && !self.holds(&query.name) {
            return self.send(message, ResponseCode::NXDomain, true);
        }
        if is_apex || !matches!(query.query_type, RecordType::A | RecordType::ANY) {
            // The name is there, this kind of record is not.
            return self.send(message, ResponseCode::NoError, true);
        }
        let mut response = self.response(message, ResponseCode::NoError);
        let data = RData::A(A(self.answer));
        response.add_answer(Record::from_rdata(query.name.clone(), self.ttl_seconds, data));
        encode(&response)
    }

    fn holds(&self, name: &Name) -> bool {
        let one_below = name.num_labels() == self.domain.num_labels() + 1;
        let label = name.iter().next().map(<[u8]>::to_ascii_lowercase);
        one_below && label.is_some_and(|label| self.names.contains(label.as_slice()))
    }

    fn send(&self, message: &Message, code: ResponseCode, with_authority: bool) -> Reply {
        let mut response = self.response(message, code);
        if with_authority {
            response.add_authority(self.authority());
        }
        encode(&response)
    }

    fn response(&self, message: &Message, code: ResponseCode) -> Message {
        let mut response = Message::new(message.metadata.id, MessageType::Response, message.metadata.op_code);
        response.metadata = Metadata::response_from_request(&message.metadata);
        response.metadata.recursion_available = !self.forward_to.is_empty();
        response.metadata.authoritative = matches!(code, ResponseCode::NoError | ResponseCode::NXDomain);
        response.metadata.response_code = code;
        response.add_queries(message.queries.iter().take(1).cloned());
        if message.edns.is_some() {
            let mut edns = Edns::new();
            edns.set_max_payload(UDP_PAYLOAD_BYTES);
            edns.set_rcode_high((u16::from(code) >> 4) as u8);
            response.set_edns(edns);
        }
        response
    }

    /// Lets resolvers remember an absence for as long as they would a presence.
    fn authority(&self) -> Record {
        let below = |label: &str| self.domain.prepend_label(label).unwrap_or_else(|_| self.domain.clone());
        let hour = 3600;
        let soa = SOA::new(below("ns"), below("hostmaster"), 1, hour, hour, 24 * hour, self.ttl_seconds);
        Record::from_rdata(self.domain.clone(), self.ttl_seconds, RData::SOA(soa))
    }
}

fn encode(response: &Message) -> Reply {
    match response.to_vec() {
        Ok(bytes) => Reply::Send(bytes),
        Err(error) => {
            tracing::warn!(%error, "a DNS answer could not be written");
            Reply::Nothing
        }
    }
}

/// The answer to a question that nobody could answer.
pub fn server_failure(question: &[u8]) -> Vec<u8> {
    error_header(question, ResponseCode::ServFail)
}

/// A bare header with the question's id: all that can be said to what could not be read.
fn error_header(question: &[u8], code: ResponseCode) -> Vec<u8> {
    let mut header = [0; HEADER_BYTES];
    let copied = question.len().min(4);
    header[..copied].copy_from_slice(&question[..copied]);
    // Response; opcode and "recursion desired" as asked; no other flag.
    header[2] = 0x80 | (header[2] & 0x79);
    header[3] = u16::from(code) as u8 & 0x0f;
    header.to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::gateway::DnsResponder;

    fn zone(forward_to: &[&str]) -> Zone {
        let service_id = "svc_00000000000000000000000000000001".parse().unwrap();
        let internal = vec![api::gateway::InternalName { name: "web".parse().unwrap(), service_id }];
        let dns = DnsResponder {
            address: "127.0.0.1:53".parse().unwrap(),
            domain: "svc.internal".into(),
            answer: Ipv4Addr::LOCALHOST,
            ttl_seconds: 5,
            forward_to: forward_to.iter().map(|address| address.parse().unwrap()).collect(),
            only_from: None,
        };
        let address = dns.address;
        Zone::of(&GatewayConfig { internal, dns: Some(dns), ..GatewayConfig::default() }, address)
    }

    fn ask(zone: &Zone, name: &str, kind: RecordType) -> Message {
        let mut message = Message::new(77, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        match zone.reply(&message.to_vec().unwrap()) {
            Reply::Send(bytes) => Message::from_vec(&bytes).unwrap(),
            other => panic!("{name}: {other:?}"),
        }
    }

    #[test]
    fn a_service_has_an_address_and_no_other_kind_of_record() {
        let zone = zone(&[]);
        let answer = ask(&zone, "WeB.svc.INTERNAL.", RecordType::A);
        assert_eq!(answer.metadata.id, 77);
        assert!(answer.metadata.authoritative);
        assert_eq!(answer.answers[0].ttl, 5);
        assert_eq!(answer.answers[0].data, RData::A(A(Ipv4Addr::LOCALHOST)));
        for (name, kind) in [("web.svc.internal.", RecordType::AAAA), ("svc.internal.", RecordType::A)] {
            let answer = ask(&zone, name, kind);
            assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
            assert!(answer.answers.is_empty());
            assert!(matches!(answer.authorities[0].data, RData::SOA(_)));
        }
    }

    #[test]
    fn an_unknown_name_below_the_domain_does_not_exist_and_others_are_refused_or_forwarded() {
        for name in ["nope.svc.internal.", "a.web.svc.internal."] {
            let answer = ask(&zone(&["127.0.0.1:9"]), name, RecordType::A);
            assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain, "{name}");
            assert!(matches!(answer.authorities[0].data, RData::SOA(_)));
        }
        let refused = ask(&zone(&[]), "example.com.", RecordType::A);
        assert_eq!(refused.metadata.response_code, ResponseCode::Refused);
        let mut message = Message::new(1, MessageType::Query, OpCode::Query);
        message.add_query(Query::query(Name::from_ascii("xsvc.internal.").unwrap(), RecordType::A));
        assert_eq!(zone(&["127.0.0.1:9"]).reply(&message.to_vec().unwrap()), Reply::Forward);
    }

    /// What a client may really send, and what it may not.
    fn questions(random: &mut fastrand::Rng) -> Vec<u8> {
        let names = ["web", "web", "web", "WeB", "nope", "a.web", "w\u{f6}b", "web-", ""];
        let name = names[random.usize(..names.len())];
        let domain = ["svc.internal.", "svc.internal.", "SVC.internal.", "svc.example."][random.usize(..4)];
        let name = Name::from_ascii(format!("{name}{}{domain}", if name.is_empty() { "" } else { "." }));
        let kind = [RecordType::A, RecordType::A, RecordType::AAAA, RecordType::ANY][random.usize(..4)];
        let mut message = Message::new(random.u16(..), MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = random.bool();
        message.metadata.checking_disabled = random.bool();
        message.metadata.authentic_data = random.bool();
        message.add_query(Query::query(name.unwrap_or_else(|_| Name::root()), kind));
        if random.bool() {
            let mut edns = Edns::new();
            edns.set_max_payload(random.u16(512..4096));
            edns.set_dnssec_ok(random.bool());
            message.set_edns(edns);
        }
        message.to_vec().unwrap()
    }

    #[test]
    fn a_plain_question_gets_the_very_bytes_that_reading_it_in_full_gives() {
        let mut random = fastrand::Rng::with_seed(11);
        let (mut plain, mut spoilt) = (0, 0);
        for round in 0..40_000 {
            let zone = zone(if random.bool() { &["127.0.0.1:9"] } else { &[] });
            let mut bytes = questions(&mut random);
            if round % 2 == 1 {
                match random.u8(..3) {
                    0 => bytes.truncate(random.usize(..bytes.len())),
                    1 => bytes.push(random.u8(..)),
                    _ => {
                        let at = random.usize(..bytes.len());
                        bytes[at] = random.u8(..);
                    }
                }
            }
            if let Some(answer) = zone.reply_plain(&bytes) {
                assert_eq!(answer, zone.reply_in_full(&bytes), "{bytes:?}");
                plain += 1;
                spoilt += round % 2;
            }
        }
        assert!(plain > 1_000 && spoilt > 50, "{plain} of the questions were plain, {spoilt} of the spoilt ones");
    }

    #[test]
    fn noise_is_answered_with_an_error_or_with_silence_and_never_with_a_crash() {
        let zone = zone(&[]);
        assert_eq!(zone.reply(b""), Reply::Nothing);
        assert_eq!(zone.reply(&[0xff; 40]), Reply::Nothing, "a response must not be answered");
        let Reply::Send(error) = zone.reply(&[&[1, 2, 1, 0, 0, 9][..], &[0; 30]].concat()) else { panic!() };
        assert_eq!((error[0], error[1], error[3] & 0x0f), (1, 2, 1), "{error:?}");
        let mut random = fastrand::Rng::with_seed(4);
        for _ in 0..20_000 {
            let noise: Vec<u8> = (0..random.usize(..80)).map(|_| random.u8(..)).collect();
            zone.reply(&noise);
        }
    }
}
