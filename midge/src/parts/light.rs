//! `midge light-mapper`: the light of KubeEdge's example, as a program of its own.

use crate::cli::LightArgs;
use crate::exit::{self, WithCode as _, failure};
use crate::output::{self, Output};
use light_mapper::{LightConfig, LightEvent, Observer, Power};
use mapper_sdk::{DeviceId, SpiffeId};
use midge_runtime::Supervisor;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::time::Duration;

/// Time for the last messages to be sent.
const GRACE: Duration = Duration::from_secs(5);

/// Runs the light until it is asked to stop.
pub(crate) async fn run(arguments: LightArgs, output: Output) -> anyhow::Result<()> {
    let config = config(arguments, output)?;
    let mut tasks = Supervisor::new();
    let token = tasks.token();
    tasks.spawn("light", light_mapper::run(config, token));
    tasks.run_until_shutdown(GRACE).await
}

fn config(arguments: LightArgs, output: Output) -> anyhow::Result<LightConfig> {
    let LightArgs { device, broker, broker_id, workload_api } = arguments;
    let device: DeviceId = device.parse().code(exit::USAGE)?;
    let broker_id = SpiffeId::new(&broker_id)
        .map_err(|error| failure(exit::USAGE, format!("--broker-id \"{broker_id}\": {error}")))?;
    let (host, port) = host_and_port(&broker).ok_or_else(|| {
        failure(exit::USAGE, format!("--broker \"{broker}\": write HOST:PORT, such as 127.0.0.1:8883"))
    })?;
    let mut config = LightConfig::new(device, host, port);
    config.source.endpoint = Some(workload_api);
    config.broker = Some(broker_id);
    let printer = Mutex::new(Printer::default());
    config.observer = Observer::new(move |event| match output {
        Output::Pretty => output::line(event),
        Output::Json => {
            if let Some(line) = printer.lock().json(event) {
                output::line(line);
            }
        }
    });
    Ok(config)
}

fn host_and_port(text: &str) -> Option<(&str, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let host = host.strip_prefix('[').map_or(Some(host), |host| host.strip_suffix(']'))?;
    Some((host, port.parse().ok()?)).filter(|(host, _)| !host.is_empty())
}

/// Events as lines of JSON, the light's state once for each change.
#[derive(Debug, Default)]
struct Printer {
    on: Option<bool>,
}

impl Printer {
    fn json(&mut self, event: &LightEvent) -> Option<Value> {
        let line = match event {
            LightEvent::Waiting { reason } => json!({ "event": "waiting", "reason": reason }),
            LightEvent::Identity { spiffe_id, serial, expires } => {
                json!({ "event": "identity", "id": spiffe_id, "serial": serial, "expires_at": expires / 1000 })
            }
            LightEvent::Connected { resumed } => json!({ "event": "connected", "resumed": resumed }),
            LightEvent::Renewing => json!({ "event": "renewing" }),
            LightEvent::Disconnected { reason } => json!({ "event": "disconnected", "reason": reason }),
            // A light that was right from the start is only reported.
            LightEvent::Light { state } | LightEvent::Reported { state } => {
                let on = *state == Power::On;
                if self.on.replace(on) == Some(on) {
                    return None;
                }
                json!({ "event": "light", "on": on })
            }
            LightEvent::Refused { topic, reason } => {
                json!({ "event": "refused", "topic": topic, "reason": reason })
            }
            LightEvent::Failed { reason } => json!({ "event": "failed", "reason": reason }),
        };
        Some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_light_is_told_once_for_each_change() {
        let mut printer = Printer::default();
        let told: Vec<Option<Value>> = [
            LightEvent::Reported { state: Power::Off },
            LightEvent::Light { state: Power::On },
            LightEvent::Reported { state: Power::On },
            LightEvent::Light { state: Power::Off },
        ]
        .iter()
        .map(|event| printer.json(event))
        .collect();
        let light = |on: bool| Some(json!({ "event": "light", "on": on }));
        assert_eq!(told, [light(false), light(true), None, light(false)]);
    }

    #[test]
    fn arguments_become_a_configuration_or_an_error_that_names_them() {
        let arguments = |device: &str, broker: &str, id: &str| LightArgs {
            device: device.into(),
            broker: broker.into(),
            broker_id: id.into(),
            workload_api: "unix:///run/agent.sock".into(),
        };
        let id = "spiffe://example.org/edge/box-1/broker";
        let good = config(arguments("led-1", "[::1]:8883", id), Output::Json).unwrap();
        assert_eq!((good.host.as_str(), good.port), ("::1", 8883));
        assert_eq!(good.broker.map(|id| id.to_string()).as_deref(), Some(id));
        for (device, broker, broker_id, named) in [
            ("a/b/c", "box:1", id, "a/b/c"),
            ("led-1", "box", id, "--broker \"box\""),
            ("led-1", ":8883", id, "--broker \":8883\""),
            ("led-1", "box:1", "box", "--broker-id \"box\""),
        ] {
            let error = config(arguments(device, broker, broker_id), Output::Json).err().unwrap().to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}
