//! One function per command. Commands talk to a running edge or cloud through its admin socket.

mod admin;
mod audit;
mod bundle;
mod check;
mod device;
mod duration;
mod entry;
mod event;
mod localauthority;
mod mqtt;
mod node;
mod policy;
mod rule;
mod run;
mod session;
mod signals;
mod status;
mod svid;
mod token;

pub(crate) use admin::connect;

use crate::cli::{AuditCommand, Cli, Command};
use crate::exit::{self, failure};
use crate::output::Output;
use std::path::Path;
use std::process::ExitCode;

/// Whoever gives a flag to a role expects it to do something.
fn refuse_unused(output: Output, socket: Option<&Path>) -> anyhow::Result<()> {
    if socket.is_some() {
        let text = "--socketPath is for commands that talk to a running process; the sockets that are served are in \
                    the configuration (run-dir, edge-socket, workload-socket)";
        return Err(failure(exit::USAGE, text));
    }
    if output == Output::Json {
        let text =
            "--output json is for commands that print an answer; for logs write format = \"json\" in [log]";
        return Err(failure(exit::USAGE, text));
    }
    Ok(())
}

/// Tells whether a command only shows what there is or comes, as long as somebody reads.
fn is_stream(command: &Command) -> bool {
    match command {
        Command::Audit(command) => matches!(command, AuditCommand::Show { .. } | AuditCommand::Follow { .. }),
        Command::Sub(_) | Command::LightMapper(_) => true,
        _ => false,
    }
}

/// Runs one command to its end.
pub(crate) async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let Cli { command, output, socket } = cli;
    if let Command::Edge(_) | Command::Cloud(_) | Command::Agent(_) = command {
        refuse_unused(output, socket.as_deref())?;
    }
    let admin = admin::Admin::new(socket);
    if is_stream(&command) {
        crate::output::end_with_reader();
    }
    match command {
        Command::Edge(file) => run::edge(&file.config).await?,
        Command::Cloud(file) => run::cloud(&file.config).await?,
        Command::Agent(file) => run::agent(&file.config).await?,
        Command::LightMapper(arguments) => run::light(arguments, output).await?,
        Command::Demo(arguments) => return crate::demo::run(&arguments, output).await,
        Command::Check(file) => check::run(&file.config, output).await?,
        Command::Entry(command) => entry::run(&admin, command, output).await?,
        Command::Token(command) => token::run(&admin, command, output).await?,
        Command::Bundle(command) => bundle::run(&admin, command, output).await?,
        Command::LocalAuthority(command) => localauthority::run(&admin, command, output).await?,
        Command::Svid(command) => svid::run(&admin, command, output).await?,
        Command::Session(command) => session::run(&admin, command, output).await?,
        Command::Node(command) => node::run(&admin, command, output).await?,
        Command::Event(command) => event::run(&admin, command, output).await?,
        Command::Device(command) => device::run(&admin, command, output).await?,
        Command::Policy(command) => return policy::run(&admin, command, output).await,
        Command::Rule(command) => rule::run(&admin, command, output).await?,
        Command::Audit(command) => return audit::run(&admin, command, output).await,
        Command::Status => return status::run(&admin, output).await,
        Command::Pub(arguments) => mqtt::publish(arguments, output).await?,
        Command::Sub(arguments) => mqtt::subscribe(arguments, output).await?,
    }
    Ok(ExitCode::SUCCESS)
}
