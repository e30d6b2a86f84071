//! Work for the database that comes at the same time, done together.
//!
//! A transaction, with its round trips and its commit, costs a database far more than a row. So what has come while one transaction was
//! written is the work of the next one; nothing waits for more to come.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// How much one transaction does.
const TOGETHER_MAX: usize = 32;

/// Where an answer goes. Nobody may wait for it any more.
pub(crate) type Answer<A> = oneshot::Sender<A>;

/// Work that waits, each with where its answer goes. Clones are the same queue.
pub(crate) struct Together<T, A> {
    state: Arc<Mutex<State<T, A>>>,
}

struct State<T, A> {
    waiting: VecDeque<(T, Answer<A>)>,
    /// The number of the task that does the work, while there is one.
    worker: Option<u64>,
    workers: u64,
}

/// In the hands of a worker. If that ends before the work does, as with its runtime or by a panic, nobody is left waiting.
struct Held<T, A> {
    queue: Together<T, A>,
    worker: u64,
}

impl<T, A> Drop for Held<T, A> {
    fn drop(&mut self) {
        let mut state = self.queue.lock();
        if state.worker == Some(self.worker) {
            state.worker = None;
            state.waiting.clear();
        }
    }
}

impl<T, A> Together<T, A> {
    fn lock(&self) -> MutexGuard<'_, State<T, A>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has `work` done, by a `worker` that is begun if there is none: it is to take what is [next](Self::next) until there is no more. Gives
    /// nothing if the worker was cut off.
    pub(crate) async fn ask<W>(&self, work: T, worker: impl FnOnce() -> W) -> Option<A>
    where
        W: Future<Output = ()> + Send + 'static,
        T: Send + 'static,
        A: Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        if let Some(held) = self.push(work, answer) {
            let worker = worker();
            tokio::spawn(async move {
                let _held = held;
                worker.await;
            });
        }
        answered.await.ok()
    }

    /// For a new worker, if there is none.
    fn push(&self, work: T, answer: Answer<A>) -> Option<Held<T, A>> {
        let mut state = self.lock();
        state.waiting.push_back((work, answer));
        if state.worker.is_some() {
            return None;
        }
        state.workers += 1;
        state.worker = Some(state.workers);
        Some(Held { queue: self.clone(), worker: state.workers })
    }

    /// The work of the next transaction; `None` if there is none, and the worker ends.
    pub(crate) fn next(&self) -> Option<(Vec<T>, Vec<Answer<A>>)> {
        let mut state = self.lock();
        if state.waiting.is_empty() {
            state.worker = None;
            return None;
        }
        let count = state.waiting.len().min(TOGETHER_MAX);
        Some(state.waiting.drain(..count).unzip())
    }
}

impl<T, A> Clone for Together<T, A> {
    fn clone(&self) -> Self {
        Self { state: Arc::clone(&self.state) }
    }
}

impl<T, A> Default for Together<T, A> {
    fn default() -> Self {
        Self { state: Arc::new(Mutex::new(State { waiting: VecDeque::new(), worker: None, workers: 0 })) }
    }
}

impl<T, A> std::fmt::Debug for Together<T, A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Together").field("waiting", &self.lock().waiting.len()).finish()
    }
}

/// The rows of one statement each: of few lengths, so that a connection's cache holds the statements.
pub(crate) fn batches<T>(mut rows: &[T]) -> impl Iterator<Item = &[T]> {
    const ANY_LENGTH_MAX: usize = 8;
    std::iter::from_fn(move || {
        let length = match rows.len() {
            0 => return None,
            few @ 1..=ANY_LENGTH_MAX => few,
            many => 1 << many.min(TOGETHER_MAX).ilog2(),
        };
        let (batch, rest) = rows.split_at(length);
        rows = rest;
        Some(batch)
    })
}

/// So many places for values.
pub(crate) fn places(count: usize, place: &str) -> String {
    vec![place; count].join(", ")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn rows_are_written_in_order_and_in_statements_of_few_lengths() {
        for (count, lengths) in [
            (0, vec![]),
            (1, vec![1]),
            (7, vec![7]),
            (9, vec![8, 1]),
            (31, vec![16, 8, 7]),
            (100, vec![32, 32, 32, 4]),
        ] {
            let rows: Vec<usize> = (0..count).collect();
            let batches: Vec<_> = batches(&rows).collect();
            assert_eq!(batches.iter().map(|batch| batch.len()).collect::<Vec<_>>(), lengths);
            assert_eq!(batches.concat(), rows);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_meanwhile_is_done_together_and_in_order() {
        let queue: Together<usize, usize> = Together::default();
        let groups = Arc::new(AtomicUsize::new(0));
        let worker = {
            let (queue, groups) = (queue.clone(), Arc::clone(&groups));
            move || async move {
                while let Some((work, answers)) = queue.next() {
                    groups.fetch_add(1, Ordering::Relaxed);
                    assert!(work.is_sorted());
                    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                    for (work, answer) in work.into_iter().zip(answers) {
                        answer.send(work * 2).ok();
                    }
                }
            }
        };
        let asks = (0..100).map(|number| queue.ask(number, worker.clone()));
        let answers = futures_util::future::join_all(asks).await;
        assert_eq!(answers, (0..100).map(|number| Some(number * 2)).collect::<Vec<_>>());
        assert_eq!(groups.load(Ordering::Relaxed), 4);
        // A worker that has ended is begun again, and one that was cut off is told.
        assert_eq!(queue.ask(7, worker).await, Some(14));
        let cut = queue.clone();
        assert_eq!(queue.ask(7, || async move { drop(cut.next()) }).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_a_worker_that_ends_is_told() {
        let queue: Together<usize, usize> = Together::default();
        let dying = {
            let queue = queue.clone();
            move || async move {
                let _first = queue.next();
                tokio::task::yield_now().await;
                panic!("on purpose");
            }
        };
        let asks = (0..2 * TOGETHER_MAX).map(|number| queue.ask(number, dying.clone()));
        let answers = futures_util::future::join_all(asks);
        let answers = tokio::time::timeout(std::time::Duration::from_secs(1), answers).await;
        assert!(answers.expect("nobody waits").iter().all(Option::is_none));
        let healthy = queue.clone();
        let answer = queue.ask(7, || async move {
            while let Some((work, answers)) = healthy.next() {
                for (work, answer) in work.into_iter().zip(answers) {
                    answer.send(work).ok();
                }
            }
        });
        assert_eq!(answer.await, Some(7));
    }
}
