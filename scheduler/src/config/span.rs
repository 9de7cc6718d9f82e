//! Spans in configuration files: `90s`, `30m`, `24h`, `7d`, `250ms`, or several in a row: `1d12h`.

use std::fmt;

use dure_core::units::Span;
use serde::de::{Deserializer, Error, Visitor};

/// Units, the longest first; each at most once and in this order.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// Reads a span.
pub(super) fn parse(text: &str) -> Option<Span> {
    let (mut rest, mut units, mut total) = (text, &UNITS[..], 0u64);
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let count: u64 = rest[..digits].parse().ok()?;
        let letters = rest[digits..].bytes().take_while(u8::is_ascii_alphabetic).count();
        let unit = &rest[digits..digits + letters];
        let at = units.iter().position(|(name, _)| *name == unit)?;
        total = total.checked_add(count.checked_mul(units[at].1)?)?;
        units = &units[at + 1..];
        rest = &rest[digits + letters..];
    }
    Some(Span(total))
}

struct SpanText;

impl Visitor<'_> for SpanText {
    type Value = Span;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a span with its unit, as in \"24h\", \"90s\" or \"1d12h\"")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Span, E> {
        parse(text).ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(text), &self))
    }
}

/// For a field that has a value.
pub(super) fn required<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Span, D::Error> {
    deserializer.deserialize_str(SpanText)
}

/// For a field that may be absent (then serde's default is taken).
pub(super) fn optional<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Span>, D::Error> {
    required(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_numbers_with_units() {
        for (text, ms) in
            [("250ms", 250), ("90s", 90_000), ("30m", 1_800_000), ("24h", 86_400_000), ("1d12h", 129_600_000)]
        {
            assert_eq!(parse(text), Some(Span(ms)), "{text}");
        }
        for text in ["", "5", "h", "1h1d", "1h2h", "1.5h", "-1s", "99999999999999999999d", "9999999999999999d", "1s "] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
