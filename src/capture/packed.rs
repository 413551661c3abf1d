//! Compressed captures: gzip (RFC 1952) and zstd (RFC 8878), recognised by their first bytes and
//! unpacked while they are read.
//!
//! Files of several parts, one after the other (gzip members, zstd frames and what may be skipped
//! between them), are one file. Memory: 64 KiB of what is packed; for gzip a window of 32 KiB, for zstd
//! the window that the file asks for, at most [`MAX_WINDOW_BYTES`].

use std::io::{self, BufRead, BufReader, Chain, Cursor, Read};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// The largest window of a zstd file that is unpacked: what `zstd --ultra -22` asks for.
const MAX_WINDOW_BYTES: u64 = 128 << 20;
const PACKED_BYTES: usize = 64 << 10;
/// How many bytes tell the formats apart.
const MAGIC_BYTES: usize = 4;

/// A file from its first byte on, after a look at it.
type Whole<R> = Chain<Cursor<Vec<u8>>, R>;

/// A file as it is when unpacked.
pub(super) enum Input<R> {
    Plain(Whole<R>),
    Gzip(Box<MultiGzDecoder<BufReader<Whole<R>>>>),
    Zstd(Box<Zstd<BufReader<Whole<R>>>>),
}

impl<R: Read> Input<R> {
    /// Looks at the first bytes.
    pub(super) fn new(mut input: R) -> io::Result<Self> {
        let mut magic = Vec::with_capacity(MAGIC_BYTES);
        input.by_ref().take(MAGIC_BYTES as u64).read_to_end(&mut magic)?;
        let (gzip, zstd) = match magic[..] {
            [0x1F, 0x8B, ..] => (true, false),
            [0x28, 0xB5, 0x2F, 0xFD] | [0x50..=0x5F, 0x2A, 0x4D, 0x18] => (false, true),
            _ => (false, false),
        };
        let whole = Cursor::new(magic).chain(input);
        if !gzip && !zstd {
            return Ok(Self::Plain(whole));
        }
        let packed = BufReader::with_capacity(PACKED_BYTES, whole);
        Ok(if gzip {
            Self::Gzip(Box::new(MultiGzDecoder::new(packed)))
        } else {
            Self::Zstd(Box::new(Zstd::new(packed)))
        })
    }
}

impl<R: Read> Read for Input<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(input) => input.read(buffer),
            Self::Gzip(input) => input.read(buffer).map_err(|error| named("gzip", error)),
            Self::Zstd(input) => input.read(buffer).map_err(|error| named("zstd", error)),
        }
    }
}

/// What is wrong with packed bytes, in a sentence; an error of reading them stays as it is.
fn named(format: &str, error: io::Error) -> io::Error {
    let kind = error.kind();
    match kind {
        io::ErrorKind::UnexpectedEof => {
            io::Error::new(kind, format!("the file ends within its {format} data"))
        }
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => {
            io::Error::new(kind, format!("its {format} data is damaged: {error}"))
        }
        _ => error,
    }
}

/// All frames of a zstd file.
pub(super) struct Zstd<R> {
    input: R,
    frame: FrameDecoder,
    /// A frame's header was read, its end not yet.
    within: bool,
}

impl<R: BufRead> Zstd<R> {
    fn new(input: R) -> Self {
        let mut frame = FrameDecoder::new();
        frame.set_max_window_size(MAX_WINDOW_BYTES);
        Self { input, frame, within: false }
    }

    /// Opens the next frame; false at the end of the file.
    fn open(&mut self) -> io::Result<bool> {
        loop {
            if self.input.fill_buf()?.is_empty() {
                return Ok(false);
            }
            let skipped = match self.frame.reset(&mut self.input) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => u64::from(length),
                Err(error) => return Err(self.fault(&error.to_string())),
            };
            if io::copy(&mut self.input.by_ref().take(skipped), &mut io::sink())? < skipped {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Why the next bytes could not be unpacked.
    fn fault(&mut self, what: &str) -> io::Error {
        match self.input.fill_buf() {
            Ok([]) => io::ErrorKind::UnexpectedEof.into(),
            Ok(_) => io::Error::new(io::ErrorKind::InvalidData, what),
            Err(error) => error,
        }
    }

    /// A frame that ends with a checksum must have it.
    fn check(&self) -> io::Result<()> {
        match self.frame.get_checksum_from_data() {
            Some(told) if self.frame.get_calculated_checksum() != Some(told) => {
                Err(io::Error::new(io::ErrorKind::InvalidData, "the checksum of a frame is wrong"))
            }
            _ => Ok(()),
        }
    }
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.within {
                self.within = self.open()?;
                if !self.within {
                    return Ok(0);
                }
            }
            if self.frame.can_collect() > 0 {
                return self.frame.read(buffer);
            }
            if self.frame.is_finished() {
                self.within = false;
                self.check()?;
                continue;
            }
            // A block unpacks to 128 KiB at most.
            let block = self.frame.decode_blocks(&mut self.input, BlockDecodingStrategy::UptoBlocks(1));
            if block.is_err() {
                return Err(self.fault("a block cannot be unpacked"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    use super::*;

    fn unpacked(packed: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        Input::new(packed)?.read_to_end(&mut out)?;
        Ok(out)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        compress_to_vec(bytes, CompressionLevel::Fastest)
    }

    fn text() -> Vec<u8> {
        (0..400_000u32).flat_map(|n| (n / 3).to_le_bytes()).collect()
    }

    #[test]
    fn files_of_one_part_and_of_several() {
        let text = text();
        let (first, second) = text.split_at(123_456);
        let skippable = [&[0x5A, 0x2A, 0x4D, 0x18, 3, 0, 0, 0][..], b"any"].concat();
        for packed in [
            text.clone(),
            gzip(&text),
            [gzip(first), gzip(b""), gzip(second)].concat(),
            zstd(&text),
            [zstd(first), zstd(b""), skippable.clone(), zstd(second), skippable.clone()].concat(),
            [skippable, zstd(&text)].concat(),
        ] {
            assert!(unpacked(&packed).unwrap() == text);
        }
        assert_eq!(unpacked(b"").unwrap(), b"");
        assert_eq!(unpacked(&[0x1F]).unwrap(), [0x1F]);
    }

    #[test]
    fn what_is_cut_or_changed_is_an_error_after_what_could_be_unpacked() {
        let text = text();
        for (format, packed) in [("gzip", gzip(&text)), ("zstd", zstd(&text))] {
            for len in [5, packed.len() / 2, packed.len() - 1] {
                let mut out = Vec::new();
                let fault = Input::new(&packed[..len]).unwrap().read_to_end(&mut out);
                let fault = fault.unwrap_err().to_string();
                assert_eq!(fault, format!("the file ends within its {format} data"), "{len}");
                assert!(text.starts_with(&out));
            }
            let mut wrong = packed.clone();
            wrong[packed.len() - 5] ^= 1;
            let fault = unpacked(&wrong).unwrap_err().to_string();
            assert!(fault.starts_with(&format!("its {format} data is damaged: ")), "{fault}");
            assert!(unpacked(&[&packed[..], b"more"].concat()).is_err());
        }
        let absurd_window = [0x28, 0xB5, 0x2F, 0xFD, 0, 0xFF, 0, 0, 0];
        assert!(unpacked(&absurd_window).is_err());
        let endless_skip = [0x5A, 0x2A, 0x4D, 0x18, 0xFF, 0xFF, 0xFF, 0xFF, 1];
        assert_eq!(unpacked(&endless_skip).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
