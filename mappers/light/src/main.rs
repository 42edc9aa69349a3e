//! The light mapper as a program of its own: `midge demo` and a Raspberry Pi run the same one.

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use light_mapper::{LampConfig, LightConfig, LightEvent, Observer, run};
use mapper_sdk::{DeviceId, IdentityChoice, IdentityError, SpiffeId};
use midge_runtime::{Supervisor, logs};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// A light whose twin key `power-status` is ON or OFF, with an identity of its own.
#[derive(Debug, Parser)]
#[command(name = "light-mapper", version)]
struct Arguments {
    /// Name of the device: NAME, or NAMESPACE/NAME.
    #[arg(long, default_value = "led-light-instance-01")]
    device: DeviceId,
    /// Address of the MQTT broker's mTLS listener, HOST:PORT.
    #[arg(long, default_value = "127.0.0.1:8883", value_parser = host_and_port)]
    broker: (String, u16),
    /// SPIFFE ID the broker must prove [default: .../edge/<node>/broker of the mapper's own box].
    #[arg(long)]
    broker_id: Option<SpiffeId>,
    /// Socket of the Workload API, such as unix:///run/midge/agent.sock [default: $SPIFFE_ENDPOINT_SOCKET].
    #[arg(long)]
    workload_api: Option<String>,
    /// SPIFFE ID to use of several issued [default: the one that ends in /mapper/<device>].
    #[arg(long)]
    spiffe_id: Option<SpiffeId>,
    /// MQTT client id [default: the device's name].
    #[arg(long)]
    client_id: Option<String>,
    /// GPIO chip to drive instead of a simulated light, such as /dev/gpiochip0.
    #[arg(long, requires = "gpio_line")]
    gpio_chip: Option<PathBuf>,
    /// Line of the GPIO chip.
    #[arg(long, requires = "gpio_chip")]
    gpio_line: Option<u32>,
    /// How events are printed on standard output.
    #[arg(long, value_enum, default_value_t = Output::Pretty)]
    output: Output,
    /// Which logs go to standard error, such as info or mapper_sdk=debug.
    #[arg(long, default_value = "warn")]
    log: String,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    /// A sentence per event.
    Pretty,
    /// A JSON object per event.
    Json,
}

/// EX_USAGE, EX_SOFTWARE of sysexits.
const USAGE: u8 = 64;
const SOFTWARE: u8 = 70;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are answers, not errors.
            let code = if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
            return error.print().map_or(ExitCode::from(SOFTWARE), |()| code);
        }
    };
    match start(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "stopped");
            let usage = error.chain().any(|cause| {
                matches!(
                    cause.downcast_ref(),
                    Some(IdentityError::NoEndpoint | IdentityError::Endpoint { .. })
                )
            });
            ExitCode::from(if usage { USAGE } else { SOFTWARE })
        }
    }
}

fn start(arguments: Arguments) -> anyhow::Result<()> {
    logs::init(logs::LogFormat::Human, &arguments.log)?;
    let config = config(arguments);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("tokio")?;
    runtime.block_on(async {
        let mut supervisor = Supervisor::new();
        let token = supervisor.token();
        supervisor.spawn("light", run(config, token));
        supervisor.run_until_shutdown(Duration::from_secs(5)).await
    })
}

fn config(arguments: Arguments) -> LightConfig {
    let (host, port) = arguments.broker;
    let mut config = LightConfig::new(arguments.device, host, port);
    config.source.endpoint = arguments.workload_api;
    if let Some(id) = arguments.spiffe_id {
        config.source.choice = IdentityChoice::Id(id);
    }
    if let Some(client_id) = arguments.client_id {
        config.client_id = client_id;
    }
    if let (Some(chip), Some(line)) = (arguments.gpio_chip, arguments.gpio_line) {
        config.lamp = LampConfig::Gpio { chip, line };
    }
    config.broker = arguments.broker_id;
    let (device, output) = (config.device.clone(), arguments.output);
    config.observer = Observer::new(move |event| print(output, &device, event));
    config
}

/// A reader that went away does not stop the light.
fn print(output: Output, device: &DeviceId, event: &LightEvent) {
    let line = match output {
        Output::Pretty => format!("{device}: {event}"),
        Output::Json => serde_json::to_string(event).unwrap_or_default(),
    };
    let mut stdout = std::io::stdout().lock();
    drop(writeln!(stdout, "{line}").and_then(|()| stdout.flush()));
}

fn host_and_port(text: &str) -> Result<(String, u16), String> {
    let (host, port) = text.rsplit_once(':').ok_or("say HOST:PORT, such as 127.0.0.1:8883")?;
    let port = port.parse().map_err(|_| format!("port {port:?} is not between 0 and 65535"))?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() {
        return Err("say HOST:PORT, such as 127.0.0.1:8883".to_owned());
    }
    Ok((host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn arguments_are_consistent_and_default_to_kubeedges_light() {
        Arguments::command().debug_assert();
        let config = config(Arguments::parse_from(["light-mapper"]));
        assert_eq!(config.device.to_string(), "led-light-instance-01");
        assert_eq!((config.host.as_str(), config.port), ("127.0.0.1", 8883));
        assert_eq!(config.source.choice, IdentityChoice::PathSuffix("/mapper/led-light-instance-01".into()));
        assert_eq!(config.lamp, LampConfig::Simulated);
    }

    #[test]
    fn a_broker_is_a_host_and_a_port() {
        assert_eq!(host_and_port("[::1]:8883"), Ok(("::1".into(), 8883)));
        for bad in ["box", ":8883", "box:", "box:70000"] {
            assert!(host_and_port(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_gpio_line_needs_its_chip() {
        assert!(Arguments::try_parse_from(["light-mapper", "--gpio-line", "18"]).is_err());
        let both = ["light-mapper", "--gpio-line", "18", "--gpio-chip", "/dev/gpiochip0"];
        let lamp = config(Arguments::try_parse_from(both).unwrap()).lamp;
        assert_eq!(lamp, LampConfig::Gpio { chip: "/dev/gpiochip0".into(), line: 18 });
    }
}
