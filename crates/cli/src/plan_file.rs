//! A plan that was agreed to, on its way from `plan --out` to `deploy --plan`.

use crate::exit::Failure;
use crate::private_file;
use api::plans::{PlanRequest, StackPlan};
use serde::{Deserialize, Serialize};
use std::path::Path;

const FORMAT: u32 = 1;

/// It holds the manifest it was made from, so that what is applied is what was looked at. A manifest
/// may hold values that are secret: only the owner may read the file.
#[derive(Debug, Serialize, Deserialize)]
pub struct PlanFile {
    pub mainstay_plan: u32,
    pub request: PlanRequest,
    pub plan: StackPlan,
}

impl PlanFile {
    pub fn new(request: PlanRequest, plan: StackPlan) -> Self {
        Self { mainstay_plan: FORMAT, request, plan }
    }

    pub fn write(&self, path: &Path) -> Result<(), Failure> {
        let text = serde_json::to_vec_pretty(self).expect("a plan serializes to JSON");
        private_file::write(path, &text)
            .map_err(|error| Failure::general(format!("cannot write the plan to {}: {error}", path.display())))
    }

    pub fn read(path: &Path) -> Result<Self, Failure> {
        let text = std::fs::read(path)
            .map_err(|error| Failure::usage(format!("cannot read the plan {}: {error}", path.display())))?;
        let file: Self = serde_json::from_slice(&text).map_err(|error| {
            let failure = Failure::usage(format!("{} is not a plan of Mainstay: {error}", path.display()));
            failure.help(format!("make one: mainstay plan --out {}", path.display()))
        })?;
        if file.mainstay_plan != FORMAT {
            let message =
                format!("{} is a plan of format {}; this version reads {FORMAT}", path.display(), file.mainstay_plan);
            return Err(Failure::usage(message).help("make it again with `mainstay plan --out`"));
        }
        Ok(file)
    }
}
