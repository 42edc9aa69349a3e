//! Where a record is: keys and their texts. What is there is `record.rs`.

use super::RecordError;

/// What a record is about. The letter starts its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordKind {
    /// `s`: a session.
    Session,
    /// `u`: a subscription of a session.
    Subscription,
    /// `m`: a message.
    Message,
    /// `q`: a message for a session.
    Queued,
    /// `o`: a QoS 2 exchange towards a session.
    Outgoing,
    /// `h`: a QoS 2 message from a session.
    Held,
    /// `r`: that a message is retained.
    Retained,
    /// `l`: a message of a share group.
    Lent,
    /// `w`: a will.
    Will,
    /// `t`: how the wall clock stands to the times in other records.
    Time,
    /// `x`: that an identity was revoked.
    Revoked,
}

const LETTERS: [(RecordKind, char); 11] = [
    (RecordKind::Session, 's'),
    (RecordKind::Subscription, 'u'),
    (RecordKind::Message, 'm'),
    (RecordKind::Queued, 'q'),
    (RecordKind::Outgoing, 'o'),
    (RecordKind::Held, 'h'),
    (RecordKind::Retained, 'r'),
    (RecordKind::Lent, 'l'),
    (RecordKind::Will, 'w'),
    (RecordKind::Time, 't'),
    (RecordKind::Revoked, 'x'),
];

impl RecordKind {
    fn letter(self) -> char {
        LETTERS.iter().find(|(kind, _)| *kind == self).map_or('?', |(_, letter)| *letter)
    }

    /// Whether records of this kind belong to a session, whose number comes first in their keys.
    pub fn is_owned(self) -> bool {
        matches!(self, Self::Subscription | Self::Queued | Self::Outgoing | Self::Held)
    }
}

/// Where a record is: kind, number of the session that owns it (0 where none does), own number.
///
/// As text it is `<letter>/<number>` or `<letter>/<session>/<number>`, numbers as 16 hexadecimal digits, so
/// that the order of texts is that of numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordKey {
    /// What the record is about.
    pub kind: RecordKind,
    /// Number of the session it belongs to; 0 for kinds that belong to none.
    pub owner: u64,
    /// Its number: the packet identifier for exchanges, the message's for the mark of a retained one.
    pub number: u64,
}

impl RecordKey {
    pub(crate) const fn new(kind: RecordKind, number: u64) -> Self {
        Self { kind, owner: 0, number }
    }

    pub(crate) const fn owned(kind: RecordKind, owner: u64, number: u64) -> Self {
        Self { kind, owner, number }
    }

    /// Reads the key's text.
    ///
    /// # Errors
    /// When it is not a key that this version writes.
    pub fn parse(text: &str) -> Result<Self, RecordError> {
        let mut parts = text.split('/');
        let letter = parts.next().filter(|letter| letter.len() == 1).and_then(|letter| letter.chars().next());
        let kind = LETTERS.iter().find(|(_, known)| Some(*known) == letter).map(|(kind, _)| *kind);
        let kind = kind.ok_or(RecordError::Key)?;
        let owner = if kind.is_owned() { number(parts.next())? } else { 0 };
        let key = Self { kind, owner, number: number(parts.next())? };
        if parts.next().is_some() {
            return Err(RecordError::Key);
        }
        Ok(key)
    }
}

fn number(text: Option<&str>) -> Result<u64, RecordError> {
    let text = text.filter(|text| {
        text.len() == 16 && text.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
    });
    u64::from_str_radix(text.ok_or(RecordError::Key)?, 16).map_err(|_| RecordError::Key)
}

impl std::fmt::Display for RecordKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let letter = self.kind.letter();
        if self.kind.is_owned() {
            write!(f, "{letter}/{:016x}/{:016x}", self.owner, self.number)
        } else {
            write!(f, "{letter}/{:016x}", self.number)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_reads_back_as_it_was_written_and_sorts_by_number() {
        for (kind, _) in LETTERS {
            let owner = if kind.is_owned() { 0xab } else { 0 };
            let keys = [1, 0x10, 0x100].map(|number| RecordKey { kind, owner, number });
            assert!(keys.map(|key| key.to_string()).is_sorted());
            for key in keys {
                assert_eq!(RecordKey::parse(&key.to_string()), Ok(key));
            }
        }
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let good = "q/00000000000000ab/0000000000000001";
        assert!(RecordKey::parse(good).is_ok());
        let shouted = good.to_uppercase();
        for bad in
            ["", "q", "q/1/1", "z/0000000000000001", "q/0000000000000001", &shouted, &format!("{good}/")]
        {
            assert_eq!(RecordKey::parse(bad), Err(RecordError::Key), "{bad:?}");
        }
    }
}
