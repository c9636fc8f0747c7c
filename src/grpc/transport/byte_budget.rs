//! The memory budget of all calls: requests being received, reads in progress, and unread
//! responses. Bytes are acquired before the memory is allocated, and released when it is freed.
//!
//! Responses and reads may use seven sixteenths of the budget, large requests three eighths, and
//! responses to writes one sixteenth. So clients that do not read responses do not block appends,
//! and clients that stall in a large request block nothing else. Unread responses to writes block
//! only those who write without reading: see [`CallBytes::try_resize_within_half`].

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tonic::Status;

use crate::{
    error::Limit,
    grpc::status,
    shared_limit::{Caller, LimitReached, Resource, SharedLimit},
};

/// A request of up to this size counts as small.
pub const SMALL_BYTES: u64 = 16 * 1024;

/// The budget. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ByteBudget(Arc<BudgetParts>);

#[derive(Debug)]
struct BudgetParts {
    all: SharedLimit,
    large_requests: SharedLimit,
    answers: SharedLimit,
    write_answers: SharedLimit,
}

/// What a call needs bytes for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A request, until its call ends or counts as a waiting write.
    Request,
    /// A read, and the response that it produces.
    Answer,
    /// The response to a write. It is reserved before the write begins, because it must not be
    /// withheld afterwards.
    WriteAnswer,
}

impl Purpose {
    /// Returns how many of the bytes of a call count against the part for this purpose.
    fn counted_in_part(self, bytes: u64) -> u64 {
        match self {
            Self::Request if bytes <= SMALL_BYTES => 0,
            Self::Request | Self::Answer | Self::WriteAnswer => bytes,
        }
    }
}

impl BudgetParts {
    fn of(&self, purpose: Purpose) -> &SharedLimit {
        match purpose {
            Purpose::Request => &self.large_requests,
            Purpose::Answer => &self.answers,
            Purpose::WriteAnswer => &self.write_answers,
        }
    }
}

impl ByteBudget {
    /// Creates a budget of `bytes_max` bytes for all purposes together.
    pub fn new(bytes_max: usize) -> Self {
        let max = bytes_max as u64;
        // Less than the whole together: the rest is left for small requests, whatever else is in
        // use.
        let part = |resource, parts| SharedLimit::part(Limit::CallBytes, resource, max / 16 * parts, max);
        Self(Arc::new(BudgetParts {
            all: SharedLimit::new(Limit::CallBytes, Resource::Bytes, max),
            large_requests: part(Resource::RequestBytes, 6),
            answers: part(Resource::AnswerBytes, 7),
            write_answers: part(Resource::WriteAnswerBytes, 1),
        }))
    }

    /// Returns the maximum of all responses and reads in progress together.
    pub fn answers_max(&self) -> u64 {
        self.0.answers.max()
    }

    /// Returns whether more than half of the part for responses to writes is in use.
    pub fn write_answers_are_short(&self) -> bool {
        self.0.write_answers.is_short()
    }

    /// Returns the bytes of one call for one purpose. Initially, it holds none.
    pub fn of_call(&self, caller: &Caller, purpose: Purpose) -> CallBytes {
        let (parts, caller) = (self.0.clone(), caller.clone());
        CallBytes(Arc::new(Mutex::new(Allotment { parts, caller, purpose, bytes: 0, in_part: 0 })))
    }

    #[cfg(test)]
    pub(crate) fn used(&self) -> u64 {
        self.0.all.used()
    }
}

/// The bytes that one call holds. Clones share the same bytes, which are released with the last
/// clone.
#[derive(Debug, Clone)]
pub struct CallBytes(Arc<Mutex<Allotment>>);

/// Bytes that are released on drop.
#[derive(Debug)]
struct Allotment {
    parts: Arc<BudgetParts>,
    caller: Caller,
    purpose: Purpose,
    bytes: u64,
    /// How many of `bytes` count against the part for this purpose.
    in_part: u64,
}

impl Allotment {
    fn resize(&mut self, bytes: u64) -> Result<(), LimitReached> {
        let (part, before) = (self.parts.of(self.purpose), self.in_part);
        part.resize(&self.caller, &mut self.in_part, self.purpose.counted_in_part(bytes))?;
        let resized = self.parts.all.resize(&self.caller, &mut self.bytes, bytes);
        if resized.is_err() {
            part.force(&self.caller, &mut self.in_part, before);
        }
        resized
    }

    fn force(&mut self, bytes: u64) {
        let part = self.parts.of(self.purpose);
        part.force(&self.caller, &mut self.in_part, self.purpose.counted_in_part(bytes));
        self.parts.all.force(&self.caller, &mut self.bytes, bytes);
    }

    /// Moves all bytes except `left` to a new allotment.
    fn take_but(&mut self, left: u64) -> Self {
        let left = left.min(self.bytes);
        let left_in_part = self.purpose.counted_in_part(left).min(self.in_part);
        let bytes = std::mem::replace(&mut self.bytes, left).saturating_sub(left);
        let in_part = std::mem::replace(&mut self.in_part, left_in_part).saturating_sub(left_in_part);
        let (parts, caller, purpose) = (self.parts.clone(), self.caller.clone(), self.purpose);
        Self { parts, caller, purpose, bytes, in_part }
    }
}

impl Drop for Allotment {
    fn drop(&mut self) {
        self.force(0);
    }
}

impl CallBytes {
    fn allotment(&self) -> MutexGuard<'_, Allotment> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the amount to `bytes`.
    ///
    /// # Errors
    /// Returns an error if the budget is exhausted, or if the client has used up its share.
    pub fn resize(&self, bytes: usize) -> Result<(), Status> {
        self.try_resize(bytes).map_err(status::of_limit)
    }

    /// Like [`CallBytes::resize`], for callers that wait or take another way if the bytes are not
    /// available. The failure is not recorded as a rejection.
    ///
    /// # Errors
    /// See [`CallBytes::resize`].
    pub fn try_resize(&self, bytes: usize) -> Result<(), LimitReached> {
        self.allotment().resize(bytes as u64)
    }

    /// Like [`CallBytes::try_resize`], for a client that does not read: once half of the part is in
    /// use, the rest is left to other clients.
    ///
    /// # Errors
    /// See [`CallBytes::resize`]. Also returns an error if more than half of the part would be in
    /// use.
    pub fn try_resize_within_half(&self, bytes: usize) -> Result<(), LimitReached> {
        let mut allotment = self.allotment();
        let (part, in_part) =
            (allotment.parts.of(allotment.purpose), allotment.purpose.counted_in_part(bytes as u64));
        match part.short_with(allotment.in_part, in_part) {
            Some(short) => Err(short),
            None => allotment.resize(bytes as u64),
        }
    }

    /// Changes the amount to `bytes`, even beyond the limit. Used for health checks, for responses
    /// that were reserved before, and to release bytes.
    pub fn force(&self, bytes: usize) {
        self.allotment().force(bytes as u64);
    }

    /// Ties the bytes to a piece of memory. They are held until the last part of the piece is
    /// dropped, wherever that happens.
    pub fn tie(&self, piece: Bytes) -> Bytes {
        self.tie_and_leave(piece, 0)
    }

    /// Like [`CallBytes::tie`], but leaves `left` of the bytes for another piece.
    pub fn tie_and_leave(&self, piece: Bytes, left: usize) -> Bytes {
        let held = self.allotment().take_but(left as u64);
        Bytes::from_owner(Tied { piece, _held: held })
    }
}

struct Tied {
    piece: Bytes,
    _held: Allotment,
}

impl AsRef<[u8]> for Tied {
    fn as_ref(&self) -> &[u8] {
        &self.piece
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LimitsConfig;

    #[test]
    fn reads_and_large_requests_leave_room_for_each_other_and_for_small_requests() {
        const MAX: usize = 800_000;
        for (greedy, parts, others) in [
            (Purpose::Answer, 7, [Purpose::Request, Purpose::WriteAnswer]),
            (Purpose::Request, 6, [Purpose::Answer, Purpose::WriteAnswer]),
            (Purpose::WriteAnswer, 1, [Purpose::Answer, Purpose::Request]),
        ] {
            let budget = ByteBudget::new(MAX);
            let call = |purpose| budget.of_call(&Caller::default(), purpose);
            let held = [call(greedy), call(greedy)];
            held[0].resize(MAX / 32 * parts).unwrap();
            held[1].resize(MAX / 32 * parts).unwrap();
            let refused = call(greedy).resize(20_000).unwrap_err();
            assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
            assert!(refused.message().contains("limits.call_bytes_max"), "{refused:?}");
            for other in others {
                call(other).resize(MAX / 32).unwrap();
            }
            call(Purpose::Request).resize(SMALL_BYTES as usize).unwrap();
            drop(held);
            let BudgetParts { all, answers, large_requests, write_answers } = &*budget.0;
            assert_eq!([all, answers, large_requests, write_answers].map(SharedLimit::used), [0; 4]);
        }
    }

    #[test]
    fn the_first_byte_of_an_answer_to_a_write_counts_among_them() {
        let budget = ByteBudget::new(1_600_000);
        let held = budget.of_call(&Caller::default(), Purpose::WriteAnswer);
        held.resize(100).unwrap();
        assert_eq!(budget.0.write_answers.used(), 100);
    }

    #[test]
    fn who_does_not_read_has_half_of_the_answers_to_writes_and_who_reads_has_all() {
        let budget = ByteBudget::new(1_600_000);
        let (unread, read) = (Caller::default(), Caller::default());
        let of = |caller| budget.of_call(caller, Purpose::WriteAnswer);
        let held = [of(&unread), of(&unread)];
        held[0].try_resize_within_half(50_000).unwrap();
        assert!(!budget.write_answers_are_short());
        held[1].try_resize_within_half(1).unwrap_err();
        let more = of(&read);
        more.try_resize(50_000).unwrap();
        assert!(budget.write_answers_are_short());
    }

    #[test]
    fn one_caller_does_not_take_what_reads_may_use() {
        const MAX: usize = 800_000;
        let (budget, greedy) = (ByteBudget::new(MAX), Caller::default());
        let mut held = Vec::new();
        let refused = loop {
            let one = budget.of_call(&greedy, Purpose::Answer);
            match one.resize(10_000) {
                Ok(()) => held.push(one),
                Err(refused) => break refused,
            }
        };
        assert!(refused.message().contains("share"), "{refused:?}");
        budget.of_call(&Caller::default(), Purpose::Answer).resize(70_000).unwrap();
    }

    #[test]
    fn the_smallest_budget_that_may_be_configured_takes_the_largest_request() {
        // For one event in each of 500 aggregates with long ids, and for as many commands.
        const LARGEST_ANSWER: usize = 2 * 500 * 600;
        let limits = LimitsConfig::default();
        let small = LimitsConfig { append_bytes_max: 5 << 20, ..limits.clone() };
        assert!(small.call_bytes_min() <= 64 << 20);
        for (limits, bytes_max) in [(limits.clone(), limits.call_bytes_min()), (small, 64 << 20)] {
            let (budget, caller) = (ByteBudget::new(bytes_max), Caller::default());
            let (request, answer) =
                (budget.of_call(&caller, Purpose::Request), budget.of_call(&caller, Purpose::WriteAnswer));
            request.resize(limits.largest_request_in_memory()).unwrap();
            answer.resize(LARGEST_ANSWER).unwrap();
        }
        let less = ByteBudget::new(limits.call_bytes_min() / 10 * 9);
        let request = less.of_call(&Caller::default(), Purpose::Request);
        request.resize(limits.largest_request_in_memory()).unwrap_err();
    }

    #[test]
    fn what_is_tied_and_what_is_left_count_where_they_did() {
        let resources =
            [Resource::Bytes, Resource::AnswerBytes, Resource::RequestBytes, Resource::WriteAnswerBytes];
        for (purpose, part) in [(Purpose::Answer, 1), (Purpose::Request, 2), (Purpose::WriteAnswer, 3)] {
            for (left, piece_first) in
                [0, 10_000, 17_000, 30_000].into_iter().flat_map(|left| [(left, true), (left, false)])
            {
                let (budget, caller) = (ByteBudget::new(1_600_000), Caller::default());
                let used = || {
                    let BudgetParts { all, answers, large_requests, write_answers } = &*budget.0;
                    [all, answers, large_requests, write_answers].map(SharedLimit::used)
                };
                let call = budget.of_call(&caller, purpose);
                call.resize(20_000).unwrap();
                let held = used();
                let piece = call.tie_and_leave(Bytes::from_static(&[7; 20_000]), left);
                assert_eq!(used(), held);
                if piece_first {
                    drop(piece);
                    let left = left.min(20_000) as u64;
                    let mut expected = [left, 0, 0, 0];
                    expected[part] =
                        if purpose == Purpose::Request && left <= SMALL_BYTES { 0 } else { left };
                    assert_eq!(used(), expected, "{purpose:?}, {left} left");
                    drop(call);
                } else {
                    drop(call);
                    drop(piece);
                }
                assert_eq!(used(), [0; 4]);
                assert!(resources.iter().all(|resource| !caller.holds(*resource)));
            }
        }
    }

    #[test]
    fn bytes_that_the_whole_refuses_are_none_of_the_part() {
        let budget = ByteBudget::new(160_000);
        let callers = [Caller::default(), Caller::default()];
        let small = |caller| budget.of_call(caller, Purpose::Request);
        let held: Vec<_> = callers.iter().flat_map(|caller| [(); 5].map(|()| small(caller))).collect();
        held.iter().for_each(|one| one.resize(16_000).unwrap());
        let answer = budget.of_call(&Caller::default(), Purpose::Answer);
        answer.resize(1000).unwrap_err();
        assert_eq!((budget.0.answers.used(), budget.used()), (0, 160_000));
        drop(held);
        answer.resize(1000).unwrap();
    }

    #[test]
    fn tied_bytes_are_held_until_the_last_part_is_dropped() {
        let budget = ByteBudget::new(1 << 20);
        let call = budget.of_call(&Caller::default(), Purpose::Answer);
        call.resize(40_000).unwrap();
        let mut piece = call.tie(Bytes::from(vec![7; 40_000]));
        drop(call);
        let part = piece.split_to(100);
        drop(piece);
        assert_eq!((budget.used(), &part[..]), (40_000, &[7; 100][..]));
        drop(part);
        assert_eq!(budget.used(), 0);
    }
}
