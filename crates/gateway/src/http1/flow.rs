//! One direction of one message: what is read on one side is written on the other, as it comes.
//!
//! ```text
//! reader ──► buffer ──► as it is ──────────────────► writer
//!               └─► chunks read ─► chunks written ─┘
//! ```
//!
//! Nothing is collected: there is one buffer, and it is read into only when it is empty. So a writer
//! that takes nothing stops the reader, and both sides feel each other's pace. The head that precedes
//! a body waits in the same flow and leaves with the first bytes of the body in one write.

use super::buffer::{self, Buffer};
use super::chunks::{BadChunk, Chunks, END_OF_CHUNK, begin_chunk};
use super::request::Framing;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite};

/// Bytes in new chunks that wait to be written; a little more than is read at once.
const CODED_BYTES: usize = 20 * 1024;
/// From here on a body is read in larger pieces.
const LARGE_FROM_BYTES: u64 = 64 * 1024;

/// Why a body did not come through.
#[derive(Debug, thiserror::Error)]
pub enum FlowError {
    #[error("the sender broke off")]
    Ended,
    #[error("the sender broke off: {0}")]
    From(#[source] io::Error),
    #[error(transparent)]
    Chunk(#[from] BadChunk),
    #[error("the receiver is gone: {0}")]
    To(#[source] io::Error),
}

#[derive(Debug)]
enum Body {
    Length(u64),
    Chunked(Box<Chunks>),
    UntilEnd,
    Complete,
}

#[derive(Debug)]
pub struct Flow {
    body: Body,
    /// The body is written in chunks, with these trailers if the sender has them.
    chunked: Option<Box<[u8]>>,
    /// Heads and chunks on their way.
    text: Vec<u8>,
    sent: usize,
    /// Bytes at the beginning of the buffer that are not the body's.
    skip: usize,
    /// Of the body, without what frames it.
    passed: u64,
    moved: bool,
    blocked: bool,
    touched: bool,
    /// Only what precedes the body may go.
    held: bool,
}

impl Flow {
    /// A message that begins with the bytes in `text`; its body comes behind `skip` bytes of the buffer.
    pub fn new(text: Vec<u8>, framing: Framing, chunked: Option<Box<[u8]>>, skip: usize) -> Self {
        let body = match framing {
            Framing::Length(0) => Body::Complete,
            Framing::Length(length) => Body::Length(length),
            Framing::Chunked => Body::Chunked(Box::default()),
            Framing::UntilEnd => Body::UntilEnd,
        };
        let (sent, passed, moved, blocked, touched, held) = Default::default();
        Self { body, chunked, text, sent, skip, passed, moved, blocked, touched, held }
    }

    /// The first bytes of the text were written already.
    pub fn begun(mut self, sent: usize) -> Self {
        self.sent = sent;
        self
    }

    /// Sends the head and keeps the body back, or lets it go.
    pub fn hold(&mut self, held: bool) {
        self.held = held;
    }

    /// Bytes of the body that the receiver took, or that wait in chunks for it.
    pub fn passed(&self) -> u64 {
        self.passed
    }

    /// All of the body was read from the sender.
    pub fn is_read(&self) -> bool {
        matches!(self.body, Body::Complete)
    }

    /// Whether anything moved since this was asked last.
    pub fn take_moved(&mut self) -> bool {
        std::mem::take(&mut self.moved)
    }

    /// It is the receiver that takes nothing.
    pub fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// Not one byte was taken by the receiver.
    pub fn is_untouched(&self) -> bool {
        !self.touched
    }

    /// To send it to somebody else, which only a message without a body or an untouched one can be.
    pub fn rewind(&mut self) {
        self.sent = 0;
        self.touched = false;
    }

    /// Moves bytes as far as possible now. Ready when all were taken and flushed.
    pub fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        buffer: &mut Buffer,
        to: &mut W,
    ) -> Poll<Result<(), FlowError>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        self.blocked = false;
        loop {
            self.recode(buffer)?;
            match self.poll_write(cx, buffer, to) {
                Poll::Ready(Ok(true)) => continue,
                Poll::Ready(Ok(false)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(FlowError::To(error))),
                Poll::Pending => return Poll::Pending,
            }
            let flushed = Pin::new(&mut *to).poll_flush(cx);
            if self.is_read() {
                return flushed.map_err(FlowError::To);
            }
            if let Poll::Ready(Err(error)) = flushed {
                return Poll::Ready(Err(FlowError::To(error)));
            }
            if self.held {
                return Poll::Pending;
            }
            match self.poll_read(cx, from, buffer) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn poll_read<R: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        buffer: &mut Buffer,
    ) -> Poll<Result<(), FlowError>> {
        let is_long = match self.body {
            Body::Length(left) => left >= LARGE_FROM_BYTES,
            Body::UntilEnd => self.chunked.is_none() && self.passed >= LARGE_FROM_BYTES,
            Body::Chunked(_) | Body::Complete => false,
        };
        if is_long {
            buffer.enlarge();
        }
        match std::task::ready!(buffer.poll_read(cx, from, buffer::PIECE_BYTES)) {
            Ok(0) if matches!(self.body, Body::UntilEnd) => {
                self.complete();
                Poll::Ready(Ok(()))
            }
            Ok(0) => Poll::Ready(Err(FlowError::Ended)),
            Ok(_) => {
                self.moved = true;
                Poll::Ready(Ok(()))
            }
            Err(error) => Poll::Ready(Err(FlowError::From(error))),
        }
    }

    /// Turns what is in the buffer into chunks, or out of chunks.
    fn recode(&mut self, buffer: &mut Buffer) -> Result<(), FlowError> {
        // The bytes before the body are kept until it is certain that this receiver gets the message.
        if self.held || self.sent > 0 || self.skip > 0 {
            return Ok(());
        }
        loop {
            if self.is_read() || self.text.len() >= CODED_BYTES {
                return Ok(());
            }
            let bytes = buffer.bytes();
            let (used, data) = match &mut self.body {
                Body::Chunked(chunks) => {
                    let (used, data) = chunks.read(bytes)?;
                    if used == 0 && !chunks.is_complete() {
                        return Ok(());
                    }
                    (used, data)
                }
                Body::Length(left) if self.chunked.is_some() => {
                    let length = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                    *left -= length as u64;
                    (length, 0..length)
                }
                Body::UntilEnd if self.chunked.is_some() => (bytes.len(), 0..bytes.len()),
                _ => return Ok(()),
            };
            let data = &bytes[data];
            self.passed += data.len() as u64;
            if self.chunked.is_some() && !data.is_empty() {
                begin_chunk(&mut self.text, data.len());
                self.text.extend_from_slice(data);
                self.text.extend_from_slice(END_OF_CHUNK);
            } else {
                self.text.extend_from_slice(data);
            }
            buffer.consume(used);
            let complete = match &self.body {
                Body::Chunked(chunks) => chunks.is_complete(),
                Body::Length(left) => *left == 0,
                _ => false,
            };
            if complete {
                self.end_chunks()?;
            } else if used == 0 {
                return Ok(());
            }
        }
    }

    fn end_chunks(&mut self) -> Result<(), FlowError> {
        if let Some(trailers) = &self.chunked {
            self.text.extend_from_slice(b"0\r\n");
            if let Body::Chunked(chunks) = &self.body {
                chunks.write_trailers(trailers, &mut self.text)?;
            }
            self.text.extend_from_slice(b"\r\n");
        }
        self.body = Body::Complete;
        Ok(())
    }

    /// The sender has ended, which is where this body ends.
    fn complete(&mut self) {
        if self.chunked.is_some() {
            self.text.extend_from_slice(b"0\r\n\r\n");
        }
        self.body = Body::Complete;
    }

    /// Writes what waits. True if something was taken and there may be more.
    fn poll_write<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut Buffer,
        to: &mut W,
    ) -> Poll<io::Result<bool>> {
        let text = &self.text[self.sent..];
        let body = match &self.body {
            Body::Length(_) | Body::UntilEnd if self.held || self.chunked.is_some() => &[],
            Body::Length(left) => {
                let bytes = &buffer.bytes()[self.skip..];
                &bytes[..usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len())]
            }
            Body::UntilEnd => &buffer.bytes()[self.skip..],
            Body::Chunked(_) | Body::Complete => &[],
        };
        if text.is_empty() && body.is_empty() {
            return Poll::Ready(Ok(false));
        }
        let to = Pin::new(to);
        let written = match (text.is_empty(), body.is_empty()) {
            (false, true) => to.poll_write(cx, text),
            (true, _) => to.poll_write(cx, body),
            (false, false) => to.poll_write_vectored(cx, &[IoSlice::new(text), IoSlice::new(body)]),
        };
        self.blocked = written.is_pending();
        let written = std::task::ready!(written)?;
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        (self.moved, self.touched) = (true, true);
        let of_text = written.min(text.len());
        self.sent += of_text;
        let of_body = written - of_text;
        if !self.is_read() {
            // From here on it cannot go to another receiver.
            buffer.consume(std::mem::take(&mut self.skip));
        }
        if of_body > 0 {
            self.passed += of_body as u64;
            buffer.consume(of_body);
            if let Body::Length(left) = &mut self.body {
                *left -= of_body as u64;
                if *left == 0 {
                    self.body = Body::Complete;
                }
            }
        }
        if self.sent == self.text.len() && !self.is_repeatable() {
            self.text.clear();
            self.sent = 0;
        }
        Poll::Ready(Ok(true))
    }

    /// A message that was without a body from the beginning is kept until it is dropped: it may have to
    /// be sent once more.
    fn is_repeatable(&self) -> bool {
        self.passed == 0 && self.is_read()
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        buffer::text_give_back(std::mem::take(&mut self.text));
    }
}
