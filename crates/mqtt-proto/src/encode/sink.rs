//! One description of each packet, run twice: first to count and check it, then to write it.

use crate::error::EncodeError;
use crate::property::Property;
use crate::wire::{VARINT_MAX, varint_len};
use bytes::{BufMut, BytesMut};

/// Where the fields of a packet go.
pub(super) trait Sink: Sized {
    fn raw(&mut self, bytes: &[u8]);
    fn varint(&mut self, value: usize);
    /// Notes that the packet cannot be written.
    fn refuse(&mut self, error: EncodeError);

    fn u8(&mut self, value: u8) {
        self.raw(&[value]);
    }

    fn u16(&mut self, value: u16) {
        self.raw(&value.to_be_bytes());
    }

    fn u32(&mut self, value: u32) {
        self.raw(&value.to_be_bytes());
    }

    fn binary(&mut self, bytes: &[u8]) {
        let Ok(len) = u16::try_from(bytes.len()) else {
            return self.refuse(EncodeError::FieldTooLong(bytes.len()));
        };
        self.u16(len);
        self.raw(bytes);
    }

    fn text(&mut self, text: &str) {
        if text.as_bytes().contains(&0) {
            self.refuse(EncodeError::NulCharacter);
        }
        self.binary(text.as_bytes());
    }

    /// Writes a property block: its length, then its properties.
    fn block(&mut self, properties: &impl Properties) {
        let mut count = Count::default();
        properties.write(&mut count);
        self.varint(count.len);
        properties.write(self);
    }

    fn id(&mut self, property: Property) {
        self.u8(property as u8);
    }

    fn flag_property(&mut self, property: Property, value: Option<bool>) {
        if let Some(value) = value {
            self.id(property);
            self.u8(value.into());
        }
    }

    fn u16_property(&mut self, property: Property, value: Option<u16>) {
        if let Some(value) = value {
            self.id(property);
            self.u16(value);
        }
    }

    fn u32_property(&mut self, property: Property, value: Option<u32>) {
        if let Some(value) = value {
            self.id(property);
            self.u32(value);
        }
    }

    /// A four-byte property that must not be zero.
    fn nonzero_u32_property(&mut self, property: Property, value: Option<u32>) {
        if value == Some(0) {
            self.refuse(EncodeError::PropertyValue { property, value: 0 });
        }
        self.u32_property(property, value);
    }

    fn subscription_id(&mut self, value: u32) {
        let property = Property::SubscriptionIdentifier;
        if value == 0 || value > VARINT_MAX {
            self.refuse(EncodeError::PropertyValue { property, value });
        }
        self.id(property);
        self.varint(usize::try_from(value).unwrap_or(usize::MAX));
    }

    fn text_property(&mut self, property: Property, value: Option<&str>) {
        if let Some(value) = value {
            self.id(property);
            self.text(value);
        }
    }

    fn binary_property(&mut self, property: Property, value: Option<&[u8]>) {
        if let Some(value) = value {
            self.id(property);
            self.binary(value);
        }
    }

    fn user_properties<T: AsRef<str>>(&mut self, properties: &[(T, T)]) {
        for (name, value) in properties {
            self.id(Property::UserProperty);
            self.text(name.as_ref());
            self.text(value.as_ref());
        }
    }
}

/// The properties of one block.
pub(super) trait Properties {
    fn write(&self, sink: &mut impl Sink);
}

/// Counts bytes and remembers the first reason why the packet cannot be written.
#[derive(Debug, Default)]
pub(super) struct Count {
    pub(super) len: usize,
    pub(super) error: Option<EncodeError>,
}

impl Sink for Count {
    fn raw(&mut self, bytes: &[u8]) {
        self.len = self.len.saturating_add(bytes.len());
    }

    fn varint(&mut self, value: usize) {
        self.len = self.len.saturating_add(varint_len(value));
    }

    fn refuse(&mut self, error: EncodeError) {
        self.error.get_or_insert(error);
    }
}

/// Writes what a [`Count`] has passed.
impl Sink for BytesMut {
    fn raw(&mut self, bytes: &[u8]) {
        self.put_slice(bytes);
    }

    fn varint(&mut self, mut value: usize) {
        while value > 0x7F {
            self.put_u8((value & 0x7F) as u8 | 0x80);
            value >>= 7;
        }
        self.put_u8((value & 0x7F) as u8);
    }

    /// The counting pass refuses first: nothing is written of a refused packet.
    fn refuse(&mut self, _error: EncodeError) {}
}
