//! Archives (tar(5): ustar, with the long names of pax and GNU), read as streams.

use std::io::{self, BufRead, Read};

const BLOCK: usize = 512;

/// Longest path of a file, and longest header of pax, in bytes.
const PATH_MAX: usize = 4096;
const PAX_MAX: u64 = 64 * 1024;

/// Calls `each` for every regular file with its path and its content, of which it may leave some or all. Blocks of zeros are passed
/// over wherever they stand: one archive may follow another.
///
/// # Errors
/// It is no archive, it is cut, or `each` fails.
pub(super) fn files(
    mut input: impl BufRead,
    mut each: impl FnMut(&str, &mut dyn BufRead) -> io::Result<()>,
) -> io::Result<()> {
    let mut is_archive = false;
    // What a header says of the file after it.
    let mut next = Extended::default();
    while let Some(block) = block(&mut input)? {
        if block.iter().all(|b| *b == 0) {
            is_archive = true;
            continue;
        }
        let header = Header::of(&block)?;
        is_archive = true;
        let size = match header.kind {
            b'0' | 0 | b'7' => next.size.unwrap_or(header.size),
            _ => header.size,
        };
        let mut content = input.by_ref().take(size);
        match header.kind {
            b'0' | 0 | b'7' => {
                let path = std::mem::take(&mut next).path.unwrap_or(header.path);
                each(&path, &mut content)?;
            }
            b'x' => next.read_pax(&read_short(&mut content, PAX_MAX)?),
            b'L' => next.path = Some(text(&read_short(&mut content, PATH_MAX as u64)?)),
            // Of all files to come, or of a link or a folder: nothing that is wanted.
            b'g' | b'K' => {}
            _ => next = Extended::default(),
        }
        let left = content.limit();
        if io::copy(&mut content, &mut io::sink())? != left {
            return Err(bad("the archive is cut"));
        }
        let padding = size.next_multiple_of(BLOCK as u64) - size;
        if io::copy(&mut input.by_ref().take(padding), &mut io::sink())? != padding {
            return Err(bad("the archive is cut"));
        }
    }
    if is_archive { Ok(()) } else { Err(bad("it is no archive")) }
}

/// What headers of pax and GNU say in place of the next one.
#[derive(Default)]
struct Extended {
    path: Option<String>,
    size: Option<u64>,
}

impl Extended {
    /// `LENGTH KEY=VALUE\n`, where the length is that of the whole.
    fn read_pax(&mut self, mut records: &[u8]) {
        while let Some(space) = records.iter().position(|b| *b == b' ') {
            let length = std::str::from_utf8(&records[..space]).ok().and_then(|digits| digits.parse::<usize>().ok());
            let Some(record) = length.and_then(|length| records.get(space + 1..length)) else { return };
            records = &records[space + 1 + record.len()..];
            let Some((key, value)) = record.iter().position(|b| *b == b'=').map(|at| record.split_at(at)) else {
                return;
            };
            let value = value[1..].strip_suffix(b"\n").unwrap_or(&value[1..]);
            match key {
                b"path" => self.path = Some(text(value)),
                b"size" => self.size = text(value).parse().ok(),
                _ => {}
            }
        }
    }
}

struct Header {
    path: String,
    size: u64,
    kind: u8,
}

impl Header {
    fn of(block: &[u8; BLOCK]) -> io::Result<Self> {
        // As if the sum itself were spaces.
        let sum: u64 =
            block.iter().enumerate().map(|(i, b)| if (148..156).contains(&i) { 32 } else { u64::from(*b) }).sum();
        if number(&block[148..156]) != Some(sum) {
            return Err(bad("a header of the archive is damaged"));
        }
        let name = text(&block[..100]);
        let prefix = if block[257..].starts_with(b"ustar\0") { text(&block[345..500]) } else { String::new() };
        let path = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
        let size = number(&block[124..136]).ok_or_else(|| bad("a file of the archive has no length"))?;
        Ok(Self { path, size, kind: block[156] })
    }
}

/// The next block; nothing at the end.
fn block(input: &mut impl Read) -> io::Result<Option<[u8; BLOCK]>> {
    let mut block = Vec::with_capacity(BLOCK);
    input.take(BLOCK as u64).read_to_end(&mut block)?;
    match block.len() {
        0 => Ok(None),
        _ => block.try_into().map(Some).map_err(|_| bad("the archive is cut")),
    }
}

fn read_short(content: &mut impl Read, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    content.take(most + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 <= most {
        true => Ok(bytes),
        false => Err(bad("a name in the archive is longer than any that makes sense")),
    }
}

/// Up to the first zero.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// Octal digits, or, where these would not do, GNU's big-endian number.
fn number(field: &[u8]) -> Option<u64> {
    if let [0x80, rest @ ..] = field {
        let (high, low) = rest.split_at(rest.len().checked_sub(8)?);
        return high.iter().all(|b| *b == 0).then(|| low.iter().fold(0, |n, b| n << 8 | u64::from(*b)));
    }
    let digits = field.trim_ascii_start();
    let digits = &digits[..digits.iter().take_while(|b| (b'0'..=b'7').contains(b)).count()];
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()
}

fn bad(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// One file as it stands in an archive, `kind` being the type of its header.
    pub(in crate::repos) fn entry(path: &str, kind: u8, content: &[u8]) -> Vec<u8> {
        let mut header = vec![0; BLOCK];
        header[..path.len()].copy_from_slice(path.as_bytes());
        header[100..108].copy_from_slice(b"0000644\0");
        header[124..136].copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
        header[156] = kind;
        header[257..265].copy_from_slice(b"ustar\x0000");
        header[148..156].fill(b' ');
        let sum: u64 = header.iter().map(|b| u64::from(*b)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let padding = vec![0; content.len().next_multiple_of(BLOCK) - content.len()];
        [&header[..], content, &padding].concat()
    }

    /// An archive of these files.
    pub(in crate::repos) fn archive(files: &[(&str, &str)]) -> Vec<u8> {
        let mut archive: Vec<u8> = files.iter().flat_map(|(path, text)| entry(path, b'0', text.as_bytes())).collect();
        archive.resize(archive.len() + 2 * BLOCK, 0);
        archive
    }

    fn read(bytes: &[u8]) -> io::Result<Vec<(String, String)>> {
        let mut found = Vec::new();
        files(bytes, |path, content| {
            let mut text = String::new();
            content.read_to_string(&mut text)?;
            found.push((path.to_owned(), text));
            Ok(())
        })?;
        Ok(found)
    }

    #[test]
    fn files_of_all_forms() {
        let long = "long/".repeat(50);
        let pax = format!("path={long}pax\n");
        let pax = format!("{} {pax}", pax.len() + 4);
        let archive = [
            entry("folder", b'5', b""),
            entry("a", b'0', b"first"),
            entry("link", b'2', b""),
            entry("x", b'x', format!("17 comment=hello\n{pax}").as_bytes()),
            entry("short", b'0', &[b'b'; 512]),
            vec![0; 1024],
            entry("././@LongLink", b'L', format!("{long}gnu\0").as_bytes()),
            entry("short", 0, b""),
            entry("c", b'0', b"last"),
            vec![0; 10240],
        ]
        .concat();
        let found = read(&archive).unwrap();
        let paths: Vec<&str> = found.iter().map(|(path, _)| &**path).collect();
        assert_eq!(paths, ["a", &format!("{long}pax"), &format!("{long}gnu"), "c"]);
        assert_eq!((&*found[0].1, found[1].1.len(), &*found[3].1), ("first", 512, "last"));
        let mut unread = 0;
        files(&archive[..], |_, _| {
            unread += 1;
            Ok(())
        })
        .unwrap();
        assert_eq!(unread, 4, "content that nobody wants is passed over");
    }

    #[test]
    fn what_is_damaged_is_no_archive() {
        let right = archive(&[("a", "text"), ("b", "more")]);
        assert_eq!(read(&right).unwrap().len(), 2);
        for end in [1, 511, 513, 600, 1025, 1500] {
            assert!(read(&right[..end]).is_err(), "{end}");
        }
        for at in [0, 124, 148, 156, 300, 1024] {
            let mut bent = right.clone();
            bent[at] ^= 1;
            assert!(read(&bent).is_err(), "{at}");
        }
        assert!(read(b"").is_err() && read(&[b'x'; 2048]).is_err());
        assert!(read(&entry("x", b'x', &vec![b' '; 100_000])).is_err(), "no end of it");
        let mut huge = entry("a", b'0', b"");
        huge[124..136].copy_from_slice(&[0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
        huge[148..156].fill(b' ');
        let sum: u64 = huge.iter().map(|b| u64::from(*b)).sum();
        huge[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        assert!(read(&huge).is_err(), "a length that nothing has");
    }

    proptest! {
        #[test]
        fn damage_is_survived(at in 0usize..3000, with in any::<Vec<u8>>(), kind in any::<u8>(), content in any::<Vec<u8>>()) {
            let mut bytes = [entry("x", b'x', &content), entry("f", kind, &content), archive(&[("a", "b")])].concat();
            let at = at.min(bytes.len());
            let end = (at + with.len()).min(bytes.len());
            bytes[at..end].copy_from_slice(&with[..end - at]);
            let _ = read(&bytes);
            let _ = read(&with);
        }
    }
}
