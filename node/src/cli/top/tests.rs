use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use proptest::prelude::*;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::style::Color;

use super::draw::{Theme, draw};
use super::model::{Model, Panel, Reaction, Snapshot};
use super::sheet::Sheet;
use crate::ledger::history::{History, Span, Sums};
use crate::ledger::status::{Failure, Health, Helper, Status};
use crate::os::clock::Timestamp;

const NOW: Timestamp = Timestamp(1_793_526_185_007 + 93_784_000);

const PLAIN: Theme = Theme { is_coloured: false, is_unicode: true };

/// A site of three with something to say in each panel.
fn snapshot() -> Snapshot {
    let mut status = Status::example();
    for (name, state, round_trip_ms, load) in [("lab2", "suspect", 0.42, 0.02), ("attic-über", "dead", 12.0, 0.5)] {
        let mut node = status.site.nodes[0].clone();
        (node.name, node.id, node.state, node.load) = (name.into(), name.into(), state.into(), load);
        node.address = "[2001:db8:0:7::1234]:3142".into();
        node.round_trip_ms = Some(round_trip_ms);
        status.site.nodes.push(node);
    }
    let mut slow = status.flights[0].clone();
    slow.url =
        "https://mirror.example.org/debian/pool/main/l/linux/linux-image-6.12.41+deb13-amd64_6.12.41-1_amd64.deb"
            .into();
    (slow.source, slow.rate, slow.total, slow.readers) = ("SIBLING_HIT/lab2".into(), 900, None, 1);
    status.flights.push(slow);
    let mut vlc = status.popular[0].clone();
    (vlc.name, vlc.demand, vlc.copies) = ("vlc:amd64".into(), 99.0, 1);
    status.popular.push(vlc);
    status.repos[0].roots[0].made = None;
    status.helper = Helper {
        enabled: true,
        doing: "fetching".into(),
        wanted: 12,
        present: 7,
        bytes_wanted: 100 << 20,
        bytes_present: 40 << 20,
        failed: 1,
        current: Some(status.flights[0].clone()),
        seconds_left: Some(25),
        missing: vec!["vcl".into()],
        ..Helper::default()
    };
    let at = Timestamp(NOW.0 - 300_000);
    let failure = |what: &str| Failure { at, what: what.into(), why: "no route to host".into(), times: 3 };
    status.errors = vec![failure("http://example.org/pool/a_1_all.deb")];
    let health = Health { degraded: vec![], unreachable: vec!["example.net: it refused the connection".into()] };
    let mut history = History::default();
    for i in 0..180u64 {
        let sums = Sums {
            bytes_from_upstream: i * i * 9000,
            bytes_from_disk: i * 5_000_000,
            bytes_from_memory: i / 60 * 400_000_000,
            ..Sums::default()
        };
        history.record(Timestamp(NOW.0 - (179 - i) * 10_000), sums);
    }
    Snapshot { status, health, span: Span::Hour, series: history.series(Span::Hour, NOW) }
}

fn live() -> Model {
    let mut model = Model::default();
    model.told(Ok(snapshot()), NOW);
    model
}

fn press(model: &mut Model, codes: &[KeyCode]) -> Reaction {
    codes.iter().fold(Reaction::None, |_, code| model.key(KeyEvent::new(*code, KeyModifiers::NONE)))
}

fn drawn(model: &Model, theme: Theme, width: u16, height: u16) -> Terminal<TestBackend> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, model, NOW, theme)).unwrap();
    terminal
}

/// What is to be seen, without blanks at the ends of lines.
fn seen(model: &Model, width: u16, height: u16) -> String {
    let terminal = drawn(model, PLAIN, width, height);
    let buffer = terminal.backend().buffer();
    let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
    (0..height).map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_site_on_a_screen_of_80_by_24() {
    insta::assert_snapshot!(seen(&live(), 80, 24));
}

#[test]
fn each_panel() {
    let mut model = live();
    for panel in Panel::ALL {
        model.panel = panel;
        // The upper part is the same.
        let lower: Vec<String> = seen(&model, 80, 24).lines().skip(9).map(ToOwned::to_owned).collect();
        insta::assert_snapshot!(format!("panel_{}", panel.title().to_lowercase()), lower.join("\n"));
    }
}

#[test]
fn a_large_screen_and_small_ones() {
    let mut model = live();
    press(&mut model, &[KeyCode::Char('2')]);
    insta::assert_snapshot!("large", seen(&model, 132, 43));
    insta::assert_snapshot!("small", seen(&model, 48, 12));
    assert_eq!(seen(&model, 39, 30).trim_end(), "too small: 40 by 10 at least");
    insta::assert_snapshot!("help", {
        press(&mut model, &[KeyCode::Char('?')]);
        seen(&model, 80, 24)
    });
}

#[test]
fn without_a_node_it_says_so_and_goes_on() {
    let mut model = Model::default();
    assert_eq!(seen(&model, 80, 24).lines().next(), Some("imirror  asking the node"));
    let gone = || Err(anyhow::anyhow!("no node is running here"));
    model.told(gone(), Timestamp(NOW.0 - 65_000));
    model.told(gone(), NOW);
    insta::assert_snapshot!(seen(&model, 80, 24).lines().take(4).collect::<Vec<_>>().join("\n"), @r"
    imirror  no answer
    NO ANSWER for 1 min 5 s; it is asked every second
    no node is running here
    ");
    model.told(Ok(snapshot()), NOW);
    assert_eq!(seen(&model, 80, 24), seen(&live(), 80, 24));
    model.told(gone(), NOW);
    let screen = seen(&model, 80, 24);
    assert!(screen.contains("NO ANSWER for 0 s; what is below is older") && screen.contains("lab2"), "{screen}");
    let mut degraded = snapshot();
    degraded.health.degraded = vec!["the cache folder is read-only".into(); 9];
    model.told(Ok(degraded), NOW);
    assert_eq!(seen(&model, 80, 24).matches("DEGRADED: the cache folder is read-only").count(), 3);
}

#[test]
fn colours_only_where_they_are_wanted_and_letters_that_are_there() {
    let model = live();
    let colours = |theme| {
        let terminal = drawn(&model, theme, 80, 24);
        let cells = terminal.backend().buffer().content().to_vec();
        cells.iter().filter(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset).count()
    };
    assert_eq!(colours(PLAIN), 0);
    assert!(colours(Theme { is_coloured: true, ..PLAIN }) > 50);
    let ascii = drawn(&model, Theme { is_unicode: false, ..PLAIN }, 80, 24);
    let chart: String = ascii.backend().buffer().content()[80 * 4..80 * 9].iter().map(|cell| cell.symbol()).collect();
    assert!(chart.is_ascii() && chart.contains('#'), "{chart}");
    let theme = |variables: &[(&str, &str)]| {
        Theme::of_environment(|name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    };
    assert_eq!(theme(&[("LANG", "de_DE.UTF-8")]), Theme { is_coloured: true, is_unicode: true });
    assert_eq!(
        theme(&[("LANG", "de_DE.UTF-8"), ("LC_ALL", "C"), ("NO_COLOR", "1")]),
        Theme { is_coloured: false, is_unicode: false }
    );
    assert!(theme(&[("NO_COLOR", "")]).is_coloured && !theme(&[("TERM", "dumb")]).is_coloured);
}

#[test]
fn keys_move_and_end() {
    let mut model = live();
    for (key, panel) in [
        (KeyCode::Tab, Panel::Downloads),
        (KeyCode::Right, Panel::Popular),
        (KeyCode::BackTab, Panel::Downloads),
        (KeyCode::Char('6'), Panel::Errors),
        (KeyCode::Tab, Panel::Nodes),
        (KeyCode::Left, Panel::Errors),
    ] {
        assert_eq!(press(&mut model, &[key]), Reaction::None);
        assert_eq!(model.panel, panel);
    }
    assert_eq!(press(&mut model, &[KeyCode::Char('t')]), Reaction::Ask);
    assert_eq!(model.span(), Span::Days);
    // What the node has not said yet is not shown under its name.
    let chart = seen(&model, 80, 24).lines().skip(4).take(5).map(ToOwned::to_owned).collect::<Vec<_>>();
    assert!(chart[0].starts_with("Traffic by source, the last two days") && chart[1].is_empty(), "{chart:?}");
    press(&mut model, &[KeyCode::Char('?')]);
    assert_eq!(press(&mut model, &[KeyCode::Char('q')]), Reaction::None, "it takes the help away");
    assert_eq!(press(&mut model, &[KeyCode::Char('q')]), Reaction::End);
    assert_eq!(press(&mut model, &[KeyCode::Esc]), Reaction::End);
    let with_control = |c| KeyEvent::new(KeyCode::Char(c), KeyModifiers::CONTROL);
    assert_eq!(model.key(with_control('c')), Reaction::End);
    assert_eq!(model.key(with_control('z')), Reaction::Suspend);
    assert_eq!(model.key(with_control('q')), Reaction::None);
    let release = KeyEvent { kind: KeyEventKind::Release, ..with_control('c') };
    assert_eq!(model.key(release), Reaction::None);
}

#[test]
fn rows_are_sorted_by_any_column_and_selected() {
    let mut model = live();
    let first = |model: &Model| {
        let sheet = Sheet::of(model.panel, model.latest.as_ref().unwrap(), NOW).sorted(model.place_of(model.panel));
        sheet.lines[0].cells[0].text().to_owned()
    };
    assert_eq!(first(&model), "lab1", "this node");
    press(&mut model, &[KeyCode::Char('s')]);
    assert_eq!(first(&model), "attic-über");
    press(&mut model, &[KeyCode::Char('r')]);
    assert_eq!(first(&model), "lab2");
    assert!(seen(&model, 80, 24).contains("NODE ^"));
    press(&mut model, &[KeyCode::Char('s'); 5]);
    assert_eq!(first(&model), "attic-über", "the most load in front");
    assert!(seen(&model, 80, 24).contains("LOAD v"));
    // Past the last column there is the node's own order again.
    press(&mut model, &[KeyCode::Char('s'); 2]);
    assert_eq!((model.place_of(model.panel).sort, first(&model).as_str()), (None, "lab1"));
    press(&mut model, &[KeyCode::Down; 9]);
    assert_eq!(model.place_of(model.panel).row, 2);
    press(&mut model, &[KeyCode::Home, KeyCode::PageDown, KeyCode::Up]);
    assert_eq!(model.place_of(model.panel).row, 1);
    // Rows may go while one is selected.
    press(&mut model, &[KeyCode::End]);
    let mut fewer = snapshot();
    fewer.status.site.nodes.truncate(1);
    model.told(Ok(fewer), NOW);
    assert_eq!(model.place_of(model.panel).row, 0);
}

#[test]
fn a_generation_has_its_time() {
    let mut known = snapshot();
    let made = NOW.unix_seconds() - 5 * 3600;
    known.status.repos[0].roots[0].made = Some(made);
    let sheet = Sheet::of(Panel::Repositories, &known, NOW);
    let cells: Vec<&str> = sheet.lines[0].cells.iter().map(super::sheet::Cell::text).collect();
    assert_eq!(cells[..4], ["fedora", &Timestamp(made * 1000).local_minute(), "5 h 0 min", "60000"]);
}

proptest! {
    #[test]
    fn any_keys_on_any_screen(
        keys in prop::collection::vec(prop_oneof![
            prop::char::range('a', 'z').prop_map(KeyCode::Char), prop::char::range('0', '9').prop_map(KeyCode::Char),
            Just(KeyCode::Tab), Just(KeyCode::BackTab), Just(KeyCode::Down), Just(KeyCode::End), Just(KeyCode::PageUp),
        ], 0..40),
        width in 1..200u16, height in 1..70u16, nodes in 0..40usize, name in "\\PC{0,40}",
    ) {
        let mut many = snapshot();
        many.status.site.nodes = vec![many.status.site.nodes[0].clone(); nodes];
        many.status.site.nodes.iter_mut().for_each(|node| node.name.clone_from(&name));
        let mut model = live();
        model.told(Ok(many), NOW);
        press(&mut model, &keys);
        drawn(&model, PLAIN, width, height);
        model.told(Ok(snapshot()), NOW);
        drawn(&model, PLAIN, width, height);
    }
}
