//! Property blocks: their length, which properties may stand there, and which of them twice.

use super::Role;
use crate::error::Violation;
use crate::limits::Limits;
use crate::packet::{Info, UserProperties};
use crate::property::{Place, Property};
use crate::wire::Reader;
use bytes::Bytes;
use std::num::NonZeroU16;
use std::sync::Arc;

/// Walks one property block: `next` names a property, one of the readers takes its value.
pub(super) struct PropertyReader<'a> {
    reader: Reader<'a>,
    place: Place,
    /// One bit per property id seen; all ids are below 64.
    seen: u64,
    user_properties_max: usize,
}

impl<'a> PropertyReader<'a> {
    pub(super) fn open(reader: &mut Reader<'a>, place: Place, limits: &Limits) -> Result<Self, Violation> {
        let len = usize::try_from(reader.varint()?).unwrap_or(usize::MAX);
        let block = reader.split(len)?;
        let max = limits.properties_bytes_max;
        if len > max {
            return Err(Violation::PropertiesTooLarge { len, max });
        }
        Ok(Self { reader: block, place, seen: 0, user_properties_max: limits.user_properties_max })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.reader.is_empty()
    }

    pub(super) fn next(&mut self) -> Result<Option<Property>, Violation> {
        if self.reader.is_empty() {
            return Ok(None);
        }
        let id = self.reader.varint()?;
        let property = Property::from_id(id).ok_or(Violation::UnknownProperty(id))?;
        if !property.is_allowed_in(self.place) {
            return Err(Violation::MisplacedProperty(property));
        }
        let bit = 1u64 << property as u8;
        if self.seen & bit != 0 && !self.is_repeatable(property) {
            return Err(Violation::DuplicateProperty(property));
        }
        self.seen |= bit;
        Ok(Some(property))
    }

    /// Overlapping subscriptions may give one PUBLISH several identifiers (§3.3.4); SUBSCRIBE has one (§3.8.2.1.2).
    fn is_repeatable(&self, property: Property) -> bool {
        property == Property::UserProperty
            || property == Property::SubscriptionIdentifier && self.place == Place::Publish
    }

    pub(super) fn has(&self, property: Property) -> bool {
        self.seen & (1u64 << property as u8) != 0
    }

    /// A byte that means false or true; every other value is a protocol error.
    pub(super) fn flag(&mut self, property: Property) -> Result<bool, Violation> {
        match self.reader.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            value => Err(Violation::PropertyValue { property, value: value.into() }),
        }
    }

    pub(super) fn u16(&mut self) -> Result<u16, Violation> {
        self.reader.u16()
    }

    pub(super) fn u32(&mut self) -> Result<u32, Violation> {
        self.reader.u32()
    }

    pub(super) fn nonzero_u16(&mut self, property: Property) -> Result<NonZeroU16, Violation> {
        NonZeroU16::new(self.reader.u16()?).ok_or(Violation::PropertyValue { property, value: 0 })
    }

    pub(super) fn nonzero_u32(&mut self, property: Property) -> Result<u32, Violation> {
        match self.reader.u32()? {
            0 => Err(Violation::PropertyValue { property, value: 0 }),
            value => Ok(value),
        }
    }

    pub(super) fn subscription_id(&mut self) -> Result<u32, Violation> {
        match self.reader.varint()? {
            0 => Err(Violation::PropertyValue { property: Property::SubscriptionIdentifier, value: 0 }),
            value => Ok(value),
        }
    }

    pub(super) fn str(&mut self) -> Result<&'a str, Violation> {
        self.reader.str()
    }

    pub(super) fn text(&mut self) -> Result<Arc<str>, Violation> {
        self.reader.text()
    }

    pub(super) fn binary(&mut self) -> Result<Bytes, Violation> {
        self.reader.binary()
    }

    pub(super) fn user_property(&mut self, into: &mut UserProperties) -> Result<(), Violation> {
        let max = self.user_properties_max;
        if into.len() >= max {
            return Err(Violation::TooManyUserProperties { max });
        }
        let name = self.reader.str()?;
        let value = self.reader.str()?;
        into.push((name.into(), value.into()));
        Ok(())
    }

    /// Takes the value of Reason String or User Property, the two every acknowledgement has.
    pub(super) fn info(&mut self, property: Property, info: &mut Info) -> Result<(), Violation> {
        match property {
            Property::ReasonString => info.reason_string = Some(self.text()?),
            Property::UserProperty => self.user_property(&mut info.user_properties)?,
            other => return Err(Violation::MisplacedProperty(other)),
        }
        Ok(())
    }

    /// Refuses Authentication Data that comes without Authentication Method (§3.1.2.11.10).
    pub(super) fn check_authentication(&self) -> Result<(), Violation> {
        if self.has(Property::AuthenticationData) && !self.has(Property::AuthenticationMethod) {
            return Err(Violation::AuthenticationDataAlone);
        }
        Ok(())
    }
}

/// Reads a block that has only user properties.
pub(super) fn user_properties(
    reader: &mut Reader<'_>,
    place: Place,
    limits: &Limits,
) -> Result<UserProperties, Violation> {
    let mut found = UserProperties::new();
    let mut block = PropertyReader::open(reader, place, limits)?;
    while block.next()?.is_some() {
        block.user_property(&mut found)?;
    }
    Ok(found)
}

/// Reads a block of Reason String and user properties.
pub(super) fn info(reader: &mut Reader<'_>, limits: &Limits) -> Result<Info, Violation> {
    let mut found = Info::default();
    let mut block = PropertyReader::open(reader, Place::Ack, limits)?;
    while let Some(property) = block.next()? {
        block.info(property, &mut found)?;
    }
    Ok(found)
}

/// Refuses a property that only the other side may send.
pub(super) fn only_to(wanted: Role, role: Role, property: Property) -> Result<(), Violation> {
    if wanted == role { Ok(()) } else { Err(Violation::PropertyDirection(property)) }
}
