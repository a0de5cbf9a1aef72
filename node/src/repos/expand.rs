//! Metadata behind its compression, which its first bytes tell: names of files do not always.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use liblzma::bufread::XzDecoder;
use liblzma::stream::Stream;

use super::zchunk::{self, Zchunk};

/// Bytes of memory that a decompressor may take.
const MEMORY_MAX: u64 = 160 * 1024 * 1024;

/// The largest window of zstd, as a power of two: 128 MiB.
const WINDOW_LOG_MAX: u32 = 27;

/// What `input` is when it is expanded: gzip, xz, zstd and zchunk, also, but for the last, several members one after the other; anything else as it is.
///
/// # Errors
/// Reading fails when the input is damaged, or becomes longer than `most` bytes.
pub(super) fn expand<'r>(input: impl Read + 'r, most: u64) -> io::Result<impl Read + 'r> {
    let mut input = BufReader::with_capacity(256 * 1024, input);
    let expanded: Box<dyn Read + 'r> = match input.fill_buf()? {
        [0x1f, 0x8b, ..] => Box::new(MultiGzDecoder::new(input)),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => {
            let stream = Stream::new_stream_decoder(MEMORY_MAX, liblzma::stream::CONCATENATED)?;
            Box::new(XzDecoder::new_stream(input, stream))
        }
        // A frame, or one that is to be skipped.
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
            decoder.window_log_max(WINDOW_LOG_MAX)?;
            Box::new(decoder)
        }
        start if start.starts_with(zchunk::MAGIC) => Box::new(Zchunk::new(input)?),
        _ => Box::new(input),
    };
    Ok(Limited { inner: expanded, left: most })
}

/// Fails where `Take` would pretend that it is the end.
struct Limited<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buf)?;
        self.left = self
            .left
            .checked_sub(read as u64)
            .ok_or_else(|| io::Error::other("it is larger than metadata of packages may be"))?;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn text() -> Vec<u8> {
        (0..40_000u32).flat_map(|i| format!("line {}\n", i % 977).into_bytes()).collect()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn xz(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 6);
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn expanded(bytes: &[u8], most: u64) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        expand(bytes, most)?.read_to_end(&mut out)?;
        Ok(out)
    }

    #[test]
    fn all_forms_are_known_by_their_first_bytes() {
        let text = text();
        let zstd = zstd::encode_all(&text[..], 3).unwrap();
        for packed in [text.clone(), gzip(&text), xz(&text), zstd] {
            assert_eq!(expanded(&packed, text.len() as u64).unwrap(), text);
            assert!(expanded(&packed, text.len() as u64 - 1).is_err(), "too long");
            let twice = [&packed[..], &packed].concat();
            assert_eq!(expanded(&twice, 1 << 30).unwrap().len(), 2 * text.len());
        }
        let zck = zchunk::tests::zchunk(0, true, &[b"", &text[..100], &text[100..]]);
        assert_eq!(expanded(&zck, text.len() as u64).unwrap(), text);
        assert!(expanded(&zck, text.len() as u64 - 1).is_err(), "too long");
        assert_eq!(expanded(b"", 0).unwrap(), b"");
    }

    #[test]
    fn what_is_cut_is_an_error() {
        let text = text();
        for packed in [gzip(&text), xz(&text), zstd::encode_all(&text[..], 3).unwrap()] {
            assert!(expanded(&packed[..packed.len() / 2], 1 << 30).is_err());
        }
    }
}
