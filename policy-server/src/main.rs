//! `ostiary`: the policy server and its command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    policy_server::cli::run(std::env::args_os())
}
