//! dtm with other programs over the same maps: what an upgrade is to the one before.

fn main() -> std::process::ExitCode {
    dtm_daemon::command::main()
}
