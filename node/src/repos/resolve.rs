//! Which packages are needed when some are wanted (R21): the newest of each name and, again and again, one for each of their needs.
//! Pure, and the same for the same lists.
//!
//! It is not what a package manager would install, which depends on what each machine has, but what it would most likely have to
//! fetch. Nothing conflicts here: two versions of one package may both be needed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use super::relation::{Need, Provided, Relation};
use super::version;
use crate::classify::Format;

/// Packages of one answer; a whole desktop with all that it recommends is some four thousand.
const CHOSEN_MAX: usize = 20_000;

/// Needs that are named as missing.
const MISSING_MAX: usize = 1_000;

/// Packages that are looked at, in all: it bounds the time.
const LOOKS_MAX: usize = 1_000_000;

/// What is to be known of a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package<'p> {
    pub name: &'p str,
    pub version: &'p str,
    pub arch: &'p str,
    /// Without its own name, which goes without saying.
    pub provides: Vec<Provided<'p>>,
    pub needs: Vec<Need<'p>>,
}

impl Package<'_> {
    fn meets(&self, format: Format, relation: &Relation<'_>) -> bool {
        let own = Provided { name: self.name, version: Some(self.version) };
        relation.is_met(format, self.provides.iter().cloned().chain([own]))
    }
}

/// The packages of one family in all lists that may be drawn on, those of the preferred list first.
pub trait Packages {
    fn count(&self) -> usize;

    /// What is damaged or too long is nothing.
    fn package(&self, index: usize) -> Option<Package<'_>>;
}

/// What is to be fetched.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolution {
    /// Indices of packages: first those that were wanted, then what they need, what those need, and so on.
    pub packages: Vec<usize>,
    /// What no package meets, and who needs it; nobody where it was wanted itself.
    pub missing: Vec<Missing>,
    /// There was more than can be looked at; what is here is right.
    pub is_cut: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    pub what: String,
    pub needed_by: Option<String>,
}

/// Finds the packages for `wanted`: names of packages, of something that packages provide, or names with `*` and `?` in them.
///
/// Of several architectures `arch` counts, or the most frequent one where that is not said; others only stand in.
pub fn resolve(packages: &impl Packages, format: Format, arch: Option<&str>, wanted: &[&str]) -> Resolution {
    let index = Index::of(packages);
    let arch = arch.unwrap_or(&index.common_arch);
    let mut resolver = Resolver {
        packages,
        format,
        index: &index,
        arch,
        looks: LOOKS_MAX,
        chosen: HashSet::new(),
        out: Resolution::default(),
    };
    let mut open: VecDeque<(usize, &str)> = VecDeque::new();
    for name in resolver.names(wanted) {
        if resolver.is_over() {
            resolver.out.is_cut = true;
            return resolver.out;
        }
        let relation = Relation { name: &name, bounds: Vec::new() };
        match resolver.best(&relation, arch) {
            Some(found) => open.extend(resolver.choose(found, arch)),
            None => resolver.miss(name.clone(), None),
        }
    }
    // Many packages need the same.
    let mut seen: HashSet<(Need<'_>, &str)> = HashSet::new();
    while let Some((index, arch)) = open.pop_front() {
        let Some(package) = packages.package(index) else { continue };
        for need in package.needs {
            if resolver.is_over() {
                resolver.out.is_cut = true;
                return resolver.out;
            }
            if !seen.insert((need.clone(), arch)) || resolver.is_met(&need) {
                continue;
            }
            match need.any_of.iter().find_map(|relation| resolver.best(relation, arch)) {
                Some(found) => open.extend(resolver.choose(found, arch)),
                None if need.is_optional => {}
                None => resolver.miss(need.to_string(), Some(package.name.to_owned())),
            }
        }
    }
    resolver.out
}

/// Who has or provides a name. 8 bytes for each.
struct Index {
    /// A hash of the name, and the package; ascending.
    names: Vec<(u32, u32)>,
    common_arch: String,
}

impl Index {
    fn of(packages: &impl Packages) -> Self {
        let mut names = Vec::new();
        let mut arches: BTreeMap<String, usize> = BTreeMap::new();
        for (index, package) in (0..packages.count()).filter_map(|index| Some((index, packages.package(index)?))) {
            let Ok(index) = u32::try_from(index) else { break };
            if is_source(package.arch) {
                continue;
            }
            if !is_for_all(package.arch) {
                match arches.get_mut(package.arch) {
                    Some(count) => *count += 1,
                    None => drop(arches.insert(package.arch.to_owned(), 1)),
                }
            }
            names.push((hash(package.name), index));
            names.extend(package.provides.iter().map(|provided| (hash(provided.name), index)));
        }
        names.sort_unstable();
        names.dedup();
        let common = arches.into_iter().max_by_key(|(arch, count)| (*count, Reverse(arch.clone())));
        Self { names, common_arch: common.map(|(arch, _)| arch).unwrap_or_default() }
    }

    /// Those that may have or provide the name, in order.
    fn named(&self, name: &str) -> impl Iterator<Item = usize> {
        let wanted = hash(name);
        let from = self.names.partition_point(|(hash, _)| *hash < wanted);
        self.names[from..].iter().take_while(move |(hash, _)| *hash == wanted).map(|(_, index)| *index as usize)
    }
}

fn hash(name: &str) -> u32 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    (hasher.finish() >> 32) as u32
}

/// Does it fit all machines?
pub fn is_for_all(arch: &str) -> bool {
    matches!(arch, "noarch" | "all" | "any" | "")
}

/// Is it what packages are built from?
pub fn is_source(arch: &str) -> bool {
    matches!(arch, "src" | "nosrc" | "source")
}

struct Resolver<'r, P> {
    packages: &'r P,
    format: Format,
    index: &'r Index,
    arch: &'r str,
    /// How many more packages may be looked at.
    looks: usize,
    chosen: HashSet<usize>,
    out: Resolution,
}

impl<'r, P: Packages> Resolver<'r, P> {
    /// Wanted names with those that fit a pattern in its place, each once.
    fn names(&mut self, wanted: &[&str]) -> Vec<String> {
        let mut seen = BTreeSet::new();
        let mut names = Vec::new();
        for wanted in wanted {
            if !wanted.contains(['*', '?']) {
                names.extend(seen.insert((*wanted).to_owned()).then(|| (*wanted).to_owned()));
                continue;
            }
            let all = (0..self.packages.count()).filter_map(|index| self.packages.package(index));
            let fitting = all.filter(|package| !is_source(package.arch) && fits(wanted, package.name));
            let fitting: BTreeSet<String> = fitting.map(|package| package.name.to_owned()).collect();
            if fitting.is_empty() {
                self.miss((*wanted).to_owned(), None);
            }
            names.extend(fitting.into_iter().filter(|name| seen.insert(name.clone())));
        }
        names
    }

    fn is_over(&self) -> bool {
        self.looks == 0 || self.out.packages.len() >= CHOSEN_MAX
    }

    fn look(&mut self, index: usize) -> Option<Package<'r>> {
        self.looks = self.looks.checked_sub(1)?;
        self.packages.package(index)
    }

    /// Is there one already that meets it?
    fn is_met(&mut self, need: &Need<'_>) -> bool {
        let (index, format) = (self.index, self.format);
        need.any_of.iter().any(|relation| {
            index.named(relation.name).any(|index| {
                self.chosen.contains(&index) && self.look(index).is_some_and(|package| package.meets(format, relation))
            })
        })
    }

    /// The package that meets a relation best, for one that needs it on this architecture.
    fn best(&mut self, relation: &Relation<'_>, arch: &str) -> Option<usize> {
        let mut best: Option<(usize, Package<'r>)> = None;
        for index in self.index.named(relation.name) {
            let Some(package) = self.look(index).filter(|package| package.meets(self.format, relation)) else {
                continue;
            };
            if best.as_ref().is_none_or(|(_, best)| self.is_better(&package, best, relation.name, arch)) {
                best = Some((index, package));
            }
        }
        best.map(|(index, _)| index)
    }

    /// Better is: what runs there; what has the name itself; then, because something must decide, the shorter name, or the first by
    /// the alphabet; of one name the newest version; what is made for the architecture; what was there before.
    fn is_better(&self, package: &Package<'_>, than: &Package<'_>, name: &str, arch: &str) -> bool {
        let runs = |package: &Package<'_>| match package.arch {
            own if own == arch || is_for_all(own) => 0,
            own if own == self.arch => 1,
            _ => 2,
        };
        let key = |package: &Package<'_>| (runs(package), package.name != name, package.name.len());
        let newer = || version::order(self.format, than.version, package.version);
        let order = key(package).cmp(&key(than)).then_with(|| package.name.cmp(than.name)).then_with(newer);
        order.then_with(|| is_for_all(package.arch).cmp(&is_for_all(than.arch))).is_lt()
    }

    /// Takes a package; says so with the architecture that its own needs are for, unless it was taken before.
    fn choose(&mut self, index: usize, arch: &'r str) -> Option<(usize, &'r str)> {
        if !self.chosen.insert(index) {
            return None;
        }
        self.out.packages.push(index);
        let own = self.packages.package(index)?.arch;
        Some((index, if is_for_all(own) { arch } else { own }))
    }

    fn miss(&mut self, what: String, needed_by: Option<String>) {
        match self.out.missing.len() < MISSING_MAX {
            true => self.out.missing.push(Missing { what, needed_by }),
            false => self.out.is_cut = true,
        }
    }
}

/// Does the name fit a pattern, in which `*` is anything and `?` any one byte?
pub fn fits(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut p, mut n) = (0, 0);
    // Where the last star stands, and how much of the name it takes for now.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(c) if *c == b'?' || *c == name[n] => (p, n) = (p + 1, n + 1),
            _ => match star {
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    (p, n) = (at + 1, taken + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

#[cfg(test)]
mod tests;
