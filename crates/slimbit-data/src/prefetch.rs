use std::any::Any;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use crate::DataError;

/// Makes item `i` of a range, or gives up with `None` once the flag is set.
pub(crate) trait Producer: Send + Sync + 'static {
    type Item: Send;

    fn produce(&self, index: usize, stop: &AtomicBool) -> Result<Option<Self::Item>, DataError>;
}

/// The items of a range, made ahead of time on worker threads and handed out in order.
///
/// Worker `k` of `n` makes every `n`-th item from the `k`-th on, into a bounded queue of its own:
/// order needs no reassembly, and a slow consumer holds every worker back.
pub(crate) struct Prefetch<P: Producer> {
    producer: Arc<P>,
    stop: Arc<AtomicBool>,
    workers: Vec<Worker<P::Item>>,
    turn: usize,
    remaining: Range<usize>,
    failed: Option<DataError>,
}

struct Worker<T> {
    queue: Receiver<Result<T, DataError>>,
    thread: JoinHandle<()>,
}

impl<P: Producer> Prefetch<P> {
    /// Starts `workers` threads, which together keep about `depth` items ready; with no workers,
    /// items are made by `next` on the calling thread. A thread that cannot be started is reported
    /// by the first `next`.
    pub(crate) fn start(
        producer: Arc<P>,
        items: Range<usize>,
        workers: usize,
        depth: usize,
    ) -> Self {
        let workers = workers.min(items.len());
        let mut prefetch = Prefetch {
            producer,
            stop: Arc::new(AtomicBool::new(false)),
            workers: Vec::with_capacity(workers),
            turn: 0,
            remaining: items.clone(),
            failed: None,
        };
        for offset in 0..workers {
            let (sender, queue) = sync_channel(depth.div_ceil(workers).max(1));
            let (producer, stop) = (Arc::clone(&prefetch.producer), Arc::clone(&prefetch.stop));
            let share = items.clone().skip(offset).step_by(workers);
            let spawned = std::thread::Builder::new()
                .name(format!("slimbit-loader-{offset}"))
                .spawn(move || work(&*producer, share, &stop, &sender));
            match spawned {
                Ok(thread) => prefetch.workers.push(Worker { queue, thread }),
                Err(error) => {
                    prefetch.failed = Some(DataError::Worker {
                        reason: format!("cannot start it: {error}"),
                    });
                    break;
                }
            }
        }
        prefetch
    }

    fn receive(&mut self, index: usize) -> Result<Option<P::Item>, DataError> {
        if self.workers.is_empty() {
            return self.producer.produce(index, &self.stop);
        }
        match self.workers[self.turn].queue.recv() {
            Ok(item) => {
                self.turn = (self.turn + 1) % self.workers.len();
                item.map(Some)
            }
            // The queue of a worker that still owes items closes only when it panicked.
            Err(_) => {
                let reason = match self.workers.swap_remove(self.turn).thread.join() {
                    Err(payload) => panic_message(&*payload),
                    Ok(()) => "it ended early".into(),
                };
                Err(DataError::Worker { reason })
            }
        }
    }

    fn shut_down(&mut self) {
        self.remaining = 0..0;
        self.stop.store(true, Ordering::Relaxed);
        for Worker { queue, thread } in self.workers.drain(..) {
            // Closing the queue wakes a worker that waits for room in it.
            drop(queue);
            if thread.join().is_err() {
                log::debug!("a loader thread panicked after its last batch was taken");
            }
        }
    }
}

fn work<P: Producer>(
    producer: &P,
    share: impl Iterator<Item = usize>,
    stop: &AtomicBool,
    sender: &SyncSender<Result<P::Item, DataError>>,
) {
    for index in share {
        let Some(item) = producer.produce(index, stop).transpose() else {
            return;
        };
        let failed = item.is_err();
        if sender.send(item).is_err() || failed {
            return;
        }
    }
}

fn panic_message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    format!("it panicked: {}", text.unwrap_or("no message"))
}

impl<P: Producer> Iterator for Prefetch<P> {
    type Item = Result<P::Item, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        let result = match self.failed.take() {
            Some(error) => Err(error),
            None => {
                let index = self.remaining.next()?;
                self.receive(index)
            }
        };
        if result.is_err() || self.remaining.is_empty() {
            self.shut_down();
        }
        result.transpose()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (
            0,
            Some(self.remaining.len().max(usize::from(self.failed.is_some()))),
        )
    }
}

impl<P: Producer> Drop for Prefetch<P> {
    fn drop(&mut self) {
        self.shut_down();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    struct Squares {
        made: AtomicUsize,
        fails_at: usize,
        panics_at: usize,
    }

    impl Squares {
        fn new() -> Self {
            Squares {
                made: AtomicUsize::new(0),
                fails_at: usize::MAX,
                panics_at: usize::MAX,
            }
        }
    }

    impl Producer for Squares {
        type Item = usize;

        fn produce(&self, index: usize, _: &AtomicBool) -> Result<Option<usize>, DataError> {
            self.made.fetch_add(1, Ordering::Relaxed);
            assert!(index != self.panics_at, "no square of {index}");
            if index == self.fails_at {
                return Err(DataError::OutOfRange { index, len: 0 });
            }
            Ok(Some(index * index))
        }
    }

    #[test]
    fn items_come_in_order_from_any_number_of_workers() {
        for workers in [0, 1, 2, 5, 40] {
            let items: Vec<usize> = Prefetch::start(Arc::new(Squares::new()), 3..20, workers, 4)
                .map(Result::unwrap)
                .collect();
            assert!(items.into_iter().eq((3..20).map(|i| i * i)));
        }
    }

    #[test]
    fn an_error_comes_in_its_place_and_ends_the_iteration() {
        for workers in [0, 1, 3] {
            let producer = Arc::new(Squares {
                fails_at: 7,
                ..Squares::new()
            });
            let mut items = Prefetch::start(producer, 0..100, workers, 4);
            assert_eq!(items.by_ref().take(7).map(Result::unwrap).last(), Some(36));
            assert!(matches!(
                items.next(),
                Some(Err(DataError::OutOfRange { index: 7, .. }))
            ));
            assert!(items.next().is_none());
        }
    }

    #[test]
    fn a_panic_becomes_an_error() {
        let producer = Arc::new(Squares {
            panics_at: 4,
            ..Squares::new()
        });
        let mut items = Prefetch::start(producer, 0..100, 2, 4);
        let error = items.find_map(Result::err).unwrap().to_string();
        assert!(error.contains("no square of 4"), "{error}");
        assert!(items.next().is_none());
    }

    #[test]
    fn dropping_stops_workers_whose_queues_are_full() {
        let producer = Arc::new(Squares::new());
        let mut items = Prefetch::start(Arc::clone(&producer), 0..1_000_000, 3, 6);
        items.next().unwrap().unwrap();
        drop(items);
        assert_eq!(Arc::strong_count(&producer), 1);
        let made = producer.made.load(Ordering::Relaxed);
        assert!(made < 20, "{made} items were made, the queues hold 6");
    }
}
