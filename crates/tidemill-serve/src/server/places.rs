//! Who holds the places that connections have, and whose is given to somebody else when all are taken.
//!
//! In: connections as they come and go, each with what it waits for. Out: the one that is closed to make room: of the caller
//! that has most connections without a whole request, the one that has waited longest. So a caller that opens connections and
//! says nothing, or not all of it, closes its own, and those who ask go on. One that is being answered is never closed.

use std::{cmp::Reverse, collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use tokio::task::{AbortHandle, Id};

use super::waiting::Waiting;

/// Who has just come is given time to say something.
const PATIENCE: Duration = Duration::from_millis(100);

/// The places that are taken.
#[derive(Default)]
pub(super) struct Places(Vec<Place>);

struct Place {
    caller: IpAddr,
    waiting: Arc<Waiting>,
    task: AbortHandle,
}

impl Places {
    /// A connection has come.
    pub fn take(&mut self, caller: IpAddr, waiting: Arc<Waiting>, task: AbortHandle) {
        self.0.push(Place { caller, waiting, task });
    }

    /// A connection has ended.
    pub fn leave(&mut self, task: Id) {
        if let Some(i) = self.0.iter().position(|place| place.task.id() == task) {
            self.0.swap_remove(i);
        }
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Closes one that waits, for a caller who has come; `false`: none does.
    pub fn make_room(&mut self) -> bool {
        let waited: Vec<Option<Duration>> =
            self.0.iter().map(|place| place.waiting.owed().filter(|waited| *waited >= PATIENCE)).collect();
        let mut counts = BTreeMap::<IpAddr, usize>::new();
        for (place, _) in self.0.iter().zip(&waited).filter(|(_, waited)| waited.is_some()) {
            *counts.entry(place.caller).or_default() += 1;
        }
        // Of callers with as many, the one who has waited longest.
        let worth = |i: &usize| (counts[&self.0[*i].caller], waited[*i], Reverse(*i));
        let Some(i) = (0..self.0.len()).filter(|i| waited[*i].is_some()).max_by_key(worth) else { return false };
        self.0.swap_remove(i).task.abort();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::load::Load;
    use super::*;

    /// Connections of these callers that have waited so many milliseconds, `None` where one is answered.
    fn places(load: &Arc<Load>, of: &[(u8, Option<u64>)]) -> (Places, Vec<tokio::task::JoinHandle<()>>) {
        let mut places = Places::default();
        let mut tasks = Vec::new();
        for (caller, waited) in of {
            load.set_clock_ms(10_000 - waited.unwrap_or(0));
            let waiting = Arc::new(Waiting::new(load.clone()));
            if waited.is_none() {
                waiting.ends();
            }
            let task = tokio::spawn(std::future::pending());
            places.take([127, 0, 0, *caller].into(), waiting, task.abort_handle());
            tasks.push(task);
        }
        load.set_clock_ms(10_000);
        (places, tasks)
    }

    #[tokio::test]
    async fn who_says_nothing_most_makes_room_first() {
        let load = Arc::new(Load::default());
        let (mut places, tasks) = places(
            &load,
            &[(1, Some(9_000)), (2, Some(200)), (2, Some(300)), (2, None), (3, Some(50)), (3, Some(60)), (3, Some(70))],
        );
        for closed in [2, 0, 1] {
            assert!(places.make_room());
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            let ended: Vec<usize> = (0..tasks.len()).filter(|i| tasks[*i].is_finished()).collect();
            assert!(ended.contains(&closed), "{closed} is not among {ended:?}");
        }
        assert!(!places.make_room(), "one is answered, the others have just come");
        places.leave(tasks[3].id());
        assert_eq!(places.len(), 3);
    }
}
