//! `imirror client-config FAMILY --apply` and `--undo`: sets up the package manager of this machine, or of another root, so
//! that it asks the nodes first and goes on by itself when there are none. What is written is decided by pure functions, a
//! file for each family; here is which files they are for, and what is said.

mod apk;
mod apt;
mod files;
mod ini;
mod marks;
mod pacman;
mod urls;

use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;

use super::WrongUsage;
use crate::door::recipes::Family;
use files::{Backup, Change};
use ini::{Edited, Wanted};

#[derive(Debug, Args)]
pub(super) struct Options {
    /// A node as clients reach it, several in order of preference; else the running node and its site.
    #[arg(long, value_name = "HOST:PORT")]
    pub(super) node: Vec<String>,
    /// Set this machine's package manager up; it goes on without the nodes wherever it can.
    #[arg(long, conflicts_with = "undo")]
    pub(super) apply: bool,
    /// Take back what --apply has changed.
    #[arg(long, conflicts_with_all = ["node", "base"])]
    undo: bool,
    /// Only show what would change.
    #[arg(long)]
    dry_run: bool,
    /// Change the files below this folder instead of this machine's, as of an image.
    #[arg(long, value_name = "FOLDER", default_value = "/")]
    root: PathBuf,
    /// dnf, zypper: where this repository is, when its file has only a list of mirrors.
    #[arg(long, value_name = "ID=URL")]
    base: Vec<String>,
}

impl Options {
    /// Is anything to be changed, or to be shown as a change?
    pub(super) fn changes(&self) -> bool {
        self.apply || self.undo
    }

    /// Flags that mean nothing where nothing is changed.
    pub(super) fn check(&self) -> Result<(), WrongUsage> {
        let is_in_vain = self.dry_run || !self.base.is_empty() || self.root != Path::new("/");
        match self.changes() || !is_in_vain {
            true => Ok(()),
            false => Err(WrongUsage("--dry-run, --root and --base go with --apply or --undo".into())),
        }
    }
}

/// What is to be changed, and what there is to say of it.
#[derive(Debug, Default)]
struct Plan {
    changes: Vec<Change>,
    /// Repositories that will be asked for at the nodes.
    set_up: usize,
    /// What stays as it is, with the reason.
    left: Vec<String>,
    /// What a person has to know.
    notes: Vec<String>,
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) text: String,
    /// All that was to be taken back has been.
    pub(super) is_whole: bool,
    /// Those that clients will ask, as `HOST:PORT`.
    pub(super) nodes: Vec<String>,
}

/// Changes the files, or only shows what would change, and says what came of it. The nodes are for --apply.
pub(super) fn run(family: Family, options: &Options, nodes: &[String]) -> anyhow::Result<Report> {
    let root = &options.root;
    must_be_there(family, root)?;
    let nodes: Vec<String> = nodes.iter().map(|node| urls::node(node)).collect::<Result<_, _>>().map_err(WrongUsage)?;
    let mut plan = match options.undo {
        true => undone(family, root)?,
        false => applied(family, root, &nodes, &bases(&options.base)?)?,
    };
    plan.changes.retain(|change| !change.is_none());
    let mut said: String = plan.changes.iter().map(Change::shown).collect();
    if !options.undo && plan.set_up == 0 {
        bail!("nothing of {}'s can be set up{}", family.name(), reasons(&plan.left));
    }
    for left in &plan.left {
        // Writing to a `String` cannot fail.
        let _ = writeln!(said, "left as it is: {left}");
    }
    if !options.dry_run {
        files::change(&plan.changes)?;
    }
    said += match (plan.changes.is_empty(), options.dry_run, options.undo) {
        (true, _, true) => "there is nothing of imirror's to take back\n",
        (true, _, false) => "it is set up like this already\n",
        (false, true, _) => "nothing was changed: --dry-run\n",
        (false, false, true) => "taken back\n",
        (false, false, false) => "set up; --undo takes it back\n",
    };
    plan.notes.iter().for_each(|note| said += &format!("{note}\n"));
    Ok(Report { text: said, is_whole: !options.undo || plan.left.is_empty(), nodes })
}

fn reasons(left: &[String]) -> String {
    left.iter().map(|reason| format!("\n  {reason}")).collect()
}

/// What shows that a package manager is there, relative to the root.
fn must_be_there(family: Family, root: &Path) -> anyhow::Result<()> {
    let places: &[&str] = match family {
        Family::Apt => &["etc/apt/apt.conf.d"],
        Family::Dnf => &["etc/yum.repos.d"],
        Family::Zypper => &["etc/zypp/repos.d"],
        Family::Pacman => &[PACMAN],
        Family::Apk => &[APK],
    };
    match places.iter().any(|place| root.join(place).exists()) {
        true => Ok(()),
        false => bail!("no {} is installed here: there is no {}", family.name(), root.join(places[0]).display()),
    }
}

const DNF: &str = "etc/dnf/dnf.conf";
const PACMAN: &str = "etc/pacman.conf";
const APK: &str = "etc/apk/repositories";

fn bases(texts: &[String]) -> Result<Vec<(String, String)>, WrongUsage> {
    let parse = |text: &String| {
        let (id, url) = text.split_once('=').filter(|(id, url)| !id.is_empty() && urls::at_node("", url).is_some())?;
        (!url.contains(char::is_whitespace)).then(|| (id.to_owned(), url.to_owned()))
    };
    let wrong = |text: &String| {
        WrongUsage(format!("--base {text}: expected ID=URL, say epel=https://mirror.example.org/epel/9/"))
    };
    texts.iter().map(|text| parse(text).ok_or_else(|| wrong(text))).collect()
}

const REPOSITORIES_NOTE: &str = "a repository asks the nodes first and goes on with its own server when none answers";

fn applied(family: Family, root: &Path, nodes: &[String], bases: &[(String, String)]) -> anyhow::Result<Plan> {
    let mut plan = Plan::default();
    match family {
        Family::Apt => {
            // As apt will see it, whichever root it is run in.
            let script = Path::new("/").join(apt::SCRIPT);
            plan.whole(&root.join(apt::SCRIPT), apt::script(nodes), 0o755)?;
            plan.whole(&root.join(apt::SETTINGS), apt::settings(&script), 0o644)?;
            plan.set_up = 1;
            plan.notes.push(
                "each run of apt asks the first node that answers, and goes on as before when none does; a node that stops \
                 in the middle of a run makes that one fail"
                    .into(),
            );
        }
        Family::Dnf | Family::Zypper => {
            for path in repo_files(family, root)? {
                plan.edited(&path, |text| ini::apply(text, Wanted { nodes, bases }));
            }
            let known = |id: &str| plan.left.iter().any(|left| left.contains(&format!("[{id}]")));
            if let Some((id, _)) = bases.iter().find(|(id, _)| known(id)) {
                bail!("--base {id}: it cannot be set up{}", reasons(&plan.left));
            }
            plan.notes.push(REPOSITORIES_NOTE.into());
            let settings = if family == Family::Dnf { files::read(&root.join(DNF))? } else { None };
            let downloads = settings.as_deref().and_then(ini::parallel_downloads).unwrap_or(0);
            if downloads > ini::DOWNLOADS_PER_SERVER * nodes.len() {
                plan.notes.push(format!(
                    "max_parallel_downloads={downloads} in {DNF}: dnf takes {} files at a time from one server and the rest \
                     from the next of the list, which is upstream; with less, or with more nodes, all comes from the nodes",
                    ini::DOWNLOADS_PER_SERVER
                ));
            }
        }
        Family::Pacman => {
            let included = |path: &str| {
                let path = root.join(path.trim_start_matches('/'));
                files::read(&path).ok().flatten()
            };
            let has_cache_servers = has_cache_servers(root);
            plan.edited(&root.join(PACMAN), |text| pacman::apply(text, nodes, has_cache_servers, included));
            plan.notes.push(REPOSITORIES_NOTE.into());
        }
        Family::Apk => {
            plan.edited(&root.join(APK), |text| apk::apply(text, nodes));
            plan.notes.push(
                "apk reads the index of each line and takes a package from the first that has it. It does not try another \
                 line when a download fails: without the nodes, `apk --no-cache` goes on with the servers below, while an \
                 index of a node that is kept in the cache still sends it there; --undo helps then"
                    .into(),
            );
        }
    }
    Ok(plan)
}

fn undone(family: Family, root: &Path) -> anyhow::Result<Plan> {
    let mut plan = Plan::default();
    match family {
        Family::Apt => [apt::SETTINGS, apt::SCRIPT].iter().try_for_each(|path| plan.without(&root.join(path)))?,
        Family::Dnf | Family::Zypper => {
            repo_files(family, root)?.iter().try_for_each(|path| plan.unedited(path))?;
        }
        Family::Pacman => plan.unedited(&root.join(PACMAN))?,
        Family::Apk => plan.unedited(&root.join(APK))?,
    }
    Ok(plan)
}

impl Plan {
    /// A file that is ours as a whole.
    fn whole(&mut self, path: &Path, text: String, mode: u32) -> anyhow::Result<()> {
        let before = files::read(path)?;
        let is_ours = before.as_ref().is_some_and(|text| text.contains(apt::MARK));
        let backup = if is_ours { Backup::Keep } else { Backup::Make };
        self.changes.push(Change { path: path.to_owned(), before, after: Some(text), mode, backup });
        Ok(())
    }

    /// Takes such a file away; one that was there before comes back.
    fn without(&mut self, path: &Path) -> anyhow::Result<()> {
        let before = files::read(path)?;
        if before.as_ref().is_some_and(|text| text.contains(apt::MARK)) {
            let after = files::read(&files::copy_of(path))?;
            self.changes.push(Change { path: path.to_owned(), before, after, mode: 0o644, backup: Backup::Remove });
        }
        Ok(())
    }

    /// A file in which lines are added and switched off. Earlier edits of ours are made anew.
    fn edited(&mut self, path: &Path, edit: impl FnOnce(&str) -> Edited) {
        let Some((before, original)) = self.original(path) else { return };
        let edited = edit(&original);
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        self.set_up += edited.set_up.len();
        self.left.extend(edited.left.into_iter().map(|(id, why)| format!("[{id}] in {file}: {why}")));
        let backup = if before == original { Backup::Make } else { Backup::Keep };
        let after = Some(edited.text);
        self.changes.push(Change { path: path.to_owned(), before: Some(before), after, mode: 0o644, backup });
    }

    /// A file as it is, and as it would be without our edits; `None`, with the reason noted, for one that cannot be edited.
    fn original(&mut self, path: &Path) -> Option<(String, String)> {
        let read = files::read(path).and_then(|text| {
            let text = text.with_context(|| format!("{} is gone", path.display()))?;
            let original = marks::undo(&text).with_context(|| path.display().to_string())?;
            Ok((text, original))
        });
        read.map_err(|why| self.left.push(format!("{why:#}"))).ok()
    }

    fn unedited(&mut self, path: &Path) -> anyhow::Result<()> {
        let Some(before) = files::read(path)? else { return Ok(()) };
        let copy = files::copy_of(path);
        let advice = || format!("see {} for what it was before, and put it right by hand", copy.display());
        if !marks::is_marked(&before) {
            if copy.exists() {
                self.left.push(format!("{} has lost the marks that --apply made: {}", path.display(), advice()));
            }
            return Ok(());
        }
        match marks::undo(&before) {
            Ok(after) => {
                let (before, after) = (Some(before), Some(after));
                self.changes.push(Change { path: path.to_owned(), before, after, mode: 0o644, backup: Backup::Remove });
            }
            Err(broken) => self.left.push(format!("{}, {broken}: {}", path.display(), advice())),
        }
        Ok(())
    }
}

fn repo_files(family: Family, root: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let folder = root.join(if family == Family::Dnf { "etc/yum.repos.d" } else { "etc/zypp/repos.d" });
    let entries = std::fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "repo"));
    files.sort();
    Ok(files)
}

/// pacman's own package has its version in the name of a folder.
fn has_cache_servers(root: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(root.join("var/lib/pacman/local")) else { return false };
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).any(|name| {
        let mut numbers = name.strip_prefix("pacman-").unwrap_or_default().split('.').map(str::parse::<u32>);
        let version = (numbers.next(), numbers.next());
        matches!(version, (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= (6, 1))
    })
}

#[cfg(test)]
mod tests;
