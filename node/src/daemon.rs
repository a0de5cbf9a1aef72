//! The running node: the only place that knows all parts. It puts them together, owns their tasks, and ends them in order.

mod chronicle;
mod drain;
mod metalinks;
mod names;
mod peers;
mod service;
mod sight;

use std::io::{self, IsTerminal};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use futures_util::future::BoxFuture;
use http::Request;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, UdpSocket, UnixListener};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::classify::{Url, called};
use crate::cluster::discovery::Wanted;
use crate::cluster::identity::{self, Identity};
use crate::cluster::site::{Profile, Site};
use crate::config::{self, Config};
use crate::door::client::Door;
use crate::door::events::Events;
use crate::door::pages::{self, Operations, Reader};
use crate::fault::Fault;
use crate::flight::Flights;
use crate::helper::{Helper, Importing};
use crate::journey::{Journey, Options};
use crate::ledger::history::{Series, Span, Sums};
use crate::ledger::status::{
    self, Cache, Drain, Health, Lookup, Node, Popular, Purged, Repo, Status, StoredObject, Verify,
};
use crate::ledger::{AccessLog, Ledger, metrics};
use crate::os::clock::{Clock, Timestamp};
use crate::os::{net, tasks};
use crate::repos::metalink::Root;
use crate::repos::{Configured, Generations};
use crate::squid::responder::{self, Responder};
use crate::squid::store_id;
use crate::store::{self, Entry, Store, VerifyReport};
use crate::upstream::{Own, Upstreams};
use chronicle::Chronicle;
use drain::Leaving;
use metalinks::Metalinks;
use peers::Duties;
use sight::Sight;

/// After a stop was asked for, clients have this long to get the rest of their answers.
const FAREWELL: Duration = Duration::from_secs(10);

/// Of what is asked for most.
const POPULAR_SHOWN: usize = 20;

/// Of traffic, in the page's table.
const HOURS_SHOWN: usize = 24;

/// Runs the node until it is told to stop.
pub fn run(config: Config) -> anyhow::Result<()> {
    let inherited = net::inherited_tcp().context("the service manager hands over no socket that listens for TCP")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("imirror").build()?;
    let ran = runtime.block_on(serve(config, inherited));
    // Tunnels and reads of a hanging disk are not waited for.
    runtime.shutdown_timeout(Duration::from_secs(1));
    ran
}

async fn serve(mut config: Config, inherited: Option<std::net::TcpListener>) -> anyhow::Result<()> {
    let file_limit = net::raise_file_limit();
    let mut signals = Signals::new()?;
    let listener = listen(&mut config, inherited)?;
    let icp = config.icp_listen.map(|address| Ok::<_, anyhow::Error>((address, listen_icp(address)?))).transpose()?;
    refuse_own_proxy(&config)?;
    let parts = Parts::assemble(config, listener.local_addr()?, file_limit).await?;
    let control = listen_control(&parts.config.socket)?;
    let (stop, stopping) = watch::channel(false);
    let door = Arc::new(Door {
        journey: parts.journey.clone(),
        repos: parts.repos.clone(),
        clients: parts.config.clients.clone(),
        ledger: parts.ledger.clone(),
        operations: parts.clone(),
        name: parts.config.name.clone(),
        clock: parts.clock.clone(),
    });
    let (metalinks, until) = (parts.metalinks.clone(), stopping.clone());
    let clients = tasks::spawn("clients", async move {
        metalinks.start().await;
        door.serve(listener, until).await;
    });
    tasks::spawn("control", serve_control(control, parts.clone(), stopping.clone()));
    if let Some((address, socket)) = icp {
        tracing::info!("ICP is answered at {address}");
        tasks::spawn("icp", parts.responder().serve(socket, stopping.clone()));
    }
    tasks::spawn("probe", parts.journey.upstreams().clone().probe());
    let store = parts.journey.store().clone();
    let (site, generations, leaving) = (parts.site.clone(), parts.generations.clone(), parts.leaving.clone());
    store.set_watcher(Arc::new(peers::Watch { site, generations, leaving }));
    parts.recall_names().await;
    tasks::blocking("reconcile", move || {
        if let Err(fault) = store.tell_all() {
            tracing::warn!(%fault, "the others do not learn of all that this node holds");
        }
        store.reconcile();
    });
    if let Err(why) = parts.journey.upstreams().load_roots().await {
        tracing::warn!("https upstreams will fail: {why}");
    }
    parts.site.start(Arc::new(Duties::new(&parts)), parts.wanted());
    tasks::spawn("chronicle", chronicle::keep(parts.clone(), stopping));
    tasks::spawn("helper", parts.helper.clone().run());
    parts.greet();
    service::ready();
    let told = parts.clone();
    tasks::spawn("service manager", service::keep_told(move || told.in_a_line()));

    signals.stop(&parts).await;
    service::stopping();
    tracing::info!("stopping: clients have {} s to get the rest of their answers", FAREWELL.as_secs());
    stop.send_replace(true);
    // Nobody waits for the end of what has none.
    parts.events.close();
    tokio::select! {
        _ = tokio::time::timeout(FAREWELL, clients) => {}
        () = signals.stop(&parts) => tracing::info!("stopping now: told so again"),
    }
    parts.farewell().await;
    Ok(())
}

/// Where clients come. A listener that was handed over is in the place of `listen`: it lives on while this process is replaced, and
/// who connects meanwhile waits there.
fn listen(config: &mut Config, inherited: Option<std::net::TcpListener>) -> anyhow::Result<TcpListener> {
    if let Some(inherited) = inherited {
        config.listen = inherited.local_addr()?;
        return Ok(TcpListener::from_std(inherited)?);
    }
    net::listen_tcp(config.listen).with_context(|| {
        format!(
            "cannot listen on {}: is another imirror or apt-cacher-ng running? Choose another address with `listen` or IMIRROR_LISTEN",
            config.listen
        )
    })
}

/// All that a running node consists of.
struct Parts {
    config: Config,
    clock: Clock,
    started: Timestamp,
    ledger: Arc<Ledger>,
    repos: Arc<Configured>,
    generations: Arc<Generations>,
    metalinks: Arc<Metalinks>,
    journey: Journey,
    identity: Identity,
    site: Site,
    leaving: Leaving,
    helper: Helper,
    importing: Importing,
    chronicle: Chronicle,
    sight: Sight,
    events: Events,
    /// What `verify` has found so far, since it was last begun.
    verifying: Arc<Mutex<Option<Verify>>>,
}

impl Parts {
    async fn assemble(mut config: Config, listen: SocketAddr, file_limit: u64) -> anyhow::Result<Arc<Self>> {
        let clock = Clock::system();
        std::fs::create_dir_all(&config.state_dir).with_context(|| {
            format!("cannot make {}: set `state_dir` to a folder that this user can write", config.state_dir.display())
        })?;
        let identity = who_we_are(&mut config)?;
        let copies_max = if config.replication.enabled { config.replication.max_copies } else { 1 };
        let profile = Profile { name: config.name.clone(), listen, copies_max: copies_max.into() };
        let site = Site::open(&identity, profile, &clock);
        let options = store::Options {
            dir: config.cache_dir.clone(),
            size: config.cache_size,
            memory_size: config.memory_size,
            // Half for hot objects; connections and downloads need some, too. Each is a mapping, of which Linux permits 65,530.
            open_files: (file_limit / 2).min(16 * 1024),
            clock: clock.clone(),
        };
        let store = tasks::blocking("open the store", move || Store::open(options)).await??;
        let history = config.state_dir.join("history");
        let chronicle = tasks::blocking("open the history", move || Chronicle::open(&history)).await?;
        let log = AccessLog::open(config.access_log, &config.state_dir.join("access.log"))?;
        let ledger = Ledger::new(log);
        let own = Own { port: config.listen.port(), addresses: net::own_address().into_iter().collect() };
        let upstreams = Upstreams::new(&config.upstream, own, clock.clone());
        let flights = Flights::new(store.clone(), upstreams.clone(), site.clone(), ledger.clone(), clock.clone());
        let repos = Arc::new(Configured::new(&config.repos)?);
        let metalinks =
            Metalinks::new(repos.clone(), upstreams.clone(), config.state_dir.join("metalinks"), clock.clone());
        let copy_rate = config.replication.rate_limit;
        let folder = config.cache_dir.join("catalogue");
        let opened = tasks::blocking("open the catalogues", move || Generations::open(&folder)).await?;
        let generations = Arc::new(opened.map_err(|e| Fault::disk("what is known of repositories", &e))?);
        let options = Options {
            name: config.name.clone(),
            freshness: config.freshness.clone(),
            repos: repos.clone(),
            generations: generations.clone(),
            copy_rate,
        };
        let journey = Journey::new(options, store, flights, upstreams, site.clone(), ledger.clone(), clock.clone())?;
        let helper = Helper::new(config.helper.clone(), journey.clone(), site.clone(), clock.clone());
        let (started, verifying) = (clock.now(), Arc::default());
        Ok(Arc::new(Self {
            started,
            config,
            clock,
            ledger,
            repos,
            generations,
            metalinks,
            journey,
            identity,
            site,
            leaving: Leaving::default(),
            helper,
            importing: Importing::default(),
            chronicle,
            sight: Sight::default(),
            events: Events::default(),
            verifying,
        }))
    }

    /// What a new user has to know, in three lines (R1).
    fn greet(&self) {
        let usage = self.journey.store().usage();
        tracing::info!("imirror {} listens on {}", self.config.name, self.config.listen);
        tracing::info!(
            "it caches RPM, deb, Arch and Alpine packages in {}, up to {} GiB ({} objects there now)",
            self.config.cache_dir.display(),
            usage.limit_bytes >> 30,
            usage.objects
        );
        tracing::info!(
            "on a client: http_proxy=http://{0} for any package manager; `imirror client-config apt --node {0}` says more",
            self.address()
        );
        let members = "another machine becomes part of this site";
        match (&self.config.site.token, io::stdout().is_terminal()) {
            // A secret is for the person who sits there, and for no log.
            (Some(token), true) => println!("{members} by: imirror join {}", token.spelled()),
            _ => tracing::info!("{members} by `imirror join TOKEN`; `imirror site show` tells the token"),
        }
    }

    fn wanted(&self) -> Wanted {
        let config::Site { mdns, seeds, .. } = self.config.site.clone();
        Wanted { mdns, seeds, remembered_file: self.config.state_dir.join("peers") }
    }

    /// What repositories say of a URL, and whether what is stored is that.
    fn said(&self, url: &Url, stored: Option<&StoredObject>) -> Option<status::Said> {
        let Some(said) = self.generations.said(url) else {
            let generation = "superseded".into();
            let gone = status::Said { root: String::new(), generation, digest: None, verified: None };
            return self.generations.is_superseded(url).then_some(gone);
        };
        let digest = said.promise.map(|promise| promise.digest.to_string());
        Some(status::Said {
            root: said.root.to_string(),
            generation: if said.is_current { "current" } else { "earlier" }.into(),
            verified: stored.filter(|_| digest.is_some()).map(|stored| stored.digest == digest),
            digest,
        })
    }

    fn address(&self) -> String {
        let ip = match self.config.listen.ip() {
            ip if ip.is_unspecified() => net::own_address().unwrap_or(ip),
            ip => ip,
        };
        SocketAddr::new(ip, self.config.listen.port()).to_string()
    }

    /// What answers a Squid's questions.
    fn responder(self: &Arc<Self>) -> Arc<Responder> {
        let parts = self.clone();
        Arc::new(Responder {
            journey: self.journey.clone(),
            repos: self.repos.clone(),
            clients: self.config.clients.clone(),
            other: self.config.freshness.other,
            ledger: self.ledger.clone(),
            is_leaving: Box::new(move || parts.leaving.so_far().is_some()),
        })
    }

    /// For the service manager.
    fn in_a_line(&self) -> String {
        service::line(&self.journey.store().usage(), self.journey.flights().status().len())
    }

    /// Flights are journalled, the others are told, the index is written.
    async fn farewell(self: &Arc<Self>) {
        self.journey.flights().suspend_all().await;
        self.write_names().await;
        self.site.leave().await;
        self.chronicle.record(self.clock.now(), &self.ledger.traffic());
        self.chronicle.write().await;
        let store = self.journey.store().clone();
        let _ = tasks::blocking("close the store", move || store.close()).await;
        if let Some(log) = self.ledger.access_log() {
            log.flush();
        }
        let _ = std::fs::remove_file(&self.config.socket);
    }
}

impl Operations for Parts {
    fn status(&self) -> Status {
        let usage = self.journey.store().usage();
        let address = self.address();
        let (now, traffic) = (self.clock.now(), self.ledger.traffic());
        let popular = self.site.popular(POPULAR_SHOWN).into_iter();
        let configured = self.config.repos.iter().map(|(name, repo)| Repo {
            name: name.clone(),
            upstreams: self.repos.mirrors(name).iter().map(ToString::to_string).collect(),
            metalink: repo.metalink.clone(),
            roots: Vec::new(),
        });
        let mut repos: Vec<Repo> = configured.collect();
        for (base, root) in self.generations.status() {
            let name = self.repos.name_of(&base).unwrap_or(base.as_str());
            match repos.iter_mut().find(|repo| repo.name == name) {
                Some(repo) => repo.roots.push(root),
                None => {
                    repos.push(Repo { name: name.to_owned(), upstreams: Vec::new(), metalink: None, roots: vec![root] })
                }
            }
        }
        Status {
            node: Node {
                name: self.config.name.clone(),
                id: self.identity.node.to_string(),
                version: env!("CARGO_PKG_VERSION").into(),
                started: self.started,
                address: address.clone(),
            },
            site: peers::status(self, &usage, &address),
            cache: Cache { objects: usage.objects, bytes: usage.bytes, limit_bytes: usage.limit_bytes },
            traffic,
            flights: self.journey.flights().status(),
            popular: popular.map(|it| Popular { name: it.name, demand: it.demand, copies: it.copies as u64 }).collect(),
            repos,
            helper: self.helper.status(),
            history: self.chronicle.kept(now, &traffic),
            errors: self.ledger.failures(),
        }
    }

    fn health(&self) -> Health {
        let unreachable = self.journey.upstreams().health();
        Health {
            degraded: self.journey.store().usage().degraded.into_iter().collect(),
            unreachable: unreachable.into_iter().map(|host| format!("{}: {}", host.host, host.fault)).collect(),
        }
    }

    fn metrics(&self) -> String {
        metrics::render(&self.ledger, &self.status(), &self.health(), self.site.counts())
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn look(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.look_at_site())
    }

    fn series(&self, span: Span) -> BoxFuture<'_, Series> {
        Box::pin(self.series_of_site(span))
    }

    fn recent(&self) -> Series {
        self.recent_of_site()
    }

    fn hours(&self) -> Vec<(Timestamp, Sums)> {
        self.hours_of_site()
    }

    fn events(&self) -> &Events {
        &self.events
    }

    fn nodes(&self, client: u64) -> Vec<Option<SocketAddr>> {
        let own = self.site.own();
        // One that has no address for clients serves none.
        let listed = |(node, address): (_, Option<SocketAddr>)| match node == own {
            true => Some(None),
            false => address.map(Some),
        };
        self.site.nodes_by_load(client).into_iter().filter_map(listed).collect()
    }

    fn root<'a>(&'a self, repo: &'a str) -> BoxFuture<'a, Option<Arc<Root>>> {
        Box::pin(self.metalinks.root(repo))
    }

    fn lookup(&self, url: String) -> BoxFuture<'_, Result<Lookup, Fault>> {
        Box::pin(async move {
            let url = Url::parse(&url).map_err(|e| Fault::bad_request(e.to_string()))?;
            let named = self.repos.resolve(&url);
            let (classified, entry, would) = self.journey.explain(&named.key).await;
            let in_memory =
                |entry: &Entry| self.journey.store().lookup_hot(&entry.key).is_some_and(|hot| hot.blob.in_memory());
            let stored = entry.map(|entry| StoredObject {
                object: entry.object.to_string(),
                bytes: entry.size,
                stored_at: entry.stored_at,
                confirmed_at: entry.confirmed_at(),
                in_memory: in_memory(&entry),
                digest: entry.digest.as_ref().map(ToString::to_string),
            });
            let said = self.said(&named.key, stored.as_ref());
            let name = called(&named.key);
            let popularity = name.and_then(|name| self.site.demand(&name));
            let flight = self.journey.flights().status().into_iter().find(|flight| flight.url == named.key.as_str());
            Ok(Lookup {
                url: url.to_string(),
                key: named.key.to_string(),
                class: crate::ledger::Subject::from(classified.class).word().into(),
                stored,
                flight,
                would: would.into(),
                sources: named.sources.iter().map(ToString::to_string).collect(),
                said,
                popularity,
            })
        })
    }

    fn store_ids(&self, urls: Vec<String>) -> Vec<Option<String>> {
        let name = |url: String| store_id::name_of(&self.repos, &self.generations, &Url::parse(&url).ok()?);
        urls.into_iter().map(name).collect()
    }

    fn purge(&self, url: String, prefix: bool) -> BoxFuture<'_, Result<Purged, Fault>> {
        Box::pin(async move { self.journey.purge(&url, prefix).await })
    }

    fn begin_verify(&self) -> Verify {
        let mut verifying = self.verifying.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(under_way) = verifying.filter(|verify| !verify.finished) {
            return under_way;
        }
        let store = self.journey.store().clone();
        let begun = Verify { objects_total: store.usage().objects, ..Verify::default() };
        *verifying = Some(begun);
        let shared = self.verifying.clone();
        tasks::spawn("verify", async move {
            let tell = move |verify| *shared.lock().unwrap_or_else(PoisonError::into_inner) = Some(verify);
            let so_far = move |report: &VerifyReport| Verify {
                objects: report.checked,
                objects_total: begun.objects_total.max(report.checked),
                bytes: report.bytes,
                dropped: report.damaged.len() as u64,
                ..Verify::default()
            };
            let progress = tell.clone();
            let end = match store.verify(move |report| progress(so_far(report))).await {
                Ok(report) => Verify { objects_total: report.checked, finished: true, ..so_far(&report) },
                Err(fault) => {
                    tracing::error!(%fault, "not everything could be verified");
                    Verify { finished: true, failed: true, ..begun }
                }
            };
            tell(end);
        });
        begun
    }

    fn verify(&self) -> Option<Verify> {
        *self.verifying.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn call_helper(&self) -> u64 {
        self.helper.call()
    }

    fn prefetches(&self) -> Vec<status::Prefetch> {
        self.helper.list()
    }

    fn begin_import(&self, folder: String) -> status::Import {
        self.importing.begin(&self.journey, folder.into())
    }

    fn import(&self) -> Option<status::Import> {
        self.importing.so_far()
    }

    fn begin_drain(&self) -> Drain {
        self.leaving.begin(self.journey.store(), self.journey.flights(), &self.site)
    }

    fn drain(&self) -> Option<Drain> {
        self.leaving.so_far()
    }

    fn end_drain(&self) {
        self.leaving.end(&self.site);
    }
}

/// The identity of this node, in the site of its token; without one it founds a site.
fn who_we_are(config: &mut Config) -> anyhow::Result<Identity> {
    let token = match &config.site.token {
        Some(token) => token.clone(),
        None => {
            let token = identity::new_token()?;
            identity::keep_token(&config.state_dir, &token, false)?;
            config.site.token.insert(token).clone()
        }
    };
    Identity::load(&config.state_dir, &token)
}

fn listen_icp(address: SocketAddr) -> anyhow::Result<UdpSocket> {
    responder::bind(address).with_context(|| {
        format!(
            "cannot answer ICP at {address}: does a Squid of this machine use the port itself (`icp_port`)? \
             Choose another address with `[icp] listen`"
        )
    })
}

/// A proxy that asks itself answers nobody.
fn refuse_own_proxy(config: &Config) -> anyhow::Result<()> {
    let Some(proxy) = &config.upstream.proxy else { return Ok(()) };
    let is_here = |ip: IpAddr| net::is_local(ip) && (config.listen.ip().is_unspecified() || ip == config.listen.ip());
    let itself = proxy.port == config.listen.port() && proxy.host.parse().is_ok_and(is_here);
    anyhow::ensure!(
        !itself,
        "`[upstream] proxy` = {}:{} is this node itself: name the proxy that leads to the world, or none",
        proxy.host,
        proxy.port
    );
    Ok(())
}

fn listen_control(path: &Path) -> anyhow::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| {
            format!("cannot make {}: choose another place with --socket or IMIRROR_SOCKET", folder.display())
        })?;
    }
    // The folder of the cache is locked: a socket that is left here is nobody's.
    let _ = std::fs::remove_file(path);
    net::listen_unix(path).with_context(|| {
        format!("cannot make the control socket {}: choose another with --socket or IMIRROR_SOCKET", path.display())
    })
}

async fn serve_control(listener: UnixListener, parts: Arc<Parts>, mut stopping: watch::Receiver<bool>) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopping.wait_for(|stop| *stop) => return,
        };
        let Ok((stream, _)) = accepted else { continue };
        let (parts, mut stopping) = (parts.clone(), stopping.clone());
        tasks::spawn("control connection", async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let parts = parts.clone();
                async move {
                    let path = request.uri().path_and_query().map_or("/", |p| p.as_str());
                    let answer = pages::answer(&*parts, request.method(), path, Reader::Operator).await;
                    Ok::<_, std::convert::Infallible>(answer.map(Full::new))
                }
            });
            let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            let mut connection = std::pin::pin!(connection);
            tokio::select! {
                _ = connection.as_mut() => return,
                _ = stopping.wait_for(|stop| *stop) => {}
            }
            // Who waits here for the end of the node learns of it when its door closes.
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        });
    }
}

/// The signals that mean something. Caught from the start: who is told to stop early stops cleanly, too.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Until the node is to stop; again, if it has been told before.
    async fn stop(&mut self, parts: &Parts) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hang_up.recv() => {
                    if let Some(log) = parts.ledger.access_log() {
                        log.reopen();
                    }
                    parts.metalinks.refresh();
                }
            }
        }
    }
}
