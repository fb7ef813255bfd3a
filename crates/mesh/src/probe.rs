//! A small question through the tunnel and its answer: how loss and round trips of the mesh are known.
//!
//! WireGuard's own counters tell what was sent and what arrived, not what was lost. So every machine answers probes on
//! its mesh address, over UDP, with as many bytes as it was asked; the answering side is in the gateway process, which
//! outlives the agent, so an agent that is replaced does not look like loss. Both sockets are bound to the tunnel's
//! interface: nothing from elsewhere is answered, and no probe can take another way. Absent on purpose: ICMP, which
//! many a firewall drops.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::net::UdpSocket;

/// Where every machine answers, on its mesh address.
pub const PORT: u16 = 51_821;
/// A probe without an answer for so long is lost.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// How many of the newest are counted.
pub const COUNTED: usize = 60;

const QUESTION: [u8; 8] = *b"mnst-ask";
const ANSWER: [u8; 8] = *b"mnst-ans";
const LENGTH: usize = 16;

pub fn question(number: u64) -> [u8; LENGTH] {
    written(QUESTION, number)
}

/// The number of the question that this answers.
pub fn answered(bytes: &[u8]) -> Option<u64> {
    read(ANSWER, bytes)
}

fn answer_to(bytes: &[u8]) -> Option<[u8; LENGTH]> {
    read(QUESTION, bytes).map(|number| written(ANSWER, number))
}

fn written(kind: [u8; 8], number: u64) -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    bytes[..8].copy_from_slice(&kind);
    bytes[8..].copy_from_slice(&number.to_be_bytes());
    bytes
}

fn read(kind: [u8; 8], bytes: &[u8]) -> Option<u64> {
    let bytes: [u8; LENGTH] = bytes.try_into().ok()?;
    let number = <[u8; 8]>::try_from(&bytes[8..]).ok()?;
    (bytes[..8] == kind).then(|| u64::from_be_bytes(number))
}

/// A socket that only the tunnel's interface reaches and that only it is left through.
pub async fn bind(interface: &str, address: Ipv4Addr, port: u16) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((address, port)).await?;
    socket.bind_device(Some(interface.as_bytes()))?;
    Ok(socket)
}

/// Answers until it is dropped.
pub async fn answer(socket: UdpSocket) {
    let mut bytes = [0; LENGTH + 1];
    loop {
        match socket.recv_from(&mut bytes).await {
            Ok((length, from)) => {
                if let Some(answer) = answer_to(&bytes[..length]) {
                    // Whether it arrives is what the other side finds out.
                    let _ = socket.send_to(&answer, from).await;
                }
            }
            Err(error) => {
                tracing::debug!(%error, "a probe could not be received");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

pub fn target(mesh_address: Ipv4Addr) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(mesh_address), PORT)
}

/// The newest probes to one peer.
#[derive(Debug, Clone, Default)]
pub struct ProbeLog {
    /// Round trips in microseconds, `None` for a lost one; oldest first.
    counted: VecDeque<Option<u64>>,
}

impl ProbeLog {
    pub fn answered(&mut self, round_trip: Duration) {
        self.push(Some(u64::try_from(round_trip.as_micros()).unwrap_or(u64::MAX)));
    }

    pub fn lost(&mut self) {
        self.push(None);
    }

    fn push(&mut self, outcome: Option<u64>) {
        if self.counted.len() == COUNTED {
            self.counted.pop_front();
        }
        self.counted.push_back(outcome);
    }

    /// How many of the newest were lost in a row.
    pub fn lost_in_a_row(&self) -> usize {
        self.counted.iter().rev().take_while(|outcome| outcome.is_none()).count()
    }

    pub fn summary(&self) -> api::mesh::MeshProbes {
        let mut round_trips: Vec<u64> = self.counted.iter().flatten().copied().collect();
        round_trips.sort_unstable();
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        api::mesh::MeshProbes {
            sent: count(self.counted.len()),
            lost: count(self.counted.len() - round_trips.len()),
            round_trip_micros: round_trips.get(round_trips.len() / 2).copied(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_question_is_answered_and_only_an_answer_counts() {
        let asked = question(77);
        let answer = answer_to(&asked).unwrap();
        assert_eq!(answered(&answer), Some(77));
        assert_eq!(answered(&asked), None);
        // Two machines that answered answers would do so for ever.
        assert_eq!(answer_to(&answer), None);
        assert_eq!(answer_to(b"hello"), None);
        assert_eq!(answer.len(), asked.len());
    }

    #[test]
    fn loss_is_that_of_the_newest_probes_and_the_round_trip_their_median() {
        let mut log = ProbeLog::default();
        assert_eq!(log.summary(), api::mesh::MeshProbes::default());
        for micros in [100, 900, 300] {
            log.answered(Duration::from_micros(micros));
        }
        log.lost();
        let summary = log.summary();
        assert_eq!((summary.sent, summary.lost, summary.round_trip_micros), (4, 1, Some(300)));
        assert_eq!(log.lost_in_a_row(), 1);
        (0..COUNTED).for_each(|_| log.answered(Duration::from_micros(5)));
        let summary = log.summary();
        assert_eq!((summary.sent as usize, summary.lost, summary.round_trip_micros), (COUNTED, 0, Some(5)));
    }
}
