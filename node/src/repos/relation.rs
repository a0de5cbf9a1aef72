//! What packages need and provide, as each family writes it. Pure, and lenient: what makes no sense is passed over, for it is only
//! about what to fetch ahead.
//!
//! | family | a text of needs |
//! |---|---|
//! | RPM    | one a line: `NAME`, `NAME >= EPOCH:VERSION-RELEASE`, or a rich dependency, `(a if b)` |
//! | deb    | `a (>= 1), b:any \| c` |
//! | Arch   | one a line: `a>=1` |
//! | Alpine | `a>=1 so:libc.musl-x86_64.so.1 !b`, between spaces |

use std::collections::BTreeMap;
use std::fmt;

use super::version;
use crate::classify::Format;

/// How deep rich dependencies may lie in each other, and how many needs or alternatives one may become.
const RICH_DEPTH_MAX: usize = 8;
const RICH_MAX: usize = 64;

/// How a version must stand to a bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Comparison {
    Less,
    AtMost,
    Equal,
    AtLeast,
    Greater,
    /// Alpine's `~`.
    BeginsWith,
}

impl Comparison {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "<<" | "<" => Self::Less,
            "<=" => Self::AtMost,
            "=" | "==" => Self::Equal,
            ">=" => Self::AtLeast,
            ">>" | ">" => Self::Greater,
            "~" | "=~" | "~=" => Self::BeginsWith,
            _ => return None,
        })
    }

    /// As people write it; deb's `<<` is `<` here.
    pub const fn sign(self) -> &'static str {
        match self {
            Self::Less => "<",
            Self::AtMost => "<=",
            Self::Equal => "=",
            Self::AtLeast => ">=",
            Self::Greater => ">",
            Self::BeginsWith => "~",
        }
    }

    fn is_met(self, format: Format, version: &str, bound: &str) -> bool {
        let order = || version::order_but_missing_release(format, version, bound);
        match self {
            Self::Less => order().is_lt(),
            Self::AtMost => order().is_le(),
            Self::Equal => order().is_eq(),
            Self::AtLeast => order().is_ge(),
            Self::Greater => order().is_gt(),
            Self::BeginsWith => version::begins_with(format, version, bound),
        }
    }
}

/// Something that a package provides besides its name: a virtual package, a library, a command, a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provided<'t> {
    pub name: &'t str,
    pub version: Option<&'t str>,
}

/// A package, or something provided, by its name, in a version within all bounds.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Relation<'t> {
    pub name: &'t str,
    pub bounds: Vec<(Comparison, &'t str)>,
}

impl Relation<'_> {
    /// Do these, all of one package, meet it? Each bound may be met by another of them.
    pub fn is_met<'p>(&self, format: Format, provided: impl Iterator<Item = Provided<'p>> + Clone) -> bool {
        let mut named = provided.filter(|provided| provided.name == self.name);
        // In RPM what is provided without a version is there in any.
        let meets = |provided: &Provided<'_>, comparison: Comparison, bound| match provided.version {
            Some(version) => comparison.is_met(format, version, bound),
            None => format == Format::Rpm,
        };
        match &self.bounds[..] {
            [] => named.next().is_some(),
            bounds => bounds.iter().all(|(comparison, bound)| named.clone().any(|p| meets(&p, *comparison, bound))),
        }
    }
}

/// One of several relations, the first of them rather than the others.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Need<'t> {
    pub any_of: Vec<Relation<'t>>,
    /// The package works without it.
    pub is_optional: bool,
}

impl fmt::Display for Need<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, relation) in self.any_of.iter().enumerate() {
            let or = if i > 0 { " | " } else { "" };
            write!(f, "{or}{}", relation.name)?;
            for (comparison, bound) in &relation.bounds {
                write!(f, " {} {bound}", comparison.sign())?;
            }
        }
        Ok(())
    }
}

/// Reads a text of needs. Bounds of one name become one relation: one package is to be within all of them.
pub fn needs<'t>(format: Format, text: &'t str) -> Vec<Need<'t>> {
    let one = |relation| Need { any_of: vec![relation], is_optional: false };
    let all: Vec<Need<'t>> = match format {
        Format::Rpm => text.lines().flat_map(rpm_needs).collect(),
        Format::Deb => {
            let need = |text| -> Vec<Relation<'t>> { str::split(text, '|').filter_map(deb_relation).collect() };
            let needs = text.split(',').map(|text| Need { any_of: need(text), is_optional: false });
            needs.filter(|need| !need.any_of.is_empty()).collect()
        }
        Format::Arch => text.lines().filter_map(joined_relation).map(one).collect(),
        Format::Alpine => {
            let wanted = text.split_ascii_whitespace().filter(|word| !word.starts_with('!'));
            wanted.filter_map(joined_relation).map(one).collect()
        }
    };
    joined(all)
}

/// Reads a text of what is provided, in the form of the family's needs. Of versions only exact ones count.
pub fn provided<'t>(format: Format, text: &'t str) -> Vec<Provided<'t>> {
    let relations: Vec<Relation<'t>> = match format {
        Format::Rpm => text.lines().filter_map(rpm_relation).collect(),
        Format::Deb => text.split(',').filter_map(deb_relation).collect(),
        Format::Arch => text.lines().filter_map(joined_relation).collect(),
        Format::Alpine => text.split_ascii_whitespace().filter_map(joined_relation).collect(),
    };
    let exact = |relation: &Relation<'t>| {
        relation.bounds.iter().find(|(comparison, _)| *comparison == Comparison::Equal).map(|(_, version)| *version)
    };
    relations.iter().map(|relation| Provided { name: relation.name, version: exact(relation) }).collect()
}

/// Several needs of one name and no other become one.
fn joined(needs: Vec<Need<'_>>) -> Vec<Need<'_>> {
    let mut first: BTreeMap<&str, usize> = BTreeMap::new();
    let mut joined: Vec<Need<'_>> = Vec::with_capacity(needs.len());
    for need in needs {
        if let ([relation], false) = (&need.any_of[..], need.is_optional) {
            if let Some(Need { any_of, .. }) = first.get(relation.name).and_then(|index| joined.get_mut(*index)) {
                any_of[0].bounds.extend(&relation.bounds);
                continue;
            }
            first.insert(relation.name, joined.len());
        }
        joined.push(need);
    }
    joined
}

/// `NAME`, `NAME:any`, `NAME (OP VERSION)`.
fn deb_relation(text: &str) -> Option<Relation<'_>> {
    let (name, bound) = match text.split_once('(') {
        Some((name, bound)) => (name, bound.split(')').next()),
        None => (text, None),
    };
    let name = name.split([':', '[', '<']).next()?.trim();
    let bounds = bound.and_then(|bound| {
        let bound = bound.trim();
        let at = bound.find(|c| !matches!(c, '<' | '=' | '>')).unwrap_or(bound.len());
        // Long ago `<` and `>` were other ways to write `<=` and `>=` (deb-control(5)).
        let comparison = match &bound[..at] {
            "<" => Comparison::AtMost,
            ">" => Comparison::AtLeast,
            sign => Comparison::parse(sign)?,
        };
        Some((comparison, bound[at..].trim()))
    });
    (!name.is_empty()).then(|| Relation { name, bounds: bounds.into_iter().collect() })
}

/// `NAME`, `NAME>=VERSION`; Alpine also has `NAME@REPOSITORY` and, with `><`, check sums.
fn joined_relation(text: &str) -> Option<Relation<'_>> {
    let text = text.trim();
    let is_sign = |c: char| matches!(c, '<' | '=' | '>' | '~');
    let at = text.find(is_sign).unwrap_or(text.len());
    let (name, bound) = text.split_at(at);
    let name = name.split('@').next()?;
    let (sign, version) = bound.split_at(bound.find(|c| !is_sign(c)).unwrap_or(bound.len()));
    let bounds = Comparison::parse(sign).filter(|_| !version.is_empty()).map(|comparison| (comparison, version));
    (!name.is_empty()).then(|| Relation { name, bounds: bounds.into_iter().collect() })
}

/// `NAME`, `NAME OP VERSION`; the name of a file may have spaces.
fn rpm_relation(text: &str) -> Option<Relation<'_>> {
    let text = text.trim();
    let mut words = text.rsplitn(3, ' ');
    let bound = match (words.next(), words.next(), words.next()) {
        (Some(version), Some(sign), Some(name)) => Comparison::parse(sign).map(|sign| (name.trim(), (sign, version))),
        _ => None,
    };
    let (name, bound) = bound.map_or((text, None), |(name, bound)| (name, Some(bound)));
    // What rpm itself must be able to do is no package's.
    (!name.is_empty() && !name.starts_with("rpmlib(")).then(|| Relation { name, bounds: bound.into_iter().collect() })
}

fn rpm_needs(line: &str) -> Vec<Need<'_>> {
    let line = line.trim();
    match line.strip_prefix('(') {
        Some(mut inside) => rich(&mut inside, 0).unwrap_or_default(),
        None => {
            rpm_relation(line).map(|relation| Need { any_of: vec![relation], is_optional: false }).into_iter().collect()
        }
    }
}

/// What follows the opening parenthesis of a rich dependency, up to the closing one: needs that all must be met.
fn rich<'t>(text: &mut &'t str, depth: usize) -> Option<Vec<Need<'t>>> {
    let mut needs = operand(text, depth)?;
    loop {
        if let Some(rest) = text.trim_start().strip_prefix(')') {
            *text = rest;
            return Some(needs);
        }
        let operator = word(text);
        let right = operand(text, depth)?;
        match operator {
            "and" => needs.extend(right),
            "or" => needs = either(&needs, &right),
            "with" => with(&mut needs, &right),
            // Who has the other one needs it.
            "if" | "unless" => needs.iter_mut().for_each(|need| need.is_optional = true),
            "else" => needs.extend(right.into_iter().map(|need| Need { is_optional: true, ..need })),
            "without" => {}
            _ => return None,
        }
        if needs.len() > RICH_MAX || needs.iter().any(|need| need.any_of.len() > RICH_MAX) {
            return None;
        }
    }
}

fn operand<'t>(text: &mut &'t str, depth: usize) -> Option<Vec<Need<'t>>> {
    let start = text.trim_start();
    if let Some(inside) = start.strip_prefix('(') {
        *text = inside;
        return (depth < RICH_DEPTH_MAX).then(|| rich(text, depth + 1))?;
    }
    let name = word(text);
    let mut rest = *text;
    let bound = Comparison::parse(word(&mut rest)).map(|comparison| (comparison, word(&mut rest)));
    if bound.is_some() {
        *text = rest;
    }
    let relation = Relation { name, bounds: bound.into_iter().collect() };
    (!name.is_empty()).then(|| vec![Need { any_of: vec![relation], is_optional: false }])
}

/// A word that ends before a space, or before a parenthesis that it has not opened.
fn word<'t>(text: &mut &'t str) -> &'t str {
    let start = text.trim_start();
    let mut open = 0usize;
    let end = start.find(|c: char| match c {
        '(' => {
            open += 1;
            false
        }
        ')' if open == 0 => true,
        ')' => {
            open -= 1;
            false
        }
        c => c.is_whitespace(),
    });
    let (word, rest) = start.split_at(end.unwrap_or(start.len()));
    *text = rest;
    word
}

/// All of `left` or all of `right`.
fn either<'t>(left: &[Need<'t>], right: &[Need<'t>]) -> Vec<Need<'t>> {
    let pairs = left.iter().flat_map(|a| right.iter().map(move |b| (a, b))).take(RICH_MAX + 1);
    let both = |(a, b): (&Need<'t>, &Need<'t>)| Need {
        any_of: a.any_of.iter().chain(&b.any_of).cloned().collect(),
        is_optional: a.is_optional || b.is_optional,
    };
    pairs.map(both).collect()
}

/// One package is to be both: bounds of the same name are joined. Of two names the first is looked for.
fn with<'t>(left: &mut [Need<'t>], right: &[Need<'t>]) {
    if let ([Need { any_of: left, .. }], [Need { any_of: right, .. }]) = (left, right)
        && let ([left], [right]) = (&mut left[..], &right[..])
        && left.name == right.name
    {
        left.bounds.extend(&right.bounds);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Needs as people read them; optional ones with a question mark.
    fn shown(format: Format, text: &str) -> Vec<String> {
        let show = |need: &Need<'_>| format!("{need}{}", if need.is_optional { "?" } else { "" });
        needs(format, text).iter().map(show).collect()
    }

    #[test]
    fn forms_of_needs() {
        for (format, text, expected) in [
            (Format::Rpm, "bash\nrpmlib(X) <= 4.0-1\n/usr/bin/a b", &["bash", "/usr/bin/a b"][..]),
            (Format::Rpm, "libc.so.6(GLIBC_2.34)(64bit)", &["libc.so.6(GLIBC_2.34)(64bit)"]),
            (Format::Rpm, "foo >= 1:2~rc1-3\nfoo < 2", &["foo >= 1:2~rc1-3 < 2"]),
            (Format::Rpm, "(a or b(x) >= 2)", &["a | b(x) >= 2"]),
            (
                Format::Rpm,
                "(crate(a/default) >= 1.0 with crate(a/default) < 2.0~)",
                &["crate(a/default) >= 1.0 < 2.0~"],
            ),
            (Format::Rpm, "((x >= 1 with x < 2) or (x >= 3 with x < 4) or y)", &["x >= 1 < 2 | x >= 3 < 4 | y"]),
            (Format::Rpm, "((a and b) or c)", &["a | c", "b | c"]),
            (Format::Rpm, "(a if b else c)", &["a?", "c?"]),
            (Format::Rpm, "(a unless b)\nx", &["a?", "x"]),
            (Format::Rpm, "(a with b)", &["a"]),
            (Format::Rpm, "(a without b)", &["a"]),
            (Format::Rpm, "(a", &[]),
            (Format::Rpm, "()\n(a xor b)\n", &[]),
            (
                Format::Deb,
                "a (>= 1:2-3), b:any | c (<< 4~), d [amd64],, e(=5)",
                &["a >= 1:2-3", "b | c < 4~", "d", "e = 5"],
            ),
            (Format::Deb, "a (> 1),\n a (< 2)", &["a >= 1 <= 2"]),
            (Format::Deb, "", &[]),
            (
                Format::Arch,
                "glibc>=2.38\nlibfoo.so=1-64\nsh\nx=1:2-3",
                &["glibc >= 2.38", "libfoo.so = 1-64", "sh", "x = 1:2-3"],
            ),
            (
                Format::Alpine,
                "so:libc.musl-x86_64.so.1 a>1.2-r0 a<2 !b c~3 pc:x>=1 d@edge e><Q1abc=",
                &["so:libc.musl-x86_64.so.1", "a > 1.2-r0 < 2", "c ~ 3", "pc:x >= 1", "d", "e"],
            ),
        ] {
            assert_eq!(shown(format, text), expected, "{text}");
        }
        let deep = format!("{}a{}", "(".repeat(100_000), ")".repeat(100_000));
        assert!(needs(Format::Rpm, &deep).is_empty());
    }

    #[test]
    fn what_is_provided_meets_needs() {
        for (format, provided_text, need, expected) in [
            (Format::Rpm, "foo = 1.2-3", "foo = 1.2", true),
            (Format::Rpm, "foo = 1.2-3", "foo > 1.2", false),
            (Format::Rpm, "foo = 1.2-3", "foo > 1.2-2", true),
            (Format::Rpm, "foo", "foo > 5", true),
            (Format::Rpm, "foo = 2:1", "foo < 2", false),
            (Format::Rpm, "foo = 1\nfoo = 3", "foo = 1\nfoo = 3", true),
            (Format::Rpm, "/usr/bin/sh", "/usr/bin/sh", true),
            (Format::Deb, "mail-agent", "mail-agent", true),
            (Format::Deb, "mail-agent", "mail-agent (>= 1)", false),
            (Format::Deb, "x (= 1.5)", "x (>= 1), x (<< 2)", true),
            (Format::Deb, "x (= 2)", "x (>= 1), x (<< 2)", false),
            (Format::Arch, "libfoo.so=2-64", "libfoo.so=1-64", false),
            (Format::Arch, "sh", "sh", true),
            (Format::Arch, "java=17", "java>=11", true),
            (Format::Alpine, "so:libz.so.1=1.3.1", "so:libz.so.1", true),
            (Format::Alpine, "cmd:sh=1.36-r2", "cmd:sh~1.36", true),
            (Format::Alpine, "cmd:sh", "cmd:sh>1", false),
        ] {
            let provided = provided(format, provided_text);
            let relation = &needs(format, need)[0].any_of[0];
            assert_eq!(relation.is_met(format, provided.iter().cloned()), expected, "{provided_text} for {need}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in prop_oneof!["[a-c()<>=~,|! \n0-9:@.]{0,60}", "(\\(|a|b >= 1| or | and | with | if | else |\\)){0,30}", any::<String>()]) {
            for format in [Format::Rpm, Format::Deb, Format::Arch, Format::Alpine] {
                for need in needs(format, &text) {
                    prop_assert!(!need.any_of.is_empty() && need.any_of.iter().all(|relation| !relation.name.is_empty()));
                }
                prop_assert!(provided(format, &text).iter().all(|provided| !provided.name.is_empty()));
            }
        }
    }
}
