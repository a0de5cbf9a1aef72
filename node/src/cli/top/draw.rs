//! The screen of `imirror top`: a function of the model, the time and the theme. It fits 80 by 24, and larger ones have a higher
//! chart and more rows. Words say what colours say.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::symbols::bar;
use ratatui::text::{Line, Span as Words};
use ratatui::widgets::{Clear, Paragraph, Sparkline};

use super::model::{Model, Panel, Place, Snapshot};
use super::sheet::{Column, Sheet, Tone};
use crate::cli::screen::{bytes, duration, fitted, percent};
use crate::ledger::history::Span;
use crate::ledger::status::Kept;
use crate::os::clock::Timestamp;

/// Smaller than this, nothing can be read.
const WIDTH_MIN: u16 = 40;
const HEIGHT_MIN: u16 = 10;

/// A column of text is not made narrower.
const TEXT_MIN: usize = 8;

/// What the terminal can show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Theme {
    pub(super) is_coloured: bool,
    /// It shows the letters of Unicode.
    pub(super) is_unicode: bool,
}

impl Theme {
    /// By the variables that people set for this.
    pub(super) fn of_environment(variable: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let locale = set("LC_ALL").or_else(|| set("LC_CTYPE")).or_else(|| set("LANG")).unwrap_or_default();
        let locale = locale.to_lowercase();
        Self {
            is_coloured: set("NO_COLOR").is_none() && set("TERM").is_none_or(|term| term != "dumb"),
            is_unicode: locale.contains("utf-8") || locale.contains("utf8"),
        }
    }

    fn colour(self, colour: Color) -> Style {
        if self.is_coloured { Style::new().fg(colour) } else { Style::new() }
    }

    fn tone(self, tone: Tone) -> Style {
        match tone {
            Tone::Plain => Style::new(),
            Tone::Good => self.colour(Color::Green),
            Tone::Warning => self.colour(Color::Yellow),
            Tone::Bad => self.colour(Color::Red),
        }
    }

    fn bars(self) -> bar::Set<'static> {
        const ASCII: bar::Set<'static> = bar::Set {
            empty: " ",
            one_eighth: ".",
            one_quarter: ".",
            three_eighths: ":",
            half: "-",
            five_eighths: "=",
            three_quarters: "+",
            seven_eighths: "*",
            full: "#",
        };
        if self.is_unicode { bar::NINE_LEVELS } else { ASCII }
    }
}

const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);
const QUIET: Style = Style::new().add_modifier(Modifier::DIM);
const REVERSED: Style = Style::new().add_modifier(Modifier::REVERSED);

/// Draws everything.
pub(super) fn draw(frame: &mut Frame<'_>, model: &Model, now: Timestamp, theme: Theme) {
    let area = frame.area();
    if area.width < WIDTH_MIN || area.height < HEIGHT_MIN {
        let text = format!("too small: {WIDTH_MIN} by {HEIGHT_MIN} at least");
        return frame.render_widget(Paragraph::new(text), area);
    }
    let trouble = trouble(model, now);
    let rows_of_bars = match area.height {
        0..16 => 0,
        16..34 => 1,
        34..46 => 2,
        _ => 3,
    };
    let chart_height = if rows_of_bars == 0 { 0 } else { 1 + rows_of_bars * SOURCES.len() as u16 };
    let [head, trouble_area, figures_area, chart_area, tabs_area, panels_area, detail, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(u16::try_from(trouble.len()).unwrap_or(u16::MAX)),
        Constraint::Length(3),
        Constraint::Length(chart_height),
        Constraint::Length(1),
        Constraint::Min(3),
        Constraint::Length(1),
        Constraint::Length(1),
    ])
    .areas(area);
    let lines: Vec<Line<'_>> =
        trouble.into_iter().map(|line| Line::styled(line, theme.tone(Tone::Bad).patch(BOLD))).collect();
    frame.render_widget(Paragraph::new(lines), trouble_area);
    frame.render_widget(header(model, now, theme), head);
    frame.render_widget(Line::styled(KEYS, QUIET), foot);
    if let Some(snapshot) = &model.latest {
        frame.render_widget(Paragraph::new(figures(snapshot, usize::from(area.width))), figures_area);
        chart(frame, chart_area, snapshot, model.span(), theme);
        frame.render_widget(tabs(model, snapshot), tabs_area);
        panels(frame, panels_area, detail, model, snapshot, now, theme);
    }
    if model.shows_help {
        help(frame, area);
    }
}

const KEYS: &str = "q quit  tab panel  up/down row  s sort  r reverse  t time  ? help";

fn header(model: &Model, now: Timestamp, theme: Theme) -> Line<'static> {
    let state = match (&model.lost, &model.latest) {
        (Some(_), _) => Words::styled("no answer", theme.tone(Tone::Bad).patch(BOLD)),
        (None, Some(_)) => Words::styled("live", theme.tone(Tone::Good)),
        (None, None) => Words::raw("asking the node"),
    };
    let Some(snapshot) = &model.latest else { return Line::from(vec![Words::styled("imirror  ", BOLD), state]) };
    let node = &snapshot.status.node;
    let rest = format!("  imirror {}  {}  up {}  ", node.version, node.address, duration(now.since(node.started)));
    Line::from(vec![Words::styled(node.name.clone(), BOLD), Words::raw(rest), state])
}

/// What somebody has to look after.
fn trouble(model: &Model, now: Timestamp) -> Vec<String> {
    const LINES_MAX: usize = 3;
    let mut lines = Vec::new();
    if let Some((since, why)) = &model.lost {
        let old = if model.latest.is_some() { "what is below is older; " } else { "" };
        lines.push(format!("NO ANSWER for {}; {old}it is asked every second", duration(now.since(*since))));
        lines.push(why.clone());
    }
    if let Some(snapshot) = &model.latest {
        lines.extend(snapshot.health.degraded.iter().map(|reason| format!("DEGRADED: {reason}")));
        let others = snapshot.status.others_degraded();
        lines.extend(others.into_iter().map(|(node, reason)| format!("DEGRADED: {node}: {reason}")));
    }
    lines.truncate(LINES_MAX);
    lines
}

/// Three lines of two columns.
fn figures(snapshot: &Snapshot, width: usize) -> Vec<Line<'static>> {
    let (cache, site) = (&snapshot.status.cache, &snapshot.status.site);
    let Kept { today, total } = snapshot.status.history_of_site();
    let time = today.time_saved().filter(|time| time.as_secs() > 0);
    let time = time.map_or_else(String::new, |time| format!(" ({})", duration(time)));
    let stored: u64 = site.nodes.iter().map(|node| node.bytes).sum();
    let load = site.nodes.iter().map(|node| node.load).sum::<f64>() / site.nodes.len().max(1) as f64;
    let alive = site.nodes.iter().filter(|node| node.state == "alive").count();
    let figures = [
        ("Saved today", format!("{}{time}", bytes(today.bytes_saved()))),
        ("Hits today", format!("{} of {} requests", percent(today.hit_ratio()), today.hits + today.misses)),
        ("Saved in all", format!("{} ({})", bytes(total.bytes_saved()), percent(total.byte_hit_ratio()))),
        ("Bytes today", format!("{} of {} to clients", percent(today.byte_hit_ratio()), bytes(today.bytes_to_clients))),
        ("Stored here", format!("{} of {}", bytes(cache.bytes), bytes(cache.limit_bytes))),
        ("Site", format!("{alive}/{} up, load {}, {}", site.nodes.len(), percent(Some(load)), bytes(stored))),
    ];
    let half = width / 2;
    let figure = |(column, (name, text)): (usize, &(&str, String))| {
        let room = half.saturating_sub(13);
        // A gap between the columns.
        let text = fitted(text, room.saturating_sub(usize::from(column == 0)));
        vec![Words::styled(format!("{name:<13}"), QUIET), Words::raw(format!("{text:<room$}"))]
    };
    figures.chunks(2).map(|pair| pair.iter().enumerate().flat_map(figure).collect::<Vec<_>>().into()).collect()
}

/// From the top: what the uplink had to bring, then what it was spared.
const SOURCES: [(&str, Color); 4] =
    [("upstream", Color::Yellow), ("peers", Color::Cyan), ("disk", Color::Blue), ("memory", Color::Green)];

/// Columns of the names and of the two figures beside each source's bars.
const NAME_WIDTH: u16 = 10;
const FIGURE_WIDTH: u16 = 13;

fn chart(frame: &mut Frame<'_>, area: Rect, snapshot: &Snapshot, wanted: Span, theme: Theme) {
    if area.height == 0 {
        return;
    }
    let [title, body] = Layout::vertical([Constraint::Length(1), Constraint::Min(0)]).areas(area);
    let span = match wanted {
        Span::Hour => "the last hour",
        Span::Days => "the last two days",
        Span::Month => "the last month",
    };
    let [words, now_title, peak_title] = beside(title);
    frame.render_widget(Line::styled(format!("Traffic by source, {span}"), BOLD), words);
    frame.render_widget(Line::styled("NOW", QUIET).right_aligned(), now_title);
    frame.render_widget(Line::styled("PEAK", QUIET).right_aligned(), peak_title);
    // That of another time would have the wrong name.
    if snapshot.span != wanted {
        return;
    }
    let series = &snapshot.series;
    let rates = [&series.upstream, &series.peers, &series.disk, &series.memory];
    let lines = Layout::vertical([Constraint::Fill(1); SOURCES.len()]).areas::<{ SOURCES.len() }>(body);
    for (((name, colour), rates), line) in SOURCES.into_iter().zip(rates).zip(lines) {
        let [bars, now, peak] = beside(line);
        let [label, bars] = Layout::horizontal([Constraint::Length(NAME_WIDTH), Constraint::Min(0)]).areas(bars);
        let bottom = |area: Rect| Rect { y: area.bottom().saturating_sub(1), height: area.height.min(1), ..area };
        frame.render_widget(Line::raw(name), bottom(label));
        let rate = |bytes_a_second: u64| format!("{}/s", bytes(bytes_a_second));
        let latest = rates.last().copied().flatten().map_or_else(|| "-".into(), rate);
        let highest = rates.iter().flatten().max().copied();
        frame.render_widget(Line::raw(latest).right_aligned(), bottom(now));
        let peak_text = highest.map_or_else(|| "-".into(), rate);
        frame.render_widget(Line::raw(peak_text).right_aligned(), bottom(peak));
        // Each by its own measure: the slow uplink would not be seen beside the memory.
        let drawn = resampled(rates, usize::from(bars.width));
        let most = drawn.iter().flatten().max().copied().unwrap_or(0).max(1);
        let bars_of = Sparkline::default().data(&drawn).max(most).bar_set(theme.bars()).absent_value_symbol(" ");
        frame.render_widget(bars_of.style(theme.colour(colour)), bars);
    }
}

/// The place beside the two figures, and theirs.
fn beside(area: Rect) -> [Rect; 3] {
    Layout::horizontal([Constraint::Min(0), Constraint::Length(FIGURE_WIDTH), Constraint::Length(FIGURE_WIDTH)])
        .areas(area)
}

/// As many numbers as there is room for: each is the mean of those that it stands for.
fn resampled(rates: &[Option<u64>], width: usize) -> Vec<Option<u64>> {
    let len = rates.len();
    if len == 0 || width == 0 {
        return Vec::new();
    }
    let mean = |column: usize| {
        let from = column * len / width;
        let to = ((column + 1) * len).div_ceil(width).clamp(from + 1, len);
        let known: Vec<u64> = rates[from..to].iter().copied().flatten().collect();
        (!known.is_empty()).then(|| known.iter().sum::<u64>() / known.len() as u64)
    };
    (0..width).map(mean).collect()
}

fn tabs(model: &Model, snapshot: &Snapshot) -> Line<'static> {
    let tab = |panel: Panel| {
        let count = match (panel, Sheet::rows(panel, snapshot)) {
            (Panel::Helper, _) | (_, 0) => String::new(),
            (_, count) => format!(" {count}"),
        };
        let text = format!(" {}{count} ", panel.title());
        // Brackets where nothing else can be seen.
        let text = if panel == model.panel { format!("[{}]", text.trim()) } else { text };
        Words::styled(text, if panel == model.panel { BOLD.patch(REVERSED) } else { Style::new() })
    };
    Panel::ALL.into_iter().map(tab).collect::<Vec<_>>().into()
}

/// The chosen panel, with a row that is told in full, and below it the others as far as there is room.
fn panels(
    frame: &mut Frame<'_>,
    area: Rect,
    detail: Rect,
    model: &Model,
    snapshot: &Snapshot,
    now: Timestamp,
    theme: Theme,
) {
    /// A gap, a heading, titles and a row.
    const HEIGHT_MIN: u16 = 4;
    let sheet_of = |panel: Panel| Sheet::of(panel, snapshot, now).sorted(model.place_of(panel));
    let below = |area: Rect, used: u16| Rect { y: area.y + used, height: area.height - used, ..area };
    let chosen = sheet_of(model.panel);
    let place = model.place_of(model.panel);
    let mut free = match chosen.lines.len().checked_sub(1) {
        Some(last) => {
            let selected = place.row.min(last);
            let used = table(frame, area, &chosen, place, Some(selected), theme);
            let counted = format!("{}/{}  {}", selected + 1, last + 1, chosen.lines[selected].detail);
            frame.render_widget(Line::styled(fitted(&counted, usize::from(detail.width)), QUIET), detail);
            below(area, used)
        }
        None => {
            frame.render_widget(Line::styled(chosen.empty, QUIET), area);
            below(area, 1)
        }
    };
    for panel in Panel::ALL.into_iter().filter(|panel| *panel != model.panel) {
        let sheet = sheet_of(panel);
        if sheet.lines.is_empty() || free.height < HEIGHT_MIN {
            continue;
        }
        free = below(free, 1);
        frame.render_widget(Line::styled(panel.title(), BOLD), free);
        free = below(free, 1);
        let used = table(frame, free, &sheet, model.place_of(panel), None, theme);
        free = below(free, used);
    }
}

/// A table, and how many lines it takes.
fn table(frame: &mut Frame<'_>, area: Rect, sheet: &Sheet, place: Place, selected: Option<usize>, theme: Theme) -> u16 {
    let widths = widths(sheet, place.sort, usize::from(area.width));
    let mut lines = vec![Line::styled(titles(sheet, &widths, place.sort, place.is_reversed), QUIET)];
    let room = usize::from(area.height.saturating_sub(1));
    // The selected row is always to be seen, with what there is around it.
    let first = selected.unwrap_or(0).saturating_sub(room / 2).min(sheet.lines.len().saturating_sub(room));
    for (i, line) in sheet.lines.iter().enumerate().skip(first).take(room) {
        let cells = line.cells.iter().zip(sheet.columns).zip(&widths);
        let cells: Vec<String> = cells.map(|((cell, column), width)| set(cell.text(), *column, *width)).collect();
        let style = theme.tone(line.tone);
        lines.push(Line::styled(cells.join("  "), if selected == Some(i) { style.patch(REVERSED) } else { style }));
    }
    let used = u16::try_from(lines.len()).unwrap_or(u16::MAX).min(area.height);
    frame.render_widget(Paragraph::new(lines), area);
    used
}

/// The room of each column: what it needs, and where that is too much in all, the widest texts give way.
fn widths(sheet: &Sheet, sort: Option<usize>, room: usize) -> Vec<usize> {
    let natural = |(i, column): (usize, &Column)| {
        let cells = sheet.lines.iter().map(|line| line.cells[i].text().chars().count());
        let title = column.title().len() + if sort == Some(i) { 2 } else { 0 };
        cells.max().unwrap_or(0).max(title)
    };
    let mut widths: Vec<usize> = sheet.columns.iter().enumerate().map(natural).collect();
    let gaps = 2 * sheet.columns.len().saturating_sub(1);
    while widths.iter().sum::<usize>() + gaps > room {
        let texts = widths.iter_mut().zip(sheet.columns).filter(|(_, column)| matches!(column, Column::Text(_)));
        match texts.map(|(width, _)| width).max() {
            Some(width) if *width > TEXT_MIN => *width -= 1,
            _ => break,
        }
    }
    widths
}

/// The titles, with a sign at the one that the rows are sorted by.
fn titles(sheet: &Sheet, widths: &[usize], sort: Option<usize>, is_reversed: bool) -> String {
    let sign = if is_reversed { " ^" } else { " v" };
    let title = |(i, (column, width)): (usize, (&Column, &usize))| {
        let sign = if sort == Some(i) { sign } else { "" };
        set(&format!("{}{sign}", column.title()), *column, *width)
    };
    let titles: Vec<String> = sheet.columns.iter().zip(widths).enumerate().map(title).collect();
    titles.join("  ")
}

fn set(text: &str, column: Column, width: usize) -> String {
    let text = fitted(text, width);
    match column {
        Column::Text(_) => format!("{text:<width$}"),
        Column::Number(_) => format!("{text:>width$}"),
    }
}

const HELP: [&str; 11] = [
    "q, Esc, Ctrl-C      quit",
    "Tab, Left, Right    the next or previous panel",
    "1 to 6              that panel",
    "Up, Down, Page Up,  another row, which is told in",
    "Page Down, Home,    full below the table",
    "End, j, k",
    "s                   sort by the next column",
    "r                   the other way round",
    "t                   an hour, two days, a month",
    "Ctrl-Z              into the background",
    "any key             go on",
];

fn help(frame: &mut Frame<'_>, area: Rect) {
    let width = HELP.iter().map(|line| line.len()).max().unwrap_or(0) as u16 + 4;
    let height = HELP.len() as u16 + 2;
    let centred = Rect {
        x: area.x + area.width.saturating_sub(width) / 2,
        y: area.y + area.height.saturating_sub(height) / 2,
        width: width.min(area.width),
        height: height.min(area.height),
    };
    frame.render_widget(Clear, centred);
    let text: Vec<Line<'_>> = HELP.iter().map(|line| Line::raw(*line)).collect();
    let frame_around = ratatui::widgets::Block::bordered().border_set(ratatui::symbols::border::Set {
        top_left: "+",
        top_right: "+",
        bottom_left: "+",
        bottom_right: "+",
        vertical_left: "|",
        vertical_right: "|",
        horizontal_top: "-",
        horizontal_bottom: "-",
    });
    frame.render_widget(Paragraph::new(text).block(frame_around.title(" Keys ")), centred);
}
