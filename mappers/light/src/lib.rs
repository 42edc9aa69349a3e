//! KubeEdge's LED example: a light whose twin key `power-status` is `ON` or `OFF`.
//!
//! Owns the light, simulated or a GPIO line, and when it is switched and reported. Leaves identity,
//! connection and documents to `mapper-sdk`.

mod config;
mod event;
mod lamp;
mod light;
mod run;

pub use config::{LampConfig, LightConfig};
pub use event::{LightEvent, Observer};
pub use lamp::{Lamp, LampError, Power};
pub use run::run;
