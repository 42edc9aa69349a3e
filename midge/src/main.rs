//! The `midge` command: runs the edge, the cloud and the agent, and manages them.

mod cli;
mod commands;
mod config;
mod demo;
mod exit;
mod output;
mod parts;

use std::process::ExitCode;

/// Admin socket that commands use unless told otherwise.
pub(crate) const DEFAULT_ADMIN_SOCKET: &str = "/var/lib/midge/run/admin.sock";

fn main() -> ExitCode {
    let arguments = cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return exit::report(&anyhow::anyhow!("cannot start the runtime: {error}")),
    };
    match runtime.block_on(commands::run(arguments)) {
        Ok(code) => code,
        Err(error) => exit::report(&error),
    }
}
