//! `midge device …`: devices and their twins.

use super::admin::Admin;
use crate::cli::{DeviceCommand, DeviceName};
use crate::exit::{self, failure};
use crate::output::{self, Output};
use midge_api::midge::v1::{
    CreateDeviceRequest, DeleteDeviceRequest, Device, ListDevicesRequest, SetDeviceRequest,
    ShowDeviceRequest, TwinProperty,
};
use std::collections::HashMap;

pub(crate) async fn run(admin: &Admin, command: DeviceCommand, output: Output) -> anyhow::Result<()> {
    let mut client = admin.midge().await?;
    let device = match command {
        DeviceCommand::List { node } => {
            let request = ListDevicesRequest { node: node.unwrap_or_default() };
            let response = client.list_devices(request).await.map_err(|status| admin.error(&status))?;
            return list(&response.into_inner().devices, output);
        }
        DeviceCommand::Create { name, description, properties } => {
            let request = CreateDeviceRequest { device: Some(new_device(name, description, &properties)?) };
            client.create_device(request).await
        }
        DeviceCommand::Set { name, property, value, is_new } => {
            let DeviceName { device: id, node } = name;
            let node = node.unwrap_or_default();
            if !is_new {
                let request = ShowDeviceRequest { id: id.clone(), node: node.clone() };
                let device = client.show_device(request).await.map_err(|status| admin.error(&status))?;
                check_property(&device.into_inner(), &property)?;
            }
            let desired = HashMap::from([(property, value)]);
            client.set_device(SetDeviceRequest { id, node, desired }).await
        }
        DeviceCommand::Delete(DeviceName { device: id, node }) => {
            let request = DeleteDeviceRequest { id, node: node.unwrap_or_default() };
            let deleted = client.delete_device(request).await.map_err(|status| admin.error(&status))?;
            let device = deleted.into_inner().id;
            if output == Output::Json {
                return output::json(&serde_json::json!({ "deleted": device }));
            }
            output::line(format_args!("Deleted device {device}"));
            return Ok(());
        }
        DeviceCommand::Show(DeviceName { device: id, node }) => {
            client.show_device(ShowDeviceRequest { id, node: node.unwrap_or_default() }).await
        }
    };
    show(&device.map_err(|status| admin.error(&status))?.into_inner(), output)
}

/// KubeEdge takes a property by any name; a name that was mistyped would be one more that no mapper knows.
fn check_property(device: &Device, property: &str) -> anyhow::Result<()> {
    if device.twin.contains_key(property) {
        return Ok(());
    }
    let mut known: Vec<&str> = device.twin.keys().map(String::as_str).collect();
    known.sort_unstable();
    let known = if known.is_empty() { "none yet".to_owned() } else { known.join(", ") };
    let id = &device.id;
    Err(failure(exit::NO, format!("device {id} has no property {property} (it has {known}); --new adds it")))
}

fn new_device(name: DeviceName, description: String, properties: &[String]) -> anyhow::Result<Device> {
    let twin = properties.iter().map(|text| match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => {
            Ok((name.to_owned(), TwinProperty { desired: Some(value.to_owned()), ..TwinProperty::default() }))
        }
        _ => Err(failure(
            exit::USAGE,
            format!("--property \"{text}\": write NAME=VALUE, such as power-status=OFF"),
        )),
    });
    Ok(Device {
        id: name.device.clone(),
        name: name.device,
        description,
        node: name.node.unwrap_or_default(),
        twin: twin.collect::<anyhow::Result<_>>()?,
        ..Device::default()
    })
}

fn list(devices: &[Device], output: Output) -> anyhow::Result<()> {
    if output == Output::Json {
        return output::json(&serde_json::json!({ "devices": devices }));
    }
    let rows: Vec<Vec<String>> = devices
        .iter()
        .map(|device| vec![device.id.clone(), device.node.clone(), device.state.clone(), twin_text(device)])
        .collect();
    output::table(&["DEVICE", "NODE", "STATE", "TWIN"], &rows);
    Ok(())
}

fn show(device: &Device, output: Output) -> anyhow::Result<()> {
    if output == Output::Json {
        return output::json(device);
    }
    output::fields(&[
        ("Device", device.id.clone()),
        ("Node", device.node.clone()),
        ("Description", device.description.clone()),
        ("State", device.state.clone()),
    ]);
    let mut rows: Vec<Vec<String>> = device
        .twin
        .iter()
        .map(|(name, property)| {
            let value = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".into());
            vec![name.clone(), value(&property.desired), value(&property.actual)]
        })
        .collect();
    rows.sort();
    output::table(&["PROPERTY", "DESIRED", "ACTUAL"], &rows);
    Ok(())
}

fn twin_text(device: &Device) -> String {
    let mut twin: Vec<String> = device
        .twin
        .iter()
        .map(|(name, property)| {
            let actual = property.actual.as_deref().unwrap_or("-");
            match property.desired.as_deref() {
                Some(desired) if desired != actual => format!("{name}={actual} (desired {desired})"),
                _ => format!("{name}={actual}"),
            }
        })
        .collect();
    twin.sort();
    twin.join(" ")
}
