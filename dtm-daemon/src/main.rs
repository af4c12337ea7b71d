//! The dtm binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    dtm_daemon::command::main()
}
