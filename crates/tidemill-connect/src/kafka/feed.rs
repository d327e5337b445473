//! One partition of a topic as a feed.
//!
//! In: the partition's queue, filled by the client. Out: events with their offsets. Lost connections are waited out: the
//! client resumes by itself behind the last event it handed over. An offset that the broker does not have is looked into,
//! since it means that events were thrown away, or that this is not the topic it was.

use std::{sync::Arc, time::Duration};

use rdkafka::{
    Message,
    consumer::base_consumer::PartitionQueue,
    error::{KafkaError, RDKafkaErrorCode as Code},
};
use tidemill_base::{Error, Result};
use tidemill_stream::source::feed::{Fed, Feed};

use super::{ANSWER, Client, Said};
use crate::{AWAY_AT_MOST, name::PartitionName, pause};

/// How long one wait is: short beside a fetch, long beside a look at the queue.
const WAIT: Duration = Duration::from_millis(1);

/// One partition of a topic.
pub(super) struct PartitionFeed {
    client: Arc<Client>,
    partition: i32,
    end: Option<u64>,
    /// The queue, once reading has begun.
    queue: Option<PartitionQueue<Said>>,
    /// Offset behind the last event handed over.
    at: u64,
    /// Whether the broker said that there is nothing behind it.
    at_end: bool,
    waited: Duration,
}

impl PartitionFeed {
    /// A feed at the beginning of the named partition, which ends at `high` now.
    pub fn new(client: Arc<Client>, partition: i32, name: &PartitionName, high: u64) -> Self {
        let (first, end) = (name.first, name.end);
        Self { client, partition, end, queue: None, at: first, at_end: first >= high, waited: Duration::ZERO }
    }

    fn begin(&mut self) -> Result<()> {
        // First the queue, then the reading: nothing may come to the client's main queue in between.
        self.queue = self.client.consumer.split_partition_queue(&self.client.topic, self.partition);
        self.client.assign(self.partition, self.at)
    }

    fn stop(&mut self) {
        if self.queue.take().is_some() {
            self.client.unassign(self.partition);
        }
    }

    /// The broker does not have the offset that was asked for.
    fn out_of_range(&mut self) -> Result<Fed> {
        // It cannot say now: reading goes on when it can.
        let Ok((low, high)) = self.client.extent(self.partition as u32, ANSWER) else { return Ok(Fed::Nothing) };
        self.stop();
        if low > self.at {
            self.at = low;
            return Ok(Fed::Gap { earliest: low });
        }
        if high < self.at {
            return Err(self.not_the_same(high));
        }
        Ok(Fed::Nothing)
    }

    fn not_the_same(&self, high: u64) -> Error {
        let (topic, partition, at) = (&self.client.topic, self.partition, self.at);
        Error::conflict(format!(
            "topic '{topic}' partition {partition}: offset {at} was read before, and the partition ends at {high} now: \
             it was made anew or lost its end; start again with --from-scratch"
        ))
    }

    /// Says that the partition's end is here, if nothing bounded is missing.
    fn reached_end(&mut self) -> Result<Fed> {
        self.at_end = true;
        match self.end {
            None => Ok(Fed::Nothing),
            // The last offsets may be marks of transactions, which are no events.
            Some(_) => match self.client.extent(self.partition as u32, ANSWER) {
                Ok((_, high)) if self.end.is_some_and(|end| high < end) => Err(self.not_the_same(high)),
                Ok(_) => {
                    self.at = self.at.max(self.end.unwrap_or(0));
                    Ok(Fed::End)
                }
                Err(_) => Ok(Fed::Nothing),
            },
        }
    }
}

impl Feed for PartitionFeed {
    fn next(&mut self, take: &mut dyn FnMut(u64, Option<&[u8]>)) -> Result<Fed> {
        if self.end.is_some_and(|end| self.at >= end) {
            self.stop();
            return Ok(Fed::End);
        }
        if self.queue.is_none() {
            self.begin()?;
        }
        let Some(queue) = &self.queue else { return Ok(Fed::Nothing) };
        match queue.poll(Duration::ZERO) {
            None => Ok(Fed::Nothing),
            Some(Ok(event)) => {
                let offset = event.offset() as u64;
                if self.end.is_some_and(|end| offset >= end) {
                    self.at = offset;
                    return Ok(Fed::End);
                }
                take(offset, event.payload());
                self.at = self.at.max(offset + 1);
                (self.at_end, self.waited) = (false, Duration::ZERO);
                Ok(Fed::Event)
            }
            Some(Err(KafkaError::PartitionEOF(_))) => self.reached_end(),
            Some(Err(KafkaError::MessageConsumption(Code::AutoOffsetReset | Code::OffsetOutOfRange))) => {
                self.out_of_range()
            }
            Some(Err(KafkaError::MessageConsumptionFatal(code))) => {
                Err(Error::unavailable(format!("{}: the client gave up: {code}", self.client.brokers)))
            }
            Some(Err(KafkaError::MessageConsumption(code @ Code::TopicAuthorizationFailed))) => {
                Err(self.client.refusal(code, &format!("topic '{}': {code}", self.client.topic)))
            }
            // The client tries again by itself.
            Some(Err(_)) => Ok(Fed::Nothing),
        }
    }

    fn seek(&mut self, number: u64) -> Result<()> {
        self.stop();
        (self.at, self.at_end) = (number, false);
        Ok(())
    }

    fn wait(&mut self, until: u64) -> Result<()> {
        if self.at_end
            && self.at < until
            && let Ok((_, high)) = self.client.extent(self.partition as u32, ANSWER)
        {
            if high < until {
                self.at = until;
                return Err(self.not_the_same(high));
            }
            self.at_end = false;
        }
        self.waited += WAIT;
        if self.waited > AWAY_AT_MOST {
            let why = self.client.trouble().unwrap_or_else(|| "nothing comes".to_string());
            return Err(Error::unavailable(why));
        }
        pause(WAIT);
        Ok(())
    }

    fn is_behind(&self) -> bool {
        !self.at_end
    }

    fn trouble(&self) -> Option<String> {
        self.client.trouble()
    }
}

impl Drop for PartitionFeed {
    fn drop(&mut self) {
        self.stop();
    }
}
