//! How answers look: tables without borders, or JSON.
//!
//! Comes in: rows, or messages of the API. Goes out: text. Colours only on a terminal and never with NO_COLOR; a reader
//! that goes away (`dure queue | head`) ends the command quietly.

use std::io::{self, IsTerminal, Write};

use clap::{Args, ValueEnum};
use comfy_table::{Cell, CellAlignment, Color, ContentArrangement, Table, presets::NOTHING};
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};

use crate::failure::Failure;

/// How to print answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs: the API's messages as JSON.
    Json,
    /// For spreadsheets: the table with commas.
    Csv,
}

/// The choice of the format, for every command that shows something.
#[derive(Clone, Copy, Debug, Default, Args)]
pub(crate) struct View {
    /// How to print answers
    #[arg(long, value_enum, env = "DURE_OUTPUT", value_name = "FORMAT")]
    pub(crate) output: Option<Format>,
}

/// The same choice for a family of commands: it may stand before or after each of them.
#[derive(Clone, Copy, Debug, Default, Args)]
pub(crate) struct FamilyView {
    /// How to print answers
    #[arg(long, value_enum, env = "DURE_OUTPUT", value_name = "FORMAT", global = true)]
    pub(crate) output: Option<Format>,
}

impl From<FamilyView> for View {
    fn from(family: FamilyView) -> Self {
        Self { output: family.output }
    }
}

/// Where answers go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Out {
    format: Format,
    colour: bool,
}

impl Out {
    /// Standard output, in the chosen format.
    pub(crate) fn new(format: Format) -> Self {
        Self { format, colour: colour_on(&io::stdout()) }
    }

    /// True when programs read the answer.
    pub(crate) fn is_json(self) -> bool {
        self.format == Format::Json
    }

    /// True when a table is read by programs: values whole, and nothing but rows.
    pub(crate) fn is_csv(self) -> bool {
        self.format == Format::Csv
    }

    /// Prints a table, or the message it was made of.
    pub(crate) fn answer<M: prost::Message>(
        self,
        name: &str,
        message: &M,
        table: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        if self.is_json() { self.line(&json(name, message)?) } else { self.text(&table()) }
    }

    /// Prints text as it is, with one newline at its end.
    pub(crate) fn text(self, text: &str) -> Result<(), Failure> {
        if text.is_empty() { Ok(()) } else { self.line(text.trim_end_matches('\n')) }
    }

    /// Prints one line.
    pub(crate) fn line(self, line: &str) -> Result<(), Failure> {
        self.bytes(format!("{line}\n").as_bytes())
    }

    /// Prints bytes as they are.
    pub(crate) fn bytes(self, bytes: &[u8]) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(|err| match err.kind() {
            io::ErrorKind::BrokenPipe => Failure::OutputClosed,
            _ => Failure::Failed(format!("cannot write the answer: {err}")),
        })
    }

    /// An empty table with this head.
    pub(crate) fn table(self, head: &[&str]) -> Rows {
        Rows::new(head, self.colour, self.format == Format::Csv)
    }

    /// For tests: a table as in a file.
    #[cfg(test)]
    pub(crate) fn plain() -> Self {
        Self { format: Format::Table, colour: false }
    }
}

/// Whether a stream may have colours.
pub(crate) fn colour_on(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// A table under construction.
pub(crate) struct Rows {
    table: Table,
    right: Vec<bool>,
    colour: bool,
    /// The lines so far, where a table with commas is wanted.
    csv: Option<String>,
}

/// A line of a CSV file, as RFC 4180 has it.
fn csv_line(cells: impl IntoIterator<Item = String>) -> String {
    let mut line = csv::Writer::from_writer(Vec::new());
    let written = line.write_record(cells.into_iter().map(String::into_bytes));
    written.expect("a vector takes whatever comes, and one line has one length");
    let bytes = line.into_inner().expect("a vector takes whatever comes");
    String::from_utf8(bytes).expect("it was made of text")
}

impl Rows {
    /// A head that ends in `>` belongs to a column of numbers: it is aligned to the right.
    fn new(head: &[&str], colour: bool, csv: bool) -> Self {
        let mut table = Table::new();
        table.load_style(NOTHING);
        table.set_content_arrangement(ContentArrangement::Disabled);
        if colour {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        let right: Vec<bool> = head.iter().map(|name| name.ends_with('>')).collect();
        let csv = csv.then(|| csv_line(head.iter().map(|name| name.trim_end_matches('>').replace(' ', "_"))));
        let mut rows = Self { table, right, colour, csv };
        let names = head.iter().map(|name| Cell::new(name.trim_end_matches('>').to_uppercase())).collect();
        let names = rows.aligned(names);
        rows.table.set_header(names);
        for column in rows.table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        rows
    }

    fn aligned(&self, cells: Vec<Cell>) -> Vec<Cell> {
        let align = |(cell, right): (Cell, &bool)| {
            if *right { cell.set_alignment(CellAlignment::Right) } else { cell }
        };
        cells.into_iter().zip(&self.right).map(align).collect()
    }

    /// Adds a row; words that name a state have their colour.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        if let Some(csv) = &mut self.csv {
            csv.push_str(&csv_line(cells));
            return;
        }
        let cells = cells.into_iter().map(|text| match tone(&text) {
            Some(tone) if self.colour => Cell::new(&text).fg(tone),
            _ => Cell::new(&text),
        });
        let cells = self.aligned(cells.collect());
        self.table.add_row(cells);
    }

    /// The text, without spaces at the ends of lines.
    pub(crate) fn text(&self) -> String {
        if let Some(csv) = &self.csv {
            return csv.clone();
        }
        self.table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
    }
}

fn tone(state: &str) -> Option<Color> {
    match state {
        "running" | "completed" | "ready" | "ok" => Some(Color::Green),
        "failed" | "timed out" | "lost" | "bad" => Some(Color::Red),
        "launching" | "stopping" | "suspect" | "awaiting proof" | "draining" | "cordoned" | "paused" => {
            Some(Color::Yellow)
        }
        "held" | "cancelled" => Some(Color::DarkGrey),
        _ => None,
    }
}

/// A message of `dure.v1` as JSON in one line: field names as in the .proto files, numbers as numbers; numbers and lists are
/// there when they are zero and empty too, messages that are not set are left out.
pub(crate) fn json<M: prost::Message>(name: &str, message: &M) -> Result<String, Failure> {
    let broken = |err: &dyn std::fmt::Display| Failure::Failed(format!("cannot show {name} as JSON: {err}"));
    let pool = DescriptorPool::decode(dure_proto::FILE_DESCRIPTOR_SET).map_err(|err| broken(&err))?;
    let descriptor = pool.get_message_by_name(&format!("dure.v1.{name}")).ok_or_else(|| broken(&"no such message"))?;
    let dynamic = DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice()).map_err(|err| broken(&err))?;
    let options =
        SerializeOptions::new().use_proto_field_name(true).stringify_64_bit_integers(false).skip_default_fields(false);
    let mut bytes = Vec::new();
    let mut serializer = serde_json::Serializer::new(&mut bytes);
    dynamic.serialize_with_options(&mut serializer, &options).map_err(|err| broken(&err))?;
    String::from_utf8(bytes).map_err(|err| broken(&err))
}

#[cfg(test)]
mod tests {
    use dure_proto::v1;
    use expect_test::expect;

    use super::*;

    #[test]
    fn tables_are_aligned_and_have_no_borders() {
        let mut rows = Out::plain().table(&["id>", "name", "gpus>"]);
        rows.row(["7", "train", "16"].map(str::to_owned));
        rows.row(["1234", "평가", "1"].map(str::to_owned));
        expect![[r#"
              ID  NAME   GPUS
               7  train    16
            1234  평가      1
        "#]]
        .assert_eq(&rows.text());
    }

    #[test]
    fn a_table_with_commas_is_quoted_where_it_must_be() {
        let mut rows = Out { format: Format::Csv, colour: false }.table(&["id>", "what is it"]);
        rows.row(["7", "a, \"b\""].map(str::to_owned));
        assert_eq!(rows.text(), "id,what_is_it\n7,\"a, \"\"b\"\"\"\n");
    }

    #[test]
    fn messages_become_json_with_the_names_of_the_proto_files() {
        let job =
            v1::Job { id: 1 << 60, phase: v1::JobPhase::Running.into(), exit_code: Some(0), ..v1::Job::default() };
        let text = json("Job", &job).expect("shows");
        let read: serde_json::Value = serde_json::from_str(&text).expect("it is JSON");
        assert_eq!((&read["id"], &read["phase"]), (&(1_u64 << 60).into(), &"JOB_PHASE_RUNNING".into()));
        assert_eq!((&read["exit_code"], &read["started_ms"]), (&0.into(), &0.into()), "{text}");
        assert!(read.get("shape").is_none(), "a message that is not set: {text}");
        let none = json("ListJobsResponse", &v1::ListJobsResponse::default()).expect("shows");
        assert_eq!(none, "{\"jobs\":[],\"next_page_token\":\"\"}", "an empty list is one");
    }
}
