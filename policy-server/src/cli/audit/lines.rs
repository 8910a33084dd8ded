//! The lines of a large file, some thousand at a time, each read by itself on every processor.

use std::io::{self, BufRead, Read as _};
use std::num::NonZero;
use std::thread;

/// The bytes at which a piece is full; the line that fills it is read whole.
const PIECE: usize = 4 << 20;

/// Some lines that stand together.
#[derive(Debug, Default)]
pub(super) struct Lines {
    bytes: Vec<u8>,
    /// Where each ends, its line feed included.
    ends: Vec<usize>,
}

impl Lines {
    /// Reads the next lines in the place of those before; says whether there were any. None is longer than `longest` bytes and
    /// one more: then it has no line feed.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub(super) fn next(&mut self, file: &mut impl BufRead, longest: usize) -> io::Result<bool> {
        self.bytes.clear();
        self.ends.clear();
        while self.bytes.len() < PIECE {
            let mut bounded = file.by_ref().take(longest as u64 + 1);
            if bounded.read_until(b'\n', &mut self.bytes)? == 0 {
                break;
            }
            self.ends.push(self.bytes.len());
        }
        Ok(!self.ends.is_empty())
    }

    /// What `read` makes of each line, in their order.
    pub(super) fn read<'a, T: Send>(&'a self, read: impl Fn(&'a [u8]) -> T + Copy + Send) -> Vec<T> {
        let lines: Vec<&[u8]> = self.iter().collect();
        let workers = thread::available_parallelism().map_or(1, NonZero::get);
        let share = lines.len().div_ceil(workers).max(1);
        thread::scope(|scope| {
            let shares = lines.chunks(share);
            let workers: Vec<_> = shares
                .map(|share| scope.spawn(move || share.iter().map(|line| read(line)).collect::<Vec<T>>()))
                .collect();
            let done = workers.into_iter().map(thread::ScopedJoinHandle::join);
            done.flat_map(|done| done.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect()
        })
    }

    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts
            .zip(&self.ends)
            .map(|(start, end)| self.bytes.get(start..*end).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn pieces(file: &[u8], longest: usize) -> Vec<Vec<Vec<u8>>> {
        let (mut file, mut lines) = (file, Lines::default());
        let mut pieces = Vec::new();
        while lines.next(&mut file, longest).unwrap() {
            pieces.push(lines.read(<[u8]>::to_vec));
        }
        pieces
    }

    #[test]
    fn every_line_is_read_once_and_in_order() {
        let numbers: Vec<Vec<u8>> = (0..PIECE / 2)
            .map(|number| format!("{number}\n").into_bytes())
            .collect();
        let read = pieces(&numbers.concat(), 99);
        assert!(read.len() > 1, "more than a piece");
        assert_eq!(read.concat(), numbers);
        assert_eq!(pieces(b"", 9), Vec::<Vec<Vec<u8>>>::new());
    }

    #[test]
    fn a_line_that_is_too_long_has_no_line_feed() {
        assert_eq!(pieces(b"abc\nd", 3), [[b"abc\n".to_vec(), b"d".to_vec()]]);
        assert_eq!(pieces(b"abc\nd", 2), [[b"abc".to_vec(), b"\n".to_vec(), b"d".to_vec()]]);
    }
}
