//! The lines of a large file, a piece at a time, on every processor.

use std::io::{self, BufRead, Read as _};
use std::num::NonZero;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// The bytes at which a piece is full; the line that fills it is read whole. A processor's own cache holds that much.
const PIECE: usize = 256 << 10;

/// Some lines that stand together.
#[derive(Debug, Default)]
pub(super) struct Lines {
    bytes: Vec<u8>,
    /// Where each ends, its line feed included.
    ends: Vec<usize>,
}

impl Lines {
    /// Reads the next lines in the place of those before; says whether there were any.
    fn next(&mut self, file: &mut impl BufRead, longest: usize) -> io::Result<bool> {
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

    /// Each line, its line feed included. One that is too long has none, and its rest comes as a line of its own.
    pub(super) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts
            .zip(&self.ends)
            .map(|(start, end)| self.bytes.get(start..*end).unwrap_or_default())
    }
}

/// Has `work` done with every piece of a file, on every processor at once, and what it does in its [`Turn`] in the order of
/// the file. No line is longer than `longest` bytes and one more. Answers what the turns made of `state`.
///
/// # Errors
///
/// When the file cannot be read; within, the first error of a turn, after which there is no other.
pub(super) fn in_turns<S: Send, E: Send>(
    file: impl BufRead + Send,
    longest: usize,
    state: S,
    work: impl Fn(&Lines, Turn<'_, S, E>) + Sync,
) -> io::Result<Result<S, E>> {
    let file = Mutex::new((0, file));
    let order = Order {
        progress: Mutex::new(Progress {
            state,
            turn: 0,
            end: None,
        }),
        changed: Condvar::new(),
    };
    let worker = || {
        let mut lines = Lines::default();
        while !order.has_ended() {
            let number = {
                let mut file = lock(&file);
                match lines.next(&mut file.1, longest) {
                    Ok(true) => {}
                    Ok(false) => return,
                    Err(error) => return order.end(End::Unread(error)),
                }
                file.0 += 1;
                file.0 - 1
            };
            let turn = Turn {
                order: &order,
                number,
                is_taken: false,
            };
            work(&lines, turn);
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, NonZero::get) {
            scope.spawn(worker);
        }
    });
    let Progress { state, end, .. } = order.progress.into_inner().unwrap_or_else(PoisonError::into_inner);
    match end {
        None => Ok(Ok(state)),
        Some(End::Failed(error)) => Ok(Err(error)),
        Some(End::Unread(error)) => Err(error),
        Some(End::Abandoned) => Err(io::Error::other("some of its lines were not looked at")),
    }
}

/// What the turns share.
struct Order<S, E> {
    progress: Mutex<Progress<S, E>>,
    changed: Condvar,
}

struct Progress<S, E> {
    state: S,
    /// The number of the piece whose turn it is.
    turn: u64,
    end: Option<End<E>>,
}

/// Why no other turn comes.
enum End<E> {
    Failed(E),
    Unread(io::Error),
    /// A piece went without its turn: its work has panicked.
    Abandoned,
}

impl<S, E> Order<S, E> {
    fn has_ended(&self) -> bool {
        lock(&self.progress).end.is_some()
    }

    fn end(&self, end: End<E>) {
        lock(&self.progress).end.get_or_insert(end);
        self.changed.notify_all();
    }
}

/// The place of a piece in the order of the file.
pub(super) struct Turn<'o, S, E> {
    order: &'o Order<S, E>,
    number: u64,
    is_taken: bool,
}

impl<S, E> Turn<'_, S, E> {
    /// Waits until every piece before has had its turn, and takes this one; none, once a turn has failed.
    pub(super) fn take(mut self, change: impl FnOnce(&mut S) -> Result<(), E>) {
        let progress = lock(&self.order.progress);
        let waited = self.order.changed.wait_while(progress, |progress| {
            progress.end.is_none() && progress.turn != self.number
        });
        let mut progress = waited.unwrap_or_else(PoisonError::into_inner);
        if progress.end.is_none() {
            progress.end = change(&mut progress.state).err().map(End::Failed);
            progress.turn += 1;
        }
        self.is_taken = true;
        self.order.changed.notify_all();
    }
}

impl<S, E> Drop for Turn<'_, S, E> {
    /// Those that wait for a turn that never comes would wait for ever.
    fn drop(&mut self) {
        if !self.is_taken {
            self.order.end(End::Abandoned);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    /// What `file` is made of, by turns that fail at the line `fails`.
    fn lines(file: impl BufRead + Send, longest: usize, fails: &[u8]) -> io::Result<Result<Vec<Vec<u8>>, Vec<u8>>> {
        in_turns(file, longest, Vec::new(), |lines, turn| {
            let read: Vec<_> = lines.iter().map(<[u8]>::to_vec).collect();
            turn.take(|all| {
                for line in read {
                    if line == fails {
                        return Err(line);
                    }
                    all.push(line);
                }
                Ok(())
            });
        })
    }

    fn numbers() -> Vec<Vec<u8>> {
        (0..4 * PIECE)
            .map(|number| format!("{number}\n").into_bytes())
            .collect()
    }

    #[test]
    fn every_line_is_read_once_and_in_order() {
        let numbers = numbers();
        assert_eq!(lines(&*numbers.concat(), 99, b"").unwrap().unwrap(), numbers);
        assert_eq!(lines(&b""[..], 9, b"").unwrap().unwrap(), Vec::<Vec<u8>>::new());
    }

    #[test]
    fn a_line_that_is_too_long_has_no_line_feed() {
        let read = |longest| lines(&b"abc\nd"[..], longest, b"").unwrap().unwrap();
        assert_eq!(read(3), [b"abc\n".to_vec(), b"d".to_vec()]);
        assert_eq!(read(2), [b"abc".to_vec(), b"\n".to_vec(), b"d".to_vec()]);
    }

    #[test]
    fn after_the_first_error_there_is_no_turn() {
        for fails in [b"0\n".to_vec(), b"77777\n".to_vec()] {
            assert_eq!(lines(&*numbers().concat(), 99, &fails).unwrap(), Err(fails));
        }
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        struct Broken;
        impl io::Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("broken"))
            }
        }
        let numbers = numbers().concat();
        let file = io::BufReader::new(io::Read::chain(&*numbers, Broken));
        assert_eq!(lines(file, 99, b"").unwrap_err().to_string(), "broken");
    }

    #[test]
    fn nobody_waits_for_work_that_panics() {
        let numbers = numbers().concat();
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            in_turns(&*numbers, 99, 0, |lines, turn| {
                assert!(lines.iter().all(|line| line != b"77777\n"), "as it should");
                turn.take(|count| {
                    *count += lines.iter().count();
                    Ok::<(), ()>(())
                });
            })
        }));
        panicked.unwrap_err();
    }

    #[test]
    fn a_piece_without_its_turn_is_an_error() {
        in_turns(&b"1\n"[..], 9, (), |_, turn: Turn<'_, (), ()>| drop(turn)).unwrap_err();
    }
}
