//! Spans of time as users write and read them.
//!
//! Comes in: `90s`, `2h30m`, `1d` and the styles of batch scripts (`90` minutes, `HH:MM:SS`, `D-HH:MM`). Goes out:
//! milliseconds, and text for tables. This part must never guess: what fits no style is an error that shows all styles.

use std::{fmt, str::FromStr};

const SECOND: u64 = 1_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
/// Units by their names, largest first.
const UNITS: [(&str, u64); 5] = [("d", DAY), ("h", HOUR), ("m", MINUTE), ("s", SECOND), ("ms", 1)];

/// A span of time, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct UserSpan(pub(crate) u64);

/// Text that is no span.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no span of time: write 90s, 30m, 2h30m, 1d, or 90 (minutes), MM:SS, HH:MM:SS, D-HH, D-HH:MM, D-HH:MM:SS"
)]
pub(crate) struct NoSpan(String);

impl FromStr for UserSpan {
    type Err = NoSpan;

    fn from_str(text: &str) -> Result<Self, NoSpan> {
        let trimmed = text.trim();
        let parsed = if trimmed.bytes().any(|byte| byte.is_ascii_alphabetic()) {
            with_units(trimmed)
        } else {
            with_colons(trimmed)
        };
        parsed.map(UserSpan).ok_or_else(|| NoSpan(text.to_owned()))
    }
}

/// A number without sign, spaces or anything else that `parse` lets through.
fn number(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

/// `1d2h3m4s5ms`: each unit at most once, largest first.
fn with_units(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut total: u64 = 0;
    let mut below = usize::MAX;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (count, tail) = rest.split_at(digits);
        let letters = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let place = UNITS.iter().position(|(name, _)| *name == unit)?;
        if below != usize::MAX && place <= below {
            return None;
        }
        below = place;
        total = total.checked_add(number(count)?.checked_mul(UNITS[place].1)?)?;
        rest = tail;
    }
    Some(total)
}

/// The styles of batch scripts.
fn with_colons(text: &str) -> Option<u64> {
    let (days, clock) = match text.split_once('-') {
        Some((days, clock)) => (Some(number(days)?), clock),
        None => (None, text),
    };
    let mut parts = [0; 3];
    let mut count = 0;
    for part in clock.split(':') {
        *parts.get_mut(count)? = number(part)?;
        count += 1;
    }
    let [first, second, third] = parts;
    let units = match (days.is_some(), count) {
        (true, _) => [HOUR, MINUTE, SECOND],
        (false, 3) => [HOUR, MINUTE, SECOND],
        (false, _) => [MINUTE, SECOND, 0],
    };
    let mut total = days.unwrap_or(0).checked_mul(DAY)?;
    for (part, unit) in [first, second, third].into_iter().zip(units) {
        total = total.checked_add(part.checked_mul(unit)?)?;
    }
    Some(total)
}

/// Exact, in the first style: what is shown is read back as the same span.
impl fmt::Display for UserSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("0s");
        }
        let mut rest = self.0;
        for (name, unit) in UNITS {
            if rest >= unit {
                write!(f, "{}{name}", rest / unit)?;
                rest %= unit;
            }
        }
        Ok(())
    }
}

/// At most two units: what fits in a column.
pub(crate) fn human(ms: u64) -> String {
    match ms {
        0 => "0s".to_owned(),
        ms if ms < SECOND => format!("{ms}ms"),
        ms if ms < 10 * SECOND => format!("{}.{}s", ms / SECOND, ms % SECOND / 100),
        ms if ms < MINUTE => format!("{}s", ms / SECOND),
        ms if ms < HOUR => format!("{}m{:02}s", ms / MINUTE, ms % MINUTE / SECOND),
        ms if ms < DAY => format!("{}h{:02}m", ms / HOUR, ms % HOUR / MINUTE),
        ms => format!("{}d{:02}h", ms / DAY, ms % DAY / HOUR),
    }
}

/// GPU-time, from GPU-milliseconds.
pub(crate) fn gpu_time(gpu_ms: u64) -> String {
    let seconds = gpu_ms / SECOND;
    if seconds < 36_000 {
        return format!("{seconds} GPU-s");
    }
    format!("{}.{} GPU-h", seconds / 3_600, seconds % 3_600 / 360)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ms(text: &str) -> Option<u64> {
        text.parse::<UserSpan>().ok().map(|span| span.0)
    }

    #[test]
    fn both_styles_are_read() {
        for (text, seconds) in [
            ("90", 5_400),
            ("10:30", 630),
            ("01:02:03", 3_723),
            ("1-00", 86_400),
            ("2-03", 183_600),
            ("2-03:04", 183_840),
            ("2-03:04:05", 183_845),
            ("90s", 90),
            ("2h30m", 9_000),
            ("1d", 86_400),
            ("0", 0),
        ] {
            assert_eq!(ms(text), Some(seconds * 1_000), "{text}");
        }
        assert_eq!(ms("1s5ms"), Some(1_005));
    }

    #[test]
    fn what_fits_no_style_is_refused_with_all_styles() {
        for text in [
            "",
            "-",
            "1:",
            ":1",
            "1:2:3:4",
            "1-2-3",
            "h",
            "5x",
            "1s1h",
            "1m1m",
            "+5",
            "1 h",
            "99999999999999999999",
            "9e9d",
        ] {
            assert_eq!(ms(text), None, "{text}");
        }
        let shown = "soon".parse::<UserSpan>().expect_err("no span").to_string();
        assert!(shown.starts_with("\"soon\" is no span of time: write 90s") && shown.contains("D-HH:MM:SS"), "{shown}");
    }

    #[test]
    fn columns_are_short() {
        let shown: Vec<String> = [0, 7, 1_250, 59_999, 61_000, 3_600_000, 90_000_000].map(human).to_vec();
        assert_eq!(shown, ["0s", "7ms", "1.2s", "59s", "1m01s", "1h00m", "1d01h"]);
        assert_eq!(gpu_time(65_000), "65 GPU-s");
        assert_eq!(gpu_time(36_000_000 * 3), "30.0 GPU-h");
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_back(ms in 0u64..4_000_000_000_000) {
            prop_assert_eq!(UserSpan(ms).to_string().parse(), Ok(UserSpan(ms)));
        }

        #[test]
        fn the_batch_style_is_read_back(days in 0u64..400, h in 0u64..24, m in 0u64..60, s in 0u64..60) {
            let expected = ((days * 24 + h) * 60 + m) * 60 + s;
            prop_assert_eq!(ms(&format!("{days}-{h:02}:{m:02}:{s:02}")), Some(expected * 1_000));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,20}") {
            let _ = text.parse::<UserSpan>();
        }
    }
}
