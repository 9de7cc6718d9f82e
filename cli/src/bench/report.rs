//! Figures: what was measured, how much, of what.

use crate::{failure::Failure, show::Out};

/// The figures of one bench, in the order in which they were measured.
#[derive(Debug, Default)]
pub(super) struct Report {
    figures: Vec<(String, f64, &'static str)>,
    /// The names say the units: JSON is then one flat object of numbers.
    is_flat: bool,
}

impl Report {
    /// A report whose names say the units, for programs that compare.
    pub(super) fn with_units_in_names() -> Self {
        Self { is_flat: true, ..Self::default() }
    }

    /// Adds a figure.
    pub(super) fn add(&mut self, what: impl Into<String>, value: f64, unit: &'static str) {
        self.figures.push((what.into(), value, unit));
    }

    /// Adds percentiles of latencies in milliseconds.
    pub(super) fn latencies(&mut self, what: &str, millis: &mut [f64]) {
        millis.sort_unstable_by(f64::total_cmp);
        for (name, share) in [("p50", 0.50), ("p99", 0.99)] {
            self.add(format!("{what}, {name}"), percentile(millis, share), "ms");
        }
    }

    /// Prints them: a table, or one JSON object.
    pub(super) fn print(&self, out: Out) -> Result<(), Failure> {
        if out.is_json() {
            let figures: serde_json::Map<String, serde_json::Value> = self
                .figures
                .iter()
                .map(|(what, value, unit)| match self.is_flat {
                    true => (what.clone(), serde_json::json!(value)),
                    false => (what.clone(), serde_json::json!({ "value": value, "unit": unit })),
                })
                .collect();
            return out.line(&serde_json::Value::Object(figures).to_string());
        }
        let mut rows = out.table(&["what", "value>", "unit"]);
        for (what, value, unit) in &self.figures {
            rows.row([what.clone(), shown(*value), (*unit).to_owned()]);
        }
        out.text(&rows.text())
    }
}

/// The smallest value that `share` of the sorted values do not exceed; 0 for none.
fn percentile(sorted: &[f64], share: f64) -> f64 {
    let place = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(place.saturating_sub(1)).or(sorted.last()).copied().unwrap_or(0.0)
}

fn shown(value: f64) -> String {
    if value.abs() >= 1_000.0 { format!("{value:.0}") } else { format!("{value:.3}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let sorted: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!((percentile(&sorted, 0.5), percentile(&sorted, 0.99)), (50.0, 99.0));
        assert_eq!((percentile(&[7.0], 0.5), percentile(&[], 0.99)), (7.0, 0.0));
    }
}
