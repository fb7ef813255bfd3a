//! Which server an instance goes to.
//!
//! Spread first: the server with the fewest instances of this service, then with the fewest of all,
//! then the lowest index, so that equal inputs always give the same answer. Labels and capabilities
//! will filter the candidates; resources do not weigh yet.

use api::ids::ServerId;

/// A server that may take instances of the service in question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub server_id: ServerId,
    pub index: u16,
    /// Instances of this service already there.
    pub of_service: u32,
    /// All instances there.
    pub of_all: u32,
}

/// One server per instance asked for, in order; fewer only when there is no candidate at all.
pub fn place(count: u32, candidates: &[Candidate]) -> Vec<ServerId> {
    let mut load: Vec<Candidate> = candidates.to_vec();
    let mut placed = Vec::new();
    for _ in 0..count {
        let Some(best) = load.iter_mut().min_by_key(|c| (c.of_service, c.of_all, c.index, c.server_id.clone())) else {
            break;
        };
        best.of_service += 1;
        best.of_all += 1;
        placed.push(best.server_id.clone());
    }
    placed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(index: u16, of_service: u32, of_all: u32) -> Candidate {
        Candidate { server_id: ServerId::from_uuid_for_tests(index), index, of_service, of_all }
    }

    trait ForTests {
        fn from_uuid_for_tests(index: u16) -> Self;
    }
    impl ForTests for ServerId {
        fn from_uuid_for_tests(index: u16) -> Self {
            format!("srv_{index:032x}").parse().unwrap()
        }
    }

    fn placed(count: u32, candidates: &[Candidate]) -> Vec<u16> {
        let index = |id: &ServerId| candidates.iter().find(|c| &c.server_id == id).map_or(0, |c| c.index);
        place(count, candidates).iter().map(index).collect()
    }

    #[test]
    fn instances_spread_over_servers_before_they_share_one() {
        assert_eq!(placed(4, &[candidate(1, 0, 0), candidate(2, 0, 0), candidate(3, 0, 0)]), [1, 2, 3, 1]);
    }

    #[test]
    fn a_server_with_fewer_instances_of_the_service_comes_first_whatever_else_it_runs() {
        assert_eq!(placed(1, &[candidate(1, 1, 1), candidate(2, 0, 9)]), [2]);
    }

    #[test]
    fn the_order_of_candidates_does_not_matter() {
        let forward = [candidate(1, 0, 3), candidate(2, 0, 1), candidate(3, 1, 0)];
        let backward = [forward[2].clone(), forward[1].clone(), forward[0].clone()];
        assert_eq!(place(5, &forward), place(5, &backward));
        assert!(place(3, &[]).is_empty());
    }
}
