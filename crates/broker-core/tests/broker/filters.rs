//! Shared filters as the reference of random histories reads them.

use mqtt_proto::SharedFilter;

/// The filter without its share.
pub(crate) fn plain(filter: &'static str) -> &'static str {
    filter.strip_prefix("$share/").map_or(filter, |rest| rest.split_once('/').unwrap().1)
}

pub(crate) fn is_shared(filter: &str) -> bool {
    SharedFilter::new(filter).unwrap().group.is_some()
}
