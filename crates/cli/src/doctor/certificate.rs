//! Until when a certificate is good: the one thing that is read of it here.
//!
//! Whether it is trusted is for the TLS library to say, and has been said when this is asked. So this walks
//! the outermost structure of DER as far as `notAfter` and looks at nothing else; what has another shape has no end.

use api::UnixMillis;

const SEQUENCE: u8 = 0x30;
/// The version of a certificate, in brackets of its own.
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

pub fn good_until_ms(der: &[u8]) -> Option<UnixMillis> {
    let (certificate, _) = value(der, SEQUENCE)?;
    let (mut fields, _) = value(certificate, SEQUENCE)?;
    if fields.first() == Some(&VERSION) {
        fields = skip(fields)?;
    }
    // Serial number, algorithm, issuer.
    for _ in 0..3 {
        fields = skip(fields)?;
    }
    let (validity, _) = value(fields, SEQUENCE)?;
    time(skip(validity)?)
}

/// The content of one element of that kind, and what follows it.
fn value(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, content, rest) = element(der)?;
    (found == tag).then_some((content, rest))
}

fn skip(der: &[u8]) -> Option<&[u8]> {
    element(der).map(|(_, _, rest)| rest)
}

fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, mut rest) = rest.split_first()?;
    let mut length = usize::from(first);
    if first & 0x80 != 0 {
        let digits = usize::from(first & 0x7f);
        // More than four would be longer than anything that fits a connection's beginning.
        let bytes = rest.get(..digits).filter(|_| (1..=4).contains(&digits))?;
        length = bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
        rest = &rest[digits..];
    }
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// `270609235427Z` or `20500101000000Z`: RFC 5280 allows these two alone.
fn time(der: &[u8]) -> Option<UnixMillis> {
    let (tag, content, _) = element(der)?;
    let text = std::str::from_utf8(content).ok()?;
    let full = match tag {
        // Two digits of a year are of 1950 to 2049.
        UTC_TIME if text.get(..2)? < "50" => format!("20{text}"),
        UTC_TIME => format!("19{text}"),
        GENERALIZED_TIME => text.to_owned(),
        _ => return None,
    };
    let time = jiff::civil::DateTime::strptime("%Y%m%d%H%M%SZ", full).ok()?;
    Some(time.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_millisecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made with `openssl req -x509 -days 200`; openssl says that it ends on Jun 9 23:54:27 2027 GMT.
    const CERTIFICATE: &[u8] = include_bytes!("certificate_test.der");

    #[test]
    fn the_end_of_a_real_certificate_is_what_openssl_says_it_is() {
        let expected: jiff::Timestamp = "2027-06-09T23:54:27Z".parse().unwrap();
        assert_eq!(good_until_ms(CERTIFICATE), Some(expected.as_millisecond()));
    }

    #[test]
    fn a_certificate_that_is_cut_off_or_nonsense_has_no_end_and_does_no_harm() {
        for length in 0..CERTIFICATE.len().min(160) {
            assert_eq!(good_until_ms(&CERTIFICATE[..length]), None, "{length}");
        }
        for place in 0..160 {
            for byte in [0x00, 0x7f, 0x80, 0x84, 0xff] {
                let mut broken = CERTIFICATE.to_vec();
                broken[place] = byte;
                // Whatever it says, it says it.
                let _ = good_until_ms(&broken);
            }
        }
    }

    #[test]
    fn both_forms_of_a_year_are_read() {
        assert_eq!(time(b"\x17\x0d700101000000Z"), Some(0));
        assert_eq!(time(b"\x18\x0f19700101000001Z"), Some(1000));
        assert_eq!(time(b"\x17\x0dnot a time at"), None);
    }
}
