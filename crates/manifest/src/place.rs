//! Where in the text a field stands, so that every complaint can point at it.

use api::error::ErrorDetail;
use std::collections::BTreeMap;
use std::ops::Range;

/// Line and column for byte offsets, both counted from 1, columns in characters.
pub struct Lines<'t> {
    text: &'t str,
    starts: Vec<usize>,
}

impl<'t> Lines<'t> {
    pub fn new(text: &'t str) -> Self {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { text, starts }
    }

    pub fn at(&self, offset: usize) -> (u32, u32) {
        let mut offset = offset.min(self.text.len());
        while !self.text.is_char_boundary(offset) {
            offset -= 1;
        }
        let line = self.starts.partition_point(|start| *start <= offset);
        let column = self.text[self.starts[line - 1]..offset].chars().count() + 1;
        (line as u32, column as u32)
    }

    /// Where the line that holds an offset ends.
    pub fn end_of_line(&self, offset: usize) -> usize {
        let (line, _) = self.at(offset);
        self.starts.get(line as usize).copied().unwrap_or(self.text.len())
    }

    /// The whole line that holds an offset, without its end.
    pub fn line_at(&self, offset: usize) -> &'t str {
        let (line, _) = self.at(offset);
        let start = self.starts[line as usize - 1];
        self.text[start..].lines().next().unwrap_or_default()
    }
}

/// The places of all fields, by path (`services.web.route[1].host`).
pub struct Places<'t> {
    pub lines: Lines<'t>,
    fields: BTreeMap<String, Range<usize>>,
}

impl<'t> Places<'t> {
    pub fn new(text: &'t str) -> Self {
        Self { lines: Lines::new(text), fields: BTreeMap::new() }
    }

    pub fn note(&mut self, field: &str, span: Range<usize>) {
        self.fields.insert(field.to_owned(), span);
    }

    /// A complaint about a field. One that is missing is placed at what should hold it.
    pub fn detail(&self, field: &str, message: String, help: Option<String>) -> ErrorDetail {
        let mut holder = field;
        let offset = loop {
            if let Some(span) = self.fields.get(holder) {
                break Some(span.start);
            }
            match holder.rfind(['.', '[']) {
                Some(cut) => holder = &holder[..cut],
                None => break None,
            }
        };
        let (line, column) = self.lines.at(offset.unwrap_or(0));
        ErrorDetail { field: Some(field.to_owned()), line: Some(line), column: Some(column), message, help }
    }

    /// A complaint about a stretch of text.
    pub fn detail_at(
        &self,
        field: Option<String>,
        offset: usize,
        message: String,
        help: Option<String>,
    ) -> ErrorDetail {
        let (line, column) = self.lines.at(offset);
        ErrorDetail { field, line: Some(line), column: Some(column), message, help }
    }
}
