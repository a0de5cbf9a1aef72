//! What is worth having before it is asked for (R20, R21): new versions of what is popular, and what the list names with all that it
//! needs. Pure, and the same for the same metadata.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use crate::classify::{Format, Url, called_by_path};
use crate::os::clock::Timestamp;
use crate::repos::catalogue::{Catalogue, Stock};
use crate::repos::{Outlook, Promise, resolve, version};

/// A repository that no client has asked for this long is not in use.
const IN_USE: Duration = Duration::from_secs(30 * 24 * 3600);

/// Files of one plan.
const WANTED_MAX: usize = 20_000;

/// Complaints of one plan.
const MISSING_MAX: usize = 100;

/// What is wished for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wishes<'w> {
    /// Packages as [`called_by_path`] calls them, with their demand.
    pub popular: &'w [(String, f64)],
    /// Names or patterns.
    pub listed: &'w [String],
    /// Most that all of it may take.
    pub bytes_max: u64,
}

/// A file that is to be had.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Wanted {
    pub url: Url,
    /// `NAME:ARCHITECTURE`.
    pub name: String,
    pub version: String,
    pub size: u64,
    /// What it has to be, where the repository says so.
    pub promise: Option<Promise>,
    pub why: Why,
}

/// Why a file is wanted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Why {
    /// It is new, and this is the demand for its name.
    Popular(f64),
    /// The list names it.
    Listed,
    /// Something on the list needs it.
    Needed,
}

/// See the module head.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Plan {
    /// What counts most first; each once.
    pub wanted: Vec<Wanted>,
    /// What no repository in use has, and who needs it.
    pub missing: Vec<String>,
    /// There is more than fits.
    pub is_cut: bool,
}

/// Do clients use this repository?
pub(super) fn is_in_use(outlook: &Outlook, now: Timestamp) -> bool {
    now.since(outlook.asked_at) <= IN_USE
}

/// Makes the plan. Looks at every package of every repository in use: it takes some tenths of a second of a processor.
pub(super) fn plan(outlooks: &[Outlook], wishes: Wishes<'_>, now: Timestamp) -> Plan {
    let in_use: Vec<&Outlook> = outlooks.iter().filter(|outlook| is_in_use(outlook, now)).collect();
    let (listed, missing) = listed(&in_use, wishes.listed);
    let (mut seen, mut bytes) = (BTreeSet::new(), 0_u64);
    let mut plan = Plan { missing, ..Plan::default() };
    for wanted in popular(&in_use, wishes.popular).into_iter().chain(listed) {
        if !seen.insert(wanted.url.clone()) {
            continue;
        }
        let with = bytes.saturating_add(wanted.size);
        if with > wishes.bytes_max || plan.wanted.len() >= WANTED_MAX {
            plan.is_cut = true;
            continue;
        }
        bytes = with;
        plan.wanted.push(wanted);
    }
    plan
}

/// Of each popular name the newest version, if it has come with a generation that is remembered.
fn popular(outlooks: &[&Outlook], popular: &[(String, f64)]) -> Vec<Wanted> {
    let demands: HashMap<&str, f64> = popular.iter().map(|(name, demand)| (name.as_str(), *demand)).collect();
    let mut wanted = Vec::new();
    if demands.is_empty() {
        return wanted;
    }
    for outlook in outlooks.iter().filter(|outlook| !outlook.earlier.is_empty()) {
        let mut newest: BTreeMap<&str, (&Catalogue, usize, &str)> = BTreeMap::new();
        for list in &outlook.lists {
            let briefs = (0..list.len()).filter_map(|index| Some((index, list.brief(index)?)));
            for (index, brief) in briefs {
                let called = called_by_path(&format!("{}{}", outlook.base, brief.path));
                let Some((name, _)) = called.and_then(|called| demands.get_key_value(called.as_str())) else {
                    continue;
                };
                let is_newer = |than: &str| version::order(list.format(), brief.version, than).is_gt();
                if newest.get(name).is_none_or(|(_, _, version)| is_newer(version)) {
                    newest.insert(name, (list, index, brief.version));
                }
            }
        }
        for (name, (list, index, _)) in newest {
            let demand = demands.get(name).copied().unwrap_or_default();
            let file = file(outlook, list, index, Why::Popular(demand));
            let was_there = |path: &str| outlook.earlier.iter().any(|earlier| earlier.by_path(path).is_some());
            wanted.extend(file.filter(|(path, _)| !was_there(path)).map(|(_, wanted)| wanted));
        }
    }
    let demand = |wanted: &Wanted| match wanted.why {
        Why::Popular(demand) => demand,
        Why::Listed | Why::Needed => 0.0,
    };
    wanted.sort_by(|a, b| demand(b).total_cmp(&demand(a)).then_with(|| a.url.cmp(&b.url)));
    wanted
}

/// The lists that machines of one kind draw on.
#[derive(Default)]
struct Group<'o> {
    lists: Vec<(&'o Outlook, &'o Catalogue)>,
}

/// The listed names with what they need, for each kind of machine that there is; and what is missing.
fn listed(outlooks: &[&Outlook], names: &[String]) -> (Vec<Wanted>, Vec<String>) {
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let (mut wanted, mut unmet) = (Vec::new(), BTreeSet::new());
    let mut unknown: BTreeMap<&str, usize> = BTreeMap::new();
    let groups = if names.is_empty() { BTreeMap::new() } else { groups(outlooks) };
    for ((format, release, arch), group) in &groups {
        let stock = Stock(group.lists.iter().map(|(_, list)| *list).collect());
        let resolution =
            resolve::resolve(&stock, *format, Some(arch).filter(|arch| !arch.is_empty()).map(|it| &**it), &names);
        // Those that were wanted come first, one for each name or more for a pattern.
        for index in &resolution.packages {
            let Some((list, index)) = stock.find(*index) else { continue };
            let Some((outlook, _)) = group.lists.iter().find(|(_, one)| std::ptr::eq(*one, list)) else { continue };
            wanted.extend(file(outlook, list, index, Why::Needed).map(|(_, wanted)| wanted));
        }
        for missing in resolution.missing {
            match (missing.needed_by, names.iter().find(|name| **name == missing.what)) {
                (None, Some(name)) => *unknown.entry(name).or_default() += 1,
                (by, _) => {
                    let by = by.unwrap_or_default();
                    unmet.insert(format!(
                        "{} (needed by {by}, {} {arch})",
                        missing.what,
                        release.as_deref().unwrap_or("any release")
                    ));
                }
            }
        }
    }
    for wanted in &mut wanted {
        let name = wanted.name.rsplit_once(':').map_or("", |(name, _)| name);
        if names.iter().any(|pattern| resolve::fits(pattern, name)) {
            wanted.why = Why::Listed;
        }
    }
    // What one kind of machine does not have at all may be there for another.
    let nowhere = names.iter().filter(|name| groups.is_empty() || unknown.get(*name) == Some(&groups.len()));
    let missing = nowhere.map(|name| (*name).to_owned()).chain(unmet);
    (wanted, missing.take(MISSING_MAX).collect())
}

type Kind = (Format, Option<String>, String);

/// Lists by family, release and architecture. Those of no release that can be told belong to all.
fn groups<'o>(outlooks: &[&'o Outlook]) -> BTreeMap<Kind, Group<'o>> {
    let mut groups: BTreeMap<Kind, Group<'o>> = BTreeMap::new();
    let mut for_all = Vec::new();
    for outlook in outlooks {
        let release = release(&outlook.url);
        for list in &outlook.lists {
            let Some(arch) = main_arch(list) else { continue };
            match &release {
                Some(_) => {
                    groups.entry((list.format(), release.clone(), arch)).or_default().lists.push((outlook, list))
                }
                None => for_all.push((*outlook, &**list, arch)),
            }
        }
    }
    for (outlook, list, arch) in for_all {
        let fits = |kind: &Kind| kind.0 == list.format() && (arch.is_empty() || kind.2 == arch);
        let mut fitting: Vec<&mut Group<'o>> =
            groups.iter_mut().filter(|(kind, _)| fits(kind)).map(|(_, group)| group).collect();
        if fitting.is_empty() {
            groups.entry((list.format(), None, arch)).or_default().lists.push((outlook, list));
            continue;
        }
        fitting.iter_mut().for_each(|group| group.lists.push((outlook, list)));
    }
    groups
}

/// The architecture of most packages of a list; empty when all are for any. A list of sources has none.
fn main_arch(list: &Catalogue) -> Option<String> {
    let counted = || list.arches().iter().filter(|(arch, _)| !resolve::is_source(arch));
    counted().next()?;
    let most = counted().filter(|(arch, _)| !resolve::is_for_all(arch)).max_by_key(|(_, count)| **count);
    Some(most.map(|(arch, _)| arch.clone()).unwrap_or_default())
}

/// The release that a repository belongs to, by its URL: Debian's suite without what follows a hyphen (`bookworm` of
/// `dists/bookworm-updates`), else the first folder that is a number (`41`, `v3.20`, `9-stream`).
fn release(url: &Url) -> Option<String> {
    let folders: Vec<&str> = url.path().split('/').filter(|folder| !folder.is_empty()).collect();
    let stem = |folder: &str| folder.split('-').next().unwrap_or_default().to_owned();
    if let Some(at) = folders.iter().position(|folder| *folder == "dists") {
        return folders.get(at + 1).map(|suite| stem(suite));
    }
    let is_number = |text: &str| {
        let digits = text.strip_prefix('v').unwrap_or(text);
        digits.starts_with(|c: char| c.is_ascii_digit()) && digits.bytes().all(|b| b.is_ascii_digit() || b == b'.')
    };
    folders.iter().map(|folder| stem(folder)).find(|folder| is_number(folder))
}

/// A file of a list, with its path below the base.
pub(super) fn file(outlook: &Outlook, list: &Catalogue, index: usize, why: Why) -> Option<(String, Wanted)> {
    let package = list.package(index)?;
    let url = Url::parse(&format!("{}{}", outlook.base, escaped(&package.path))).ok()?;
    let promise = package.promise();
    let name = called_by_path(url.as_str()).unwrap_or_else(|| format!("{}:{}", package.name, package.arch));
    Some((package.path, Wanted { url, name, version: package.version, size: package.size, promise, why }))
}

/// A path as it stands in a URL: all but what RFC 3986 3.3 permits in one is escaped.
fn escaped(path: &str) -> String {
    path.bytes().fold(String::with_capacity(path.len()), |mut out, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' => out.push(char::from(byte)),
            _ if b"-._~!$&'()*+,;=:@/".contains(&byte) => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repos::list::Form;
    use std::sync::Arc;

    const DAY: u64 = 24 * 3600 * 1000;

    fn list(form: Form, text: &str) -> Arc<Catalogue> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("list");
        Catalogue::write(form, text.as_bytes(), &path).unwrap();
        Arc::new(Catalogue::open(&path).unwrap())
    }

    /// Of lines `NAME VERSION ARCH SIZE [needs]`.
    fn debs(lines: &str) -> Arc<Catalogue> {
        let paragraph = |line: &str| {
            let mut words = line.splitn(5, ' ');
            let mut word = || words.next().unwrap_or_default();
            let (name, version, arch, size, needs) = (word(), word(), word(), word(), word());
            let sha = blake3::hash(line.as_bytes()).to_hex();
            format!(
                "Package: {name}\nVersion: {version}\nArchitecture: {arch}\nFilename: pool/{name}_{version}_{arch}.deb\nSize: {size}\nSHA256: {sha}\nDepends: {needs}\n\n"
            )
        };
        list(Form::Packages, &lines.lines().map(paragraph).collect::<String>())
    }

    fn outlook(url: &str, lists: &[&Arc<Catalogue>], earlier: &[&Arc<Catalogue>]) -> Outlook {
        let url = Url::parse(url).unwrap();
        let base = url.as_str().split("dists").next().unwrap().to_owned();
        let all = |lists: &[&Arc<Catalogue>]| lists.iter().map(|list| Arc::clone(list)).collect();
        Outlook { base, asked_at: Timestamp(100 * DAY), lists: all(lists), earlier: all(earlier), lacking: vec![], url }
    }

    fn plan_at(outlooks: &[Outlook], popular: &[(&str, f64)], listed: &[&str], day: u64) -> Plan {
        let popular: Vec<_> = popular.iter().map(|(name, demand)| ((*name).to_owned(), *demand)).collect();
        let listed: Vec<_> = listed.iter().map(|name| (*name).to_owned()).collect();
        let wishes = Wishes { popular: &popular, listed: &listed, bytes_max: 1000 };
        plan(outlooks, wishes, Timestamp(day * DAY))
    }

    fn files(plan: &Plan) -> Vec<&str> {
        plan.wanted.iter().map(|wanted| wanted.url.as_str().rsplit('/').next().unwrap()).collect()
    }

    #[test]
    fn new_versions_of_what_is_popular() {
        let old = debs("vlc 1 amd64 10\nmc 1 amd64 5\nrare 1 amd64 5\nvlc 1 arm64 9");
        let new = debs("vlc 2 amd64 11\nvlc 10 amd64 12\nmc 2 amd64 6\nrare 2 amd64 5\nvlc 1 arm64 9\nnew 1 amd64 1");
        let root = "http://a.example.org/d/dists/s/InRelease";
        let demand = [("vlc:amd64", 2.0), ("mc:amd64", 3.0), ("vlc:arm64", 9.0), ("new:amd64", 1.0)];
        let outlooks = [outlook(root, &[&new], &[&old])];
        let planned = plan_at(&outlooks, &demand, &[], 100);
        assert_eq!(files(&planned), ["mc_2_amd64.deb", "vlc_10_amd64.deb", "new_1_amd64.deb"]);
        let vlc = &planned.wanted[1];
        assert_eq!(vlc.url.as_str(), "http://a.example.org/d/pool/vlc_10_amd64.deb");
        assert_eq!((vlc.size, vlc.promise.as_ref().map(|promise| promise.size)), (12, Some(12)));
        assert_eq!((vlc.why, &*vlc.name, &*vlc.version), (Why::Popular(2.0), "vlc:amd64", "10"));
        assert_eq!(files(&plan_at(&outlooks, &demand, &[], 131)), [""; 0], "nobody uses it any more");
        assert_eq!(files(&plan_at(&[outlook(root, &[&new], &[])], &demand, &[], 100)), [""; 0], "nothing is new");
    }

    #[test]
    fn the_list_with_what_it_needs_for_each_release() {
        let main = debs("vlc 1 amd64 10 libc, libx | liby, gone\nlibc 1 amd64 10\nvlc 1 all 1");
        let updates = debs("libc 2 amd64 10\nlibx 1 all 10");
        let next = debs("vlc 5 amd64 10 libc\nlibc 5 amd64 10\ngstreamer-a 1 amd64 10\ngstreamer-b 1 amd64 10");
        let extra = debs("liby 1 amd64 10\ncodecs 1 amd64 10");
        let outlooks = [
            outlook("http://a.example.org/dists/s/InRelease", &[&main], &[]),
            outlook("http://a.example.org/dists/s-updates/InRelease", &[&updates], &[]),
            outlook("http://a.example.org/dists/t/InRelease", &[&next], &[]),
            outlook("http://b.example.org/InRelease", &[&extra], &[]),
        ];
        let planned = plan_at(&outlooks, &[], &["vlc", "gstreamer*", "codecs", "nothing"], 100);
        let expected = [
            "vlc_1_amd64.deb",
            "codecs_1_amd64.deb",
            "libc_2_amd64.deb",
            "libx_1_all.deb",
            "vlc_5_amd64.deb",
            "gstreamer-a_1_amd64.deb",
            "gstreamer-b_1_amd64.deb",
            "libc_5_amd64.deb",
        ];
        assert_eq!(files(&planned), expected);
        let why: Vec<Why> = planned.wanted.iter().take(3).map(|wanted| wanted.why).collect();
        assert_eq!(why, [Why::Listed, Why::Listed, Why::Needed]);
        assert_eq!(planned.missing, ["nothing", "gone (needed by vlc, s amd64)"]);
        assert_eq!(plan_at(&[], &[], &["vlc"], 100).missing, ["vlc"]);
    }

    #[test]
    fn no_more_than_there_is_room_for() {
        let main = debs("a 1 amd64 600\nb 1 amd64 500\nc 1 amd64 300\nd+e~f:g#h 1 amd64 1");
        let outlooks = [outlook("http://a.example.org/dists/s/InRelease", &[&main], &[])];
        let planned = plan_at(&outlooks, &[], &["a", "b", "c", "a", "d*"], 100);
        assert_eq!(files(&planned), ["a_1_amd64.deb", "c_1_amd64.deb", "d+e~f:g%23h_1_amd64.deb"]);
        assert!(planned.is_cut);
    }

    #[test]
    fn releases() {
        for (url, expected) in [
            ("http://a.example.org/debian/dists/bookworm-updates/InRelease", Some("bookworm")),
            ("http://a.example.org/debian-security/dists/bookworm-security/InRelease", Some("bookworm")),
            ("http://a.example.org/fedora/linux/releases/41/Everything/x86_64/os/repodata/repomd.xml", Some("41")),
            ("http://a.example.org/free/fedora/updates/41/x86_64/repodata/repomd.xml", Some("41")),
            ("http://a.example.org/9-stream/BaseOS/x86_64/os/repodata/repomd.xml", Some("9")),
            ("http://a.example.org/alpine/v3.20/main/x86_64/APKINDEX.tar.gz", Some("v3.20")),
            ("http://a.example.org/core/os/x86_64/core.db", None),
        ] {
            assert_eq!(release(&Url::parse(url).unwrap()).as_deref(), expected, "{url}");
        }
    }
}
