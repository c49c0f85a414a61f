//! The bounded queue between the thread that makes spans and the one that exports.
//!
//! Bounded by spans and by the text that they hold, not by batches. When it is full the newest spans are dropped:
//! those that wait belong to traces that are already half there, and dropping
//! at the entrance costs the least.

use crate::metrics::{Metric, Metrics};
use crate::span::Span;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;

/// The bounds of a queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueueLimits {
    /// Spans.
    pub(crate) spans: usize,
    /// Bytes of what they keep of request heads, which is up to some kilobytes each.
    pub(crate) text: usize,
}

/// Makes a queue that holds no more than its limits.
pub(crate) fn queue(limits: QueueLimits, metrics: Arc<Metrics>) -> (SpanSink, SpanSource) {
    // Unbounded in batches, each of which holds at least one of the bounded spans.
    let (sender, receiver) = unbounded_channel();
    let (alive, ended) = watch::channel(());
    let waiting = Arc::new(Waiting::default());
    let sink = SpanSink { sender, _alive: alive, waiting: Arc::clone(&waiting), limits, metrics };
    (sink, SpanSource { receiver, ended, waiting })
}

/// What is in a queue.
#[derive(Debug, Default)]
struct Waiting {
    spans: AtomicUsize,
    text: AtomicUsize,
}

impl Waiting {
    fn add(&self, spans: &[Span]) {
        self.spans.fetch_add(spans.len(), Ordering::Relaxed);
        self.text.fetch_add(text_of(spans), Ordering::Relaxed);
    }

    fn remove(&self, spans: &[Span]) {
        self.spans.fetch_sub(spans.len(), Ordering::Relaxed);
        self.text.fetch_sub(text_of(spans), Ordering::Relaxed);
    }
}

fn text_of(spans: &[Span]) -> usize {
    spans.iter().map(|span| span.request.text.len()).sum()
}

/// The entrance. Dropping it ends the queue.
#[derive(Debug)]
pub(crate) struct SpanSink {
    sender: UnboundedSender<Vec<Span>>,
    /// Dropped with the entrance, which is how the exit hears of it.
    _alive: watch::Sender<()>,
    waiting: Arc<Waiting>,
    limits: QueueLimits,
    metrics: Arc<Metrics>,
}

impl SpanSink {
    /// Puts spans in the queue, or drops and counts those for which there is no
    /// room. Never blocks.
    pub(crate) fn push(&self, mut spans: Vec<Span>) {
        // One thread pushes, so the room cannot shrink in between.
        let room = self.room_for(&spans);
        if spans.len() > room {
            self.metrics.add(Metric::DropQueueFull, (spans.len() - room) as u64);
            spans.truncate(room);
        }
        if spans.is_empty() {
            return;
        }
        self.waiting.add(&spans);
        if let Err(refused) = self.sender.send(spans) {
            // The exporter is gone, which happens only when everything ends.
            self.metrics.add(Metric::DropShutdown, refused.0.len() as u64);
        }
    }

    /// How many of the spans, from the first on, the queue can take.
    fn room_for(&self, spans: &[Span]) -> usize {
        let room = self.limits.spans.saturating_sub(self.waiting.spans.load(Ordering::Relaxed));
        let mut text = self.limits.text.saturating_sub(self.waiting.text.load(Ordering::Relaxed));
        let fits = |span: &&Span| match text.checked_sub(span.request.text.len()) {
            Some(left) => {
                text = left;
                true
            }
            None => false,
        };
        spans.iter().take(room).take_while(fits).count()
    }
}

/// The exit.
#[derive(Debug)]
pub(crate) struct SpanSource {
    receiver: UnboundedReceiver<Vec<Span>>,
    ended: watch::Receiver<()>,
    waiting: Arc<Waiting>,
}

impl SpanSource {
    /// The next spans; `None` when the queue has ended and is empty. May be
    /// cancelled at any time without losing any.
    pub(crate) async fn recv(&mut self) -> Option<Vec<Span>> {
        let spans = self.receiver.recv().await?;
        self.waiting.remove(&spans);
        Some(spans)
    }

    /// Completes when the entrance is gone, though spans may still wait.
    pub(crate) fn ended(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut ended = self.ended.clone();
        // Nothing is ever sent; the error is the signal.
        async move { while ended.changed().await.is_ok() {} }
    }

    /// Takes out all that waits, and returns how many spans it was.
    pub(crate) fn discard(&mut self) -> u64 {
        let mut discarded = 0;
        while let Ok(spans) = self.receiver.try_recv() {
            self.waiting.remove(&spans);
            discarded += spans.len() as u64;
        }
        discarded
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::resolve::Resource;
    use crate::span::tests::example;

    /// Limits for tests that are not about text.
    pub(crate) fn spans_alone(spans: usize) -> QueueLimits {
        QueueLimits { spans, text: usize::MAX }
    }

    fn spans(count: usize) -> Vec<Span> {
        vec![example(Arc::new(Resource::unknown())); count]
    }

    #[test]
    fn a_full_queue_drops_the_newest_and_counts_them() {
        let metrics = Arc::new(Metrics::default());
        let (sink, mut source) = queue(spans_alone(10), Arc::clone(&metrics));
        sink.push(spans(7));
        sink.push(spans(7));
        sink.push(spans(7));
        assert_eq!(metrics.get(Metric::DropQueueFull), 4 + 7);
        assert_eq!(source.discard(), 10);
        sink.push(spans(7));
        assert_eq!(metrics.get(Metric::DropQueueFull), 4 + 7);
    }

    #[test]
    fn a_queue_full_of_long_heads_drops_the_newest_and_counts_them() {
        let metrics = Arc::new(Metrics::default());
        let length = spans(1)[0].request.text.len();
        let limits = QueueLimits { text: 5 * length + length / 2, ..spans_alone(100) };
        let (sink, mut source) = queue(limits, Arc::clone(&metrics));
        sink.push(spans(3));
        sink.push(spans(3));
        assert_eq!(metrics.get(Metric::DropQueueFull), 1);
        assert_eq!(source.discard(), 5);
        sink.push(spans(5));
        assert_eq!(metrics.get(Metric::DropQueueFull), 1);
    }

    #[tokio::test]
    async fn the_queue_ends_when_its_entrance_is_gone() {
        let (sink, mut source) = queue(spans_alone(10), Arc::default());
        sink.push(spans(1));
        drop(sink);
        assert_eq!(source.recv().await.map(|spans| spans.len()), Some(1));
        assert!(source.recv().await.is_none());
    }

    #[test]
    fn spans_without_an_exporter_are_counted() {
        let metrics = Arc::new(Metrics::default());
        let (sink, source) = queue(spans_alone(10), Arc::clone(&metrics));
        drop(source);
        sink.push(spans(2));
        assert_eq!(metrics.get(Metric::DropShutdown), 2);
    }
}
