//! Terminal output as safe HTML.
//!
//! Programs write colours, cursor movements, window titles and worse into their logs. Of all that,
//! only the sixteen colours and bold mean anything in a page: they become `<span class=…>`. Every
//! other escape sequence and control character is dropped, text is escaped by maud, and a line that
//! rewrites itself with carriage returns (a progress bar) shows its last state. No sequence can end
//! a span that it did not begin, so a log can never break out of its line.

use maud::{Markup, PreEscaped, Render, html};

/// Longest part of one line that is shown, in characters.
const LINE_LIMIT: usize = 2_000;

#[derive(Clone, Copy, Default, PartialEq)]
struct Style {
    bold: bool,
    /// 0 to 7 normal, 8 to 15 bright.
    colour: Option<u8>,
}

impl Style {
    const COLOURS: [&str; 16] =
        ["a0", "a1", "a2", "a3", "a4", "a5", "a6", "a7", "a8", "a9", "a10", "a11", "a12", "a13", "a14", "a15"];

    fn is_plain(self) -> bool {
        self == Self::default()
    }

    /// Applies the parameters of one `ESC [ … m`.
    fn apply(&mut self, parameters: &str) {
        let mut numbers =
            parameters.split([';', ':']).map(|n| if n.is_empty() { 0 } else { n.parse::<u32>().unwrap_or(u32::MAX) });
        while let Some(number) = numbers.next() {
            match number {
                0 => *self = Self::default(),
                1 => self.bold = true,
                22 => self.bold = false,
                30..=37 => self.colour = Some((number - 30) as u8),
                90..=97 => self.colour = Some((number - 90 + 8) as u8),
                39 => self.colour = None,
                // Extended colours: `38;5;N` and `38;2;R;G;B`. Only the first sixteen have a class.
                38 | 48 => {
                    let colour = match numbers.next() {
                        Some(5) => numbers.next().filter(|n| *n < 16),
                        Some(2) => {
                            numbers.by_ref().take(3).for_each(drop);
                            None
                        }
                        _ => None,
                    };
                    if number == 38 {
                        self.colour = colour.map(|n| n as u8);
                    }
                }
                _ => {}
            }
        }
    }

    fn wrap(self, text: &str) -> Markup {
        let colour = self.colour.and_then(|n| Self::COLOURS.get(usize::from(n)).copied());
        let classes = match (colour, self.bold) {
            (Some(colour), true) => format!("{colour} ab"),
            (Some(colour), false) => colour.to_owned(),
            (None, _) => "ab".to_owned(),
        };
        html! { span class=(classes) { (text) } }
    }
}

/// One line of output, without its line break.
pub fn line(text: &str) -> Markup {
    let text = text.trim_end_matches(['\r', '\n']);
    let text = text.rsplit('\r').next().unwrap_or(text);
    let mut out = String::with_capacity(text.len() + 16);
    let mut style = Style::default();
    let mut run = String::new();
    let mut shown = 0;
    let mut rest = text.chars().peekable();
    let mut cut = false;
    while let Some(c) = rest.next() {
        if c == '\u{1b}' || c == '\u{9b}' {
            let next = style_after_escape(c, &mut rest, style);
            if next != style {
                flush(&mut out, &mut run, style);
                style = next;
            }
            continue;
        }
        if shown == LINE_LIMIT {
            cut = true;
            break;
        }
        match c {
            '\t' => run.push('\t'),
            c if c.is_control() || is_direction_control(c) => continue,
            c => run.push(c),
        }
        shown += 1;
    }
    flush(&mut out, &mut run, style);
    if cut {
        out.push_str(" <em>… line cut here</em>");
    }
    PreEscaped(out)
}

/// Characters that turn the direction of text: they can make a line read as something else.
fn is_direction_control(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}')
}

fn flush(out: &mut String, run: &mut String, style: Style) {
    if run.is_empty() {
        return;
    }
    if style.is_plain() {
        run.as_str().render_to(out);
    } else {
        out.push_str(&style.wrap(run).into_string());
    }
    run.clear();
}

/// Reads one escape sequence to its end and returns the style that holds after it.
fn style_after_escape(first: char, rest: &mut std::iter::Peekable<std::str::Chars<'_>>, style: Style) -> Style {
    let introducer = if first == '\u{9b}' { Some('[') } else { rest.next() };
    match introducer {
        // CSI: parameters, then one final character.
        Some('[') => {
            let mut parameters = String::new();
            for c in rest.by_ref() {
                if matches!(c, '\u{40}'..='\u{7e}') {
                    let mut next = style;
                    if c == 'm' {
                        next.apply(&parameters);
                    }
                    return next;
                }
                if parameters.len() < 64 {
                    parameters.push(c);
                }
            }
            style
        }
        // OSC, DCS, PM, APC, SOS: a string up to BEL or ESC \.
        Some(']' | 'P' | '^' | '_' | 'X') => {
            while let Some(c) = rest.next() {
                if c == '\u{7}' || c == '\u{9c}' {
                    break;
                }
                if c == '\u{1b}' {
                    rest.next_if_eq(&'\\');
                    break;
                }
            }
            style
        }
        // Character sets and the like: one more character follows.
        Some('(' | ')' | '*' | '+' | '#' | '%') => {
            rest.next();
            style
        }
        _ => style,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        line(text).into_string()
    }

    #[test]
    fn markup_in_a_log_is_shown_and_not_obeyed() {
        assert_eq!(shown("<script>alert('1')</script>"), "&lt;script&gt;alert('1')&lt;/script&gt;");
        assert_eq!(shown("\u{1b}[31m</span><b>\u{1b}[0m"), "<span class=\"a1\">&lt;/span&gt;&lt;b&gt;</span>");
    }

    #[test]
    fn colours_become_classes() {
        assert_eq!(shown("\u{1b}[32mok\u{1b}[0m done"), "<span class=\"a2\">ok</span> done");
        assert_eq!(shown("\u{1b}[1;91mbad"), "<span class=\"a9 ab\">bad</span>");
        assert_eq!(shown("\u{1b}[38;5;4mblue\u{1b}[39mnone"), "<span class=\"a4\">blue</span>none");
        assert_eq!(shown("\u{1b}[38;2;1;31;3mtrue colour"), "true colour");
    }

    #[test]
    fn every_other_sequence_is_dropped_whole() {
        assert_eq!(shown("a\u{1b}[2Jb\u{1b}]0;title\u{7}c\u{1b}]8;;http://x\u{1b}\\d\u{1b}(Be\u{8}f\u{0}g"), "abcdefg");
        assert_eq!(shown("\u{1b}"), "");
        assert_eq!(shown("\u{1b}[31"), "");
        assert_eq!(shown("\u{1b}]never ends"), "");
    }

    #[test]
    fn a_line_that_rewrites_itself_shows_its_last_state() {
        assert_eq!(shown("10 %\r50 %\r100 %\r\n"), "100 %");
    }

    #[test]
    fn text_that_turns_its_direction_is_straightened() {
        assert_eq!(shown("user\u{202e}cod.exe"), "usercod.exe");
    }

    #[test]
    fn a_very_long_line_is_cut_and_says_so() {
        let page = shown(&"x".repeat(5_000));
        assert!(page.len() < 2_100 && page.ends_with("… line cut here</em>"));
    }
}
