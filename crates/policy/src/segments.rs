//! The segments of a SPIFFE ID, which captures stand for.

use midge_identity::SpiffeId;

/// Trust domain and path segments of an identity, in this order: a capture is the place of one of them. None is empty or
/// has a `/`, `+`, `#` or `$`.
#[derive(Debug, Default)]
pub(crate) struct Segments {
    text: Box<str>,
    /// Where each of them ends in the text.
    ends: Box<[usize]>,
}

impl Segments {
    pub(crate) fn of(id: &SpiffeId) -> Self {
        let mut text = String::with_capacity(id.trust_domain_name().len() + id.path().len());
        let mut ends = Vec::with_capacity(8);
        for segment in [id.trust_domain_name()].into_iter().chain(id.path().split('/').skip(1)) {
            text.push_str(segment);
            ends.push(text.len());
        }
        Self { text: text.into(), ends: ends.into() }
    }

    pub(crate) fn get(&self, place: usize) -> Option<&str> {
        let start = match place.checked_sub(1) {
            Some(before) => *self.ends.get(before)?,
            None => 0,
        };
        self.text.get(start..*self.ends.get(place)?)
    }

    pub(crate) fn trust_domain(&self) -> &str {
        self.get(0).unwrap_or_default()
    }

    /// Returns the segments of the path.
    pub(crate) fn path(&self) -> impl Iterator<Item = &str> {
        (1..self.ends.len()).filter_map(|place| self.get(place))
    }
}
