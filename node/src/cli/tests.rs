use super::*;
use crate::ledger::status::{Said, StoredObject};
use crate::os::clock::Timestamp;
use std::time::Duration;

const NOW: Timestamp = Timestamp(1_793_526_185_007 + 93_784_000);

fn parse(line: &str) -> Result<Arguments, clap::Error> {
    Arguments::try_parse_from(line.split_whitespace())
}

#[test]
fn the_command_line_is_consistent() {
    Arguments::command().debug_assert();
}

#[test]
fn the_help() {
    insta::assert_snapshot!(Arguments::command().term_width(100).render_help(), @r##"
A handful of ordinary machines act as one mirror of Linux packages

Usage: imirror [OPTIONS] <COMMAND>

Commands:
  run               Run the node in the foreground
  status            Show what the node holds and does
  nodes             Show the nodes of the site
  top               Show the whole site at this terminal, live: `?` says which keys there are
  site              The site: the nodes that share one token
  join              Make this machine part of a site
  lookup            Say what a URL is, where it is, and what would happen to a request for it
  purge             Forget a URL, or with --repo everything below it, at all nodes of the site
  verify            Read everything that is stored and drop what is damaged
  drain             Hand over what only this node has, so that it can be stopped without a loss
  prefetch          The helper: what it has fetched before anybody asked, and what it will
  config            Print the effective configuration and where each value came from, or check it
  client-config     Print what to write on a client, or write it: --apply, and --undo takes it back
  apt-proxy-detect  Print the proxy for apt's Acquire::http::Proxy-Auto-Detect: the node here or one
                    on this network, else DIRECT
  squid-config      Print what a Squid needs in its configuration to use the nodes of this site
  squid-rewrite     For Squid's url_rewrite_program: packages come from the node while it lives
  squid-store-id    For Squid's store_id_program: one name for a package, whichever mirror has it
  doctor            Look for what may keep the node from working, and say what to do
  completions       Print a completion script for a shell
  man               Print the manual page, or write those of all verbs into a folder
  help              Print this message or the help of the given subcommand(s)

Options:
      --log <FILTER>  What to log: error, warn, info, debug, trace, or a filter such as
                      `imirror::flight=debug` [env: IMIRROR_LOG]
  -h, --help          Print help
  -V, --version       Print version

Configuration:
      --config <FILE>          Read this file instead of the default ones [env: IMIRROR_CONFIG]
      --socket <PATH>          Where the control socket is
      --listen <ADDRESS:PORT>  Address and port for clients
      --cache-dir <FOLDER>     Folder of objects and index
      --state-dir <FOLDER>     Folder of identity, token and access log
      --cache-size <SIZE>      Most that is stored: `50GiB`, or `80%` of the file system
      --proxy <URL>            The parent proxy, the only way out then
      --set <KEY=VALUE>        Any key of the configuration: `--set clients.connect_ports=443,8443`

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
Every key can be set by a variable, too: IMIRROR_CACHE_SIZE, IMIRROR_UPSTREAM_PROXY, …
"##);
}

#[test]
fn verbs_and_flags() {
    for line in [
        "imirror run --listen 127.0.0.1:0 --set site.mdns=false --set log.access=off",
        "imirror --config x.toml status --json",
        "imirror config --json",
        "imirror squid-config --kind sibling --match both --icp-port 3131 --json",
        "imirror squid-config --watch x.conf --every 5m --reconfigure true",
        "imirror squid-rewrite --redirect --all --node a:1 --node b:2",
        "imirror squid-store-id --node a:1",
        "imirror nodes --json",
        "imirror site new --force --json",
        "imirror site show",
        "imirror join -",
        "imirror drain --cancel",
        "imirror config check --config x.toml",
        "imirror purge --repo http://example.org/fedora",
        "imirror apt-proxy-detect http://example.org/ --node a:3142 --node b:3142",
        "imirror client-config apk --node lab1:3142",
        "imirror client-config dnf --apply --dry-run --root /mnt --node a --node b --base x=http://example.org/",
        "imirror client-config dnf --undo --root /mnt",
        "imirror top --socket x",
        "imirror man --dir x",
    ] {
        parse(line).unwrap_or_else(|e| panic!("{line}: {e}"));
    }
    for line in ["imirror", "imirror fly", "imirror lookup", "imirror client-config emerge", "imirror status --jsno"] {
        assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
    }
}

#[test]
fn flags_win_and_name_themselves() {
    let here =
        Surroundings { variables: Default::default(), is_root: true, host: "lab1".into(), root: "/nonexistent".into() };
    let settings = parse("imirror config --cache-size 7GiB --set listen=[::]:1 --listen [::]:2").unwrap().settings;
    let loaded = load(&settings, &here).unwrap();
    let shown = |key: &str| loaded.shown.iter().find(|shown| shown.key == key).unwrap();
    assert_eq!(shown("cache_size").value.as_deref(), Some("\"7GiB\""));
    assert_eq!((loaded.config.listen.port(), shown("listen").origin.as_str()), (2, "flag --listen"));
    let wrong = |line: &str| load(&parse(line).unwrap().settings, &here).unwrap_err();
    assert_eq!(exit_code(&wrong("imirror config --set listen")), 2);
    let error = wrong("imirror config --set lisen=[::]:1");
    assert_eq!(exit_code(&error), 2);
    assert!(error.to_string().contains("flag --set: unknown key `lisen`; did you mean `listen`?"), "{error}");
}

#[test]
fn errors_have_their_codes() {
    let nowhere = Path::new("/nonexistent/control.sock");
    let error = ask::<Status>(nowhere, "GET", "/-/api/status").unwrap_err();
    assert_eq!(exit_code(&error), 3);
    insta::assert_snapshot!(format!("{error:#}"), @"no node is running here (/nonexistent/control.sock: No such file or directory (os error 2)); start one with `imirror run`, or say which with --config FILE or IMIRROR_SOCKET");
    let error = site_addresses(nowhere).unwrap_err();
    assert_eq!(exit_code(&error), 3);
    assert!(format!("{error:#}").starts_with("say which node: --node HOST:PORT: no node is running"), "{error:#}");
    assert_eq!(exit_code(&anyhow::anyhow!("something")), 1);
    assert_eq!(exit_code(&io::Error::from(io::ErrorKind::BrokenPipe).into()), 0);
}

#[test]
fn the_nodes_screen() {
    let mut site = Status::example().site;
    let mut other = site.nodes[0].clone();
    other.name = "a-longer-name".into();
    other.address = "[2001:db8::7]:3142".into();
    other.state = "draining".into();
    other.round_trip_ms = Some(0.42);
    site.nodes.push(other);
    insta::assert_snapshot!(screen::nodes(&site), @r##"
site b1946ac92492d234

NODE           ADDRESS             STATE     OBJECTS  STORED    LOAD  RTT     ID
lab1           192.0.2.1:3142      alive     4711     12.0 GiB  25 %  -       b1946ac92492d234
a-longer-name  [2001:db8::7]:3142  draining  4711     12.0 GiB  25 %  0.4 ms  b1946ac92492d234
"##);
}

#[test]
fn the_end_of_a_drain() {
    let report = Drain { objects: 9, objects_total: 9, handed: 4, left: 0, finished: true };
    assert_eq!(
        screen::drained(&report),
        "4 handed over; what this node holds, others hold, too: it can be stopped now\n"
    );
    insta::assert_snapshot!(screen::drained(&Drain { left: 2, ..report }), @"4 handed over; 2 that nobody else holds or takes are left: they are fetched again when asked for");
    insta::assert_snapshot!(screen::draining(&report), @"9 of 9 objects, 4 handed over");
}

#[test]
fn the_lookup_screen() {
    let mut found = Lookup {
        url: "http://lab1/fedora/vim.rpm".into(),
        key: "http://example.org/fedora/vim.rpm".into(),
        class: "package".into(),
        stored: None,
        flight: Some(Status::example().flights[0].clone()),
        would: "joined to the download under way".into(),
        sources: vec!["http://example.org/fedora/vim.rpm".into()],
        said: None,
        popularity: None,
    };
    insta::assert_snapshot!(screen::lookup(&found, NOW), @r##"
http://lab1/fedora/vim.rpm

  stored as http://example.org/fedora/vim.rpm
  class     package
  here      not stored
  loading   20.0 MiB of 80.0 MiB, 5.0 MiB/s from upstream example.org, 3 readers  http://example.org/fedora/kernel-core-7.0.rpm
  would be  joined to the download under way
  source    http://example.org/fedora/vim.rpm
"##);
    found.key = found.url.clone();
    found.flight = None;
    found.stored = Some(StoredObject {
        object: "af1349b9".into(),
        bytes: 1_500_000,
        stored_at: Timestamp(1_793_526_185_007),
        confirmed_at: Timestamp(NOW.0 - 90_000),
        in_memory: true,
        digest: Some("sha256:00ff".into()),
    });
    found.said = Some(Said {
        root: "http://example.org/fedora/repodata/repomd.xml".into(),
        generation: "current".into(),
        digest: Some("sha256:00ff".into()),
        verified: Some(true),
    });
    found.popularity = Some(2.6);
    insta::assert_snapshot!(screen::lookup(&found, NOW), @r##"
http://lab1/fedora/vim.rpm

  class     package
  here      1.4 MiB in memory and on disk, BLAKE3 af1349b9
  age       stored 1 d 2 h ago, confirmed 1 min 30 s ago
  digest    sha256:00ff
  repo      the current generation names sha256:00ff, and what is here is that
            http://example.org/fedora/repodata/repomd.xml
  asked for 3 times in the last weeks, in any version
  would be  joined to the download under way
  source    http://example.org/fedora/vim.rpm
"##);
}

#[test]
fn the_configuration_screen() {
    let here = Surroundings {
        variables: [("IMIRROR_REPOS_SUSE_UPSTREAMS".to_owned(), "http://example.org/suse".to_owned())].into(),
        is_root: true,
        host: "lab1".into(),
        root: "/nonexistent".into(),
    };
    let flag = |key: &str, value: &str| ("--set".to_owned(), key.to_owned(), value.to_owned());
    let settings = vec![flag("cache_size", "1GiB"), flag("upstream.proxy", "http://u:geheim@squid:3128")];
    let loaded = config::load(&Overrides { settings, ..Overrides::default() }, &here).unwrap();
    insta::assert_snapshot!(screen::configuration(&loaded.shown, &loaded), @r##"
# control socket: /nonexistent/run/imirror/control.sock
name = "lab1"                           # default: the host's name
listen = "[::]:3142"                    # default
state_dir = "/nonexistent/var/lib/imirror" # default
cache_dir = "/nonexistent/var/cache/imirror" # default
cache_size = "1GiB"                     # flag --set
memory_size = "256MiB"                  # default

[site]
# token =                               # default: unset
# token_file =                          # default: unset
mdns = true                             # default
seeds = []                              # default

[clients]
allow = ["private"]                     # default
connect_ports = [443]                   # default

[upstream]
proxy = "http://(secret)@squid:3128"    # flag --set
allow = []                              # default
rate_limit = "0"                        # default

[freshness]
metadata = "revalidate"                 # default
package = "revalidate"                  # default
other = "pass"                          # default

[replication]
enabled = true                          # default
max_copies = 3                          # default
rate_limit = "50MiB/s"                  # default

[helper]
enabled = false                         # default
popular = true                          # default
prepopulate = []                        # default
interval = "1h"                         # default
# window =                              # default: unset
rate_limit = "2MiB/s"                   # default

[icp]
# listen =                              # default: unset

[log]
access = "squid"                        # default

[repos.suse]
upstreams = ["http://example.org/suse"] # environment IMIRROR_REPOS_SUSE_UPSTREAMS
"##);
}

#[test]
fn the_other_screens() {
    let good = Verify { objects: 3, objects_total: 3, bytes: 5 << 20, dropped: 0, finished: true, failed: false };
    assert_eq!(screen::verify(&good), "3 objects, 5.0 MiB read: all are as they were stored\n");
    assert!(screen::verify(&Verify { dropped: 2, ..good }).contains("2 were damaged or missing"));
    assert!(screen::verify(&Verify { failed: true, ..good }).contains("the node's log says why"));
    let half = Verify { objects: 1, dropped: 1, ..good };
    assert_eq!(screen::verifying(&half), "1 of 3 objects, 5.0 MiB read, 1 damaged");
    assert!(screen::checked(&[]).contains("there is no file"));
    assert!(screen::checked(&["/a".into(), "/b".into()]).ends_with("right: /a, /b\n"));
    for (bytes, text) in
        [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (50 << 30, "50.0 GiB"), (u64::MAX, "16.0 EiB")]
    {
        assert_eq!(screen::bytes(bytes), text);
    }
    for (seconds, text) in [(0, "0 s"), (61, "1 min 1 s"), (7260, "2 h 1 min"), (180_000, "2 d 2 h")] {
        assert_eq!(screen::duration(Duration::from_secs(seconds)), text);
    }
}

#[test]
fn the_site_screen() {
    let here =
        Surroundings { variables: Default::default(), is_root: true, host: "lab1".into(), root: "/nonexistent".into() };
    let token = ("--set".to_owned(), "site.token".to_owned(), "im1or3wk3tupeqhgzldojsxiidcpf2gk4zb33e5pn72".to_owned());
    let loaded = |settings| config::load(&Overrides { settings, ..Overrides::default() }, &here).unwrap();
    insta::assert_snapshot!(site::screen(&site::show(loaded(vec![token])).unwrap()));
    insta::assert_snapshot!(site::show(loaded(vec![])).unwrap_err().to_string(), @"this machine is in no site yet: start the node, or type `imirror site new` or `imirror join TOKEN`");
}

#[test]
fn lookups_of_each_kind() {
    let found = |class: &str, would: &str| Lookup {
        url: "http://example.org/fedora/repodata/repomd.xml".into(),
        key: "http://example.org/fedora/repodata/repomd.xml".into(),
        class: class.into(),
        stored: None,
        flight: None,
        would: would.into(),
        sources: vec!["http://example.org/fedora/repodata/repomd.xml".into()],
        said: None,
        popularity: None,
    };
    let other = screen::lookup(&found("other", "passed on"), NOW);
    let mut metadata = found("mutable-metadata", "confirmed by upstream first");
    metadata.stored = Some(StoredObject {
        object: "af1349b9".into(),
        bytes: 3000,
        stored_at: Timestamp(NOW.0 - 90_000),
        confirmed_at: Timestamp(NOW.0 - 1000),
        in_memory: false,
        digest: None,
    });
    metadata.said = Some(Said { root: String::new(), generation: "superseded".into(), digest: None, verified: None });
    let metadata = screen::lookup(&metadata, NOW);
    let mut package = found("package", "fetched from upstream");
    let digest = Some("sha256:00ff".into());
    package.said =
        Some(Said { root: "http://example.org/r".into(), generation: "earlier".into(), digest, verified: Some(false) });
    let package = screen::lookup(&package, NOW);
    insta::assert_snapshot!([other, metadata, package].join("\n"));
}

#[test]
fn what_people_do_wrong_is_explained() {
    let usage = |line: &str| parse(line).unwrap_err().to_string();
    let lines = [
        "imirror stauts",
        "imirror lookup",
        "imirror status --jsno",
        "imirror client-config emerge",
        "imirror client-config apt --apply --undo",
    ];
    let said: Vec<String> = lines.iter().map(|line| format!("$ {line}\n{}", usage(line))).collect();
    insta::assert_snapshot!(said.join("\n"));
    let here =
        Surroundings { variables: Default::default(), is_root: true, host: "lab1".into(), root: "/nonexistent".into() };
    let wrong = |flags: &str| {
        let error = load(&parse(&format!("imirror config {flags}")).unwrap().settings, &here).unwrap_err();
        assert_eq!(exit_code(&error), 2, "{flags}");
        format!("{error:#}")
    };
    let flags = [
        "--set cache_sise=1GiB",
        "--cache-size lots",
        "--set listen",
        "--proxy ftp://squid",
        "--config /nonexistent.toml",
    ];
    insta::assert_snapshot!("wrong_configuration", flags.map(wrong).join("\n\n"));
}

#[test]
fn nothing_from_outside_moves_the_cursor() {
    assert_eq!(harmless("a\u{1b}[2Jb\r\n\u{9b}é\n"), "a\u{fffd}[2Jb\u{fffd}\n\u{fffd}é\n");
}

#[test]
fn manual_pages_and_completions_come_from_the_same_definition() {
    let dir = tempfile::tempdir().unwrap();
    let man = parse(&format!("imirror man --dir {}", dir.path().display())).unwrap();
    dispatch(man).unwrap();
    let mut pages: Vec<String> =
        std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    pages.sort();
    for page in ["imirror.1", "imirror-run.1", "imirror-config-check.1", "imirror-doctor.1"] {
        assert!(pages.iter().any(|p| p == page), "{page} is not among {pages:?}");
    }
    let mut script = Vec::new();
    clap_complete::generate(clap_complete::Shell::Bash, &mut Arguments::command(), "imirror", &mut script);
    assert!(String::from_utf8(script).unwrap().contains("apt-proxy-detect"));
}
