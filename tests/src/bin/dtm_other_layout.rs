//! dtm with maps of another layout: what an upgrade that changes them is to the one before.

fn main() -> std::process::ExitCode {
    dtm_daemon::command::main()
}
