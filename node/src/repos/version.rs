//! Versions of packages, as each family orders them. Pure.
//!
//! Each order here is total, so that "the newest" means something whatever a repository says. Where the family's own program is
//! not that strict with versions that nobody should write, the difference is named.

use std::cmp::Ordering;

use crate::classify::Format;

/// Which of two versions is the newer one; versions that differ only in how they are written are equal.
pub fn order(format: Format, a: &str, b: &str) -> Ordering {
    compare(format, a, b, |a, b| a.cmp(&b))
}

/// As [`order`], but where only one of them has a release the rest decides, as it does when a package needs `foo = 1.2` and `foo` has
/// the version `1.2-3` (RPM and Arch).
pub fn order_but_missing_release(format: Format, a: &str, b: &str) -> Ordering {
    compare(format, a, b, |_, _| Ordering::Equal)
}

/// Is the version one of those that begin with `prefix`, component by component? That is Alpine's `~`.
pub fn begins_with(format: Format, version: &str, prefix: &str) -> bool {
    match format {
        Format::Alpine => {
            let mut version = alpine(version.as_bytes());
            alpine(prefix.as_bytes()).take_while(|token| *token != Alpine::End).all(|t| version.next() == Some(t))
        }
        _ => order_but_missing_release(format, version, prefix).is_eq(),
    }
}

/// `unlike` decides, by whether they are there, about two releases of which at least one is missing.
fn compare(format: Format, a: &str, b: &str, unlike: fn(bool, bool) -> Ordering) -> Ordering {
    let part: fn(&[u8], &[u8]) -> Ordering = match format {
        Format::Alpine => return alpine(a.as_bytes()).cmp(alpine(b.as_bytes())),
        Format::Rpm => |a, b| rpm(a).cmp(rpm(b)),
        Format::Deb => deb,
        Format::Arch => |a, b| arch(a).cmp(arch(b)),
    };
    let (a, b) = (Parts::of(format, a), Parts::of(format, b));
    let release = || match (a.release, b.release) {
        (Some(a), Some(b)) => part(a, b),
        (a, b) => unlike(a.is_some(), b.is_some()),
    };
    part(a.epoch, b.epoch).then_with(|| part(a.version, b.version)).then_with(release)
}

/// `EPOCH:VERSION-RELEASE`, of which the first and the last may be missing.
struct Parts<'v> {
    epoch: &'v [u8],
    version: &'v [u8],
    release: Option<&'v [u8]>,
}

impl<'v> Parts<'v> {
    fn of(format: Format, text: &'v str) -> Self {
        let (epoch, rest) = match text.split_once(':') {
            Some((epoch, rest)) if epoch.bytes().all(|b| b.is_ascii_digit()) => (epoch, rest),
            _ => ("", text),
        };
        let (version, release) =
            rest.rsplit_once('-').map_or((rest, None), |(version, release)| (version, Some(release)));
        // For deb a missing revision is the same as `0`.
        let release = release.or((format == Format::Deb).then_some(""));
        let epoch = if epoch.is_empty() { "0" } else { epoch };
        Self { epoch: epoch.as_bytes(), version: version.as_bytes(), release: release.map(str::as_bytes) }
    }
}

/// Digits of any length by their value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Number<'v> {
    /// Without the zeros that lead.
    length: usize,
    digits: &'v [u8],
}

impl<'v> Number<'v> {
    fn of(digits: &'v [u8]) -> Self {
        let zeros = digits.iter().take_while(|b| **b == b'0').count();
        Self { length: digits.len() - zeros, digits: &digits[zeros..] }
    }
}

/// Takes from the front what fits.
fn take<'v>(text: &mut &'v [u8], fits: impl Fn(&u8) -> bool) -> &'v [u8] {
    let (taken, rest) = text.split_at(text.iter().take_while(|b| fits(b)).count());
    *text = rest;
    taken
}

/// What RPM compares one by one, the least first. A caret is newer than the end of the version, a tilde older.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rpm<'v> {
    Tilde,
    End,
    Caret,
    Letters(&'v [u8]),
    Number(Number<'v>),
}

/// `rpmvercmp`: runs of letters or digits; everything else only separates them.
fn rpm(mut text: &[u8]) -> impl Iterator<Item = Rpm<'_>> {
    let mut has_ended = false;
    std::iter::from_fn(move || {
        take(&mut text, |b| !b.is_ascii_alphanumeric() && !matches!(b, b'~' | b'^'));
        let token = match text {
            [] if has_ended => return None,
            [] => Rpm::End,
            [b'~', ..] => Rpm::Tilde,
            [b'^', ..] => Rpm::Caret,
            [b'0'..=b'9', ..] => Rpm::Number(Number::of(take(&mut text, u8::is_ascii_digit))),
            _ => Rpm::Letters(take(&mut text, u8::is_ascii_alphabetic)),
        };
        has_ended = token == Rpm::End;
        if matches!(token, Rpm::Tilde | Rpm::Caret) {
            text = &text[1..];
        }
        Some(token)
    })
}

/// deb-version(7): what are no digits and what are digits in turns. In the former a tilde is older than the end, letters are older
/// than all else.
fn deb(mut a: &[u8], mut b: &[u8]) -> Ordering {
    fn words(text: &[u8]) -> impl Iterator<Item = (u8, u8)> {
        let rank = |b: &u8| match b {
            b'~' => (0, 0),
            b if b.is_ascii_alphabetic() => (2, *b),
            b => (3, *b),
        };
        text.iter().map(rank).chain([(1, 0)])
    }
    while !(a.is_empty() && b.is_empty()) {
        let is_word = |b: &u8| !b.is_ascii_digit();
        let order = words(take(&mut a, is_word)).cmp(words(take(&mut b, is_word)));
        let order = order.then_with(|| {
            Number::of(take(&mut a, u8::is_ascii_digit)).cmp(&Number::of(take(&mut b, u8::is_ascii_digit)))
        });
        if order.is_ne() {
            return order;
        }
    }
    Ordering::Equal
}

/// What Arch compares one by one, the least first.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Arch<'v> {
    /// Right after a number: `1.0rc` is older than `1.0`.
    Letters(&'v [u8]),
    End,
    Part {
        /// Bytes that separate it from what is before it; more of them are newer.
        separators: usize,
        run: Run<'v>,
    },
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Run<'v> {
    Letters(&'v [u8]),
    Number(Number<'v>),
}

/// `alpm_pkg_vercmp`. What separates nothing, at the end, does not count here; by alpm's rules `1..a`, `1.` and `1.1` go round in a
/// circle.
fn arch(mut text: &[u8]) -> impl Iterator<Item = Arch<'_>> {
    let mut has_ended = false;
    std::iter::from_fn(move || {
        let separators = take(&mut text, |b| !b.is_ascii_alphanumeric()).len();
        Some(match text {
            [] if has_ended => return None,
            [] => {
                has_ended = true;
                Arch::End
            }
            [b'0'..=b'9', ..] => {
                let run = Run::Number(Number::of(take(&mut text, u8::is_ascii_digit)));
                Arch::Part { separators, run }
            }
            _ => {
                let letters = take(&mut text, u8::is_ascii_alphabetic);
                match separators {
                    0 => Arch::Letters(letters),
                    _ => Arch::Part { separators, run: Run::Letters(letters) },
                }
            }
        })
    })
}

/// What Alpine compares one by one, the least first.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Alpine<'v> {
    PreRelease(usize),
    /// No version; what follows is not looked at.
    Invalid,
    End,
    Revision(Number<'v>),
    Commit(&'v [u8]),
    SuffixNumber(Number<'v>),
    PostRelease(usize),
    Letter(u8),
    Digits(Digits<'v>),
    First(Number<'v>),
}

/// A component after a dot: with a leading zero it is a decimal fraction.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Digits<'v> {
    Fraction(&'v [u8]),
    Number(Number<'v>),
}

const PRE_RELEASES: [&[u8]; 4] = [b"alpha", b"beta", b"pre", b"rc"];
const POST_RELEASES: [&[u8]; 5] = [b"cvs", b"svn", b"git", b"hg", b"p"];

/// Components of Alpine's versions stand in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Start,
    Digits,
    Letter,
    Suffix,
    SuffixNumber,
    Commit,
    Revision,
    Done,
}

/// `apk_version_compare` of apk 3: `1.2.3a_rc1_p2~0123abc-r4`.
fn alpine(mut text: &[u8]) -> impl Iterator<Item = Alpine<'_>> {
    let mut stage = Stage::Start;
    std::iter::from_fn(move || {
        (stage < Stage::Done).then(|| {
            let (token, next) = alpine_token(&mut text, stage).unwrap_or((Alpine::Invalid, Stage::Done));
            stage = next;
            token
        })
    })
}

/// The next component with the stage that it begins; nothing where no version goes on like this.
fn alpine_token<'v>(text: &mut &'v [u8], stage: Stage) -> Option<(Alpine<'v>, Stage)> {
    let first = text.first().copied();
    let mut rest = text.get(1..).unwrap_or_default();
    let after_digits = stage == Stage::Digits;
    let found = match first {
        Some(b'0'..=b'9') if stage == Stage::Start || stage == Stage::Suffix => {
            let number = Number::of(take(text, u8::is_ascii_digit));
            return Some(match stage {
                Stage::Start => (Alpine::First(number), Stage::Digits),
                _ => (Alpine::SuffixNumber(number), Stage::SuffixNumber),
            });
        }
        None if stage > Stage::Start => (Alpine::End, Stage::Done),
        Some(b'.') if after_digits => match take(&mut rest, u8::is_ascii_digit) {
            [] => return None,
            digits @ [b'0', ..] => (Alpine::Digits(Digits::Fraction(digits)), Stage::Digits),
            digits => (Alpine::Digits(Digits::Number(Number::of(digits))), Stage::Digits),
        },
        Some(letter @ b'a'..=b'z') if after_digits => (Alpine::Letter(letter), Stage::Letter),
        Some(b'_') if (Stage::Digits..=Stage::SuffixNumber).contains(&stage) => {
            let suffix = take(&mut rest, u8::is_ascii_lowercase);
            let at = |known: &[&[u8]]| known.iter().position(|known| *known == suffix);
            let token = at(&PRE_RELEASES).map(Alpine::PreRelease);
            (token.or_else(|| at(&POST_RELEASES).map(Alpine::PostRelease))?, Stage::Suffix)
        }
        Some(b'~') if (Stage::Digits..Stage::Commit).contains(&stage) => match take(&mut rest, u8::is_ascii_hexdigit) {
            [] => return None,
            commit => (Alpine::Commit(commit), Stage::Commit),
        },
        Some(b'-') if (Stage::Digits..Stage::Revision).contains(&stage) => {
            rest = rest.strip_prefix(b"r")?;
            let digits = take(&mut rest, u8::is_ascii_digit);
            (Alpine::Revision((!digits.is_empty()).then(|| Number::of(digits))?), Stage::Revision)
        }
        _ => return None,
    };
    *text = rest;
    Some(found)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Each is older than the next; those of one group are equal.
    fn ascending(format: Format, groups: &[&[&str]]) {
        for (i, group) in groups.iter().enumerate() {
            for (j, other) in groups.iter().enumerate() {
                for (a, b) in group.iter().flat_map(|a| other.iter().map(move |b| (a, b))) {
                    assert_eq!(order(format, a, b), i.cmp(&j), "{format:?}: {a} to {b}");
                }
            }
        }
    }

    #[test]
    fn rpm_orders() {
        // Those of rpm's own test suite that are hard, in one line.
        ascending(
            Format::Rpm,
            &[
                &["~~", "~~."],
                &["~", "0:~"],
                &[""],
                &["^"],
                &["xyz10"],
                &["xyz10.1", "xyz.10.1", "xyz..10.1"],
                &["1.0~rc1~git123"],
                &["1.0~rc1"],
                &["1.0~rc2", "1.0~rc_2"],
                &["1.0", "1.00", "01.0", "1_0", "1.0.", "0:1.0"],
                &["1.0^"],
                &["1.0^20160101~pre"],
                &["1.0^20160101"],
                &["1.0^20160102"],
                &["1.0a"],
                &["1.0aa"],
                &["1.0.1"],
                &["1.0.1^git1~pre"],
                &["1.0.1^git1"],
                &["1.0.1^git1^1"],
                &["1.5"],
                &["1.10"],
                &["5.5p1"],
                &["5.5p2"],
                &["5.5p10"],
                &["5.6p1"],
                &["20101121"],
                &["99999999999999999999999998"],
                &["99999999999999999999999999"],
                &["1:0.1-1"],
                &["1:0.1-1.fc41"],
                &["1:0.1-2"],
                &["10:0"],
            ],
        );
    }

    #[test]
    fn deb_orders() {
        ascending(
            Format::Deb,
            &[
                &["0~~"],
                &["0~~a"],
                &["0~"],
                &["0", "", "00", "0:0", "0-0", "0-"],
                &["0a"],
                &["0a1"],
                &["0.1"],
                &["1~rc1-1"],
                &["1-1~bpo12+1"],
                &["1-1"],
                &["1-1a"],
                &["1-1+b1"],
                &["1-1+b2"],
                &["1-1+deb12u1"],
                &["1a-1"],
                &["1+dfsg-1"],
                &["1-1-1"],
                &["1.2.3"],
                &["1.2.3-0ubuntu1"],
                &["1.2.10"],
                &["7.6p2-4", "0:7.6p2-4"],
                &["10.3-3+really10.2"],
                &["1:0"],
                &["2:0"],
                &["10:0"],
            ],
        );
        // A letter is older than any sign, by ASCII it would not be.
        ascending(Format::Deb, &[&["1.2~"], &["1.2"], &["1.2Z+"], &["1.2a"], &["1.2+"], &["1.2."]]);
    }

    #[test]
    fn arch_orders() {
        ascending(
            Format::Arch,
            &[
                &["1.0a"],
                &["1.0b"],
                &["1.0beta"],
                &["1.0p"],
                &["1.0pre"],
                &["1.0rc"],
                &["1.0", "1.00", "1_0", "0:1.0"],
                &["1.0-1"],
                &["1.0-1.1"],
                &["1.0-2"],
                &["1.0-10"],
                &["1.0.a-1"],
                &["1.0.1-1"],
                &["1.0..1-1"],
                &["1.5.b-1"],
                &["1.5.1-1"],
                &["2.0-1"],
                &["20240101-1"],
                &["1:1.0-1"],
                &["2:0.1-1"],
            ],
        );
    }

    #[test]
    fn alpine_orders() {
        ascending(
            Format::Alpine,
            &[
                &["", "nonsense", "."],
                &["0.1.0_alpha_pre2"],
                &["0.1.0_alpha"],
                &["0.1.0_alpha2"],
                &["0.1.0_beta"],
                &["0.1.0_pre20191002222144-r0"],
                &["0.1.0_rc1"],
                &["0.1.0", "00.1.0"],
                &["0.1.0-r0"],
                &["0.1.0-r1"],
                &["0.1.0-r10"],
                &["0.1.0~0123abc"],
                &["0.1.0~0123abc-r1"],
                &["0.1.0_git20240101"],
                &["0.1.0_p1"],
                &["0.1.0a"],
                &["0.1.0b"],
                &["0.1.0.1"],
                &["0.1.00"],
                &["0.1.05"],
                &["0.1.1"],
                &["0.1.10"],
                &["2.3_pre2"],
                &["2.3"],
                &["8.2.0"],
                &["8.2.1"],
                &["8.10"],
                &["20050718-r1"],
                &["20050718-r2"],
                &["20050718.1"],
            ],
        );
    }

    #[test]
    fn a_release_that_nobody_names_does_not_count() {
        for (format, version, bound, expected) in [
            (Format::Rpm, "1.2-3", "1.2", Ordering::Equal),
            (Format::Rpm, "1.2", "1.2-3", Ordering::Equal),
            (Format::Rpm, "1.2-3", "1.2-4", Ordering::Less),
            (Format::Rpm, "1:1.2-3", "1.2", Ordering::Greater),
            (Format::Arch, "1:1.2-3", "1:1.2", Ordering::Equal),
            (Format::Arch, "1.3-1", "1.2", Ordering::Greater),
            (Format::Deb, "1.2-3", "1.2", Ordering::Greater),
            (Format::Alpine, "1.2-r3", "1.2", Ordering::Greater),
        ] {
            assert_eq!(order_but_missing_release(format, version, bound), expected, "{format:?} {version} {bound}");
        }
        let begins = |version, prefix| begins_with(Format::Alpine, version, prefix);
        assert!(begins("1.2.3-r0", "1.2") && begins("1.2-r1", "1.2-r1") && begins("3.12.1_p1", "3"));
        assert!(!begins("1.20", "1.2") && !begins("1.2", "1.2.0") && !begins("1.2-r11", "1.2-r1"));
    }

    fn any_version() -> impl Strategy<Value = String> {
        let shaped =
            "([0-9]{0,2}:)?[0-9]{1,2}([.~^+_]{0,2}([0-9]{1,3}|[a-c]{1,2}|rc|_alpha|_p)){0,4}(-r?[0-9.~a]{0,3})?";
        prop_oneof![shaped.prop_map(String::from), "[01a.~^:_-]{0,6}", any::<String>()]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]
        #[test]
        fn every_order_is_total(a in any_version(), b in any_version(), c in any_version()) {
            for format in [Format::Rpm, Format::Deb, Format::Arch, Format::Alpine] {
                prop_assert_eq!(order(format, &a, &a), Ordering::Equal);
                prop_assert_eq!(order(format, &a, &b), order(format, &b, &a).reverse());
                let mut sorted = [&a, &b, &c];
                sorted.sort_by(|a, b| order(format, a, b));
                prop_assert!(order(format, sorted[0], sorted[2]).is_le(), "{:?}: {:?}", format, sorted);
                if order(format, sorted[0], sorted[1]).is_eq() {
                    prop_assert_eq!(order(format, sorted[0], sorted[2]), order(format, sorted[1], sorted[2]));
                }
                let _ = (order_but_missing_release(format, &a, &b), begins_with(format, &a, &b));
            }
        }
    }
}
