//! The plain question, answered from its bytes: the address of a name that is there.
//!
//! Nearly every question of a service is this one, and its answer is the question again and sixteen bytes. To read
//! it into a message, build another and write that costs as much as the kernel takes to receive and to send it. Whatever
//! is not exactly this (another kind, an unknown name, an option, a pointer) is none of this file's business and is
//! read in full by `zone`; a test holds the answers of both against each other, byte for byte.
//!
//! Format: RFC 1035, 4; the EDNS record is RFC 6891, 6.1.

use std::net::Ipv4Addr;

const HEADER_BYTES: usize = 12;
const LABEL_LIMIT_BYTES: usize = 63;
/// Type A, class IN.
const ADDRESS: [u8; 4] = [0, 1, 0, 1];
/// The name of the question, which stands after the header.
const SAME_NAME: [u8; 2] = [0xc0, HEADER_BYTES as u8];
const RECURSION_DESIRED: u8 = 0x01;
const RECURSION_AVAILABLE: u8 = 0x80;
const AUTHENTIC_DATA: u8 = 0x20;
const CHECKING_DISABLED: u8 = 0x10;
const RESPONSE_AND_AUTHORITATIVE: u8 = 0x84;

/// A plain question, cut into what matters.
#[derive(Debug)]
pub struct PlainQuestion<'a> {
    bytes: &'a [u8],
    /// As it was asked, in any case.
    pub label: &'a [u8],
    end: usize,
    edns: bool,
}

impl<'a> PlainQuestion<'a> {
    /// `domain` as it stands in messages: lowercase, with lengths and the empty label at the end.
    pub fn read(bytes: &'a [u8], domain: &[u8]) -> Option<Self> {
        let (header, rest) = bytes.split_at_checked(HEADER_BYTES)?;
        let plain_flags = header[2] & !RECURSION_DESIRED == 0 && header[3] & !(AUTHENTIC_DATA | CHECKING_DISABLED) == 0;
        let one_question = header[4..10] == [0, 1, 0, 0, 0, 0];
        if !plain_flags || !one_question {
            return None;
        }
        let length = usize::from(*rest.first()?);
        if !(1..=LABEL_LIMIT_BYTES).contains(&length) {
            return None;
        }
        let (label, rest) = rest[1..].split_at_checked(length)?;
        let (below, rest) = rest.split_at_checked(domain.len())?;
        let (kind, additional) = rest.split_at_checked(ADDRESS.len())?;
        if !below.eq_ignore_ascii_case(domain) || kind != ADDRESS {
            return None;
        }
        let edns = match header[10..12] {
            [0, 0] if additional.is_empty() => false,
            [0, 1] if is_plain_edns(additional) => true,
            _ => return None,
        };
        Some(Self { bytes, label, end: bytes.len() - additional.len(), edns })
    }

    pub fn answer(
        &self,
        address: Ipv4Addr,
        ttl_seconds: u32,
        recursion_available: bool,
        payload_bytes: u16,
    ) -> Vec<u8> {
        let mut answer = Vec::with_capacity(self.end + 32);
        answer.extend_from_slice(&self.bytes[..self.end]);
        answer[2] |= RESPONSE_AND_AUTHORITATIVE;
        answer[3] = (answer[3] & CHECKING_DISABLED) | if recursion_available { RECURSION_AVAILABLE } else { 0 };
        answer[4..12].copy_from_slice(&[0, 1, 0, 1, 0, 0, 0, u8::from(self.edns)]);
        answer.extend_from_slice(&SAME_NAME);
        answer.extend_from_slice(&ADDRESS);
        answer.extend_from_slice(&ttl_seconds.to_be_bytes());
        answer.extend_from_slice(&[0, 4]);
        answer.extend_from_slice(&address.octets());
        if self.edns {
            answer.extend_from_slice(&[0, 0, 41]);
            answer.extend_from_slice(&payload_bytes.to_be_bytes());
            answer.extend_from_slice(&[0; 6]);
        }
        answer
    }
}

/// Root, OPT, any payload size, no extended code, version 0, any flags, no options.
fn is_plain_edns(record: &[u8]) -> bool {
    matches!(record, [0, 0, 41, _, _, 0, 0, _, _, 0, 0])
}
