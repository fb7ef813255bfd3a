//! The planner as others see it: golden worlds (`../worlds`), and properties that hold in every
//! world that a generator can make. What each property says and how often it is tried: docs/proof.md.
#![allow(
    clippy::disallowed_methods,
    reason = "the bans keep IO out of the planner; these are its tests, and read worlds from files"
)]

mod fleet;
mod gateway_properties;
mod golden;
mod host_properties;
mod host_worlds;
mod machine;
mod rollout_properties;
mod rollout_stories;
mod rollout_worlds;
mod samples;
mod stack_script;
mod words;
mod world;
