//! The light itself, and how it is switched.

use crate::config::LampConfig;
use gpiocdev::Request;
use gpiocdev::line::Value;
use serde::Serialize;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use thiserror::Error;

/// What a light is, and what it is wanted to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Power {
    /// Lit.
    On,
    /// Dark.
    #[default]
    Off,
}

impl Power {
    /// The twin's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::On => "ON",
            Self::Off => "OFF",
        }
    }
}

impl FromStr for Power {
    type Err = LampError;

    fn from_str(text: &str) -> Result<Self, LampError> {
        match text {
            _ if text.eq_ignore_ascii_case("on") => Ok(Self::On),
            _ if text.eq_ignore_ascii_case("off") => Ok(Self::Off),
            _ => Err(LampError::Value(text.chars().take(64).collect())),
        }
    }
}

impl fmt::Display for Power {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// Why a light was not switched.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LampError {
    /// The twin wants something a light cannot be.
    #[error("power-status {0:?} is neither ON nor OFF")]
    Value(String),
    /// The GPIO line refused.
    #[error("gpio line {line} of {}: {reason}; check that the chip exists and that this user may use it", .chip.display())]
    Gpio {
        /// Device file of the chip.
        chip: PathBuf,
        /// Offset of the line.
        line: u32,
        /// What the kernel said.
        reason: String,
    },
}

/// A light; dark when it is opened.
#[derive(Debug)]
pub struct Lamp {
    power: Power,
    output: Output,
}

#[derive(Debug)]
enum Output {
    Simulated,
    Gpio { request: Request, chip: PathBuf, line: u32 },
}

impl Lamp {
    /// Opens the light.
    ///
    /// # Errors
    /// When the GPIO line cannot be had as an output.
    pub fn open(config: &LampConfig) -> Result<Self, LampError> {
        let output = match config {
            LampConfig::Simulated => Output::Simulated,
            LampConfig::Gpio { chip, line } => {
                let request = Request::builder()
                    .on_chip(chip)
                    .with_consumer("midge-light")
                    .with_line(*line)
                    .as_output(Value::Inactive)
                    .request()
                    .map_err(|error| gpio_error(chip, *line, &error))?;
                Output::Gpio { request, chip: chip.clone(), line: *line }
            }
        };
        Ok(Self { power: Power::Off, output })
    }

    /// What the light is now.
    pub fn power(&self) -> Power {
        self.power
    }

    /// Switches the light.
    ///
    /// # Errors
    /// When the GPIO line refuses; the light stays what it is.
    pub fn set(&mut self, power: Power) -> Result<(), LampError> {
        if let Output::Gpio { request, chip, line } = &self.output {
            let value = match power {
                Power::On => Value::Active,
                Power::Off => Value::Inactive,
            };
            request.set_value(*line, value).map_err(|error| gpio_error(chip, *line, &error))?;
        }
        self.power = power;
        Ok(())
    }
}

fn gpio_error(chip: &std::path::Path, line: u32, error: &gpiocdev::Error) -> LampError {
    LampError::Gpio { chip: chip.to_owned(), line, reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_in_any_case_and_written_in_kubeedges() {
        assert_eq!("on".parse::<Power>().unwrap().to_string(), "ON");
        assert_eq!("Off".parse::<Power>().unwrap(), Power::Off);
        let error = "dim".parse::<Power>().unwrap_err();
        assert_eq!(error.to_string(), r#"power-status "dim" is neither ON nor OFF"#);
    }

    #[test]
    fn a_simulated_light_is_dark_until_switched() {
        let mut lamp = Lamp::open(&LampConfig::Simulated).unwrap();
        assert_eq!(lamp.power(), Power::Off);
        lamp.set(Power::On).unwrap();
        assert_eq!(lamp.power(), Power::On);
    }

    #[test]
    fn a_chip_that_is_not_there_is_named() {
        let chip = PathBuf::from("/dev/gpiochip-absent");
        let error = Lamp::open(&LampConfig::Gpio { chip, line: 18 }).unwrap_err();
        assert!(error.to_string().starts_with("gpio line 18 of /dev/gpiochip-absent: "), "{error}");
    }
}
