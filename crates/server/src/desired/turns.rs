//! Whose turn it is to refresh the document of a server.
//!
//! Several rollouts move side by side, and on a machine with many services all of them refresh the same
//! document. The store lets one of them win and sends the others back to read again; standing in line,
//! nobody reads in vain, and whoever comes last mostly finds that nothing is left to do.
//!
//! This only saves work: what is true is decided by the store, and a refresh of all servers asks for no
//! turn. So a fixed number of turns is enough, each for a share of all servers.

use api::ids::ServerId;
use std::array;
use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use tokio::sync::{Mutex, MutexGuard};

const TURNS: usize = 64;

pub struct Turns([Mutex<()>; TURNS]);

impl Default for Turns {
    fn default() -> Self {
        Self(array::from_fn(|_| Mutex::default()))
    }
}

impl Turns {
    /// Waits for the turn of all of these. Everybody takes them in the same order, so nobody waits for
    /// somebody who waits for him.
    pub async fn take(&self, servers: &BTreeSet<ServerId>) -> Vec<MutexGuard<'_, ()>> {
        let positions: BTreeSet<usize> = servers.iter().map(position).collect();
        let mut taken = Vec::with_capacity(positions.len());
        for position in positions {
            taken.push(self.0[position].lock().await);
        }
        taken
    }
}

/// The same in each run of a simulation: this hasher has no seed.
fn position(server: &ServerId) -> usize {
    let mut hasher = DefaultHasher::new();
    server.hash(&mut hasher);
    usize::try_from(hasher.finish() % TURNS as u64).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    fn server(number: u128) -> ServerId {
        ServerId::from_uuid(uuid::Uuid::from_u128(number))
    }

    #[tokio::test]
    async fn two_refreshes_of_one_server_stand_in_line_and_those_of_others_do_not() {
        let turns = Turns::default();
        let one = server(1);
        let other = (2..).map(server).find(|id| position(id) != position(&one)).unwrap();
        let first = turns.take(&BTreeSet::from([one.clone()])).await;
        assert!(turns.take(&BTreeSet::from([other.clone(), one.clone()])).now_or_never().is_none());
        assert!(turns.take(&BTreeSet::from([other])).now_or_never().is_some());
        drop(first);
        assert!(turns.take(&BTreeSet::from([one])).now_or_never().is_some());
    }

    #[tokio::test]
    async fn servers_that_share_a_turn_are_refreshed_together() {
        let turns = Turns::default();
        let one = server(1);
        let twin = (2..).map(server).find(|id| position(id) == position(&one)).unwrap();
        assert_eq!(turns.take(&BTreeSet::from([one, twin])).now_or_never().unwrap().len(), 1);
    }
}
