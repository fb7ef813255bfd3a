//! Room on the disk that the agent's data lies on: looked at with every look at the machine.
//!
//! While only the reserve is left ([`plan::disk`]), revisions are not fetched and not built; what is built
//! already may start, because that needs next to nothing and may be what mends things (a rollback, a
//! restart, a machine that comes up again). It is said as held back, and goes on by itself with the first
//! look that finds room.

use crate::resources;
use api::observed::{Blocked, Resources};
use plan::disk::{Space, is_low, reserve_bytes, why_low};
use std::path::{Path, PathBuf};

pub struct DiskWatch {
    place: PathBuf,
    wished_reserve_bytes: Option<u64>,
    space: Space,
    low: bool,
}

impl DiskWatch {
    pub fn new(place: &Path, wished_reserve_bytes: Option<u64>) -> Self {
        Self { place: place.to_owned(), wished_reserve_bytes, space: Space::default(), low: false }
    }

    pub fn look(&mut self) {
        self.space = resources::space(&self.place);
        self.low = is_low(self.space, self.reserve_bytes(), self.low);
    }

    fn reserve_bytes(&self) -> u64 {
        reserve_bytes(self.space.total_bytes, self.wished_reserve_bytes)
    }

    /// What is wrong and what follows; `None` while there is room.
    pub fn problem(&self) -> Option<Blocked> {
        let why = || why_low(self.space.total_bytes, self.reserve_bytes(), &self.place.display().to_string());
        self.low.then(|| Blocked {
            subject: "disk".into(),
            reason: format!("{}; nothing new is fetched or built until some of it is freed", why()),
            retry_at_ms: None,
        })
    }

    /// Why a service's release is not prepared now.
    pub fn holds_back(&self, service: &str) -> Option<Blocked> {
        self.low.then(|| Blocked {
            subject: format!("service {service}"),
            reason: "its release waits for room on the disk; what runs is not touched".into(),
            retry_at_ms: None,
        })
    }

    /// What is reported of it.
    pub fn add_to(&self, resources: &mut Resources) {
        resources.disk_total_bytes = self.space.total_bytes;
        resources.disk_available_bytes = self.space.available_bytes;
        resources.disk_reserve_bytes = self.reserve_bytes();
        resources.disk_low = self.low;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn below_the_reserve_new_work_is_held_back_with_the_reason_and_above_it_nothing_is() {
        let place = tempfile::tempdir().unwrap();
        let mut watch = DiskWatch::new(place.path(), Some(u64::MAX));
        assert_eq!((watch.problem(), watch.holds_back("web")), (None, None), "not looked at yet");
        watch.look();
        let problem = watch.problem().unwrap();
        assert!(problem.reason.contains(&place.path().display().to_string()), "{problem:?}");
        assert_eq!(watch.holds_back("web").unwrap().subject, "service web");
        let mut resources = Resources::default();
        watch.add_to(&mut resources);
        assert!(resources.disk_low && resources.disk_total_bytes > 0);

        let mut watch = DiskWatch::new(place.path(), Some(0));
        watch.look();
        assert_eq!((watch.problem(), watch.holds_back("web")), (None, None));
    }
}
