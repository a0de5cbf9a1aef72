//! HTML by hand: text in which nothing is markup, tables that say what they are, and units for people.

use std::fmt::{self, Display, Write};
use std::time::Duration;

/// Rows of a table; more are only counted.
pub(super) const ROWS_MAX: usize = 50;

/// Letters of a text from outside; more are cut.
const TEXT_MAX: usize = 300;

/// A text in which nothing is markup, in an element and between quotes, of bounded length.
pub(super) struct Escaped<'a>(pub(super) &'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, c) in self.0.chars().enumerate() {
            match c {
                _ if i == TEXT_MAX => return f.write_char('…'),
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// Markup. What comes from outside gets into it through [`Escaped`] alone.
pub(super) type Markup = String;

pub(super) fn text(text: &str) -> Markup {
    Escaped(text).to_string()
}

/// How a column is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Column {
    /// What the row is about.
    Head(&'static str),
    Text(&'static str),
    Number(&'static str),
}

impl Column {
    fn name(self) -> &'static str {
        match self {
            Self::Head(name) | Self::Text(name) | Self::Number(name) => name,
        }
    }
}

/// A table; nothing when there are no rows. On a narrow screen the style sets each row as a block of its own, for which
/// every cell carries the name of its column; the roles say that it is a table all the same.
pub(super) fn table(caption: &str, columns: &[Column], rows: &[Vec<Markup>]) -> Markup {
    if rows.is_empty() {
        return Markup::new();
    }
    let mut out =
        format!("<table role=table><caption class=unseen>{caption}</caption><thead role=rowgroup><tr role=row>");
    for column in columns {
        let class = if matches!(column, Column::Number(_)) { " class=number" } else { "" };
        push(&mut out, format_args!("<th role=columnheader scope=col{class}>{}</th>", column.name()));
    }
    out.push_str("</tr></thead><tbody role=rowgroup>");
    for row in rows.iter().take(ROWS_MAX) {
        out.push_str("<tr role=row>");
        for (column, cell) in columns.iter().zip(row) {
            let name = column.name();
            out += &match column {
                Column::Head(_) => format!("<th role=rowheader scope=row>{cell}</th>"),
                Column::Text(_) => format!("<td role=cell data-name=\"{name}\">{cell}</td>"),
                Column::Number(_) => format!("<td role=cell class=number data-name=\"{name}\">{cell}</td>"),
            };
        }
        out.push_str("</tr>");
    }
    out.push_str("</tbody></table>");
    if rows.len() > ROWS_MAX {
        push(&mut out, format_args!("<p class=more>and {} more</p>", rows.len() - ROWS_MAX));
    }
    out
}

pub(super) fn push(out: &mut Markup, text: fmt::Arguments<'_>) {
    // Writing to a `String` cannot fail.
    let _ = out.write_fmt(text);
}

pub(super) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let decimals = usize::from(value < 100.0);
    format!("{value:.decimals$} {}", UNITS[unit])
}

/// As exact as people say it: `3 min`, `2 h`, `5 d`.
pub(super) fn duration(duration: Duration) -> String {
    match duration.as_secs() {
        s if s < 60 => format!("{s} s"),
        s if s < 3600 => format!("{} min", s / 60),
        s if s < 48 * 3600 => format!("{} h", s / 3600),
        s => format!("{} d", s / 86_400),
    }
}

pub(super) fn percent(part: Option<f64>) -> String {
    part.map_or_else(|| "–".into(), |part| format!("{:.0} %", part * 100.0))
}

/// `12,345`.
pub(super) fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

pub(super) fn plural(count: u64, one: &str) -> String {
    format!("{} {one}{}", number(count), if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_those_that_people_use() {
        for (n, text) in [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (1 << 20, "1.0 MiB"), (150 << 20, "150 MiB")]
        {
            assert_eq!(bytes(n), text);
        }
        assert_eq!(bytes(1010 << 20), "1.0 GiB");
        assert_eq!(bytes(u64::MAX), "16384 PiB");
        assert_eq!([number(7), number(1234), number(1_234_567)], ["7", "1,234", "1,234,567"]);
        assert_eq!(
            [59, 3599, 7200, 172_800].map(|s| duration(Duration::from_secs(s))),
            ["59 s", "59 min", "2 h", "2 d"]
        );
        assert_eq!([percent(None), percent(Some(0.876))], ["–", "88 %"]);
        assert_eq!([plural(1, "node"), plural(0, "node")], ["1 node", "0 nodes"]);
    }

    #[test]
    fn a_text_is_no_markup_and_bounded() {
        assert_eq!(text("<a b='\"'>&"), "&lt;a b=&#39;&quot;&#39;&gt;&amp;");
        assert_eq!(text(&"é".repeat(5000)).chars().count(), TEXT_MAX + 1);
        let rows = vec![vec![Markup::from("x")]; ROWS_MAX + 7];
        assert!(table("t", &[Column::Head("x")], &rows).ends_with("<p class=more>and 7 more</p>"));
        assert_eq!(table("t", &[Column::Head("x")], &[]), "");
    }
}
