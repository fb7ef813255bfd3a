//! Memory for bytes on their way, borrowed only while there are any.
//!
//! A connection on which nothing happens holds none: ten thousand idle WebSockets would otherwise keep
//! twenty thousand buffers for bytes that do not come. So each thread keeps a few pieces for whoever
//! reads next, and a piece goes back as soon as it is empty and there is nothing to read.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, ReadBuf};

/// Heads and small bodies.
pub const PIECE_BYTES: usize = 16 * 1024;
/// Bodies that are long enough for fewer, larger reads.
const LARGE_BYTES: usize = 128 * 1024;
/// Kept by each thread: 1 MB of small ones, 512 KB of large ones.
const PIECES_KEPT: usize = 64;
const LARGE_KEPT: usize = 4;
/// Texts (heads and chunks to be written): kept up to this size.
const TEXT_BYTES: usize = 4 * 1024;
const TEXTS_KEPT: usize = 128;

#[derive(Default)]
struct Spare {
    pieces: Vec<Box<[u8]>>,
    large: Vec<Box<[u8]>>,
    texts: Vec<Vec<u8>>,
}

thread_local! {
    static SPARE: RefCell<Spare> = RefCell::default();
}

fn take(bytes: usize) -> Box<[u8]> {
    let spare = SPARE.with_borrow_mut(|spare| match bytes {
        PIECE_BYTES => spare.pieces.pop(),
        LARGE_BYTES => spare.large.pop(),
        _ => None,
    });
    spare.unwrap_or_else(|| vec![0; bytes].into_boxed_slice())
}

fn give_back(space: Box<[u8]>) {
    // A thread that is ending has no spare ones any more; then it is simply freed.
    let _ = SPARE.try_with(|spare| {
        let mut spare = spare.borrow_mut();
        let (kept, most) = match space.len() {
            PIECE_BYTES => (&mut spare.pieces, PIECES_KEPT),
            LARGE_BYTES => (&mut spare.large, LARGE_KEPT),
            _ => return,
        };
        if kept.len() < most {
            kept.push(space);
        }
    });
}

/// An empty text with room for a head.
pub fn text_take() -> Vec<u8> {
    SPARE.with_borrow_mut(|spare| spare.texts.pop()).unwrap_or_else(|| Vec::with_capacity(1024))
}

/// For the next head that is written on this thread.
pub fn text_give_back(mut text: Vec<u8>) {
    if text.capacity() == 0 || text.capacity() > TEXT_BYTES {
        return;
    }
    text.clear();
    let _ = SPARE.try_with(|spare| {
        let texts = &mut spare.borrow_mut().texts;
        if texts.len() < TEXTS_KEPT {
            texts.push(text);
        }
    });
}

/// Bytes that were read and not used yet.
#[derive(Debug, Default)]
pub struct Buffer {
    space: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Buffer {
    pub fn bytes(&self) -> &[u8] {
        &self.space[self.start..self.end]
    }

    pub fn len(&self) -> usize {
        self.end - self.start
    }

    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    pub fn consume(&mut self, bytes: usize) {
        self.start += bytes;
        debug_assert!(self.start <= self.end);
        if self.start >= self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Reads once, behind what is there. Holds never more than `most` bytes: with so many already
    /// there, nothing is read and that is an error of whoever asks. `Ok(0)`: the end.
    pub fn poll_read<R: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        most: usize,
    ) -> Poll<io::Result<usize>> {
        self.make_room(most);
        let mut room = ReadBuf::new(&mut self.space[self.end..]);
        let read = Pin::new(from).poll_read(cx, &mut room);
        let length = room.filled().len();
        if read.is_pending() && self.is_empty() {
            self.release();
        }
        ready!(read)?;
        self.end += length;
        Poll::Ready(Ok(length))
    }

    /// Reads larger pieces from now on, if there is nothing in it.
    pub fn enlarge(&mut self) {
        if self.is_empty() && self.space.len() < LARGE_BYTES {
            self.release();
            self.space = take(LARGE_BYTES);
        }
    }

    /// Gives the memory back, if there is nothing in it.
    pub fn release(&mut self) {
        if self.is_empty() && !self.space.is_empty() {
            give_back(std::mem::take(&mut self.space));
            (self.start, self.end) = (0, 0);
        }
    }

    fn make_room(&mut self, most: usize) {
        if self.space.is_empty() {
            self.space = take(PIECE_BYTES);
        }
        if self.end < self.space.len() {
            return;
        }
        if self.start > 0 {
            self.space.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        } else if self.space.len() < most {
            let mut larger = take((self.space.len() * 2).min(most));
            larger[..self.end].copy_from_slice(&self.space);
            give_back(std::mem::replace(&mut self.space, larger));
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if !self.space.is_empty() {
            give_back(std::mem::take(&mut self.space));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    fn read(buffer: &mut Buffer, from: &mut &[u8], most: usize) -> usize {
        match buffer.poll_read(&mut Context::from_waker(Waker::noop()), from, most) {
            Poll::Ready(read) => read.unwrap(),
            Poll::Pending => panic!("a slice is always ready"),
        }
    }

    #[test]
    fn what_was_read_stays_in_order_however_it_grows_and_is_used() {
        let all: Vec<u8> = (0..300_000u32).map(|number| number as u8).collect();
        let mut from = all.as_slice();
        let mut buffer = Buffer::default();
        let mut used = Vec::new();
        while used.len() < all.len() {
            if buffer.len() < 40_000 {
                read(&mut buffer, &mut from, 64 * 1024);
            }
            let some = buffer.len().min(7_001);
            used.extend_from_slice(&buffer.bytes()[..some]);
            buffer.consume(some);
        }
        assert!(used == all);
    }

    #[test]
    fn it_never_holds_more_than_it_may() {
        let all = vec![1; 300_000];
        let mut from = all.as_slice();
        let mut buffer = Buffer::default();
        while read(&mut buffer, &mut from, 64 * 1024) > 0 {}
        assert_eq!(buffer.len(), 64 * 1024);
    }
}
