//! What `imirror top` knows and where its reader is in it. A state machine: keys and the node's answers go in.

use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::sheet::Sheet;
use crate::ledger::history::{Series, Span};
use crate::ledger::status::{Health, Status};
use crate::os::clock::Timestamp;

/// What the node said at one moment.
#[derive(Debug, Clone)]
pub(super) struct Snapshot {
    pub(super) status: Status,
    pub(super) health: Health,
    /// How far back the series goes.
    pub(super) span: Span,
    pub(super) series: Series,
}

/// A part of the screen that has a table of its own; one is chosen, and shown first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Panel {
    Nodes,
    Downloads,
    Popular,
    Repositories,
    Helper,
    Errors,
}

impl Panel {
    pub(super) const ALL: [Self; 6] =
        [Self::Nodes, Self::Downloads, Self::Popular, Self::Repositories, Self::Helper, Self::Errors];

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Nodes => "Nodes",
            Self::Downloads => "Downloads",
            Self::Popular => "Popular",
            Self::Repositories => "Repositories",
            Self::Helper => "Helper",
            Self::Errors => "Errors",
        }
    }

    fn moved(self, by: isize) -> Self {
        let panels = Self::ALL.len() as isize;
        Self::ALL[(self as isize + by).rem_euclid(panels) as usize]
    }
}

/// Where the reader is in a panel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// The column that the rows are sorted by; `None` is the node's own order.
    pub(super) sort: Option<usize>,
    pub(super) is_reversed: bool,
    /// The row that is told in full, among those that there are.
    pub(super) row: usize,
}

#[derive(Debug, Clone)]
pub(super) struct Model {
    pub(super) latest: Option<Snapshot>,
    /// Since when the node does not answer, and why.
    pub(super) lost: Option<(Timestamp, String)>,
    pub(super) panel: Panel,
    places: [Place; Panel::ALL.len()],
    span: Span,
    pub(super) shows_help: bool,
}

/// What a key wants of the outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reaction {
    None,
    /// Something that the node has not been asked for yet.
    Ask,
    End,
    /// Into the background, as Ctrl-Z does.
    Suspend,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            latest: None,
            lost: None,
            panel: Panel::Nodes,
            places: Default::default(),
            span: Span::Hour,
            shows_help: false,
        }
    }
}

impl Model {
    /// Takes the node's answer. What it said before stays on the screen when there is none.
    pub(super) fn told(&mut self, answer: anyhow::Result<Snapshot>, now: Timestamp) {
        match answer {
            Ok(snapshot) => {
                self.latest = Some(snapshot);
                self.lost = None;
            }
            Err(error) => {
                let since = self.lost.take().map_or(now, |(since, _)| since);
                self.lost = Some((since, format!("{error:#}")));
            }
        }
        self.keep_within();
    }

    pub(super) fn key(&mut self, key: KeyEvent) -> Reaction {
        if key.kind == KeyEventKind::Release {
            return Reaction::None;
        }
        let with_control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c') if with_control => return Reaction::End,
            KeyCode::Char('z') if with_control => return Reaction::Suspend,
            KeyCode::Char(_) if with_control => return Reaction::None,
            // The help goes away by any key, and that key does nothing else.
            _ if self.shows_help => self.shows_help = false,
            KeyCode::Char('q') | KeyCode::Esc => return Reaction::End,
            KeyCode::Char('?' | 'h') | KeyCode::F(1) => self.shows_help = true,
            KeyCode::Tab | KeyCode::Right => self.panel = self.panel.moved(1),
            KeyCode::BackTab | KeyCode::Left => self.panel = self.panel.moved(-1),
            KeyCode::Char(digit @ '1'..='6') => self.panel = Panel::ALL[digit as usize - '1' as usize],
            KeyCode::Up | KeyCode::Char('k') => self.move_row(-1),
            KeyCode::Down | KeyCode::Char('j') => self.move_row(1),
            KeyCode::PageUp => self.move_row(-10),
            KeyCode::PageDown => self.move_row(10),
            KeyCode::Home => self.place_mut().row = 0,
            KeyCode::End => self.move_row(isize::MAX),
            KeyCode::Char('s') => self.sort_by_next(),
            KeyCode::Char('r') => self.place_mut().is_reversed ^= true,
            KeyCode::Char('t') => {
                self.span = match self.span {
                    Span::Hour => Span::Days,
                    Span::Days => Span::Month,
                    Span::Month => Span::Hour,
                };
                return Reaction::Ask;
            }
            _ => {}
        }
        Reaction::None
    }

    /// How far back the reader wants to see.
    pub(super) fn span(&self) -> Span {
        self.span
    }

    pub(super) fn place_of(&self, panel: Panel) -> Place {
        self.places[panel as usize]
    }

    fn place_mut(&mut self) -> &mut Place {
        &mut self.places[self.panel as usize]
    }

    fn sort_by_next(&mut self) {
        let columns = Sheet::columns(self.panel);
        let place = self.place_mut();
        place.is_reversed = false;
        place.sort = match place.sort {
            None => (columns > 0).then_some(0),
            Some(column) => Some(column + 1).filter(|next| *next < columns),
        };
    }

    fn move_row(&mut self, by: isize) {
        let rows = self.rows();
        let place = self.place_mut();
        place.row = place.row.saturating_add_signed(by).min(rows.saturating_sub(1));
    }

    /// Rows come and go.
    fn keep_within(&mut self) {
        let panel = self.panel;
        for each in Panel::ALL {
            self.panel = each;
            self.move_row(0);
        }
        self.panel = panel;
    }

    fn rows(&self) -> usize {
        self.latest.as_ref().map_or(0, |snapshot| Sheet::rows(self.panel, snapshot))
    }
}
