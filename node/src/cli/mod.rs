//! The command line. `run` is the node; every other verb asks the running one over its control socket, or needs none.
//! One definition gives the help, the manual pages and the completions.

mod client_config;
mod control;
mod detect;
mod doctor;
mod log;
mod prefetch;
mod progress;
mod screen;
mod session;
mod site;
mod squid;
mod status;
mod top;

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, CommandFactory, Parser, Subcommand};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::config::{self, ConfigError, Loaded, Overrides, Surroundings};
use crate::daemon;
use crate::door::pages::encoded;
use crate::door::recipes;
use crate::ledger::status::{Drain, Health, Lookup, Purged, Status, Verify};
use crate::os::clock::Clock;

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed
  2  wrong usage or configuration
  3  no node is running
  4  problems were found (doctor, verify, drain, client-config --undo)

Files:
  /etc/imirror, ~/.config/imirror            configuration: imirror.toml, then conf.d/*.toml
  /var/lib/imirror, ~/.local/state/imirror   identity and access log
  /var/cache/imirror, ~/.cache/imirror       what is stored
Every key can be set by a variable, too: IMIRROR_CACHE_SIZE, IMIRROR_UPSTREAM_PROXY, …";

/// A handful of ordinary machines act as one mirror of Linux packages.
#[derive(Debug, Parser)]
#[command(name = "imirror", version, after_help = EXIT_CODES, arg_required_else_help = true)]
struct Arguments {
    /// What to log: error, warn, info, debug, trace, or a filter such as `imirror::flight=debug`.
    #[arg(long, global = true, env = "IMIRROR_LOG", hide_env_values = true, value_name = "FILTER")]
    log: Option<String>,
    #[command(flatten)]
    settings: Settings,
    #[command(subcommand)]
    verb: Verb,
}

/// Flags that override the files and the environment.
#[derive(Debug, Args)]
#[command(next_help_heading = "Configuration")]
struct Settings {
    /// Read this file instead of the default ones.
    #[arg(long, global = true, env = "IMIRROR_CONFIG", hide_env_values = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where the control socket is.
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Address and port for clients.
    #[arg(long, global = true, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
    /// Folder of objects and index.
    #[arg(long, global = true, value_name = "FOLDER")]
    cache_dir: Option<String>,
    /// Folder of identity, token and access log.
    #[arg(long, global = true, value_name = "FOLDER")]
    state_dir: Option<String>,
    /// Most that is stored: `50GiB`, or `80%` of the file system.
    #[arg(long, global = true, value_name = "SIZE")]
    cache_size: Option<String>,
    /// The parent proxy, the only way out then.
    #[arg(long, global = true, value_name = "URL")]
    proxy: Option<String>,
    /// Any key of the configuration: `--set clients.connect_ports=443,8443`.
    #[arg(long = "set", global = true, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the node in the foreground.
    Run,
    /// Show what the node holds and does.
    Status(Output),
    /// Show the nodes of the site.
    Nodes(Output),
    /// Show the whole site at this terminal, live: `?` says which keys there are.
    Top,
    /// The site: the nodes that share one token.
    Site {
        #[command(subcommand)]
        verb: SiteVerb,
    },
    /// Make this machine part of a site.
    Join {
        /// As `imirror site show` says it on a machine of the site; `-` reads it from standard input.
        #[arg(value_name = "TOKEN|-")]
        token: String,
    },
    /// Say what a URL is, where it is, and what would happen to a request for it.
    Lookup {
        url: String,
        #[command(flatten)]
        output: Output,
    },
    /// Forget a URL, or with --repo everything below it, at all nodes of the site.
    Purge {
        url: String,
        /// Forget everything that begins with the URL.
        #[arg(long)]
        repo: bool,
        #[command(flatten)]
        output: Output,
    },
    /// Read everything that is stored and drop what is damaged.
    Verify(Output),
    /// Hand over what only this node has, so that it can be stopped without a loss.
    Drain {
        /// Stay after all.
        #[arg(long)]
        cancel: bool,
        #[command(flatten)]
        output: Output,
    },
    /// The helper: what it has fetched before anybody asked, and what it will.
    Prefetch {
        #[command(subcommand)]
        verb: prefetch::PrefetchVerb,
    },
    /// Print the effective configuration and where each value came from, or check it.
    Config {
        #[command(subcommand)]
        verb: Option<ConfigVerb>,
        #[command(flatten)]
        output: Output,
    },
    /// Print what to write on a client, or write it: --apply, and --undo takes it back.
    ClientConfig {
        family: recipes::Family,
        #[command(flatten)]
        options: client_config::Options,
    },
    /// Print the proxy for apt's Acquire::http::Proxy-Auto-Detect: the node here or one on this network, else DIRECT.
    AptProxyDetect {
        /// What apt asks for; makes no difference.
        uri: Option<String>,
        /// Try these first, in order.
        #[arg(long, value_name = "HOST:PORT")]
        node: Vec<String>,
    },
    /// Print what a Squid needs in its configuration to use the nodes of this site.
    SquidConfig(squid::Configuring),
    /// For Squid's url_rewrite_program: packages come from the node while it lives.
    SquidRewrite(squid::Rewriting),
    /// For Squid's store_id_program: one name for a package, whichever mirror has it.
    SquidStoreId(squid::Naming),
    /// Look for what may keep the node from working, and say what to do.
    Doctor(Output),
    /// Print a completion script for a shell.
    Completions { shell: clap_complete::Shell },
    /// Print the manual page, or write those of all verbs into a folder.
    Man {
        #[arg(long, value_name = "FOLDER")]
        dir: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
enum ConfigVerb {
    /// Say whether the configuration is right.
    Check,
}

#[derive(Debug, Subcommand)]
enum SiteVerb {
    /// Found a site: make a token and keep it.
    New {
        /// Leave the site that this machine is part of.
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        output: Output,
    },
    /// Print the token, which is a secret, and how another machine joins.
    Show(Output),
}

#[derive(Debug, Clone, Copy, Args)]
struct Output {
    /// For programs: JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    match dispatch(Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            let code = exit_code(&error);
            if code != 0 {
                // If nobody reads standard error any more, there is nothing to be done about it.
                let _ = writeln!(io::stderr(), "imirror: {error:#}");
            }
            ExitCode::from(code)
        }
    }
}

fn exit_code(error: &anyhow::Error) -> u8 {
    match error {
        // `imirror status | head`: who reads has seen enough.
        e if e.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe) => 0,
        e if e.is::<ConfigError>() || e.is::<WrongUsage>() => 2,
        e if e.is::<control::NotRunning>() => 3,
        _ => 1,
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct WrongUsage(String);

fn dispatch(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let settings = arguments.settings;
    let load = || load(&settings, &Surroundings::here());
    match arguments.verb {
        Verb::Run => {
            log::start(arguments.log.as_deref())?;
            let loaded = load()?;
            loaded.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
            if let Some(problem) = loaded.token_problem {
                return Err(ConfigError(vec![problem]).into());
            }
            daemon::run(loaded.config)?;
        }
        Verb::Status(output) => {
            let node = load()?.config.socket;
            let (status, health): (Status, Health) =
                (ask(&node, "GET", "/-/api/status")?, ask(&node, "GET", "/-/api/health")?);
            print(&status, output, |status| status::screen(status, &health, Clock::system().now(), width()))?;
        }
        Verb::Nodes(output) => {
            let status: Status = ask(&load()?.config.socket, "GET", "/-/api/status")?;
            print(&status.site, output, screen::nodes)?;
        }
        Verb::Top => return top::run(&load()?.config.socket),
        Verb::Site { verb: SiteVerb::New { force, output } } => {
            print(&site::found(&load()?, force)?, output, site::screen)?;
        }
        Verb::Site { verb: SiteVerb::Show(output) } => print(&site::show(load()?)?, output, site::screen)?,
        Verb::Join { token } => write(&site::join(&load()?, &token)?)?,
        Verb::Lookup { url, output } => {
            let path = format!("/-/api/lookup?{}", encoded(&url));
            let found: Lookup = ask(&load()?.config.socket, "GET", &path)?;
            print(&found, output, |found| screen::lookup(found, Clock::system().now()))?;
        }
        Verb::Purge { url, repo, output } => {
            let prefix = if repo { "prefix=" } else { "" };
            let path = format!("/-/api/purge?{prefix}{}", encoded(&url));
            let purged: Purged = ask(&load()?.config.socket, "POST", &path)?;
            print(&purged, output, screen::purged)?;
        }
        Verb::Verify(output) => {
            let report = verify(&load()?.config.socket, output)?;
            print(&report, output, screen::verify)?;
            return Ok(ExitCode::from(match report {
                Verify { failed: true, .. } => 1,
                Verify { dropped: 0, .. } => 0,
                _ => 4,
            }));
        }
        Verb::Drain { cancel: true, .. } => {
            let () = ask(&load()?.config.socket, "DELETE", "/-/api/drain")?;
            write("the node stays\n")?;
        }
        Verb::Drain { cancel: false, output } => {
            let report = drain(&load()?.config.socket, output)?;
            print(&report, output, screen::drained)?;
            return Ok(ExitCode::from(if report.left == 0 { 0 } else { 4 }));
        }
        Verb::Prefetch { verb } => return prefetch::dispatch(verb, &load()?.config.socket),
        Verb::Config { verb: None, output } => {
            let loaded = load()?;
            warn(&loaded);
            print(&loaded.shown, output, |shown| screen::configuration(shown, &loaded))?;
        }
        Verb::Config { verb: Some(ConfigVerb::Check), .. } => check(load()?)?,
        Verb::ClientConfig { family, options } => {
            options.check()?;
            if !options.changes() {
                let node = options.node.first().cloned();
                let node = node.map_or_else(|| load().map(|loaded| local_address(&loaded)), Ok)?;
                write(&recipes::recipe(family, &node))?;
                return Ok(ExitCode::SUCCESS);
            }
            let nodes = match options.apply && options.node.is_empty() {
                true => site_addresses(&load()?.config.socket)?,
                false => options.node.clone(),
            };
            let report = client_config::run(family, &options, &nodes)?;
            write(&report.text)?;
            // The client would go on without it, and nobody would ever know.
            for silent in report.nodes.iter().filter(|node| !detect::answers(node)) {
                let _ = writeln!(io::stderr(), "imirror: warning: no node answers at {silent} now");
            }
            return Ok(ExitCode::from(if report.is_whole { 0 } else { 4 }));
        }
        Verb::AptProxyDetect { uri: _, node } => {
            let config = load().ok().map(|loaded| loaded.config);
            let mdns = config.as_ref().is_none_or(|config| config.site.mdns);
            write(&detect::proxy(&node, config.map(|config| config.listen), mdns))?;
        }
        Verb::SquidConfig(wanted) => {
            let node = load()?.config.socket;
            if let Some(file) = wanted.watched() {
                return squid::keep(file, &wanted, &node).map(|()| ExitCode::SUCCESS);
            }
            let status: Status = ask(&node, "GET", "/-/api/status")?;
            print(&wanted.snippet(&status)?, wanted.output, |snippet| snippet.text.clone())?;
        }
        Verb::SquidRewrite(wanted) => squid::rewrite(&wanted)?,
        Verb::SquidStoreId(wanted) => squid::store_id(wanted)?,
        Verb::Doctor(output) => {
            let loaded = load()?;
            warn(&loaded);
            let findings = doctor::examine(&loaded.config);
            print(&findings, output, |findings| doctor::screen(findings))?;
            return Ok(ExitCode::from(if doctor::is_well(&findings) { 0 } else { 4 }));
        }
        Verb::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "imirror", &mut script);
            io::stdout().write_all(&script)?;
        }
        Verb::Man { dir: None } => clap_mangen::Man::new(Arguments::command()).render(&mut io::stdout())?,
        Verb::Man { dir: Some(dir) } => {
            std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
            clap_mangen::generate_to(Arguments::command(), &dir)
                .with_context(|| format!("cannot write to {}", dir.display()))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn load(settings: &Settings, here: &Surroundings) -> anyhow::Result<Loaded> {
    let mut overrides =
        Overrides { file: settings.config.clone(), socket: settings.socket.clone(), settings: Vec::new() };
    let mut set = |flag: &str, key: &str, value: &Option<String>| {
        if let Some(value) = value {
            overrides.settings.push((flag.to_owned(), key.to_owned(), value.clone()));
        }
    };
    for pair in &settings.set {
        let (key, value) =
            pair.split_once('=').ok_or_else(|| WrongUsage(format!("--set {pair}: expected KEY=VALUE")))?;
        set("--set", key.trim(), &Some(value.to_owned()));
    }
    set("--listen", "listen", &settings.listen);
    set("--cache-dir", "cache_dir", &settings.cache_dir);
    set("--state-dir", "state_dir", &settings.state_dir);
    set("--cache-size", "cache_size", &settings.cache_size);
    set("--proxy", "upstream.proxy", &settings.proxy);
    Ok(config::load(&overrides, here)?)
}

fn ask<T: DeserializeOwned>(socket: &Path, method: &str, path: &str) -> anyhow::Result<T> {
    understood(control::ask(socket, method, path)?)
}

fn understood<T: DeserializeOwned>(answer: serde_json::Value) -> anyhow::Result<T> {
    serde_json::from_value(answer).context("the node answers in another way: is it of another version?")
}

/// Lets the node read everything and waits for it. An end of this program is no end of that.
fn verify(node: &Path, output: Output) -> anyhow::Result<Verify> {
    let mut report: Verify = ask(node, "POST", "/-/api/verify")?;
    let mut progress = progress::Progress::new();
    let mut pause = Duration::from_millis(5);
    while !report.finished {
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(500));
        report = ask(node, "GET", "/-/api/verify")?;
        if !output.json {
            progress.show(report.objects, report.objects_total, &screen::verifying(&report));
        }
    }
    progress.end();
    Ok(report)
}

/// Lets the node hand over what only it has, and waits for it. An end of this program is no end of that.
fn drain(node: &Path, output: Output) -> anyhow::Result<Drain> {
    let mut report: Drain = ask(node, "POST", "/-/api/drain")?;
    let mut progress = progress::Progress::new();
    while !report.finished {
        std::thread::sleep(Duration::from_millis(100));
        report = ask(node, "GET", "/-/api/drain")?;
        if !output.json {
            progress.show(report.objects, report.objects_total, &screen::draining(&report));
        }
    }
    progress.end();
    Ok(report)
}

fn warn(loaded: &Loaded) {
    for warning in &loaded.warnings {
        let _ = writeln!(io::stderr(), "imirror: warning: {warning}");
    }
    if let Some(problem) = &loaded.token_problem {
        let _ = writeln!(io::stderr(), "imirror: warning: {problem}");
    }
}

fn check(loaded: Loaded) -> anyhow::Result<()> {
    if let Some(problem) = loaded.token_problem {
        return Err(ConfigError(vec![problem]).into());
    }
    warn(&loaded);
    write(&screen::checked(&loaded.files))
}

/// The running node's address; else a guess from the configuration.
fn local_address(loaded: &Loaded) -> String {
    let running = control::ask(&loaded.config.socket, "GET", "/-/api/status").ok();
    let address = running.and_then(|status| Some(status["node"]["address"].as_str()?.to_owned()));
    address.unwrap_or_else(|| match loaded.config.listen {
        listen if listen.ip().is_unspecified() => format!("localhost:{}", listen.port()),
        listen => listen.to_string(),
    })
}

/// The running node and the others of its site that are alive, as clients reach them.
fn site_addresses(socket: &Path) -> anyhow::Result<Vec<String>> {
    const NODES_MAX: usize = 4;
    let status: Status =
        ask(socket, "GET", "/-/api/status").map_err(|error| error.context("say which node: --node HOST:PORT"))?;
    let alive = status.site.nodes.into_iter().filter(|node| node.state == "alive" && node.id != status.node.id);
    let others = alive.map(|node| node.address).filter(|address| !address.is_empty());
    Ok(std::iter::once(status.node.address).chain(others).take(NODES_MAX).collect())
}

/// Columns of the terminal; what is no terminal takes lines of any length.
fn width() -> usize {
    match io::stdout().is_terminal() {
        true => crossterm::terminal::size().map_or(80, |(columns, _)| usize::from(columns).max(40)),
        false => usize::MAX,
    }
}

fn print<T: Serialize>(value: &T, output: Output, human: impl Fn(&T) -> String) -> anyhow::Result<()> {
    match output.json {
        true => write(&format!("{}\n", serde_json::to_string_pretty(value)?)),
        false => write(&harmless(&human(value))),
    }
}

/// Names come from outside; nothing in them is to move a terminal's cursor.
fn harmless(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && !matches!(c, '\n' | '\t') { '\u{fffd}' } else { c }).collect()
}

fn write(text: &str) -> anyhow::Result<()> {
    Ok(io::stdout().write_all(text.as_bytes())?)
}

#[cfg(test)]
mod tests;
