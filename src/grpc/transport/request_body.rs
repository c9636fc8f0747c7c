//! Counts the bytes of a request while it is being received, decompresses it, and limits how long
//! it may take to arrive.
//!
//! tonic collects a whole message before it calls the service. Without this, many clients that each
//! send most of a large message could hold uncounted memory for as long as they like.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use tokio::time::{Instant, Sleep};
use tonic::{Status, body::Body};

use super::{
    byte_budget::CallBytes,
    compression::{DecompressStep, Decompressor},
};
use crate::grpc::status;

/// A health check of up to this size is never rejected. It contains the name of a service.
const HEALTH_BYTES_MAX: usize = 512;

/// A request that is being received.
pub(super) struct RequestBody {
    body: Body,
    received: usize,
    bytes: CallBytes,
    /// A health check, which is never rejected because of its bytes while it is small.
    forced: bool,
    arrival: ArrivalTimer,
    unpacking: Option<Decompressor>,
}

impl RequestBody {
    /// Receives `body`, and counts it in `bytes`. `forced` is true for a health check.
    pub(super) fn new(
        body: Body,
        bytes: CallBytes,
        forced: bool,
        arrival: ArrivalTimer,
        unpacking: Option<Decompressor>,
    ) -> Self {
        Self { body, received: 0, bytes, forced, arrival, unpacking }
    }

    fn count(&self) -> Result<(), Status> {
        if self.forced && self.received <= HEALTH_BYTES_MAX {
            self.bytes.force(self.received)
        } else {
            self.bytes.resize(self.received)?
        }
        Ok(())
    }

    /// Returns the next frame as received.
    fn poll_received(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
            return self.arrival.poll_over(cx).map(|()| Some(Err(self.arrival.too_late())));
        };
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            self.received = self.received.saturating_add(data.len());
            // A compressed request is counted when it is decompressed, because only then is its
            // size known.
            if self.unpacking.is_none() {
                self.count()?;
            }
        }
        Poll::Ready(frame)
    }
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        loop {
            let Some(unpacking) = &mut this.unpacking else { return this.poll_received(cx) };
            match unpacking.step(this.received, &this.bytes)? {
                DecompressStep::Message(message) => return Poll::Ready(Some(Ok(Frame::data(message)))),
                DecompressStep::GoOn => {
                    // Let other tasks on this thread run first.
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                DecompressStep::Wait => {}
            }
            match ready!(this.poll_received(cx)).transpose()?.map(Frame::into_data) {
                Some(Ok(data)) => {
                    let Some(unpacking) = &mut this.unpacking else { continue };
                    unpacking.receive(&data);
                    this.count()?;
                }
                Some(Err(trailers)) => return Poll::Ready(Some(Ok(trailers))),
                None => {
                    let rest =
                        this.unpacking.take().map(|mut unpacking| unpacking.rest()).unwrap_or_default();
                    let rest = (!rest.is_empty()).then(|| Ok(Frame::data(rest)));
                    return Poll::Ready(rest);
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.unpacking.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.unpacking.is_none() { self.body.size_hint() } else { SizeHint::default() }
    }
}

/// How long a request may take to arrive.
pub(super) struct ArrivalTimer {
    until: Instant,
    /// Whether the client's deadline comes before the end of `server.request_max`.
    deadline_first: bool,
    /// Created only if the request has to be waited for.
    alarm: Option<Pin<Box<Sleep>>>,
}

impl ArrivalTimer {
    /// Begins to wait for a request. `deadline` is when its client's deadline expires.
    pub(super) fn new(request_max: Duration, deadline: Option<Instant>) -> Self {
        let until = Instant::now() + request_max;
        Self {
            until: deadline.map_or(until, |deadline| deadline.min(until)),
            deadline_first: deadline.is_some_and(|deadline| deadline < until),
            alarm: None,
        }
    }

    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let until = self.until;
        self.alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until))).as_mut().poll(cx)
    }

    fn too_late(&self) -> Status {
        if self.deadline_first { status::deadline_exceeded() } else { status::request_too_slow() }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Full};

    use super::*;
    use crate::{
        grpc::transport::byte_budget::{ByteBudget, Purpose},
        shared_limit::Caller,
    };

    fn request_body(bytes: &[u8], held: CallBytes, forced: bool) -> RequestBody {
        let body = Body::new(Full::new(Bytes::copy_from_slice(bytes)).map_err(|never| match never {}));
        let arrival = ArrivalTimer::new(Duration::from_secs(60), None);
        RequestBody::new(body, held, forced, arrival, None)
    }

    #[tokio::test]
    async fn every_byte_of_a_request_counts_while_it_arrives() {
        let budget = ByteBudget::new(1 << 20);
        let held = budget.of_call(&Caller::default(), Purpose::Request);
        let mut body = request_body(&[7; 10_000], held.clone(), false);
        body.frame().await.unwrap().unwrap();
        assert_eq!(budget.used(), 10_000);
        drop(body);
        // The values decoded from the request are still in memory.
        assert_eq!(budget.used(), 10_000);
        drop(held);
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test]
    async fn a_health_check_is_not_refused_for_its_bytes_while_it_is_small() {
        let budget = ByteBudget::new(0);
        let received = async |size: usize, health| {
            let held = budget.of_call(&Caller::default(), Purpose::Request);
            let mut body = request_body(&vec![7; size], held, health);
            body.frame().await.unwrap().is_ok()
        };
        assert!(received(30, true).await);
        assert!(!received(30, false).await);
        assert!(!received(HEALTH_BYTES_MAX + 1, true).await);
    }
}
