//! The command line. `run` is the node; every other verb asks the running one over its control socket.

mod client_config;
mod control;
mod doctor;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{CommandFactory, Parser, Subcommand};
use serde_json::Value;

use crate::config::file::{self, Folders};
use crate::config::{CacheSize, Config};
use crate::daemon;
use crate::door::pages::encoded;

const EXIT_CODES: &str =
    "Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 no node is running, 4 problems were found.";

/// A handful of ordinary machines act as one mirror of Linux packages.
#[derive(Debug, Parser)]
#[command(name = "imirror", version, after_help = EXIT_CODES, arg_required_else_help = true)]
struct Arguments {
    /// Read this file instead of the default ones.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// What to log: error, warn, info, debug, trace, or a filter such as `imirror::flight=debug`.
    #[arg(long, global = true, env = "IMIRROR_LOG", default_value = "info", value_name = "FILTER")]
    log: String,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the node in the foreground.
    Run,
    /// Show what the node holds and does.
    Status {
        #[arg(long)]
        json: bool,
    },
    /// Say what a URL is, where it is, and what would happen to a request for it.
    Lookup {
        url: String,
        #[arg(long)]
        json: bool,
    },
    /// Forget a URL, or with --repo everything below it.
    Purge {
        url: String,
        /// Forget everything that begins with the URL.
        #[arg(long)]
        repo: bool,
        #[arg(long)]
        json: bool,
    },
    /// Read everything that is stored and drop what is damaged.
    Verify {
        #[arg(long)]
        json: bool,
    },
    /// Print the effective configuration, or check it.
    Config {
        #[command(subcommand)]
        verb: Option<ConfigVerb>,
    },
    /// Print what to write on a client.
    ClientConfig {
        family: client_config::Family,
        /// The node as clients reach it.
        #[arg(long, default_value = "localhost:3142", value_name = "HOST:PORT")]
        node: String,
    },
    /// Look for what may keep the node from working, and say what to do.
    Doctor {
        #[arg(long)]
        json: bool,
    },
    /// Print a completion script for a shell.
    Completions { shell: clap_complete::Shell },
    /// Print the manual page.
    Man,
}

#[derive(Debug, Subcommand)]
enum ConfigVerb {
    /// Say whether the configuration is right.
    Check,
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match dispatch(arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("imirror: {error:#}");
            match () {
                () if error.is::<file::ConfigError>() => ExitCode::from(2),
                () if error.is::<control::NotRunning>() => ExitCode::from(3),
                () => ExitCode::from(1),
            }
        }
    }
}

fn dispatch(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let config = || load(arguments.config.as_ref());
    let ask = |method: &str, path: &str| -> anyhow::Result<Value> { control::ask(&config()?.socket, method, path) };
    match arguments.verb {
        Verb::Run => {
            start_log(&arguments.log)?;
            daemon::run(config()?)?;
        }
        Verb::Status { json } => print(&ask("GET", "/-/api/status")?, json, status_screen)?,
        Verb::Lookup { url, json } => print(&ask("GET", &format!("/-/api/lookup?{}", encoded(&url)))?, json, pretty)?,
        Verb::Purge { url, repo, json } => {
            let prefix = if repo { "prefix=" } else { "" };
            let gone = ask("POST", &format!("/-/api/purge?{prefix}{}", encoded(&url)))?;
            print(&gone, json, |gone| format!("{gone} forgotten\n"))?;
        }
        Verb::Verify { json } => {
            let report = ask("POST", "/-/api/verify")?;
            print(&report, json, |r| format!("{} objects checked, {} dropped\n", r["objects"], r["dropped"]))?;
            if report["dropped"] != 0 {
                return Ok(ExitCode::from(4));
            }
        }
        Verb::Config { verb: None } => print!("{}", effective(&config()?)),
        Verb::Config { verb: Some(ConfigVerb::Check) } => {
            config()?;
            println!("the configuration is right");
        }
        Verb::ClientConfig { family, node } => print!("{}", client_config::recipe(family, &node)),
        Verb::Doctor { json } => return doctor::examine(&config()?, json),
        Verb::Completions { shell } => {
            clap_complete::generate(shell, &mut Arguments::command(), "imirror", &mut std::io::stdout());
        }
        Verb::Man => clap_mangen::Man::new(Arguments::command()).render(&mut std::io::stdout())?,
    }
    Ok(ExitCode::SUCCESS)
}

fn load(named: Option<&PathBuf>) -> anyhow::Result<Config> {
    let environment = |name: &str| std::env::var(name).ok();
    let is_root = rustix::process::geteuid().is_root();
    let files = match named {
        Some(path) => vec![path.clone()],
        None => file::default_files(is_root, &environment),
    };
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let mut folders = Folders::of_user(is_root, &environment);
    if named.is_some() {
        // A node with a file of its own has a socket of its own: several may run beside each other.
        folders.socket = PathBuf::new();
    }
    let mut config = file::load(&files, &folders, &host, &environment)?;
    if config.socket.as_os_str().is_empty() {
        config.socket = config.state_dir.join("control.sock");
    }
    Ok(config)
}

fn start_log(filter: &str) -> anyhow::Result<()> {
    use std::io::IsTerminal;
    let filter = tracing_subscriber::EnvFilter::try_new(filter).context("--log is no filter")?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    match std::io::stderr().is_terminal() {
        true => log.without_time().init(),
        // The journal has its own time stamps and no colours.
        false => log.without_time().with_ansi(false).init(),
    }
    Ok(())
}

fn print(value: &Value, json: bool, human: impl Fn(&Value) -> String) -> anyhow::Result<()> {
    use std::io::Write;
    let text = if json { format!("{}\n", serde_json::to_string_pretty(value)?) } else { human(value) };
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

fn status_screen(status: &Value) -> String {
    let (node, cache, traffic) = (&status["node"], &status["cache"], &status["traffic"]);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let bytes = |value: &Value| human_bytes(value.as_u64().unwrap_or(0));
    let mut screen = format!(
        "{}  imirror {}  {}\n\n  stored     {} objects, {} of {}\n  requests   {}: {} hits, {} misses, {} while upstream was down, {} errors\n  \
         to clients {}\n  upstream   {}\n",
        text(&node["name"]),
        text(&node["version"]),
        text(&node["address"]),
        cache["objects"],
        bytes(&cache["bytes"]),
        bytes(&cache["limit_bytes"]),
        traffic["requests"],
        traffic["hits"],
        traffic["misses"],
        traffic["stale"],
        traffic["errors"],
        bytes(&traffic["bytes_to_clients"]),
        bytes(&traffic["bytes_from_upstream"]),
    );
    for flight in status["flights"].as_array().into_iter().flatten() {
        let total = flight["total"].as_u64().map_or_else(|| "?".into(), human_bytes);
        let line = format!(
            "  loading    {} of {total}, {} readers  {}\n",
            bytes(&flight["bytes"]),
            flight["readers"],
            text(&flight["url"])
        );
        screen.push_str(&line);
    }
    screen
}

fn pretty(value: &Value) -> String {
    let mut out = String::new();
    for (name, value) in value.as_object().into_iter().flatten() {
        let value = match value {
            Value::Null => "-".into(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        out.push_str(&format!("{name:<8} {value}\n"));
    }
    out
}

fn human_bytes(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", units[unit]) }
}

/// The values that count, one a line; secrets are only said to be there.
fn effective(config: &Config) -> String {
    let size = match config.cache_size {
        CacheSize::Bytes(bytes) => human_bytes(bytes),
        CacheSize::Percent(percent) => format!("{percent}%"),
    };
    let lines = [
        ("name", config.name.clone()),
        ("listen", config.listen.to_string()),
        ("state_dir", config.state_dir.display().to_string()),
        ("cache_dir", config.cache_dir.display().to_string()),
        ("cache_size", size),
        ("memory_size", human_bytes(config.memory_size)),
        ("clients.allow", format!("{:?}", config.clients.allow.iter().map(ToString::to_string).collect::<Vec<_>>())),
        ("clients.connect_ports", format!("{:?}", config.clients.connect_ports)),
        ("upstream.proxy", config.upstream.proxy.as_ref().map_or("none".into(), |p| format!("{}:{}", p.host, p.port))),
        ("repos", format!("{:?}", config.repos.keys().collect::<Vec<_>>())),
        ("freshness.metadata", format!("{:?}", config.freshness.metadata)),
        ("freshness.package", format!("{:?}", config.freshness.package)),
        ("log.access", format!("{:?}", config.access_log)),
        ("control socket", config.socket.display().to_string()),
    ];
    lines.iter().map(|(name, value)| format!("{name:<22} {value}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn sizes_for_people() {
        for (bytes, text) in [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (50 << 30, "50.0 GiB")] {
            assert_eq!(human_bytes(bytes), text);
        }
    }

    #[test]
    fn the_status_screen() {
        let status = serde_json::to_value(crate::ledger::Status::example()).unwrap();
        let screen = status_screen(&status);
        assert!(screen.starts_with("lab1  imirror 0.1.0  192.0.2.1:3142\n"), "{screen}");
        assert!(screen.contains("4711 objects, 12.0 GiB of 50.0 GiB"), "{screen}");
        assert!(screen.contains("1000: 800 hits, 150 misses, 3 while upstream was down, 2 errors"), "{screen}");
    }
}
