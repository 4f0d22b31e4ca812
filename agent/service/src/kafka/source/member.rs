//! A consumer as a member of its group: what it owns, and the right to commit for it.
//!
//! Place: between the poll thread, where partitions come and go, and `commit`, which runs elsewhere.
//! Invariant: while somebody holds the lock of the [`Ownership`], no partition goes; a commit holds it from its first look
//! to its end. So when another member gets a partition, all that this one did for it is committed or never will be.

use std::collections::HashMap;
use std::sync::{Arc, MutexGuard};

use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerGroupMetadata};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::types::RDKafkaErrorCode;

use super::{Owner, Partition, Rebalances};

/// The partitions of one member, each with the epoch of its assignment.
#[derive(Debug, Default)]
pub struct Ownership {
    epochs: HashMap<Partition, u64>,
    last: u64,
}

impl Ownership {
    /// A partition came.
    pub(super) fn assign(&mut self, partition: Partition) -> Owner {
        self.last += 1;
        self.epochs.insert(partition.clone(), self.last);
        Owner {
            partition,
            epoch: self.last,
        }
    }

    /// Partitions go.
    pub(super) fn revoke(&mut self, partitions: &TopicPartitionList) {
        for element in partitions.elements() {
            self.epochs.remove(&(Arc::from(element.topic()), element.partition()));
        }
    }

    /// True while the assignment lasts.
    pub fn holds(&self, owner: &Owner) -> bool {
        self.epochs.get(&owner.partition) == Some(&owner.epoch)
    }
}

/// A member; clones share it.
#[derive(Clone)]
pub struct Membership {
    consumer: Arc<BaseConsumer<Rebalances>>,
}

impl Membership {
    pub(super) fn new(consumer: Arc<BaseConsumer<Rebalances>>) -> Self {
        Self { consumer }
    }

    /// The lock under which no partition goes.
    pub(in crate::kafka) fn ownership(&self) -> MutexGuard<'_, Ownership> {
        self.consumer.context().ownership()
    }

    /// The member as the broker knows it now; the broker refuses a commit of an earlier generation.
    pub(in crate::kafka) fn group(&self) -> Option<ConsumerGroupMetadata> {
        self.consumer.group_metadata()
    }

    /// Stores offsets, which are committed within the commit time of the settings.
    pub(in crate::kafka) fn store(&self, offsets: &TopicPartitionList) -> KafkaResult<()> {
        if offsets.count() == 0 {
            return Ok(());
        }
        match self.consumer.store_offsets(offsets) {
            // the partition was revoked; its next owner starts from what was committed
            Err(KafkaError::StoreOffset(RDKafkaErrorCode::State)) => Ok(()),
            stored => stored,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_that_went_and_came_back_is_another_assignment() {
        let mut ownership = Ownership::default();
        let partition: Partition = ("ecg".into(), 3);
        let first = ownership.assign(partition.clone());
        assert!(ownership.holds(&first));
        let mut gone = TopicPartitionList::new();
        gone.add_partition("ecg", 3);
        ownership.revoke(&gone);
        assert!(!ownership.holds(&first));
        let second = ownership.assign(partition);
        assert!(ownership.holds(&second) && !ownership.holds(&first));
    }
}
