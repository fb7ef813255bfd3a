//! Which of many sockets can be read or written now, asked of the kernel directly: an async runtime would
//! cost more than the requests do.

use anyhow::{Context, Result};
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

const EVENTS_AT_ONCE: usize = 1024;

pub struct Poller {
    epoll: OwnedFd,
    events: Vec<Event>,
}

/// What to be told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    Reading,
    Writing,
}

impl Interest {
    fn flags(self) -> EventFlags {
        match self {
            Self::Reading => EventFlags::IN,
            Self::Writing => EventFlags::OUT,
        }
    }
}

impl Poller {
    pub fn new() -> Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC).context("make an epoll instance")?;
        Ok(Self { epoll, events: Vec::with_capacity(EVENTS_AT_ONCE) })
    }

    pub fn add(&self, socket: impl AsFd, number: usize, interest: Interest) -> Result<()> {
        epoll::add(&self.epoll, socket, EventData::new_u64(number as u64), interest.flags()).context("watch a socket")
    }

    pub fn change(&self, socket: impl AsFd, number: usize, interest: Interest) -> Result<()> {
        let data = EventData::new_u64(number as u64);
        epoll::modify(&self.epoll, socket, data, interest.flags()).context("watch a socket")
    }

    /// Waits and answers the numbers of the sockets for which it is worth to try.
    pub fn wait(&mut self, limit: Duration, ready: &mut Vec<usize>) -> Result<()> {
        ready.clear();
        self.events.clear();
        let timeout = Timespec { tv_sec: limit.as_secs() as _, tv_nsec: limit.subsec_nanos().into() };
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut self.events), Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("wait for sockets"),
        }
        ready.extend(self.events.iter().map(|event| { event.data }.u64() as usize));
        Ok(())
    }
}
