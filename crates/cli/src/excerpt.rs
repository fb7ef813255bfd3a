//! A complaint about a text, shown where it is: `file:line:column`, the line, a caret.

use crate::exit::SourceText;
use crate::printer::Paint;
use api::error::ErrorDetail;

/// Longer lines are cut: a caret 4,000 columns to the right helps nobody.
const WIDTH_LIMIT: usize = 160;

pub fn render(detail: &ErrorDetail, source: Option<&SourceText>, paint: Paint) -> String {
    let path = source.map_or("mainstay.toml", |source| source.path.as_str());
    let field = detail.field.as_deref().map(|field| format!("{}: ", paint.bold(field))).unwrap_or_default();
    let mut text = String::new();
    match (detail.line, source.and_then(|source| line_of(&source.text, detail.line))) {
        (Some(line), Some(content)) => {
            let column = detail.column.unwrap_or(1).max(1);
            let number = line.to_string();
            let gutter = " ".repeat(number.len());
            let (shown, caret) = window(&content, column as usize);
            text.push_str(&format!("  {}\n", paint.cyan(&format!("{path}:{line}:{column}"))));
            text.push_str(&format!("  {} {shown}\n", paint.dim(&format!("{number} |"))));
            text.push_str(&format!(
                "  {} {}{} {field}{}\n",
                paint.dim(&format!("{gutter} |")),
                " ".repeat(caret),
                paint.red_bold("^"),
                detail.message
            ));
        }
        (Some(line), None) => {
            let column = detail.column.map(|column| format!(":{column}")).unwrap_or_default();
            text.push_str(&format!("  {} {field}{}\n", paint.cyan(&format!("{path}:{line}{column}:")), detail.message));
        }
        (None, _) => text.push_str(&format!("  {field}{}\n", detail.message)),
    }
    if let Some(help) = &detail.help {
        text.push_str(&format!("  {} {help}\n", paint.cyan("help:")));
    }
    text
}

fn line_of(text: &str, line: Option<u32>) -> Option<String> {
    let line = usize::try_from(line?).ok()?;
    // A tab is one column in the complaint, so it has to be one column here.
    text.lines().nth(line.checked_sub(1)?).map(|line| line.replace('\t', " "))
}

/// The part of a line around a column (counted from 1), and where the caret stands in it.
fn window(line: &str, column: usize) -> (String, usize) {
    let letters: Vec<char> = line.chars().filter(|letter| !letter.is_control()).collect();
    let caret = (column - 1).min(letters.len());
    let start = caret.saturating_sub(WIDTH_LIMIT / 2);
    let start = if letters.len() <= WIDTH_LIMIT { 0 } else { start };
    let shown: String = letters.iter().skip(start).take(WIDTH_LIMIT).collect();
    (shown, caret - start)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detail(line: Option<u32>, column: Option<u32>) -> ErrorDetail {
        ErrorDetail {
            field: Some("services.web.prot".into()),
            line,
            column,
            message: "unknown field".into(),
            help: Some("did you mean `port`?".into()),
        }
    }

    #[test]
    fn a_complaint_shows_the_line_with_a_caret_below_its_column() {
        let source = SourceText { path: "app/mainstay.toml".into(), text: "[services.web]\n\tprot = 1\n".into() };
        let text = render(&detail(Some(2), Some(2)), Some(&source), Paint::plain());
        let expected = "  app/mainstay.toml:2:2\n  2 |  prot = 1\n    |  ^ services.web.prot: unknown field\n  help: did you mean `port`?\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_place_outside_the_text_or_in_a_very_long_line_does_no_harm() {
        let source = SourceText { path: "m".into(), text: "x".repeat(5000) };
        for (line, column) in
            [(Some(1), Some(4000)), (Some(9), Some(1)), (Some(0), None), (None, None), (Some(1), Some(90_000))]
        {
            let text = render(&detail(line, column), Some(&source), Paint::plain());
            assert!(text.contains("unknown field"));
            assert!(text.lines().all(|line| line.len() < 300), "{text}");
        }
    }
}
