//! The verbs for a Squid: its configuration, kept up to date, and the programs that it runs. Without a node they do no harm.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use anyhow::Context;
use clap::Args;

use super::session::Session;
use super::{Output, WrongUsage};
use crate::classify::Url;
use crate::config::units;
use crate::door::pages::encoded;
use crate::ledger::Status;
use crate::os::clock::{Clock, Timestamp};
use crate::squid::lines::{self, Cut, Line, Reply, Splitter};
use crate::squid::rewrite::{Node, Nodes};
use crate::squid::snippet::{Kind, Match, Snippet, Wish, snippet};
use crate::squid::watch::{Act, Watch};

/// A node that has not answered in this time does not.
const PATIENCE: Duration = Duration::from_millis(500);

/// The node of this machine, at its usual port: Squid runs these programs as a user of its own, who may neither read the node's
/// configuration nor open its control socket.
const HERE: &str = "localhost:3142";

/// How often it is looked whether nodes live, where nothing tells that they are gone.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A change of the site has to last so long before a Squid is told of it.
const SETTLE: Duration = Duration::from_secs(5);

/// What is asked of the node at once, in bytes; it reads no longer request lines than 64 KiB.
const BATCH_BYTES: usize = 48 * 1024;

#[derive(Debug, Args)]
pub(super) struct Configuring {
    /// How Squid uses the nodes.
    #[arg(long, value_enum, default_value = "carp")]
    kind: Kind,
    /// What goes to the nodes.
    #[arg(long = "match", value_enum, default_value = "forms", value_name = "WHAT")]
    by: Match,
    /// The port of the nodes' `[icp] listen`.
    #[arg(long, value_name = "PORT", default_value_t = 3130)]
    icp_port: u16,
    /// The port from which Squid asks by ICP.
    #[arg(long, value_name = "PORT", default_value_t = 3130)]
    squid_icp_port: u16,
    /// Keep this file up to date, for as long as this program runs.
    #[arg(long, value_name = "FILE")]
    watch: Option<PathBuf>,
    /// Run this when the file has changed.
    #[arg(long, value_name = "COMMAND", default_value = "squid -k reconfigure", requires = "watch")]
    reconfigure: String,
    /// At most so often.
    #[arg(long, value_name = "DURATION", default_value = "60s", requires = "watch")]
    every: String,
    #[command(flatten)]
    pub(super) output: Output,
}

#[derive(Debug, Args)]
pub(super) struct Rewriting {
    /// Send clients to the node (302), so that nothing goes through Squid; they must be able to reach it.
    #[arg(long)]
    redirect: bool,
    /// Use all live nodes of the site, not only those named.
    #[arg(long)]
    all: bool,
    /// The node of this machine, or others.
    #[arg(long, value_name = "HOST:PORT", default_value = HERE)]
    node: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct Naming {
    /// The node that knows the repositories.
    #[arg(long, value_name = "HOST:PORT", default_value = HERE)]
    node: String,
}

impl Configuring {
    fn wish(&self) -> Wish {
        Wish { kind: self.kind, by: self.by, icp_port: self.icp_port, squid_icp_port: self.squid_icp_port }
    }

    pub(super) fn snippet(&self, status: &Status) -> anyhow::Result<Snippet> {
        snippet(status, self.wish()).map_err(anyhow::Error::msg)
    }

    pub(super) fn watched(&self) -> Option<&Path> {
        self.watch.as_deref()
    }
}

/// Keeps the file up to date, for ever.
///
/// # Errors
/// The file cannot be written.
pub(super) fn keep(file: &Path, wanted: &Configuring, socket: &Path) -> anyhow::Result<()> {
    let every = units::duration(&wanted.every).ok_or_else(|| {
        WrongUsage(format!("--every {}: expected a duration such as \"60s\" or \"5m\"", wanted.every))
    })?;
    let clock = Clock::system();
    let mut watch = Watch::new(every, SETTLE, fs::read_to_string(file).ok());
    let mut said = String::new();
    loop {
        let made = super::ask::<Status>(socket, "GET", "/-/api/status").and_then(|status| wanted.snippet(&status));
        let trouble = made.as_ref().err().map(|error| format!("{error:#}; {} stays as it is", file.display()));
        say_once(&mut said, trouble.unwrap_or_default());
        match watch.looked(clock.now(), made.ok().map(|snippet| snippet.text)) {
            Act::Nothing => {}
            Act::Write(text) => {
                replace(file, &text)?;
                watch.wrote(text);
                watch.told(clock.now(), reconfigured(&wanted.reconfigure));
            }
            Act::Reconfigure => watch.told(clock.now(), reconfigured(&wanted.reconfigure)),
        }
        std::thread::sleep((every / 4).clamp(Duration::from_millis(50), LOOK_EVERY));
    }
}

fn say_once(said: &mut String, words: String) {
    if *said != words && !words.is_empty() {
        tell(&words);
    }
    *said = words;
}

fn tell(words: &str) {
    let _ = writeln!(io::stderr(), "imirror: {words}");
}

/// Squid never sees half of it.
fn replace(file: &Path, text: &str) -> anyhow::Result<()> {
    let mut new = file.as_os_str().to_owned();
    new.push(".new");
    let written = || {
        let mut out = fs::File::create(&new)?;
        out.write_all(text.as_bytes())?;
        out.sync_all()?;
        fs::rename(&new, file)
    };
    written().with_context(|| format!("cannot write {}", file.display()))
}

/// Says whether Squid has taken it.
fn reconfigured(command: &str) -> bool {
    let ran = Command::new("sh").args(["-c", command]).status();
    let trouble = match ran {
        Ok(status) if status.success() => return true,
        Ok(status) => status.to_string(),
        Err(error) => error.to_string(),
    };
    tell(&format!("`{command}` failed ({trouble}); it is tried again"));
    false
}

/// Answers Squid's `url_rewrite_program` until its end.
pub(super) fn rewrite(wanted: &Rewriting) -> anyhow::Result<()> {
    let live = Live::default();
    let looked = live.clone();
    let redirect = wanted.redirect;
    // The first answer is given with what there is.
    let mut look = Look::new(wanted);
    look.once(&live);
    std::thread::spawn(move || {
        loop {
            look.again(&looked);
        }
    });
    serve(|asked, out| {
        let nodes = live.nodes();
        for line in asked {
            let url = line.borrowed().and_then(|line| nodes.rewritten(&line));
            let reply = match &url {
                Some(url) if redirect => Reply::Redirect(url),
                Some(url) => Reply::Rewrite(url),
                None => Reply::Unchanged,
            };
            lines::write(out, line.channel(), reply);
        }
    })
}

/// The nodes that live, as far as is known.
#[derive(Clone, Default)]
struct Live(Arc<RwLock<Arc<Nodes>>>);

impl Live {
    fn nodes(&self) -> Arc<Nodes> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn are(&self, nodes: Vec<Node>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(Nodes::new(nodes));
    }
}

/// Finds out who lives.
struct Look {
    all: bool,
    /// The nodes to ask, each with the connection to it. That ends in the moment in which the node does.
    asked: Vec<(String, Option<Session>)>,
}

impl Look {
    fn new(wanted: &Rewriting) -> Self {
        Self { all: wanted.all, asked: wanted.node.iter().map(|node| (node.clone(), None)).collect() }
    }

    fn once(&mut self, live: &Live) {
        let mut living = BTreeMap::new();
        for (node, session) in &mut self.asked {
            let opened = session.take().map_or_else(|| Session::open(node, PATIENCE), Ok);
            let status = opened.and_then(|mut open| {
                let status: Status = serde_json::from_value(open.get("/-/api/status")?)?;
                *session = Some(open);
                Ok(status)
            });
            if let Ok(status) = status {
                living.extend(chosen(&status, node, self.all).map(|node| (node.id.clone(), node)));
            }
        }
        live.are(living.into_values().collect());
    }

    fn again(&mut self, live: &Live) {
        let wait = LOOK_EVERY / u32::try_from(self.asked.len()).unwrap_or(1).max(1);
        for (_, session) in &mut self.asked {
            match session {
                Some(open) => {
                    if open.lives(wait) {
                        continue;
                    }
                    *session = None;
                    // Until the others have been asked again nobody is.
                    live.are(Vec::new());
                }
                None => std::thread::sleep(wait),
            }
        }
        self.once(live);
    }
}

/// Of what a node that was asked at `at` says: itself, or all that live.
fn chosen<'s>(status: &'s Status, at: &'s str, all: bool) -> impl Iterator<Item = Node> + 's {
    let living = status.site.nodes.iter().filter(|node| node.state == "alive" && !node.address.is_empty());
    let is_own = |id: &str| id == status.node.id;
    let wanted = living.filter(move |node| all || is_own(&node.id));
    // What is here for this machine is somewhere else for a client.
    let is_here = at.starts_with("localhost:") || at.parse().is_ok_and(|at: SocketAddr| at.ip().is_loopback());
    wanted.map(move |node| {
        let address = if is_own(&node.id) && !is_here { at } else { &node.address };
        Node { id: node.id.clone(), address: address.to_owned() }
    })
}

/// Answers Squid's `store_id_program` until its end.
pub(super) fn store_id(wanted: Naming) -> anyhow::Result<()> {
    let mut names = Names { node: wanted.node, session: None, silent_until: None, clock: Clock::system() };
    serve(|asked, out| {
        // One that is too long for a request is none of a package.
        let fits = |line: &Line<'_>| line.url.len() <= Url::LEN_MAX;
        let urls: Vec<&str> =
            asked.iter().map(|line| line.borrowed().filter(fits).map_or("", |line| line.url)).collect();
        let ids = names.of(&urls);
        for (line, id) in asked.iter().zip(&ids) {
            let reply = id.as_deref().map_or(Reply::Unchanged, Reply::StoreId);
            lines::write(out, line.channel(), reply);
        }
    })
}

/// Asks the node what things are called. One that does not answer is left alone for a while, and all stays as it is.
struct Names {
    node: String,
    session: Option<Session>,
    silent_until: Option<Timestamp>,
    clock: Clock,
}

impl Names {
    fn of(&mut self, urls: &[&str]) -> Vec<Option<String>> {
        let mut ids = Vec::with_capacity(urls.len());
        let mut query = String::new();
        let mut asked = 0;
        for url in urls {
            let url = encoded(url);
            if asked > 0 && query.len() + url.len() >= BATCH_BYTES {
                ids.extend(self.ask(&std::mem::take(&mut query), std::mem::take(&mut asked)));
            }
            query.push(if asked == 0 { '?' } else { '&' });
            query.push_str(&url);
            asked += 1;
        }
        ids.extend(self.ask(&query, asked));
        ids
    }

    fn ask(&mut self, query: &str, count: usize) -> Vec<Option<String>> {
        let nothing = || vec![None; count];
        if count == 0 || self.silent_until.is_some_and(|then| self.clock.now() < then) {
            return nothing();
        }
        let path = format!("/-/api/store-ids{query}");
        // A connection may have ended since it was used last: once more by a new one.
        let again = self.session.take().and_then(|mut session| Some((session.get(&path).ok()?, session)));
        let asked = match again {
            Some(answered) => Ok(answered),
            None => Session::open(&self.node, PATIENCE).and_then(|mut it| Ok((it.get(&path)?, it))),
        };
        let ids = asked.ok().and_then(|(answer, session)| {
            let ids: Vec<Option<String>> = serde_json::from_value(answer).ok()?;
            self.session = Some(session);
            (ids.len() == count).then_some(ids)
        });
        self.silent_until = ids.is_none().then(|| self.clock.now() + LOOK_EVERY);
        ids.unwrap_or_else(nothing)
    }
}

/// A line of Squid's, without its end.
struct Asked {
    line: Vec<u8>,
    whole: bool,
}

impl Asked {
    fn borrowed(&self) -> Option<Line<'_>> {
        Line::read(&self.line).filter(|_| self.whole)
    }

    fn channel(&self) -> Option<&str> {
        lines::channel(&self.line)
    }
}

/// Answers each line of standard input with one of standard output, all that come together at once, until Squid has no more.
fn serve(mut answer: impl FnMut(&[Asked], &mut Vec<u8>)) -> anyhow::Result<()> {
    let (mut input, mut output) = (io::stdin().lock(), io::stdout().lock());
    let (mut buffer, mut splitter) = (vec![0; 64 * 1024], Splitter::default());
    loop {
        let read = match input.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error.into()),
        };
        let mut asked = Vec::new();
        splitter.push(&buffer[..read], |cut| {
            let (line, whole) = match cut {
                Cut::Whole(line) => (line, true),
                Cut::TooLong(line) => (line, false),
            };
            asked.push(Asked { line: line.to_vec(), whole });
        });
        if !asked.is_empty() {
            let mut out = Vec::new();
            answer(&asked, &mut out);
            output.write_all(&out)?;
            output.flush()?;
        }
    }
}
