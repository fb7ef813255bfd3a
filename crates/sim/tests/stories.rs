//! What the simulation promises of itself. The fleet's own promises are kept or broken by
//! `cargo xtask sim`, over many more seeds.

use sim::{Beginning, Stage, Told, run};
use std::io::Write;
use std::process::{Command, Stdio};

#[test]
fn one_seed_is_one_story() {
    let stage = Stage::new().expect("there is room for a database");
    for seed in [2, 3, 4] {
        let first = run(&stage, seed).expect("the story is told");
        let second = run(&stage, seed).expect("the story is told");
        assert_eq!(first.violation, None, "{:#?}", first.story);
        assert!(first.story.len() > 20, "something happens: {:#?}", first.story);
        for (number, (one, other)) in first.story.iter().zip(&second.story).enumerate() {
            assert_eq!(one, other, "line {number} of seed {seed}");
        }
        assert_eq!(first.story.len(), second.story.len());
    }
}

/// Two beginnings with three stories each, in turns, and two stories with beginnings of their own.
fn a_few_seeds() -> Vec<u64> {
    let of = |wanted: Beginning| (0..).filter(move |seed| Beginning::of(*seed) == wanted).take(3);
    let own = (0..).filter(|seed| matches!(Beginning::of(*seed), Beginning::Own(_))).take(2);
    let shared = of(Beginning::Shared(0)).zip(of(Beginning::Shared(1))).flat_map(|(one, other)| [one, other]);
    shared.chain(own).collect()
}

#[test]
fn a_story_from_a_shared_beginning_is_the_one_that_is_told_from_its_first_moment() {
    let seeds = a_few_seeds();
    let mut command = Command::new(env!("CARGO_BIN_EXE_sim"));
    let mut narrating =
        command.args(["--narrate", "0"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
    let mut asking = narrating.stdin.take().expect("it has a pipe");
    for seed in &seeds {
        writeln!(asking, "{seed}").expect("it listens");
    }
    drop(asking);
    let output = narrating.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{output:?}");
    let lines = String::from_utf8(output.stdout).expect("it speaks plainly");
    let told: Vec<Told> = lines.lines().map(|line| serde_json::from_str(line).expect("it says what it told")).collect();

    let stage = Stage::new().expect("there is room for a database");
    let whole = |seed: &u64| Told::of(*seed, &run(&stage, *seed).expect("the story is told"));
    assert_eq!(told, seeds.iter().map(whole).collect::<Vec<_>>());
    for (number, one) in told.iter().enumerate() {
        assert!(told[..number].iter().all(|other| other.digest != one.digest), "each is another story: {told:#?}");
    }
}

/// As many as an unoptimised build tells in about half a minute; `cargo xtask sim` tells many more. They begin with 2
/// because 1 broke a promise when they were chosen; it is mended.
#[test]
fn forty_seeds_break_no_promise() {
    let broken: Vec<String> = std::thread::scope(|scope| {
        let half = |first: u64| {
            scope.spawn(move || {
                let stage = Stage::new().expect("there is room for a database");
                let told = (first..42).step_by(2).map(|seed| (seed, run(&stage, seed).expect("the story is told")));
                told.filter_map(|(seed, outcome)| Some(format!("seed {seed}: {}", outcome.violation?)))
                    .collect::<Vec<_>>()
            })
        };
        [half(2), half(3)].into_iter().flat_map(|thread| thread.join().expect("no thread panics")).collect()
    });
    assert_eq!(broken, Vec::<String>::new(), "their stories: cargo xtask sim --seed S");
}
