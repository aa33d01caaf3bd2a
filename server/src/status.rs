//! The table that turns what can go wrong in the engine and in dispatch into codes of the wire. The only one.
//!
//! Each `match` names every variant, so that a new error doesn't compile until it has a code, and each row is pinned by a
//! test. What a client can act on survives (busy, too large, no space); what it can't is `Io` or `Internal`, and the log
//! has the rest.

use memkv_engine::{DeleteError, GetError, PutError};
use memkv_proto::op::{ErrorCode, Outcome};
use memkv_telemetry::RejectReason;

/// What a client is told to wait, in µs, where the engine has no better idea.
pub(crate) const RETRY_AFTER_US: u32 = 10_000;

/// A failure as the wire has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Failure {
    /// What is answered.
    pub(crate) code: ErrorCode,
    /// When to try again, in µs; 0 unless the code is `Busy`.
    pub(crate) retry_after_us: u32,
}

impl Failure {
    /// Overload, with when to try again.
    pub(crate) const fn busy(retry_after_us: u32) -> Self {
        Self {
            code: ErrorCode::Busy,
            retry_after_us,
        }
    }

    /// A code that needs no more words.
    pub(crate) const fn plain(code: ErrorCode) -> Self {
        Self {
            code,
            retry_after_us: 0,
        }
    }

    /// The outcome of the entry that failed so.
    pub(crate) const fn outcome(self) -> Outcome {
        Outcome::Error(self.code)
    }
}

impl From<&PutError> for Failure {
    fn from(error: &PutError) -> Self {
        match error {
            PutError::Busy { retry_after_us } => Self::busy(*retry_after_us),
            PutError::TooLarge { .. } => Self::plain(ErrorCode::TooLarge),
            PutError::BadKey { .. } => Self::plain(ErrorCode::BadKey),
            PutError::NoSpace { .. } => Self::plain(ErrorCode::NoSpace),
            PutError::DriveFull { .. } => Self::plain(ErrorCode::NoSpace),
            PutError::ConditionFailed { .. } => Self::plain(ErrorCode::ConditionFailed),
            PutError::Io { .. } => Self::plain(ErrorCode::Io),
            PutError::NoDrive => Self::plain(ErrorCode::Io),
            PutError::Draining => Self::plain(ErrorCode::Draining),
        }
    }
}

impl From<&GetError> for Failure {
    fn from(error: &GetError) -> Self {
        match error {
            GetError::Busy { retry_after_us } => Self::busy(*retry_after_us),
            GetError::BadKey { .. } => Self::plain(ErrorCode::BadKey),
            GetError::Corrupt { .. } => Self::plain(ErrorCode::Corrupt),
            // A value that went away while it was streamed: half of it is no value, and a retry will tell.
            GetError::Gone => Self::busy(0),
            GetError::Io { .. } => Self::plain(ErrorCode::Io),
            GetError::Draining => Self::plain(ErrorCode::Draining),
        }
    }
}

impl From<&DeleteError> for Failure {
    fn from(error: &DeleteError) -> Self {
        match error {
            DeleteError::Busy { retry_after_us } => Self::busy(*retry_after_us),
            DeleteError::BadKey { .. } => Self::plain(ErrorCode::BadKey),
            DeleteError::DriveFull { .. } => Self::plain(ErrorCode::NoSpace),
            DeleteError::Io { .. } => Self::plain(ErrorCode::Io),
            DeleteError::Draining => Self::plain(ErrorCode::Draining),
        }
    }
}

/// Under which reason a failure counts as work that was refused or dropped, if it does.
pub(crate) fn reject_reason(code: ErrorCode) -> Option<RejectReason> {
    Some(match code {
        ErrorCode::Busy => RejectReason::Busy,
        ErrorCode::DeadlineExceeded => RejectReason::Deadline,
        ErrorCode::Draining => RejectReason::Draining,
        ErrorCode::TooLarge => RejectReason::TooLarge,
        ErrorCode::NoSpace => RejectReason::NoSpace,
        ErrorCode::Cancelled => RejectReason::Cancelled,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_of_an_op_counts_for_a_reason_of_its_name() {
        for reason in RejectReason::ALL {
            let codes = ErrorCode::ALL.iter().copied();
            let codes: Vec<ErrorCode> = codes
                .filter(|code| reject_reason(*code) == Some(*reason))
                .collect();
            match reason {
                // Its connection was refused, and it was never sent.
                RejectReason::Connections => assert_eq!(codes, []),
                RejectReason::Deadline => assert_eq!(codes, [ErrorCode::DeadlineExceeded]),
                _ => {
                    let names: Vec<&str> = codes.iter().map(|code| code.name()).collect();
                    assert_eq!(names, [reason.name()]);
                }
            }
        }
    }
    use memkv_engine::DriveIdx;
    use std::io;

    fn check(errors: impl IntoIterator<Item = (Failure, ErrorCode, u32)>) {
        for (failure, code, retry_after_us) in errors {
            assert_eq!(
                failure,
                Failure {
                    code,
                    retry_after_us
                }
            );
        }
    }

    #[test]
    fn every_put_error_has_its_code() {
        let io = || PutError::Io {
            drive: DriveIdx(0),
            source: io::Error::other("x"),
        };
        let full = || PutError::DriveFull {
            drive: DriveIdx(0),
            source: io::ErrorKind::StorageFull.into(),
        };
        check([
            ((&full()).into(), ErrorCode::NoSpace, 0),
            (
                (&PutError::Busy { retry_after_us: 7 }).into(),
                ErrorCode::Busy,
                7,
            ),
            (
                (&PutError::TooLarge {
                    len: 2,
                    bound: 1,
                    limit: "x",
                })
                    .into(),
                ErrorCode::TooLarge,
                0,
            ),
            (
                (&PutError::BadKey { len: 0, bound: 1 }).into(),
                ErrorCode::BadKey,
                0,
            ),
            (
                (&PutError::NoSpace {
                    used: 1,
                    capacity: 1,
                })
                    .into(),
                ErrorCode::NoSpace,
                0,
            ),
            (
                (&PutError::ConditionFailed { current: None }).into(),
                ErrorCode::ConditionFailed,
                0,
            ),
            ((&io()).into(), ErrorCode::Io, 0),
            ((&PutError::NoDrive).into(), ErrorCode::Io, 0),
            ((&PutError::Draining).into(), ErrorCode::Draining, 0),
        ]);
    }

    #[test]
    fn every_get_error_has_its_code() {
        let io = || GetError::Io {
            drive: DriveIdx(0),
            source: io::Error::other("x"),
        };
        let corrupt = || GetError::Corrupt {
            drive: DriveIdx(0),
            what: "x",
        };
        check([
            (
                (&GetError::Busy { retry_after_us: 9 }).into(),
                ErrorCode::Busy,
                9,
            ),
            (
                (&GetError::BadKey { len: 0, bound: 1 }).into(),
                ErrorCode::BadKey,
                0,
            ),
            ((&corrupt()).into(), ErrorCode::Corrupt, 0),
            ((&GetError::Gone).into(), ErrorCode::Busy, 0),
            ((&io()).into(), ErrorCode::Io, 0),
            ((&GetError::Draining).into(), ErrorCode::Draining, 0),
        ]);
    }

    #[test]
    fn every_delete_error_has_its_code() {
        let io = || DeleteError::Io {
            drive: DriveIdx(0),
            source: io::Error::other("x"),
        };
        let full = || DeleteError::DriveFull {
            drive: DriveIdx(0),
            source: io::ErrorKind::StorageFull.into(),
        };
        check([
            ((&full()).into(), ErrorCode::NoSpace, 0),
            (
                (&DeleteError::Busy { retry_after_us: 3 }).into(),
                ErrorCode::Busy,
                3,
            ),
            (
                (&DeleteError::BadKey { len: 0, bound: 1 }).into(),
                ErrorCode::BadKey,
                0,
            ),
            ((&io()).into(), ErrorCode::Io, 0),
            ((&DeleteError::Draining).into(), ErrorCode::Draining, 0),
        ]);
    }
}
