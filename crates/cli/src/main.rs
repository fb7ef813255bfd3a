//! `mainstay`: see the library for everything.

fn main() -> std::process::ExitCode {
    cli::main()
}
