//! `gantry-runtime`: an OCI runtime with the command line of runc.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
