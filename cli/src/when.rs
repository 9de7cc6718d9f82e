//! Points in time as users write and read them.
//!
//! Comes in: `now+2h`, `16:30`, `2026-12-01T08:00`, RFC 3339, and what now is. Goes out: milliseconds since the Unix
//! epoch, and text for tables. A time without a zone is one of the user's own zone. The clock is read in `now_ms` only.

use jiff::{Timestamp, ToSpan, Zoned, civil, tz::TimeZone};

use crate::span::{self, UserSpan};

/// Text that is no point in time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no time: write now+2h, 16:30, 2026-12-01T08:00 or 2026-12-01T08:00:00+09:00{why}")]
pub(crate) struct NoTime {
    text: String,
    why: String,
}

/// Now, in milliseconds since the Unix epoch.
pub(crate) fn now_ms() -> u64 {
    u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(0)
}

/// Reads a time to begin.
pub(crate) fn parse(text: &str, now: &Zoned) -> Result<u64, NoTime> {
    let refused = |why: String| NoTime { text: text.to_owned(), why };
    let trimmed = text.trim();
    let zoned = if let Some(later) = trimmed.strip_prefix("now") {
        return after(later, now).ok_or_else(|| refused(String::new()));
    } else if let Ok(instant) = trimmed.parse::<Timestamp>() {
        instant.to_zoned(TimeZone::UTC)
    } else {
        // First the date: to read a time of a day takes what stands behind a date, and leaves the date out.
        let civil = trimmed.parse::<civil::DateTime>().or_else(|_| {
            let today = now.date().to_datetime(trimmed.parse::<civil::Time>()?);
            Ok(if today > now.datetime() { today } else { today.saturating_add(1.day()) })
        });
        let civil = civil.map_err(|_: jiff::Error| refused(String::new()))?;
        civil.to_zoned(now.time_zone().clone()).map_err(|err| refused(format!(": {err}")))?
    };
    u64::try_from(zoned.timestamp().as_millisecond()).map_err(|_| refused(": before 1970".to_owned()))
}

/// Reads a time to begin, as the command line has it.
pub(crate) fn moment(text: &str) -> Result<u64, String> {
    parse(text, &Zoned::now()).map_err(|err| err.to_string())
}

/// `+2h`, `+30minutes`, `+60` (seconds), or nothing.
fn after(later: &str, now: &Zoned) -> Option<u64> {
    let start = u64::try_from(now.timestamp().as_millisecond()).ok()?;
    if later.is_empty() {
        return Some(start);
    }
    let count = later.strip_prefix('+')?;
    let digits = count.find(|c: char| !c.is_ascii_digit()).unwrap_or(count.len());
    let span = match &count[digits..] {
        "" | "second" | "seconds" => format!("{}s", &count[..digits]),
        "minute" | "minutes" => format!("{}m", &count[..digits]),
        "hour" | "hours" => format!("{}h", &count[..digits]),
        "day" | "days" => format!("{}d", &count[..digits]),
        _ => count.to_owned(),
    };
    start.checked_add(span.parse::<UserSpan>().ok()?.0)
}

/// A point in time for tables: the user's own zone, to the second; a dash for "not yet".
pub(crate) fn shown(ms: u64) -> String {
    if ms == 0 {
        return "-".to_owned();
    }
    let instant = i64::try_from(ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    instant
        .map_or_else(|| ms.to_string(), |at| at.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string())
}

/// The day that begins then, in UTC.
pub(crate) fn shown_utc_day(ms: u64) -> String {
    let instant = i64::try_from(ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    instant.map_or_else(|| ms.to_string(), |at| at.to_zoned(TimeZone::UTC).strftime("%Y-%m-%d").to_string())
}

/// How long ago something was, for tables; a dash for "not yet".
pub(crate) fn age(ms: u64, now_ms: u64) -> String {
    if ms == 0 { "-".to_owned() } else { span::human(now_ms.saturating_sub(ms)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<i64, String> {
        let now =
            civil::datetime(2026, 3, 1, 12, 0, 0, 0).to_zoned(TimeZone::fixed(jiff::tz::offset(9))).expect("exists");
        let start = now.timestamp().as_second();
        parse(text, &now).map(|ms| i64::try_from(ms / 1_000).expect("small") - start).map_err(|err| err.to_string())
    }

    #[test]
    fn all_styles_are_read_in_the_users_zone() {
        for (text, seconds) in [
            ("now", 0),
            ("now+60", 60),
            ("now+2hours", 7_200),
            ("now+1d12h", 129_600),
            ("12:30", 1_800),
            ("11:00", 82_800),
            ("2026-03-01T13:00:00", 3_600),
            ("2026-03-01T13:00", 3_600),
            ("2026-03-02", 43_200),
            ("2026-03-05T08:00", 331_200),
            ("2026-02-27 09:30:00", -181_800),
            ("2027-03-01T12:00", 31_536_000),
            ("2026-03-01T04:00:00Z", 3_600),
            ("2026-03-01T13:00:00+09:00", 3_600),
        ] {
            assert_eq!(read(text), Ok(seconds), "{text}");
        }
    }

    #[test]
    fn other_text_is_refused_with_the_styles() {
        for text in ["", "soon", "now-1h", "now+", "25:00", "2026-13-01", "nowhere"] {
            let err = read(text).expect_err(text);
            assert!(err.contains("is no time: write now+2h"), "{err}");
        }
    }

    #[test]
    fn ages() {
        assert_eq!((age(0, 5), age(1_000, 62_000), age(9, 5)), ("-".to_owned(), "1m01s".to_owned(), "0s".to_owned()));
    }
}
