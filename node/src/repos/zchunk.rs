//! zchunk (`.zck`): pieces that are compressed one by one, so that clients fetch only those that have changed, after a header that lists
//! them. Here it is read from front to end.
//!
//! The check sums of the pieces are passed over: that of the whole file, which the repository names, has been compared before.

use std::io::{self, Read};

use zstd::bulk::Decompressor;

pub(super) const MAGIC: &[u8] = b"\0ZCK1";

/// Longest header in bytes; Fedora's largest have some two million.
const HEADER_MAX: u64 = 32 * 1024 * 1024;

/// Largest piece in bytes; zchunk itself makes none over ten million.
const CHUNK_MAX: usize = 32 * 1024 * 1024;

/// Flags of the header: there are elements that may be skipped; each piece also has the check sum of what it expands to.
const OPTIONAL_ELEMENTS: u64 = 1 << 1;
const EXPANDED_SUMS: u64 = 1 << 2;

/// Lengths of a piece in bytes.
struct Chunk {
    packed: usize,
    expanded: usize,
}

/// What a file expands to.
pub(super) struct Zchunk<R> {
    input: R,
    /// None where the pieces are not compressed.
    decompressor: Option<Decompressor<'static>>,
    chunks: std::vec::IntoIter<Chunk>,
    packed: Vec<u8>,
    expanded: Vec<u8>,
    /// How much of `expanded` has been read.
    at: usize,
}

impl<R: Read> Zchunk<R> {
    /// Reads the header, magic and all.
    ///
    /// # Errors
    /// It is cut, malformed, or of a form that is not known.
    pub(super) fn new(mut input: R) -> io::Result<Self> {
        let mut magic = [0; MAGIC.len()];
        input.read_exact(&mut magic)?;
        let sum = checksum_length(number(&mut input)?)?;
        let length = number(&mut input)?;
        if magic != MAGIC || length > HEADER_MAX {
            return Err(bad("the header makes no sense"));
        }
        skip(&mut input, sum)?;
        let mut header = Vec::new();
        input.by_ref().take(length).read_to_end(&mut header)?;
        if header.len() as u64 != length {
            return Err(bad("the header is cut"));
        }
        let (is_compressed, chunks) = index(&mut &header[..], sum)?;
        let mut file = Self {
            input,
            decompressor: None,
            chunks: chunks.into_iter(),
            packed: Vec::new(),
            expanded: Vec::new(),
            at: 0,
        };
        // The first piece is the dictionary of the others, which may be empty.
        let dictionary = file.chunks.next().ok_or_else(|| bad("there is no dictionary"))?;
        if is_compressed {
            file.decompressor = Some(Decompressor::new()?);
            file.expand(&dictionary)?;
            file.decompressor = Some(Decompressor::with_dictionary(&std::mem::take(&mut file.expanded))?);
        } else {
            file.expand(&dictionary)?;
            file.expanded.clear();
        }
        Ok(file)
    }

    fn expand(&mut self, chunk: &Chunk) -> io::Result<()> {
        self.packed.clear();
        self.at = 0;
        self.input.by_ref().take(chunk.packed as u64).read_to_end(&mut self.packed)?;
        if self.packed.len() != chunk.packed {
            return Err(bad("a piece is cut"));
        }
        match &mut self.decompressor {
            _ if chunk.packed == 0 => self.expanded.clear(),
            Some(decompressor) => self.expanded = decompressor.decompress(&self.packed, chunk.expanded)?,
            None => std::mem::swap(&mut self.packed, &mut self.expanded),
        }
        match self.expanded.len() == chunk.expanded {
            true => Ok(()),
            false => Err(bad("a piece has another length than the header says")),
        }
    }
}

impl<R: Read> Read for Zchunk<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.at == self.expanded.len() {
            let Some(chunk) = self.chunks.next() else { return Ok(0) };
            self.expand(&chunk)?;
        }
        let read = (&self.expanded[self.at..]).read(buf)?;
        self.at += read;
        Ok(read)
    }
}

/// Are the pieces compressed, and how long are they?
fn index(header: &mut &[u8], sum: u64) -> io::Result<(bool, Vec<Chunk>)> {
    skip(header, sum)?;
    let flags = number(header)?;
    if flags & !(OPTIONAL_ELEMENTS | EXPANDED_SUMS) != 0 {
        return Err(bad("the header has flags that are not known"));
    }
    let is_compressed = match number(header)? {
        0 => false,
        2 => true,
        _ => return Err(bad("the compression is not known")),
    };
    if flags & OPTIONAL_ELEMENTS != 0 {
        for _ in 0..number(header)? {
            number(header)?;
            let length = number(header)?;
            skip(header, length)?;
        }
    }
    let length = usize::try_from(number(header)?).ok().filter(|length| *length <= header.len());
    let mut index = &header[..length.ok_or_else(|| bad("the header is cut"))?];
    let sums = checksum_length(number(&mut index)?)? * if flags & EXPANDED_SUMS == 0 { 1 } else { 2 };
    let _count = number(&mut index)?;
    let mut chunks = Vec::new();
    while !index.is_empty() {
        skip(&mut index, sums)?;
        let mut length = || {
            usize::try_from(number(&mut index)?)
                .ok()
                .filter(|n| *n <= CHUNK_MAX)
                .ok_or_else(|| bad("a piece is too long"))
        };
        chunks.push(Chunk { packed: length()?, expanded: length()? });
    }
    Ok((is_compressed, chunks))
}

fn checksum_length(kind: u64) -> io::Result<u64> {
    match kind {
        // SHA-1, SHA-256, SHA-512, and the beginning of that.
        0 => Ok(20),
        1 => Ok(32),
        2 => Ok(64),
        3 => Ok(16),
        _ => Err(bad("the check sum is not known")),
    }
}

/// Seven bits a byte, the lowest first; the last one has its highest bit set.
fn number(input: &mut impl Read) -> io::Result<u64> {
    let mut number = 0u64;
    for shift in (0..63).step_by(7) {
        let mut byte = [0];
        input.read_exact(&mut byte)?;
        number |= u64::from(byte[0] & 0x7f) << shift;
        if byte[0] & 0x80 != 0 {
            return Ok(number);
        }
    }
    Err(bad("a number has no end"))
}

fn skip(input: &mut impl Read, length: u64) -> io::Result<()> {
    match io::copy(&mut input.take(length), &mut io::sink())? == length {
        true => Ok(()),
        false => Err(bad("the header is cut")),
    }
}

fn bad(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("zchunk: {what}"))
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(mut number: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while number > 0x7f {
            bytes.push((number & 0x7f) as u8);
            number >>= 7;
        }
        bytes.push(number as u8 | 0x80);
        bytes
    }

    /// A file of these pieces, of which the first is the dictionary.
    pub(in crate::repos) fn zchunk(flags: u64, is_compressed: bool, pieces: &[&[u8]]) -> Vec<u8> {
        let mut compressor = zstd::bulk::Compressor::new(3).unwrap();
        let (mut index, mut data) = ([written(3), written(pieces.len())].concat(), Vec::new());
        for (i, piece) in pieces.iter().enumerate() {
            let packed = match (piece.is_empty(), is_compressed) {
                (true, _) => Vec::new(),
                (false, true) => compressor.compress(piece).unwrap(),
                (false, false) => piece.to_vec(),
            };
            if i == 0 {
                compressor = zstd::bulk::Compressor::with_dictionary(3, piece).unwrap();
            }
            index.extend(vec![7; if flags & EXPANDED_SUMS == 0 { 16 } else { 32 }]);
            index.extend([written(packed.len()), written(piece.len())].concat());
            data.extend(packed);
        }
        let elements = [written(1), written(0), written(3), b"abc".to_vec()].concat();
        let elements = if flags & OPTIONAL_ELEMENTS == 0 { Vec::new() } else { elements };
        let compression = written(if is_compressed { 2 } else { 0 });
        let header =
            [vec![1; 32], written(flags as usize), compression, elements, written(index.len()), index, written(0)]
                .concat();
        [MAGIC.to_vec(), written(1), written(header.len()), vec![2; 32], header, data].concat()
    }

    fn read(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut expanded = Vec::new();
        Zchunk::new(bytes)?.read_to_end(&mut expanded)?;
        Ok(expanded)
    }

    #[test]
    fn pieces_follow_each_other() {
        let long = b"some words of a dictionary ".repeat(1000);
        let pieces: [&[u8]; 4] = [b"", b"one", b"", &long];
        for (flags, is_compressed) in [(0, true), (0, false), (OPTIONAL_ELEMENTS | EXPANDED_SUMS, true)] {
            let file = zchunk(flags, is_compressed, &pieces);
            assert_eq!(read(&file).unwrap(), pieces.concat());
            for end in [0, 4, 6, 30, 60, 100, file.len() - 1] {
                assert!(read(&file[..end]).is_err(), "{end}");
            }
        }
        let dictionary: [&[u8]; 3] = [&long, b"words of a dictionary", b"some words"];
        for is_compressed in [true, false] {
            assert_eq!(read(&zchunk(0, is_compressed, &dictionary)).unwrap(), dictionary[1..].concat());
        }
        assert!(read(&zchunk(1, true, &pieces)).is_err(), "streams are not known");
        assert!(read(&zchunk(0, true, &[])).is_err());
    }

    #[test]
    fn what_zchunk_itself_wrote() {
        // The list of a repository without packages, by createrepo_c 0.20 with zchunk 1.2.
        const LIST: &str = "005a434b3181dd1e09ebe67604c2e01efe83ca46cf562d4e4c966f7562151df00ad1f41f98c39094b39e556314b90e75dd1c4752f60359dbe6d4e965\
         bb1de015b5be7d0ca131438082b98383000000000000000000000000000000008080126a4a3cf8b4c8be8d75b1b4172c1aa1f51c81ceea48d68e91e1\
         1a3a8d9f54a484f950948b8028b52ffd209c650300d2c6171a70b73a086d5a2b71db5f326f95000139461c96c0b220f9ff0d3804f2e249aea296a5a0\
         39c3c8301aefc7fc164294edd985b2536937879001e7343cc9765c8d9a8aa9b97c104872016040283c29ddd85bbde6c5093cf56b32eec138aec91103\
         1005759088d949c41928b52ffd200b5900003c2f6d657461646174613e";
        let bytes: Vec<u8> = LIST
            .as_bytes()
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect();
        let text = String::from_utf8(read(&bytes).unwrap()).unwrap();
        assert!(text.starts_with("<?xml") && text.ends_with("packages=\"0\">\n</metadata>"), "{text}");
    }

    proptest! {
        #[test]
        fn damage_is_survived(at in any::<prop::sample::Index>(), with in any::<Vec<u8>>()) {
            let mut file = zchunk(OPTIONAL_ELEMENTS, true, &[b"a dictionary", b"one", b"two"]);
            let from = at.index(file.len());
            let end = (from + with.len()).min(file.len());
            file[from..end].copy_from_slice(&with[..end - from]);
            let _ = read(&file);
            let _ = read(&[MAGIC, &with].concat());
        }
    }
}
