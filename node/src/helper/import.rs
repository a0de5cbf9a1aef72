//! Packages from a folder: a medium, or what a client has kept. Only what a repository in use names is taken, and only if it is that.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::classify::{Format, Url};
use crate::fault::Cause;
use crate::journey::Journey;
use crate::ledger::status::Import;
use crate::os::tasks;
use crate::repos::catalogue::Catalogue;
use crate::repos::{Outlook, Promise};

use super::plan;

/// Files of one import.
const FILES_MAX: usize = 1_000_000;

/// Folders within folders.
const DEPTH_MAX: usize = 32;

/// Refused files that are named.
const REFUSED_MAX: usize = 20;

/// The import that was begun last.
#[derive(Clone, Default)]
pub struct Importing(Arc<Mutex<Option<Import>>>);

/// A file on disk that may be a package.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    path: PathBuf,
    size: u64,
}

impl Importing {
    /// Begins, unless one is under way; says how far it has come.
    pub fn begin(&self, journey: &Journey, folder: PathBuf) -> Import {
        let mut state = self.state();
        if let Some(under_way) = state.as_ref().filter(|import| !import.finished) {
            return under_way.clone();
        }
        *state = Some(Import::default());
        tasks::spawn("import", self.clone().work(journey.clone(), folder));
        Import::default()
    }

    /// How far it has come, if one was ever begun.
    pub fn so_far(&self) -> Option<Import> {
        self.state().clone()
    }

    async fn work(self, journey: Journey, folder: PathBuf) {
        if let Err(error) = self.import(&journey, folder).await {
            self.note(|import| import.error = Some(error));
        }
        self.note(|import| import.finished = true);
    }

    async fn import(&self, journey: &Journey, folder: PathBuf) -> Result<(), String> {
        if !folder.is_absolute() {
            return Err(format!("{} is no absolute path", folder.display()));
        }
        let outlooks = journey.generations().outlooks();
        let looked = tasks::blocking("look for packages", move || {
            let files = files_below(&folder)?;
            let count = files.values().map(Vec::len).sum::<usize>();
            Ok::<_, String>((count, meant(&outlooks, files)))
        });
        let (total, found) = looked.await.map_err(|panic| panic.to_string())??;
        let matched: u64 = found.len() as u64;
        self.note(|import| {
            import.files_total = total as u64;
            import.unknown = (total as u64).saturating_sub(matched);
            import.files = import.unknown;
        });
        for (candidate, targets) in found {
            let outcome = take(journey, &candidate, &targets).await;
            self.note(|import| {
                import.files += 1;
                match outcome {
                    Ok(true) => {
                        import.imported += 1;
                        import.bytes += candidate.size;
                    }
                    Ok(false) => import.known += 1,
                    Err(why) => {
                        import.refused_total += 1;
                        if import.refused.len() < REFUSED_MAX {
                            import.refused.push(format!("{}: {why}", candidate.path.display()));
                        }
                    }
                }
            });
        }
        Ok(())
    }

    fn note(&self, change: impl FnOnce(&mut Import)) {
        change(self.state().get_or_insert_default());
    }

    fn state(&self) -> MutexGuard<'_, Option<Import>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a file may be: of one name there may be different contents in different repositories.
type Targets = Vec<(Url, Promise)>;

/// Stores a file as the first that it is; says whether it was missing.
async fn take(journey: &Journey, candidate: &Candidate, targets: &Targets) -> Result<bool, String> {
    let mut refusal = "no repository in use has it with this length".to_owned();
    for (url, promise) in targets.iter().filter(|(_, promise)| promise.size == candidate.size) {
        if journey.is_here(url, promise).await {
            return Ok(false);
        }
        let path = candidate.path.clone();
        let opened = tasks::blocking("open a file", move || File::open(path)).await;
        let file = opened.map_err(|panic| panic.to_string())?.map_err(|error| error.to_string())?;
        match journey.import(url, promise, file).await {
            Ok(()) => return Ok(true),
            Err(fault) if matches!(fault.cause, Cause::WrongDigest { .. }) => {
                refusal = format!("it is not what {url} has to be");
            }
            Err(fault) => return Err(fault.to_string()),
        }
    }
    Err(refusal)
}

/// All files below a folder, by their names; links are not followed. Blocks.
fn files_below(folder: &Path) -> Result<HashMap<String, Vec<Candidate>>, String> {
    let mut files: HashMap<String, Vec<Candidate>> = HashMap::new();
    let mut folders = vec![(folder.to_owned(), 0)];
    let mut count = 0;
    while let Some((folder, depth)) = folders.pop() {
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if depth == 0 => {
                let hint = "the node, which runs as a user of its own, has to be able to read it";
                return Err(format!("cannot read {}: {error}; {hint}", folder.display()));
            }
            Err(_) => continue,
        };
        for entry in entries.flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() && depth < DEPTH_MAX {
                folders.push((entry.path(), depth + 1));
            } else if metadata.is_file() && count < FILES_MAX {
                count += 1;
                let name = entry.file_name().to_string_lossy().into_owned();
                files.entry(name).or_default().push(Candidate { path: entry.path(), size: metadata.len() });
            }
        }
    }
    Ok(files)
}

/// The files that repositories name, with what each may be. Goes through all lists once.
fn meant(outlooks: &[Outlook], files: HashMap<String, Vec<Candidate>>) -> BTreeMap<Candidate, Targets> {
    let mut found: BTreeMap<Candidate, Targets> = BTreeMap::new();
    for outlook in outlooks {
        for list in &outlook.lists {
            for index in 0..list.len() {
                let Some(brief) = list.brief(index) else { continue };
                let base_name = brief.path.rsplit('/').next().unwrap_or_default();
                let by_apt = || apt_cache_name(list, index);
                let candidates = files.get(base_name).or_else(|| files.get(&by_apt()?));
                let Some((candidates, (wanted, promise))) = candidates.and_then(|candidates| {
                    let (_, wanted) = plan::file(outlook, list, index, plan::Why::Listed)?;
                    let promise = wanted.promise.clone()?;
                    Some((candidates, (wanted, promise)))
                }) else {
                    continue;
                };
                for candidate in candidates {
                    found.entry(candidate.clone()).or_default().push((wanted.url.clone(), promise.clone()));
                }
            }
        }
    }
    found
}

/// The name that apt gives a package in its own cache, with the epoch and escapes: `vlc_1%3a3.0.21-1_amd64.deb`.
fn apt_cache_name(list: &Catalogue, index: usize) -> Option<String> {
    let brief = list.brief(index).filter(|brief| list.format() == Format::Deb && brief.version.contains(':'))?;
    let (name, _) = brief.path.rsplit('/').next()?.split_once('_')?;
    Some(format!("{name}_{}_{}.deb", brief.version.replace(':', "%3a"), brief.arch))
}
