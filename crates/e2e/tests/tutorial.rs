//! The tutorial, done as it says: every command of `docs/tutorial.md` in order, in one shell, against the real
//! binary. What stands below a block as `text` has to be in what the block printed, and the loop in the other
//! terminal, which asks the service all the time, must never go without an answer.
//!
//! Only the addresses are others than a reader's, so that tests can run beside each other.

use e2e::Machine;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// Of one block; the longest waits for a release that never gets healthy.
const LIMIT: Duration = Duration::from_secs(120);

#[derive(Debug)]
struct Block {
    section: String,
    /// What stands after the three backticks.
    kind: String,
    text: String,
}

fn blocks(page: &str) -> Vec<Block> {
    let (mut blocks, mut section, mut open) = (Vec::new(), String::new(), None::<Block>);
    for line in page.lines() {
        match (&mut open, line.strip_prefix("```"), line.strip_prefix("## ")) {
            (Some(_), Some(_), _) => blocks.extend(open.take()),
            (Some(block), None, _) => block.text.push_str(&format!("{line}\n")),
            (None, Some(kind), _) => {
                open = Some(Block { section: section.clone(), kind: kind.to_owned(), text: String::new() });
            }
            (None, None, Some(heading)) => section = heading.to_owned(),
            (None, None, None) => {}
        }
    }
    blocks
}

/// Programs of this build come first; commits are somebody's.
fn prepared(machine: &Machine, program: &str) -> Command {
    let folder = e2e::binary("mainstay");
    let path = std::env::var("PATH").expect("there is a PATH");
    let path = format!("{}:{path}", folder.parent().expect("a binary lies in a folder").display());
    let mut command = Command::new(program);
    machine.prepare(&mut command);
    command.env("PATH", path);
    command.env("MAINSTAY_LISTEN", format!("127.0.0.1:{}", machine.control_port));
    command.env("MAINSTAY_GATEWAY_PORT", machine.gateway_port.to_string());
    for role in ["AUTHOR", "COMMITTER"] {
        command.env(format!("GIT_{role}_NAME"), "Reader").env(format!("GIT_{role}_EMAIL"), "reader@example.com");
    }
    command
}

/// A shell that goes on from block to block.
struct Terminal {
    shell: Child,
    input: ChildStdin,
    output: Receiver<String>,
}

impl Terminal {
    fn open(machine: &Machine) -> Self {
        let mut command = prepared(machine, "bash");
        let mut shell = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("bash can be started");
        let mut input = shell.stdin.take().expect("it is piped");
        writeln!(input, "exec 2>&1").expect("the shell reads");
        let lines = BufReader::new(shell.stdout.take().expect("it is piped")).lines();
        let (sender, output) = channel();
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { shell, input, output }
    }

    /// What the block prints until its last command has ended.
    fn run(&mut self, block: &str) -> String {
        const END: &str = "=== end of the block ===";
        // The shell reads its commands from where they would read.
        writeln!(self.input, "{{\n{block}\n}} </dev/null\necho; echo '{END}'").expect("the shell reads");
        let mut said = String::new();
        loop {
            match self.output.recv_timeout(LIMIT) {
                Ok(line) if line == END => return said,
                Ok(line) => said.push_str(&format!("{line}\n")),
                Err(_) => panic!("not at its end after {LIMIT:?}:\n{block}\n--- so far\n{said}"),
            }
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

/// Ended with the test, and what it printed.
struct Loop {
    shell: Child,
    output: std::path::PathBuf,
}

impl Loop {
    fn begin(machine: &Machine, block: &str) -> Self {
        let output = machine.folder().join("terminal-2");
        let file = File::create(&output).expect("the test's folder can be written");
        let errors = file.try_clone().expect("a file handle can be cloned");
        let mut command = prepared(machine, "bash");
        let shell = command.args(["-c", block]).stdout(file).stderr(errors).spawn().expect("bash can be started");
        Self { shell, output }
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.output).expect("it was written")
    }

    /// Once it has asked twice more: the first may have begun before.
    fn end(mut self) -> String {
        let (begun, asked) = (Instant::now(), self.said().lines().count());
        while self.said().lines().count() < asked + 2 {
            assert!(begun.elapsed() < LIMIT, "the loop in the other terminal does not go on:\n{}", self.said());
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = self.shell.kill();
        let _ = self.shell.wait();
        self.said()
    }
}

#[test]
fn every_command_of_the_tutorial_does_what_it_says() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().join("docs/tutorial.md");
    let page = std::fs::read_to_string(page).unwrap();
    let machine = Machine::new().unwrap();
    let page = page.replace("http://127.0.0.1:8080", &machine.gateway_url());
    let blocks = blocks(&page);
    let last = &blocks.last().unwrap().section;
    let mut terminal = Terminal::open(&machine);
    let (mut other, mut said) = (None, String::new());
    for block in &blocks {
        // There everything is stopped at the end.
        if &block.section == last
            && let Some(asking) = other.take()
        {
            nothing_was_missed(&Loop::end(asking));
        }
        match block.kind.as_str() {
            "sh" => said = terminal.run(&block.text),
            "sh terminal=2" => other = Some(Loop::begin(&machine, &block.text)),
            "text" => {
                for line in block.text.lines() {
                    assert!(said.contains(line), "{}: `{line}` was not printed:\n{said}", block.section);
                }
            }
            kind => panic!("{}: what is a block of `{kind}`?", block.section),
        }
        println!("{}\n{said}", block.section);
    }
    assert!(said.contains("shop=3") || said.contains("3 instances"), "the last section was done:\n{said}");
    drop(terminal);
    assert_eq!(machine.processes(), [], "`mainstay down` stops everything");
}

fn nothing_was_missed(answers: &str) {
    let lines: Vec<&str> = answers.lines().collect();
    let wrong: Vec<&&str> = lines.iter().filter(|line| !line.starts_with("hello from release ")).collect();
    assert!(wrong.is_empty(), "the loop in the other terminal went without an answer: {wrong:?}");
    let mut releases = lines.clone();
    releases.dedup();
    let expected = ["hello from release 1", "hello from release 2", "hello from release 1"];
    assert_eq!(releases, expected, "each release served in its time, and the broken one never");
}
