//! Judges what a case led to. Pure: looks at the bytes of both sides, knows nothing of connections.

use std::time::Duration;

use super::cases::{Case, Side};
use super::origin::Seen;
use super::player::{Answer, End, Exchange};

/// All that happened.
pub(super) struct Course<'a> {
    pub(super) case: &'a Case,
    /// In order; the first is judged by the case's safe results.
    pub(super) exchanges: Vec<Exchange>,
    /// What came to the origin during them.
    pub(super) seen: Vec<Seen>,
    /// A plain GET of the same path afterwards, and whether the origin was asked for it.
    pub(super) again: Option<(Exchange, bool)>,
    /// How the node names the origin in a target, which the origin does not see: `http://HOST` or `/HOST`.
    pub(super) base: String,
    /// The origin's host and port.
    pub(super) authority: String,
    /// The node keeps what is under such paths.
    pub(super) stored: bool,
    /// Someone was where nobody may be, while this case ran.
    pub(super) trespassed: bool,
}

impl Course<'_> {
    /// Says what is wrong.
    pub(super) fn verdict(&self) -> Result<(), String> {
        self.always_true()?;
        let case = self.case;
        let first = &self.exchanges[0];
        if !case.safe.iter().any(|token| self.is_safe(token, first)) {
            return Err(format!("none of {}", case.safe.join(", ")));
        }
        let stored = if self.stored { case.stored.as_slice() } else { &[] };
        case.also.iter().chain(stored).try_for_each(|token| match self.holds(token) {
            true => Ok(()),
            false => Err(token.clone()),
        })
    }

    /// A few words for the table.
    pub(super) fn summary(&self) -> String {
        let one = |exchange: &Exchange| {
            let ends = exchange.answers.iter().take(3).map(|answer| match answer.end {
                End::Whole => answer.status.to_string(),
                End::Cut => format!("{}!cut", answer.status),
                End::Unknown => format!("{}?", answer.status),
            });
            let mut words: Vec<_> = ends.collect();
            if words.is_empty() || exchange.closed {
                words.push(if exchange.closed { "closed" } else { "open" }.into());
            }
            words.join(" ")
        };
        let mut text: Vec<_> = self.exchanges.iter().map(one).collect();
        if let Some((again, asked)) = &self.again {
            text.push(format!("again{}: {}", if *asked { " (upstream)" } else { "" }, one(again)));
        }
        format!("{} [upstream {}]", text.join("; "), self.seen.len())
    }

    /// What holds whatever is asked.
    fn always_true(&self) -> Result<(), String> {
        if self.trespassed {
            return Err("a listener that nobody may reach was reached".into());
        }
        self.exchanges.iter().chain(self.again.as_ref().map(|(exchange, _)| exchange)).try_for_each(sound_stream)?;
        match self.case.from {
            Side::Client => self.exchanges.iter().try_for_each(sound_answers),
            Side::Upstream => Ok(()),
        }
    }

    /// One of the results that the case lists for the first exchange.
    fn is_safe(&self, token: &str, exchange: &Exchange) -> bool {
        let status = exchange.answer().map(|answer| answer.status);
        if let Some(class) = token.strip_suffix("xx") {
            return status.is_some_and(|status| (status / 100).to_string() == class);
        }
        if token.bytes().all(|b| b.is_ascii_digit()) {
            return status.is_some_and(|status| status.to_string() == token);
        }
        match token {
            "close" => exchange.closed && (exchange.answers.is_empty() || status.is_some_and(|status| status >= 400)),
            "silence" => exchange.answers.is_empty() && !exchange.closed,
            // The client must be able to tell, and must not be left waiting.
            "truncated" => {
                exchange.closed
                    && (exchange.answers.is_empty() || exchange.answers.iter().any(|answer| answer.end == End::Cut))
            }
            "timely-head" => status.is_some() && exchange.took < Duration::from_secs(60),
            "clean" => self.seen.iter().all(is_clean),
            _ => panic!("{}: the result {token} is not known", self.case.name),
        }
    }

    /// What has to be true besides.
    fn holds(&self, token: &str) -> bool {
        let counts = |prefix: &str| token.strip_prefix(prefix).map(|count| count.parse::<usize>().unwrap());
        if let Some(most) = counts("upstream<=") {
            return self.seen.len() <= most;
        }
        if let Some(least) = counts("upstream>=") {
            return self.seen.len() >= least;
        }
        if let Some(times) = counts("amp<=") {
            let bytes: usize = self.exchanges.iter().map(|exchange| exchange.data.len()).sum();
            return bytes <= times * 600 + 4096;
        }
        let all = |right: &dyn Fn(&Seen) -> bool| self.seen.iter().all(right);
        let last = self.exchanges.last().and_then(Exchange::answer).filter(|a| a.status == 200 && a.end == End::Whole);
        let last_is = |right: &dyn Fn(&Answer) -> bool| last.is_some_and(right);
        match token {
            "clean" => self.was_forwarded() && all(&is_clean),
            "host-is-target" => self.was_forwarded() && all(&|seen| seen.values("host") == [self.authority.as_str()]),
            "no-evil" => all(&|seen| !seen.target.contains("evil")),
            "no-hop" => {
                all(&|seen| !["x-hop", "proxy-authorization", "keep-alive", "te"].iter().any(|name| seen.has(name)))
            }
            "no-upgrade" => all(&|seen| !seen.has("upgrade") && !seen.has("http2-settings")),
            "no-override" => all(&|seen| !seen.has("x-http-method-override")),
            "no-purge" => all(&|seen| seen.method != "PURGE") && self.seen.len() <= 2,
            "timely" => self.exchanges.iter().map(|exchange| exchange.took).sum::<Duration>() < Duration::from_secs(12),
            "not-cached" => self.is_not_cached(),
            "one-answer" => self.exchanges[0].answers.iter().filter(|answer| answer.status >= 200).count() == 1,
            "in-order" => self.is_in_order(),
            "own-body" => self.exchanges.iter().all(|exchange| self.is_own_body(exchange)),
            "own-encoding" => last_is(&|answer| !answer.says("AE=gzip")),
            "full-body" => last_is(&|answer| answer.says("METHOD=GET") && answer.says("END")),
            "last-200" => last.is_some(),
            "no-evil-body" => last_is(&|answer| {
                answer.body.split(|b| *b == b'\n').all(|line| line.starts_with(b"TARGET=") || !contains(line, b"evil"))
            }),
            "no-cookie-replay" => self
                .exchanges
                .iter()
                .chain(self.again.as_ref().map(|(exchange, _)| exchange))
                .all(|exchange| exchange.answers.iter().all(|answer| answer.field("set-cookie").is_none())),
            "labelled-gzip" => self.exchanges[0].answer().is_some_and(|answer| {
                answer.body == [0x1f, 0x8b, 8, 0] && answer.field("content-encoding") == Some("gzip")
            }),
            _ => panic!("{}: the condition {token} is not known", self.case.name),
        }
    }

    /// What was answered well was asked upstream: no other content may stand in for it.
    fn was_forwarded(&self) -> bool {
        !self.seen.is_empty() || self.exchanges[0].answer().is_none_or(|answer| answer.status >= 400)
    }

    /// The second client gets nothing out of the store, and what it gets is as safe as what the first one got.
    fn is_not_cached(&self) -> bool {
        let Some((again, asked)) = &self.again else { return false };
        let hit =
            !asked && again.answer().is_some_and(|a| matches!(a.status, 200 | 206 | 304 | 999) && a.end != End::Cut);
        let safe = match self.case.from {
            Side::Upstream => self.case.safe.iter().any(|token| self.is_safe(token, again)),
            Side::Client => again.answer().is_some_and(|a| a.status == 200 && a.says("METHOD=GET") && a.says("END")),
        };
        !hit && safe
    }

    /// Pipelined answers belong to their requests; a node may also close after the first.
    fn is_in_order(&self) -> bool {
        let answers = &self.exchanges[0].answers;
        let path = self.path(&self.exchanges[0].target);
        let right =
            |(answer, path): (&Answer, String)| answer.status == 200 && answer.says(&format!("TARGET={path}\n"));
        let paths = [path.clone(), format!("{path}b")];
        self.exchanges[0].closed && answers.len() <= 2 && answers.iter().zip(paths).all(right)
    }

    fn is_own_body(&self, exchange: &Exchange) -> bool {
        let target = format!("TARGET={}\n", self.path(&exchange.target));
        exchange.answer().is_some_and(|a| a.status != 200 || a.end == End::Whole && a.says(&target))
    }

    /// As the origin sees it.
    fn path(&self, target: &str) -> String {
        target.strip_prefix(&self.base).unwrap_or(target).to_owned()
    }
}

/// Whatever was sent, what comes back is answers and nothing else, and nothing that is secret.
pub(super) fn sound_stream(exchange: &Exchange) -> Result<(), String> {
    for secret in ["SECRET", "root:x:0"] {
        if contains(&exchange.data, secret.as_bytes()) {
            return Err(format!("{secret} was given away"));
        }
    }
    if !exchange.garbage.is_empty() {
        let start = &exchange.garbage[..exchange.garbage.len().min(60)];
        return Err(format!("bytes between answers: {:?}", String::from_utf8_lossy(start)));
    }
    exchange.answers.iter().try_for_each(sound_head)
}

/// No answer is left unfinished with the connection open, and a part is the part that it says it is.
fn sound_answers(exchange: &Exchange) -> Result<(), String> {
    for answer in &exchange.answers {
        if answer.end == End::Cut && !exchange.closed {
            return Err("the answer does not end".into());
        }
        if answer.status == 206 && answer.end == End::Whole {
            let multipart = answer.field("content-type").is_some_and(|v| v.starts_with("multipart/byteranges"));
            let range = answer.field("content-range").and_then(content_range);
            let right = range.is_some_and(|(first, last, total)| {
                first <= last && last < total && last - first + 1 == answer.body.len() as u64
            });
            if !multipart && !right {
                return Err(format!(
                    "Content-Range {:?} of {} bytes",
                    answer.field("content-range"),
                    answer.body.len()
                ));
            }
        }
    }
    Ok(())
}

fn content_range(value: &str) -> Option<(u64, u64, u64)> {
    let (range, total) = value.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()?, total.parse().ok()?))
}

fn sound_head(answer: &Answer) -> Result<(), String> {
    let wrong = |what: &str| Err(format!("{what} in the head of the answer"));
    match () {
        () if answer.head.contains(&0) => wrong("NUL"),
        () if has_bare_line_end(&answer.head) => wrong("a bare CR or LF"),
        () if has_fold(&answer.head) => wrong("a folded line"),
        () => Ok(()),
    }
}

/// One framing, one host, nothing that two readers could read in two ways.
pub(super) fn is_clean(seen: &Seen) -> bool {
    let (lengths, codings, hosts) =
        (seen.values("content-length"), seen.values("transfer-encoding"), seen.values("host"));
    let number =
        |v: &&str| !v.is_empty() && v.bytes().all(|b| b.is_ascii_digit()) && (v.len() == 1 || !v.starts_with('0'));
    let extended = |line: &[u8]| {
        let size = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
        size > 0 && line[size..].trim_ascii_start().starts_with(b";")
    };
    lengths.len() + codings.len() <= 1
        && lengths.iter().all(number)
        && codings.iter().all(|v| v.eq_ignore_ascii_case("chunked"))
        && hosts.len() == 1
        && !hosts[0].contains('@')
        && !seen.target.split('/').nth(2).is_some_and(|authority| authority.contains('@'))
        && !seen.bad_chunk
        && !seen.head.contains(&0)
        && !has_bare_line_end(&seen.head)
        && !has_fold(&seen.head)
        && !seen.body.split(|b| *b == b'\n').any(extended)
}

fn has_bare_line_end(bytes: &[u8]) -> bool {
    (0..bytes.len()).any(|at| match bytes[at] {
        b'\n' => at == 0 || bytes[at - 1] != b'\r',
        // The last byte of a head that is cut may be the first half.
        b'\r' => bytes.get(at + 1).is_some_and(|next| *next != b'\n'),
        _ => false,
    })
}

fn has_fold(bytes: &[u8]) -> bool {
    contains(bytes, b"\r\n ") || contains(bytes, b"\r\n\t")
}

fn contains(bytes: &[u8], text: &[u8]) -> bool {
    bytes.windows(text.len()).any(|w| w == text)
}
