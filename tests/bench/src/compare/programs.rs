//! Finding, building and installing what is compared.

use super::servers::{Programs, Server};
use crate::load::Version;
use anyhow::{Context as _, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The release that is measured.
const RUMQTTD: &str = "0.20.0";

/// Returns the servers that can be measured and where they are; says of each other why not.
#[expect(clippy::unused_async, reason = "called from the runtime, as everything of `compare`")]
pub(crate) async fn find(
    wanted: &[Server],
    midge: Option<PathBuf>,
    midge_option: Option<String>,
    version: Version,
) -> anyhow::Result<(Vec<Server>, Programs)> {
    let all = [Server::Midge, Server::Mosquitto, Server::Rumqttd, Server::Relay];
    let mut servers = if wanted.is_empty() { all.to_vec() } else { wanted.to_vec() };
    let midge = match midge {
        Some(midge) => midge,
        None if servers.contains(&Server::Midge) => build_midge()?,
        None => PathBuf::new(),
    };
    let mosquitto = PathBuf::from("/usr/sbin/mosquitto");
    if servers.contains(&Server::Mosquitto) && !mosquitto.exists() {
        skip(&mut servers, Server::Mosquitto, "apt-get install mosquitto");
    }
    let rumqttd = if servers.contains(&Server::Rumqttd) { rumqttd().map(Some) } else { Ok(None) };
    let rumqttd = rumqttd.unwrap_or_else(|error| {
        skip(&mut servers, Server::Rumqttd, &format!("{error:#}"));
        None
    });
    Ok((servers, Programs { midge, mosquitto, rumqttd, version, midge_option, dir: PathBuf::new() }))
}

#[expect(clippy::print_stdout, reason = "the user has to know what is missing in the table")]
fn skip(servers: &mut Vec<Server>, server: Server, why: &str) {
    println!("without {}: {why}", server.name());
    servers.retain(|other| *other != server);
}

fn target_dir() -> anyhow::Result<PathBuf> {
    // target/<profile>/midge-bench
    let own = std::env::current_exe()?;
    let dir = own.parent().and_then(Path::parent);
    Ok(dir.context("this program is not in a target directory")?.to_owned())
}

fn build_midge() -> anyhow::Result<PathBuf> {
    let target = target_dir()?;
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut cargo = Command::new("cargo");
    cargo
        .args(["build", "--release", "--package", "midge", "--target-dir"])
        .arg(&target)
        .current_dir(workspace);
    ensure!(cargo.status()?.success(), "midge does not build");
    Ok(target.join("release/midge"))
}

fn rumqttd() -> anyhow::Result<PathBuf> {
    let root = target_dir()?.join("peers");
    let program = root.join("bin/rumqttd");
    if !program.exists() {
        let mut cargo = Command::new("cargo");
        cargo.args([
            "install",
            "rumqttd",
            "--version",
            RUMQTTD,
            "--features",
            "verify-client-cert",
            "--root",
        ]);
        cargo.arg(&root).arg("--target-dir").arg(root.join("build"));
        ensure!(cargo.status()?.success(), "cargo install rumqttd {RUMQTTD} failed");
    }
    Ok(program)
}
