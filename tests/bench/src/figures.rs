//! Quantiles of what was measured.

use std::time::Duration;

/// Prints count, median, p99 and maximum in milliseconds.
#[expect(clippy::print_stdout, reason = "the figures are the result")]
pub(crate) fn print(times: &[Duration]) {
    println!("{}", line(times));
}

/// Returns count, median, p99 and maximum in milliseconds.
pub(crate) fn line(times: &[Duration]) -> String {
    let mut sorted = times.to_vec();
    sorted.sort();
    let at = |percent: usize| {
        let index = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
        sorted.get(index).copied().unwrap_or_default().as_secs_f64() * 1000.0
    };
    format!("{} rounds: p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms", sorted.len(), at(50), at(99), at(100))
}
