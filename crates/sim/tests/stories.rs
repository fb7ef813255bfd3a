//! What the simulation promises of itself. The fleet's own promises are kept or broken by
//! `cargo xtask sim`, over many more seeds.

use sim::{Stage, run};

#[test]
fn one_seed_is_one_story() {
    let stage = Stage::new().expect("there is room for a database");
    for seed in [1, 2, 3] {
        let first = run(&stage, seed).expect("the story is told");
        let second = run(&stage, seed).expect("the story is told");
        assert_eq!(first.violation, None, "{:#?}", first.story);
        assert!(first.story.len() > 50, "something happens: {:#?}", first.story);
        for (number, (one, other)) in first.story.iter().zip(&second.story).enumerate() {
            assert_eq!(one, other, "line {number} of seed {seed}");
        }
        assert_eq!(first.story.len(), second.story.len());
    }
}
