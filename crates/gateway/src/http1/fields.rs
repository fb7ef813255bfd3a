//! Header fields as bytes: what ends at this hop, what vouches for who asked, and how a line is written.

/// Those that say who asked. Whoever can reach the port can write them, so only those of a peer on
/// this machine are believed.
const FORWARDING: [&str; 7] = [
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-real-ip",
];

/// The comma-separated tokens of a header's value.
pub fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|token| !token.is_empty())
}

/// Whether this is one of the headers that say who asked, also where a framework would take it for
/// one (`X_Forwarded_For`).
pub fn is_forwarding(name: &str) -> bool {
    let same = |forwarding: &&str| {
        let fold = |byte: u8| if byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
        forwarding.len() == name.len() && forwarding.bytes().zip(name.bytes()).all(|(a, b)| a == fold(b))
    };
    FORWARDING.iter().any(same)
}

/// What must be known before a body, or what a service might take for a header that it trusts.
pub fn is_forbidden_in_trailers(name: &str) -> bool {
    const FORBIDDEN: [&str; 18] = [
        "authorization",
        "cache-control",
        "connection",
        "content-encoding",
        "content-length",
        "content-range",
        "content-type",
        "cookie",
        "host",
        "keep-alive",
        "max-forwards",
        "proxy-connection",
        "set-cookie",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "x-request-id",
    ];
    is_forwarding(name) || FORBIDDEN.iter().any(|forbidden| forbidden.eq_ignore_ascii_case(name))
}

pub fn write(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.reserve(name.len() + value.len() + 4);
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

pub fn write_number(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        // A remainder of ten is a digit.
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

pub fn write_content_length(out: &mut Vec<u8>, length: u64) {
    out.extend_from_slice(b"Content-Length: ");
    write_number(out, length);
    out.extend_from_slice(b"\r\n");
}

/// Digits and nothing else: no sign, no list, no spaces within.
pub fn content_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 18 {
        return None;
    }
    value.iter().try_fold(0, |number, byte| byte.is_ascii_digit().then(|| number * 10 + u64::from(byte - b'0')))
}

/// Whether each line feed stands behind a carriage return. One alone ends a line for some readers and
/// not for others.
pub fn has_bare_line_feed(head: &[u8]) -> bool {
    let mut before = 0;
    head.iter().any(|byte| {
        let bare = *byte == b'\n' && before != b'\r';
        before = *byte;
        bare
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_that_say_who_asked_are_known_in_any_writing() {
        for name in ["X-Forwarded-For", "x_forwarded_for", "X-Forwarded_Proto", "FORWARDED", "x_real-ip"] {
            assert!(is_forwarding(name), "{name}");
        }
        for name in ["X-Forwarded", "X-Forwarded-Form", "X-Other", "Via"] {
            assert!(!is_forwarding(name), "{name}");
        }
    }

    #[test]
    fn a_length_is_digits_and_nothing_else() {
        assert_eq!(content_length(b"0012"), Some(12));
        for bad in ["", "+1", "-1", "1 ", "1, 1", "0x1", "1234567890123456789", "1_0", "1."] {
            assert_eq!(content_length(bad.as_bytes()), None, "{bad:?}");
        }
        let mut out = Vec::new();
        write_content_length(&mut out, 1_048_576);
        write_content_length(&mut out, 0);
        assert_eq!(out, b"Content-Length: 1048576\r\nContent-Length: 0\r\n");
    }

    #[test]
    fn a_line_feed_alone_is_seen() {
        assert!(!has_bare_line_feed(b"GET / HTTP/1.1\r\nA: b\r\n\r\n"));
        assert!(has_bare_line_feed(b"GET / HTTP/1.1\nA: b\r\n\r\n"));
        assert!(has_bare_line_feed(b"GET / HTTP/1.1\r\nA: b\r\n\n"));
        assert!(has_bare_line_feed(b"\nGET"));
    }
}
