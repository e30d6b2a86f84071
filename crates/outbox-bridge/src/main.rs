//! The `outbox-bridge` command.

/// An event is some dozens of small allocations, which live until it is stored and go all at once. The C library's allocator
/// spends a quarter of the bridge's processor time on that (`ARCHITECTURE.md`, "Performance").
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    outbox_bridge::cli::main()
}
