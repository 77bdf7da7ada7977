//! A TCP stream that counts its bytes, knows when it last moved, and keeps to a rate.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Duration, Instant, Sleep};

/// Bytes on the wire, all connections together, TLS and HTTP included.
#[derive(Debug, Default)]
pub struct Traffic {
    sent: AtomicU64,
    received: AtomicU64,
}

impl Traffic {
    /// Bytes sent.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Bytes received.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

/// Holds all connections together to so many bytes a second: a bucket that fills at that rate and
/// holds a tenth of a second's worth.
#[derive(Debug)]
pub(super) struct Pace {
    bytes_per_second: u64,
    bucket: Mutex<Bucket>,
}

#[derive(Debug)]
struct Bucket {
    bytes: u64,
    filled: Instant,
}

impl Pace {
    pub fn new(bytes_per_second: u64) -> Self {
        let bytes_per_second = bytes_per_second.max(1024);
        let bucket = Bucket {
            bytes: 0,
            filled: Instant::now(),
        };
        Self {
            bytes_per_second,
            bucket: Mutex::new(bucket),
        }
    }

    fn most(&self) -> u64 {
        (self.bytes_per_second / 10).max(1)
    }

    /// Take up to `wanted` bytes out of the bucket, or say when there will be some.
    fn take(&self, wanted: usize, now: Instant) -> Result<usize, Instant> {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = now.saturating_duration_since(bucket.filled);
        let added = passed.as_micros().min(1_000_000) as u64 * self.bytes_per_second / 1_000_000;
        if added > 0 {
            bucket.bytes = bucket.bytes.saturating_add(added).min(self.most());
            bucket.filled = now;
        }
        if bucket.bytes == 0 {
            return Err(now + Duration::from_millis(10));
        }
        let taken = bucket.bytes.min(wanted as u64);
        bucket.bytes -= taken;
        Ok(taken as usize)
    }

    fn give_back(&self, bytes: usize) {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        bucket.bytes = bucket.bytes.saturating_add(bytes as u64);
    }
}

/// When a connection last sent or received anything.
#[derive(Debug, Clone)]
pub(super) struct Activity(Arc<Mutex<Instant>>);

impl Activity {
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }

    pub fn mark(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    pub fn last(&self) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The stream itself.
pub(super) struct Metered {
    pub tcp: TcpStream,
    pub traffic: Arc<Traffic>,
    pub pace: Option<Arc<Pace>>,
    pub activity: Activity,
    pub pause: Option<Pin<Box<Sleep>>>,
}

impl Metered {
    /// How many of `wanted` bytes may be sent now.
    fn poll_allowed(&mut self, context: &mut Context<'_>, wanted: usize) -> Poll<usize> {
        let Some(pace) = &self.pace else {
            return Poll::Ready(wanted);
        };
        loop {
            if let Some(pause) = &mut self.pause {
                std::task::ready!(pause.as_mut().poll(context));
                self.pause = None;
            }
            match pace.take(wanted, Instant::now()) {
                Ok(allowed) => return Poll::Ready(allowed),
                Err(until) => self.pause = Some(Box::pin(tokio::time::sleep_until(until))),
            }
        }
    }

    fn count_sent(&self, allowed: usize, outcome: &Poll<io::Result<usize>>) {
        let sent = match outcome {
            Poll::Ready(Ok(sent)) => *sent,
            _ => 0,
        };
        if sent > 0 {
            self.activity.mark();
            self.traffic.sent.fetch_add(sent as u64, Ordering::Relaxed);
        }
        if let Some(pace) = &self.pace {
            pace.give_back(allowed.saturating_sub(sent));
        }
    }
}

impl AsyncRead for Metered {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let outcome = Pin::new(&mut this.tcp).poll_read(context, buf);
        let received = buf.filled().len().saturating_sub(before) as u64;
        if received > 0 {
            this.activity.mark();
            let counter = &this.traffic.received;
            counter.fetch_add(received, Ordering::Relaxed);
        }
        outcome
    }
}

impl AsyncWrite for Metered {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let allowed = std::task::ready!(this.poll_allowed(context, buf.len())).min(buf.len());
        let part = buf.get(..allowed).unwrap_or(buf);
        let outcome = Pin::new(&mut this.tcp).poll_write(context, part);
        this.count_sent(allowed, &outcome);
        outcome
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.pace.is_some() {
            // A rate allows some bytes only: the first piece, or a part of it.
            let first = bufs.iter().find(|buf| !buf.is_empty());
            return self.poll_write(context, first.map_or(&[], |buf| buf));
        }
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.tcp).poll_write_vectored(context, bufs);
        this.count_sent(0, &outcome);
        outcome
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bucket_keeps_the_rate() {
        let pace = Pace::new(1_000_000);
        let mut now = Instant::now();
        let mut taken = 0;
        for _ in 0..1000 {
            now += Duration::from_millis(2);
            taken += pace.take(usize::MAX, now).unwrap_or(0);
        }
        assert!((1_990_000..=2_010_000).contains(&taken), "{taken}");
        // An idle minute does not save up more than a tenth of a second.
        let burst = pace
            .take(usize::MAX, now + Duration::from_secs(60))
            .unwrap();
        assert_eq!(burst, 100_000);
        assert!(pace.take(1, now + Duration::from_secs(60)).is_err());
        pace.give_back(7);
        assert_eq!(pace.take(100, now + Duration::from_secs(60)), Ok(7));
    }
}
