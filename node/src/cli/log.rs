//! The log of a node, on standard error: one line for each event, whatever is in it. The journal of systemd also gets the level, as a
//! priority before the line (sd-daemon(3)); in its own protocol the fields of an event would not be seen by who reads `journalctl`.

use std::fmt;
use std::io::{self, IsTerminal};

use rustix::fs::fstat;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{Format, Full, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::WrongUsage;

/// Starts it for this process; `filter` is as in [`EnvFilter`], else `RUST_LOG` says it, else it is `info`.
pub(super) fn start(filter: Option<&str>) -> anyhow::Result<()> {
    let variable = std::env::var("RUST_LOG").ok();
    let filter = filter.or(variable.as_deref()).filter(|text| !text.is_empty()).unwrap_or("info");
    let filter = EnvFilter::try_new(filter)
        .map_err(|e| WrongUsage(format!("--log {filter}: {e}; expected a level such as `debug`")))?;
    // A person sees when a line comes, and what else reads it has time stamps of its own.
    let log =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_target(false).without_time();
    match io::stderr().is_terminal() {
        true => log.init(),
        false => log.with_ansi(false).map_event_format(|format| Lines { format, to_journal: is_journal() }).init(),
    }
    Ok(())
}

/// Is standard error a stream to the journal? The variable may be from a process further up, which has another.
fn is_journal() -> bool {
    let Ok(stderr) = fstat(io::stderr()) else { return false };
    std::env::var("JOURNAL_STREAM").is_ok_and(|stream| stream == format!("{}:{}", stderr.st_dev, stderr.st_ino))
}

struct Lines {
    format: Format<Full, ()>,
    to_journal: bool,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut to: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut text = String::new();
        self.format.format_event(context, Writer::new(&mut text), event)?;
        if self.to_journal {
            write!(to, "<{}>", priority(*event.metadata().level()))?;
        }
        to.write_str(&one_line(&text))
    }
}

/// As syslog(3) numbers them.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

/// What others sent may be quoted in it: it shall neither look like another line nor reach a terminal's controls.
fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len() + 1);
    for c in text.trim().chars() {
        match c.is_control() {
            true => line.extend(c.escape_default()),
            false => line.push(c),
        }
    }
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn written(to_journal: bool, events: impl FnOnce()) -> String {
        let written = Written::default();
        let to = written.clone();
        let log =
            tracing_subscriber::fmt().with_max_level(Level::TRACE).with_target(false).without_time().with_ansi(false);
        let log = log.map_event_format(|format| Lines { format, to_journal }).with_writer(move || to.clone()).finish();
        tracing::subscriber::with_default(log, events);
        let bytes = written.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn the_journal_gets_the_level_and_all_fields() {
        let events = || {
            tracing::error!(url = %"http://example.org/a", "no more");
            tracing::warn!("careful");
            tracing::info!("fine");
            tracing::debug!("so it is done");
        };
        let text = "<3>ERROR no more url=http://example.org/a\n<4>WARN careful\n<6>INFO fine\n<7>DEBUG so it is done\n";
        assert_eq!(written(true, events), text);
        assert_eq!(written(false, || tracing::warn!("careful")), "WARN careful\n");
    }

    #[test]
    fn what_others_sent_is_no_line_of_its_own() {
        let theirs = "a\n<3>ERROR all is lost\r\u{1b}[2Jb\u{85}";
        let line = written(true, || tracing::info!(said = %theirs, "{theirs}"));
        assert_eq!(line.lines().count(), 1, "{line}");
        assert!(
            line.starts_with("<6>INFO a\\n<3>ERROR all is lost\\r\\u{1b}[2Jb\\u{85} said=a\\n")
                || line.contains("\\x1b"),
            "{line}"
        );
        assert!(!line.trim_end().chars().any(char::is_control), "{line}");
    }
}
