//! The long-running roles.

use super::signals::outlive_hangup;
use crate::cli::LightArgs;
use crate::config::{self, AgentConfig, CloudConfig, EdgeConfig, LogConfig};
use crate::exit::{self, WithCode};
use crate::output::Output;
use crate::parts;
use std::path::Path;

pub(crate) async fn edge(path: &Path) -> anyhow::Result<()> {
    let config: EdgeConfig = config::load(path)?;
    start(&config.log)?;
    parts::edge::run(config).await
}

pub(crate) async fn cloud(path: &Path) -> anyhow::Result<()> {
    let config: CloudConfig = config::load(path)?;
    start(&config.log)?;
    outlive_hangup()?;
    parts::cloud::run(config).await
}

pub(crate) async fn agent(path: &Path) -> anyhow::Result<()> {
    let config: AgentConfig = config::load(path)?;
    start(&config.log)?;
    outlive_hangup()?;
    parts::agent::run(config).await
}

pub(crate) async fn light(arguments: LightArgs, output: Output) -> anyhow::Result<()> {
    parts::light::run(arguments, output).await
}

fn start(log: &LogConfig) -> anyhow::Result<()> {
    midge_runtime::logs::init(log.format, &log.filter).code(exit::CONFIG)?;
    midge_pki::install_default();
    Ok(())
}
