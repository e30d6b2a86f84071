//! The `outbox-bridge` command.

fn main() -> std::process::ExitCode {
    outbox_bridge::cli::main()
}
