//! Values that exceed a quarter of the pool, window by window.

use crate::api::{Step, Token};
use crate::error::GetError;
use crate::lease::ReadLease;
use crate::queue::CompletionSender;

/// The parts of a value that were written out so far.
#[derive(Debug)]
pub(crate) enum WriteStream {}

/// Where the rest of a value is read from.
#[derive(Debug)]
pub(crate) enum ReadStream {}

impl ReadStream {
    pub(crate) fn advance(
        self: Box<Self>,
        _offset: u64,
        _sender: CompletionSender,
        _token: Token,
    ) -> Result<Step<ReadLease>, GetError> {
        match *self {}
    }
}
