//! One light and where it reports to.

use crate::event::Observer;
use mapper_sdk::{Clock, DeviceId, IdentityChoice, SpiffeId, TopicForm, WorkloadSource};
use std::path::PathBuf;

/// One light and where it reports to.
#[derive(Clone)]
pub struct LightConfig {
    /// Name of the device.
    pub device: DeviceId,
    /// Form of its topics.
    pub form: TopicForm,
    /// Where the mapper's identity comes from.
    pub source: WorkloadSource,
    /// Host name or address of the MQTT broker.
    pub host: String,
    /// Its mTLS port.
    pub port: u16,
    /// SPIFFE ID that the broker must prove; none means `…/edge/<node>/broker` beside the mapper's own.
    pub broker: Option<SpiffeId>,
    /// MQTT client id.
    pub client_id: String,
    /// The light itself.
    pub lamp: LampConfig,
    /// Told of everything that happens.
    pub observer: Observer,
}

/// What is switched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LampConfig {
    /// Nothing but a state.
    #[default]
    Simulated,
    /// An output line of a GPIO chip.
    Gpio {
        /// Device file of the chip, such as `/dev/gpiochip0`.
        chip: PathBuf,
        /// Offset of the line on the chip.
        line: u32,
    },
}

impl LightConfig {
    /// Returns the configuration of a simulated light whose mapper has an identity ending in
    /// `/mapper/<name>`, and the device's name as client id.
    pub fn new(device: DeviceId, host: impl Into<String>, port: u16) -> Self {
        let choice = IdentityChoice::PathSuffix(format!("/mapper/{}", device.name()));
        Self {
            form: TopicForm::of(&device),
            source: WorkloadSource { endpoint: None, choice, clock: Clock::system() },
            host: host.into(),
            port,
            broker: None,
            client_id: device.name().to_owned(),
            lamp: LampConfig::Simulated,
            observer: Observer::default(),
            device,
        }
    }
}
