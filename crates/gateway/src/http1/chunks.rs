//! The chunked coding (RFC 9112, 7.1), read strictly and written anew.
//!
//! What one side says about where a body ends is never passed on as it came: chunk sizes are read
//! here, and others are written for the other side. So nothing that two readers could understand in
//! two ways (an empty size, a bare line feed, a size of seventeen digits, an extension that holds a
//! line break) gets past the gateway.

use super::fields;
use std::ops::Range;

const EXTENSION_LIMIT_BYTES: usize = 1024;
const TRAILERS_LIMIT_BYTES: usize = 16 * 1024;
const TRAILERS_LIMIT: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("its chunks are malformed")]
pub struct BadChunk;

/// Where in the coding the reader is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Size {
        digits: u8,
    },
    /// Behind the size, where only spaces or an extension may be.
    BeforeExtension,
    Extension {
        bytes: usize,
    },
    SizeLineFeed,
    Data,
    DataReturn,
    DataLineFeed,
    Trailers,
    End,
}

/// The reader of one body.
#[derive(Debug)]
pub struct Chunks {
    at: At,
    /// Of the chunk that is being read.
    left: u64,
    /// The lines behind the last chunk, each with its end.
    trailers: Vec<u8>,
}

impl Default for Chunks {
    fn default() -> Self {
        Self { at: At::Size { digits: 0 }, left: 0, trailers: Vec::new() }
    }
}

impl Chunks {
    pub fn is_complete(&self) -> bool {
        self.at == At::End
    }

    /// Reads up to and including the next piece of data. Answers how many bytes were used, and where
    /// among them the data is.
    pub fn read(&mut self, bytes: &[u8]) -> Result<(usize, Range<usize>), BadChunk> {
        let mut used = 0;
        while used < bytes.len() {
            if self.at == At::Data {
                let length = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len() - used);
                self.left -= length as u64;
                if self.left == 0 {
                    self.at = At::DataReturn;
                }
                return Ok((used + length, used..used + length));
            }
            if self.at == At::End {
                break;
            }
            self.step(bytes[used])?;
            used += 1;
        }
        Ok((used, 0..0))
    }

    fn step(&mut self, byte: u8) -> Result<(), BadChunk> {
        self.at = match (self.at, byte) {
            (At::Size { digits }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') if digits < 15 => {
                let digit = char::from(byte).to_digit(16).ok_or(BadChunk)?;
                self.left = self.left * 16 + u64::from(digit);
                At::Size { digits: digits + 1 }
            }
            (At::Size { digits: 1.. } | At::BeforeExtension, b' ' | b'\t') => At::BeforeExtension,
            (At::Size { digits: 1.. } | At::BeforeExtension, b';') => At::Extension { bytes: 0 },
            (At::Size { digits: 1.. } | At::BeforeExtension | At::Extension { .. }, b'\r') => At::SizeLineFeed,
            (At::Extension { bytes }, b'\t' | b' '..=b'~' | 0x80..) if bytes < EXTENSION_LIMIT_BYTES => {
                At::Extension { bytes: bytes + 1 }
            }
            (At::SizeLineFeed, b'\n') if self.left > 0 => At::Data,
            (At::SizeLineFeed, b'\n') => At::Trailers,
            (At::DataReturn, b'\r') => At::DataLineFeed,
            (At::DataLineFeed, b'\n') => At::Size { digits: 0 },
            (At::Trailers, byte) => self.trailer_byte(byte)?,
            _ => return Err(BadChunk),
        };
        Ok(())
    }

    fn trailer_byte(&mut self, byte: u8) -> Result<At, BadChunk> {
        if self.trailers.len() >= TRAILERS_LIMIT_BYTES || (byte == b'\n' && self.trailers.last() != Some(&b'\r')) {
            return Err(BadChunk);
        }
        self.trailers.push(byte);
        let ended = self.trailers == b"\r\n" || self.trailers.ends_with(b"\r\n\r\n");
        Ok(if ended { At::End } else { At::Trailers })
    }

    /// Writes those trailers that may be passed on: named in `declared`, and none that frames,
    /// addresses or vouches for a message.
    pub fn write_trailers(&self, declared: &[u8], out: &mut Vec<u8>) -> Result<(), BadChunk> {
        if self.trailers.len() <= 2 {
            return Ok(());
        }
        let mut headers = [httparse::EMPTY_HEADER; TRAILERS_LIMIT];
        let parsed = httparse::parse_headers(&self.trailers, &mut headers);
        let Ok(httparse::Status::Complete((_, headers))) = parsed else { return Err(BadChunk) };
        for header in headers {
            let named = fields::tokens(declared).any(|token| token.eq_ignore_ascii_case(header.name.as_bytes()));
            if named && !fields::is_forbidden_in_trailers(header.name) {
                fields::write(out, header.name.as_bytes(), header.value);
            }
        }
        Ok(())
    }
}

/// Begins a chunk; data of that length and [`END_OF_CHUNK`] follow.
pub fn begin_chunk(out: &mut Vec<u8>, length: usize) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = (usize::BITS - length.leading_zeros()).div_ceil(4).max(1);
    for digit in (0..digits).rev() {
        out.push(DIGITS[(length >> (digit * 4)) & 15]);
    }
    out.extend_from_slice(b"\r\n");
}

pub const END_OF_CHUNK: &[u8] = b"\r\n";

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The data and what is left, read in pieces of the given lengths.
    fn read(bytes: &[u8], pieces: &[usize]) -> Result<(Vec<u8>, usize, Chunks), BadChunk> {
        let (mut chunks, mut data, mut at) = (Chunks::default(), Vec::new(), 0);
        let mut pieces = pieces.iter().copied().chain(std::iter::repeat(bytes.len().max(1)));
        while at < bytes.len() && !chunks.is_complete() {
            let piece = pieces.next().unwrap_or(1).max(1);
            let mut rest = &bytes[at..(at + piece).min(bytes.len())];
            while !rest.is_empty() && !chunks.is_complete() {
                let (used, range) = chunks.read(rest)?;
                data.extend_from_slice(&rest[range]);
                rest = &rest[used..];
                at += used;
            }
        }
        Ok((data, at, chunks))
    }

    #[test]
    fn data_is_found_extensions_are_skipped_and_what_follows_is_left() {
        let bytes = b"5;a=b\r\nhello\r\n00A \t;x\r\n0123456789\r\n0\r\nX-Sum: 1\r\nHost: b\r\n\r\nGET /";
        let (data, used, chunks) = read(bytes, &[]).unwrap();
        assert_eq!((data.as_slice(), chunks.is_complete()), (&b"hello0123456789"[..], true));
        assert_eq!(&bytes[used..], b"GET /");
        let mut out = Vec::new();
        chunks.write_trailers(b"x-sum, host", &mut out).unwrap();
        assert_eq!(String::from_utf8_lossy(&out), "X-Sum: 1\r\n");
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        for bad in [
            "\r\nhello",
            "g\r\n",
            "5\nhello\r\n0\r\n\r\n",
            "5\rhello",
            "5 5\r\nhello\r\n",
            "-5\r\nhello\r\n",
            "0x5\r\nhello\r\n",
            "5\r\nhelloo\r\n",
            "5\r\nhello\n0\r\n\r\n",
            "5;a\nb\r\nhello\r\n",
            "1000000000000000f\r\n",
            "0\r\nX: 1\n\r\n",
            ";\r\n",
            " 5\r\nhello\r\n",
        ] {
            assert!(read(bad.as_bytes(), &[]).is_err(), "{bad:?} was taken");
        }
    }

    proptest! {
        #[test]
        fn any_body_in_any_chunks_and_pieces_comes_out_as_it_went_in(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..300), 0..8),
            pieces in proptest::collection::vec(1..40usize, 0..200),
        ) {
            let mut coded = Vec::new();
            for chunk in &chunks {
                begin_chunk(&mut coded, chunk.len());
                coded.extend_from_slice(chunk);
                coded.extend_from_slice(END_OF_CHUNK);
            }
            coded.extend_from_slice(b"0\r\n\r\n");
            let (data, used, reader) = read(&coded, &pieces).unwrap();
            prop_assert_eq!(data, chunks.concat());
            prop_assert_eq!(used, coded.len());
            prop_assert!(reader.is_complete());
        }
    }
}
