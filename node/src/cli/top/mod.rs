//! `imirror top`: the live page at a terminal. Here is what blocks and waits; what is shown is a function of the model (`draw`),
//! and what a key does is one, too (`model`).

mod draw;
mod model;
mod sheet;

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use crossterm::event::{Event, EventStream};
use futures_util::StreamExt;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;

use super::{WrongUsage, control};
use crate::ledger::history::Span;
use crate::os::clock::Clock;
use crate::os::tasks;
use draw::Theme;
use model::{Model, Reaction, Snapshot};

/// Between two questions to the node, and between two frames that no key has asked for.
const EVERY: Duration = Duration::from_secs(1);

/// A node that takes longer is said to be gone; it is asked again all the same.
const PATIENCE: Duration = Duration::from_secs(5);

/// Shows the node until somebody ends it.
pub(super) fn run(socket: &Path) -> anyhow::Result<ExitCode> {
    if !io::stdout().is_terminal() {
        let advice = "`imirror top` draws on a terminal, and standard output is none: `imirror status` shows the same once, \
                      with --json for programs";
        return Err(WrongUsage(advice.into()).into());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    let ended = runtime.block_on(show(socket.to_owned(), Theme::of_environment(|name| std::env::var(name).ok())));
    // A question that is under way is not waited for.
    runtime.shutdown_background();
    ended
}

async fn show(socket: PathBuf, theme: Theme) -> anyhow::Result<ExitCode> {
    let mut ends = Ends::new()?;
    let mut screen = Screen::open()?;
    let mut keys = EventStream::new();
    let mut tick = tokio::time::interval(EVERY);
    let clock = Clock::system();
    let mut model = Model::default();
    let mut question = Some(ask(&socket, model.span()));
    loop {
        screen.0.draw(|frame| draw::draw(frame, &model, clock.now(), theme)).context("cannot draw")?;
        tokio::select! {
            event = keys.next() => match event {
                Some(Ok(Event::Key(key))) => match model.key(key) {
                    Reaction::None => {}
                    Reaction::Ask => question = question.or_else(|| Some(ask(&socket, model.span()))),
                    Reaction::End => return Ok(ExitCode::SUCCESS),
                    Reaction::Suspend => {
                        drop(screen);
                        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::STOP)?;
                        screen = Screen::open()?;
                    }
                },
                // Another size, or the like: the next frame sees it.
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error).context("cannot read the keyboard"),
                None => return Ok(ExitCode::SUCCESS),
            },
            answer = answer(&mut question) => model.told(answer, clock.now()),
            _ = tick.tick() => question = question.or_else(|| Some(ask(&socket, model.span()))),
            code = ends.come() => return Ok(code),
        }
    }
}

/// The terminal while it is ours. It is given back however this ends: by a signal or an error when this is dropped, and in a
/// panic before its message is printed.
struct Screen(ratatui::DefaultTerminal);

impl Screen {
    fn open() -> anyhow::Result<Self> {
        Ok(Self(ratatui::try_init().context("cannot set the terminal up")?))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing any more.
        let _ = ratatui::try_restore();
    }
}

/// The signals that end a program, which would leave the terminal as it is.
struct Ends {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Ends {
    fn new() -> anyhow::Result<Self> {
        let of = |kind| signal(kind).context("cannot wait for signals");
        Ok(Self {
            terminate: of(SignalKind::terminate())?,
            interrupt: of(SignalKind::interrupt())?,
            hang_up: of(SignalKind::hangup())?,
        })
    }

    /// Waits for one; the code is what a shell says of a program that it has ended.
    async fn come(&mut self) -> ExitCode {
        let signal = tokio::select! {
            _ = self.terminate.recv() => SignalKind::terminate(),
            _ = self.interrupt.recv() => SignalKind::interrupt(),
            _ = self.hang_up.recv() => SignalKind::hangup(),
        };
        ExitCode::from(128 + u8::try_from(signal.as_raw_value()).unwrap_or(0))
    }
}

type Answer = anyhow::Result<Snapshot>;

fn ask(socket: &Path, span: Span) -> JoinHandle<Answer> {
    let socket = socket.to_owned();
    tasks::blocking("ask the node", move || {
        let get = |path: &str| control::ask_within(&socket, "GET", path, Some(PATIENCE));
        Ok(Snapshot {
            status: super::understood(get("/-/api/status")?)?,
            health: super::understood(get("/-/api/health")?)?,
            span,
            series: super::understood(get(&format!("/-/api/history?span={}", span.name()))?)?,
        })
    })
}

/// What the node says to the question, if one is under way. It may be dropped and waited for again.
async fn answer(question: &mut Option<JoinHandle<Answer>>) -> Answer {
    let Some(task) = question else { return std::future::pending().await };
    let answer = task.await;
    *question = None;
    answer.unwrap_or_else(|panic| Err(panic.into()))
}

#[cfg(test)]
mod tests;
