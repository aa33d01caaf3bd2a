//! Plain reads and writes, where there is no io_uring (containers whose seccomp profile blocks
//! it): slower, one I/O at a time, and otherwise the same.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use super::inbox::Wake;
use super::{Io, IoBuffer, IoDone};
use crate::clock::now;

/// See the module docs.
pub(crate) struct Blocking {
    file: OwnedFd,
    wake: Arc<Wake>,
    todo: VecDeque<Io>,
}

impl Blocking {
    pub(crate) fn new(file: OwnedFd, wake: Arc<Wake>) -> Self {
        Self {
            file,
            wake,
            todo: VecDeque::new(),
        }
    }

    pub(crate) fn push(&mut self, io: Io) {
        self.todo.push_back(io);
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.todo.len()
    }

    pub(crate) fn wait(&mut self, timeout: Duration, done: &mut Vec<IoDone>) -> io::Result<()> {
        if self.todo.is_empty() {
            self.wake.wait(timeout)?;
        }
        self.wake.clear();
        while let Some(io) = self.todo.pop_front() {
            let submitted = now();
            let (id, buffer, result) = match io {
                Io::Read {
                    id,
                    offset,
                    mut target,
                } => {
                    let result = self.read(offset, &mut target);
                    (id, IoBuffer::Target(target), result)
                }
                Io::Write { id, offset, source } => {
                    let result = self.write(offset, &source);
                    (id, IoBuffer::Source(source), result)
                }
                Io::Flush { id } => {
                    let result = rustix::fs::fdatasync(&self.file).map_err(io::Error::from);
                    (id, IoBuffer::None, result)
                }
            };
            done.push(IoDone {
                id,
                buffer,
                result,
                submitted,
                completed: now(),
            });
        }
        Ok(())
    }

    fn read(&self, offset: u64, target: &mut crate::slab::WriteMemory) -> io::Result<()> {
        let mut at = 0;
        while at < target.len() {
            let got = rustix::io::pread(&self.file, target.piece_at(at), offset + at as u64)?;
            if got == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            at += got;
        }
        Ok(())
    }

    fn write(&self, mut offset: u64, source: &crate::slab::ReadMemory) -> io::Result<()> {
        for mut piece in source.pieces() {
            while !piece.is_empty() {
                let wrote = rustix::io::pwrite(&self.file, piece, offset)?;
                piece = &piece[wrote..];
                offset += wrote as u64;
            }
        }
        Ok(())
    }
}
